/* tokenizer.c: putting a tokenizer together, and answering questions about it. */
#include "tokenizer/tokenizer_internal.h"

#include "common/file.h"
#include "common/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char *const smhf_role_names[SMHF_TOKEN_ROLES] = {"unk_token", "sep_token", "pad_token",
                                                       "cls_token", "mask_token"};
static const char *const role_defaults[SMHF_TOKEN_ROLES] = {"[UNK]", "[SEP]", "[PAD]", "[CLS]",
                                                            "[MASK]"};

/* --- Specification --------------------------------------------------------------------------- */

void smhf_spec_init(smhf_tokenizer_spec *spec) {
    memset(spec, 0, sizeof *spec);
    smhf_arena_init(&spec->arena, 1 << 18);
    spec->max_word_chars = SMHF_UNSET;
    spec->clean = spec->cjk = spec->strip = spec->lower = SMHF_UNSET;
    spec->has_decoder = spec->decoder_cleanup = 1;
    spec->decoder_prefix = smhf_bytes_from_string("##");
    spec->model_max_length = SMHF_UNSET;
    spec->padding_left = spec->truncation_left = SMHF_UNSET;
}

void smhf_spec_deinit(smhf_tokenizer_spec *spec) {
    smhf_arena_deinit(&spec->arena);
    smhf_free(spec->entries);
    smhf_free(spec->added);
    memset(spec, 0, sizeof *spec);
}

smhf_status smhf_spec_copy(smhf_tokenizer_spec *spec, smhf_bytes_view text, smhf_bytes_view *out,
                           smhf_error *err) {
    char *copy = smhf_arena_copy_string(&spec->arena, text.data, text.size);
    if (copy == NULL) {
        return smhf_fail_nomem(err, "token", text.size);
    }
    *out = (smhf_bytes_view){(const uint8_t *)copy, text.size};
    return SMHF_OK;
}

smhf_status smhf_spec_add_entry(smhf_tokenizer_spec *spec, smhf_bytes_view token, int32_t id,
                                smhf_error *err) {
    SMHF_TRY(
        smhf_grow(&spec->entries, &spec->capacity, spec->count + 1, sizeof *spec->entries, err));
    spec->entries[spec->count++] = (smhf_vocab_entry){token, id};
    return SMHF_OK;
}

smhf_status smhf_spec_add_token(smhf_tokenizer_spec *spec, const smhf_added_token *token,
                                smhf_error *err) {
    smhf_added_token copy = *token;
    if (token->content.size == 0) {
        return SMHF_OK; /* as the reference: ignored */
    }
    if (smhf_utf8_validate(token->content.data, token->content.size) != token->content.size) {
        return smhf_fail(err, SMHF_E_ARG, "added token %zu is not UTF-8", spec->added_count);
    }
    SMHF_TRY(smhf_spec_copy(spec, token->content, &copy.content, err));
    SMHF_TRY(smhf_grow(&spec->added, &spec->added_capacity, spec->added_count + 1,
                       sizeof *spec->added, err));
    spec->added[spec->added_count++] = copy;
    return SMHF_OK;
}

/* --- Building -------------------------------------------------------------------------------- */

static smhf_status keep(smhf_tokenizer *tokenizer, smhf_bytes_view text, smhf_bytes_view *out,
                        smhf_error *err) {
    char *copy = smhf_arena_copy_string(&tokenizer->arena, text.data, text.size);
    if (copy == NULL) {
        return smhf_fail_nomem(err, "token", text.size);
    }
    *out = (smhf_bytes_view){(const uint8_t *)copy, text.size};
    return SMHF_OK;
}

static int32_t find_added(const smhf_tokenizer *tokenizer, smhf_bytes_view content) {
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        if (smhf_bytes_equal(tokenizer->added[i].content, content)) {
            return (int32_t)i;
        }
    }
    return -1;
}

