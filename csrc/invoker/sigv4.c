#include "invoker/sigv4.h"

#include "common/mem.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define DIGEST 32

struct smhf_sigv4 {
    EVP_MD *sha256; /* fetched once: an implicit fetch per hash costs more than the hash */
    int cached;
    uint8_t day_key[DIGEST];
    uint8_t secret_hash[DIGEST]; /* the cached key's secret, as its hash */
    char date[9];
    char region[64], service[64];
};

void smhf_secret_wipe(void *data, size_t size) {
    if (data != NULL) {
        OPENSSL_cleanse(data, size);
    }
}

smhf_status smhf_sigv4_new(smhf_sigv4 **out, smhf_error *err) {
    *out = NULL;
    smhf_sigv4 *signer = smhf_calloc(1, sizeof *signer);
    if (signer == NULL) {
        return smhf_fail_nomem(err, "signer", sizeof *signer);
    }
    signer->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    if (signer->sha256 == NULL) {
        smhf_free(signer);
        return smhf_fail(err, SMHF_E_UNAVAILABLE, "OpenSSL offers no SHA-256");
    }
    *out = signer;
    return SMHF_OK;
}

void smhf_sigv4_free(smhf_sigv4 *signer) {
    if (signer != NULL) {
        EVP_MD_free(signer->sha256);
        smhf_secret_wipe(signer, sizeof *signer);
        smhf_free(signer);
    }
}

void smhf_sigv4_signature_init(smhf_sigv4_signature *signature) {
    memset(signature, 0, sizeof *signature);
    smhf_buffer_init(&signature->canonical, 0);
    smhf_buffer_init(&signature->string_to_sign, 0);
    smhf_buffer_init(&signature->authorization, 0);
    smhf_buffer_init(&signature->query, 0);
}

void smhf_sigv4_signature_deinit(smhf_sigv4_signature *signature) {
    smhf_buffer_deinit(&signature->canonical);
    smhf_buffer_deinit(&signature->string_to_sign);
    smhf_buffer_deinit(&signature->authorization);
    smhf_buffer_deinit(&signature->query);
}

/* --- hashes ----------------------------------------------------------------------------------- */

static smhf_status sha256(const smhf_sigv4 *signer, const void *data, size_t size,
                          uint8_t out[DIGEST], smhf_error *err) {
    if (EVP_Digest(data, size, out, NULL, signer->sha256, NULL) != 1) {
        return smhf_fail(err, SMHF_E_BACKEND, "OpenSSL could not hash %zu bytes", size);
    }
    return SMHF_OK;
}

static smhf_status hmac(const smhf_sigv4 *signer, const void *key, size_t key_size,
                        const void *data, size_t size, uint8_t out[DIGEST], smhf_error *err) {
    unsigned length = DIGEST;
    if (HMAC(signer->sha256, key, (int)key_size, data, size, out, &length) == NULL) {
        return smhf_fail(err, SMHF_E_BACKEND, "OpenSSL could not sign %zu bytes", size);
    }
    return SMHF_OK;
}

static void to_hex(const uint8_t *data, size_t size, char *out) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++) {
        out[2 * i] = digits[data[i] >> 4];
        out[2 * i + 1] = digits[data[i] & 15];
    }
    out[2 * size] = '\0';
}

/* --- encoding --------------------------------------------------------------------------------- */

