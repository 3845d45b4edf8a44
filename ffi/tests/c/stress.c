/* Eight threads: four sessions of one model generate, four threads turn their budgets, cancel them and
   read model and status. What is generated is what one thread alone generates. With a second argument
   there is a race on purpose. */
#include "check.h"

#include <pthread.h>
#include <unistd.h>

#define SESSIONS 4
#define MOST 60

typedef struct worker {
    const lbk_model *model;
    lbk_control *control;
    lbk_session *session;
    uint32_t tokens[MOST];
    size_t count, cancelled;
    uint64_t noise;
} worker;

static int running = SESSIONS;
static int racing = 0;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int still_running(int change)
{
    pthread_mutex_lock(&lock);
    running += change;
    int now = running;
    pthread_mutex_unlock(&lock);
    return now;
}

static uint64_t next(uint64_t *noise)
{
    *noise ^= *noise >> 12;
    *noise ^= *noise << 25;
    *noise ^= *noise >> 27;
    return *noise * 0x2545F4914F6CDD1Du;
}

static int on_piece(const lbk_piece *piece, void *user_data)
{
    worker *w = user_data;
    CHECK(w->count < MOST);
    w->tokens[w->count++] = piece->token;
    return 0;
}

/* Generates until its end, however often it is cancelled. */
static void *generate(void *user_data)
{
    worker *w = user_data;
    lbk_generate_options options;
    lbk_generation *generation = NULL;
    lbk_generate_options_init(&options, sizeof options);
    options.max_tokens = MOST;
    options.temperature = 1;
    options.ignore_eos = 1;
    OK(lbk_generation_new(w->session, add_sequence(w->session), TOKENS, 20, &options, &generation));
    for (;;) {
        lbk_control_reset(w->control);
        lbk_error *error = lbk_generation_run(generation, w->session, on_piece, w);
        if (!error) {
            break;
        }
        CHECK(lbk_error_code(error) == LBK_CANCELLED);
        lbk_error_free(error);
        w->cancelled++;
    }
    lbk_generation_free(generation);
    still_running(-1);
    return NULL;
}

/* Cancels, sets budgets that change no choice of this student, reads the model. */
static void *disturb(void *user_data)
{
    worker *w = user_data;
    while (still_running(0)) {
        lbk_budget budget;
        lbk_model_info info;
        lbk_status status;
        lbk_budget_init(&budget, sizeof budget);
        if (racing) {
            lbk_test_race();
        }
        switch (next(&w->noise) % 4) {
        case 0:
            lbk_control_cancel(w->control);
            break;
        case 1:
            budget.kind = LBK_BUDGET_PRICE;
            CHECK(lbk_control_set_budget(w->control, &budget) == LBK_OK);
            break;
        case 2:
            CHECK(lbk_control_set_budget(w->control, &budget) == LBK_OK);
            OK(lbk_control_get_budget(w->control, &budget, sizeof budget));
            CHECK(budget.kind == LBK_BUDGET_FULL || budget.kind == LBK_BUDGET_PRICE);
            break;
        default:
            OK(lbk_model_get_info(w->model, &info, sizeof info));
            OK(lbk_session_get_status(w->session, &status, sizeof status));
            CHECK(status.target == 1 && status.price == 0 && status.unmet == LBK_UNMET_NOT);
        }
        usleep((useconds_t)(next(&w->noise) % 200));
    }
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2 || argc == 3);
    racing = argc == 3;
    lbk_model *model = open_model(argv[1]);
    worker workers[SESSIONS];
    pthread_t threads[2 * SESSIONS];
    memset(workers, 0, sizeof workers);
    for (size_t i = 0; i < SESSIONS; i++) {
        workers[i].model = model;
        workers[i].noise = i + 1;
        OK(lbk_session_new(model, NULL, &workers[i].session));
        OK(lbk_session_control(workers[i].session, &workers[i].control));
    }
    for (size_t i = 0; i < SESSIONS; i++) {
        CHECK(!pthread_create(&threads[2 * i], NULL, generate, &workers[i]));
        CHECK(!pthread_create(&threads[2 * i + 1], NULL, disturb, &workers[i]));
    }
    for (size_t i = 0; i < 2 * SESSIONS; i++) {
        pthread_join(threads[i], NULL);
    }
    size_t cancelled = 0;
    for (size_t i = 0; i < SESSIONS; i++) {
        CHECK(workers[i].count == MOST);
        CHECK(!memcmp(workers[i].tokens, workers[0].tokens, sizeof workers[0].tokens));
        cancelled += workers[i].cancelled;
        lbk_session_free(workers[i].session);
        lbk_control_free(workers[i].control);
    }
    /* Alone and undisturbed. */
    worker alone = {.model = model};
    OK(lbk_session_new(model, NULL, &alone.session));
    OK(lbk_session_control(alone.session, &alone.control));
    generate(&alone);
    CHECK(!memcmp(alone.tokens, workers[0].tokens, sizeof alone.tokens));
    lbk_session_free(alone.session);
    lbk_control_free(alone.control);
    lbk_model_free(model);
    printf("cancelled %zu times\n", cancelled);
    return 0;
}