typedef struct added_index { /* hash of contents, so that 100,000 added tokens stay linear */
    int32_t *slots;
    size_t mask;
} added_index;

static size_t hash_content(smhf_bytes_view content) {
    uint64_t hash = 1469598103934665603u;
    for (size_t i = 0; i < content.size; i++) {
        hash = (hash ^ content.data[i]) * 1099511628211u;
    }
    return (size_t)(hash ^ (hash >> 29));
}

static int32_t *index_slot(const smhf_tokenizer *tokenizer, const added_index *index,
                           smhf_bytes_view content) {
    size_t at = hash_content(content) & index->mask;
    while (index->slots[at] != 0 &&
           !smhf_bytes_equal(tokenizer->added[index->slots[at] - 1].content, content)) {
        at = (at + 1) & index->mask;
    }
    return &index->slots[at];
}

/* As the reference numbers them: the vocabulary's id, else one more than the greatest so far. */
static smhf_status add_tokens(smhf_tokenizer *tokenizer, const smhf_tokenizer_spec *spec,
                              smhf_error *err) {
    smhf_arena *arena = &tokenizer->arena;
    added_index index = {NULL, 15};
    int64_t greatest = -1;
    while (index.mask < spec->added_count * 2) {
        index.mask = index.mask * 2 + 1;
    }
    index.slots = smhf_arena_calloc(arena, index.mask + 1, sizeof *index.slots);
    tokenizer->added = smhf_arena_calloc(arena, spec->added_count + 1, sizeof *tokenizer->added);
    if (tokenizer->added == NULL || index.slots == NULL) {
        return smhf_fail_nomem(err, "added tokens", spec->added_count * sizeof *tokenizer->added);
    }
    for (size_t i = 0; i < spec->added_count; i++) {
        const smhf_added_token *token = &spec->added[i];
        int32_t *slot = index_slot(tokenizer, &index, token->content);
        if (*slot != 0) { /* known: the later flags hold; special stays special */
            smhf_added_token *old = &tokenizer->added[*slot - 1];
            int special = old->special | token->special;
            smhf_bytes_view content = old->content;
            int32_t id = old->id;
            *old = *token;
            old->content = content;
            old->id = id;
            old->special = special;
            continue;
        }
        smhf_added_token *added = &tokenizer->added[tokenizer->added_count];
        *added = *token;
        SMHF_TRY(keep(tokenizer, token->content, &added->content, err));
        added->id = smhf_vocab_find_view(&tokenizer->vocab, token->content);
        if (added->id < 0) {
            int64_t tokens = tokenizer->vocab.tokens;
            int64_t next =
                (greatest >= tokens || (tokens == 0 && greatest >= 0)) ? greatest + 1 : tokens;
            if (next > INT32_MAX) {
                return smhf_fail(err, SMHF_E_ARG, "too many added tokens");
            }
            added->id = (int32_t)next;
        }
        greatest = (added->id > greatest) ? added->id : greatest;
        tokenizer->added_count++;
        *slot = (int32_t)tokenizer->added_count;
    }
    return SMHF_OK;
}

