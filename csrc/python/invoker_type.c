/* invoker_type.c: Invoker (class L: one call at a time runs, others wait without the GIL). */
#include "py_common.h"

#include "invoker_glue.h"

#include "invoker/invoker.h"

#include <pthread.h>
#include <string.h>

typedef struct invoker_object {
    PyObject_HEAD smhf_invoker *invoker;
    pthread_mutex_t guard; /* of the three below */
    int users;             /* calls in flight */
    int closed;
} invoker_object;

static invoker_state *state_of(PyTypeObject *type) {
    PyObject *module = PyType_GetModuleByDef(type, &smhf_invoker_module);
    return (module != NULL) ? PyModule_GetState(module) : NULL;
}

/* --- use and close -------------------------------------------------------------------------------
 */

/* The handle, kept open until release; NULL with ValueError after close(). */
static smhf_invoker *acquire(invoker_object *self) {
    pthread_mutex_lock(&self->guard);
    smhf_invoker *invoker = self->closed ? NULL : self->invoker;
    self->users += invoker != NULL;
    pthread_mutex_unlock(&self->guard);
    if (invoker == NULL) {
        PyErr_SetString(PyExc_ValueError, "the invoker is closed");
    }
    return invoker;
}

/* The last user of a closed invoker takes it away. */
static void close_if_unused(invoker_object *self, int leaving) {
    smhf_invoker *gone = NULL;
    pthread_mutex_lock(&self->guard);
    self->users -= leaving;
    if (self->closed && self->users == 0) {
        gone = self->invoker;
        self->invoker = NULL;
    }
    pthread_mutex_unlock(&self->guard);
    if (gone != NULL) {
        Py_BEGIN_ALLOW_THREADS smhf_invoker_close(gone);
        Py_END_ALLOW_THREADS
    }
}

static PyObject *invoker_close(PyObject *object, PyObject *Py_UNUSED(args)) {
    invoker_object *self = (invoker_object *)object;
    pthread_mutex_lock(&self->guard);
    self->closed = 1;
    pthread_mutex_unlock(&self->guard);
    close_if_unused(self, 0);
    Py_RETURN_NONE;
}

static void invoker_dealloc(PyObject *object) {
    invoker_object *self = (invoker_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    smhf_invoker_close(self->invoker);
    pthread_mutex_destroy(&self->guard);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *invoker_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {
        "url",          "region",          "service",     "ca_file",    "user_agent",
        "parameters",   "headers",         "connections", "batch_rows", "batch_bytes",
        "max_response", "connect_timeout", "timeout",     "deadline",   "attempts",
        "backoff_base", "backoff_cap",     "allow_http",  NULL};
    invoker_state *state = state_of(type);
    smhf_invoker_options o = SMHF_INVOKER_DEFAULTS;
    smhf_invoker *invoker = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    PyObject *pairs = NULL;
    Py_ssize_t rows = 0, bytes = 0, response = 0, count = 0;
    if (state == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "s|$zszszO!innndddiddp:Invoker", names, &o.url,
                                     &o.region, &o.service, &o.ca_file, &o.user_agent,
                                     &o.parameters, &PyTuple_Type, &pairs, &o.connections, &rows,
                                     &bytes, &response, &o.connect_timeout, &o.timeout, &o.deadline,
                                     &o.attempts, &o.backoff_base, &o.backoff_cap, &o.allow_http)) {
        return NULL;
    }
    if (rows < 0 || bytes < 0 || response < 0) {
        PyErr_Format(PyExc_ValueError,
                     "batch_rows %zd, batch_bytes %zd, max_response %zd: expected 0 or more", rows,
                     bytes, response);
        return NULL;
    }
    smhf_header *headers = (pairs != NULL) ? smhf_invoker_headers(pairs, &count) : NULL;
    if (pairs != NULL && headers == NULL) {
        return NULL;
    }
    o.headers = headers;
    o.header_count = (size_t)count;
    o.batch_rows = (size_t)rows;
    o.batch_bytes = (size_t)bytes;
    o.max_response = (size_t)response;
    smhf_status status;

    Py_BEGIN_ALLOW_THREADS status = smhf_invoker_open(&o, &invoker, &err);
    Py_END_ALLOW_THREADS

        PyMem_Free(headers);
    if (status != SMHF_OK) {
        return smhf_py_raise(&state->errors, &err);
    }
    invoker_object *self = PyObject_New(invoker_object, type);
    if (self == NULL) {
        smhf_invoker_close(invoker);
        return NULL;
    }
    self->invoker = invoker;
    self->users = 0;
    self->closed = 0;
    pthread_mutex_init(&self->guard, NULL);
    return (PyObject *)self;
}

