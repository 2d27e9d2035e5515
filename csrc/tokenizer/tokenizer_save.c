/* tokenizer_save.c: the four files from which `tokenizers` and `transformers` load a tokenizer. */
#include "tokenizer/tokenizer_internal.h"

#include "common/file.h"
#include "common/json.h"
#include "common/mem.h"

#include <stdio.h>
#include <string.h>

typedef struct saver {
    const smhf_tokenizer *tokenizer;
    smhf_json_writer json;
    smhf_buffer buffer;
} saver;

static smhf_status put_raw(saver *s, const char *key, const char *value, smhf_error *err) {
    SMHF_TRY(smhf_json_write_key(&s->json, key, err));
    return smhf_json_write_raw(&s->json, value, strlen(value), err);
}

static smhf_status put_bool(saver *s, const char *key, int value, smhf_error *err) {
    return put_raw(s, key, value ? "true" : "false", err);
}

static smhf_status put_text(saver *s, const char *key, smhf_bytes_view value, smhf_error *err) {
    SMHF_TRY(smhf_json_write_key(&s->json, key, err));
    return smhf_json_write_string(&s->json, value, err);
}

static smhf_status put_int(saver *s, const char *key, int64_t value, smhf_error *err) {
    SMHF_TRY(smhf_json_write_key(&s->json, key, err));
    return smhf_json_write_int64(&s->json, value, err);
}

static smhf_status open_object(saver *s, const char *key, smhf_error *err) {
    SMHF_TRY(smhf_json_write_key(&s->json, key, err));
    return smhf_json_write_begin(&s->json, '{', err);
}

/* A key of any bytes, NUL included: write_key takes C strings only. */
static smhf_status put_key(saver *s, smhf_bytes_view key, smhf_error *err) {
    SMHF_TRY(smhf_json_write_string(&s->json, key, err));
    s->json.need_comma = 0;
    return smhf_buffer_append_byte(s->json.out, ':', err);
}

static smhf_status put_token_flags(saver *s, const smhf_added_token *token, smhf_error *err) {
    SMHF_TRY(put_text(s, "content", token->content, err));
    SMHF_TRY(put_bool(s, "single_word", token->single_word, err));
    SMHF_TRY(put_bool(s, "lstrip", token->lstrip, err));
    SMHF_TRY(put_bool(s, "rstrip", token->rstrip, err));
    SMHF_TRY(put_bool(s, "normalized", token->normalized, err));
    return put_bool(s, "special", token->special, err);
}

static smhf_status put_added_tokens(saver *s, smhf_error *err) {
    SMHF_TRY(smhf_json_write_key(&s->json, "added_tokens", err));
    SMHF_TRY(smhf_json_write_begin(&s->json, '[', err));
    for (int32_t i = 0; i < s->tokenizer->info.added_count; i++) {
        smhf_added_token token;
        smhf_tokenizer_added_token(s->tokenizer, i, &token);
        SMHF_TRY(smhf_json_write_begin(&s->json, '{', err));
        SMHF_TRY(put_int(s, "id", token.id, err));
        SMHF_TRY(put_token_flags(s, &token, err));
        SMHF_TRY(smhf_json_write_end(&s->json, '}', err));
    }
    return smhf_json_write_end(&s->json, ']', err);
}

static smhf_status put_normalizer(saver *s, smhf_error *err) {
    const smhf_tokenizer_info *info = &s->tokenizer->info;
    SMHF_TRY(open_object(s, "normalizer", err));
    SMHF_TRY(put_raw(s, "type", "\"BertNormalizer\"", err));
    SMHF_TRY(put_bool(s, "clean_text", info->clean_text, err));
    SMHF_TRY(put_bool(s, "handle_chinese_chars", info->tokenize_chinese_chars, err));
    SMHF_TRY(info->strip_accents_given ? put_bool(s, "strip_accents", info->strip_accents, err)
                                       : put_raw(s, "strip_accents", "null", err));
    SMHF_TRY(put_bool(s, "lowercase", info->do_lower_case, err));
    return smhf_json_write_end(&s->json, '}', err);
}

static smhf_status put_template(saver *s, const char *key, const smhf_template *template,
                                smhf_error *err) {
    SMHF_TRY(smhf_json_write_key(&s->json, key, err));
    SMHF_TRY(smhf_json_write_begin(&s->json, '[', err));
    for (int i = 0; i < template->count; i++) {
        const smhf_template_piece *piece = &template->pieces[i];
        smhf_bytes_view name = smhf_bytes_from_string(piece->sequence == 1 ? "B" : "A");
        SMHF_TRY(smhf_json_write_begin(&s->json, '{', err));
        if (piece->sequence < 0) {
            (void)smhf_tokenizer_content(s->tokenizer, piece->id, &name);
        }
        SMHF_TRY(open_object(s, piece->sequence < 0 ? "SpecialToken" : "Sequence", err));
        SMHF_TRY(put_text(s, "id", name, err));
        SMHF_TRY(put_int(s, "type_id", piece->type_id, err));
        SMHF_TRY(smhf_json_write_end(&s->json, '}', err));
        SMHF_TRY(smhf_json_write_end(&s->json, '}', err));
    }
    return smhf_json_write_end(&s->json, ']', err);
}