static int compare_ids(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static smhf_status order_added(smhf_tokenizer *tokenizer, smhf_error *err) {
    size_t count = tokenizer->added_count;
    uint64_t *keys = smhf_arena_alloc(&tokenizer->arena, (count + 1) * sizeof *keys);
    tokenizer->added_by_id =
        smhf_arena_alloc(&tokenizer->arena, (count + 1) * sizeof *tokenizer->added_by_id);
    if (keys == NULL || tokenizer->added_by_id == NULL) {
        return smhf_fail_nomem(err, "added tokens", count * sizeof *keys);
    }
    for (size_t i = 0; i < count; i++) {
        keys[i] = (uint64_t)(uint32_t)tokenizer->added[i].id << 32 | i;
    }
    qsort(keys, count, sizeof *keys, compare_ids);
    for (size_t i = 0; i < count; i++) {
        tokenizer->added_by_id[i] = (int32_t)(uint32_t)keys[i];
    }
    return SMHF_OK;
}

/* The reference shows and decodes a normalized added token in its normalized form. */
static smhf_status settle_shown(smhf_tokenizer *tokenizer, smhf_error *err) {
    size_t count = tokenizer->added_count;
    const smhf_matcher *matcher = &tokenizer->normalized;
    tokenizer->added_shown =
        smhf_arena_calloc(&tokenizer->arena, count + 1, sizeof *tokenizer->added_shown);
    if (tokenizer->added_shown == NULL) {
        return smhf_fail_nomem(err, "added tokens", count * sizeof *tokenizer->added_shown);
    }
    for (size_t i = 0; i < count; i++) {
        tokenizer->added_shown[i] = tokenizer->added[i].content;
    }
    for (size_t i = 0; i < matcher->count; i++) {
        const smhf_matcher_entry *entry = &matcher->entries[i];
        uint8_t *text = smhf_arena_alloc(&tokenizer->arena, (size_t)entry->length * 4 + 1);
        size_t size = 0;
        if (text == NULL) {
            return smhf_fail_nomem(err, "added tokens", (size_t)entry->length * 4);
        }
        for (uint32_t k = 0; k < entry->length; k++) {
            size += smhf_utf8_encode(matcher->chars[entry->start + k], text + size);
        }
        tokenizer->added_shown[entry->token] = (smhf_bytes_view){text, size};
    }
    return SMHF_OK;
}

static void put_special(smhf_template *template, int32_t id, int32_t type_id) {
    template->pieces[template->count++] = (smhf_template_piece){-1, id, type_id};
    template->specials++;
}

static void put_sequence(smhf_template *template, int32_t sequence, int32_t type_id) {
    template->pieces[template->count++] = (smhf_template_piece){sequence, -1, type_id};
}

/* [CLS] A [SEP] and [CLS] A [SEP] B [SEP]. */
static smhf_status default_templates(smhf_tokenizer *tokenizer, smhf_error *err) {
    int32_t cls = tokenizer->info.role_ids[SMHF_TOKEN_CLS];
    int32_t sep = tokenizer->info.role_ids[SMHF_TOKEN_SEP];
    if (cls < 0 || sep < 0) {
        smhf_bytes_view missing = tokenizer->role_tokens[cls < 0 ? SMHF_TOKEN_CLS : SMHF_TOKEN_SEP];
        return smhf_fail(err, SMHF_E_PARSE, "the vocabulary has no token \"%.*s\"",
                         (int)missing.size, (const char *)missing.data);
    }
    put_special(&tokenizer->single, cls, 0);
    put_sequence(&tokenizer->single, 0, 0);
    put_special(&tokenizer->single, sep, 0);
    tokenizer->pair = tokenizer->single;
    put_sequence(&tokenizer->pair, 1, 1);
    put_special(&tokenizer->pair, sep, 1);
    return SMHF_OK;
}

static int pick(int from_options, int from_files, int otherwise) {
    return (from_options != SMHF_UNSET) ? (from_options != 0)
           : (from_files != SMHF_UNSET) ? (from_files != 0)
                                        : otherwise;
}

static smhf_status settle_roles(smhf_tokenizer *tokenizer, const smhf_tokenizer_spec *spec,
                                const smhf_tokenizer_options *options, smhf_error *err) {
    const char *given[SMHF_TOKEN_ROLES] = {options->unk_token, options->sep_token,
                                           options->pad_token, options->cls_token,
                                           options->mask_token};
    for (int role = 0; role < SMHF_TOKEN_ROLES; role++) {
        smhf_bytes_view token = smhf_bytes_from_string(role_defaults[role]);
        if (given[role] != NULL) {
            token = smhf_bytes_from_string(given[role]);
        } else if (spec->roles[role].data != NULL) {
            token = spec->roles[role];
        } else if (role == SMHF_TOKEN_UNK && spec->unk_token.data != NULL) {
            token = spec->unk_token;
        }
        SMHF_TRY(keep(tokenizer, token, &tokenizer->role_tokens[role], err));
    }
    return SMHF_OK;
}

/* Special tokens that the files do not list: those of the roles that the vocabulary has. */
static smhf_status add_roles(smhf_tokenizer_spec *spec, const smhf_tokenizer *tokenizer,
                             smhf_error *err) {
    for (int role = 0; role < SMHF_TOKEN_ROLES; role++) {
        smhf_added_token token = {.content = tokenizer->role_tokens[role], .id = -1, .special = 1};
        int known = 0;
        for (size_t i = 0; i < spec->added_count; i++) {
            known |= smhf_bytes_equal(spec->added[i].content, token.content);
        }
        if (!known && smhf_vocab_find_view(&tokenizer->vocab, token.content) >= 0) {
            SMHF_TRY(smhf_spec_add_token(spec, &token, err));
        }
    }
    return SMHF_OK;
}

static void settle_info(smhf_tokenizer *tokenizer, const smhf_tokenizer_spec *spec,
                        const smhf_tokenizer_options *options) {
    smhf_tokenizer_info *info = &tokenizer->info;
    int32_t beyond = 0;
    info->do_lower_case = tokenizer->charmap.lower;
    info->strip_accents = tokenizer->charmap.strip;
    info->tokenize_chinese_chars = tokenizer->charmap.cjk;
    info->clean_text = tokenizer->charmap.clean;
    info->strip_accents_given = options->strip_accents != SMHF_UNSET || spec->strip != SMHF_UNSET;
    info->model_max_length = (options->model_max_length != SMHF_UNSET) ? options->model_max_length
                                                                       : spec->model_max_length;
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        smhf_bytes_view token;
        beyond += !smhf_vocab_token(&tokenizer->vocab, tokenizer->added[i].id, &token) ||
                  !smhf_bytes_equal(token, tokenizer->added[i].content);
    }
    info->vocab_size = (int32_t)tokenizer->vocab.tokens;
    info->vocab_ids = (int32_t)tokenizer->vocab.ids;
    info->total_size = info->vocab_size + beyond;
    info->added_count = (int32_t)tokenizer->added_count;
    info->padding_left = spec->padding_left == 1;
    info->truncation_left = spec->truncation_left == 1;
    info->decode_cleanup = spec->decoder_cleanup;
    for (int role = 0; role < SMHF_TOKEN_ROLES; role++) {
        info->role_ids[role] = smhf_tokenizer_token_to_id(tokenizer, tokenizer->role_tokens[role]);
    }
}

