/* The C ABI of Limbeck: an embeddable runtime for distilled students with one dial over per-token
 * compute.
 *
 * Rules that hold for every function, where it does not say otherwise:
 *
 * - A function that can fail returns an error that the caller owns, or NULL for success. Results are
 *   written through pointers, on success alone. No panic and no exception leaves the library;
 *   what Rust tells of a panic, which is LBK_INTERNAL, goes to the standard error.
 * - A handle that a function writes is the caller's, who frees it once by its `_free`; freeing NULL is
 *   fine. What was opened from a handle keeps it alive: handles may be freed in any order.
 * - A pointer to `const` handle may be shared between threads. Other handles serve one call at a time,
 *   from any thread; a second call fails with LBK_BUSY, except of functions that work also while a call
 *   runs and say so. No function may run on a handle while it is freed. What another thread or a signal
 *   handler may touch meanwhile is an lbk_control.
 * - Arrays are a pointer and a length, which may be NULL and 0; they are borrowed for the call. Texts
 *   are UTF-8. NULL elsewhere, and lengths that cannot be, are LBK_INVALID.
 * - Structs may grow at their end with later versions. Options begin with their size and are filled by
 *   an `_init` function; results are written to a struct whose size is given. A size that is smaller
 *   than the library's, of an earlier version, is served; another is LBK_INVALID.
 *
 * This file is generated from ffi/src: `LIMBECK_UPDATE=1 cargo test -p limbeck-ffi --test header`. */

#ifndef LIMBECK_H
#define LIMBECK_H

#include <stddef.h>
#include <stdint.h>

/* What marks the functions of the library: define LBK_STATIC where it is linked statically. */
#if defined(_WIN32) && !defined(LBK_STATIC)
#define LBK_API __declspec(dllimport)
#elif defined(__GNUC__)
#define LBK_API __attribute__((visibility("default")))
#else
#define LBK_API
#endif

/**
 * The version of this header: major times 65536 plus minor. A library runs what was built against
 * the header of its own major version and a minor version that is not above its own.
 */
#define LBK_ABI_VERSION 1

/**
 * Bytes or a text that the caller owns. Any number of threads may read one at once.
 */
typedef struct lbk_bytes lbk_bytes;

/**
 * The cancel flag and the budget of a session, an encoder or a forward: all that another thread or a
 * signal handler may touch while a call runs. Handles are counted: each is freed by itself, all of
 * one session share its flag and budget, and they may outlive it. Every function takes it as
 * `const`, any number of threads may use one at once, and nothing waits.
 */
typedef struct lbk_control lbk_control;

/**
 * Turns token ids that arrive one by one into text. One call at a time may use it.
 */
typedef struct lbk_detokenizer lbk_detokenizer;

/**
 * Makes samples of noise. One `lbk_diffuser_run` at a time, from any thread, `LBK_BUSY` otherwise; its control
 * and its status may be asked for meanwhile.
 */
typedef struct lbk_diffuser lbk_diffuser;

/**
 * Turns texts into vectors. One call at a time may use it, from any thread: `LBK_BUSY` otherwise.
 */
typedef struct lbk_encoder lbk_encoder;

/**
 * Threads, kernels and options that models share. All functions take it as `const`: any number of
 * threads may use one at once.
 */
typedef struct lbk_engine lbk_engine;

/**
 * Why a call failed. The caller of the failed call owns it; it refers to nothing else, and any
 * thread may read or free it.
 */
typedef struct lbk_error lbk_error;

/**
 * Runs a plan of any task on named tensors, each call by itself. One call at a time may use it, from
 * any thread: `LBK_BUSY` otherwise.
 *
 * Text: `input_ids` `[tokens]` to `logits` `[tokens, vocab]`. Embedding: `input_ids` and, where some
 * are padding, `attention_mask`, both `[batch, tokens]`, to `last_hidden_state`
 * `[batch, tokens, hidden]` and `embedding` `[batch, embedding]`. Classification: `pixel_values`
 * `[batch, channels, height, width]` to `logits` `[batch, classes]`. Where the plan has sites,
 * `choices` `[sites, tokens of all rows]` is given too, and forces them where it is an input.
 */
typedef struct lbk_forward lbk_forward;

/**
 * A prompt and its continuations in progress. One call at a time may use it, together with its
 * session: `LBK_BUSY` otherwise. It may outlive the session, and then only be read.
 */
typedef struct lbk_generation lbk_generation;

/**
 * An opened plan, shared by what is opened from it. All functions take it as `const`: any number of
 * threads may use one at once.
 */
typedef struct lbk_model lbk_model;

/**
 * Sequences of tokens over one model, with their own memory and cache. One call at a time may use
 * it, from any thread: `LBK_BUSY` otherwise. Several sessions of a model work side by side.
 */
typedef struct lbk_session lbk_session;

/**
 * Tensors that the caller owns. Any number of threads may read them at once.
 */
typedef struct lbk_tensors lbk_tensors;

/**
 * Token ids that the caller owns. Any number of threads may read them at once.
 */
typedef struct lbk_tokens lbk_tokens;

/**
 * What calls spent: each call that is given it adds to it; steps of a session and generations also where
 * they fail, what their chunks took until then. One thread at a time
 * may use it, `LBK_BUSY` otherwise; it belongs to no session.
 */
typedef struct lbk_usage lbk_usage;

/**
 * What kind of thing went wrong; one of the `LBK_*` codes below. Codes keep their meaning in all
 * later versions, and new ones may come.
 */
typedef int32_t lbk_code;

/**
 * What computes; one of the `LBK_BACKEND_*` numbers.
 */
typedef int32_t lbk_backend;

/**
 * How much a message matters; one of the `LBK_LOG_*` numbers.
 */
typedef int32_t lbk_log_level;

/**
 * Hears messages of an engine, each a text in UTF-8 that ends in a 0 byte and lives until the
 * callback returns. The thread that makes the call which the message is about calls it, several
 * threads perhaps at once. It must not throw or jump out, and must not use the handle of the call
 * that is in progress.
 */
typedef void (*lbk_log_fn)(lbk_log_level level, const char *message, void *user_data);

/**
 * Ends what `user_data` stands for: called once, by the thread that gives up the last use of it.
 */
typedef void (*lbk_release_fn)(void *user_data);

/**
 * Options of an engine, from `lbk_engine_options_init`.
 */
typedef struct lbk_engine_options {
    /**
     * The size of this struct.
     */
    size_t struct_size;
    /**
     * Bytes that caches, buffers and scratch of all that is opened from the engine may take
     * together; 0 for no limit. Plans are not counted: their weights are used where they lie.
     */
    uint64_t memory_limit;
    /**
     * What computes.
     */
    lbk_backend backend;
    /**
     * Threads to compute with, the caller's included; 0 takes as many as the machine has cores.
     */
    uint32_t threads;
    /**
     * Hears messages; NULL for no one.
     */
    lbk_log_fn log;
    /**
     * Given to `log`.
     */
    void *log_user_data;
    /**
     * Called once with `log_user_data` when the engine and all that was opened from it are gone, or
     * when `lbk_engine_new` fails; NULL for nothing.
     */
    lbk_release_fn log_release;
    /**
     * The least important messages to hear; `LBK_LOG_INFO` by default.
     */
    lbk_log_level log_level;
    /**
     * 0.
     */
    int32_t reserved;
    /**
     * The path of ONNX Runtime's library, version 1.20 or later, for plans with ONNX segments, which a library
     * with the feature `ort` runs. NULL takes the one that `LIMBECK_ORT` in the environment names, or one
     * beside the program. It is loaded when such a plan is opened, once for the process.
     */
    const char *onnx_library;
    /**
     * Its execution providers in the order in which they are asked, by name and with commas between:
     * `coreml`, `qnn,xnnpack`. NULL for its kernels for CPUs alone.
     */
    const char *onnx_providers;
    /**
     * The path of a folder in which what a GPU's driver makes of shaders is kept, so that plans are ready sooner in
     * the next run; NULL keeps nothing. A file for each kind of GPU, which may be deleted at any time, and is made
     * anew where it is damaged. It must be the app's alone: drivers trust what they wrote.
     */
    const char *pipeline_cache;
} lbk_engine_options;

