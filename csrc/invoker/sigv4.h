/* sigv4.h: AWS Signature Version 4, header and query form (private to the room).
 *
 * Follows "Signature Version 4 signing process" of the AWS General Reference; proven on the vectors
 * of aws-c-auth. The signing key of a day is kept per (secret, date, region, service).
 * Threads: one signer for one thread at a time. Secrets are wiped when replaced or freed. */
#ifndef SMHF_INVOKER_SIGV4_H
#define SMHF_INVOKER_SIGV4_H

#include "common/bytes.h"
#include "invoker/invoker.h"

/* Names are compared without case; values are signed trimmed, inner white space as one space. */
typedef struct smhf_sigv4_request {
    const char *method;
    smhf_bytes_view path;  /* as on the request line; percent signs are encoded once more */
    smhf_bytes_view query; /* after the '?'; percent sequences stand for their byte */
    const smhf_header *headers;
    size_t header_count;
    smhf_bytes_view body;
    int normalize_path; /* remove "." and ".." segments and doubled slashes (all services but S3) */
    int sign_body;      /* add and sign x-amz-content-sha256 (header form) */
    int omit_token;     /* the session token is sent but not signed */
    int expires;        /* > 0: query form, valid for so many seconds */
} smhf_sigv4_request;

typedef struct smhf_sigv4_signature {
    char amz_date[17];                     /* 20150830T123600Z */
    char signature[65];                    /* lower-case hex */
    char body_hash[65];                    /* lower-case hex SHA-256 of the body */
    smhf_buffer canonical, string_to_sign; /* caller frees with smhf_sigv4_signature_deinit */
    smhf_buffer authorization;             /* value of the Authorization header */
    smhf_buffer query;                     /* query form: the whole signed query string */
} smhf_sigv4_signature;

typedef struct smhf_sigv4 smhf_sigv4;

smhf_status smhf_sigv4_new(smhf_sigv4 **out, smhf_error *err) SMHF_MUST_USE;
void smhf_sigv4_free(smhf_sigv4 *signer); /* NULL is fine */

void smhf_sigv4_signature_init(smhf_sigv4_signature *signature);
void smhf_sigv4_signature_deinit(smhf_sigv4_signature *signature);

/* Signs at `epoch_seconds`. Headers that botocore leaves unsigned (user-agent, expect, connection,
 * x-amzn-trace-id ...) are left out. x-amz-date and the token are added by this call. */
smhf_status smhf_sigv4_sign(smhf_sigv4 *signer, const smhf_sigv4_request *request,
                            const smhf_credentials *credentials, const char *region,
                            const char *service, int64_t epoch_seconds, smhf_sigv4_signature *out,
                            smhf_error *err) SMHF_MUST_USE;

/* Overwrites memory that held a secret. */
void smhf_secret_wipe(void *data, size_t size);

#endif
