/* Sessions: steps, forks, rewinding, snapshots, lengths, limits, reentry, a fault inside. */
#include "check.h"

/* The last logits heard, and how many rows. */
typedef struct heard {
    float logits[512];
    size_t vocab, rows;
    lbk_session *session;
    lbk_code inner;
} heard;

static void on_logits(size_t work, size_t token, const float *logits, size_t vocab, void *user_data)
{
    heard *h = user_data;
    CHECK(work == 0 && token < 40 && vocab <= 512);
    memcpy(h->logits, logits, vocab * sizeof *logits);
    h->vocab = vocab;
    h->rows++;
    if (h->session) {
        size_t n = 0;
        lbk_error *error = lbk_session_position(h->session, 1, &n);
        h->inner = lbk_error_code(error);
        lbk_error_free(error);
    }
}

static heard step(lbk_session *session, lbk_sequence sequence, size_t first, size_t end)
{
    heard h = {.vocab = 0};
    size_t committed = 99;
    lbk_work work = {sequence, TOKENS + first, end - first, LBK_WANTED_LAST, 0};
    OK(lbk_session_step(session, &work, 1, on_logits, &h, NULL, &committed));
    CHECK(h.rows == 1 && committed == end - first);
    return h;
}

static int same(const heard *a, const heard *b)
{
    return a->vocab && a->vocab == b->vocab && !memcmp(a->logits, b->logits, a->vocab * sizeof(float));
}

static void sequences(const char *path)
{
    lbk_session *session = open_session(path);
    lbk_sequence first = add_sequence(session), second = 0, restored = 0, fresh = 0;
    step(session, first, 0, 20);
    OK(lbk_session_fork(session, first, &second));
    CHECK(second != first && position(session, second) == 20);
    heard a = step(session, first, 20, 25), b = step(session, second, 25, 27);
    CHECK(!same(&a, &b));
    fresh = add_sequence(session);
    heard whole = step(session, fresh, 0, 25);
    CHECK(same(&whole, &a));

    OK(lbk_session_rewind(session, first, 22));
    CHECK(position(session, first) == 22);
    heard again = step(session, first, 22, 25);
    CHECK(same(&again, &a));
    FAILS(LBK_INVALID, lbk_session_rewind(session, first, 26));
    FAILS(LBK_INVALID, lbk_session_rewind(session, first, HUGE_LENGTH));

    lbk_bytes *snapshot = NULL;
    OK(lbk_session_rewind(session, first, 20));
    OK(lbk_session_snapshot(session, first, &snapshot));
    lbk_session *other = open_session(path);
    size_t size = lbk_bytes_size(snapshot);
    OK(lbk_session_restore(other, lbk_bytes_data(snapshot), size, &restored));
    again = step(other, restored, 20, 25);
    CHECK(same(&again, &a));
    restored = 0;
    FAILS(LBK_INVALID, lbk_session_restore(other, lbk_bytes_data(snapshot), size - 1, &restored));
    FAILS(LBK_INVALID, lbk_session_restore(other, lbk_bytes_data(snapshot), 0, &restored));
    FAILS(LBK_INVALID, lbk_session_restore(other, lbk_bytes_data(snapshot), HUGE_LENGTH, &restored));
    CHECK(!restored);
    lbk_bytes_free(snapshot);
    lbk_session_free(other);

    OK(lbk_session_end_sequence(session, second));
    FAILS(LBK_INVALID, lbk_session_end_sequence(session, second));
    FAILS(LBK_INVALID, lbk_session_fork(session, second, &restored));
    FAILS(LBK_INVALID, lbk_session_rewind(session, UINT64_MAX, 0));
    FAILS(LBK_INVALID, lbk_session_snapshot(session, 77, &snapshot));
    lbk_session_free(session);
}