/**
 * What a student does; one of the `LBK_TASK_*` numbers.
 */
typedef int32_t lbk_task;

/**
 * What a plan holds in numbers.
 */
typedef struct lbk_model_info {
    /**
     * What the student does.
     */
    lbk_task task;
    /**
     * Whether there is a tokenizer: 1 or 0. It is not read before its first use.
     */
    int32_t has_tokenizer;
    /**
     * Positions that a sequence may have.
     */
    size_t context_length;
    /**
     * Size of the vocabulary.
     */
    size_t vocab_size;
    /**
     * Elements of an embedding; 0 where the student makes none.
     */
    size_t embedding_size;
    /**
     * Channels, height and width of an image; 0 where the student sees none.
     */
    size_t image[3];
    /**
     * Classes of a classifier.
     */
    size_t classes;
    /**
     * Places where compute can vary per token.
     */
    size_t sites;
    /**
     * Points of the calibrated table; 0 where nothing was measured.
     */
    size_t calibration_points;
    /**
     * Names the plan.
     */
    uint64_t hash;
    /**
     * Bytes of the plan.
     */
    uint64_t bytes;
} lbk_model_info;

/**
 * A text that a plan holds; one of the `LBK_TEXT_*` numbers.
 */
typedef int32_t lbk_model_text_kind;

/**
 * The kind of a site; one of the `LBK_SITE_*` numbers.
 */
typedef int32_t lbk_site_kind;

/**
 * A place where compute can vary per token.
 */
typedef struct lbk_site {
    /**
     * Its name, which ends in a 0 byte and lives as long as the model.
     */
    const char *name;
    /**
     * Its kind.
     */
    lbk_site_kind kind;
    /**
     * Its smallest choice.
     */
    int32_t first;
    /**
     * Its largest choice. Choices are ordered by cost.
     */
    int32_t last;
    /**
     * 0.
     */
    int32_t reserved;
    /**
     * What the price is multiplied by here.
     */
    double weight;
} lbk_site;

/**
 * What one price led to when the plan was calibrated.
 */
typedef struct lbk_calibration_point {
    /**
     * The price.
     */
    double price;
    /**
     * Multiply-adds spent over those of full compute.
     */
    double fraction;
    /**
     * The same over adaptive ops alone.
     */
    double site_fraction;
    /**
     * As `LBK_TEXT_QUALITY` says.
     */
    double quality;
    /**
     * Milliseconds per token on the machine that calibrated it; 0 where that is not known.
     */
    double ms_per_token;
} lbk_calibration_point;

/**
 * What a budget is counted in; one of the `LBK_BUDGET_*` numbers.
 */
typedef int32_t lbk_budget_kind;

/**
 * What compute is allowed, from `lbk_budget_init`.
 */
typedef struct lbk_budget {
    /**
     * The size of this struct.
     */
    size_t struct_size;
    /**
     * What the budget is counted in.
     */
    lbk_budget_kind kind;
    /**
     * 0.
     */
    int32_t reserved;
    /**
     * As `kind` says: a fraction, a price or seconds; of no meaning for `LBK_BUDGET_FULL`.
     */
    double value;
    /**
     * Never below this fraction of the full compute; 0 by default.
     */
    double floor;
    /**
     * Never above this fraction; 1 by default.
     */
    double ceiling;
} lbk_budget;

/**
 * Why a budget is not kept; one of the `LBK_UNMET_*` numbers.
 */
typedef int32_t lbk_unmet;

/**
 * What was spent in sum.
 */
typedef struct lbk_totals {
    /**
     * Tokens computed.
     */
    uint64_t tokens;
    /**
     * Multiply-adds spent.
     */
    uint64_t macs;
    /**
     * Multiply-adds with every site at its largest choice.
     */
    uint64_t full_macs;
    /**
     * Multiply-adds of the ops that follow a site's choices.
     */
    uint64_t site_macs;
    /**
     * The same with every site at its largest choice.
     */
    uint64_t site_full_macs;
    /**
     * Bytes of weights read.
     */
    uint64_t bytes;
    /**
     * `macs / full_macs`; 1 where nothing ran. The share of the steps where a sampler's student is a model whose
     * multiply-adds are not known.
     */
    double fraction;
    /**
     * `site_macs / site_full_macs`; 1 where nothing adaptive ran.
     */
    double site_fraction;
    /**
     * Wall time in milliseconds.
     */
    double ms;
    /**
     * Sites whose choices were counted.
     */
    size_t sites;
    /**
     * Why the budget was not kept, as it stood at the end; `LBK_UNMET_NOT` where it was.
     */
    lbk_unmet unmet;
    /**
     * 0.
     */
    int32_t reserved;
} lbk_totals;

/**
 * What a site chose.
 */
typedef struct lbk_site_usage {
    /**
     * Its name, which ends in a 0 byte.
     */
    const char *name;
    /**
     * `histogram[k]` tokens chose `k`.
     */
    const uint64_t *histogram;
    /**
     * Elements of `histogram`.
     */
    size_t choices;
} lbk_site_usage;

/**
 * How keys and values are kept; one of the `LBK_KV_*` numbers.
 */
typedef int32_t lbk_kv;

/**
 * Options of a session, from `lbk_session_options_init`.
 */
typedef struct lbk_session_options {
    /**
     * The size of this struct.
     */
    size_t struct_size;
    /**
     * Positions that a sequence may have; 0 takes the student's context length.
     */
    size_t context;
    /**
     * Positions that all sequences together may keep, shared ones counted once, in blocks of 32 of one
     * sequence; 0 takes 8 times the context. Memory is taken as it is used.
     */
    size_t cache_tokens;
    /**
     * Tokens that are computed at a time; longer calls are split, which changes no result. 256 by
     * default.
     */
    size_t chunk;
    /**
     * Bytes that cache, buffers and scratch may take; 0 for no limit but the engine's. Cache and
     * buffers are counted before they are taken, the kernels' scratch when a chunk has run and before
     * it commits: for the time of a chunk the limits may be exceeded by it.
     */
    uint64_t memory_limit;
    /**
     * How keys and values are kept.
     */
    lbk_kv kv;
    /**
     * 0.
     */
    int32_t reserved;
} lbk_session_options;

/**
 * How a budget fares.
 */
typedef struct lbk_status {
    /**
     * The fraction that is aimed at; under a price that which it is expected to lead to.
     */
    double target;
    /**
     * The price last given.
     */
    double price;
    /**
     * Why the budget is not kept; `LBK_UNMET_NOT` where it is.
     */
    lbk_unmet unmet;
    /**
     * 0.
     */
    int32_t reserved;
} lbk_status;

