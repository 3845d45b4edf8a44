/* Engines: versions, options of all sizes, the logger, NULL. */
#include "check.h"

static int messages, releases;

static void on_message(lbk_log_level level, const char *message, void *user_data)
{
    CHECK(level >= LBK_LOG_WARN && level <= LBK_LOG_DEBUG && *message);
    CHECK(user_data == (void *)&messages);
    messages++;
}

static void on_release(void *user_data)
{
    CHECK(user_data == (void *)&messages);
    releases++;
}

int main(int argc, char **argv)
{
    lbk_engine *engine = NULL;
    lbk_engine_options options;
    CHECK(argc == 2);
    CHECK(lbk_version() == LBK_ABI_VERSION);
    CHECK(strcmp(lbk_code_name(LBK_BUSY), "busy") == 0);
    CHECK(strcmp(lbk_code_name(-7), "unknown") == 0);

    /* Versions that do not fit. */
    FAILS(LBK_VERSION, lbk_engine_new(LBK_ABI_VERSION + 1, NULL, &engine));
    FAILS(LBK_VERSION, lbk_engine_new(LBK_ABI_VERSION + 0x10000, NULL, &engine));
    FAILS(LBK_VERSION, lbk_engine_new(0xffffffff, NULL, &engine));
    OK(lbk_engine_new(0, NULL, &engine));
    CHECK(*lbk_engine_backend(engine));
    CHECK(lbk_engine_memory(engine) == 0);
    lbk_engine_free(engine);
    engine = NULL;

    /* Sizes: a smaller known one works, and what lies behind it is not read. */
    memset(&options, 0xff, sizeof options);
    lbk_engine_options_init(&options, 16);
    CHECK(options.struct_size == 16 && options.memory_limit == 0 && options.backend == -1);
    OK(lbk_engine_new(LBK_ABI_VERSION, &options, &engine));
    lbk_engine_free(engine);
    engine = NULL;
    const size_t wrong[] = {0, 1, 8, 17, sizeof options + 8, sizeof options - 1, HUGE_LENGTH, HUGE_LENGTH - 7};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        lbk_engine_options_init(&options, sizeof options);
        options.struct_size = wrong[i];
        FAILS(LBK_INVALID, lbk_engine_new(LBK_ABI_VERSION, &options, &engine));
        CHECK(!engine);
    }
    lbk_engine_options_init(NULL, sizeof options);
    lbk_engine_options_init(&options, 0);

    /* Values out of range; the log's user data is let go on failure too. */
    lbk_engine_options_init(&options, sizeof options);
    options.log = on_message;
    options.log_release = on_release;
    options.log_user_data = &messages;
    options.threads = 1;
    options.backend = 99;
    FAILS(LBK_INVALID, lbk_engine_new(LBK_ABI_VERSION, &options, &engine));
    CHECK(releases == 1);
    options.backend = LBK_BACKEND_CPU;
    options.threads = 100000;
    FAILS(LBK_INVALID, lbk_engine_new(LBK_ABI_VERSION, &options, &engine));
    options.threads = 1;
    options.log_level = 99;
    FAILS(LBK_INVALID, lbk_engine_new(LBK_ABI_VERSION, &options, &engine));
    options.log_level = LBK_LOG_DEBUG;
    FAILS(LBK_INVALID, lbk_engine_new(LBK_ABI_VERSION, &options, NULL));
    CHECK(releases == 4 && messages == 0);

    /* The logger lives as long as the last thing that was opened. */
    lbk_model *model = NULL;
    lbk_session *session = NULL;
    OK(lbk_engine_new(LBK_ABI_VERSION, &options, &engine));
    CHECK(messages == 1);
    OK(lbk_model_open(engine, argv[1], &model));
    CHECK(messages == 2);
    lbk_engine_free(engine);
    OK(lbk_session_new(model, NULL, &session));
    CHECK(messages == 3);
    lbk_model_free(model);
    CHECK(releases == 4);
    lbk_session_free(session);
    CHECK(releases == 5);

    /* Also where nobody hears messages. */
    for (int silent = 0; silent < 2; silent++) {
        options.log = silent ? NULL : on_message;
        options.log_level = silent ? LBK_LOG_DEBUG : LBK_LOG_NONE;
        OK(lbk_engine_new(LBK_ABI_VERSION, &options, &engine));
        CHECK(releases == 5 + silent && messages == 3);
        lbk_engine_free(engine);
        CHECK(releases == 6 + silent);
    }

    /* A size of an earlier version, and what is not used before a plan wants it. */
    options.struct_size = offsetof(lbk_engine_options, onnx_library);
    options.onnx_library = options.onnx_providers = options.pipeline_cache = "not read";
    OK(lbk_engine_new(LBK_ABI_VERSION, &options, &engine));
    lbk_engine_free(engine);
    lbk_engine_options_init(&options, sizeof options);
    CHECK(!options.onnx_library && !options.onnx_providers && !options.pipeline_cache);
    options.pipeline_cache = "\xff";
    FAILS(LBK_INVALID, lbk_engine_new(LBK_ABI_VERSION, &options, &engine));
    options.pipeline_cache = "/nowhere/at/all";
    options.onnx_library = "\xff";
    FAILS(LBK_INVALID, lbk_engine_new(LBK_ABI_VERSION, &options, &engine));
    options.onnx_library = "/nowhere/libonnxruntime.so";
    options.onnx_providers = " coreml, qnn,";
    OK(lbk_engine_new(LBK_ABI_VERSION, &options, &engine));
    OK(lbk_model_open(engine, argv[1], &model));
    lbk_model_free(model);
    lbk_engine_free(engine);

    /* NULL. */
    FAILS(LBK_INVALID, lbk_engine_new(LBK_ABI_VERSION, NULL, NULL));
    CHECK(*lbk_engine_backend(NULL) == 0 && lbk_engine_memory(NULL) == 0);
    lbk_engine_free(NULL);
    CHECK(lbk_error_code(NULL) == LBK_OK && !*lbk_error_message(NULL) && !lbk_error_place(NULL));
    lbk_error_free(NULL);

    /* Errors say where. */
    engine = new_engine(1);
    lbk_error *error = lbk_model_open(engine, "/nowhere/at all.lbk", &model);
    CHECK(lbk_error_code(error) == LBK_IO);
    CHECK(strcmp(lbk_error_place(error), "/nowhere/at all.lbk") == 0);
    CHECK(strstr(lbk_error_message(error), "/nowhere/at all.lbk: "));
    lbk_error_free(error);
    lbk_engine_free(engine);
    return 0;
}