/* --- polling
 * -------------------------------------------------------------------------------------- */

typedef struct poll_context {
    PyThreadState *thread; /* while the GIL is released */
    smhf_invoker *invoker;
    PyObject *provider; /* borrowed; called with (want,), may be NULL */
    PyObject *raised;   /* owned: what ended the call */
} poll_context;

static PyObject *take_exception(void) {
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

/* None, or (access key, secret key, token or None). */
static int use_credentials(smhf_invoker *invoker, PyObject *value) {
    smhf_credentials credentials;
    smhf_error err = SMHF_ERROR_INIT;
    if (value == Py_None) {
        return 0;
    }
    if (!PyTuple_Check(value) || !PyArg_ParseTuple(value, "ssz", &credentials.access_key,
                                                   &credentials.secret_key, &credentials.token)) {
        PyErr_SetString(PyExc_TypeError,
                        "credentials: expected (access key, secret key, token or None)");
        return -1;
    }
    if (smhf_invoker_set_credentials(invoker, &credentials, &err) != SMHF_OK) {
        PyErr_SetString(PyExc_ValueError, err.message);
        return -1;
    }
    return 0;
}

static int poll_python(void *opaque, int want_credentials) {
    poll_context *context = opaque;
    PyEval_RestoreThread(context->thread);
    int status = PyErr_CheckSignals();
    if (status == 0 && context->provider != NULL) {
        PyObject *value = PyObject_CallFunctionObjArgs(context->provider,
                                                       want_credentials ? Py_True : Py_False, NULL);
        status = (value != NULL) ? use_credentials(context->invoker, value) : -1;
        Py_XDECREF(value);
    }
    if (status != 0) {
        context->raised = take_exception();
    }
    context->thread = PyEval_SaveThread();
    return status;
}

/* --- predict
 * -------------------------------------------------------------------------------------- */

static PyObject *column(const void *data, size_t rows, size_t size) {
    return PyBytes_FromStringAndSize(data, (Py_ssize_t)(rows * size));
}

static PyObject *text_list(char **items, size_t count) {
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list != NULL && i < count; i++) {
        PyObject *text = PyUnicode_DecodeUTF8(items[i], (Py_ssize_t)strlen(items[i]), "replace");
        if (text == NULL) {
            Py_CLEAR(list);
        } else {
            PyList_SET_ITEM(list, (Py_ssize_t)i, text);
        }
    }
    return list;
}

static PyObject *wrap_predictions(const smhf_predictions *p) {
    return Py_BuildValue("{s:N,s:N,s:N,s:N,s:N,s:N,s:N,s:N,s:K,s:K,s:K}", "labels",
                         column(p->labels, p->rows, sizeof *p->labels), "scores",
                         column(p->scores, p->rows, sizeof *p->scores), "errors",
                         column(p->errors, p->rows, sizeof *p->errors), "attempts",
                         column(p->attempts, p->rows, sizeof *p->attempts), "statuses",
                         column(p->statuses, p->rows, sizeof *p->statuses), "messages",
                         column(p->messages, p->rows, sizeof *p->messages), "label_names",
                         text_list(p->label_names, p->label_count), "message_texts",
                         text_list(p->message_texts, p->message_count), "requests",
                         (unsigned long long)p->requests, "retries", (unsigned long long)p->retries,
                         "splits", (unsigned long long)p->splits);
}

/* Views of str and bytes items; anything else stands for "no text". Items are kept alive by the
 * tuple. */
static smhf_text_view *view_texts(PyObject *tuple) {
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    smhf_text_view *views = PyMem_Calloc((size_t)count + 1, sizeof *views);
    if (views == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyTuple_GET_ITEM(tuple, i);
        if (PyUnicode_Check(item)) {
#if PY_VERSION_HEX < 0x030C0000
            if (PyUnicode_READY(item) < 0) {
                PyMem_Free(views);
                return NULL;
            }
#endif
            views[i] = (smhf_text_view){PyUnicode_DATA(item), (size_t)PyUnicode_GET_LENGTH(item),
                                        (int)PyUnicode_KIND(item)};
        } else if (PyBytes_Check(item)) {
            views[i] = (smhf_text_view){PyBytes_AS_STRING(item), (size_t)PyBytes_GET_SIZE(item), 0};
        } else {
            views[i].kind = -1;
        }
    }
    return views;
}