/**
 * Names a sequence of one session; never 0. A number that names none, such as that of a freed
 * sequence, is refused with `LBK_INVALID`.
 */
typedef uint64_t lbk_sequence;

/**
 * Which logits a step gives; one of the `LBK_WANTED_*` numbers.
 */
typedef int32_t lbk_wanted;

/**
 * Tokens to append to a sequence.
 */
typedef struct lbk_work {
    /**
     * The sequence; each may come once in a step.
     */
    lbk_sequence sequence;
    /**
     * At least one token id.
     */
    const uint32_t *tokens;
    /**
     * How many.
     */
    size_t token_count;
    /**
     * Which logits to give.
     */
    lbk_wanted wanted;
    /**
     * 0.
     */
    int32_t reserved;
} lbk_work;

/**
 * Hears logits `[vocab]` after token `token` of work `work`; they live until it returns. The thread
 * that called `lbk_session_step` calls it. It must not throw or jump out; what it calls of the same
 * session fails with `LBK_BUSY`.
 */
typedef void (*lbk_logits_fn)(size_t work,
                              size_t token,
                              const float *logits,
                              size_t vocab,
                              void *user_data);

/**
 * How a text is tokenised; one of the `LBK_TOKENISE_*` numbers.
 */
typedef int32_t lbk_tokenise_mode;

/**
 * A text that is borrowed: UTF-8, without a 0 byte at its end. It may be NULL where it is empty.
 */
typedef struct lbk_text {
    /**
     * Its bytes.
     */
    const char *data;
    /**
     * How many.
     */
    size_t length;
} lbk_text;

/**
 * One message of a chat.
 */
typedef struct lbk_message {
    /**
     * Who speaks: `system`, `user`, `assistant`.
     */
    struct lbk_text role;
    /**
     * What was said.
     */
    struct lbk_text content;
} lbk_message;

/**
 * How a prompt is continued, from `lbk_generate_options_init`, which chooses the likeliest tokens,
 * or `lbk_model_generate_options`, which chooses as the student's makers say.
 */
typedef struct lbk_generate_options {
    /**
     * The size of this struct.
     */
    size_t struct_size;
    /**
     * Most tokens of a continuation; 128 by default.
     */
    size_t max_tokens;
    /**
     * Continuations, which share the prompt and are computed as one batch; 1 by default.
     */
    size_t samples;
    /**
     * Seed of the draws; the same seed gives the same tokens on every platform.
     */
    uint64_t seed;
    /**
     * Keeps the k most likely tokens; 0 keeps all.
     */
    size_t top_k;
    /**
     * How many of the last tokens the penalties see; 0 for all.
     */
    size_t penalty_window;
    /**
     * Logits are divided by it; 0 takes the most likely token and ignores the filters.
     */
    float temperature;
    /**
     * Keeps the smallest set of most likely tokens that has this probability; 1 keeps all.
     */
    float top_p;
    /**
     * Keeps tokens at least this much as likely as the most likely one; 0 keeps all.
     */
    float min_p;
    /**
     * Positive logits of tokens seen are divided by it, the others multiplied; 1 is neutral.
     */
    float repetition_penalty;
    /**
     * Subtracted from the logits of tokens seen.
     */
    float presence_penalty;
    /**
     * Subtracted from a logit once for each time that its token was seen.
     */
    float frequency_penalty;
    /**
     * Texts that end a continuation; they are not part of it.
     */
    const struct lbk_text *stop;
    /**
     * How many.
     */
    size_t stop_count;
    /**
     * Token ids that end it beside the student's own.
     */
    const uint32_t *stop_tokens;
    /**
     * How many.
     */
    size_t stop_token_count;
    /**
     * Not 0: goes on over the student's end-of-text tokens.
     */
    int32_t ignore_eos;
    /**
     * 0.
     */
    int32_t reserved;
} lbk_generate_options;

/**
 * One step of the stream.
 */
typedef struct lbk_piece {
    /**
     * Which continuation.
     */
    size_t sample;
    /**
     * Text that became certain, in UTF-8: empty while a character is incomplete. It lives until the
     * callback returns.
     */
    struct lbk_text text;
    /**
     * The continuation's newest token, if `has_token`.
     */
    uint32_t token;
    /**
     * 1 for a token; 0 where text that was held back comes at the end.
     */
    int32_t has_token;
    /**
     * The token's log-probability by the student's logits.
     */
    float logprob;
    /**
     * 0.
     */
    int32_t reserved;
} lbk_piece;

/**
 * Hears each token: the token is committed when it returns. 0 goes on, anything else ends this
 * continuation. The thread that called `lbk_generation_run` calls it. It must not throw or jump out;
 * what it calls of the same session or generation fails with `LBK_BUSY`.
 */
typedef int32_t (*lbk_piece_fn)(const struct lbk_piece *piece, void *user_data);

/**
 * Why a continuation ended; one of the `LBK_FINISH_*` numbers.
 */
typedef int32_t lbk_finish;

/**
 * How far a continuation has come. Its parts live until the generation is run again or freed.
 */
typedef struct lbk_progress {
    /**
     * The sequence that holds the prompt and the tokens: all of them, or all but the last one, which is
     * fed back only when another is wanted. `lbk_session_position` tells; what it does not hold belongs
     * before the next prompt.
     */
    lbk_sequence sequence;
    /**
     * Tokens that are committed. A token that ends texts is not among them; that which completed a stop
     * string is, and that at which the callback ended the continuation.
     */
    const uint32_t *tokens;
    /**
     * The log-probability of each.
     */
    const float *logprobs;
    /**
     * How many.
     */
    size_t token_count;
    /**
     * The text that is certain; empty for a plan without a tokenizer.
     */
    struct lbk_text text;
    /**
     * Why it ended; `LBK_FINISH_NOT` while it goes on.
     */
    lbk_finish finish;
    /**
     * 0.
     */
    int32_t reserved;
} lbk_progress;

/**
 * Options of an encoder, from `lbk_encoder_options_init`.
 */
typedef struct lbk_encoder_options {
    /**
     * The size of this struct.
     */
    size_t struct_size;
    /**
     * As that of `lbk_session_options`.
     */
    uint64_t memory_limit;
} lbk_encoder_options;

/**
 * The type of a tensor's elements; one of the `LBK_DTYPE_*` numbers.
 */
typedef int32_t lbk_dtype;

/**
 * A tensor, row-major; all that it points to is borrowed.
 */
typedef struct lbk_tensor {
    /**
     * Its name, which ends in a 0 byte.
     */
    const char *name;
    /**
     * The type of its elements.
     */
    lbk_dtype dtype;
    /**
     * 0.
     */
    int32_t reserved;
    /**
     * Its sizes, the outermost first.
     */
    const size_t *shape;
    /**
     * How many sizes.
     */
    size_t rank;
    /**
     * Its elements, aligned as their type wants.
     */
    const void *data;
    /**
     * How many elements: the product of the sizes.
     */
    size_t count;
} lbk_tensor;

/**
 * Options of a diffuser, from `lbk_diffuser_options_init`.
 */
typedef struct lbk_diffuser_options {
    /**
     * The size of this struct.
     */
    size_t struct_size;
    /**
     * As that of `lbk_session_options`.
     */
    uint64_t memory_limit;
} lbk_diffuser_options;

/**
 * A condition that is one number for all samples.
 */
typedef struct lbk_condition {
    /**
     * Its name, which ends in a 0 byte.
     */
    const char *name;
    /**
     * Its value.
     */
    double value;
} lbk_condition;

