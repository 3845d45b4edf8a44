// Streams a text while the budget is turned from the keyboard.
//
//     c++ -std=c++17 stream.cpp $(pkg-config --cflags --libs limbeck) -pthread -o stream
//     ./stream student.lbk "Once upon a time"
//
// Type a line while it streams: `full`, a fraction such as `0.6`, or `stop`.
#include <limbeck.hpp>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <thread>

// Turns the dial by each line that is typed.
static void read_lines(lbk::Control control) {
    for (std::string line; std::getline(std::cin, line);) {
        if (line == "stop") {
            control.cancel();
        } else if (line == "full") {
            control.set(lbk::budget(LBK_BUDGET_FULL));
        } else {
            char *end = nullptr;
            double fraction = std::strtod(line.c_str(), &end);
            if (*end || !control.set(lbk::budget(LBK_BUDGET_FRACTION, fraction))) {
                std::cerr << "[" << line << " is neither full, stop nor a fraction]\n";
            }
        }
    }
}

// Continues a prompt until its end, 256 tokens, or `stop`.
static void stream(const lbk::Model &model, std::string_view prompt) {
    auto session = lbk::Session::make(model);
    // The thread has a control of its own, which may outlive the session.
    std::thread(read_lines, session.control()).detach();

    auto options = model.generate_options();
    options.max_tokens = std::min<std::size_t>(256, model.info().context_length / 2);
    auto tokens = model.tokenise(prompt);
    auto generation = lbk::Generation::make(session, session.add_sequence(), tokens, options);
    std::cout << prompt;
    try {
        generation.run(session, [](const lbk::Piece &piece) {
            std::cout << piece.text << std::flush;
            return true;
        });
    } catch (const lbk::Error &error) {
        if (error.code() != LBK_CANCELLED) {
            throw;
        }
    }

    auto usage = lbk::Usage::make();
    generation.add_usage(nullptr, &usage);
    auto totals = usage.totals();
    std::cout << "\n[" << generation.committed() << " tokens, fraction " << totals.fraction << ", "
              << totals.ms << " ms" << (totals.unmet ? ", the budget was not kept" : "") << "]\n";
}

int main(int argc, char **argv) {
    if (argc != 3) {
        std::cerr << "usage: stream PLAN.lbk PROMPT\n";
        return 2;
    }
    try {
        stream(lbk::Model::open(lbk::Engine::make(), std::string(argv[1])), argv[2]);
    } catch (const std::exception &error) {
        std::cerr << "stream: " << error.what() << "\n";
        return 1;
    }
    return 0;
}
