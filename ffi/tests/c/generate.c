/* Generation: streaming, ends, cancelling at each token and going on, a fault inside. */
#include "check.h"

#define MOST 24

/* What the callback heard. */
typedef struct heard {
    uint32_t tokens[3][MOST];
    size_t counts[3];
    char text[4096];
    size_t text_length, calls, cancel_at, stop_at;
    lbk_control *control;
    lbk_session *session;
    lbk_generation *generation;
} heard;

static int on_piece(const lbk_piece *piece, void *user_data)
{
    heard *h = user_data;
    CHECK(piece->sample < 3 && piece->logprob <= 0);
    if (piece->has_token) {
        CHECK(h->counts[piece->sample] < MOST);
        h->tokens[piece->sample][h->counts[piece->sample]++] = piece->token;
    }
    if (piece->sample == 0) {
        CHECK(h->text_length + piece->text.length < sizeof h->text);
        memcpy(h->text + h->text_length, piece->text.data, piece->text.length);
        h->text_length += piece->text.length;
    }
    h->calls++;
    if (h->cancel_at && h->calls >= h->cancel_at) {
        CHECK(lbk_control_cancel(h->control) == LBK_OK);
    }
    if (h->generation) {
        size_t n = 0;
        FAILS(LBK_BUSY, lbk_generation_committed(h->generation, &n));
        FAILS(LBK_BUSY, lbk_generation_run(h->generation, h->session, NULL, NULL));
        FAILS(LBK_BUSY, lbk_session_position(h->session, 1, &n));
    }
    return h->stop_at && h->calls >= h->stop_at;
}

static lbk_generate_options sampled(void)
{
    lbk_generate_options options;
    lbk_generate_options_init(&options, sizeof options);
    CHECK(options.max_tokens == 128 && options.samples == 1 && options.temperature == 0);
    options.max_tokens = MOST;
    options.samples = 3;
    options.temperature = 1;
    options.seed = 5;
    options.repetition_penalty = 1.2f;
    options.ignore_eos = 1;
    return options;
}

/* Runs to the end, cancelled after every `cancel_at` calls if that is not 0. */
static heard run(const char *path, size_t cancel_at)
{
    lbk_session *session = open_session(path);
    lbk_sequence sequence = add_sequence(session);
    lbk_generate_options options = sampled();
    lbk_generation *generation = NULL;
    heard h = {.cancel_at = cancel_at};
    OK(lbk_session_control(session, &h.control));
    OK(lbk_generation_new(session, sequence, TOKENS, 10, &options, &generation));
    for (;;) {
        h.calls = 0;
        lbk_error *error = lbk_generation_run(generation, session, on_piece, &h);
        size_t committed = 0;
        OK(lbk_generation_committed(generation, &committed));
        CHECK(committed == h.counts[0] + h.counts[1] + h.counts[2]);
        /* The session stands exactly there. */
        for (size_t i = 0; i < 3; i++) {
            lbk_progress progress;
            OK(lbk_generation_get_progress(generation, i, &progress, sizeof progress));
            CHECK(progress.token_count == h.counts[i]);
            CHECK(!memcmp(progress.tokens, h.tokens[i], h.counts[i] * sizeof(uint32_t)));
            CHECK(position(session, progress.sequence) == 10 + h.counts[i] - 1);
            CHECK((progress.finish == LBK_FINISH_NOT) == (h.counts[i] < MOST));
        }
        if (!error) {
            break;
        }
        CHECK(lbk_error_code(error) == LBK_CANCELLED && cancel_at && h.calls < cancel_at + 3);
        lbk_error_free(error);
        CHECK(lbk_control_reset(h.control) == LBK_OK);
    }
    lbk_progress progress;
    OK(lbk_generation_get_progress(generation, 0, &progress, sizeof progress));
    CHECK(progress.text.length == h.text_length && !memcmp(progress.text.data, h.text, h.text_length));
    CHECK(h.text_length > 0 && progress.finish == LBK_FINISH_MAX_TOKENS);
    FAILS(LBK_INVALID, lbk_generation_get_progress(generation, 3, &progress, sizeof progress));
    FAILS(LBK_INVALID, lbk_generation_get_progress(generation, 0, &progress, 8));
    lbk_control_free(h.control);
    h.control = NULL;
    lbk_session_free(session);
    lbk_generation_free(generation);
    return h;
}

