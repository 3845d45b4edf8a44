/* Controls: budgets, cancelling from threads and signal handlers, outliving the session. */
#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

static lbk_control *signalled;

static void on_signal(int number)
{
    lbk_budget budget;
    (void)number;
    lbk_budget_init(&budget, sizeof budget);
    budget.kind = LBK_BUDGET_PRICE;
    budget.value = 0.25;
    lbk_control_set_budget(signalled, &budget);
    lbk_control_cancel(signalled);
}

static lbk_code set(const lbk_control *control, lbk_budget_kind kind, double value, double floor,
                    double ceiling)
{
    lbk_budget budget;
    lbk_budget_init(&budget, sizeof budget);
    budget.kind = kind;
    budget.value = value;
    budget.floor = floor;
    budget.ceiling = ceiling;
    return lbk_control_set_budget(control, &budget);
}

static void budgets(const char *path)
{
    lbk_session *session = open_session(path);
    lbk_control *control = NULL, *clone = NULL;
    lbk_budget budget;
    OK(lbk_session_control(session, &control));
    OK(lbk_control_clone(control, &clone));
    OK(lbk_control_get_budget(control, &budget, sizeof budget));
    CHECK(budget.kind == LBK_BUDGET_FULL && budget.floor == 0 && budget.ceiling == 1);
    const struct {
        lbk_budget_kind kind;
        double value;
    } good[] = {{LBK_BUDGET_FRACTION, 0.5}, {LBK_BUDGET_PRICE, 0}, {LBK_BUDGET_LATENCY, 0.008},
                {LBK_BUDGET_DEADLINE, 2}, {LBK_BUDGET_FULL, 0}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        CHECK(set(control, good[i].kind, good[i].value, 0.25, 0.75) == LBK_OK);
        OK(lbk_control_get_budget(clone, &budget, sizeof budget));
        CHECK(budget.kind == good[i].kind && budget.value == good[i].value);
        CHECK(budget.floor == 0.25 && budget.ceiling == 0.75);
    }
    double nan = strtod("nan", NULL), inf = strtod("inf", NULL);
    CHECK(set(control, LBK_BUDGET_FRACTION, 0.5, 0, 1) == LBK_OK);
    CHECK(set(control, LBK_BUDGET_FRACTION, 0, 0, 1) == LBK_INVALID);
    CHECK(set(control, LBK_BUDGET_FRACTION, 1.5, 0, 1) == LBK_INVALID);
    CHECK(set(control, LBK_BUDGET_FRACTION, nan, 0, 1) == LBK_INVALID);
    CHECK(set(control, LBK_BUDGET_PRICE, -1, 0, 1) == LBK_INVALID);
    CHECK(set(control, LBK_BUDGET_PRICE, inf, 0, 1) == LBK_INVALID);
    CHECK(set(control, LBK_BUDGET_LATENCY, 0, 0, 1) == LBK_INVALID);
    CHECK(set(control, LBK_BUDGET_LATENCY, -3, 0, 1) == LBK_INVALID);
    CHECK(set(control, LBK_BUDGET_DEADLINE, nan, 0, 1) == LBK_INVALID);
    CHECK(set(control, LBK_BUDGET_DEADLINE, 1e300, 0, 1) == LBK_INVALID);
    CHECK(set(control, LBK_BUDGET_FULL, 0, 0.8, 0.2) == LBK_INVALID);
    CHECK(set(control, LBK_BUDGET_FULL, 0, nan, 1) == LBK_INVALID);
    CHECK(set(control, 42, 1, 0, 1) == LBK_INVALID);
    lbk_budget_init(&budget, sizeof budget);
    budget.struct_size = 12;
    CHECK(lbk_control_set_budget(control, &budget) == LBK_INVALID);
    budget.struct_size = HUGE_LENGTH;
    CHECK(lbk_control_set_budget(control, &budget) == LBK_INVALID);
    OK(lbk_control_get_budget(control, &budget, sizeof budget));
    CHECK(budget.kind == LBK_BUDGET_FRACTION && budget.value == 0.5);
    /* A smaller size: the limits keep their defaults. */
    budget.struct_size = 24;
    budget.floor = nan;
    CHECK(lbk_control_set_budget(control, &budget) == LBK_OK);
    OK(lbk_control_get_budget(control, &budget, sizeof budget));
    CHECK(budget.floor == 0 && budget.ceiling == 1);

    /* It outlives the session, and each handle the others. */
    lbk_session_free(session);
    lbk_control_free(control);
    CHECK(lbk_control_cancel(clone) == LBK_OK && lbk_control_is_cancelled(clone));
    CHECK(set(clone, LBK_BUDGET_PRICE, 3, 0, 1) == LBK_OK);
    CHECK(lbk_control_reset(clone) == LBK_OK && !lbk_control_is_cancelled(clone));
    lbk_control_free(clone);
}

