/* Every function takes NULL in every place: an error, or nothing. */
#include "check.h"

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    lbk_engine *engine = new_engine(1);
    lbk_model *model = open_model(argv[1]);
    lbk_session *session = open_session(argv[1]);
    lbk_sequence sequence = add_sequence(session);
    lbk_generation *generation = NULL;
    lbk_usage *usage = NULL;
    lbk_control *control = NULL;
    lbk_forward *forward = NULL;
    OK(lbk_generation_new(session, sequence, TOKENS, 4, NULL, &generation));
    OK(lbk_usage_new(&usage));
    OK(lbk_session_control(session, &control));
    OK(lbk_forward_new(model, NULL, &forward));

    void *any = NULL;
    size_t n = 0;
    const int32_t *choices = NULL;
    lbk_model **m = (lbk_model **)&any;
    FAILS(LBK_INVALID, lbk_model_open(NULL, argv[1], m));
    FAILS(LBK_INVALID, lbk_model_open(engine, NULL, m));
    FAILS(LBK_INVALID, lbk_model_open(engine, argv[1], NULL));
    FAILS(LBK_INVALID, lbk_model_open_fd(NULL, 0, 0, 0, m));
    FAILS(LBK_INVALID, lbk_model_open_fd(engine, 0, 0, 0, NULL));
    FAILS(LBK_INVALID, lbk_model_open_bytes(NULL, NULL, 0, NULL, NULL, NULL));
    FAILS(LBK_INVALID, lbk_model_get_info(NULL, NULL, 0));
    CHECK(!lbk_model_text(NULL, LBK_TEXT_STUDENT));
    FAILS(LBK_INVALID, lbk_model_get_site(NULL, 0, NULL, 0));
    FAILS(LBK_INVALID, lbk_model_get_calibration(NULL, 0, NULL, 0));
    FAILS(LBK_INVALID, lbk_model_verify(NULL));
    FAILS(LBK_INVALID, lbk_model_generate_options(NULL, NULL, 0));
    FAILS(LBK_INVALID, lbk_model_generate_options(model, NULL, sizeof(lbk_generate_options)));
    FAILS(LBK_INVALID, lbk_model_tokenise(NULL, "a", 1, 0, (lbk_tokens **)&any));
    FAILS(LBK_INVALID, lbk_model_tokenise(model, NULL, 1, 0, (lbk_tokens **)&any));
    FAILS(LBK_INVALID, lbk_model_tokenise(model, "a", 1, 0, NULL));
    FAILS(LBK_INVALID, lbk_model_detokenise(NULL, TOKENS, 1, 0, (lbk_bytes **)&any));
    FAILS(LBK_INVALID, lbk_model_detokenise(model, NULL, 1, 0, (lbk_bytes **)&any));
    FAILS(LBK_INVALID, lbk_model_detokenise(model, TOKENS, 1, 0, NULL));
    FAILS(LBK_INVALID, lbk_model_render_chat(NULL, NULL, 0, 1, (lbk_bytes **)&any));
    FAILS(LBK_INVALID, lbk_model_render_chat(model, NULL, 1, 1, (lbk_bytes **)&any));
    FAILS(LBK_INVALID, lbk_model_render_chat(model, NULL, 0, 1, NULL));
    FAILS(LBK_INVALID, lbk_detokenizer_new(NULL, 1, (lbk_detokenizer **)&any));
    FAILS(LBK_INVALID, lbk_detokenizer_new(model, 1, NULL));
    FAILS(LBK_INVALID, lbk_detokenizer_push(NULL, 0, NULL));
    FAILS(LBK_INVALID, lbk_detokenizer_finish(NULL, NULL));

    FAILS(LBK_INVALID, lbk_session_new(NULL, NULL, (lbk_session **)&any));
    FAILS(LBK_INVALID, lbk_session_new(model, NULL, NULL));
    FAILS(LBK_INVALID, lbk_session_control(NULL, (lbk_control **)&any));
    FAILS(LBK_INVALID, lbk_session_control(session, NULL));
    FAILS(LBK_INVALID, lbk_session_get_status(NULL, NULL, 0));
    FAILS(LBK_INVALID, lbk_session_get_status(session, NULL, sizeof(lbk_status)));
    FAILS(LBK_INVALID, lbk_session_memory(NULL, NULL));
    FAILS(LBK_INVALID, lbk_session_memory(session, NULL));
    FAILS(LBK_INVALID, lbk_session_add_sequence(NULL, &sequence));
    FAILS(LBK_INVALID, lbk_session_add_sequence(session, NULL));
    FAILS(LBK_INVALID, lbk_session_fork(NULL, sequence, NULL));
    FAILS(LBK_INVALID, lbk_session_fork(session, sequence, NULL));
    FAILS(LBK_INVALID, lbk_session_end_sequence(NULL, sequence));
    FAILS(LBK_INVALID, lbk_session_end_sequence(session, 0));
    FAILS(LBK_INVALID, lbk_session_position(NULL, sequence, &n));
    FAILS(LBK_INVALID, lbk_session_position(session, sequence, NULL));
    FAILS(LBK_INVALID, lbk_session_rewind(NULL, sequence, 0));
    FAILS(LBK_INVALID, lbk_session_snapshot(NULL, sequence, NULL));
    FAILS(LBK_INVALID, lbk_session_snapshot(session, sequence, NULL));
    FAILS(LBK_INVALID, lbk_session_restore(NULL, NULL, 0, NULL));
    FAILS(LBK_INVALID, lbk_session_restore(session, NULL, 9, &sequence));
    FAILS(LBK_INVALID, lbk_session_step(NULL, NULL, 0, NULL, NULL, NULL, NULL));
    FAILS(LBK_INVALID, lbk_session_step(session, NULL, 1, NULL, NULL, NULL, NULL));
    FAILS(LBK_INVALID, lbk_session_force_route(NULL, NULL, 0));
    FAILS(LBK_INVALID, lbk_session_force_route(session, NULL, 1));
    FAILS(LBK_INVALID, lbk_session_route(NULL, &choices, &n));
    FAILS(LBK_INVALID, lbk_session_route(session, NULL, &n));
    FAILS(LBK_INVALID, lbk_session_route(session, &choices, NULL));

    lbk_generate_options_init(NULL, 8);
    lbk_session_options_init(NULL, 8);
    lbk_budget_init(NULL, 8);
    FAILS(LBK_INVALID, lbk_generation_new(NULL, 0, NULL, 0, NULL, NULL));
    FAILS(LBK_INVALID, lbk_generation_new(session, sequence, NULL, 1, NULL, (lbk_generation **)&any));
    FAILS(LBK_INVALID, lbk_generation_new(session, sequence, TOKENS, 1, NULL, NULL));
    FAILS(LBK_INVALID, lbk_generation_run(NULL, session, NULL, NULL));
    FAILS(LBK_INVALID, lbk_generation_run(generation, NULL, NULL, NULL));
    FAILS(LBK_INVALID, lbk_generation_committed(NULL, &n));
    FAILS(LBK_INVALID, lbk_generation_committed(generation, NULL));
    FAILS(LBK_INVALID, lbk_generation_get_progress(NULL, 0, NULL, 0));
    FAILS(LBK_INVALID, lbk_generation_get_progress(generation, 0, NULL, sizeof(lbk_progress)));
    FAILS(LBK_INVALID, lbk_generation_add_usage(NULL, NULL, NULL));
    OK(lbk_generation_add_usage(generation, NULL, NULL));

    FAILS(LBK_INVALID, lbk_usage_new(NULL));
    FAILS(LBK_INVALID, lbk_usage_reset(NULL));
    FAILS(LBK_INVALID, lbk_usage_get_totals(NULL, NULL, 0));
    FAILS(LBK_INVALID, lbk_usage_get_totals(usage, NULL, sizeof(lbk_totals)));
    FAILS(LBK_INVALID, lbk_usage_get_site(NULL, 0, NULL, 0));
    FAILS(LBK_INVALID, lbk_usage_get_site(usage, 0, NULL, sizeof(lbk_site_usage)));

    CHECK(lbk_control_cancel(NULL) == LBK_INVALID && lbk_control_reset(NULL) == LBK_INVALID);
    CHECK(lbk_control_is_cancelled(NULL) == 0);
    CHECK(lbk_control_set_budget(NULL, NULL) == LBK_INVALID);
    CHECK(lbk_control_set_budget(control, NULL) == LBK_INVALID);
    FAILS(LBK_INVALID, lbk_control_get_budget(NULL, NULL, 0));
    FAILS(LBK_INVALID, lbk_control_get_budget(control, NULL, sizeof(lbk_budget)));
    FAILS(LBK_INVALID, lbk_control_clone(NULL, (lbk_control **)&any));
    FAILS(LBK_INVALID, lbk_control_clone(control, NULL));

    lbk_encoder_options_init(NULL, sizeof(lbk_encoder_options));
    FAILS(LBK_INVALID, lbk_encoder_new(NULL, NULL, (lbk_encoder **)&any));
    FAILS(LBK_INVALID, lbk_encoder_new(model, NULL, NULL));
    FAILS(LBK_INVALID, lbk_encoder_control(NULL, (lbk_control **)&any));
    FAILS(LBK_INVALID, lbk_encoder_get_status(NULL, NULL, 0));
    FAILS(LBK_INVALID, lbk_encoder_embed(NULL, NULL, 0, NULL, 0, NULL, NULL));
    FAILS(LBK_INVALID, lbk_forward_new(NULL, NULL, (lbk_forward **)&any));
    FAILS(LBK_INVALID, lbk_forward_new(model, NULL, NULL));
    FAILS(LBK_INVALID, lbk_forward_control(NULL, NULL));
    FAILS(LBK_INVALID, lbk_forward_get_status(NULL, NULL, 0));
    FAILS(LBK_INVALID, lbk_forward_run(NULL, NULL, 0, NULL, (lbk_tensors **)&any));
    FAILS(LBK_INVALID, lbk_forward_run(forward, NULL, 1, NULL, (lbk_tensors **)&any));
    FAILS(LBK_INVALID, lbk_forward_run(forward, NULL, 0, NULL, NULL));
    CHECK(!*lbk_forward_inputs(NULL) && !*lbk_forward_outputs(NULL));
    lbk_diffuser_options_init(NULL, sizeof(lbk_diffuser_options));
    lbk_diffuse_options_init(NULL, sizeof(lbk_diffuse_options));
    FAILS(LBK_INVALID, lbk_diffuser_new(NULL, NULL, (lbk_diffuser **)&any));
    FAILS(LBK_INVALID, lbk_diffuser_new(model, NULL, NULL));
    FAILS(LBK_INVALID, lbk_diffuser_control(NULL, (lbk_control **)&any));
    FAILS(LBK_INVALID, lbk_diffuser_get_status(NULL, NULL, 0));
    FAILS(LBK_INVALID, lbk_diffuser_run(NULL, NULL, NULL, NULL, NULL, NULL, (lbk_tensors **)&any));
    lbk_tensor tensor;
    FAILS(LBK_INVALID, lbk_tensors_get(NULL, 0, &tensor));
    FAILS(LBK_INVALID, lbk_tensors_find(NULL, "a", &tensor));
    CHECK(lbk_tensors_count(NULL) == 0 && lbk_tokens_count(NULL) == 0 && lbk_bytes_size(NULL) == 0);
    CHECK(!lbk_tokens_data(NULL) && !lbk_bytes_data(NULL));
    CHECK(!any);

    /* Freed twice as NULL. */
    for (int i = 0; i < 2; i++) {
        lbk_error_free(NULL);
        lbk_engine_free(NULL);
        lbk_model_free(NULL);
        lbk_session_free(NULL);
        lbk_generation_free(NULL);
        lbk_usage_free(NULL);
        lbk_control_free(NULL);
        lbk_encoder_free(NULL);
        lbk_diffuser_free(NULL);
        lbk_forward_free(NULL);
        lbk_tensors_free(NULL);
        lbk_tokens_free(NULL);
        lbk_bytes_free(NULL);
        lbk_detokenizer_free(NULL);
    }
    lbk_test_panic(NULL);
    lbk_engine_free(engine);
    lbk_model_free(model);
    lbk_session_free(session);
    lbk_generation_free(generation);
    lbk_usage_free(usage);
    lbk_control_free(control);
    lbk_forward_free(forward);
    return 0;
}
