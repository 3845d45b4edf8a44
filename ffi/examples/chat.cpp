// A conversation: each line of the standard input is answered.
//
//     c++ -std=c++17 chat.cpp $(pkg-config --cflags --libs limbeck) -o chat
//     ./chat student.lbk
#include <limbeck.hpp>

#include <algorithm>
#include <iostream>

// The messages so far, and the sequence with the tokens that it holds.
class Chat {
public:
    explicit Chat(lbk::Model model)
        : model_(std::move(model)), session_(lbk::Session::make(model_)), sequence_(session_.add_sequence()) {}

    void answer(const std::string &line) {
        messages_.push_back({"user", line});
        // Templates may change what was said before: of the new rendering, what the sequence holds already
        // stays, and the rest is the prompt. At least one token is, for the next one's logits.
        auto tokens = model_.tokenise(render(), LBK_TOKENISE_RENDERED);
        auto most = std::min(held_.size(), tokens.size() - 1);
        auto common = std::mismatch(held_.begin(), held_.begin() + most, tokens.begin()).first - held_.begin();
        session_.rewind(sequence_, common);
        std::vector<std::uint32_t> prompt(tokens.begin() + common, tokens.end());

        auto options = model_.generate_options();
        options.max_tokens = 256;
        auto generation = lbk::Generation::make(session_, sequence_, prompt, options);
        generation.run(session_, [](const lbk::Piece &piece) {
            std::cout << piece.text << std::flush;
            return true;
        });
        std::cout << "\n";

        auto progress = generation.progress();
        messages_.push_back({"assistant", std::string(progress.text)});
        held_ = std::move(tokens);
        held_.insert(held_.end(), progress.tokens.begin(), progress.tokens.end());
        held_.resize(session_.position(sequence_)); // The last token may not be fed back yet.
    }

private:
    struct Message {
        const char *role;
        std::string content;
    };

    std::string render() const {
        std::vector<lbk_message> messages;
        for (const auto &message : messages_) {
            messages.push_back(lbk::message(message.role, message.content));
        }
        return model_.render_chat(messages);
    }

    lbk::Model model_;
    lbk::Session session_;
    lbk_sequence sequence_;
    std::vector<std::uint32_t> held_;
    std::vector<Message> messages_;
};

int main(int argc, char **argv) {
    if (argc != 2) {
        std::cerr << "usage: chat PLAN.lbk\n";
        return 2;
    }
    try {
        Chat chat(lbk::Model::open(lbk::Engine::make(), std::string(argv[1])));
        for (std::string line; std::getline(std::cin, line);) {
            chat.answer(line);
        }
    } catch (const std::exception &error) {
        std::cerr << "chat: " << error.what() << "\n";
        return 1;
    }
    return 0;
}