/* What the threads of `race` share. */
typedef struct shared {
    lbk_session *session;
    lbk_control *control;
    size_t tokens, after;
    int stage;
    pthread_mutex_t lock;
    pthread_cond_t turned;
} shared;

/* The third token waits until the budget was changed, the 40th until the call was cancelled. */
static int on_piece(const lbk_piece *piece, void *user_data)
{
    shared *s = user_data;
    pthread_mutex_lock(&s->lock);
    s->after += (size_t)lbk_control_is_cancelled(s->control);
    s->tokens += (size_t)piece->has_token;
    pthread_cond_broadcast(&s->turned);
    while ((s->tokens >= 3 && s->stage < 1) || (s->tokens >= 40 && s->stage < 2)) {
        pthread_cond_wait(&s->turned, &s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static void *turn(void *user_data)
{
    shared *s = user_data;
    pthread_mutex_lock(&s->lock);
    while (s->tokens < 3) {
        pthread_cond_wait(&s->turned, &s->lock);
    }
    CHECK(set(s->control, LBK_BUDGET_PRICE, 1e9, 0, 1) == LBK_OK);
    s->stage = 1;
    pthread_cond_broadcast(&s->turned);
    while (s->tokens < 40) {
        pthread_cond_wait(&s->turned, &s->lock);
    }
    /* The call is in its 40th token. */
    lbk_status status;
    OK(lbk_session_get_status(s->session, &status, sizeof status));
    CHECK(status.price == 1e9 && status.target < 1 && status.unmet == LBK_UNMET_NOT);
    CHECK(lbk_control_cancel(s->control) == LBK_OK);
    s->stage = 2;
    pthread_cond_broadcast(&s->turned);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* The budget is changed and the call cancelled from another thread, while it runs. */
static void race(const char *path)
{
    lbk_session *session = open_session(path);
    lbk_sequence sequence = add_sequence(session);
    lbk_generate_options options;
    lbk_generation *generation = NULL;
    lbk_usage *usage = NULL;
    shared s = {.session = session, .lock = PTHREAD_MUTEX_INITIALIZER, .turned = PTHREAD_COND_INITIALIZER};
    lbk_generate_options_init(&options, sizeof options);
    options.max_tokens = 100;
    options.ignore_eos = 1;
    OK(lbk_session_control(session, &s.control));
    OK(lbk_generation_new(session, sequence, TOKENS, 8, &options, &generation));
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, turn, &s));
    FAILS(LBK_CANCELLED, lbk_generation_run(generation, session, on_piece, &s));
    pthread_join(thread, NULL);
    /* The token that was under way is the last one. */
    CHECK(s.tokens == 40 && s.after == 0);
    size_t committed = 0;
    OK(lbk_generation_committed(generation, &committed));
    CHECK(committed == s.tokens && position(session, sequence) == 8 + committed - 1);

    /* The price of the second budget is in the usage: fewer than all learners were used. */
    lbk_totals totals;
    OK(lbk_usage_new(&usage));
    OK(lbk_generation_add_usage(generation, NULL, usage));
    OK(lbk_usage_get_totals(usage, &totals, sizeof totals));
    CHECK(totals.tokens == committed - 1 && totals.sites > 0 && totals.ms > 0 && totals.bytes > 0);
    CHECK(totals.fraction < 1 && totals.site_fraction < totals.fraction);
    for (size_t i = 0; i < totals.sites; i++) {
        lbk_site_usage site;
        uint64_t sum = 0;
        OK(lbk_usage_get_site(usage, i, &site, sizeof site));
        for (size_t k = 0; k < site.choices; k++) {
            sum += site.histogram[k];
        }
        CHECK(*site.name && sum == totals.tokens);
    }
    lbk_site_usage site;
    FAILS(LBK_INVALID, lbk_usage_get_site(usage, totals.sites, &site, sizeof site));
    OK(lbk_usage_reset(usage));
    OK(lbk_usage_get_totals(usage, &totals, sizeof totals));
    CHECK(totals.tokens == 0 && totals.sites == 0);

    lbk_status status;
    OK(lbk_session_get_status(session, &status, sizeof status));
    CHECK(status.price == 1e9 && status.unmet == LBK_UNMET_NOT);

    /* Calls fail until the flag is reset; then the generation ends. */
    FAILS(LBK_CANCELLED, lbk_generation_run(generation, session, NULL, NULL));
    CHECK(lbk_control_reset(s.control) == LBK_OK);
    OK(lbk_generation_run(generation, session, NULL, NULL));
    OK(lbk_generation_committed(generation, &committed));
    CHECK(committed == 100);
    lbk_usage_free(usage);
    lbk_generation_free(generation);
    lbk_control_free(s.control);
    lbk_session_free(session);
}

/* What `hammer` may touch, and what a run heard. */
typedef struct hammered {
    lbk_control *control;
    uint32_t tokens[100];
    size_t count, after;
} hammered;

static volatile sig_atomic_t hammering;

static void *hammer(void *user_data)
{
    while (hammering) {
        CHECK(lbk_control_cancel(user_data) == LBK_OK);
        usleep(50);
    }
    return NULL;
}

static int on_hammered(const lbk_piece *piece, void *user_data)
{
    hammered *h = user_data;
    CHECK(h->count < 100 && piece->has_token);
    h->tokens[h->count++] = piece->token;
    h->after += (size_t)lbk_control_is_cancelled(h->control);
    return 0;
}

/* Cancelled at any time from another thread, a run stops within a token; going on gives what an
   uninterrupted run gives. */
static hammered interrupted(const char *path, int by_thread)
{
    lbk_session *session = open_session(path);
    lbk_generate_options options;
    lbk_generation *generation = NULL;
    hammered h = {.count = 0};
    lbk_generate_options_init(&options, sizeof options);
    options.max_tokens = 100;
    options.temperature = 1;
    options.ignore_eos = 1;
    OK(lbk_session_control(session, &h.control));
    OK(lbk_generation_new(session, add_sequence(session), TOKENS, 20, &options, &generation));
    pthread_t thread;
    hammering = by_thread;
    CHECK(!pthread_create(&thread, NULL, hammer, h.control));
    for (lbk_error *error = NULL;;) {
        CHECK(lbk_control_reset(h.control) == LBK_OK);
        h.after = 0;
        error = lbk_generation_run(generation, session, on_hammered, &h);
        CHECK(h.after <= 1);
        if (!error) {
            break;
        }
        CHECK(lbk_error_code(error) == LBK_CANCELLED);
        lbk_error_free(error);
    }
    hammering = 0;
    pthread_join(thread, NULL);
    CHECK(h.count == 100);
    lbk_control_free(h.control);
    lbk_generation_free(generation);
    lbk_session_free(session);
    return h;
}

static int raise_at_five(const lbk_piece *piece, void *user_data)
{
    size_t *tokens = user_data;
    *tokens += (size_t)piece->has_token;
    if (*tokens == 5) {
        raise(SIGUSR1);
    }
    return 0;
}

/* A signal handler sets the budget and cancels, in the midst of the call. */
static void signals(const char *path)
{
    lbk_session *session = open_session(path);
    lbk_generation *generation = NULL;
    size_t tokens = 0;
    OK(lbk_session_control(session, &signalled));
    OK(lbk_generation_new(session, add_sequence(session), TOKENS, 8, NULL, &generation));
    struct sigaction action = {.sa_handler = on_signal};
    CHECK(!sigaction(SIGUSR1, &action, NULL));
    FAILS(LBK_CANCELLED, lbk_generation_run(generation, session, raise_at_five, &tokens));
    CHECK(tokens == 5);
    lbk_budget budget;
    OK(lbk_control_get_budget(signalled, &budget, sizeof budget));
    CHECK(budget.kind == LBK_BUDGET_PRICE && budget.value == 0.25);
    lbk_generation_free(generation);
    lbk_session_free(session);
    lbk_control_free(signalled);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2); /* an adaptive text student */
    budgets(argv[1]);
    race(argv[1]);
    hammered whole = interrupted(argv[1], 0), parts = interrupted(argv[1], 1);
    CHECK(!memcmp(whole.tokens, parts.tokens, sizeof whole.tokens));
    signals(argv[1]);
    return 0;
}
