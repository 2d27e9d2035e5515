#include "invoker/transport.h"

#include "common/mem.h"
#include "invoker/sigv4.h"

#include <curl/curl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

struct smhf_transport {
    CURLM *multi;
    int https;
    int loopback;
    int has_bundle; /* libcurl's own CA file is there */
    char *ca_file;
    char *user_agent;
    smhf_transport_options options;
    smhf_exchange *running;
};

static pthread_once_t global_once = PTHREAD_ONCE_INIT;
static CURLcode global_result;

static void global_init(void) {
    global_result = curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* --- URLs ------------------------------------------------------------------------------------- */

static smhf_status url_part(CURLU *parsed, CURLUPart part, const char *what, char *out, size_t size,
                            const char *url, smhf_error *err) {
    char *text = NULL;
    out[0] = '\0';
    CURLUcode code = curl_url_get(parsed, part, &text, 0);
    if (code == CURLUE_NO_PORT || code == CURLUE_NO_QUERY) {
        return SMHF_OK;
    }
    if (code != CURLUE_OK || text == NULL || strlen(text) >= size) {
        curl_free(text);
        return smhf_fail(err, SMHF_E_ARG, "url \"%.200s\": its %s is missing or too long", url,
                         what);
    }
    memcpy(out, text, strlen(text) + 1);
    curl_free(text);
    return SMHF_OK;
}

static smhf_status parse_url(const char *url, char scheme[16], char host[256], char port[16],
                             char *path, size_t path_size, smhf_error *err) {
    CURLU *parsed = curl_url();
    if (parsed == NULL) {
        return smhf_fail_nomem(err, "url", strlen(url));
    }
    smhf_status status;
    if (curl_url_set(parsed, CURLUPART_URL, url, 0) != CURLUE_OK) {
        status = smhf_fail(err, SMHF_E_ARG,
                           "url \"%.200s\": expected http://HOST[:PORT]/PATH or https://...", url);
    } else {
        status = url_part(parsed, CURLUPART_SCHEME, "scheme", scheme, 16, url, err);
        if (status == SMHF_OK) {
            status = url_part(parsed, CURLUPART_HOST, "host", host, 256, url, err);
        }
        if (status == SMHF_OK) {
            status = url_part(parsed, CURLUPART_PORT, "port", port, 16, url, err);
        }
        if (status == SMHF_OK) {
            status = url_part(parsed, CURLUPART_PATH, "path", path, path_size, url, err);
        }
    }
    if (status == SMHF_OK && strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0) {
        status = smhf_fail(err, SMHF_E_ARG, "url \"%.200s\": expected http or https, found %s", url,
                           scheme);
    }
    curl_url_cleanup(parsed);
    return status;
}

static int is_loopback(const char *host) {
    return strcasecmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
           strcmp(host, "::1") == 0 ||
           (strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") == strlen(host));
}

smhf_status smhf_transport_url_parts(const char *url, char *host, size_t host_size, char *path,
                                     size_t path_size, smhf_error *err) {
    char scheme[16], name[256], port[16];
    SMHF_TRY(parse_url(url, scheme, name, port, path, path_size, err));
    const char *own = (strcmp(scheme, "https") == 0) ? "443" : "80";
    int with_port = port[0] != '\0' && strcmp(port, own) != 0;
    int length =
        snprintf(host, host_size, "%s%s%s", name, with_port ? ":" : "", with_port ? port : "");
    if (length < 0 || (size_t)length >= host_size) {
        return smhf_fail(err, SMHF_E_ARG, "url \"%.200s\": its host is too long", url);
    }
    for (char *c = host; *c != '\0'; c++) { /* curl lower-cases neither */
        *c = (char)((*c >= 'A' && *c <= 'Z') ? *c + 32 : *c);
    }
    return SMHF_OK;
}

/* --- life ------------------------------------------------------------------------------------- */

static smhf_status multi_new(smhf_transport *transport, smhf_error *err) {
    transport->multi = curl_multi_init();
    if (transport->multi == NULL) {
        return smhf_fail(err, SMHF_E_NOMEM, "libcurl could not make a multi handle");
    }
    curl_multi_setopt(transport->multi, CURLMOPT_MAXCONNECTS,
                      (long)transport->options.max_connections);
    return SMHF_OK;
}

smhf_status smhf_transport_open(const char *url, const smhf_transport_options *options,
                                smhf_transport **out, smhf_error *err) {
    char scheme[16], host[256], port[16], path[2048];
    *out = NULL;
    pthread_once(&global_once, global_init);
    if (global_result != CURLE_OK) {
        return smhf_fail(err, SMHF_E_UNAVAILABLE, "libcurl: %s", curl_easy_strerror(global_result));
    }
    SMHF_TRY(parse_url(url, scheme, host, port, path, sizeof path, err));
    int https = strcmp(scheme, "https") == 0;
    if (!https && !is_loopback(host) && !options->allow_http) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED,
                         "url \"%.200s\": plain http goes to loopback only; use https, or "
                         "allow_http=True where the network is trusted",
                         url);
    }
    smhf_status status = SMHF_OK;
    smhf_transport *transport = smhf_calloc(1, sizeof *transport);
    if (transport == NULL) {
        return smhf_fail_nomem(err, "transport", sizeof *transport);
    }
    transport->https = https;
    transport->loopback = is_loopback(host);
    const char *bundle = curl_version_info(CURLVERSION_NOW)->cainfo;
    transport->has_bundle = bundle != NULL && access(bundle, R_OK) == 0;
    transport->options = *options;
    transport->ca_file = (options->ca_file != NULL) ? smhf_strdup(options->ca_file) : NULL;
    transport->user_agent = smhf_strdup(options->user_agent != NULL ? options->user_agent : "");
    if ((options->ca_file != NULL && transport->ca_file == NULL) || transport->user_agent == NULL) {
        status = smhf_fail_nomem(err, "transport", sizeof *transport);
    }
    if (status == SMHF_OK) {
        status = multi_new(transport, err);
    }
    if (status != SMHF_OK) {
        smhf_transport_close(transport);
        return status;
    }
    *out = transport;
    return SMHF_OK;
}

