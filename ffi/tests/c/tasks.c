/* Embeddings and named tensors: values against a file, shapes, lengths. */
#include "check.h"

#include <math.h>

/* Floats of a file. */
static float *floats(const char *path, size_t *count)
{
    FILE *file = fopen(path, "rb");
    CHECK(file && fseek(file, 0, SEEK_END) == 0);
    *count = (size_t)ftell(file) / sizeof(float);
    rewind(file);
    float *values = malloc(*count * sizeof(float) + 1);
    CHECK(values && fread(values, sizeof(float), *count, file) == *count);
    fclose(file);
    return values;
}

/* More memory than an encoder may take is an error, and less still runs. */
static void limits(const lbk_model *model, float *found, size_t n)
{
    lbk_encoder *encoder = NULL;
    lbk_encoder_options options;
    lbk_encoder_options_init(&options, sizeof options);
    CHECK(options.struct_size == sizeof options && options.memory_limit == 0);
    options.struct_size = 8;
    FAILS(LBK_INVALID, lbk_encoder_new(model, &options, &encoder));
    options.struct_size = sizeof options + 8;
    FAILS(LBK_INVALID, lbk_encoder_new(model, &options, &encoder));
    CHECK(!encoder);
    options.struct_size = sizeof options;
    lbk_text texts[3] = {{"a", 1}, {"a b a b a b", 11}, {"a b", 3}};
    int refused = 0;
    for (options.memory_limit = 1 << 10; options.memory_limit <= 1 << 24; options.memory_limit *= 2) {
        OK(lbk_encoder_new(model, &options, &encoder));
        memset(found, 0, n * sizeof(float));
        lbk_error *error = lbk_encoder_embed(encoder, texts, 3, found, 3 * n, NULL, NULL);
        CHECK(!error || (lbk_error_code(error) == LBK_MEMORY && found[0] == 0));
        CHECK(!error || strstr(lbk_error_message(error), "encoder's memory limit"));
        refused += error != NULL;
        lbk_error_free(error);
        lbk_encoder_free(encoder);
        encoder = NULL;
    }
    CHECK(refused > 0 && refused < 15 && found[0] != 0);
}

static void embed(const char *path)
{
    lbk_model *model = open_model(path);
    lbk_model_info info;
    lbk_encoder *encoder = NULL;
    lbk_session *session = NULL;
    lbk_control *control = NULL;
    lbk_usage *usage = NULL;
    OK(lbk_model_get_info(model, &info, sizeof info));
    CHECK(info.task == LBK_TASK_EMBED && info.embedding_size);
    FAILS(LBK_UNSUPPORTED, lbk_session_new(model, NULL, &session));
    OK(lbk_encoder_new(model, NULL, &encoder));
    size_t n = info.embedding_size, cut = 9;
    float *found = malloc(3 * n * sizeof(float));
    limits(model, found, n);
    lbk_model_free(model);
    char longer[400];
    memset(longer, 'a', sizeof longer);
    for (size_t i = 1; i < sizeof longer; i += 2) {
        longer[i] = ' ';
    }
    lbk_text texts[3] = {{"a b", 3}, {longer, sizeof longer}, {"a b", 3}};
    OK(lbk_usage_new(&usage));
    OK(lbk_encoder_embed(encoder, texts, 3, found, 3 * n, usage, &cut));
    lbk_totals totals;
    OK(lbk_usage_get_totals(usage, &totals, sizeof totals));
    CHECK(cut == 1 && totals.tokens == 4 + 4 + info.context_length);
    CHECK(!memcmp(found, found + 2 * n, n * sizeof(float)) && memcmp(found, found + n, n * sizeof(float)));
    float *alone = malloc(n * sizeof(float));
    OK(lbk_encoder_embed(encoder, texts, 1, alone, n, NULL, NULL));
    CHECK(!memcmp(found, alone, n * sizeof(float)));
    memset(alone, 0, n * sizeof(float));
    FAILS(LBK_INVALID, lbk_encoder_embed(encoder, texts, 2, alone, 2 * n - 1, NULL, NULL));
    FAILS(LBK_INVALID, lbk_encoder_embed(encoder, texts, 1, alone, HUGE_LENGTH, NULL, NULL));
    FAILS(LBK_INVALID, lbk_encoder_embed(encoder, texts, HUGE_LENGTH, alone, n, NULL, NULL));
    FAILS(LBK_INVALID, lbk_encoder_embed(encoder, NULL, 1, alone, n, NULL, NULL));
    FAILS(LBK_INVALID, lbk_encoder_embed(encoder, texts, 1, NULL, n, NULL, NULL));
    OK(lbk_encoder_embed(encoder, NULL, 0, NULL, 0, NULL, &cut));
    CHECK(cut == 0);
    OK(lbk_encoder_control(encoder, &control));
    CHECK(lbk_control_cancel(control) == LBK_OK);
    FAILS(LBK_CANCELLED, lbk_encoder_embed(encoder, texts, 1, alone, n, NULL, NULL));
    CHECK(alone[0] == 0 && lbk_control_reset(control) == LBK_OK);
    lbk_status status;
    OK(lbk_encoder_get_status(encoder, &status, sizeof status));
    CHECK(status.unmet == LBK_UNMET_NOT && status.target == 1);
    lbk_encoder_free(encoder);
    lbk_control_free(control);
    lbk_usage_free(usage);
    free(found);
    free(alone);
}

