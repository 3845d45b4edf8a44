/* Answers again and again, each time within a deadline: less time, less compute per token.
 *
 *     cc deadline.c $(pkg-config --cflags --libs limbeck) -o deadline
 *     ./deadline student.lbk
 */
#include <limbeck.h>
#include <stdio.h>
#include <stdlib.h>

#define ROUNDS 5
#define TOKENS 32

/* Ends the program with an error, if there is one. */
static void check(lbk_error *error)
{
    if (error) {
        fprintf(stderr, "deadline: %s\n", lbk_error_message(error));
        lbk_error_free(error);
        exit(1);
    }
}

/* Tells budgets that are not kept, and why: a student without sites, for one, takes what it takes. */
static void on_message(lbk_log_level level, const char *message, void *user_data)
{
    (void)level;
    (void)user_data;
    fprintf(stderr, "[%s]\n", message);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: deadline PLAN.lbk\n");
        return 2;
    }
    lbk_engine_options engine_options;
    lbk_engine *engine = NULL;
    lbk_model *model = NULL;
    lbk_session *session = NULL;
    lbk_control *control = NULL;
    lbk_usage *usage = NULL;
    lbk_engine_options_init(&engine_options, sizeof engine_options);
    engine_options.log = on_message;
    engine_options.log_level = LBK_LOG_WARN;
    check(lbk_engine_new(LBK_ABI_VERSION, &engine_options, &engine));
    check(lbk_model_open(engine, argv[1], &model));
    check(lbk_session_new(model, NULL, &session));
    check(lbk_session_control(session, &control));
    check(lbk_usage_new(&usage));

    lbk_generate_options options;
    lbk_generate_options_init(&options, sizeof options);
    options.max_tokens = TOKENS;
    options.ignore_eos = 1;
    double seconds = 2;
    for (int i = 0; i < ROUNDS; i++) {
        /* Half the time in each round. */
        lbk_budget budget;
        lbk_budget_init(&budget, sizeof budget);
        budget.kind = LBK_BUDGET_DEADLINE;
        budget.value = seconds;
        if (lbk_control_set_budget(control, &budget) != LBK_OK) {
            return 1;
        }
        lbk_sequence sequence = 0;
        lbk_generation *generation = NULL;
        lbk_totals totals;
        const uint32_t prompt[] = {1, 5, 7, 9};
        check(lbk_session_add_sequence(session, &sequence));
        check(lbk_generation_new(session, sequence, prompt, 4, &options, &generation));
        check(lbk_generation_run(generation, session, NULL, NULL));
        check(lbk_usage_reset(usage));
        check(lbk_generation_add_usage(generation, usage, usage));
        check(lbk_usage_get_totals(usage, &totals, sizeof totals));
        printf("deadline %8.3f ms: took %8.3f ms, fraction %.3f%s\n", seconds * 1e3, totals.ms,
               totals.fraction, totals.unmet == LBK_UNMET_NOT ? "" : " (see above)");
        lbk_generation_free(generation);
        check(lbk_session_end_sequence(session, sequence));
        seconds /= 2;
    }

    lbk_usage_free(usage);
    lbk_control_free(control);
    lbk_session_free(session);
    lbk_model_free(model);
    lbk_engine_free(engine);
    return 0;
}