void smhf_transport_close(smhf_transport *transport) {
    if (transport == NULL) {
        return;
    }
    while (transport->running != NULL) {
        smhf_transport_cancel(transport, transport->running);
    }
    if (transport->multi != NULL) {
        curl_multi_cleanup(transport->multi);
    }
    smhf_free(transport->ca_file);
    smhf_free(transport->user_agent);
    smhf_free(transport);
}

smhf_status smhf_transport_renew(smhf_transport *transport, smhf_error *err) {
    /* The old multi is leaked on purpose: cleaning it up would say goodbye on the parent's TLS
     * sessions. The kernel closes the child's copies of the sockets when the child ends. */
    transport->running = NULL;
    return multi_new(transport, err);
}

void smhf_exchange_init(smhf_exchange *exchange) {
    memset(exchange, 0, sizeof *exchange);
    smhf_response_init(&exchange->response);
    exchange->retry_after = -1.0;
    exchange->content_length = -1;
}

void smhf_exchange_deinit(smhf_exchange *exchange) {
    smhf_response_deinit(&exchange->response);
}

/* --- callbacks -------------------------------------------------------------------------------- */

static int header_is(const char *line, size_t size, const char *name, const char **value,
                     size_t *value_size) {
    size_t length = strlen(name);
    if (size <= length || line[length] != ':' || strncasecmp(line, name, length) != 0) {
        return 0;
    }
    const char *start = line + length + 1, *end = line + size;
    while (start < end && (*start == ' ' || *start == '\t')) {
        start++;
    }
    while (end > start && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' ')) {
        end--;
    }
    *value = start;
    *value_size = (size_t)(end - start);
    return 1;
}

static void copy_value(char *out, size_t size, const char *value, size_t length) {
    length = (length < size - 1) ? length : size - 1;
    memcpy(out, value, length);
    out[length] = '\0';
}

static void reset_headers(smhf_exchange *exchange) {
    exchange->content_length = -1;
    exchange->chunked = 0;
    exchange->headers_done = 0;
    exchange->retry_after = -1.0;
    exchange->error_type[0] = '\0';
    smhf_buffer_clear(&exchange->response.body);
    smhf_buffer_clear(&exchange->response.headers);
}

/* "name: value\n", the name in lower case. 0 when out of memory; what passes the ceiling is
 * dropped. */
static int keep_header(smhf_exchange *exchange, const char *line, size_t size) {
    smhf_buffer *kept = &exchange->response.headers;
    while (size > 0 && (line[size - 1] == '\r' || line[size - 1] == '\n')) {
        size--;
    }
    if (memchr(line, ':', size) == NULL || size + 1 > kept->limit - kept->size) {
        return 1;
    }
    if (smhf_buffer_reserve(kept, size + 1, NULL) != SMHF_OK) {
        return 0;
    }
    int name = 1;
    for (size_t i = 0; i < size; i++) {
        name = name && line[i] != ':';
        int upper = name && line[i] >= 'A' && line[i] <= 'Z';
        kept->data[kept->size++] = (uint8_t)(upper ? line[i] + 32 : line[i]);
    }
    kept->data[kept->size++] = '\n';
    return 1;
}