/* The logits of images are those of a file; forced choices are followed. */
static void classify(const char *path, const char *pixels_path, const char *logits_path)
{
    lbk_model *model = open_model(path);
    lbk_model_info info;
    OK(lbk_model_get_info(model, &info, sizeof info));
    CHECK(info.task == LBK_TASK_CLASSIFY && info.classes && info.image[0] == 3 && info.sites);
    lbk_forward *forward = NULL;
    lbk_tensors *outputs = NULL;
    lbk_tensor logits, choices, none;
    OK(lbk_forward_new(model, NULL, &forward));
    CHECK(strstr(lbk_forward_inputs(forward), "pixel_values ["));
    CHECK(strstr(lbk_forward_outputs(forward), "logits ["));
    size_t count = 0, expected_count = 0;
    float *pixels = floats(pixels_path, &count), *expected = floats(logits_path, &expected_count);
    size_t one = info.image[0] * info.image[1] * info.image[2];
    size_t shape[4] = {count / one, info.image[0], info.image[1], info.image[2]};
    lbk_tensor inputs[2] = {{"pixel_values", LBK_DTYPE_F32, 0, shape, 4, pixels, count}};
    lbk_session_options options;
    lbk_forward *limited = NULL;
    lbk_session_options_init(&options, sizeof options);
    options.memory_limit = 4096;
    OK(lbk_forward_new(model, &options, &limited));
    lbk_model_free(model);
    FAILS(LBK_MEMORY, lbk_forward_run(limited, inputs, 1, NULL, &outputs));
    CHECK(!outputs);
    lbk_forward_free(limited);
    lbk_control *control = NULL;
    lbk_budget budget;
    OK(lbk_forward_control(forward, &control));
    lbk_budget_init(&budget, sizeof budget);
    budget.kind = LBK_BUDGET_PRICE;
    CHECK(lbk_control_set_budget(control, &budget) == LBK_OK);
    OK(lbk_forward_run(forward, inputs, 1, NULL, &outputs));
    CHECK(lbk_tensors_count(outputs) == 2);
    OK(lbk_tensors_find(outputs, "logits", &logits));
    OK(lbk_tensors_find(outputs, "choices", &choices));
    OK(lbk_tensors_get(outputs, 0, &none));
    CHECK(none.data == logits.data && strcmp(none.name, "logits") == 0);
    FAILS(LBK_INVALID, lbk_tensors_get(outputs, 2, &none));
    FAILS(LBK_INVALID, lbk_tensors_find(outputs, "nothing", &none));
    CHECK(logits.rank == 2 && logits.shape[0] == shape[0] && logits.shape[1] == info.classes);
    CHECK(logits.dtype == LBK_DTYPE_F32 && logits.count == expected_count);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < expected_count; i++) {
        double d = (double)((const float *)logits.data)[i] - (double)expected[i];
        difference += d * d;
        norm += (double)expected[i] * (double)expected[i];
    }
    CHECK(sqrt(difference / norm) < 1e-4);
    /* The choices that were made, forced at a price that would make others, give the same. */
    budget.value = 100;
    CHECK(lbk_control_set_budget(control, &budget) == LBK_OK);
    lbk_tensors *again = NULL;
    lbk_tensor forced_logits;
    inputs[1] = choices;
    OK(lbk_forward_run(forward, inputs, 2, NULL, &again));
    OK(lbk_tensors_find(again, "logits", &forced_logits));
    CHECK(!memcmp(forced_logits.data, logits.data, logits.count * sizeof(float)));
    lbk_tensors_free(again);
    again = NULL;

    inputs[1] = inputs[0];
    FAILS(LBK_INVALID, lbk_forward_run(forward, inputs, 2, NULL, &again));
    FAILS(LBK_INVALID, lbk_forward_run(forward, inputs, 0, NULL, &again));
    FAILS(LBK_INVALID, lbk_forward_run(forward, inputs, HUGE_LENGTH, NULL, &again));
    for (int field = 0; field < 10; field++) {
        lbk_tensor bad = inputs[0];
        size_t large[4] = {HUGE_LENGTH, HUGE_LENGTH, 2, 2};
        bad.name = field == 0 ? "pixels" : field == 1 ? NULL : bad.name;
        bad.dtype = field == 2 ? LBK_DTYPE_I32 : field == 3 ? 77 : bad.dtype;
        bad.shape = field == 4 ? large : field == 5 ? NULL : bad.shape;
        bad.rank = field == 6 ? 3 : field == 9 ? HUGE_LENGTH / 64 : bad.rank;
        bad.count = field == 7 ? HUGE_LENGTH : field == 8 ? count - 1 : bad.count;
        FAILS(LBK_INVALID, lbk_forward_run(forward, &bad, 1, NULL, &again));
    }
    CHECK(!again);
    lbk_status status;
    OK(lbk_forward_get_status(forward, &status, sizeof status));
    CHECK(status.price == 100);
    lbk_forward_free(forward);
    lbk_tensors_free(outputs);
    lbk_control_free(control);
    free(pixels);
    free(expected);
}

