/* Prints the nanoseconds of the quickest decode step of some, as `overhead.rs` measures them. */
#include "check.h"

#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void on_logits(size_t work, size_t token, const float *logits, size_t vocab, void *user_data)
{
    (void)work;
    (void)token;
    float *sum = user_data;
    *sum += logits[vocab - 1];
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    lbk_engine *engine = new_engine(1);
    lbk_model *model = NULL;
    lbk_session *session = NULL;
    lbk_usage *usage = NULL;
    OK(lbk_model_open(engine, argv[1], &model));
    OK(lbk_session_new(model, NULL, &session));
    OK(lbk_usage_new(&usage));
    lbk_sequence sequence = add_sequence(session);
    double quickest = 1e18;
    float sum = 0;
    for (long i = 0, steps = strtol(argv[2], NULL, 10); i < steps; i++) {
        /* Always at the same position, so that each step is as long. */
        OK(lbk_session_rewind(session, sequence, i ? 8 : 0));
        lbk_work work = {sequence, TOKENS, i ? 1 : 8, LBK_WANTED_LAST, 0};
        double start = now();
        OK(lbk_session_step(session, &work, 1, on_logits, &sum, usage, NULL));
        double took = now() - start;
        quickest = i && took < quickest ? took : quickest;
    }
    CHECK(sum == sum);
    printf("%.0f\n", quickest);
    lbk_usage_free(usage);
    lbk_session_free(session);
    lbk_model_free(model);
    lbk_engine_free(engine);
    return 0;
}