/* Retry-After is seconds or a date; x-amz-retry-after is milliseconds. */
static double retry_seconds(const char *value, int milliseconds) {
    char *end;
    double number = strtod(value, &end);
    if (end != value && *end == '\0') {
        return milliseconds ? number / 1000.0 : number;
    }
    time_t when = curl_getdate(value, NULL);
    double wait = (when > 0) ? difftime(when, time(NULL)) : -1.0;
    return (wait >= 0.0) ? wait : -1.0;
}

static size_t on_header(char *line, size_t one, size_t size, void *context) {
    (void)one;
    smhf_exchange *exchange = context;
    const char *value;
    size_t length;
    char text[64];
    if (size >= 5 && strncmp(line, "HTTP/", 5) == 0) { /* 1xx and final status lines start anew */
        reset_headers(exchange);
    } else if (size <= 2) {
        exchange->headers_done = 1;
    } else if (header_is(line, size, "content-length", &value, &length)) {
        copy_value(text, sizeof text, value, length);
        int64_t declared = (text[0] >= '0' && text[0] <= '9') ? strtoll(text, NULL, 10) : -2;
        int again = exchange->content_length != -1 && exchange->content_length != declared;
        exchange->content_length =
            again ? -2 : declared; /* -2: contradictory, refused at the end */
    } else if (header_is(line, size, "transfer-encoding", &value, &length)) {
        exchange->chunked = 1;
    } else if (header_is(line, size, "content-type", &value, &length)) {
        copy_value(exchange->response.content_type, sizeof exchange->response.content_type, value,
                   length);
    } else if (header_is(line, size, "x-amzn-errortype", &value, &length)) {
        copy_value(exchange->error_type, sizeof exchange->error_type, value, length);
    } else if (header_is(line, size, "x-amzn-requestid", &value, &length)) {
        copy_value(exchange->response.request_id, sizeof exchange->response.request_id, value,
                   length);
    } else if (header_is(line, size, "x-amzn-invoked-production-variant", &value, &length)) {
        copy_value(exchange->response.variant, sizeof exchange->response.variant, value, length);
    } else if (header_is(line, size, "x-amzn-sagemaker-custom-attributes", &value, &length)) {
        copy_value(exchange->response.attributes, sizeof exchange->response.attributes, value,
                   length);
    } else if (header_is(line, size, "retry-after", &value, &length)) {
        copy_value(text, sizeof text, value, length);
        exchange->retry_after = retry_seconds(text, 0);
    } else if (header_is(line, size, "x-amz-retry-after", &value, &length)) {
        copy_value(text, sizeof text, value, length);
        exchange->retry_after = retry_seconds(text, 1);
    } else if (header_is(line, size, "date", &value, &length)) {
        copy_value(text, sizeof text, value, length);
        time_t date = curl_getdate(text, NULL);
        exchange->server_date = (date > 0) ? (int64_t)date : 0;
    }
    if (exchange->keep_headers && !keep_header(exchange, line, size)) {
        exchange->no_memory = 1;
        return 0;
    }
    return size;
}

static size_t on_body(char *data, size_t one, size_t size, void *context) {
    (void)one;
    smhf_exchange *exchange = context;
    if (size > exchange->max_response - exchange->response.body.size) {
        exchange->too_large = 1;
        return 0;
    }
    if (smhf_buffer_append(&exchange->response.body, data, size, NULL) != SMHF_OK) {
        exchange->no_memory = 1;
        return 0;
    }
    return size;
}

/* --- exchanges -------------------------------------------------------------------------------- */

static smhf_status build_headers(smhf_exchange *exchange, struct curl_slist **out,
                                 smhf_error *err) {
    struct curl_slist *list = curl_slist_append(NULL, "Expect:"); /* no pause before large bodies */
    for (size_t i = 0; i < exchange->header_count && list != NULL; i++) {
        const smhf_header *header = &exchange->headers[i];
        size_t size = strlen(header->name) + strlen(header->value) + 3;
        char *line = smhf_malloc(size);
        struct curl_slist *longer = NULL;
        if (line != NULL) {
            snprintf(line, size, "%s: %s", header->name, header->value);
            longer = curl_slist_append(list, line);
            smhf_secret_wipe(line, size);
            smhf_free(line);
        }
        if (longer == NULL) {
            curl_slist_free_all(list);
            list = NULL;
        } else {
            list = longer;
        }
    }
    *out = list;
    return (list != NULL) ? SMHF_OK : smhf_fail(err, SMHF_E_NOMEM, "request headers");
}

