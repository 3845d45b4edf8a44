/* A program of an earlier version: `abi.rs` builds it against the header of that version and runs it with
   the library of today. It uses nothing that a later version added. */
#include "check.h"

/* Fills options of a size, behind which nothing may be written. */
#define FILL(options, size, init)                                                                  \
    do {                                                                                           \
        memset(&(options), 0xa5, sizeof(options));                                                 \
        init;                                                                                      \
        CHECK((options).struct_size == (size));                                                    \
        for (size_t at = (size); at < sizeof(options); at++) {                                     \
            CHECK(((unsigned char *)&(options))[at] == 0xa5);                                      \
        }                                                                                          \
    } while (0)

/* A library runs what was built against its own major version, up to its own minor one. */
static void versions(void)
{
    const uint32_t own = lbk_version(), major = own >> 16 << 16;
    lbk_engine *engine = NULL;
    CHECK(own >= LBK_ABI_VERSION && major == LBK_ABI_VERSION >> 16 << 16);
    for (uint32_t header = major; header <= own; header++) {
        OK(lbk_engine_new(header, NULL, &engine));
        lbk_engine_free(engine);
        engine = NULL;
    }
    const uint32_t others[] = {own + 1, major + 0xffff, major + 0x10000, major - 1, major - 0x10000, own + 0x10000};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        FAILS(LBK_VERSION, lbk_engine_new(others[i], NULL, &engine));
        CHECK(!engine);
    }
}

/* Options as they were before their last fields were there. */
static void sizes(const char *path)
{
    lbk_engine_options engine_options;
    for (size_t size = 16; size <= sizeof engine_options; size += 8) {
        lbk_engine *engine = NULL;
        FILL(engine_options, size, lbk_engine_options_init(&engine_options, size));
        OK(lbk_engine_new(LBK_ABI_VERSION, &engine_options, &engine));
        lbk_engine_free(engine);
    }
    lbk_model *model = open_model(path);
    lbk_session_options session_options;
    for (size_t size = 32; size <= sizeof session_options; size += 8) {
        lbk_session *session = NULL;
        FILL(session_options, size, lbk_session_options_init(&session_options, size));
        session_options.context = 24;
        OK(lbk_session_new(model, &session_options, &session));
        lbk_work work = {add_sequence(session), TOKENS, 25, LBK_WANTED_LAST, 0};
        FAILS(LBK_CAPACITY, lbk_session_step(session, &work, 1, NULL, NULL, NULL, NULL));
        work.token_count = 24;
        OK(lbk_session_step(session, &work, 1, NULL, NULL, NULL, NULL));
        lbk_session_free(session);
    }
    lbk_model_free(model);
    lbk_session *session = open_session(path);
    lbk_generate_options generate_options;
    for (size_t size = 16; size <= sizeof generate_options; size += 8) {
        lbk_generation *generation = NULL;
        size_t committed = 0;
        FILL(generate_options, size, lbk_generate_options_init(&generate_options, size));
        generate_options.max_tokens = 2;
        OK(lbk_generation_new(session, add_sequence(session), TOKENS, 3, &generate_options, &generation));
        OK(lbk_generation_run(generation, session, NULL, NULL));
        OK(lbk_generation_committed(generation, &committed));
        CHECK(committed <= 2);
        lbk_generation_free(generation);
    }
    lbk_control *control = NULL;
    OK(lbk_session_control(session, &control));
    lbk_budget budget;
    for (size_t size = 24; size <= sizeof budget; size += 8) {
        FILL(budget, size, lbk_budget_init(&budget, size));
        budget.kind = LBK_BUDGET_PRICE;
        budget.value = 3;
        CHECK(lbk_control_set_budget(control, &budget) == LBK_OK);
        FILL(budget, size, OK(lbk_control_get_budget(control, &budget, size)));
        CHECK(budget.kind == LBK_BUDGET_PRICE && budget.value == 3);
    }
    lbk_control_free(control);
    lbk_session_free(session);
}

static size_t rows, vocab_size;

static void on_logits(size_t work, size_t token, const float *logits, size_t vocab, void *user_data)
{
    CHECK(work == 0 && token == rows && user_data == &rows && logits[0] == logits[0]);
    vocab_size = vocab;
    rows++;
}