static int unreserved(uint8_t c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

static smhf_status append_encoded(smhf_buffer *out, const uint8_t *data, size_t size,
                                  int keep_slash, smhf_error *err) {
    for (size_t i = 0; i < size; i++) {
        if (unreserved(data[i]) || (keep_slash && data[i] == '/')) {
            SMHF_TRY(smhf_buffer_append_byte(out, data[i], err));
        } else {
            SMHF_TRY(smhf_buffer_append_format(out, err, "%%%02X", data[i]));
        }
    }
    return SMHF_OK;
}

static int hex_value(uint8_t c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return (c >= 'a' && c <= 'f') ? c - 'a' + 10 : -1;
}

/* Percent sequences become their byte, the rest is encoded: both spellings sign alike. */
static smhf_status append_query_part(smhf_buffer *out, const uint8_t *data, size_t size,
                                     smhf_error *err) {
    for (size_t i = 0; i < size; i++) {
        uint8_t byte = data[i];
        if (byte == '%' && size - i > 2 && hex_value(data[i + 1]) >= 0 &&
            hex_value(data[i + 2]) >= 0) {
            byte = (uint8_t)(hex_value(data[i + 1]) * 16 + hex_value(data[i + 2]));
            i += 2;
        }
        SMHF_TRY(append_encoded(out, &byte, 1, 0, err));
    }
    return SMHF_OK;
}

/* Removes empty, "." and ".." segments (RFC 3986 section 5.2.4, doubled slashes too); in place. */
static size_t normalize_path(uint8_t *path, size_t size) {
    size_t out = 0;
    int trailing = size > 0 && path[size - 1] == '/';
    for (size_t at = 0; at < size;) {
        while (at < size && path[at] == '/') {
            at++;
        }
        size_t end = at;
        while (end < size && path[end] != '/') {
            end++;
        }
        size_t length = end - at;
        if (length == 1 && path[at] == '.') {
            trailing = 1;
        } else if (length == 2 && path[at] == '.' && path[at + 1] == '.') {
            while (out > 0 && path[out - 1] != '/') {
                out--;
            }
            out -= (out > 0);
            trailing = 1;
        } else if (length > 0) {
            path[out++] = '/';
            memmove(path + out, path + at, length);
            out += length;
            trailing = end < size;
        }
        at = end;
    }
    if (out == 0 || (trailing && path[out - 1] != '/')) {
        path[out++] = '/';
    }
    return out;
}

static smhf_status append_path(smhf_buffer *out, const smhf_sigv4_request *request,
                               smhf_error *err) {
    if (!request->normalize_path) {
        return append_encoded(out, request->path.data, request->path.size, 1, err);
    }
    smhf_buffer path;
    smhf_buffer_init(&path, 0);
    smhf_status status = smhf_buffer_reserve(&path, request->path.size + 1, err);
    if (status == SMHF_OK) {
        memcpy(path.data, request->path.data, request->path.size);
        path.size = normalize_path(path.data, request->path.size);
        status = append_encoded(out, path.data, path.size, 1, err);
    }
    smhf_buffer_deinit(&path);
    return status;
}

/* --- sorted lists ----------------------------------------------------------------------------- */

typedef struct entry {
    char *name;  /* lower-case header name, or encoded query name */
    char *value; /* canonical header value, or encoded query value */
    size_t order;
} entry;

typedef struct entry_list {
    entry *items;
    size_t count, capacity;
} entry_list;

static void list_deinit(entry_list *list) {
    for (size_t i = 0; i < list->count; i++) {
        smhf_free(list->items[i].name);
        smhf_free(list->items[i].value);
    }
    smhf_free(list->items);
    *list = (entry_list){NULL, 0, 0};
}

/* Takes over both strings (buffers are NUL-terminated and emptied). */
static smhf_status list_add(entry_list *list, smhf_buffer *name, smhf_buffer *value,
                            smhf_error *err) {
    SMHF_TRY(smhf_buffer_append_byte(name, '\0', err));
    SMHF_TRY(smhf_buffer_append_byte(value, '\0', err));
    if (list->count == list->capacity) {
        size_t capacity = list->capacity > 0 ? 2 * list->capacity : 16;
        entry *grown = smhf_realloc(list->items, capacity * sizeof *grown);
        if (grown == NULL) {
            return smhf_fail_nomem(err, "signer", capacity * sizeof *grown);
        }
        list->items = grown;
        list->capacity = capacity;
    }
    list->items[list->count] = (entry){(char *)name->data, (char *)value->data, list->count};
    list->count++;
    smhf_buffer_init(name, 0);
    smhf_buffer_init(value, 0);
    return SMHF_OK;
}

static int compare_headers(const void *a, const void *b) {
    const entry *x = a, *y = b;
    int by_name = strcmp(x->name, y->name);
    return by_name != 0 ? by_name
                        : (x->order < y->order ? -1 : 1); /* duplicates keep their order */
}

static int compare_queries(const void *a, const void *b) {
    const entry *x = a, *y = b;
    int by_name = strcmp(x->name, y->name);
    return by_name != 0 ? by_name : strcmp(x->value, y->value);
}

/* What proxies and clients may change on the way is not signed (botocore's list). */
static int never_signed(const char *name) {
    static const char *const names[] = {
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-amzn-trace-id",
        "authorization",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcasecmp(name, names[i]) == 0) {
            return 1;
        }
    }
    return 0;
}