/* One sample with these options: why it ended, and its tokens. */
static lbk_finish ends(const char *path, lbk_generate_options options, heard *h, size_t *tokens)
{
    lbk_session *session = open_session(path);
    lbk_generation *generation = NULL;
    lbk_progress progress;
    options.samples = 1;
    OK(lbk_generation_new(session, add_sequence(session), TOKENS, 10, &options, &generation));
    OK(lbk_generation_run(generation, session, on_piece, h));
    OK(lbk_generation_get_progress(generation, 0, &progress, sizeof progress));
    *tokens = progress.token_count;
    /* Nothing more is said, and the generation may outlive its session. */
    size_t calls = h->calls;
    OK(lbk_generation_run(generation, session, on_piece, h));
    CHECK(h->calls == calls);
    lbk_session_free(session);
    OK(lbk_generation_get_progress(generation, 0, &progress, sizeof progress));
    lbk_generation_free(generation);
    return progress.finish;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2); /* a text student with a tokenizer */
    heard whole = run(argv[1], 0);
    for (size_t cancel_at = 1; cancel_at < 6; cancel_at++) {
        heard parts = run(argv[1], cancel_at);
        CHECK(!memcmp(whole.tokens, parts.tokens, sizeof whole.tokens));
        CHECK(whole.text_length == parts.text_length);
        CHECK(!memcmp(whole.text, parts.text, whole.text_length));
    }

    size_t tokens = 0;
    heard h = {.stop_at = 4};
    CHECK(ends(argv[1], sampled(), &h, &tokens) == LBK_FINISH_CALLBACK && tokens == 4);
    lbk_generate_options options = sampled();
    options.stop_tokens = &whole.tokens[0][5];
    options.stop_token_count = 1;
    memset(&h, 0, sizeof h);
    CHECK(ends(argv[1], options, &h, &tokens) == LBK_FINISH_END_OF_TEXT && tokens <= 5);
    options = sampled();
    lbk_text stop = {whole.text + whole.text_length / 2, 2};
    options.stop = &stop;
    options.stop_count = 1;
    memset(&h, 0, sizeof h);
    CHECK(ends(argv[1], options, &h, &tokens) == LBK_FINISH_STOP_STRING && tokens < MOST);
    memset(&h, 0, sizeof h);

    /* What is refused. */
    lbk_session *session = open_session(argv[1]), *other = open_session(argv[1]);
    lbk_sequence sequence = add_sequence(session);
    lbk_generation *generation = NULL;
    struct {
        const uint32_t *prompt;
        size_t count;
    } bad[] = {{TOKENS, 0}, {NULL, 0}, {NULL, 4}, {TOKENS, HUGE_LENGTH}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        FAILS(LBK_INVALID, lbk_generation_new(session, sequence, bad[i].prompt, bad[i].count, NULL, &generation));
    }
    for (int field = 0; field < 7; field++) {
        options = sampled();
        options.struct_size = field == 0 ? 20 : options.struct_size;
        options.temperature = field == 1 ? -1 : options.temperature;
        options.top_p = field == 2 ? 0 : options.top_p;
        options.samples = field == 3 ? 0 : field == 4 ? HUGE_LENGTH : options.samples;
        options.stop_count = field == 5 ? 2 : 0;
        options.stop_token_count = field == 6 ? HUGE_LENGTH : 0;
        FAILS(LBK_INVALID, lbk_generation_new(session, sequence, TOKENS, 4, &options, &generation));
    }
    FAILS(LBK_INVALID, lbk_generation_new(session, 99, TOKENS, 4, NULL, &generation));
    CHECK(!generation);
    OK(lbk_generation_new(session, sequence, TOKENS, 4, NULL, &generation));
    FAILS(LBK_INVALID, lbk_generation_run(generation, other, NULL, NULL));

    /* A callback that uses what runs is told so; the run is none the worse. */
    h.session = session;
    h.generation = generation;
    h.stop_at = 3;
    OK(lbk_generation_run(generation, session, on_piece, &h));
    CHECK(h.counts[0] == 3);
    lbk_generation_free(generation);

    /* A fault inside ends the generation alone. */
    memset(&h, 0, sizeof h);
    OK(lbk_generation_new(session, add_sequence(session), TOKENS, 4, NULL, &generation));
    lbk_test_panic(session);
    FAILS(LBK_INTERNAL, lbk_generation_run(generation, session, on_piece, &h));
    FAILS(LBK_INVALID, lbk_generation_run(generation, session, on_piece, &h));
    lbk_generation_free(generation);
    generation = NULL;
    h.stop_at = 3;
    OK(lbk_generation_new(session, add_sequence(session), TOKENS, 4, NULL, &generation));
    OK(lbk_generation_run(generation, session, on_piece, &h));
    CHECK(h.counts[0] == 3);
    lbk_session_free(session);
    lbk_session_free(other);
    lbk_generation_free(generation);
    return 0;
}
