/* Models: from a path, a part of a file, bytes in place; what a plan says of itself. */
#include "check.h"

#include <fcntl.h>
#include <unistd.h>

static int releases;

static void on_release(void *user_data)
{
    CHECK(user_data == (void *)&releases);
    releases++;
}

/* The plan's bytes at a multiple of 64. */
static unsigned char *read_plan(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    CHECK(file && fseek(file, 0, SEEK_END) == 0);
    *size = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = aligned_alloc(64, (*size + 63) / 64 * 64);
    CHECK(bytes && fread(bytes, 1, *size, file) == *size);
    fclose(file);
    return bytes;
}

int main(int argc, char **argv)
{
    CHECK(argc == 4); /* a text student, the same within a file from 4160 on, an adaptive one */
    lbk_engine *engine = new_engine(1);
    lbk_model *model = NULL, *other = NULL;
    lbk_model_info info, same;
    size_t size = 0;
    unsigned char *bytes = read_plan(argv[1], &size);

    OK(lbk_model_open(engine, argv[1], &model));
    OK(lbk_model_get_info(model, &info, sizeof info));
    CHECK(info.task == LBK_TASK_TEXT && info.has_tokenizer && info.bytes == size);
    CHECK(info.context_length && info.vocab_size && !info.embedding_size && !info.sites);
    CHECK(!info.classes && !info.image[0] && !info.calibration_points);
    OK(lbk_model_verify(model));
    CHECK(*lbk_model_text(model, LBK_TEXT_STUDENT) && *lbk_model_text(model, LBK_TEXT_SOURCE));
    CHECK(!lbk_model_text(model, LBK_TEXT_QUALITY) && !lbk_model_text(model, 1000));
    FAILS(LBK_INVALID, lbk_model_get_info(model, &same, sizeof same - 8));
    FAILS(LBK_INVALID, lbk_model_get_info(model, &same, 0));
    FAILS(LBK_INVALID, lbk_model_get_info(model, NULL, sizeof same));

    /* A part of an open file, which is closed at once. */
    int fd = open(argv[2], O_RDONLY);
    CHECK(fd >= 0);
    OK(lbk_model_open_fd(engine, fd, 4160, size, &other));
    FAILS(LBK_INVALID, lbk_model_open_fd(engine, fd, 4161, size, &other));
    FAILS(LBK_INVALID, lbk_model_open_fd(engine, fd, 4160, UINT64_MAX, &other));
    FAILS(LBK_PLAN, lbk_model_open_fd(engine, fd, 0, size, &other));
    FAILS(LBK_PLAN, lbk_model_open_fd(engine, fd, 4160, 0, &other));
    close(fd);
    FAILS(LBK_INVALID, lbk_model_open_fd(engine, fd, 4160, size, &other));
    FAILS(LBK_INVALID, lbk_model_open_fd(engine, -1, 4160, size, &other));
    OK(lbk_model_verify(other));
    OK(lbk_model_get_info(other, &same, sizeof same));
    CHECK(same.hash == info.hash && same.bytes == info.bytes);
    lbk_model_free(other);

    /* Bytes in place, let go with the last that needs them; parents go first. */
    lbk_session *session = NULL;
    OK(lbk_model_open_bytes(engine, bytes, size, on_release, &releases, &other));
    lbk_engine_free(engine);
    OK(lbk_session_new(other, NULL, &session));
    lbk_model_free(other);
    CHECK(releases == 0);
    lbk_sequence sequence = add_sequence(session);
    lbk_work work = {sequence, TOKENS, 3, LBK_WANTED_NONE, 0};
    OK(lbk_session_step(session, &work, 1, NULL, NULL, NULL, NULL));
    lbk_session_free(session);
    CHECK(releases == 1);

    /* Let go before a failing call returns, too. */
    engine = new_engine(1);
    bytes[size / 2 + 1] ^= 0xff;
    bytes[9] ^= 0xff;
    other = NULL;
    FAILS(LBK_PLAN, lbk_model_open_bytes(engine, bytes, size, on_release, &releases, &other));
    FAILS(LBK_PLAN, lbk_model_open_bytes(engine, bytes, 100, on_release, &releases, &other));
    FAILS(LBK_PLAN, lbk_model_open_bytes(engine, bytes, 0, on_release, &releases, &other));
    FAILS(LBK_PLAN, lbk_model_open_bytes(engine, NULL, 0, on_release, &releases, &other));
    FAILS(LBK_INVALID, lbk_model_open_bytes(engine, NULL, 9, on_release, &releases, &other));
    FAILS(LBK_INVALID, lbk_model_open_bytes(engine, bytes, HUGE_LENGTH, on_release, &releases, &other));
    FAILS(LBK_INVALID, lbk_model_open_bytes(NULL, bytes, size, on_release, &releases, &other));
    FAILS(LBK_INVALID, lbk_model_open_bytes(engine, bytes, size, on_release, &releases, NULL));
    CHECK(releases == 9 && !other);
    FAILS(LBK_INVALID, lbk_model_open(engine, "\xff\xfe", &other));
    FAILS(LBK_IO, lbk_model_open(engine, "/", &other));

    /* Sites of an adaptive student. */
    OK(lbk_model_open(engine, argv[3], &other));
    OK(lbk_model_get_info(other, &info, sizeof info));
    CHECK(info.sites > 0);
    for (size_t i = 0; i < info.sites; i++) {
        lbk_site site;
        OK(lbk_model_get_site(other, i, &site, sizeof site));
        CHECK(*site.name && site.kind == LBK_SITE_ACM && site.first < site.last && site.weight > 0);
    }
    lbk_site site;
    FAILS(LBK_INVALID, lbk_model_get_site(other, info.sites, &site, sizeof site));
    FAILS(LBK_INVALID, lbk_model_get_site(other, HUGE_LENGTH, &site, sizeof site));
    lbk_calibration_point point;
    for (size_t i = 0; i < info.calibration_points; i++) {
        double before = i ? point.price : -1;
        OK(lbk_model_get_calibration(other, i, &point, sizeof point));
        CHECK(point.price > before && point.fraction > 0 && point.fraction <= 1);
    }
    FAILS(LBK_INVALID, lbk_model_get_calibration(other, info.calibration_points, &point, sizeof point));
    lbk_model_free(other);
    lbk_model_free(model);
    lbk_engine_free(engine);
    free(bytes);
    return 0;
}
