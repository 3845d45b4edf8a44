// The C++ layer with exceptions: handles, views, callbacks that throw.
#include "check.h"
#include <limbeck.hpp>

#include <stdexcept>

static lbk_code code_of(const char *what, void (*call)(const lbk::Model &), const lbk::Model &model) {
    try {
        call(model);
    } catch (const lbk::Error &error) {
        CHECK(*error.what());
        return error.code();
    }
    std::fprintf(stderr, "%s did not throw\n", what);
    std::exit(1);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    auto options = lbk::engine_options();
    options.threads = 1;
    auto model = [&] {
        auto engine = lbk::Engine::make(options);
        CHECK(!engine.backend().empty());
        return lbk::Model::open(engine, std::string(argv[1]));
    }();
    CHECK(model.info().task == LBK_TASK_TEXT && !model.text(LBK_TEXT_STUDENT).empty());
    CHECK(model.text(LBK_TEXT_QUALITY).empty());
    auto ids = model.tokenise("ab a", LBK_TOKENISE_RENDERED);
    CHECK(ids.size() == 3 && model.detokenise(ids) == "ab a");
    const lbk_message messages[] = {lbk::message("user", "a")};
    CHECK(model.render_chat({messages, 1}, false) == "user: a\n");

    CHECK(code_of("site", [](const lbk::Model &m) { m.site(9); }, model) == LBK_INVALID);
    CHECK(code_of("encoder", [](const lbk::Model &m) { lbk::Encoder::make(m); }, model) == LBK_UNSUPPORTED);
    CHECK(code_of("text", [](const lbk::Model &m) { m.tokenise("\xff"); }, model) == LBK_INVALID);

    // Whole, and with a callback that throws in its midst.
    auto session = lbk::Session::make(model);
    auto control = session.control();
    auto how = lbk::generate_options();
    how.max_tokens = 20;
    how.temperature = 1;
    how.ignore_eos = 1;
    auto prompt = lbk::Span<const std::uint32_t>(TOKENS, 9);
    auto whole = lbk::Generation::make(session, session.add_sequence(), prompt, how);
    std::string text;
    std::size_t count = 0;
    whole.run(session, [&](const lbk::Piece &piece) {
        text += piece.text;
        count += piece.token.has_value();
        return true;
    });
    CHECK(count == 20 && whole.progress().text == text && whole.progress().tokens.size() == 20);

    auto thrown = lbk::Generation::make(session, session.add_sequence(), prompt, how);
    bool caught = false;
    try {
        thrown.run(session, [&](const lbk::Piece &) -> bool { throw std::runtime_error("mine"); });
    } catch (const lbk::Error &) {
        CHECK(!"not the library's");
    } catch (const std::runtime_error &error) {
        caught = std::string(error.what()) == "mine";
    }
    CHECK(caught && thrown.committed() == 1);

    auto cancelled = lbk::Generation::make(session, session.add_sequence(), prompt, how);
    auto stop_at = [&](const lbk::Piece &) {
        control.cancel();
        return true;
    };
    for (std::size_t runs = 1;; runs++) {
        try {
            cancelled.run(session, stop_at);
            CHECK(runs == 20);
            break;
        } catch (const lbk::Error &error) {
            CHECK(error.code() == LBK_CANCELLED && cancelled.committed() == runs);
            control.reset();
        }
    }
    CHECK(cancelled.progress().text == text);
    control.reset();

    // Steps.
    auto usage = lbk::Usage::make();
    auto sequence = session.add_sequence();
    const lbk_work work[] = {{sequence, TOKENS, 12, LBK_WANTED_ALL, 0}};
    std::vector<float> last;
    auto committed = session.step({work, 1}, [&](std::size_t, std::size_t, lbk::Span<const float> logits) {
        last.assign(logits.begin(), logits.end());
    }, &usage);
    CHECK(committed == 12 && usage.totals().tokens == 12 && last.size() == model.info().vocab_size);
    auto restored = session.restore(session.snapshot(sequence));
    CHECK(session.position(restored) == 12);
    session.rewind(restored, 4);
    auto fork = session.fork(restored);
    session.end_sequence(restored);
    CHECK(session.position(fork) == 4 && session.memory() > 0);
    caught = false;
    const lbk_work more[] = {{fork, TOKENS, 2, LBK_WANTED_ALL, 0}};
    try {
        session.step({more, 1}, [&](std::size_t, std::size_t, lbk::Span<const float>) { throw 7; });
    } catch (int seven) {
        caught = seven == 7;
    }
    CHECK(caught && session.position(fork) == 6);
    CHECK(control.set(lbk::budget(LBK_BUDGET_PRICE, 1)) && !control.set(lbk::budget(LBK_BUDGET_PRICE, -1)));
    auto other = control.clone();
    CHECK(other.get().value == 1);

    // Tensors, and bytes that are kept as long as they are needed.
    auto forward = lbk::Forward::make(model);
    const std::size_t shape[] = {12};
    std::vector<std::int32_t> tokens(TOKENS, TOKENS + 12);
    auto input = lbk::tensor("input_ids", {shape, 1}, lbk::Span<const std::int32_t>(tokens));
    auto outputs = forward.run({&input, 1});
    auto logits = outputs.find("logits");
    CHECK(logits.shape[0] == 12 && logits.count == 12 * last.size());
    CHECK(!memcmp(static_cast<const float *>(logits.data) + 11 * last.size(), last.data(), last.size() * 4));
    auto bytes = std::make_shared<std::vector<char>>();
    std::FILE *file = std::fopen(argv[1], "rb");
    CHECK(file);
    for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) {
        bytes->push_back(static_cast<char>(c));
    }
    std::fclose(file);
    std::weak_ptr<std::vector<char>> kept = bytes;
    {
        auto engine = lbk::Engine::make(options);
        std::shared_ptr<const void> data(bytes, bytes->data());
        auto again = lbk::Model::open(engine, std::move(data), bytes->size());
        bytes.reset();
        CHECK(!kept.expired() && again.info().hash == model.info().hash);
    }
    CHECK(kept.expired());
    return 0;
}