/**
 * What is to be made, from `lbk_diffuse_options_init`.
 */
typedef struct lbk_diffuse_options {
    /**
     * The size of this struct.
     */
    size_t struct_size;
    /**
     * How many samples, made side by side; 1 by default.
     */
    size_t samples;
    /**
     * Seed of the first; each other has the next one's. A seed gives the same noise on every platform.
     */
    uint64_t seed;
    /**
     * Steps, of those that the plan has tables for; 0, the default, leaves them to the budget.
     */
    size_t steps;
    /**
     * Conditions that are numbers; those that are not given have the plan's defaults.
     */
    const struct lbk_condition *numbers;
    /**
     * How many.
     */
    size_t number_count;
    /**
     * Conditions that are tensors.
     */
    const struct lbk_tensor *tensors;
    /**
     * How many.
     */
    size_t tensor_count;
} lbk_diffuse_options;

/**
 * A call after one of its steps.
 */
typedef struct lbk_diffuse_progress {
    /**
     * Steps done.
     */
    size_t done;
    /**
     * Steps of the call.
     */
    size_t steps;
    /**
     * The samples as they are now, noise included; they live until the callback returns.
     */
    const float *values;
    /**
     * How many floats.
     */
    size_t count;
} lbk_diffuse_progress;

/**
 * Hears of each step. 0 goes on, anything else ends the call, which fails with `LBK_CANCELLED`. The thread
 * that called `lbk_diffuser_run` calls it. It must not throw or jump out; another
 * `lbk_diffuser_run` of the same diffuser fails with `LBK_BUSY` in it.
 */
typedef int32_t (*lbk_diffuse_fn)(const struct lbk_diffuse_progress *progress, void *user_data);

/**
 * Nothing went wrong.
 */
#define LBK_OK 0

/**
 * The plan file is damaged, hostile, or made for another version.
 */
#define LBK_PLAN 1

/**
 * A file could not be read or written.
 */
#define LBK_IO 2

/**
 * The plan or this build cannot do what was asked of it.
 */
#define LBK_UNSUPPORTED 3

/**
 * An argument is NULL, out of range, of the wrong size or shape.
 */
#define LBK_INVALID 4

/**
 * More tokens than the context or the cache may hold.
 */
#define LBK_CAPACITY 5

/**
 * More memory than a limit allows, or than the system has for caches, buffers and snapshots. Where it has
 * none left for smaller things (scratch of kernels, a tokenizer's tables) the process is ended: a limit
 * makes an error come before that.
 */
#define LBK_MEMORY 6

/**
 * The call was cancelled.
 */
#define LBK_CANCELLED 7

/**
 * The backend failed.
 */
#define LBK_BACKEND 8

/**
 * A fault of the library's own. The process and all handles live on.
 */
#define LBK_INTERNAL 9

/**
 * The handle is in use: by another thread, or by the call whose callback made this call.
 */
#define LBK_BUSY 10

/**
 * The header is of another version than the library.
 */
#define LBK_VERSION 11

/**
 * No message.
 */
#define LBK_LOG_NONE 0

/**
 * Something is not as it was asked for: a budget that is not kept.
 */
#define LBK_LOG_WARN 1

/**
 * What was chosen and opened.
 */
#define LBK_LOG_INFO 2

/**
 * What helps to find a fault.
 */
#define LBK_LOG_DEBUG 3

/**
 * The kernels of this CPU.
 */
#define LBK_BACKEND_CPU 0

/**
 * Slow reference kernels, for tests; the installed library is built without them, and an engine of them is
 * `LBK_UNSUPPORTED` there.
 */
#define LBK_BACKEND_FAKE 1

/**
 * A GPU, through Vulkan, Metal or Direct3D 12; `LBK_UNSUPPORTED` in a library that was built without the
 * feature `wgpu`, as the installed one is.
 */
#define LBK_BACKEND_WGPU 2

/**
 * `LBK_BACKEND_WGPU` where the library has it and there is a GPU that is not software and opens, or
 * `LIMBECK_ADAPTER` in the environment names one, which must then be there and open; else `LBK_BACKEND_CPU`.
 * `lbk_engine_backend` says which. No plan is known then: one that the GPU cannot run is refused when it is opened.
 */
#define LBK_BACKEND_AUTO 3

/**
 * It continues text: `lbk_session_new`, `lbk_forward_new`.
 */
#define LBK_TASK_TEXT 0

/**
 * It makes embeddings: `lbk_encoder_new`, `lbk_forward_new`.
 */
#define LBK_TASK_EMBED 1

/**
 * It classifies images: `lbk_forward_new`.
 */
#define LBK_TASK_CLASSIFY 2

/**
 * It makes tensors of tensors, with names of its own: `lbk_forward_new`.
 */
#define LBK_TASK_TENSORS 3

/**
 * It makes samples of noise: `lbk_diffuser_new`; `lbk_forward_new` runs one call of the student.
 */
#define LBK_TASK_DIFFUSE 4

/**
 * The student's name.
 */
#define LBK_TEXT_STUDENT 0

/**
 * Its architecture.
 */
#define LBK_TEXT_ARCHITECTURE 1

/**
 * Its licence, as its checkpoint states it.
 */
#define LBK_TEXT_LICENCE 2

/**
 * The checkpoint that it was compiled from.
 */
#define LBK_TEXT_SOURCE 3

/**
 * Its chat template, in Jinja.
 */
#define LBK_TEXT_CHAT_TEMPLATE 4

/**
 * What the qualities of the calibrated table are: `perplexity`, `cosine`, `agreement`, `accuracy`.
 */
#define LBK_TEXT_QUALITY 5

/**
 * How many learners of an adaptive module.
 */
#define LBK_SITE_ACM 0

/**
 * How many experts.
 */
#define LBK_SITE_EXPERTS 1

/**
 * How small an input channel is left out.
 */
#define LBK_SITE_SPARSITY 2

/**
 * How wide a nested MLP is.
 */
#define LBK_SITE_WIDTH 3

/**
 * Another kind, of a later version.
 */
#define LBK_SITE_OTHER 4

/**
 * How many steps a sampler takes.
 */
#define LBK_SITE_STEPS 5

/**
 * Everything that the student was trained with.
 */
#define LBK_BUDGET_FULL 0

/**
 * A share of the full compute, above 0 and up to 1, as a running mean since it was set.
 */
#define LBK_BUDGET_FRACTION 1

/**
 * The raw price of compute, at least 0.
 */
#define LBK_BUDGET_PRICE 2

/**
 * Seconds per token of a sequence.
 */
#define LBK_BUDGET_LATENCY 3

/**
 * Seconds for the call in progress, from its start or from when the budget was set in its midst.
 */
#define LBK_BUDGET_DEADLINE 4

/**
 * It is kept.
 */
#define LBK_UNMET_NOT 0

/**
 * The plan has no place where compute can vary.
 */
#define LBK_UNMET_DENSE 1

/**
 * The floor is above the target.
 */
#define LBK_UNMET_FLOOR 2

/**
 * The student spends less than the floor even at full compute.
 */
#define LBK_UNMET_BELOW_FLOOR 3

/**
 * The target is below the lowest fraction that the plan can reach.
 */
#define LBK_UNMET_REACH 4

/**
 * Even the cheapest tokens take longer.
 */
#define LBK_UNMET_TIME 5