static int is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f';
}

static smhf_status add_header(entry_list *list, const char *name, const char *value,
                              smhf_error *err) {
    smhf_buffer lower, tidy;
    smhf_status status = SMHF_OK;
    smhf_buffer_init(&lower, 0);
    smhf_buffer_init(&tidy, 0);
    for (const char *c = name; *c != '\0' && status == SMHF_OK; c++) {
        uint8_t byte = (uint8_t)((*c >= 'A' && *c <= 'Z') ? *c + 32 : *c);
        status = smhf_buffer_append_byte(&lower, byte, err);
    }
    int pending = 0;
    for (const char *c = value; *c != '\0' && status == SMHF_OK; c++) {
        if (is_space(*c)) {
            pending = tidy.size > 0;
            continue;
        }
        if (pending) {
            status = smhf_buffer_append_byte(&tidy, ' ', err);
            pending = 0;
        }
        if (status == SMHF_OK) {
            status = smhf_buffer_append_byte(&tidy, (uint8_t)*c, err);
        }
    }
    if (status == SMHF_OK) {
        status = list_add(list, &lower, &tidy, err);
    }
    smhf_buffer_deinit(&lower);
    smhf_buffer_deinit(&tidy);
    return status;
}

static smhf_status add_query(entry_list *list, smhf_bytes_view name, smhf_bytes_view value,
                             smhf_error *err) {
    smhf_buffer left, right;
    smhf_buffer_init(&left, 0);
    smhf_buffer_init(&right, 0);
    smhf_status status = append_query_part(&left, name.data, name.size, err);
    if (status == SMHF_OK) {
        status = append_query_part(&right, value.data, value.size, err);
    }
    if (status == SMHF_OK) {
        status = list_add(list, &left, &right, err);
    }
    smhf_buffer_deinit(&left);
    smhf_buffer_deinit(&right);
    return status;
}

static smhf_status split_query(entry_list *list, smhf_bytes_view query, smhf_error *err) {
    for (size_t at = 0; at < query.size;) {
        const uint8_t *start = query.data + at;
        const uint8_t *end = memchr(start, '&', query.size - at);
        size_t length = (end != NULL) ? (size_t)(end - start) : query.size - at;
        const uint8_t *equals = memchr(start, '=', length);
        size_t name = (equals != NULL) ? (size_t)(equals - start) : length;
        smhf_bytes_view value = {start + name + (equals != NULL), length - name - (equals != NULL)};
        if (length > 0) {
            SMHF_TRY(add_query(list, (smhf_bytes_view){start, name}, value, err));
        }
        at += length + 1;
    }
    return SMHF_OK;
}

static smhf_status append_query(smhf_buffer *out, const entry_list *list, smhf_error *err) {
    for (size_t i = 0; i < list->count; i++) {
        SMHF_TRY(smhf_buffer_append_format(out, err, "%s%s=%s", i > 0 ? "&" : "",
                                           list->items[i].name, list->items[i].value));
    }
    return SMHF_OK;
}

/* "a;b;c", duplicates once. The list is sorted. */
static smhf_status append_names(smhf_buffer *out, const entry_list *list, smhf_error *err) {
    for (size_t i = 0; i < list->count; i++) {
        if (i > 0 && strcmp(list->items[i].name, list->items[i - 1].name) == 0) {
            continue;
        }
        SMHF_TRY(
            smhf_buffer_append_format(out, err, "%s%s", i > 0 ? ";" : "", list->items[i].name));
    }
    return SMHF_OK;
}

static smhf_status append_headers(smhf_buffer *out, const entry_list *list, smhf_error *err) {
    for (size_t i = 0; i < list->count; i++) {
        const entry *item = &list->items[i];
        int again = i > 0 && strcmp(item->name, list->items[i - 1].name) == 0;
        int more = i + 1 < list->count && strcmp(item->name, list->items[i + 1].name) == 0;
        SMHF_TRY(smhf_buffer_append_format(out, err, "%s%s%s%s", again ? "," : item->name,
                                           again ? "" : ":", item->value, more ? "" : "\n"));
    }
    return SMHF_OK;
}