/* Work that is refused changes nothing. */
static void refused(const char *path)
{
    lbk_session *session = open_session(path);
    lbk_sequence sequence = add_sequence(session);
    size_t committed = 99;
    const uint32_t bad[1] = {1000000};
    lbk_work twice[2] = {{sequence, TOKENS, 2, LBK_WANTED_LAST, 0}, {sequence, TOKENS, 2, LBK_WANTED_LAST, 0}};
    const struct {
        lbk_work work;
        lbk_code code;
    } cases[] = {
        {{sequence, TOKENS, 0, LBK_WANTED_LAST, 0}, LBK_INVALID},
        {{sequence, NULL, 0, LBK_WANTED_LAST, 0}, LBK_INVALID},
        {{sequence, NULL, 3, LBK_WANTED_LAST, 0}, LBK_INVALID},
        {{sequence, TOKENS, HUGE_LENGTH, LBK_WANTED_LAST, 0}, LBK_INVALID},
        {{sequence, TOKENS, HUGE_LENGTH / 4, LBK_WANTED_LAST, 0}, LBK_INVALID},
        {{sequence, bad, 1, LBK_WANTED_LAST, 0}, LBK_INVALID},
        {{sequence, TOKENS, 3, 17, 0}, LBK_INVALID},
        {{0, TOKENS, 3, LBK_WANTED_LAST, 0}, LBK_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        FAILS(cases[i].code, lbk_session_step(session, &cases[i].work, 1, NULL, NULL, NULL, &committed));
        CHECK(committed == 0 && position(session, sequence) == 0);
    }
    FAILS(LBK_INVALID, lbk_session_step(session, twice, 2, NULL, NULL, NULL, NULL));
    FAILS(LBK_INVALID, lbk_session_step(session, twice, 0, NULL, NULL, NULL, NULL));
    FAILS(LBK_INVALID, lbk_session_step(session, twice, HUGE_LENGTH, NULL, NULL, NULL, NULL));
    FAILS(LBK_INVALID, lbk_session_force_route(session, (const int32_t *)TOKENS, HUGE_LENGTH));
    /* A pointer that is no multiple of its elements' size. */
    lbk_work crooked = {sequence, (const uint32_t *)(const void *)((const char *)TOKENS + 1), 2, LBK_WANTED_LAST, 0};
    FAILS(LBK_INVALID, lbk_session_step(session, &crooked, 1, NULL, NULL, NULL, NULL));
    /* Beyond the context. */
    for (int i = 0; i < 3; i++) {
        step(session, sequence, 0, 40);
    }
    lbk_work more = {sequence, TOKENS, 9, LBK_WANTED_LAST, 0};
    FAILS(LBK_CAPACITY, lbk_session_step(session, &more, 1, NULL, NULL, NULL, &committed));
    CHECK(committed == 0 && position(session, sequence) == 120);
    lbk_session_free(session);
}

static void options(const char *path)
{
    lbk_model *model = open_model(path);
    lbk_session_options options;
    lbk_session *session = NULL;
    lbk_session_options_init(&options, sizeof options);
    CHECK(options.chunk == 256 && options.kv == LBK_KV_F16 && !options.context);
    const size_t wrong[] = {0, 7, 24, 33, sizeof options + 8, HUGE_LENGTH};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        options.struct_size = wrong[i];
        FAILS(LBK_INVALID, lbk_session_new(model, &options, &session));
    }
    /* The first 32 bytes alone: the limit and the format behind them are not read. */
    options.struct_size = 32;
    options.memory_limit = 1;
    options.kv = 55;
    options.context = 24;
    OK(lbk_session_new(model, &options, &session));
    lbk_sequence sequence = add_sequence(session);
    lbk_work work = {sequence, TOKENS, 25, LBK_WANTED_LAST, 0};
    FAILS(LBK_CAPACITY, lbk_session_step(session, &work, 1, NULL, NULL, NULL, NULL));
    lbk_session_free(session);
    session = NULL;
    options.struct_size = sizeof options;
    FAILS(LBK_INVALID, lbk_session_new(model, &options, &session));
    options.kv = LBK_KV_Q8;
    options.chunk = 0;
    FAILS(LBK_INVALID, lbk_session_new(model, &options, &session));
    options.chunk = HUGE_LENGTH;
    FAILS(LBK_INVALID, lbk_session_new(model, &options, &session));
    options.chunk = 16;
    options.context = HUGE_LENGTH;
    FAILS(LBK_INVALID, lbk_session_new(model, &options, &session));
    CHECK(!session);
    lbk_model_free(model);
}