/**
 * What was spent of late is off the target.
 */
#define LBK_UNMET_OFF_TARGET 6

/**
 * Another reason, of a later version.
 */
#define LBK_UNMET_OTHER 7

/**
 * 16-bit floats.
 */
#define LBK_KV_F16 0

/**
 * 32-bit floats.
 */
#define LBK_KV_F32 1

/**
 * 8-bit integers with a scale per position and head.
 */
#define LBK_KV_Q8 2

/**
 * Those after the last token.
 */
#define LBK_WANTED_LAST 0

/**
 * Those after each token.
 */
#define LBK_WANTED_ALL 1

/**
 * None.
 */
#define LBK_WANTED_NONE 2

/**
 * A prompt: with the special tokens that the student wants at its beginning.
 */
#define LBK_TOKENISE_PROMPT 0

/**
 * No token is added; special tokens that are spelt out in the text count, as in that of
 * `lbk_model_render_chat`.
 */
#define LBK_TOKENISE_RENDERED 1

/**
 * No token is added, and special tokens that are spelt out are plain text: for what people write.
 */
#define LBK_TOKENISE_PLAIN 2

/**
 * It goes on.
 */
#define LBK_FINISH_NOT 0

/**
 * The student ended it, or a stop token did.
 */
#define LBK_FINISH_END_OF_TEXT 1

/**
 * A stop string.
 */
#define LBK_FINISH_STOP_STRING 2

/**
 * `max_tokens`.
 */
#define LBK_FINISH_MAX_TOKENS 3

/**
 * The session's context is full.
 */
#define LBK_FINISH_CONTEXT 4

/**
 * The callback asked for it.
 */
#define LBK_FINISH_CALLBACK 5

/**
 * 32-bit floats.
 */
#define LBK_DTYPE_F32 0

/**
 * 32-bit integers.
 */
#define LBK_DTYPE_I32 1

/**
 * 64-bit integers; taken, never given.
 */
#define LBK_DTYPE_I64 2

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The code of an error; `LBK_OK` for NULL. Any thread.
 */
LBK_API lbk_code lbk_error_code(const struct lbk_error *error);

/**
 * What went wrong and where, as a sentence in UTF-8 that ends in a 0 byte; empty for NULL. It lives
 * as long as the error. Any thread.
 */
LBK_API const char *lbk_error_message(const struct lbk_error *error);

/**
 * Where it went wrong: an argument's name, a file, a step, a tensor; NULL where that is not known,
 * and for NULL. It lives as long as the error. Any thread.
 */
LBK_API const char *lbk_error_place(const struct lbk_error *error);

/**
 * Frees an error; NULL is fine. Any thread.
 */
LBK_API void lbk_error_free(struct lbk_error *error);

/**
 * The name of a code, such as "invalid"; "unknown" for a number that is none. It lives for ever.
 * Any thread.
 */
LBK_API const char *lbk_code_name(lbk_code code);

/**
 * The bytes, followed by a 0 byte that `lbk_bytes_size` does not count; NULL for NULL. They live as
 * long as `bytes`.
 */
LBK_API const char *lbk_bytes_data(const struct lbk_bytes *bytes);

/**
 * How many there are; 0 for NULL.
 */
LBK_API size_t lbk_bytes_size(const struct lbk_bytes *bytes);

/**
 * Frees bytes; NULL is fine.
 */
LBK_API void lbk_bytes_free(struct lbk_bytes *bytes);

/**
 * The version of the library, as `LBK_ABI_VERSION` has it. Any thread.
 */
LBK_API uint32_t lbk_version(void);

/**
 * Fills options with the defaults. `struct_size` is `sizeof *options`.
 */
LBK_API void lbk_engine_options_init(struct lbk_engine_options *options, size_t struct_size);

/**
 * Starts an engine and its threads. `abi_version` is `LBK_ABI_VERSION`; `options` may be NULL for
 * the defaults. The caller owns `*engine`, which is written on success alone.
 *
 * Fails with `LBK_VERSION` where header and library do not fit each other, with `LBK_INVALID` for
 * options out of range, and with `LBK_UNSUPPORTED` for a backend that the library was built without.
 * `log_release` is called on failure too, once the options could be read.
 */
LBK_API
struct lbk_error *lbk_engine_new(uint32_t abi_version,
                                 const struct lbk_engine_options *options,
                                 struct lbk_engine **engine);

/**
 * What computes, for people: `cpu (avx2, 2 threads)`; empty for NULL. It lives as long as the
 * engine.
 */
LBK_API const char *lbk_engine_backend(const struct lbk_engine *engine);

/**
 * Bytes that caches, buffers and scratch of all that was opened from the engine take now; 0 for
 * NULL.
 */
LBK_API uint64_t lbk_engine_memory(const struct lbk_engine *engine);

/**
 * Gives up an engine; NULL is fine. What was opened from it lives on, and keeps its threads.
 */
LBK_API void lbk_engine_free(struct lbk_engine *engine);

/**
 * Opens the plan file at `path`, a text in UTF-8 that ends in a 0 byte. The caller owns `*model`,
 * which is written on success alone; the model keeps the engine.
 *
 * The file is mapped: while anything opened from it lives, it must be neither written to nor made
 * shorter. Reading what it no longer has ends the process (`SIGBUS`). Replace a plan by a file that is
 * written beside it and renamed over it: what is open keeps the old one.
 *
 * Fails with `LBK_IO` for a file that cannot be read and with `LBK_PLAN` for one that is damaged,
 * hostile, or of another version.
 */
LBK_API
struct lbk_error *lbk_model_open(const struct lbk_engine *engine,
                                 const char *path,
                                 struct lbk_model **model);

/**
 * Opens a plan that is `length` bytes of an open file from `offset` on, a multiple of 64, as an
 * asset in an Android package is. The bytes are mapped, as by `lbk_model_open`; `fd` stays the
 * caller's and may be closed when the call returns. `LBK_UNSUPPORTED` where the system has no file
 * descriptors.
 */
LBK_API
struct lbk_error *lbk_model_open_fd(const struct lbk_engine *engine,
                                    int32_t fd,
                                    uint64_t offset,
                                    uint64_t length,
                                    struct lbk_model **model);

/**
 * Opens a plan from bytes that the app owns, without a copy. They must not change until `release` is
 * called with `user_data`: once, when the model and all that was opened from it are gone, or before
 * a failing call returns. `release` may be NULL for bytes that live for ever. Weights are read
 * fastest where `data` is a multiple of 64.
 */
LBK_API
struct lbk_error *lbk_model_open_bytes(const struct lbk_engine *engine,
                                       const void *data,
                                       size_t length,
                                       lbk_release_fn release,
                                       void *user_data,
                                       struct lbk_model **model);

/**
 * What the plan holds in numbers. `size` is `sizeof *info`.
 */
LBK_API
struct lbk_error *lbk_model_get_info(const struct lbk_model *model,
                                     struct lbk_model_info *info,
                                     size_t size);

/**
 * A text that the plan holds, which ends in a 0 byte and lives as long as the model. NULL where it
 * has none of this kind, and for NULL.
 */
LBK_API const char *lbk_model_text(const struct lbk_model *model, lbk_model_text_kind kind);

/**
 * A site of the plan, by its index. `size` is `sizeof *site`. `LBK_INVALID` for an index that is not
 * below the number of sites.
 */
LBK_API
struct lbk_error *lbk_model_get_site(const struct lbk_model *model,
                                     size_t index,
                                     struct lbk_site *site,
                                     size_t size);