static smhf_status build(smhf_tokenizer *tokenizer, smhf_tokenizer_spec *spec,
                         const smhf_tokenizer_options *options, smhf_error *err) {
    smhf_charmap *map = &tokenizer->charmap;
    map->lower = pick(options->do_lower_case, spec->lower, 1);
    map->strip = pick(options->strip_accents, spec->strip, map->lower);
    map->cjk = pick(options->tokenize_chinese_chars, spec->cjk, 1);
    map->clean = pick(options->clean_text, spec->clean, 1);
    SMHF_TRY(smhf_charmap_build(map, &tokenizer->arena, err));

    smhf_bytes_view prefix =
        (spec->prefix.data != NULL) ? spec->prefix : smhf_bytes_from_string("##");
    SMHF_TRY(keep(tokenizer, prefix, &tokenizer->prefix, err));
    SMHF_TRY(smhf_vocab_build(&tokenizer->vocab, &tokenizer->arena, spec->entries, spec->count,
                              tokenizer->prefix, err));
    tokenizer->max_word_chars = (spec->max_word_chars >= 0) ? (size_t)spec->max_word_chars : 100;

    SMHF_TRY(settle_roles(tokenizer, spec, options, err));
    if (!spec->has_template) {
        SMHF_TRY(add_roles(spec, tokenizer, err));
    }
    SMHF_TRY(add_tokens(tokenizer, spec, err));
    SMHF_TRY(order_added(tokenizer, err));
    SMHF_TRY(smhf_matcher_build(&tokenizer->raw, tokenizer, 0, err));
    SMHF_TRY(smhf_matcher_build(&tokenizer->normalized, tokenizer, 1, err));
    SMHF_TRY(settle_shown(tokenizer, err));
    tokenizer->rows = smhf_lane_pick();
    /* The quick way knows no tokens to be searched in normalized text, and takes a word of 16 bytes
     * for one that is short enough. */
    if (tokenizer->normalized.count == 0 && tokenizer->max_word_chars >= WORD_LONG_BYTES) {
        tokenizer->lane = tokenizer->rows;
    }

    /* The model's own unknown token must be in the model; a role may be an added token. */
    if (options->unk_token == NULL && spec->unk_token.data != NULL) {
        SMHF_TRY(keep(tokenizer, spec->unk_token, &tokenizer->unk_token, err));
    } else {
        tokenizer->unk_token = tokenizer->role_tokens[SMHF_TOKEN_UNK];
    }
    tokenizer->unk_id = smhf_vocab_find_view(&tokenizer->vocab, tokenizer->unk_token);
    tokenizer->has_decoder = spec->has_decoder;
    SMHF_TRY(keep(tokenizer, spec->decoder_prefix, &tokenizer->decoder_prefix, err));
    settle_info(tokenizer, spec, options);
    if (spec->has_template) {
        tokenizer->single = spec->single;
        tokenizer->pair = spec->pair;
    } else {
        if (tokenizer->unk_id < 0) {
            return smhf_fail(err, SMHF_E_PARSE, "the vocabulary has no unknown token \"%.*s\"",
                             (int)tokenizer->unk_token.size,
                             (const char *)tokenizer->unk_token.data);
        }
        SMHF_TRY(default_templates(tokenizer, err));
    }
    tokenizer->info.specials_single = tokenizer->single.specials;
    tokenizer->info.specials_pair = tokenizer->pair.specials;
    return SMHF_OK;
}