static PyObject *invoker_predict(PyObject *object, PyObject *args) {
    invoker_object *self = (invoker_object *)object;
    invoker_state *state = state_of(Py_TYPE(object));
    PyObject *texts, *provider, *result = NULL;
    smhf_predictions *predictions = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    if (state == NULL || !PyArg_ParseTuple(args, "O!O:predict", &PyTuple_Type, &texts, &provider)) {
        return NULL;
    }
    smhf_text_view *views = view_texts(texts);
    smhf_invoker *invoker = (views != NULL) ? acquire(self) : NULL;
    if (invoker == NULL) {
        PyMem_Free(views);
        return NULL;
    }
    poll_context context = {.invoker = invoker,
                            .provider = (provider != Py_None) ? provider : NULL};

    context.thread = PyEval_SaveThread();
    status = smhf_invoker_predict(invoker, views, (size_t)PyTuple_GET_SIZE(texts), poll_python,
                                  &context, &predictions, &err);
    PyEval_RestoreThread(context.thread);

    if (status == SMHF_OK || status == SMHF_E_CANCELLED) {
        PyObject *columns =
            (predictions != NULL) ? wrap_predictions(predictions) : Py_NewRef(Py_None);
        PyObject *raised = (context.raised != NULL) ? context.raised : Py_NewRef(Py_None);
        context.raised = NULL;
        result = (columns != NULL) ? PyTuple_Pack(2, columns, raised) : NULL;
        Py_XDECREF(columns);
        Py_DECREF(raised);
    } else {
        smhf_py_raise(&state->errors, &err);
    }
    Py_XDECREF(context.raised);
    smhf_predictions_free(predictions);
    PyMem_Free(views);
    close_if_unused(self, 1);
    return result;
}

/* --- the raw call
 * --------------------------------------------------------------------------------- */

/* "name: value\n" lines to a dict; of a name that comes twice the values are joined by ", ". */
static PyObject *header_dict(const smhf_buffer *lines) {
    PyObject *dict = PyDict_New();
    const char *text = (const char *)lines->data;
    for (size_t at = 0; dict != NULL && at < lines->size;) {
        const char *end = memchr(text + at, '\n', lines->size - at);
        const char *colon = memchr(text + at, ':', (size_t)(end - text) - at);
        const char *value = colon + 1;
        while (value < end && (*value == ' ' || *value == '\t')) {
            value++;
        }
        PyObject *name = PyUnicode_DecodeLatin1(text + at, colon - (text + at), NULL);
        PyObject *content = PyUnicode_DecodeLatin1(value, end - value, NULL);
        PyObject *before = (name != NULL) ? PyDict_GetItemWithError(dict, name) : NULL;
        if (before != NULL && content != NULL) {
            Py_SETREF(content, PyUnicode_FromFormat("%U, %U", before, content));
        }
        if (name == NULL || content == NULL || PyErr_Occurred() ||
            PyDict_SetItem(dict, name, content) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(name);
        Py_XDECREF(content);
        at = (size_t)(end - text) + 1;
    }
    return dict;
}

static PyObject *invoker_call(PyObject *object, PyObject *args) {
    invoker_object *self = (invoker_object *)object;
    invoker_state *state = state_of(Py_TYPE(object));
    PyObject *pairs, *provider, *result = NULL;
    Py_buffer body;
    smhf_response response;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    Py_ssize_t count = 0;
    if (state == NULL ||
        !PyArg_ParseTuple(args, "y*O!O:call", &body, &PyTuple_Type, &pairs, &provider)) {
        return NULL;
    }
    smhf_header *headers = smhf_invoker_headers(pairs, &count);
    smhf_invoker *invoker = (headers != NULL) ? acquire(self) : NULL;
    if (invoker == NULL) {
        PyMem_Free(headers);
        PyBuffer_Release(&body);
        return NULL;
    }
    poll_context context = {.invoker = invoker,
                            .provider = (provider != Py_None) ? provider : NULL};
    smhf_response_init(&response);

    context.thread = PyEval_SaveThread();
    status = smhf_invoker_call(invoker, (smhf_bytes_view){body.buf, (size_t)body.len}, headers,
                               (size_t)count, poll_python, &context, &response, &err);
    PyEval_RestoreThread(context.thread);

    if (context.raised != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(context.raised), context.raised);
    } else if (status == SMHF_OK) {
        result = Py_BuildValue("(iNN)", response.status, header_dict(&response.headers),
                               column(response.body.data, response.body.size, 1));
    } else {
        smhf_py_raise(&state->errors, &err);
    }
    Py_XDECREF(context.raised);
    smhf_response_deinit(&response);
    PyMem_Free(headers);
    PyBuffer_Release(&body);
    close_if_unused(self, 1);
    return result;
}