/**
 * A point of the calibrated table, by its index; points are ordered by price. `size` is
 * `sizeof *point`. `LBK_INVALID` for an index that is not below the number of points.
 */
LBK_API
struct lbk_error *lbk_model_get_calibration(const struct lbk_model *model,
                                            size_t index,
                                            struct lbk_calibration_point *point,
                                            size_t size);

/**
 * Compares every byte of the plan with its checksums. It reads the whole plan, which opening does
 * not. `LBK_PLAN` where they differ.
 */
LBK_API struct lbk_error *lbk_model_verify(const struct lbk_model *model);

/**
 * Gives up a model; NULL is fine. What was opened from it lives on.
 */
LBK_API void lbk_model_free(struct lbk_model *model);

/**
 * Fills a budget with `LBK_BUDGET_FULL`. `struct_size` is `sizeof *budget`.
 */
LBK_API void lbk_budget_init(struct lbk_budget *budget, size_t struct_size);

/**
 * Another handle on the same flag and budget, which the caller owns.
 */
LBK_API
struct lbk_error *lbk_control_clone(const struct lbk_control *control,
                                    struct lbk_control **clone);

/**
 * Asks running calls to stop: at the next token, or at the next chunk of a prompt. They fail with
 * `LBK_CANCELLED`, as do calls that begin later, until `lbk_control_reset`. Safe in a signal
 * handler. `LBK_INVALID` for NULL.
 */
LBK_API lbk_code lbk_control_cancel(const struct lbk_control *control);

/**
 * Lets calls run again after `lbk_control_cancel`. Safe in a signal handler. `LBK_INVALID` for NULL.
 */
LBK_API
lbk_code lbk_control_reset(const struct lbk_control *control);

/**
 * 1 where calls are to stop, otherwise 0, also for NULL. Safe in a signal handler.
 */
LBK_API int32_t lbk_control_is_cancelled(const struct lbk_control *control);

/**
 * Sets the budget and its limits together, from the next token on. Running means begin anew. A
 * budget that cannot be kept is accepted, and reported as unmet. Safe in a signal handler, also in
 * one that interrupts this function.
 *
 * `LBK_INVALID` for NULL, a wrong `struct_size` or values out of range; the budget stays as it was
 * then. It is a code and no error, since making an error takes memory.
 */
LBK_API
lbk_code lbk_control_set_budget(const struct lbk_control *control,
                                const struct lbk_budget *budget);

/**
 * The budget and its limits as last set. `struct_size` is `sizeof *budget`. Not for signal handlers:
 * it waits while another thread is in the midst of setting one.
 */
LBK_API
struct lbk_error *lbk_control_get_budget(const struct lbk_control *control,
                                         struct lbk_budget *budget,
                                         size_t struct_size);

/**
 * Frees a handle; NULL is fine. Not for signal handlers.
 */
LBK_API void lbk_control_free(struct lbk_control *control);

/**
 * An empty usage, which the caller owns.
 */
LBK_API struct lbk_error *lbk_usage_new(struct lbk_usage **usage);

/**
 * Empties it.
 */
LBK_API struct lbk_error *lbk_usage_reset(struct lbk_usage *usage);

/**
 * What was spent in sum. `size` is `sizeof *totals`.
 */
LBK_API
struct lbk_error *lbk_usage_get_totals(struct lbk_usage *usage,
                                       struct lbk_totals *totals,
                                       size_t size);

/**
 * What a site chose, by its index. `size` is `sizeof *site`. Name and histogram live until the usage
 * is used again.
 */
LBK_API
struct lbk_error *lbk_usage_get_site(struct lbk_usage *usage,
                                     size_t index,
                                     struct lbk_site_usage *site,
                                     size_t size);

/**
 * Frees it; NULL is fine.
 */
LBK_API void lbk_usage_free(struct lbk_usage *usage);

/**
 * Fills options with the defaults. `struct_size` is `sizeof *options`.
 */
LBK_API void lbk_session_options_init(struct lbk_session_options *options, size_t struct_size);

/**
 * Opens a session over a model that continues text. `options` may be NULL for the defaults. The
 * caller owns `*session`, which is written on success alone; the session keeps the model.
 */
LBK_API
struct lbk_error *lbk_session_new(const struct lbk_model *model,
                                  const struct lbk_session_options *options,
                                  struct lbk_session **session);

/**
 * The handle that cancels the session's calls and sets its budget. The caller owns `*control`, which
 * may outlive the session. Also while a call runs, from any thread.
 */
LBK_API
struct lbk_error *lbk_session_control(const struct lbk_session *session,
                                      struct lbk_control **control);

/**
 * How the budget fares: as it stood before the chunk in progress, or after the last one. `size` is
 * `sizeof *status`. Also while a call runs, from any thread; not for signal handlers.
 */
LBK_API
struct lbk_error *lbk_session_get_status(struct lbk_session *session,
                                         struct lbk_status *status,
                                         size_t size);

/**
 * Bytes that cache, buffers and scratch take now.
 */
LBK_API struct lbk_error *lbk_session_memory(struct lbk_session *session, uint64_t *bytes);

/**
 * A new, empty sequence.
 */
LBK_API
struct lbk_error *lbk_session_add_sequence(struct lbk_session *session,
                                           lbk_sequence *sequence);

/**
 * A sequence with the same tokens; what is cached is shared until one of the two writes.
 */
LBK_API
struct lbk_error *lbk_session_fork(struct lbk_session *session,
                                   lbk_sequence sequence,
                                   lbk_sequence *fork);

/**
 * Ends a sequence and frees what only it used.
 */
LBK_API
struct lbk_error *lbk_session_end_sequence(struct lbk_session *session,
                                           lbk_sequence sequence);

/**
 * Tokens that a sequence has: those that were committed, also by a call that failed later.
 */
LBK_API
struct lbk_error *lbk_session_position(struct lbk_session *session,
                                       lbk_sequence sequence,
                                       size_t *position);

/**
 * Forgets all tokens of a sequence from `position` on.
 */
LBK_API
struct lbk_error *lbk_session_rewind(struct lbk_session *session,
                                     lbk_sequence sequence,
                                     size_t position);

/**
 * A sequence as bytes, for `lbk_session_restore` in any session over the same plan. The caller owns
 * `*snapshot`. `LBK_MEMORY` where there is none for it.
 */
LBK_API
struct lbk_error *lbk_session_snapshot(struct lbk_session *session,
                                       lbk_sequence sequence,
                                       struct lbk_bytes **snapshot);

/**
 * A new sequence from a snapshot, whose bytes need not be trusted: a checksum finds damage, and bytes that
 * somebody made up may hold any keys and values, and do no other harm. `LBK_INVALID` for bytes that are
 * none or damaged, or of another plan, format of keys and values, or longer than the context;
 * `LBK_CAPACITY` where the cache has no room for it, `LBK_MEMORY`.
 */
LBK_API
struct lbk_error *lbk_session_restore(struct lbk_session *session,
                                      const void *data,
                                      size_t size,
                                      lbk_sequence *sequence);