static smhf_status put_special(saver *s, int32_t id, smhf_error *err) {
    smhf_bytes_view token = {NULL, 0};
    (void)smhf_tokenizer_content(s->tokenizer, id, &token);
    SMHF_TRY(put_key(s, token, err));
    SMHF_TRY(smhf_json_write_begin(&s->json, '{', err));
    SMHF_TRY(put_text(s, "id", token, err));
    SMHF_TRY(smhf_json_write_key(&s->json, "ids", err));
    SMHF_TRY(smhf_json_write_begin(&s->json, '[', err));
    SMHF_TRY(smhf_json_write_int64(&s->json, id, err));
    SMHF_TRY(smhf_json_write_end(&s->json, ']', err));
    SMHF_TRY(smhf_json_write_key(&s->json, "tokens", err));
    SMHF_TRY(smhf_json_write_begin(&s->json, '[', err));
    SMHF_TRY(smhf_json_write_string(&s->json, token, err));
    SMHF_TRY(smhf_json_write_end(&s->json, ']', err));
    return smhf_json_write_end(&s->json, '}', err);
}

static smhf_status put_post_processor(saver *s, smhf_error *err) {
    const smhf_template *templates[2] = {&s->tokenizer->single, &s->tokenizer->pair};
    int32_t written[2 * SMHF_TEMPLATE_MAX];
    int count = 0;
    SMHF_TRY(open_object(s, "post_processor", err));
    SMHF_TRY(put_raw(s, "type", "\"TemplateProcessing\"", err));
    SMHF_TRY(put_template(s, "single", templates[0], err));
    SMHF_TRY(put_template(s, "pair", templates[1], err));
    SMHF_TRY(open_object(s, "special_tokens", err));
    for (int t = 0; t < 2; t++) {
        for (int i = 0; i < templates[t]->count; i++) {
            int32_t id = templates[t]->pieces[i].id;
            int known = templates[t]->pieces[i].sequence >= 0;
            for (int k = 0; k < count && !known; k++) {
                known = written[k] == id;
            }
            if (!known) {
                written[count++] = id;
                SMHF_TRY(put_special(s, id, err));
            }
        }
    }
    SMHF_TRY(smhf_json_write_end(&s->json, '}', err));
    return smhf_json_write_end(&s->json, '}', err);
}

static smhf_status put_decoder(saver *s, smhf_error *err) {
    if (!s->tokenizer->has_decoder) {
        return put_raw(s, "decoder", "null", err);
    }
    SMHF_TRY(open_object(s, "decoder", err));
    SMHF_TRY(put_raw(s, "type", "\"WordPiece\"", err));
    SMHF_TRY(put_text(s, "prefix", s->tokenizer->decoder_prefix, err));
    SMHF_TRY(put_bool(s, "cleanup", s->tokenizer->info.decode_cleanup, err));
    return smhf_json_write_end(&s->json, '}', err);
}

static smhf_status put_model(saver *s, smhf_error *err) {
    const smhf_tokenizer *tokenizer = s->tokenizer;
    SMHF_TRY(open_object(s, "model", err));
    SMHF_TRY(put_raw(s, "type", "\"WordPiece\"", err));
    SMHF_TRY(put_text(s, "unk_token", tokenizer->unk_token, err));
    SMHF_TRY(put_text(s, "continuing_subword_prefix", tokenizer->prefix, err));
    SMHF_TRY(put_int(s, "max_input_chars_per_word", (int64_t)tokenizer->max_word_chars, err));
    SMHF_TRY(open_object(s, "vocab", err));
    for (uint32_t id = 0; id < tokenizer->vocab.ids; id++) {
        smhf_bytes_view token;
        if (smhf_vocab_token(&tokenizer->vocab, (int32_t)id, &token)) {
            SMHF_TRY(put_key(s, token, err));
            SMHF_TRY(smhf_json_write_int64(&s->json, id, err));
        }
    }
    SMHF_TRY(smhf_json_write_end(&s->json, '}', err));
    return smhf_json_write_end(&s->json, '}', err);
}

static smhf_status make_tokenizer_json(saver *s, smhf_error *err) {
    SMHF_TRY(smhf_json_write_begin(&s->json, '{', err));
    SMHF_TRY(put_raw(s, "version", "\"1.0\"", err));
    SMHF_TRY(put_raw(s, "truncation", "null", err));
    SMHF_TRY(put_raw(s, "padding", "null", err));
    SMHF_TRY(put_added_tokens(s, err));
    SMHF_TRY(put_normalizer(s, err));
    SMHF_TRY(put_raw(s, "pre_tokenizer", "{\"type\":\"BertPreTokenizer\"}", err));
    SMHF_TRY(put_post_processor(s, err));
    SMHF_TRY(put_decoder(s, err));
    SMHF_TRY(put_model(s, err));
    return smhf_json_write_end(&s->json, '}', err);
}