/* --- the rest
 * ------------------------------------------------------------------------------------- */

static PyObject *invoker_set_credentials(PyObject *object, PyObject *value) {
    invoker_object *self = (invoker_object *)object;
    smhf_invoker *invoker = acquire(self);
    if (invoker == NULL) {
        return NULL;
    }
    int status = use_credentials(invoker, value);
    close_if_unused(self, 1);
    return (status == 0) ? Py_NewRef(Py_None) : NULL;
}

static PyObject *invoker_stats(PyObject *object, PyObject *Py_UNUSED(args)) {
    invoker_object *self = (invoker_object *)object;
    smhf_invoker_stats stats;
    smhf_invoker *invoker = acquire(self);
    if (invoker == NULL) {
        return NULL;
    }
    smhf_invoker_get_stats(invoker, &stats);
    close_if_unused(self, 1);
    return Py_BuildValue(
        "{s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:i,s:n,s:d}", "requests",
        (unsigned long long)stats.requests, "retries", (unsigned long long)stats.retries, "splits",
        (unsigned long long)stats.splits, "rows", (unsigned long long)stats.rows, "rows_failed",
        (unsigned long long)stats.rows_failed, "bytes_sent", (unsigned long long)stats.bytes_sent,
        "bytes_received", (unsigned long long)stats.bytes_received, "connections_opened",
        (unsigned long long)stats.connections_opened, "connections", stats.connections,
        "batch_rows", (Py_ssize_t)stats.batch_rows, "skew", stats.skew);
}

static PyObject *invoker_get_closed(PyObject *object, void *Py_UNUSED(closure)) {
    invoker_object *self = (invoker_object *)object;
    pthread_mutex_lock(&self->guard);
    int closed = self->closed;
    pthread_mutex_unlock(&self->guard);
    return PyBool_FromLong(closed);
}

static PyMethodDef methods[] = {
    {"predict", invoker_predict, METH_VARARGS,
     "predict($self, texts, provider, /)\n--\n\n"
     "Classify a tuple of texts: (columns or None, the exception that ended the call or None)."},
    {"call", invoker_call, METH_VARARGS,
     "call($self, body, headers, provider, /)\n--\n\nOne POST: (status, headers, body)."},
    {"set_credentials", invoker_set_credentials, METH_O,
     "set_credentials($self, credentials, /)\n--\n\nTake (access key, secret key, token or None)."},
    {"stats", invoker_stats, METH_NOARGS, "stats($self, /)\n--\n\nCounters since the start."},
    {"close", invoker_close, METH_NOARGS,
     "close($self, /)\n--\n\nClose connections, when the calls in flight have ended."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getset[] = {
    {"closed", invoker_get_closed, NULL, "whether close() was called", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot type_slots[] = {
    {Py_tp_new, (void *)invoker_new},
    {Py_tp_dealloc, (void *)invoker_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {Py_tp_doc, "Invoker(url, *, region=None, service='sagemaker', ca_file=None, "
                "user_agent='smhf_native', parameters=None, headers=(), connections=0, "
                "batch_rows=0, batch_bytes=0, max_response=0, connect_timeout=5.0, timeout=80.0, "
                "deadline=0.0, attempts=5, backoff_base=0.05, backoff_cap=20.0, allow_http=False)\n"
                "--\n\nClient of one endpoint; zeros mean automatic or the default."},
    {0, NULL},
};

PyType_Spec smhf_invoker_type_spec = {
    .name = "smhf_native.invoker._invoker.Invoker",
    .basicsize = sizeof(invoker_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = type_slots,
};