smhf_status smhf_tokenizer_build(smhf_tokenizer_spec *spec, const smhf_tokenizer_options *options,
                                 smhf_tokenizer **out, smhf_error *err) {
    static const smhf_tokenizer_options defaults = SMHF_TOKENIZER_DEFAULTS;
    smhf_tokenizer *tokenizer = smhf_calloc(1, sizeof *tokenizer);
    *out = NULL;
    if (tokenizer == NULL) {
        return smhf_fail_nomem(err, "tokenizer", sizeof *tokenizer);
    }
    smhf_arena_init(&tokenizer->arena, 1 << 16);
    tokenizer->shelf = smhf_shelf_new();
    smhf_status status = (tokenizer->shelf != NULL)
                             ? build(tokenizer, spec, (options != NULL) ? options : &defaults, err)
                             : smhf_fail_nomem(err, "tokenizer", sizeof *tokenizer);
    if (status != SMHF_OK) {
        smhf_tokenizer_free(tokenizer);
        return status;
    }
    *out = tokenizer;
    return SMHF_OK;
}

void smhf_tokenizer_free(smhf_tokenizer *tokenizer) {
    if (tokenizer == NULL) {
        return;
    }
    for (int i = 0; i < SMHF_WORKER_CACHE; i++) {
        smhf_worker_free(atomic_load(&tokenizer->idle[i]));
    }
    smhf_shelf_release(tokenizer->shelf);
    smhf_arena_deinit(&tokenizer->arena);
    smhf_free(tokenizer);
}

/* --- Opening --------------------------------------------------------------------------------- */

static smhf_status read_vocab(smhf_tokenizer_spec *spec, smhf_bytes_view text, smhf_error *err) {
    return smhf_vocab_read_lines(text, &spec->entries, &spec->count, &spec->capacity, err);
}