static void set_options(const smhf_transport *transport, smhf_exchange *exchange, CURL *easy,
                        struct curl_slist *headers) {
    curl_easy_setopt(easy, CURLOPT_URL, exchange->url);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, (void *)exchange);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, exchange->detail);
    curl_easy_setopt(easy, CURLOPT_POST, 1L);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS,
                     exchange->body.data != NULL ? (const char *)exchange->body.data : "");
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)exchange->body.size);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, (void *)exchange);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, (void *)exchange);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, transport->user_agent);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L); /* a signature is for one host */
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, transport->https ? "https" : "http");
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                     (long)(transport->options.connect_timeout * 1000.0));
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(exchange->timeout * 1000.0));
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, 30L);
    curl_easy_setopt(easy, CURLOPT_MAXLIFETIME_CONN, 300L); /* spread over front ends */
    curl_easy_setopt(easy, CURLOPT_DNS_SHUFFLE_ADDRESSES, 1L);
    curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, 50L); /* under the idle time of front ends */
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, 65536L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (transport->ca_file != NULL) {
        curl_easy_setopt(easy, CURLOPT_CAINFO, transport->ca_file);
    }
    if (transport->ca_file != NULL || transport->has_bundle) {
        /* A CA folder beside the CA file switches libcurl's cache of parsed authorities off, which
         * costs 35 ms of processor time for each connection; the file alone holds the same ones. */
        curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
    }
    if (transport->loopback) {
        curl_easy_setopt(easy, CURLOPT_PROXY, ""); /* whatever the environment says */
    }
}

smhf_status smhf_transport_start(smhf_transport *transport, smhf_exchange *exchange,
                                 smhf_error *err) {
    struct curl_slist *headers = NULL;
    SMHF_TRY(build_headers(exchange, &headers, err));
    CURL *easy = curl_easy_init();
    if (easy == NULL) {
        curl_slist_free_all(headers);
        return smhf_fail(err, SMHF_E_NOMEM, "libcurl could not make a handle");
    }
    exchange->max_response = transport->options.max_response;
    exchange->handle = easy;
    exchange->header_list = headers;
    set_options(transport, exchange, easy, headers);
    CURLMcode code = curl_multi_add_handle(transport->multi, easy);
    if (code != CURLM_OK) {
        exchange->handle = NULL;
        exchange->header_list = NULL;
        curl_easy_cleanup(easy);
        curl_slist_free_all(headers);
        return smhf_fail(err, SMHF_E_BACKEND, "libcurl: %s", curl_multi_strerror(code));
    }
    exchange->next = transport->running;
    transport->running = exchange;
    return SMHF_OK;
}

/* Headers carry the signature and the session token. */
static void free_list(struct curl_slist *list) {
    for (struct curl_slist *node = list; node != NULL; node = node->next) {
        smhf_secret_wipe(node->data, strlen(node->data));
    }
    curl_slist_free_all(list);
}

static void release(smhf_transport *transport, smhf_exchange *exchange) {
    for (smhf_exchange **link = &transport->running; *link != NULL; link = &(*link)->next) {
        if (*link == exchange) {
            *link = exchange->next;
            break;
        }
    }
    if (exchange->handle != NULL) {
        curl_multi_remove_handle(transport->multi, exchange->handle);
        curl_easy_cleanup(exchange->handle);
        free_list(exchange->header_list);
        exchange->handle = NULL;
        exchange->header_list = NULL;
    }
}

void smhf_transport_cancel(smhf_transport *transport, smhf_exchange *exchange) {
    release(transport, exchange);
}

static void fail_exchange(smhf_exchange *exchange, smhf_status outcome, const char *reason) {
    exchange->outcome = outcome;
    snprintf(exchange->reason, sizeof exchange->reason, "%s", reason);
}