static smhf_status make_vocab(saver *s, smhf_error *err) {
    for (uint32_t id = 0; id < s->tokenizer->vocab.ids; id++) {
        smhf_bytes_view token;
        if (smhf_vocab_token(&s->tokenizer->vocab, (int32_t)id, &token)) {
            SMHF_TRY(smhf_buffer_append(&s->buffer, token.data, token.size, err));
        }
        SMHF_TRY(smhf_buffer_append_byte(&s->buffer, '\n', err));
    }
    return SMHF_OK;
}

static smhf_status put_roles(saver *s, smhf_error *err) {
    for (int role = 0; role < SMHF_TOKEN_ROLES; role++) {
        smhf_bytes_view token = smhf_tokenizer_role_token(s->tokenizer, (smhf_token_role)role);
        if (token.data != NULL) {
            SMHF_TRY(put_text(s, smhf_role_names[role], token, err));
        }
    }
    return SMHF_OK;
}

static smhf_status make_config(saver *s, smhf_error *err) {
    const smhf_tokenizer_info *info = &s->tokenizer->info;
    SMHF_TRY(smhf_json_write_begin(&s->json, '{', err));
    SMHF_TRY(put_raw(s, "tokenizer_class", "\"BertTokenizer\"", err));
    SMHF_TRY(put_bool(s, "do_lower_case", info->do_lower_case, err));
    SMHF_TRY(info->strip_accents_given ? put_bool(s, "strip_accents", info->strip_accents, err)
                                       : put_raw(s, "strip_accents", "null", err));
    SMHF_TRY(put_bool(s, "tokenize_chinese_chars", info->tokenize_chinese_chars, err));
    SMHF_TRY((info->model_max_length != SMHF_UNSET)
                 ? put_int(s, "model_max_length", info->model_max_length, err)
                 : put_raw(s, "model_max_length", "1000000000000000019884624838656", err));
    SMHF_TRY(put_raw(s, "padding_side", info->padding_left ? "\"left\"" : "\"right\"", err));
    SMHF_TRY(put_raw(s, "truncation_side", info->truncation_left ? "\"left\"" : "\"right\"", err));
    SMHF_TRY(put_roles(s, err));
    SMHF_TRY(open_object(s, "added_tokens_decoder", err));
    for (int32_t i = 0; i < info->added_count; i++) {
        smhf_added_token token;
        char id[16];
        smhf_tokenizer_added_token(s->tokenizer, i, &token);
        snprintf(id, sizeof id, "%d", (int)token.id);
        SMHF_TRY(open_object(s, id, err));
        SMHF_TRY(put_token_flags(s, &token, err));
        SMHF_TRY(smhf_json_write_end(&s->json, '}', err));
    }
    SMHF_TRY(smhf_json_write_end(&s->json, '}', err));
    return smhf_json_write_end(&s->json, '}', err);
}

static smhf_status make_specials(saver *s, smhf_error *err) {
    SMHF_TRY(smhf_json_write_begin(&s->json, '{', err));
    SMHF_TRY(put_roles(s, err));
    return smhf_json_write_end(&s->json, '}', err);
}

static smhf_status write_one(const smhf_tokenizer *tokenizer, const char *folder, const char *name,
                             smhf_status (*make)(saver *, smhf_error *), smhf_error *err) {
    saver s = {.tokenizer = tokenizer};
    size_t size = strlen(folder) + strlen(name) + 2;
    char *path = smhf_malloc(size);
    smhf_status status;
    if (path == NULL) {
        return smhf_fail_nomem(err, "path", size);
    }
    snprintf(path, size, "%s/%s", folder, name);
    smhf_buffer_init(&s.buffer, 0);
    smhf_json_writer_init(&s.json, &s.buffer);
    status = make(&s, err);
    if (status == SMHF_OK) {
        status = smhf_file_write_atomic(path, smhf_buffer_view(&s.buffer), err);
    }
    smhf_buffer_deinit(&s.buffer);
    smhf_free(path);
    return status;
}

smhf_status smhf_tokenizer_save(const smhf_tokenizer *tokenizer, const char *folder,
                                smhf_error *err) {
    SMHF_TRY(write_one(tokenizer, folder, "tokenizer.json", make_tokenizer_json, err));
    SMHF_TRY(write_one(tokenizer, folder, "vocab.txt", make_vocab, err));
    SMHF_TRY(write_one(tokenizer, folder, "tokenizer_config.json", make_config, err));
    return write_one(tokenizer, folder, "special_tokens_map.json", make_specials, err);
}
