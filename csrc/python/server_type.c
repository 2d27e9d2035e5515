/* server_type.c: Server, the Python face of one smhf_server. Thread class: L.
 *
 * Endpoints of tokenizer and model run in C throughout. Endpoints of Python callables take the GIL
 * on the server's worker threads, with a thread state made for each call.
 */
#include "py_common.h"

#include "server_glue.h"

#include <stdatomic.h>
#include <string.h>

/* What an endpoint of this module owns; freed with the GIL once the server let go of it. */
typedef struct endpoint_context {
    struct endpoint_context *next; /* in the object's list of those let go */
    struct server_object *owner;   /* borrowed: outlives its server's workers */
    server_join *join;             /* native */
    PyObject *callable;            /* or Python */
    PyInterpreterState *interpreter;
    size_t labels;
} endpoint_context;

typedef struct server_object {
    PyObject_HEAD smhf_server *server; /* NULL once stopped */
    int port;
    _Atomic(endpoint_context *) let_go;
} server_object;

static server_state *state_of(server_object *self) {
    return PyType_GetModuleState(Py_TYPE(self));
}

/* --- contexts --- */

/* Called by the core from whichever thread removed the endpoint, without the GIL. */
static void context_release(void *argument) {
    endpoint_context *context = argument;
    endpoint_context *head = atomic_load(&context->owner->let_go);
    do {
        context->next = head;
    } while (!atomic_compare_exchange_weak(&context->owner->let_go, &head, context));
}

static void context_free(endpoint_context *context) {
    if (context != NULL) {
        smhf_server_join_free(context->join);
        Py_XDECREF(context->callable);
        PyMem_Free(context);
    }
}

/* After every core call that may have ended endpoints. GIL held. */
static void free_let_go(server_object *self) {
    endpoint_context *context = atomic_exchange(&self->let_go, NULL);
    while (context != NULL) {
        endpoint_context *next = context->next;
        context_free(context);
        context = next;
    }
}