/* libcurl's verdict and our own on top: what it lets pass is not always a whole answer. */
static void judge(smhf_exchange *exchange, CURLcode code) {
    size_t got = exchange->response.body.size;
    int framed = exchange->chunked || exchange->content_length >= 0;
    if (exchange->too_large) {
        fail_exchange(exchange, SMHF_E_HTTP, "the answer is larger than max_response");
    } else if (code == CURLE_OPERATION_TIMEDOUT) {
        fail_exchange(exchange, SMHF_E_TIMEOUT, "no whole answer in time");
    } else if (code == CURLE_PARTIAL_FILE || code == CURLE_WEIRD_SERVER_REPLY ||
               code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_HTTP2) {
        fail_exchange(exchange, SMHF_E_HTTP, curl_easy_strerror(code));
    } else if (exchange->no_memory) {
        fail_exchange(exchange, SMHF_E_NOMEM, "out of memory");
    } else if (code == CURLE_OUT_OF_MEMORY) { /* also what libcurl says of an endless header */
        fail_exchange(exchange, SMHF_E_HTTP, "a header larger than libcurl takes, or no memory");
    } else if (code != CURLE_OK) {
        fail_exchange(exchange, SMHF_E_IO,
                      exchange->detail[0] != '\0' ? exchange->detail : curl_easy_strerror(code));
        exchange->fatal = code == CURLE_PEER_FAILED_VERIFICATION ||
                          code == CURLE_SSL_CACERT_BADFILE || code == CURLE_URL_MALFORMAT;
    } else if (!exchange->headers_done) {
        fail_exchange(exchange, SMHF_E_HTTP, "the header block was cut");
    } else if (exchange->content_length == -2 ||
               (exchange->chunked && exchange->content_length >= 0)) {
        fail_exchange(exchange, SMHF_E_HTTP, "contradictory lengths in the answer's headers");
    } else if (!framed && exchange->response.status != 204) {
        fail_exchange(exchange, SMHF_E_HTTP, "the answer has neither length nor chunked coding");
    } else if (!exchange->chunked && exchange->content_length >= 0 &&
               (uint64_t)exchange->content_length != got) {
        fail_exchange(exchange, SMHF_E_HTTP, "the body is shorter than its Content-Length");
    } else {
        exchange->outcome = SMHF_OK;
    }
}

static smhf_exchange *finish(smhf_transport *transport, CURL *easy, CURLcode code) {
    smhf_exchange *exchange = NULL;
    long status = 0, connects = 0, header_size = 0;
    long request_size = 0;
    curl_off_t uploaded = 0;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&exchange);
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &connects);
    curl_easy_getinfo(easy, CURLINFO_REQUEST_SIZE, &request_size);
    curl_easy_getinfo(easy, CURLINFO_HEADER_SIZE, &header_size);
    curl_easy_getinfo(easy, CURLINFO_SIZE_UPLOAD_T, &uploaded);
    exchange->response.status = (int)status;
    exchange->new_connections = (int)connects;
    exchange->maybe_executed = request_size > 0;
    exchange->sent = (uint64_t)request_size + (uint64_t)uploaded;
    exchange->received = (uint64_t)header_size + exchange->response.body.size;
    judge(exchange, code);
    release(transport, exchange);
    return exchange;
}

smhf_status smhf_transport_wait(smhf_transport *transport, int milliseconds,
                                smhf_exchange **finished, smhf_error *err) {
    /* OpenSSL writes to sockets without MSG_NOSIGNAL; a peer that is gone must not end the process.
     * The signal is held back in this thread and a pending one is taken off again. */
    sigset_t pipe_signal, before, pending;
    int running = 0, left = 0;
    *finished = NULL;
    sigemptyset(&pipe_signal);
    sigaddset(&pipe_signal, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
    CURLMcode code = curl_multi_perform(transport->multi, &running);
    CURLMsg *message = curl_multi_info_read(transport->multi, &left);
    if (code == CURLM_OK && message == NULL && milliseconds > 0) {
        code = curl_multi_poll(transport->multi, NULL, 0, milliseconds, NULL);
        if (code == CURLM_OK) {
            code = curl_multi_perform(transport->multi, &running);
        }
        message = curl_multi_info_read(transport->multi, &left);
    }
    if (message != NULL && message->msg == CURLMSG_DONE) {
        *finished = finish(transport, message->easy_handle, message->data.result);
    }
    sigpending(&pending);
    if (sigismember(&pending, SIGPIPE) && !sigismember(&before, SIGPIPE)) {
        static const struct timespec now = {0, 0};
        sigtimedwait(&pipe_signal, NULL, &now);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code != CURLM_OK) {
        return smhf_fail(err, SMHF_E_BACKEND, "libcurl: %s", curl_multi_strerror(code));
    }
    return SMHF_OK;
}