/* More memory than the limit is an error of its own; the session and its engine go on. */
static void memory(const char *path)
{
    lbk_engine_options engine_options;
    lbk_engine *engine = NULL;
    lbk_model *model = NULL;
    lbk_session *session = NULL, *second = NULL;
    lbk_engine_options_init(&engine_options, sizeof engine_options);
    engine_options.memory_limit = 1 << 20;
    OK(lbk_engine_new(LBK_ABI_VERSION, &engine_options, &engine));
    OK(lbk_model_open(engine, path, &model));
    lbk_session_options options;
    lbk_session_options_init(&options, sizeof options);
    OK(lbk_session_new(model, &options, &session));
    options.memory_limit = 4096;
    OK(lbk_session_new(model, &options, &second));
    lbk_sequence sequence = add_sequence(second);
    lbk_work work = {sequence, TOKENS, 40, LBK_WANTED_ALL, 0};
    size_t committed = 99;
    uint64_t bytes = 0;
    FAILS(LBK_MEMORY, lbk_session_step(second, &work, 1, NULL, NULL, NULL, &committed));
    OK(lbk_session_memory(second, &bytes));
    CHECK(committed == 0 && position(second, sequence) == 0 && bytes <= 4096);
    /* Until the engine's limit is reached, sequences find room. */
    lbk_error *error = NULL;
    int steps = 0;
    while (!error && steps < 10000) {
        work.sequence = add_sequence(session);
        error = lbk_session_step(session, &work, 1, NULL, NULL, NULL, NULL);
        steps++;
        CHECK(lbk_engine_memory(engine) <= 1 << 20);
    }
    CHECK(steps > 1);
    CHECK(lbk_error_code(error) == LBK_MEMORY || lbk_error_code(error) == LBK_CAPACITY);
    lbk_error_free(error);
    lbk_session_free(session);
    lbk_session_free(second);
    CHECK(lbk_engine_memory(engine) == 0);
    OK(lbk_session_new(model, NULL, &session));
    step(session, add_sequence(session), 0, 20);
    lbk_session_free(session);
    lbk_model_free(model);
    lbk_engine_free(engine);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    sequences(argv[1]);
    refused(argv[1]);
    options(argv[1]);
    memory(argv[1]);

    /* A callback that uses its session is told so. */
    lbk_session *session = open_session(argv[1]);
    lbk_sequence sequence = add_sequence(session);
    heard h = {.session = session};
    lbk_work work = {sequence, TOKENS, 20, LBK_WANTED_ALL, 0};
    OK(lbk_session_step(session, &work, 1, on_logits, &h, NULL, NULL));
    CHECK(h.rows == 20 && h.inner == LBK_BUSY);

    /* A fault inside: an error, and all goes on to the bit. The chunk had committed. */
    heard expected = step(session, sequence, 20, 40);
    OK(lbk_session_rewind(session, sequence, 20));
    lbk_test_panic(session);
    size_t committed = 0;
    work.tokens = TOKENS + 20;
    FAILS(LBK_INTERNAL, lbk_session_step(session, &work, 1, on_logits, &h, NULL, &committed));
    CHECK(committed == 8 && position(session, sequence) == 28);
    heard after = step(session, sequence, 28, 40);
    CHECK(same(&after, &expected));
    lbk_session_free(session);
    return 0;
}
