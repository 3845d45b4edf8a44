/* Finds the sentences that mean what a query means: lines of stdin, the closest first.
 *
 *     cc search.c $(pkg-config --cflags --libs limbeck) -o search
 *     ./search encoder.lbk "a fast animal" < sentences.txt
 */
#include <limbeck.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 1000
#define LONGEST 512

typedef struct sentence {
    char text[LONGEST];
    float score;
} sentence;

/* Ends the program with an error, if there is one. */
static void check(lbk_error *error)
{
    if (error) {
        fprintf(stderr, "search: %s\n", lbk_error_message(error));
        lbk_error_free(error);
        exit(1);
    }
}

static int by_score(const void *a, const void *b)
{
    float x = ((const sentence *)a)->score, y = ((const sentence *)b)->score;
    return (x < y) - (x > y);
}

/* The cosine of two embeddings, which the student has normalised. */
static float cosine(const float *a, const float *b, size_t size)
{
    float sum = 0;
    for (size_t i = 0; i < size; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

static size_t read_sentences(sentence *sentences)
{
    size_t count = 0;
    while (count < MOST && fgets(sentences[count].text, LONGEST, stdin)) {
        char *text = sentences[count].text;
        text[strcspn(text, "\r\n")] = 0;
        count += *text != 0;
    }
    return count;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: search PLAN.lbk QUERY < SENTENCES\n");
        return 2;
    }
    lbk_engine *engine = NULL;
    lbk_model *model = NULL;
    lbk_encoder *encoder = NULL;
    lbk_model_info info;
    check(lbk_engine_new(LBK_ABI_VERSION, NULL, &engine));
    check(lbk_model_open(engine, argv[1], &model));
    check(lbk_model_get_info(model, &info, sizeof info));
    check(lbk_encoder_new(model, NULL, &encoder));

    /* The query is embedded with the sentences, as their first. */
    sentence *sentences = calloc(MOST, sizeof *sentences);
    lbk_text *texts = calloc(MOST + 1, sizeof *texts);
    float *vectors = calloc((MOST + 1) * info.embedding_size, sizeof *vectors);
    if (!sentences || !texts || !vectors) {
        fprintf(stderr, "search: no memory\n");
        return 1;
    }
    size_t count = read_sentences(sentences), size = info.embedding_size;
    texts[0] = (lbk_text){argv[2], strlen(argv[2])};
    for (size_t i = 0; i < count; i++) {
        texts[i + 1] = (lbk_text){sentences[i].text, strlen(sentences[i].text)};
    }
    check(lbk_encoder_embed(encoder, texts, count + 1, vectors, (count + 1) * size, NULL, NULL));
    for (size_t i = 0; i < count; i++) {
        sentences[i].score = cosine(vectors, vectors + (i + 1) * size, size);
    }
    qsort(sentences, count, sizeof *sentences, by_score);
    for (size_t i = 0; i < count && i < 10; i++) {
        printf("%.3f  %s\n", (double)sentences[i].score, sentences[i].text);
    }

    free(sentences);
    free(texts);
    free(vectors);
    lbk_encoder_free(encoder);
    lbk_model_free(model);
    lbk_engine_free(engine);
    return 0;
}