static endpoint_context *context_new(server_object *self) {
    endpoint_context *context = PyMem_Calloc(1, sizeof *context);
    if (context == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    context->owner = self;
    context->interpreter = PyInterpreterState_Get();
    return context;
}

/* --- Python callables on worker threads --- */

/* The exception in flight as a row's or call's error; clears it. Whatever a handler raises is the
 * caller's 400, as in the container; out of memory is not. */
static smhf_status take_exception(smhf_error *err) {
    smhf_status code = PyErr_ExceptionMatches(PyExc_MemoryError) ? SMHF_E_NOMEM : SMHF_E_ARG;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    PyObject *text = value != NULL ? PyObject_Str(value) : NULL;
    const char *message = text != NULL ? PyUnicode_AsUTF8(text) : NULL;
    if (message == NULL || message[0] == '\0') {
        message = type != NULL ? ((PyTypeObject *)type)->tp_name : "the handler failed";
    }
    smhf_status status = smhf_fail(err, code, "%s", message);
    PyErr_Clear();
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return status;
}

static const char *truncation_name(smhf_server_truncation truncation) {
    static const char *const names[] = {"default", "longest_first", "only_first", "only_second",
                                        "do_not_truncate"};
    return names[truncation];
}

static const char *function_name(smhf_server_function function) {
    static const char *const names[] = {"default", "softmax", "sigmoid", "none"};
    return names[function];
}

static PyObject *rows_list(const smhf_server_row *rows, size_t count) {
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list != NULL && i < count; i++) {
        const smhf_server_row *row = &rows[i];
        PyObject *item = Py_BuildValue("(s#z#ssi)", (const char *)row->text.data,
                                       (Py_ssize_t)row->text.size, (const char *)row->pair.data,
                                       (Py_ssize_t)row->pair.size, truncation_name(row->truncation),
                                       function_name(row->function), row->max_length);
        if (item == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    return list;
}

/* One answer of a Python callable: a sequence of scores, or an exception object. */
static smhf_status read_scores(PyObject *item, size_t labels, smhf_server_result *result) {
    if (PyExceptionInstance_Check(item)) {
        PyErr_SetObject((PyObject *)Py_TYPE(item), item);
        return take_exception(&result->error);
    }
    PyObject *fast = PySequence_Fast(item, "expected a sequence of scores");
    if (fast == NULL) {
        return take_exception(&result->error);
    }
    smhf_status status = SMHF_OK;
    if ((size_t)PySequence_Fast_GET_SIZE(fast) != labels) {
        status = smhf_fail(&result->error, SMHF_E_ARG, "the handler gave %zd scores for %zu labels",
                           PySequence_Fast_GET_SIZE(fast), labels);
    }
    for (size_t i = 0; status == SMHF_OK && i < labels; i++) {
        double score = PyFloat_AsDouble(PySequence_Fast_GET_ITEM(fast, (Py_ssize_t)i));
        if (score == -1.0 && PyErr_Occurred()) {
            status = take_exception(&result->error);
        }
        result->scores[i] = (float)score;
    }
    Py_DECREF(fast);
    return status;
}

static smhf_status batch_with_gil(endpoint_context *context, const smhf_server_row *rows,
                                  smhf_server_result *results, size_t count, smhf_error *err) {
    smhf_status status = SMHF_OK;
    PyObject *fast = NULL, *answers = NULL, *list = rows_list(rows, count);
    if (list == NULL) {
        return take_exception(err);
    }
    answers = PyObject_CallOneArg(context->callable, list);
    fast = answers != NULL ? PySequence_Fast(answers, "expected one answer per row") : NULL;
    if (fast == NULL) {
        status = take_exception(err);
    } else if ((size_t)PySequence_Fast_GET_SIZE(fast) != count) {
        status = smhf_fail(err, SMHF_E_ARG, "the handler gave %zd answers for %zu rows",
                           PySequence_Fast_GET_SIZE(fast), count);
    } else {
        for (size_t i = 0; i < count; i++) {
            smhf_status row = read_scores(PySequence_Fast_GET_ITEM(fast, (Py_ssize_t)i),
                                          context->labels, &results[i]);
            (void)row; /* noted in the row's result */
        }
    }
    Py_XDECREF(fast);
    Py_XDECREF(answers);
    Py_DECREF(list);
    return status;
}

static smhf_status native_batch(void *argument, const smhf_server_row *rows,
                                smhf_server_result *results, size_t count, smhf_error *err) {
    endpoint_context *context = argument;
    return smhf_server_join_batch(context->join, rows, results, count, err);
}

static PyThreadState *enter_python(const endpoint_context *context) {
    PyThreadState *thread = PyThreadState_New(context->interpreter);
    if (thread != NULL) {
        PyEval_RestoreThread(thread);
    }
    return thread;
}

static void leave_python(PyThreadState *thread) {
    PyThreadState_Clear(thread);
    PyThreadState_DeleteCurrent();
}

static smhf_status python_batch(void *argument, const smhf_server_row *rows,
                                smhf_server_result *results, size_t count, smhf_error *err) {
    endpoint_context *context = argument;
    PyThreadState *thread = enter_python(context);
    if (thread == NULL) {
        return smhf_fail(err, SMHF_E_NOMEM, "no memory for a Python thread state");
    }
    smhf_status status = batch_with_gil(context, rows, results, count, err);
    leave_python(thread);
    return status;
}

/* Body as bytes or str, or (body, content type). */
static int read_reply(PyObject *value, smhf_server_reply *reply, smhf_status *status,
                      smhf_error *err) {
    PyObject *body = value;
    if (PyTuple_Check(value)) {
        const char *type;
        if (!PyArg_ParseTuple(value, "Os;expected (body, content type)", &body, &type)) {
            return -1;
        }
        if (strlen(type) >= sizeof reply->content_type) {
            PyErr_SetString(PyExc_ValueError, "the content type is too long");
            return -1;
        }
        memcpy(reply->content_type, type, strlen(type) + 1);
    }
    if (PyUnicode_Check(body)) {
        PyObject *bytes = PyUnicode_AsUTF8String(body);
        if (bytes == NULL) {
            return -1;
        }
        *status = smhf_buffer_append(&reply->body, PyBytes_AS_STRING(bytes),
                                     (size_t)PyBytes_GET_SIZE(bytes), err);
        Py_DECREF(bytes);
        return 0;
    }
    Py_buffer view;
    if (PyObject_GetBuffer(body, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    *status = smhf_buffer_append(&reply->body, view.buf, (size_t)view.len, err);
    PyBuffer_Release(&view);
    return 0;
}

static smhf_status python_whole(void *argument, const smhf_server_call *call,
                                smhf_server_reply *reply, smhf_error *err) {
    endpoint_context *context = argument;
    PyThreadState *thread = enter_python(context);
    if (thread == NULL) {
        return smhf_fail(err, SMHF_E_NOMEM, "no memory for a Python thread state");
    }
    smhf_status status = SMHF_OK;
    PyObject *value = PyObject_CallFunction(
        context->callable, "y#sss", (const char *)call->body.data, (Py_ssize_t)call->body.size,
        call->content_type, call->accept, call->custom_attributes);
    if (value == NULL || read_reply(value, reply, &status, err) < 0) {
        status = take_exception(err);
    }
    Py_XDECREF(value);
    leave_python(thread);
    return status;
}

/* --- construction --- */

static int parse_options(PyObject *args, PyObject *kwargs, smhf_server_options *options) {
    static char *names[] = {"host",
                            "port",
                            "max_request_bytes",
                            "max_response_bytes",
                            "max_memory_bytes",
                            "max_queue",
                            "retry_after",
                            "deadline",
                            "idle_timeout",
                            "max_connections",
                            "max_batch_rows",
                            "max_batch_tokens",
                            "max_batch_bytes",
                            "max_request_rows",
                            NULL};
    Py_ssize_t request = (Py_ssize_t)options->max_request_bytes,
               response = (Py_ssize_t)options->max_response_bytes,
               memory = (Py_ssize_t)options->max_memory_bytes,
               tokens = (Py_ssize_t)options->max_batch_tokens,
               bytes = (Py_ssize_t)options->max_batch_bytes,
               rows = (Py_ssize_t)options->max_request_rows;
    double deadline = options->deadline_ms / 1000.0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|si$nnniidiiinnn:Server", names, &options->host,
                                     &options->port, &request, &response, &memory,
                                     &options->max_queue, &options->retry_after_s, &deadline,
                                     &options->idle_timeout_s, &options->max_connections,
                                     &options->max_batch_rows, &tokens, &bytes, &rows)) {
        return -1;
    }
    if (request < 0 || response < 0 || memory < 0 || tokens < 0 || bytes < 0 || rows < 0) {
        PyErr_SetString(PyExc_ValueError, "server options: expected no negative limit");
        return -1;
    }
    if (!(deadline > 0.0 && deadline <= 86400.0)) {
        PyErr_Format(PyExc_ValueError, "deadline: expected seconds above 0, at most 86400");
        return -1;
    }
    options->max_request_bytes = (size_t)request;
    options->max_response_bytes = (size_t)response;
    options->max_memory_bytes = (size_t)memory;
    options->max_batch_tokens = (size_t)tokens;
    options->max_batch_bytes = (size_t)bytes;
    options->max_request_rows = (size_t)rows;
    options->deadline_ms = (int)(deadline * 1000.0 + 0.5);
    return 0;
}

static PyObject *server_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    smhf_server_options options = SMHF_SERVER_OPTIONS_DEFAULTS;
    if (parse_options(args, kwargs, &options) < 0) {
        return NULL;
    }
    server_object *self = (server_object *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;

    Py_BEGIN_ALLOW_THREADS status = smhf_server_start(&options, &self->server, &err);
    Py_END_ALLOW_THREADS

        if (status != SMHF_OK) {
        smhf_py_raise(&state_of(self)->errors, &err);
        Py_DECREF(self);
        return NULL;
    }
    self->port = smhf_server_port(self->server);
    return (PyObject *)self;
}

static void stop_core(server_object *self) {
    smhf_server *server = self->server;
    self->server = NULL;
    if (server != NULL) {
        Py_BEGIN_ALLOW_THREADS smhf_server_free(server);
        Py_END_ALLOW_THREADS
    }
    free_let_go(self);
}

static void server_dealloc(server_object *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject *error_type, *error_value, *error_traceback;
    PyErr_Fetch(&error_type, &error_value, &error_traceback);
    stop_core(self);
    PyErr_Restore(error_type, error_value, error_traceback);
    type->tp_free(self);
    Py_DECREF(type);
}

/* --- methods --- */

/* The handle, or NULL with ValueError once stopped. */
static smhf_server *open_server(server_object *self) {
    if (self->server == NULL) {
        PyErr_SetString(PyExc_ValueError, "the server is stopped");
    }
    return self->server;
}

/* Labels as C strings, borrowed from `sequence`'s str objects; PyMem_Free the array. */
static const char **label_strings(PyObject *sequence, Py_ssize_t *count) {
    *count = PySequence_Fast_GET_SIZE(sequence);
    const char **labels = PyMem_Calloc((size_t)*count + 1, sizeof *labels);
    if (labels == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < *count; i++) {
        labels[i] = PyUnicode_AsUTF8(PySequence_Fast_GET_ITEM(sequence, i));
        if (labels[i] == NULL) {
            PyMem_Free(labels);
            return NULL;
        }
    }
    return labels;
}

static PyObject *add_endpoint(server_object *self, smhf_server_endpoint *endpoint,
                              endpoint_context *context) {
    smhf_server *server = open_server(self);
    if (server == NULL) {
        context_free(context);
        return NULL;
    }
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    endpoint->context = context;
    endpoint->release = context_release;

    Py_BEGIN_ALLOW_THREADS status = smhf_server_add(server, endpoint, &err);
    Py_END_ALLOW_THREADS

        if (status != SMHF_OK) {
        context_free(context);
        return smhf_py_raise(&state_of(self)->errors, &err);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(add_model_doc,
             "add_model($self, name, tokenizer, model, labels, function, /, default=False, "
             "workers=1)\n--\n\n"
             "Add an endpoint that runs in C: capsules of a tokenizer and a model.");

static smhf_server_function function_of(const char *name) {
    for (int i = SMHF_SERVER_FUNCTION_SOFTMAX; i <= SMHF_SERVER_FUNCTION_NONE; i++) {
        if (strcmp(name, function_name((smhf_server_function)i)) == 0) {
            return (smhf_server_function)i;
        }
    }
    PyErr_Format(PyExc_ValueError, "function: expected softmax, sigmoid or none, got '%.80s'",
                 name);
    return SMHF_SERVER_FUNCTION_DEFAULT;
}

static PyObject *server_add_model(server_object *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"", "", "", "", "", "default", "workers", NULL};
    smhf_server_endpoint endpoint = {.batch = native_batch, .workers = 1};
    PyObject *tokenizer, *model, *labels, *result = NULL;
    const char *function_text;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sOOOs|pi:add_model", names, &endpoint.name,
                                     &tokenizer, &model, &labels, &function_text,
                                     &endpoint.is_default, &endpoint.workers)) {
        return NULL;
    }
    smhf_server_function function = function_of(function_text);
    PyObject *fast = function == SMHF_SERVER_FUNCTION_DEFAULT
                         ? NULL
                         : PySequence_Fast(labels, "labels: expected a sequence of str");
    if (fast == NULL) {
        return NULL;
    }
    Py_ssize_t count;
    const char **strings = label_strings(fast, &count);
    endpoint_context *context = strings != NULL ? context_new(self) : NULL;
    if (context != NULL) {
        context->join = smhf_server_join_new(tokenizer, model, function);
    }
    if (context == NULL || context->join == NULL) {
        context_free(context);
    } else if (count != smhf_server_join_labels(context->join)) {
        PyErr_Format(PyExc_ValueError, "labels: expected %d names, one per output, got %zd",
                     smhf_server_join_labels(context->join), count);
        context_free(context);
    } else {
        endpoint.labels = strings;
        endpoint.label_count = (size_t)count;
        endpoint.max_row_tokens = smhf_server_join_max_length(context->join);
        result = add_endpoint(self, &endpoint, context);
    }
    PyMem_Free(strings);
    Py_DECREF(fast);
    return result;
}

PyDoc_STRVAR(add_callable_doc,
             "add_callable($self, name, labels, callable, /, default=False, workers=1)\n--\n\n"
             "Add an endpoint whose batches go to a Python callable.");

static PyObject *server_add_callable(server_object *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"", "", "", "default", "workers", NULL};
    smhf_server_endpoint endpoint = {.batch = python_batch, .workers = 1};
    PyObject *labels, *callable, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sOO|pi:add_callable", names, &endpoint.name,
                                     &labels, &callable, &endpoint.is_default, &endpoint.workers)) {
        return NULL;
    }
    PyObject *fast = PySequence_Fast(labels, "labels: expected a sequence of str");
    if (fast == NULL) {
        return NULL;
    }
    Py_ssize_t count;
    const char **strings = label_strings(fast, &count);
    endpoint_context *context = strings != NULL ? context_new(self) : NULL;
    if (context != NULL) {
        context->callable = Py_NewRef(callable);
        context->labels = (size_t)count;
        endpoint.labels = strings;
        endpoint.label_count = (size_t)count;
        result = add_endpoint(self, &endpoint, context);
    }
    PyMem_Free(strings);
    Py_DECREF(fast);
    return result;
}