/* --- the signature ---------------------------------------------------------------------------- */

static smhf_status day_key(smhf_sigv4 *signer, const char *secret, const char *date,
                           const char *region, const char *service, smhf_error *err) {
    uint8_t hash[DIGEST], key[DIGEST];
    SMHF_TRY(sha256(signer, secret, strlen(secret), hash, err));
    if (signer->cached && memcmp(hash, signer->secret_hash, DIGEST) == 0 &&
        strcmp(date, signer->date) == 0 && strcmp(region, signer->region) == 0 &&
        strcmp(service, signer->service) == 0) {
        return SMHF_OK;
    }
    if (strlen(region) >= sizeof signer->region || strlen(service) >= sizeof signer->service) {
        return smhf_fail(err, SMHF_E_ARG, "region or service of more than 63 bytes: %s, %s", region,
                         service);
    }
    smhf_buffer first;
    smhf_buffer_init(&first, 0);
    signer->cached = 0;
    smhf_status status = smhf_buffer_append_format(&first, err, "AWS4%s", secret);
    if (status == SMHF_OK) {
        status = hmac(signer, first.data, first.size, date, strlen(date), key, err);
    }
    if (status == SMHF_OK) {
        status = hmac(signer, key, DIGEST, region, strlen(region), key, err);
    }
    if (status == SMHF_OK) {
        status = hmac(signer, key, DIGEST, service, strlen(service), key, err);
    }
    if (status == SMHF_OK) {
        status = hmac(signer, key, DIGEST, "aws4_request", 12, signer->day_key, err);
    }
    smhf_secret_wipe(first.data, first.capacity);
    smhf_buffer_deinit(&first);
    smhf_secret_wipe(key, sizeof key);
    if (status == SMHF_OK) {
        memcpy(signer->secret_hash, hash, DIGEST);
        snprintf(signer->date, sizeof signer->date, "%s", date);
        snprintf(signer->region, sizeof signer->region, "%s", region);
        snprintf(signer->service, sizeof signer->service, "%s", service);
        signer->cached = 1;
    }
    return status;
}

static smhf_status collect_headers(entry_list *list, const smhf_sigv4_request *request,
                                   const smhf_credentials *credentials,
                                   const smhf_sigv4_signature *out, smhf_error *err) {
    for (size_t i = 0; i < request->header_count; i++) {
        if (!never_signed(request->headers[i].name)) {
            SMHF_TRY(add_header(list, request->headers[i].name, request->headers[i].value, err));
        }
    }
    if (request->expires == 0) {
        SMHF_TRY(add_header(list, "x-amz-date", out->amz_date, err));
        if (credentials->token != NULL && !request->omit_token) {
            SMHF_TRY(add_header(list, "x-amz-security-token", credentials->token, err));
        }
        if (request->sign_body) {
            SMHF_TRY(add_header(list, "x-amz-content-sha256", out->body_hash, err));
        }
    }
    if (list->count > 1) {
        qsort(list->items, list->count, sizeof *list->items, compare_headers);
    }
    return SMHF_OK;
}

static smhf_status add_query_text(entry_list *list, const char *name, const char *value,
                                  smhf_error *err) {
    smhf_buffer left, right;
    smhf_buffer_init(&left, 0);
    smhf_buffer_init(&right, 0);
    smhf_status status = smhf_buffer_append_string(&left, name, err);
    if (status == SMHF_OK) {
        status = append_encoded(&right, (const uint8_t *)value, strlen(value), 0, err);
    }
    if (status == SMHF_OK) {
        status = list_add(list, &left, &right, err);
    }
    smhf_buffer_deinit(&left);
    smhf_buffer_deinit(&right);
    return status;
}