static uint32_t heard[8];
static size_t pieces;

static int on_piece(const lbk_piece *piece, void *user_data)
{
    CHECK(piece->sample == 0 && piece->has_token && user_data == heard && piece->logprob <= 0);
    CHECK(pieces < 8);
    heard[pieces++] = piece->token;
    return 0;
}

/* Results of each kind, in the structs of that version. */
static void results(const char *path)
{
    lbk_model *model = open_model(path);
    lbk_model_info info;
    lbk_usage *usage = NULL;
    lbk_totals totals;
    lbk_site site;
    lbk_site_usage site_usage;
    lbk_status status;
    lbk_progress progress;
    OK(lbk_model_get_info(model, &info, sizeof info));
    CHECK(info.task == LBK_TASK_TEXT && info.context_length && info.vocab_size && info.bytes && info.sites);
    lbk_session *session = NULL;
    OK(lbk_session_new(model, NULL, &session));
    OK(lbk_usage_new(&usage));
    lbk_work work = {add_sequence(session), TOKENS, 9, LBK_WANTED_ALL, 0};
    size_t committed = 0, place = 0;
    OK(lbk_session_step(session, &work, 1, on_logits, &rows, usage, &committed));
    CHECK(rows == 9 && committed == 9 && vocab_size == info.vocab_size);
    OK(lbk_session_position(session, work.sequence, &place));
    OK(lbk_usage_get_totals(usage, &totals, sizeof totals));
    CHECK(place == 9 && totals.tokens == 9 && totals.macs && totals.bytes && totals.sites == info.sites);
    CHECK(totals.fraction > 0 && totals.fraction <= 1 && totals.unmet == LBK_UNMET_NOT);
    for (size_t i = 0; i < info.sites; i++) {
        uint64_t sum = 0;
        OK(lbk_model_get_site(model, i, &site, sizeof site));
        OK(lbk_usage_get_site(usage, i, &site_usage, sizeof site_usage));
        CHECK(!strcmp(site.name, site_usage.name) && site.first <= site.last);
        CHECK(site_usage.choices == (size_t)site.last + 1);
        for (size_t k = 0; k < site_usage.choices; k++) {
            sum += site_usage.histogram[k];
        }
        CHECK(sum == 9);
    }
    OK(lbk_session_get_status(session, &status, sizeof status));
    CHECK(status.target == 1 && status.unmet == LBK_UNMET_NOT);

    lbk_generate_options options;
    lbk_generation *generation = NULL;
    OK(lbk_model_generate_options(model, &options, sizeof options));
    options.max_tokens = 8;
    options.ignore_eos = 1;
    OK(lbk_generation_new(session, add_sequence(session), TOKENS, 9, &options, &generation));
    OK(lbk_generation_run(generation, session, on_piece, heard));
    OK(lbk_generation_get_progress(generation, 0, &progress, sizeof progress));
    CHECK(pieces == 8 && progress.token_count == 8 && progress.finish == LBK_FINISH_MAX_TOKENS);
    CHECK(!memcmp(progress.tokens, heard, sizeof heard) && progress.sequence && progress.logprobs[7] <= 0);
    lbk_generation_free(generation);

    /* By named tensors. */
    lbk_forward *forward = NULL;
    lbk_tensors *outputs = NULL;
    lbk_tensor logits;
    const int32_t ids[3] = {5, 9, 2};
    const size_t shape[1] = {3};
    lbk_tensor input = {"input_ids", LBK_DTYPE_I32, 0, shape, 1, ids, 3};
    OK(lbk_forward_new(model, NULL, &forward));
    OK(lbk_forward_run(forward, &input, 1, NULL, &outputs));
    OK(lbk_tensors_find(outputs, "logits", &logits));
    CHECK(logits.dtype == LBK_DTYPE_F32 && logits.rank == 2 && logits.count == 3 * info.vocab_size);
    lbk_tensors_free(outputs);
    lbk_forward_free(forward);
    lbk_usage_free(usage);
    lbk_session_free(session);
    lbk_model_free(model);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    versions();
    sizes(argv[1]);
    results(argv[1]);
    return 0;
}
