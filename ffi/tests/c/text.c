/* Text: there and back, pieces, templates, lengths. */
#include "check.h"

int main(int argc, char **argv)
{
    CHECK(argc == 2); /* a text student with a tokenizer and a chat template */
    lbk_model *model = open_model(argv[1]);
    lbk_tokens *tokens = NULL;
    lbk_bytes *text = NULL;
    const char *words = "ab a c";
    OK(lbk_model_tokenise(model, words, strlen(words), LBK_TOKENISE_RENDERED, &tokens));
    const uint32_t *ids = lbk_tokens_data(tokens);
    size_t count = lbk_tokens_count(tokens);
    CHECK(count == 5 && ids[0] == 6 && ids[1] == 5);
    OK(lbk_model_detokenise(model, ids, count, 1, &text));
    CHECK(lbk_bytes_size(text) == strlen(words) && strcmp(lbk_bytes_data(text), words) == 0);

    /* Pieces make the same text. */
    lbk_detokenizer *stream = NULL;
    char joined[64] = "";
    lbk_text piece;
    OK(lbk_detokenizer_new(model, 1, &stream));
    for (size_t i = 0; i < count; i++) {
        OK(lbk_detokenizer_push(stream, ids[i], &piece));
        strncat(joined, piece.data, piece.length);
    }
    OK(lbk_detokenizer_push(stream, 0xffffffff, &piece));
    CHECK(piece.length == 0);
    OK(lbk_detokenizer_finish(stream, &piece));
    strncat(joined, piece.data, piece.length);
    CHECK(strcmp(joined, words) == 0);
    FAILS(LBK_INVALID, lbk_detokenizer_push(stream, 2, NULL));
    lbk_tokens_free(tokens);
    lbk_bytes_free(text);
    tokens = NULL;
    text = NULL;

    /* Special tokens that are spelt out, and those that a prompt has. */
    OK(lbk_model_tokenise(model, "<s>a", 4, LBK_TOKENISE_RENDERED, &tokens));
    CHECK(lbk_tokens_count(tokens) == 2 && lbk_tokens_data(tokens)[0] == 0);
    OK(lbk_model_detokenise(model, lbk_tokens_data(tokens), 2, 0, &text));
    CHECK(strcmp(lbk_bytes_data(text), "<s>a") == 0);
    lbk_bytes_free(text);
    OK(lbk_model_detokenise(model, lbk_tokens_data(tokens), 2, 1, &text));
    CHECK(strcmp(lbk_bytes_data(text), "a") == 0);
    lbk_bytes_free(text);
    lbk_tokens_free(tokens);
    OK(lbk_model_tokenise(model, "a<s>", 4, LBK_TOKENISE_PLAIN, &tokens));
    for (size_t i = 0; i < lbk_tokens_count(tokens); i++) {
        CHECK(lbk_tokens_data(tokens)[i] != 0);
    }
    lbk_tokens_free(tokens);

    /* A chat. */
    lbk_message messages[2] = {{{"user", 4}, {"a b", 3}}, {{"assistant", 9}, {"c", 1}}};
    OK(lbk_model_render_chat(model, messages, 2, 1, &text));
    CHECK(strcmp(lbk_bytes_data(text), "user: a b\nassistant: c\nassistant:") == 0);
    lbk_bytes_free(text);
    OK(lbk_model_render_chat(model, messages, 1, 0, &text));
    CHECK(strcmp(lbk_bytes_data(text), "user: a b\n") == 0);
    lbk_bytes_free(text);
    OK(lbk_model_render_chat(model, NULL, 0, 1, &text));
    lbk_bytes_free(text);
    CHECK(lbk_model_text(model, LBK_TEXT_CHAT_TEMPLATE));

    /* What is refused; empty texts are not. */
    text = NULL;
    tokens = NULL;
    FAILS(LBK_INVALID, lbk_model_tokenise(model, "a\xff", 2, LBK_TOKENISE_PROMPT, &tokens));
    FAILS(LBK_INVALID, lbk_model_tokenise(model, "a", HUGE_LENGTH, LBK_TOKENISE_PROMPT, &tokens));
    FAILS(LBK_INVALID, lbk_model_tokenise(model, "a", 1, 9, &tokens));
    FAILS(LBK_INVALID, lbk_model_detokenise(model, TOKENS, HUGE_LENGTH, 0, &text));
    FAILS(LBK_INVALID, lbk_model_render_chat(model, messages, HUGE_LENGTH, 0, &text));
    messages[1].content.length = HUGE_LENGTH;
    FAILS(LBK_INVALID, lbk_model_render_chat(model, messages, 2, 0, &text));
    CHECK(!tokens && !text);
    OK(lbk_model_tokenise(model, NULL, 0, LBK_TOKENISE_RENDERED, &tokens));
    CHECK(lbk_tokens_count(tokens) == 0);
    lbk_tokens_free(tokens);
    OK(lbk_model_detokenise(model, NULL, 0, 0, &text));
    CHECK(lbk_bytes_size(text) == 0 && *lbk_bytes_data(text) == 0);
    lbk_bytes_free(text);

    lbk_generate_options options;
    OK(lbk_model_generate_options(model, &options, sizeof options));
    CHECK(options.temperature == 0 && options.struct_size == sizeof options);
    /* The stream needs nothing of the model's. */
    lbk_model_free(model);
    OK(lbk_detokenizer_push(stream, 6, &piece));
    CHECK(piece.length == 2 && !memcmp(piece.data, "ab", 2));
    lbk_detokenizer_free(stream);
    return 0;
}