static smhf_status collect_query(entry_list *list, const smhf_sigv4_request *request,
                                 const smhf_credentials *credentials, const char *scope,
                                 const smhf_buffer *names, const char *amz_date, smhf_error *err) {
    char number[16];
    SMHF_TRY(split_query(list, request->query, err));
    if (request->expires > 0) {
        smhf_buffer who;
        smhf_buffer_init(&who, 0);
        smhf_status status =
            smhf_buffer_append_format(&who, err, "%s/%s", credentials->access_key, scope);
        if (status == SMHF_OK) {
            status = smhf_buffer_append_byte(&who, '\0', err);
        }
        if (status == SMHF_OK) {
            status = add_query_text(list, "X-Amz-Credential", (const char *)who.data, err);
        }
        smhf_buffer_deinit(&who);
        SMHF_TRY(status);
        snprintf(number, sizeof number, "%d", request->expires);
        SMHF_TRY(add_query_text(list, "X-Amz-Algorithm", "AWS4-HMAC-SHA256", err));
        SMHF_TRY(add_query_text(list, "X-Amz-Date", amz_date, err));
        SMHF_TRY(add_query_text(list, "X-Amz-Expires", number, err));
        SMHF_TRY(add_query_text(list, "X-Amz-SignedHeaders", (const char *)names->data, err));
        if (credentials->token != NULL && !request->omit_token) {
            SMHF_TRY(add_query_text(list, "X-Amz-Security-Token", credentials->token, err));
        }
    }
    if (list->count > 1) {
        qsort(list->items, list->count, sizeof *list->items, compare_queries);
    }
    return SMHF_OK;
}

static smhf_status write_canonical(const smhf_sigv4_request *request, const entry_list *headers,
                                   const entry_list *query, const smhf_buffer *names,
                                   smhf_sigv4_signature *out, smhf_error *err) {
    smhf_buffer *text = &out->canonical;
    SMHF_TRY(smhf_buffer_append_format(text, err, "%s\n", request->method));
    SMHF_TRY(append_path(text, request, err));
    SMHF_TRY(smhf_buffer_append_byte(text, '\n', err));
    SMHF_TRY(append_query(text, query, err));
    SMHF_TRY(smhf_buffer_append_byte(text, '\n', err));
    SMHF_TRY(append_headers(text, headers, err));
    return smhf_buffer_append_format(text, err, "\n%s\n%s", (const char *)names->data,
                                     out->body_hash);
}

static smhf_status sign_canonical(smhf_sigv4 *signer, const char *scope, smhf_sigv4_signature *out,
                                  smhf_error *err) {
    uint8_t digest[DIGEST];
    char hex[2 * DIGEST + 1];
    SMHF_TRY(sha256(signer, out->canonical.data, out->canonical.size, digest, err));
    to_hex(digest, DIGEST, hex);
    SMHF_TRY(smhf_buffer_append_format(&out->string_to_sign, err, "AWS4-HMAC-SHA256\n%s\n%s\n%s",
                                       out->amz_date, scope, hex));
    SMHF_TRY(hmac(signer, signer->day_key, DIGEST, out->string_to_sign.data,
                  out->string_to_sign.size, digest, err));
    to_hex(digest, DIGEST, out->signature);
    return SMHF_OK;
}

/* What the caller puts on the wire. */
static smhf_status write_result(const smhf_sigv4_request *request,
                                const smhf_credentials *credentials, const char *scope,
                                const entry_list *query, const smhf_buffer *names,
                                smhf_sigv4_signature *out, smhf_error *err) {
    if (request->expires == 0) {
        return smhf_buffer_append_format(
            &out->authorization, err,
            "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s",
            credentials->access_key, scope, (const char *)names->data, out->signature);
    }
    SMHF_TRY(append_query(&out->query, query, err));
    if (credentials->token != NULL && request->omit_token) {
        SMHF_TRY(smhf_buffer_append_string(&out->query, "&X-Amz-Security-Token=", err));
        SMHF_TRY(append_encoded(&out->query, (const uint8_t *)credentials->token,
                                strlen(credentials->token), 0, err));
    }
    return smhf_buffer_append_format(&out->query, err, "&X-Amz-Signature=%s", out->signature);
}