/**
 * Appends tokens to sequences, all in one batch, and gives the logits that were asked for to
 * `on_logits`, in the order of the work; it may be NULL.
 *
 * Work beyond the session's chunk is split. The tokens of a chunk commit together, before their
 * logits are given. `*committed` (NULL if it is not wanted) is how many tokens did, also where the
 * call fails: those before them stand, none after them left a trace, and `lbk_session_position`
 * tells how far each sequence came. What was spent is added to `usage` (NULL if it is not wanted).
 *
 * Fails with `LBK_INVALID` for no work, a token outside the vocabulary, a sequence that comes twice;
 * with `LBK_CAPACITY` for a sequence beyond the context or the cache; with `LBK_MEMORY` and
 * `LBK_CANCELLED`.
 */
LBK_API
struct lbk_error *lbk_session_step(struct lbk_session *session,
                                   const struct lbk_work *work,
                                   size_t work_count,
                                   lbk_logits_fn on_logits,
                                   void *user_data,
                                   struct lbk_usage *usage,
                                   size_t *committed);

/**
 * Forces choices on the next step: `[sites, tokens]`, the tokens of all its work in turn; -1 leaves
 * a choice to the student. The step refuses choices of the wrong number, or that a site has not.
 */
LBK_API
struct lbk_error *lbk_session_force_route(struct lbk_session *session,
                                          const int32_t *choices,
                                          size_t count);

/**
 * The choices of the last step, `[sites, tokens]`, -1 where it did not come to one. They live until
 * the session is used again.
 */
LBK_API
struct lbk_error *lbk_session_route(struct lbk_session *session,
                                    const int32_t **choices,
                                    size_t *count);

/**
 * Frees a session and its sequences; NULL is fine. No call of it may be in progress: cancel it and
 * wait for it first.
 */
LBK_API void lbk_session_free(struct lbk_session *session);

/**
 * The tokens of a text of `length` bytes. The caller owns `*tokens`. The first use of a model's
 * tokenizer loads it. `LBK_UNSUPPORTED` where the plan has none.
 */
LBK_API
struct lbk_error *lbk_model_tokenise(const struct lbk_model *model,
                                     const char *text,
                                     size_t length,
                                     lbk_tokenise_mode mode,
                                     struct lbk_tokens **tokens);

/**
 * The ids; they live as long as `tokens`. NULL for NULL.
 */
LBK_API const uint32_t *lbk_tokens_data(const struct lbk_tokens *tokens);

/**
 * How many there are; 0 for NULL.
 */
LBK_API size_t lbk_tokens_count(const struct lbk_tokens *tokens);

/**
 * Frees token ids; NULL is fine.
 */
LBK_API void lbk_tokens_free(struct lbk_tokens *tokens);

/**
 * The text of token ids, in UTF-8; ids that are none have no text. With `skip_special` not 0 special
 * tokens are left out. The caller owns `*text`.
 */
LBK_API
struct lbk_error *lbk_model_detokenise(const struct lbk_model *model,
                                       const uint32_t *tokens,
                                       size_t count,
                                       int32_t skip_special,
                                       struct lbk_bytes **text);

/**
 * Messages through the student's chat template; with `answer` not 0 up to the student's turn. A
 * conversation is rendered as a whole each time: rewind the sequence to the tokens that it has in common
 * with the last time, and continue with the rest (`examples/chat.cpp`). The caller owns `*text`: tokenise it by `LBK_TOKENISE_RENDERED`. `LBK_UNSUPPORTED` where the plan has
 * no template, `LBK_INVALID` for messages that the template refuses.
 */
LBK_API
struct lbk_error *lbk_model_render_chat(const struct lbk_model *model,
                                        const struct lbk_message *messages,
                                        size_t count,
                                        int32_t answer,
                                        struct lbk_bytes **text);

/**
 * A stream that begins a text. The caller owns `*detokenizer`, which keeps what it needs of the
 * model.
 */
LBK_API
struct lbk_error *lbk_detokenizer_new(const struct lbk_model *model,
                                      int32_t skip_special,
                                      struct lbk_detokenizer **detokenizer);

/**
 * Takes the next id and gives the text that it made certain, in UTF-8: empty while a character is
 * incomplete. The text lives until the stream is used again.
 */
LBK_API
struct lbk_error *lbk_detokenizer_push(struct lbk_detokenizer *detokenizer,
                                       uint32_t token,
                                       struct lbk_text *text);

/**
 * Ends the text: gives what was held back. The stream can then take another text.
 */
LBK_API
struct lbk_error *lbk_detokenizer_finish(struct lbk_detokenizer *detokenizer,
                                         struct lbk_text *text);

/**
 * Frees a stream; NULL is fine.
 */
LBK_API void lbk_detokenizer_free(struct lbk_detokenizer *detokenizer);

/**
 * Fills options with the defaults. `struct_size` is `sizeof *options`.
 */
LBK_API void lbk_generate_options_init(struct lbk_generate_options *options, size_t struct_size);

/**
 * Fills options with the defaults, tokens being chosen as the student's checkpoint says.
 * `struct_size` is `sizeof *options`.
 */
LBK_API
struct lbk_error *lbk_model_generate_options(const struct lbk_model *model,
                                             struct lbk_generate_options *options,
                                             size_t struct_size);

/**
 * Prepares to continue a sequence by a prompt and by what the student says to it; nothing is
 * computed yet. The first continuation goes on in `sequence` itself, the others in forks. `options`
 * may be NULL for the defaults. The caller owns `*generation`.
 *
 * `LBK_INVALID` for an empty prompt, options out of range or a sequence that has ended.
 */
LBK_API
struct lbk_error *lbk_generation_new(struct lbk_session *session,
                                     lbk_sequence sequence,
                                     const uint32_t *prompt,
                                     size_t prompt_count,
                                     const struct lbk_generate_options *options,
                                     struct lbk_generation **generation);

/**
 * Computes until every continuation has ended, and gives each token to `on_piece`, which may be
 * NULL. Where it fails or is cancelled, the tokens that are committed stay so, and another call goes
 * on after them as if nothing had happened: `lbk_generation_committed` and
 * `lbk_generation_get_progress` tell where it stands. `session` is the one that it was made with.
 *
 * Fails as `lbk_session_step`, and with `LBK_INVALID` for another session or for sequences that have
 * another length than it left them with. One whose tokens were replaced by as many others is continued as
 * it is then: leave a generation's sequences alone until it has ended. After `LBK_INTERNAL` the session goes on, and the generation cannot.
 */
LBK_API
struct lbk_error *lbk_generation_run(struct lbk_generation *generation,
                                     struct lbk_session *session,
                                     lbk_piece_fn on_piece,
                                     void *user_data);

/**
 * Tokens of all continuations that are committed.
 */
LBK_API
struct lbk_error *lbk_generation_committed(struct lbk_generation *generation,
                                           size_t *tokens);

/**
 * How far a continuation has come. `size` is `sizeof *progress`. `LBK_INVALID` for a sample that is
 * none, and until the prompt is computed.
 */
LBK_API
struct lbk_error *lbk_generation_get_progress(struct lbk_generation *generation,
                                              size_t sample,
                                              struct lbk_progress *progress,
                                              size_t size);

/**
 * Adds what the prompt took to `prefill`, and what the continuations took to `decode`; either may be
 * NULL.
 */
LBK_API
struct lbk_error *lbk_generation_add_usage(struct lbk_generation *generation,
                                           struct lbk_usage *prefill,
                                           struct lbk_usage *decode);

/**
 * Frees a generation; NULL is fine. Its sequences stay.
 */
LBK_API void lbk_generation_free(struct lbk_generation *generation);

/**
 * Fills options with the defaults. `struct_size` is `sizeof *options`.
 */
