// The C++ layer without exceptions: values or errors.
#define LIMBECK_NO_EXCEPTIONS
#include "check.h"
#include <limbeck.hpp>

int main(int argc, char **argv) {
    CHECK(argc == 2);
    auto engine = lbk::Engine::make();
    CHECK(engine);
    auto missing = lbk::Model::open(*engine, std::string("/nowhere.lbk"));
    CHECK(!missing && missing.error().code() == LBK_IO && missing.error().place() == "/nowhere.lbk");
    auto model = lbk::Model::open(*engine, std::string(argv[1]));
    CHECK(model.has_value() && model->verify());
    auto session = lbk::Session::make(*model);
    CHECK(session);
    auto sequence = session->add_sequence();
    auto wrong = session->rewind(*sequence, 1);
    CHECK(!wrong && wrong.error().code() == LBK_INVALID && *wrong.error().what());
    auto generation = lbk::Generation::make(*session, *sequence, {TOKENS, 5});
    std::size_t pieces = 0;
    CHECK(generation->run(*session, [&](const lbk::Piece &) { return ++pieces < 6; }));
    CHECK(pieces == 6 && generation->committed().value() == 6);
    return 0;
}