PyDoc_STRVAR(add_handler_doc,
             "add_handler($self, name, callable, /, default=False, workers=1)\n--\n\n"
             "Add an endpoint that hands whole requests to a Python callable.");

static PyObject *server_add_handler(server_object *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"", "", "default", "workers", NULL};
    smhf_server_endpoint endpoint = {.whole = python_whole, .workers = 1};
    PyObject *callable;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sO|pi:add_handler", names, &endpoint.name,
                                     &callable, &endpoint.is_default, &endpoint.workers)) {
        return NULL;
    }
    endpoint_context *context = context_new(self);
    if (context == NULL) {
        return NULL;
    }
    context->callable = Py_NewRef(callable);
    return add_endpoint(self, &endpoint, context);
}

PyDoc_STRVAR(remove_doc, "remove($self, name, /)\n--\n\n"
                         "Answer what is queued for the endpoint, then drop it.");

static PyObject *server_remove(server_object *self, PyObject *name) {
    smhf_server *server = open_server(self);
    const char *text = server != NULL ? PyUnicode_AsUTF8(name) : NULL;
    if (text == NULL) {
        return NULL;
    }
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;

    Py_BEGIN_ALLOW_THREADS status = smhf_server_remove(server, text, &err);
    Py_END_ALLOW_THREADS

        free_let_go(self);
    if (status != SMHF_OK) {
        return smhf_py_raise(&state_of(self)->errors, &err);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(has_doc, "has($self, name, /)\n--\n\nWhether an endpoint of this name answers.");

static PyObject *server_has(server_object *self, PyObject *name) {
    const char *text = PyUnicode_AsUTF8(name);
    if (text == NULL) {
        return NULL;
    }
    return PyBool_FromLong(self->server != NULL && smhf_server_has(self->server, text));
}

PyDoc_STRVAR(set_ready_doc, "set_ready($self, /)\n--\n\nFrom now on /ping answers 200.");

static PyObject *server_set_ready(server_object *self, PyObject *unused) {
    (void)unused;
    smhf_server *server = open_server(self);
    if (server == NULL) {
        return NULL;
    }
    smhf_server_set_ready(server);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(drain_doc, "drain($self, timeout, /)\n--\n\n"
                        "Refuse new requests and wait for those in flight; False when the time "
                        "(seconds) was over before.");

static PyObject *server_drain(server_object *self, PyObject *seconds) {
    smhf_server *server = open_server(self);
    double timeout = server != NULL ? PyFloat_AsDouble(seconds) : -1.0;
    if (server == NULL || (timeout == -1.0 && PyErr_Occurred())) {
        return NULL;
    }
    if (!(timeout >= 0.0 && timeout <= 86400.0)) {
        PyErr_SetString(PyExc_ValueError, "timeout: expected 0..86400 seconds");
        return NULL;
    }
    smhf_status status;

    Py_BEGIN_ALLOW_THREADS status = smhf_server_drain(server, (int)(timeout * 1000.0), NULL);
    Py_END_ALLOW_THREADS

        return PyBool_FromLong(status == SMHF_OK);
}

PyDoc_STRVAR(stop_doc, "stop($self, /)\n--\n\n"
                       "Answer what still waits with 503 and end; calling again does nothing.");

static PyObject *server_stop(server_object *self, PyObject *unused) {
    (void)unused;
    stop_core(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stats_doc, "stats($self, /)\n--\n\nCounters since the start, and what waits now.");

static PyObject *server_stats(server_object *self, PyObject *unused) {
    (void)unused;
    smhf_server *server = open_server(self);
    if (server == NULL) {
        return NULL;
    }
    smhf_server_stats stats;
    smhf_server_stats_get(server, &stats);
    return Py_BuildValue(
        "{sK sK sK sK sK sK sK sK sK sK sK sK sK sK sK sK sK sK}", "connections",
        (unsigned long long)stats.connections, "requests", (unsigned long long)stats.requests,
        "rows", (unsigned long long)stats.rows, "batches", (unsigned long long)stats.batches,
        "largest_batch", (unsigned long long)stats.largest_batch, "shared_batches",
        (unsigned long long)stats.shared_batches, "truncated", (unsigned long long)stats.truncated,
        "answered_2xx", (unsigned long long)stats.answered_2xx, "answered_4xx",
        (unsigned long long)stats.answered_4xx, "answered_5xx",
        (unsigned long long)stats.answered_5xx, "refused_full",
        (unsigned long long)stats.refused_full, "refused_size",
        (unsigned long long)stats.refused_size, "expired", (unsigned long long)stats.expired,
        "gone", (unsigned long long)stats.gone, "slow", (unsigned long long)stats.slow, "queued",
        (unsigned long long)stats.queued, "in_flight", (unsigned long long)stats.in_flight,
        "memory_bytes", (unsigned long long)stats.memory_bytes);
}

static PyObject *server_port(server_object *self, void *unused) {
    (void)unused;
    return PyLong_FromLong(self->port);
}

static PyObject *server_running(server_object *self, void *unused) {
    (void)unused;
    return PyBool_FromLong(self->server != NULL);
}

static PyMethodDef server_methods[] = {
    {"add_model", (PyCFunction)(void (*)(void))server_add_model, METH_VARARGS | METH_KEYWORDS,
     add_model_doc},
    {"add_callable", (PyCFunction)(void (*)(void))server_add_callable, METH_VARARGS | METH_KEYWORDS,
     add_callable_doc},
    {"add_handler", (PyCFunction)(void (*)(void))server_add_handler, METH_VARARGS | METH_KEYWORDS,
     add_handler_doc},
    {"remove", (PyCFunction)server_remove, METH_O, remove_doc},
    {"has", (PyCFunction)server_has, METH_O, has_doc},
    {"set_ready", (PyCFunction)server_set_ready, METH_NOARGS, set_ready_doc},
    {"drain", (PyCFunction)server_drain, METH_O, drain_doc},
    {"stop", (PyCFunction)server_stop, METH_NOARGS, stop_doc},
    {"stats", (PyCFunction)server_stats, METH_NOARGS, stats_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef server_getset[] = {
    {"port", (getter)server_port, NULL, "The port that is listened on.", NULL},
    {"running", (getter)server_running, NULL, "False once stopped.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(server_doc, "Server(host='127.0.0.1', port=0, *, max_request_bytes=6553500, "
                         "max_response_bytes=6553500, max_memory_bytes=268435456, max_queue=100, "
                         "retry_after=1, deadline=60.0, idle_timeout=75, max_connections=1000, "
                         "max_batch_rows=64, max_batch_tokens=16384, max_batch_bytes=1048576, "
                         "max_request_rows=131072)\n--\n\n"
                         "HTTP endpoints on one port; takes the port at once.");

static PyType_Slot server_slots[] = {
    {Py_tp_doc, (void *)server_doc}, {Py_tp_new, server_new},       {Py_tp_dealloc, server_dealloc},
    {Py_tp_methods, server_methods}, {Py_tp_getset, server_getset}, {0, NULL},
};

PyType_Spec smhf_server_type_spec = {
    .name = "smhf_native.server._server.Server",
    .basicsize = sizeof(server_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = server_slots,
};