typedef smhf_status (*text_reader)(smhf_tokenizer_spec *, smhf_bytes_view, smhf_error *);

/* Reads into a spec and builds, with everything given back in the one exit. */
static smhf_status open_text(smhf_bytes_view text, text_reader reader,
                             const smhf_tokenizer_options *options, smhf_tokenizer **out,
                             smhf_error *err) {
    smhf_tokenizer_spec spec;
    *out = NULL;
    smhf_spec_init(&spec);
    smhf_status status = reader(&spec, text, err);
    if (status == SMHF_OK) {
        status = smhf_tokenizer_build(&spec, options, out, err);
    }
    smhf_spec_deinit(&spec);
    return status;
}

smhf_status smhf_tokenizer_from_vocab(smhf_bytes_view text, const smhf_tokenizer_options *options,
                                      smhf_tokenizer **out, smhf_error *err) {
    return open_text(text, read_vocab, options, out, err);
}

smhf_status smhf_tokenizer_from_json(smhf_bytes_view text, const smhf_tokenizer_options *options,
                                     smhf_tokenizer **out, smhf_error *err) {
    return open_text(text, smhf_spec_read_tokenizer_json, options, out, err);
}

smhf_status smhf_tokenizer_from_tokens(const smhf_bytes_view *tokens, size_t count,
                                       const smhf_tokenizer_options *options, smhf_tokenizer **out,
                                       smhf_error *err) {
    smhf_tokenizer_spec spec;
    smhf_status status = SMHF_OK;
    *out = NULL;
    smhf_spec_init(&spec);
    for (size_t i = 0; i < count && status == SMHF_OK; i++) {
        if (smhf_utf8_validate(tokens[i].data, tokens[i].size) != tokens[i].size) {
            status = smhf_fail(err, SMHF_E_ARG, "token %zu is not UTF-8", i);
        } else if (i >= INT32_MAX) {
            status = smhf_fail(err, SMHF_E_ARG, "%zu tokens are too many", count);
        } else {
            status = smhf_spec_add_entry(&spec, tokens[i], (int32_t)i, err);
        }
    }
    if (status == SMHF_OK && count == 0) {
        status = smhf_fail(err, SMHF_E_ARG, "vocabulary is empty");
    }
    if (status == SMHF_OK) {
        status = smhf_tokenizer_build(&spec, options, out, err);
    }
    smhf_spec_deinit(&spec);
    return status;
}

/* A name inside a folder, or the folder's own path when `name` is NULL. */
static smhf_status join_path(const char *folder, const char *name, char **out, smhf_error *err) {
    size_t size = strlen(folder) + (name != NULL ? strlen(name) : 0) + 2;
    *out = smhf_malloc(size);
    if (*out == NULL) {
        return smhf_fail_nomem(err, "path", size);
    }
    snprintf(*out, size, "%s%s%s", folder, name != NULL ? "/" : "", name != NULL ? name : "");
    return SMHF_OK;
}

/* Reads one file into the spec; the map stays until the spec is built, because views point into
 * it. `found` NULL: the file must be there. */
static smhf_status read_file(smhf_tokenizer_spec *spec, const char *folder, const char *name,
                             text_reader reader, smhf_bytes_view *map, int *found,
                             smhf_error *err) {
    char *path = NULL;
    struct stat info;
    smhf_status status = join_path(folder, name, &path, err);
    if (status != SMHF_OK) {
        return status;
    }
    if (found != NULL) {
        *found = (stat(path, &info) == 0);
        if (!*found) {
            smhf_free(path);
            return SMHF_OK;
        }
    }
    status = smhf_file_map(path, map, err);
    if (status == SMHF_OK) {
        status = reader(spec, *map, err);
        if (status != SMHF_OK) {
            smhf_error_prefix(err, "%s", path);
        }
    }
    smhf_free(path);
    return status;
}

