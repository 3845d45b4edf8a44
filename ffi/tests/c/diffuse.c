/* Samples of noise: their values, steps, budgets, conditions, and how a call ends early. */
#include "check.h"

#include <math.h>

#define COUNT ((size_t)3 * 64)

struct heard {
    lbk_diffuser *diffuser;
    size_t calls;
    size_t end_after;
};

static int32_t on_step(const lbk_diffuse_progress *progress, void *user_data)
{
    struct heard *heard = user_data;
    lbk_tensors *outputs = NULL;
    heard->calls++;
    CHECK(progress->done == heard->calls && progress->done <= progress->steps);
    CHECK(progress->count == COUNT && progress->values);
    FAILS(LBK_BUSY, lbk_diffuser_run(heard->diffuser, NULL, NULL, NULL, NULL, NULL, &outputs));
    return heard->calls == heard->end_after;
}

static float *read_floats(const char *path, size_t count)
{
    FILE *file = fopen(path, "rb");
    float *values = malloc(count * sizeof *values);
    CHECK(file && values && fread(values, sizeof *values, count, file) == count);
    fclose(file);
    return values;
}

int main(int argc, char **argv)
{
    CHECK(argc == 4);
    lbk_model *model = open_model(argv[1]), *other = open_model(argv[2]);
    lbk_model_info info;
    lbk_site site;
    OK(lbk_model_get_info(model, &info, sizeof info));
    CHECK(info.task == LBK_TASK_DIFFUSE && info.sites == 1);
    OK(lbk_model_get_site(model, 0, &site, sizeof site));
    CHECK(site.kind == LBK_SITE_STEPS && site.first == 1 && site.last == 4);

    lbk_diffuser *diffuser = NULL;
    FAILS(LBK_UNSUPPORTED, lbk_diffuser_new(other, NULL, &diffuser));
    OK(lbk_diffuser_new(model, NULL, &diffuser));
    lbk_model_free(model);
    lbk_model_free(other);

    /* The samples of the golden, in two steps. */
    lbk_condition level = {"level", 0.25};
    lbk_diffuse_options options;
    lbk_diffuse_options_init(&options, sizeof options);
    options.samples = 3;
    options.seed = 7;
    options.steps = 2;
    options.numbers = &level;
    options.number_count = 1;
    struct heard heard = {diffuser, 0, 0};
    lbk_usage *usage = NULL;
    lbk_tensors *outputs = NULL;
    lbk_tensor samples;
    size_t steps = 0;
    OK(lbk_usage_new(&usage));
    OK(lbk_diffuser_run(diffuser, &options, on_step, &heard, usage, &steps, &outputs));
    CHECK(steps == 2 && heard.calls == 2 && lbk_tensors_count(outputs) == 1);
    OK(lbk_tensors_find(outputs, "samples", &samples));
    CHECK(samples.dtype == LBK_DTYPE_F32 && samples.rank == 4 && samples.shape[0] == 3);
    CHECK(samples.count == COUNT);
    float *expected = read_floats(argv[3], COUNT);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < COUNT; i++) {
        double d = (double)((const float *)samples.data)[i] - (double)expected[i];
        difference += d * d;
        norm += (double)expected[i] * (double)expected[i];
    }
    CHECK(sqrt(difference / norm) < 1e-4);
    lbk_tensors_free(outputs);
    outputs = NULL;

    /* A budget chooses the steps. */
    lbk_control *control = NULL;
    lbk_status status;
    lbk_budget budget;
    lbk_budget_init(&budget, sizeof budget);
    budget.kind = LBK_BUDGET_FRACTION;
    budget.value = 0.25;
    OK(lbk_diffuser_control(diffuser, &control));
    options.steps = 0;
    CHECK(lbk_control_set_budget(control, &budget) == LBK_OK);
    OK(lbk_diffuser_run(diffuser, &options, NULL, NULL, NULL, &steps, &outputs));
    OK(lbk_diffuser_get_status(diffuser, &status, sizeof status));
    CHECK(steps == 1 && status.unmet == LBK_UNMET_NOT && status.target == 0.25);
    lbk_tensors_free(outputs);
    outputs = NULL;

    /* A callback and a control end a call, and another begins anew. */
    options.steps = 4;
    heard = (struct heard){diffuser, 0, 3};
    FAILS(LBK_CANCELLED, lbk_diffuser_run(diffuser, &options, on_step, &heard, NULL, NULL, &outputs));
    CHECK(heard.calls == 3 && !outputs);
    lbk_control_cancel(control);
    FAILS(LBK_CANCELLED, lbk_diffuser_run(diffuser, &options, NULL, NULL, NULL, NULL, &outputs));
    lbk_control_reset(control);

    /* What a call cannot mean. */
    options.steps = 3;
    FAILS(LBK_INVALID, lbk_diffuser_run(diffuser, &options, NULL, NULL, NULL, NULL, &outputs));
    options.steps = 1;
    level.value = 2;
    FAILS(LBK_INVALID, lbk_diffuser_run(diffuser, &options, NULL, NULL, NULL, NULL, &outputs));
    level = (lbk_condition){NULL, 0};
    FAILS(LBK_INVALID, lbk_diffuser_run(diffuser, &options, NULL, NULL, NULL, NULL, &outputs));
    options.number_count = HUGE_LENGTH;
    FAILS(LBK_INVALID, lbk_diffuser_run(diffuser, &options, NULL, NULL, NULL, NULL, &outputs));
    options.number_count = 0;
    options.tensor_count = 1;
    FAILS(LBK_INVALID, lbk_diffuser_run(diffuser, &options, NULL, NULL, NULL, NULL, &outputs));
    options.tensor_count = 0;
    options.struct_size = 12;
    FAILS(LBK_INVALID, lbk_diffuser_run(diffuser, &options, NULL, NULL, NULL, NULL, &outputs));
    CHECK(!outputs);

    /* The defaults will do. */
    OK(lbk_diffuser_run(diffuser, NULL, NULL, NULL, NULL, NULL, &outputs));
    lbk_tensors_free(outputs);
    lbk_usage_free(usage);
    lbk_control_free(control);
    lbk_diffuser_free(diffuser);
    free(expected);
    return 0;
}
