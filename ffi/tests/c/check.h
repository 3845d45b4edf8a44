/* What the test programs share. */
#ifndef CHECK_H
#define CHECK_H

#include <limbeck.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HUGE_LENGTH ((size_t)-1)

/* Ends the program where a condition does not hold. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* Ends the program where a call fails. */
#define OK(call) expect(LBK_OK, (call), #call, __FILE__, __LINE__)

/* Ends the program where a call does not fail with this code. */
#define FAILS(code, call) expect((code), (call), #call, __FILE__, __LINE__)

static inline void expect(lbk_code code, lbk_error *error, const char *call, const char *file,
                          int line)
{
    if (lbk_error_code(error) != code || (code != LBK_OK && !*lbk_error_message(error))) {
        fprintf(stderr, "%s:%d: %s: %s: %s\n", file, line, call,
                lbk_code_name(lbk_error_code(error)), lbk_error_message(error));
        exit(1);
    }
    lbk_error_free(error);
}

/* An engine of `threads` threads. */
static inline lbk_engine *new_engine(uint32_t threads)
{
    lbk_engine_options options;
    lbk_engine *engine = NULL;
    lbk_engine_options_init(&options, sizeof options);
    options.threads = threads;
    OK(lbk_engine_new(LBK_ABI_VERSION, &options, &engine));
    CHECK(engine);
    return engine;
}

/* A plan; what it needs of its engine it keeps. */
static inline lbk_model *open_model(const char *path)
{
    lbk_engine *engine = new_engine(2);
    lbk_model *model = NULL;
    OK(lbk_model_open(engine, path, &model));
    CHECK(model);
    lbk_engine_free(engine);
    return model;
}

/* A session with small chunks, which keeps its model. */
static inline lbk_session *open_session(const char *path)
{
    lbk_model *model = open_model(path);
    lbk_session_options options;
    lbk_session *session = NULL;
    lbk_session_options_init(&options, sizeof options);
    options.chunk = 8;
    OK(lbk_session_new(model, &options, &session));
    CHECK(session);
    lbk_model_free(model);
    return session;
}

static inline lbk_sequence add_sequence(lbk_session *session)
{
    lbk_sequence sequence = 0;
    OK(lbk_session_add_sequence(session, &sequence));
    CHECK(sequence);
    return sequence;
}

static inline size_t position(lbk_session *session, lbk_sequence sequence)
{
    size_t found = 0;
    OK(lbk_session_position(session, sequence, &found));
    return found;
}

/* Some tokens that any tiny student has. */
static const uint32_t TOKENS[40] = {5, 9, 2, 33, 17, 8, 41, 3,  12, 25, 7,  30, 1, 44, 19, 6, 28, 11, 36, 4,
                                    15, 22, 39, 10, 2, 31, 18, 27, 14, 40, 21, 5, 9, 16, 35, 23, 7, 13, 42, 20};

#endif
