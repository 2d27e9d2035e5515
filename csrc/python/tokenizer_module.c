/* tokenizer_module.c: PyInit__tokenizer, the openers and the trainer. */
#include "py_common.h"

#include "tokenizer_glue.h"

#include "common/pool.h"

static tokenizer_state *state_of(PyObject *module) {
    return (tokenizer_state *)PyModule_GetState(module);
}

tokenizer_state *smhf_py_tokenizer_state(PyTypeObject *type) {
    return (tokenizer_state *)PyType_GetModuleState(type);
}

/* --- Options --------------------------------------------------------------------------------- */

static int take_flag(PyObject *value, int *out) {
    if (value == NULL || value == Py_None) {
        return 0;
    }
    *out = PyObject_IsTrue(value);
    return (*out < 0) ? -1 : 0;
}

static int take_text(PyObject *value, const char **out) {
    if (value == NULL || value == Py_None) {
        return 0;
    }
    *out = PyUnicode_AsUTF8(value); /* short strings; the copy inside them is no loss */
    return (*out == NULL) ? -1 : 0;
}

int smhf_py_tokenizer_options(PyObject *kwargs, smhf_tokenizer_options *out) {
    static char *names[] = {"do_lower_case",
                            "strip_accents",
                            "tokenize_chinese_chars",
                            "clean_text",
                            "model_max_length",
                            "unk_token",
                            "sep_token",
                            "pad_token",
                            "cls_token",
                            "mask_token",
                            NULL};
    PyObject *v[10] = {NULL};
    PyObject *empty = PyTuple_New(0);
    int fine = empty != NULL &&
               PyArg_ParseTupleAndKeywords(empty, kwargs, "|$OOOOOOOOOO", names, &v[0], &v[1],
                                           &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], &v[8], &v[9]);
    Py_XDECREF(empty);
    if (!fine || take_flag(v[0], &out->do_lower_case) < 0 ||
        take_flag(v[1], &out->strip_accents) < 0 ||
        take_flag(v[2], &out->tokenize_chinese_chars) < 0 ||
        take_flag(v[3], &out->clean_text) < 0 || take_text(v[5], &out->unk_token) < 0 ||
        take_text(v[6], &out->sep_token) < 0 || take_text(v[7], &out->pad_token) < 0 ||
        take_text(v[8], &out->cls_token) < 0 || take_text(v[9], &out->mask_token) < 0) {
        return -1;
    }
    if (v[4] != NULL && v[4] != Py_None) {
        int overflow;
        long long length = PyLong_AsLongLongAndOverflow(v[4], &overflow);
        if (PyErr_Occurred()) {
            return -1;
        }
        if (overflow < 0 || (overflow == 0 && length < 1)) {
            PyErr_SetString(PyExc_ValueError, "model_max_length: expected at least 1");
            return -1;
        }
        /* Absurdly large means none, as in the files that say 1e30. */
        out->model_max_length = (overflow > 0 || length >= 1000000000) ? SMHF_UNSET : length;
    }
    return 0;
}

/* --- Openers --------------------------------------------------------------------------------- */

static PyObject *finish_open(PyObject *module, smhf_status status, smhf_tokenizer *tokenizer,
                             const smhf_error *err) {
    return (status == SMHF_OK) ? smhf_py_tokenizer_wrap(state_of(module), tokenizer)
                               : smhf_py_raise(&state_of(module)->errors, err);
}

static PyObject *module_open(PyObject *module, PyObject *args, PyObject *kwargs) {
    smhf_tokenizer_options options = SMHF_TOKENIZER_DEFAULTS;
    smhf_tokenizer *tokenizer = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    PyObject *object;
    if (!PyArg_ParseTuple(args, "O:open", &object) ||
        smhf_py_tokenizer_options(kwargs, &options) < 0) {
        return NULL;
    }
    PyObject *path = smhf_py_path(object);
    if (path == NULL) {
        return NULL;
    }

    Py_BEGIN_ALLOW_THREADS status =
        smhf_tokenizer_open(PyBytes_AS_STRING(path), &options, &tokenizer, &err);
    Py_END_ALLOW_THREADS

        Py_DECREF(path);
    return finish_open(module, status, tokenizer, &err);
}