smhf_status smhf_sigv4_sign(smhf_sigv4 *signer, const smhf_sigv4_request *request,
                            const smhf_credentials *credentials, const char *region,
                            const char *service, int64_t epoch_seconds, smhf_sigv4_signature *out,
                            smhf_error *err) {
    entry_list headers = {NULL, 0, 0}, query = {NULL, 0, 0};
    smhf_buffer names;
    char scope[160], date[9];
    uint8_t digest[DIGEST];
    struct tm utc;
    time_t seconds = (time_t)epoch_seconds;
    smhf_status status;
    smhf_buffer_clear(&out->canonical);
    smhf_buffer_clear(&out->string_to_sign);
    smhf_buffer_clear(&out->authorization);
    smhf_buffer_clear(&out->query);
    smhf_buffer_init(&names, 0);
    if (gmtime_r(&seconds, &utc) == NULL ||
        strftime(out->amz_date, sizeof out->amz_date, "%Y%m%dT%H%M%SZ", &utc) == 0) {
        return smhf_fail(err, SMHF_E_ARG, "time %lld cannot be written as a date",
                         (long long)epoch_seconds);
    }
    memcpy(date, out->amz_date, 8);
    date[8] = '\0';
    snprintf(scope, sizeof scope, "%s/%s/%s/aws4_request", date, region, service);
    status = day_key(signer, credentials->secret_key, date, region, service, err);
    if (status == SMHF_OK) {
        status = sha256(signer, request->body.size > 0 ? request->body.data : (const uint8_t *)"",
                        request->body.size, digest, err);
    }
    if (status == SMHF_OK) {
        to_hex(digest, DIGEST, out->body_hash);
        status = collect_headers(&headers, request, credentials, out, err);
    }
    if (status == SMHF_OK) {
        status = append_names(&names, &headers, err);
    }
    if (status == SMHF_OK) {
        status = smhf_buffer_append_byte(&names, '\0', err);
    }
    if (status == SMHF_OK) {
        status = collect_query(&query, request, credentials, scope, &names, out->amz_date, err);
    }
    if (status == SMHF_OK) {
        status = write_canonical(request, &headers, &query, &names, out, err);
    }
    if (status == SMHF_OK) {
        status = sign_canonical(signer, scope, out, err);
    }
    if (status == SMHF_OK) {
        status = write_result(request, credentials, scope, &query, &names, out, err);
    }
    list_deinit(&headers);
    list_deinit(&query);
    smhf_buffer_deinit(&names);
    return status;
}

/* --- the public face ----------------------------------------------------------------------------
 */

static char *to_string(const smhf_buffer *text) {
    char *copy = smhf_malloc(text->size + 1);
    if (copy != NULL) {
        if (text->size > 0) {
            memcpy(copy, text->data, text->size);
        }
        copy[text->size] = '\0';
    }
    return copy;
}

smhf_status smhf_invoker_sign(const smhf_invoker_sign_options *options,
                              const smhf_credentials *credentials, smhf_invoker_signature *out,
                              smhf_error *err) {
    smhf_sigv4 *signer = NULL;
    smhf_sigv4_signature made;
    smhf_sigv4_request request = {
        .method = options->method,
        .path = options->path,
        .query = options->query,
        .headers = options->headers,
        .header_count = options->header_count,
        .body = options->body,
        .normalize_path = options->normalize_path,
        .sign_body = options->sign_body,
        .omit_token = options->omit_token,
        .expires = options->expires,
    };
    memset(out, 0, sizeof *out);
    SMHF_TRY(smhf_sigv4_new(&signer, err));
    smhf_sigv4_signature_init(&made);
    smhf_status status = smhf_sigv4_sign(signer, &request, credentials, options->region,
                                         options->service, options->epoch_seconds, &made, err);
    if (status == SMHF_OK) {
        memcpy(out->amz_date, made.amz_date, sizeof out->amz_date);
        memcpy(out->signature, made.signature, sizeof out->signature);
        memcpy(out->body_hash, made.body_hash, sizeof out->body_hash);
        out->canonical = to_string(&made.canonical);
        out->string_to_sign = to_string(&made.string_to_sign);
        out->authorization = to_string(&made.authorization);
        out->query = to_string(&made.query);
        if (out->canonical == NULL || out->string_to_sign == NULL || out->authorization == NULL ||
            out->query == NULL) {
            status = smhf_fail_nomem(err, "signature", made.canonical.size);
            smhf_invoker_signature_deinit(out);
        }
    }
    smhf_sigv4_signature_deinit(&made);
    smhf_sigv4_free(signer);
    return status;
}

void smhf_invoker_signature_deinit(smhf_invoker_signature *signature) {
    smhf_free(signature->canonical);
    smhf_free(signature->string_to_sign);
    smhf_free(signature->authorization);
    smhf_free(signature->query);
    memset(signature, 0, sizeof *signature);
}