static int ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* A file alone: JSON when it is called so or looks so. */
static smhf_status open_file(smhf_tokenizer_spec *spec, const char *path, smhf_bytes_view *map,
                             smhf_error *err) {
    text_reader reader = ends_with(path, ".json") ? smhf_spec_read_tokenizer_json : read_vocab;
    return read_file(spec, path, NULL, reader, map, NULL, err);
}

static smhf_status open_folder(smhf_tokenizer_spec *spec, const char *path, smhf_bytes_view maps[4],
                               smhf_error *err) {
    int found = 0;
    SMHF_TRY(read_file(spec, path, "tokenizer.json", smhf_spec_read_tokenizer_json, &maps[0],
                       &found, err));
    if (!found) {
        SMHF_TRY(read_file(spec, path, "vocab.txt", read_vocab, &maps[0], &found, err));
        if (!found) {
            return smhf_fail(err, SMHF_E_IO,
                             "%s: expected tokenizer.json or vocab.txt in this "
                             "folder, found neither",
                             path);
        }
        SMHF_TRY(read_file(spec, path, "added_tokens.json", smhf_spec_read_added_json, &maps[3],
                           &found, err));
    }
    SMHF_TRY(read_file(spec, path, "special_tokens_map.json", smhf_spec_read_config_json, &maps[1],
                       &found, err));
    return read_file(spec, path, "tokenizer_config.json", smhf_spec_read_config_json, &maps[2],
                     &found, err);
}

smhf_status smhf_tokenizer_open(const char *path, const smhf_tokenizer_options *options,
                                smhf_tokenizer **out, smhf_error *err) {
    smhf_tokenizer_spec spec;
    smhf_bytes_view maps[4] = {{NULL, 0}, {NULL, 0}, {NULL, 0}, {NULL, 0}};
    struct stat info;
    smhf_status status;
    *out = NULL;
    smhf_spec_init(&spec);
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        status = open_folder(&spec, path, maps, err);
    } else {
        status = open_file(&spec, path, &maps[0], err);
    }
    if (status == SMHF_OK) {
        status = smhf_tokenizer_build(&spec, options, out, err);
        if (status != SMHF_OK) {
            smhf_error_prefix(err, "%s", path);
        }
    }
    for (int i = 0; i < 4; i++) {
        smhf_file_unmap(&maps[i]);
    }
    smhf_spec_deinit(&spec);
    return status;
}

/* --- Asking ---------------------------------------------------------------------------------- */

void smhf_tokenizer_describe(const smhf_tokenizer *tokenizer, smhf_tokenizer_info *out) {
    *out = tokenizer->info;
}

int32_t smhf_tokenizer_token_to_id(const smhf_tokenizer *tokenizer, smhf_bytes_view token) {
    int32_t id = smhf_vocab_find_view(&tokenizer->vocab, token);
    if (id < 0) {
        int32_t index = find_added(tokenizer, token);
        return (index >= 0) ? tokenizer->added[index].id : -1;
    }
    return id;
}

/* Index of the added token with this id (the last one added), or -1. */
static int32_t added_with_id(const smhf_tokenizer *tokenizer, int32_t id) {
    size_t low = 0, high = tokenizer->added_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (tokenizer->added[tokenizer->added_by_id[middle]].id <= id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == 0 || tokenizer->added[tokenizer->added_by_id[low - 1]].id != id) {
        return -1;
    }
    return tokenizer->added_by_id[low - 1];
}

int smhf_tokenizer_id_to_token(const smhf_tokenizer *tokenizer, int32_t id, smhf_bytes_view *out) {
    int32_t index = added_with_id(tokenizer, id);
    if (index >= 0) {
        *out = tokenizer->added_shown[index];
        return 1;
    }
    return smhf_vocab_token(&tokenizer->vocab, id, out);
}