LBK_API void lbk_encoder_options_init(struct lbk_encoder_options *options, size_t struct_size);

/**
 * An encoder over a model that makes embeddings. `options` may be NULL for the defaults. The caller
 * owns `*encoder`, which keeps the model. `LBK_UNSUPPORTED` for a model of another task.
 */
LBK_API
struct lbk_error *lbk_encoder_new(const struct lbk_model *model,
                                  const struct lbk_encoder_options *options,
                                  struct lbk_encoder **encoder);

/**
 * The handle that cancels the encoder's calls and sets its budget, as `lbk_session_control`.
 */
LBK_API
struct lbk_error *lbk_encoder_control(const struct lbk_encoder *encoder,
                                      struct lbk_control **control);

/**
 * How the budget fares, as `lbk_session_get_status`.
 */
LBK_API
struct lbk_error *lbk_encoder_get_status(struct lbk_encoder *encoder,
                                         struct lbk_status *status,
                                         size_t size);

/**
 * Embeds texts: fills `embeddings` `[count, embedding]`, `capacity` floats being there. Texts are cut
 * at the context length; `*cut` (NULL if it is not wanted) is how many were. What was spent is added
 * to `usage` (NULL if it is not wanted). On failure `embeddings` is as it was.
 *
 * `LBK_INVALID` where `capacity` is less than `count` times the model's `embedding_size`, or for a
 * text that gives no token; `LBK_MEMORY`, `LBK_CANCELLED`.
 */
LBK_API
struct lbk_error *lbk_encoder_embed(struct lbk_encoder *encoder,
                                    const struct lbk_text *texts,
                                    size_t count,
                                    float *embeddings,
                                    size_t capacity,
                                    struct lbk_usage *usage,
                                    size_t *cut);

/**
 * Frees an encoder; NULL is fine. No call of it may be in progress.
 */
LBK_API void lbk_encoder_free(struct lbk_encoder *encoder);

/**
 * For a model of any task. Of the options (NULL for the defaults) all but the memory limit matter to
 * text students alone. The caller owns `*forward`, which keeps the model.
 */
LBK_API
struct lbk_error *lbk_forward_new(const struct lbk_model *model,
                                  const struct lbk_session_options *options,
                                  struct lbk_forward **forward);

/**
 * What it takes, for people: `input_ids [tokens]`; empty for NULL. It lives as long as `forward`.
 */
LBK_API const char *lbk_forward_inputs(const struct lbk_forward *forward);

/**
 * What it gives, as `lbk_forward_inputs`.
 */
LBK_API const char *lbk_forward_outputs(const struct lbk_forward *forward);

/**
 * The handle that cancels calls and sets their budget, as `lbk_session_control`.
 */
LBK_API
struct lbk_error *lbk_forward_control(const struct lbk_forward *forward,
                                      struct lbk_control **control);

/**
 * How the budget fares, as `lbk_session_get_status`.
 */
LBK_API
struct lbk_error *lbk_forward_get_status(struct lbk_forward *forward,
                                         struct lbk_status *status,
                                         size_t size);

/**
 * Runs the plan once. The caller owns `*outputs`. What was spent is added to `usage` (NULL if it is
 * not wanted).
 *
 * `LBK_INVALID` for a tensor that is missing, unknown, given twice, or not of its shape, type or
 * range; `LBK_CAPACITY`, `LBK_MEMORY`, `LBK_CANCELLED`.
 */
LBK_API
struct lbk_error *lbk_forward_run(struct lbk_forward *forward,
                                  const struct lbk_tensor *inputs,
                                  size_t input_count,
                                  struct lbk_usage *usage,
                                  struct lbk_tensors **outputs);

/**
 * Frees it; NULL is fine. No call of it may be in progress.
 */
LBK_API void lbk_forward_free(struct lbk_forward *forward);

/**
 * How many tensors there are; 0 for NULL.
 */
LBK_API size_t lbk_tensors_count(const struct lbk_tensors *tensors);

/**
 * A tensor, by its index; what it points to lives as long as `tensors`. `LBK_INVALID` for an index
 * that is not below their number.
 */
LBK_API
struct lbk_error *lbk_tensors_get(const struct lbk_tensors *tensors,
                                  size_t index,
                                  struct lbk_tensor *tensor);

/**
 * A tensor, by its name, a text that ends in a 0 byte. `LBK_INVALID` where there is none.
 */
LBK_API
struct lbk_error *lbk_tensors_find(const struct lbk_tensors *tensors,
                                   const char *name,
                                   struct lbk_tensor *tensor);

/**
 * Frees tensors; NULL is fine.
 */
LBK_API void lbk_tensors_free(struct lbk_tensors *tensors);

/**
 * Fills options with the defaults. `struct_size` is `sizeof *options`.
 */
LBK_API void lbk_diffuser_options_init(struct lbk_diffuser_options *options, size_t struct_size);

/**
 * Fills options with the defaults. `struct_size` is `sizeof *options`.
 */
LBK_API void lbk_diffuse_options_init(struct lbk_diffuse_options *options, size_t struct_size);

/**
 * A diffuser over a model that makes samples of noise. `options` may be NULL for the defaults. The caller
 * owns `*diffuser`, which keeps the model. `LBK_UNSUPPORTED` for a model of another task.
 */
LBK_API
struct lbk_error *lbk_diffuser_new(const struct lbk_model *model,
                                   const struct lbk_diffuser_options *options,
                                   struct lbk_diffuser **diffuser);

/**
 * The handle that cancels the diffuser's calls and sets their budget, as `lbk_session_control`. A budget
 * chooses the number of steps of each call that begins after it was set.
 */
LBK_API
struct lbk_error *lbk_diffuser_control(const struct lbk_diffuser *diffuser,
                                       struct lbk_control **control);

/**
 * How the budget fares, as `lbk_session_get_status`.
 */
LBK_API
struct lbk_error *lbk_diffuser_get_status(struct lbk_diffuser *diffuser,
                                          struct lbk_status *status,
                                          size_t size);

/**
 * Makes samples: `*outputs`, which the caller owns, has one tensor `samples` `[samples, ...]` of f32. `options`
 * may be NULL for the defaults, and `on_step` where no one listens; `*steps` (NULL if it is not wanted) is how
 * many steps were taken. What was spent is added to `usage` (NULL if it is not wanted).
 *
 * `LBK_INVALID` for a condition that is missing, unknown or out of range, and for a number of steps without
 * a table; `LBK_MEMORY`, `LBK_CANCELLED`.
 */
LBK_API
struct lbk_error *lbk_diffuser_run(struct lbk_diffuser *diffuser,
                                   const struct lbk_diffuse_options *options,
                                   lbk_diffuse_fn on_step,
                                   void *user_data,
                                   struct lbk_usage *usage,
                                   size_t *steps,
                                   struct lbk_tensors **outputs);

/**
 * Frees a diffuser; NULL is fine. No call of it may be in progress.
 */
LBK_API void lbk_diffuser_free(struct lbk_diffuser *diffuser);

#if defined(LBK_TEST_HOOKS)
/**
 * Writes to a place that all threads share, in no order: what a race detector must find.
 */
LBK_API void lbk_test_race(void);
#endif

#if defined(LBK_TEST_HOOKS)
/**
 * Lets the next step or token of a session fail inside the runtime.
 */
LBK_API void lbk_test_panic(const struct lbk_session *session);
#endif

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LIMBECK_H */