static PyObject *module_from_json(PyObject *module, PyObject *args, PyObject *kwargs) {
    smhf_tokenizer_options options = SMHF_TOKENIZER_DEFAULTS;
    smhf_tokenizer *tokenizer = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    Py_buffer text;
    if (!PyArg_ParseTuple(args, "y*:from_json", &text)) {
        return NULL;
    }
    if (smhf_py_tokenizer_options(kwargs, &options) < 0) {
        PyBuffer_Release(&text);
        return NULL;
    }

    Py_BEGIN_ALLOW_THREADS status = smhf_tokenizer_from_json(
        (smhf_bytes_view){text.buf, (size_t)text.len}, &options, &tokenizer, &err);
    Py_END_ALLOW_THREADS

        PyBuffer_Release(&text);
    return finish_open(module, status, tokenizer, &err);
}

/* Tokens as UTF-8 views over bytes objects. */
static PyObject *module_from_tokens(PyObject *module, PyObject *args, PyObject *kwargs) {
    smhf_tokenizer_options options = SMHF_TOKENIZER_DEFAULTS;
    smhf_tokenizer *tokenizer = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    PyObject *list, *result = NULL;
    if (!PyArg_ParseTuple(args, "O:from_tokens", &list) ||
        smhf_py_tokenizer_options(kwargs, &options) < 0) {
        return NULL;
    }
    PyObject *fast = PySequence_Fast(list, "tokens: expected a list of str");
    if (fast == NULL) {
        return NULL;
    }
    Py_ssize_t count = PySequence_Fast_GET_SIZE(fast), held = 0;
    smhf_bytes_view *views = PyMem_Calloc((size_t)count + 1, sizeof *views);
    PyObject **owners = PyMem_Calloc((size_t)count + 1, sizeof *owners);
    if (views == NULL || owners == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (; held < count; held++) {
        PyObject *item = PySequence_Fast_GET_ITEM(fast, held);
        if (!PyUnicode_Check(item)) {
            PyErr_Format(PyExc_TypeError, "tokens[%zd]: expected str, got %.100s", held,
                         Py_TYPE(item)->tp_name);
            goto done;
        }
        owners[held] = PyUnicode_AsUTF8String(item);
        if (owners[held] == NULL) {
            goto done;
        }
        views[held].data = (const uint8_t *)PyBytes_AS_STRING(owners[held]);
        views[held].size = (size_t)PyBytes_GET_SIZE(owners[held]);
    }

    Py_BEGIN_ALLOW_THREADS status =
        smhf_tokenizer_from_tokens(views, (size_t)count, &options, &tokenizer, &err);
    Py_END_ALLOW_THREADS

        result = finish_open(module, status, tokenizer, &err);

done:
    for (Py_ssize_t i = 0; owners != NULL && i < held; i++) {
        Py_XDECREF(owners[i]);
    }
    PyMem_Free(owners);
    PyMem_Free(views);
    Py_DECREF(fast);
    return result;
}

/* --- Training -------------------------------------------------------------------------------- */

typedef struct train_context {
    PyObject *callback;
    PyThreadState *thread; /* of the caller, while the core runs without the GIL */
} train_context;

/* Called on the caller's thread without the GIL; takes it to call Python and to see Ctrl-C. */
static int train_progress(void *pointer, smhf_wordpiece_phase phase, size_t done, size_t total) {
    train_context *context = pointer;
    PyEval_RestoreThread(context->thread);
    int stop = PyErr_CheckSignals() < 0;
    if (!stop && context->callback != Py_None) {
        PyObject *result = PyObject_CallFunction(context->callback, "inn", (int)phase,
                                                 (Py_ssize_t)done, (Py_ssize_t)total);
        stop = (result == NULL);
        Py_XDECREF(result);
    }
    context->thread = PyEval_SaveThread();
    return stop;
}

static PyObject *module_train(PyObject *module, PyObject *args) {
    smhf_wordpiece_options options = SMHF_WORDPIECE_DEFAULTS;
    smhf_py_texts texts = {0}, specials = {0};
    smhf_bytes_view *special_views = NULL;
    train_context context;
    smhf_buffer out;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    Py_ssize_t vocab_size, min_frequency, limit_alphabet;
    PyObject *list, *special_list, *callback, *result = NULL;
    if (!PyArg_ParseTuple(args, "OnnnpOO:train_wordpiece", &list, &vocab_size, &min_frequency,
                          &limit_alphabet, &options.lowercase, &special_list, &callback)) {
        return NULL;
    }
    if (vocab_size < 1 || min_frequency < 0 || limit_alphabet < 0) {
        PyErr_SetString(PyExc_ValueError, "expected vocab_size >= 1, min_frequency >= 0 and "
                                          "limit_alphabet >= 0");
        return NULL;
    }
    smhf_buffer_init(&out, 0);
    if (smhf_py_texts_acquire(list, "texts", &texts) < 0 ||
        smhf_py_texts_acquire(special_list, "special_tokens", &specials) < 0) {
        goto done;
    }
    special_views = PyMem_Calloc((size_t)specials.count + 1, sizeof *special_views);
    if (special_views == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = 0; i < specials.count; i++) {
        /* The Python layer encodes them. */
        if (specials.owners == NULL || !PyBytes_Check(specials.owners[i])) {
            PyErr_Format(PyExc_TypeError, "special_tokens[%zd]: expected bytes", i);
            goto done;
        }
        special_views[i].data = specials.views[i].data;
        special_views[i].size = specials.views[i].length;
    }
    options.vocab_size = (size_t)vocab_size;
    options.min_frequency = (size_t)min_frequency;
    options.limit_alphabet = (size_t)limit_alphabet;
    options.special_tokens = special_views;
    options.special_count = (size_t)specials.count;
    options.progress = train_progress;
    options.progress_context = &context;

    context = (train_context){callback, PyEval_SaveThread()};
    status = smhf_wordpiece_train(texts.views, (size_t)texts.count, &options, &out, &err);
    PyEval_RestoreThread(context.thread);

    if (status == SMHF_OK) {
        result = PyUnicode_DecodeUTF8((const char *)out.data, (Py_ssize_t)out.size, "strict");
    } else if (!PyErr_Occurred()) {
        smhf_py_raise(&state_of(module)->errors, &err);
    }

done:
    PyMem_Free(special_views);
    smhf_buffer_deinit(&out);
    smhf_py_texts_release(&specials);
    smhf_py_texts_release(&texts);
    return result;
}

static PyObject *module_tier(PyObject *module, PyObject *ignored) {
    (void)module;
    (void)ignored;
    return PyUnicode_FromString(smhf_tokenizer_tier());
}

static PyObject *module_set_threads(PyObject *module, PyObject *number) {
    (void)module;
    long threads = PyLong_AsLong(number);
    if (threads == -1 && PyErr_Occurred()) {
        return NULL;
    }
    smhf_pool_set_threads((int)(threads < 1 ? 1 : threads > 256 ? 256 : threads));
    Py_RETURN_NONE;
}

/* --- Module ---------------------------------------------------------------------------------- */

static PyMethodDef module_methods[] = {
    {"open", (PyCFunction)(void (*)(void))module_open, METH_VARARGS | METH_KEYWORDS,
     "open(path, **options)\n--\n\nTokenizer of a folder, a vocab.txt or a tokenizer.json."},
    {"from_json", (PyCFunction)(void (*)(void))module_from_json, METH_VARARGS | METH_KEYWORDS,
     "from_json(text, **options)\n--\n\nTokenizer of the bytes of a tokenizer.json."},
    {"from_tokens", (PyCFunction)(void (*)(void))module_from_tokens, METH_VARARGS | METH_KEYWORDS,
     "from_tokens(tokens, **options)\n--\n\nTokenizer of a list of tokens; ids are positions."},
    {"train_wordpiece", module_train, METH_VARARGS,
     "train_wordpiece(texts, vocab_size, min_frequency, limit_alphabet, lowercase, "
     "special_tokens, progress, /)\n--\n\nLearn a vocabulary; returns the text of a vocab.txt."},
    {"tier", module_tier, METH_NOARGS,
     "tier()\n--\n\nWhich loops encode texts: \"scalar\", \"avx2\" or \"avx512\"."},
    {"set_threads", module_set_threads, METH_O,
     "set_threads(number, /)\n--\n\nThreads of the process's one pool, the caller's included."},
    {NULL, NULL, 0, NULL},
};

static int add_type(PyObject *module, PyType_Spec *spec, PyObject **slot) {
    *slot = PyType_FromModuleAndSpec(module, spec, NULL);
    return (*slot == NULL) ? -1 : PyModule_AddType(module, (PyTypeObject *)*slot);
}

static int module_exec(PyObject *module) {
    tokenizer_state *state = state_of(module);
    if (smhf_py_errors_init(&state->errors) < 0 ||
        add_type(module, &smhf_py_tokenizer_spec, &state->tokenizer_type) < 0 ||
        add_type(module, &smhf_py_encoding_spec, &state->encoding_type) < 0 ||
        add_type(module, &smhf_py_field_spec, &state->field_type) < 0) {
        return -1;
    }
    return (PyModule_AddIntConstant(module, "WANT_OFFSETS", SMHF_WANT_OFFSETS) < 0 ||
            PyModule_AddIntConstant(module, "WANT_WORD_IDS", SMHF_WANT_WORD_IDS) < 0 ||
            PyModule_AddIntConstant(module, "WANT_SEQUENCE_IDS", SMHF_WANT_SEQUENCE_IDS) < 0 ||
            PyModule_AddIntConstant(module, "WANT_SPECIAL_MASK", SMHF_WANT_SPECIAL_MASK) < 0 ||
            PyModule_AddIntConstant(module, "FIELD_IDS", SMHF_FIELD_IDS) < 0 ||
            PyModule_AddIntConstant(module, "FIELD_TYPE_IDS", SMHF_FIELD_TYPE_IDS) < 0 ||
            PyModule_AddIntConstant(module, "FIELD_ATTENTION_MASK", SMHF_FIELD_ATTENTION_MASK) <
                0 ||
            PyModule_AddIntConstant(module, "FIELD_WORD_IDS", SMHF_FIELD_WORD_IDS) < 0 ||
            PyModule_AddIntConstant(module, "FIELD_SEQUENCE_IDS", SMHF_FIELD_SEQUENCE_IDS) < 0 ||
            PyModule_AddIntConstant(module, "FIELD_SPECIAL_MASK", SMHF_FIELD_SPECIAL_MASK) < 0 ||
            PyModule_AddIntConstant(module, "FIELD_OFFSETS", SMHF_FIELD_OFFSETS) < 0)
               ? -1
               : 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    tokenizer_state *state = state_of(module);
    Py_VISIT(state->tokenizer_type);
    Py_VISIT(state->encoding_type);
    Py_VISIT(state->field_type);
    return smhf_py_errors_traverse(&state->errors, visit, arg);
}

static int module_clear(PyObject *module) {
    tokenizer_state *state = state_of(module);
    Py_CLEAR(state->tokenizer_type);
    Py_CLEAR(state->encoding_type);
    Py_CLEAR(state->field_type);
    smhf_py_errors_clear(&state->errors);
    return 0;
}

static void module_free(void *module) {
    (void)module_clear((PyObject *)module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    SMHF_PY_MOD_GIL_NOT_USED SMHF_PY_OWN_GIL{0, NULL},
};

PyModuleDef smhf_py_tokenizer_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_tokenizer",
    .m_doc = "BERT WordPiece tokenizer in C; see smhf_native.tokenizer.",
    .m_size = sizeof(tokenizer_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__tokenizer(void); /* the import system looks it up by name */

PyMODINIT_FUNC PyInit__tokenizer(void) {
    return PyModuleDef_Init(&smhf_py_tokenizer_module);
}