int smhf_tokenizer_content(const smhf_tokenizer *tokenizer, int32_t id, smhf_bytes_view *out) {
    int32_t index = added_with_id(tokenizer, id);
    if (index >= 0) {
        *out = tokenizer->added[index].content;
        return 1;
    }
    return smhf_vocab_token(&tokenizer->vocab, id, out);
}

int smhf_tokenizer_vocab_token(const smhf_tokenizer *tokenizer, int32_t id, smhf_bytes_view *out) {
    return smhf_vocab_token(&tokenizer->vocab, id, out);
}

void smhf_tokenizer_added_token(const smhf_tokenizer *tokenizer, int32_t index,
                                smhf_added_token *out) {
    SMHF_ASSERT(index >= 0 && (size_t)index < tokenizer->added_count);
    *out = tokenizer->added[tokenizer->added_by_id[index]];
}

/* As the reference: what the id is shown as must be the content of a special token. */
int smhf_tokenizer_is_special(const smhf_tokenizer *tokenizer, int32_t id) {
    int32_t index = added_with_id(tokenizer, id);
    if (index >= 0 && tokenizer->added[index].normalized) {
        index = find_added(tokenizer, tokenizer->added_shown[index]);
    }
    return index >= 0 && tokenizer->added[index].special;
}

smhf_bytes_view smhf_tokenizer_role_token(const smhf_tokenizer *tokenizer, smhf_token_role role) {
    return (tokenizer->info.role_ids[role] >= 0) ? tokenizer->role_tokens[role]
                                                 : (smhf_bytes_view){NULL, 0};
}

/* --- A copy with more added tokens ----------------------------------------------------------- */

static smhf_status spec_of(const smhf_tokenizer *tokenizer, smhf_tokenizer_spec *spec,
                           smhf_error *err) {
    for (uint32_t id = 0; id < tokenizer->vocab.ids; id++) {
        smhf_bytes_view token;
        if (smhf_vocab_token(&tokenizer->vocab, (int32_t)id, &token)) {
            SMHF_TRY(smhf_spec_add_entry(spec, token, (int32_t)id, err));
        }
    }
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        SMHF_TRY(smhf_spec_add_token(spec, &tokenizer->added[i], err));
    }
    spec->unk_token = tokenizer->unk_token;
    spec->prefix = tokenizer->prefix;
    spec->max_word_chars = (int64_t)tokenizer->max_word_chars;
    spec->clean = tokenizer->charmap.clean;
    spec->cjk = tokenizer->charmap.cjk;
    spec->lower = tokenizer->charmap.lower;
    spec->strip = tokenizer->info.strip_accents_given ? tokenizer->charmap.strip : SMHF_UNSET;
    spec->single = tokenizer->single;
    spec->pair = tokenizer->pair;
    spec->has_template = 1;
    spec->has_decoder = tokenizer->has_decoder;
    spec->decoder_cleanup = tokenizer->info.decode_cleanup;
    spec->decoder_prefix = tokenizer->decoder_prefix;
    memcpy(spec->roles, tokenizer->role_tokens, sizeof spec->roles);
    spec->model_max_length = tokenizer->info.model_max_length;
    spec->padding_left = tokenizer->info.padding_left;
    spec->truncation_left = tokenizer->info.truncation_left;
    return SMHF_OK;
}

smhf_status smhf_tokenizer_with_tokens(const smhf_tokenizer *tokenizer,
                                       const smhf_added_token *tokens, size_t count,
                                       smhf_tokenizer **out, smhf_error *err) {
    smhf_tokenizer_spec spec;
    *out = NULL;
    smhf_spec_init(&spec);
    smhf_status status = spec_of(tokenizer, &spec, err);
    for (size_t i = 0; i < count && status == SMHF_OK; i++) {
        status = smhf_spec_add_token(&spec, &tokens[i], err);
    }
    if (status == SMHF_OK) {
        status = smhf_tokenizer_build(&spec, NULL, out, err);
    }
    smhf_spec_deinit(&spec);
    return status;
}