/* A text student and its logits in a file. */
static void text(const char *path, const char *ids_path, const char *logits_path)
{
    lbk_model *model = open_model(path);
    lbk_session_options options;
    lbk_forward *forward = NULL;
    lbk_tensors *outputs = NULL;
    lbk_tensor logits;
    lbk_session_options_init(&options, sizeof options);
    options.kv = LBK_KV_F32;
    options.chunk = 7;
    OK(lbk_forward_new(model, &options, &forward));
    size_t count = 0, expected_count = 0;
    float *ids = floats(ids_path, &count), *expected = floats(logits_path, &expected_count);
    int64_t *wide = malloc(count * sizeof *wide);
    for (size_t i = 0; i < count; i++) {
        wide[i] = (int64_t)ids[i];
    }
    lbk_tensor input = {"input_ids", LBK_DTYPE_I64, 0, &count, 1, wide, count};
    OK(lbk_forward_run(forward, &input, 1, NULL, &outputs));
    OK(lbk_tensors_find(outputs, "logits", &logits));
    CHECK(logits.count == expected_count && logits.shape[0] == count);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < expected_count; i++) {
        double d = (double)((const float *)logits.data)[i] - (double)expected[i];
        difference += d * d;
        norm += (double)expected[i] * (double)expected[i];
    }
    CHECK(sqrt(difference / norm) < 1e-4);
    wide[0] = -1;
    FAILS(LBK_INVALID, lbk_forward_run(forward, &input, 1, NULL, &outputs));
    lbk_forward_free(forward);
    lbk_tensors_free(outputs);
    lbk_model_free(model);
    free(ids);
    free(expected);
    free(wide);
}

int main(int argc, char **argv)
{
    CHECK(argc == 8);
    embed(argv[1]);
    classify(argv[2], argv[3], argv[4]);
    text(argv[5], argv[6], argv[7]);
    return 0;
}
