/* tokenizer_type.c: _tokenizer.Tokenizer over one smhf_tokenizer.
 * Threads: immutable; encode and decode run without the GIL. */
#include "py_common.h"

#include "tokenizer_glue.h"

#include "common/pool.h"

typedef struct tokenizer_object {
    PyObject_HEAD smhf_tokenizer *tokenizer;
} tokenizer_object;

#define TOKENIZER(op) (((tokenizer_object *)(op))->tokenizer)
#define ERRORS(op) (&smhf_py_tokenizer_state(Py_TYPE(op))->errors)

PyObject *smhf_py_tokenizer_wrap(tokenizer_state *state, smhf_tokenizer *tokenizer) {
    PyTypeObject *type = (PyTypeObject *)state->tokenizer_type;
    tokenizer_object *self = (tokenizer_object *)type->tp_alloc(type, 0);
    if (self == NULL) {
        smhf_tokenizer_free(tokenizer);
        return NULL;
    }
    self->tokenizer = tokenizer;
    return (PyObject *)self;
}

static void tokenizer_dealloc(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);
    smhf_tokenizer_free(TOKENIZER(op));
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *text_of(smhf_bytes_view view) {
    return PyUnicode_DecodeUTF8((const char *)view.data, (Py_ssize_t)view.size, "strict");
}

/* A str as UTF-8 in a new bytes object. */
static PyObject *utf8_of(PyObject *text, const char *name, smhf_bytes_view *view) {
    if (!PyUnicode_Check(text)) {
        PyErr_Format(PyExc_TypeError, "%s: expected str, got %.100s", name, Py_TYPE(text)->tp_name);
        return NULL;
    }
    PyObject *bytes = PyUnicode_AsUTF8String(text);
    if (bytes != NULL) {
        view->data = (const uint8_t *)PyBytes_AS_STRING(bytes);
        view->size = (size_t)PyBytes_GET_SIZE(bytes);
    }
    return bytes;
}

/* --- encode ---------------------------------------------------------------------------------- */

PyDoc_STRVAR(
    encode_doc,
    "encode($self, texts, pairs=None, *, add_special_tokens=True, truncation=0,\n"
    "       truncation_left=False, max_length=0, stride=0, overflow=False, want=0,\n"
    "       split_special_tokens=False, word_starts=None, pair_word_starts=None,\n"
    "       cls=None, padded=0, pad_id=0, pad_left=False)\n--\n\n"
    "Encode a sequence of str or UTF-8 bytes into an Encoding (or a `cls` derived from it) "
    "of packed rows. `padded` 4 or 8: arrays of ids and mask, of items of so many bytes and "
    "padded\n"
    "to the longest row, are made along.");

/* None becomes the Encoding class itself; others must be derived from it. */
static int check_class(PyObject *op, PyObject **class_object) {
    PyObject *base = smhf_py_tokenizer_state(Py_TYPE(op))->encoding_type;
    if (*class_object == Py_None) {
        *class_object = base;
    }
    if (*class_object == base) {
        return 0;
    }
    if (!PyType_Check(*class_object) ||
        !PyType_IsSubtype((PyTypeObject *)*class_object, (PyTypeObject *)base)) {
        PyErr_SetString(PyExc_TypeError, "cls: expected a class derived from Encoding");
        return -1;
    }
    return 0;
}

/* Starts of rows among words: rows + 1 int64 that begin with 0, never fall and end with `words`. */
static int acquire_starts(PyObject *object, const char *name, Py_ssize_t words,
                          smhf_py_view *view) {
    if (object == Py_None) {
        return 0;
    }
    if (smhf_py_view_acquire(object, name, "q", 1, 1, 0, view) < 0) {
        return -1;
    }
    const int64_t *starts = view->data;
    int fine = view->shape[0] >= 1 && starts[0] == 0 && starts[view->shape[0] - 1] == words;
    for (Py_ssize_t i = 1; fine && i < view->shape[0]; i++) {
        fine = starts[i - 1] <= starts[i];
    }
    if (!fine) {
        PyErr_Format(PyExc_ValueError, "%s: expected rising positions from 0 to %zd", name, words);
        return -1;
    }
    return 0;
}

static PyObject *tokenizer_encode(PyObject *op, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"texts",
                            "pairs",
                            "add_special_tokens",
                            "truncation",
                            "truncation_left",
                            "max_length",
                            "stride",
                            "overflow",
                            "want",
                            "split_special_tokens",
                            "word_starts",
                            "pair_word_starts",
                            "cls",
                            "padded",
                            "pad_id",
                            "pad_left",
                            NULL};
    smhf_encode_options options = SMHF_ENCODE_DEFAULTS;
    smhf_py_texts texts = {0}, pairs = {0};
    smhf_py_view starts = {0}, pair_starts = {0};
    smhf_encoding *encoding = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    PyObject *texts_object, *pairs_object = Py_None, *result = NULL;
    PyObject *starts_object = Py_None, *pair_starts_object = Py_None, *class_object = Py_None;
    Py_ssize_t max_length = 0, stride = 0;
    int truncation = 0, padded = 0;
    long long pad_id = 0;

    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "O|O$pipnnpIpOOOiLp:encode", names, &texts_object, &pairs_object,
            &options.add_special_tokens, &truncation, &options.truncation_left, &max_length,
            &stride, &options.overflow, &options.want, &options.split_special_tokens,
            &starts_object, &pair_starts_object, &class_object, &padded, &pad_id,
            &options.pad_left) ||
        check_class(op, &class_object) < 0) {
        return NULL;
    }
    if (max_length < 0 || stride < 0 || truncation < 0 || truncation > SMHF_TRUNCATE_ONLY_SECOND) {
        PyErr_Format(PyExc_ValueError, "expected max_length and stride >= 0, got %zd and %zd",
                     max_length, stride);
        return NULL;
    }
    options.truncation = (smhf_truncation)truncation;
    options.max_length = (size_t)max_length;
    options.stride = (size_t)stride;
    options.padded_item_size = (size_t)padded;
    options.pad_id = pad_id;
    smhf_pool_rouse();
    if (smhf_py_texts_acquire(texts_object, "texts", &texts) < 0 ||
        acquire_starts(starts_object, "word_starts", texts.count, &starts) < 0) {
        goto done;
    }
    Py_ssize_t rows = (starts.data != NULL) ? starts.shape[0] - 1 : texts.count;
    if (pairs_object != Py_None) {
        if (smhf_py_texts_acquire(pairs_object, "pairs", &pairs) < 0 ||
            acquire_starts(pair_starts_object, "pair_word_starts", pairs.count, &pair_starts) < 0) {
            goto done;
        }
        Py_ssize_t pair_rows = (pair_starts.data != NULL) ? pair_starts.shape[0] - 1 : pairs.count;
        if (pair_rows != rows) {
            PyErr_Format(PyExc_ValueError, "pairs: expected as many as texts, got %zd and %zd",
                         pair_rows, rows);
            goto done;
        }
    }
    options.word_starts = starts.data; /* int64 positions are size_t on every platform we build */
    options.pair_word_starts = pair_starts.data;

    Py_BEGIN_ALLOW_THREADS status = smhf_tokenizer_encode_batch(
        TOKENIZER(op), texts.views, (pairs_object != Py_None) ? pairs.views : NULL, (size_t)rows,
        &options, &encoding, &err);
    Py_END_ALLOW_THREADS

        result = (status == SMHF_OK) ? smhf_py_encoding_wrap((PyTypeObject *)class_object, encoding)
                                     : smhf_py_raise(ERRORS(op), &err);
    if (result != NULL && padded != 0) {
        smhf_py_encoding_pad(result, 1, options.pad_left, pad_id, padded);
    }

done:
    smhf_py_view_release(&starts);
    smhf_py_view_release(&pair_starts);
    smhf_py_texts_release(&texts);
    smhf_py_texts_release(&pairs);
    return result;
}

/* --- plain ----------------------------------------------------------------------------------- */

PyDoc_STRVAR(plain_doc, "plain($self, cls, texts, padded, left, pad_id, item_size, /)\n--\n\n"
                        "Encode a str or a list of them with no other options, the short way.");

#define SHORT_TEXT 4096 /* characters: less work than giving the GIL away and taking it back */

static PyObject *tokenizer_plain(PyObject *op, PyObject *const *args, Py_ssize_t count) {
    smhf_encoding *encoding = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    smhf_text_view view;
    smhf_py_texts texts = {0};
    PyObject *kept = NULL, *result = NULL;
    if (count != 6) {
        PyErr_SetString(PyExc_TypeError, "plain: expected 6 arguments");
        return NULL;
    }
    PyObject *class_object = args[0];
    int padded = PyObject_IsTrue(args[2]), left = PyObject_IsTrue(args[3]);
    long long pad = PyLong_AsLongLong(args[4]);
    int item_size = (int)PyLong_AsLong(args[5]);
    if (padded < 0 || left < 0 || PyErr_Occurred() || check_class(op, &class_object) < 0) {
        return NULL;
    }
    if (item_size != 4 && item_size != 8) {
        PyErr_SetString(PyExc_ValueError, "item_size: expected 4 or 8");
        return NULL;
    }

    if (PyUnicode_Check(args[1])) {
        if (smhf_py_text_view(args[1], "texts", 0, &view) < 0) {
            return NULL;
        }
        kept = Py_NewRef(args[1]);
        if (view.length <= SHORT_TEXT) {
            status =
                smhf_tokenizer_encode_batch(TOKENIZER(op), &view, NULL, 1, NULL, &encoding, &err);
        } else {
            Py_BEGIN_ALLOW_THREADS status =
                smhf_tokenizer_encode_batch(TOKENIZER(op), &view, NULL, 1, NULL, &encoding, &err);
            Py_END_ALLOW_THREADS
        }
    } else {
        smhf_encode_options options = SMHF_ENCODE_DEFAULTS;
        options.padded_item_size = padded ? (size_t)item_size : 0;
        options.pad_id = pad;
        options.pad_left = left;
        smhf_pool_rouse();                /* while the texts are gathered */
        kept = PySequence_Tuple(args[1]); /* the caller's list may change */
        if (kept == NULL || smhf_py_texts_borrow(kept, "texts", &texts) < 0) {
            goto done;
        }
        Py_BEGIN_ALLOW_THREADS status = smhf_tokenizer_encode_batch(
            TOKENIZER(op), texts.views, NULL, (size_t)texts.count, &options, &encoding, &err);
        Py_END_ALLOW_THREADS
    }

    result = (status == SMHF_OK) ? smhf_py_encoding_wrap((PyTypeObject *)class_object, encoding)
                                 : smhf_py_raise(ERRORS(op), &err);
    if (result != NULL) {
        smhf_py_encoding_pad(result, padded, left, pad, item_size);
        smhf_py_encoding_keep(result, op, kept);
    }

done:
    smhf_py_texts_release(&texts);
    Py_XDECREF(kept);
    return result;
}

/* --- decode ---------------------------------------------------------------------------------- */

PyDoc_STRVAR(decode_doc, "decode($self, ids, skip_special_tokens, cleanup, /)\n--\n\n"
                         "Text of an int32 array of ids; cleanup None takes the tokenizer's own.");

static PyObject *tokenizer_decode(PyObject *op, PyObject *args) {
    smhf_py_view ids = {0};
    smhf_buffer out;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    int skip, cleanup = SMHF_UNSET;
    PyObject *array, *cleanup_object, *result = NULL;
    if (!PyArg_ParseTuple(args, "OpO:decode", &array, &skip, &cleanup_object)) {
        return NULL;
    }
    if (cleanup_object != Py_None && (cleanup = PyObject_IsTrue(cleanup_object)) < 0) {
        return NULL;
    }
    if (smhf_py_view_acquire(array, "ids", "i", 1, 1, 0, &ids) < 0) {
        return NULL;
    }
    smhf_buffer_init(&out, 0);

    Py_BEGIN_ALLOW_THREADS status = smhf_tokenizer_decode(
        TOKENIZER(op), ids.data, (size_t)ids.shape[0], skip, cleanup, &out, &err);
    Py_END_ALLOW_THREADS

        result = (status == SMHF_OK)
                     ? PyUnicode_DecodeUTF8((const char *)out.data, (Py_ssize_t)out.size, "strict")
                     : smhf_py_raise(ERRORS(op), &err);
    smhf_buffer_deinit(&out);
    smhf_py_view_release(&ids);
    return result;
}

/* --- Asking ---------------------------------------------------------------------------------- */

static PyObject *tokenizer_token_to_id(PyObject *op, PyObject *token) {
    smhf_bytes_view view;
    PyObject *bytes = utf8_of(token, "token", &view);
    if (bytes == NULL) {
        return NULL;
    }
    int32_t id = smhf_tokenizer_token_to_id(TOKENIZER(op), view);
    Py_DECREF(bytes);
    return (id < 0) ? Py_NewRef(Py_None) : PyLong_FromLong(id);
}

static PyObject *tokenizer_id_to_token(PyObject *op, PyObject *object) {
    smhf_bytes_view view;
    long id = PyLong_AsLong(object);
    if (id == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (id < 0 || id > INT32_MAX ||
        !smhf_tokenizer_id_to_token(TOKENIZER(op), (int32_t)id, &view)) {
        Py_RETURN_NONE;
    }
    return text_of(view);
}

static PyObject *tokenizer_is_special(PyObject *op, PyObject *object) {
    long id = PyLong_AsLong(object);
    if (id == -1 && PyErr_Occurred()) {
        return NULL;
    }
    return PyBool_FromLong(id >= 0 && id <= INT32_MAX &&
                           smhf_tokenizer_is_special(TOKENIZER(op), (int32_t)id));
}

static int put_token(PyObject *dict, smhf_bytes_view view, int32_t id) {
    PyObject *token = text_of(view), *number = PyLong_FromLong(id);
    int status = (token == NULL || number == NULL) ? -1 : PyDict_SetItem(dict, token, number);
    Py_XDECREF(token);
    Py_XDECREF(number);
    return status;
}

static PyObject *tokenizer_vocab(PyObject *op, PyObject *ignored) {
    PyObject *result = PyDict_New();
    smhf_tokenizer_info info;
    smhf_bytes_view view;
    (void)ignored;
    smhf_tokenizer_describe(TOKENIZER(op), &info);
    for (int32_t id = 0; result != NULL && id < info.vocab_ids; id++) {
        if (smhf_tokenizer_vocab_token(TOKENIZER(op), id, &view) &&
            put_token(result, view, id) < 0) {
            Py_CLEAR(result);
        }
    }
    for (int32_t i = 0; result != NULL && i < info.added_count; i++) {
        smhf_added_token token;
        smhf_tokenizer_added_token(TOKENIZER(op), i, &token);
        if (put_token(result, token.content, token.id) < 0) {
            Py_CLEAR(result);
        }
    }
    return result;
}

static PyObject *tokenizer_added_tokens(PyObject *op, PyObject *ignored) {
    smhf_tokenizer_info info;
    (void)ignored;
    smhf_tokenizer_describe(TOKENIZER(op), &info);
    PyObject *result = PyList_New(info.added_count);
    for (int32_t i = 0; result != NULL && i < info.added_count; i++) {
        smhf_added_token token;
        smhf_tokenizer_added_token(TOKENIZER(op), i, &token);
        PyObject *item = Py_BuildValue(
            "(s#iOOOOO)", (const char *)token.content.data, (Py_ssize_t)token.content.size,
            (int)token.id, token.single_word ? Py_True : Py_False,
            token.lstrip ? Py_True : Py_False, token.rstrip ? Py_True : Py_False,
            token.normalized ? Py_True : Py_False, token.special ? Py_True : Py_False);
        if (item == NULL) {
            Py_CLEAR(result);
        } else {
            PyList_SET_ITEM(result, i, item);
        }
    }
    return result;
}

static PyObject *role_of(const smhf_tokenizer *tokenizer, smhf_token_role role) {
    smhf_bytes_view token = smhf_tokenizer_role_token(tokenizer, role);
    return (token.data != NULL) ? text_of(token) : Py_NewRef(Py_None);
}

static PyObject *tokenizer_info(PyObject *op, PyObject *ignored) {
    const smhf_tokenizer *tokenizer = TOKENIZER(op);
    smhf_tokenizer_info info;
    (void)ignored;
    smhf_tokenizer_describe(tokenizer, &info);
    return Py_BuildValue(
        "{s:O,s:O,s:O,s:O,s:O,s:L,s:i,s:i,s:i,s:i,s:O,s:O,s:O,s:N,s:N,s:N,s:N,s:N}",
        "do_lower_case", info.do_lower_case ? Py_True : Py_False, "strip_accents",
        info.strip_accents ? Py_True : Py_False, "strip_accents_given",
        info.strip_accents_given ? Py_True : Py_False, "tokenize_chinese_chars",
        info.tokenize_chinese_chars ? Py_True : Py_False, "clean_text",
        info.clean_text ? Py_True : Py_False, "model_max_length", (long long)info.model_max_length,
        "vocab_size", (int)info.vocab_size, "total_size", (int)info.total_size, "specials_single",
        info.specials_single, "specials_pair", info.specials_pair, "padding_left",
        info.padding_left ? Py_True : Py_False, "truncation_left",
        info.truncation_left ? Py_True : Py_False, "decode_cleanup",
        info.decode_cleanup ? Py_True : Py_False, "unk_token", role_of(tokenizer, SMHF_TOKEN_UNK),
        "sep_token", role_of(tokenizer, SMHF_TOKEN_SEP), "pad_token",
        role_of(tokenizer, SMHF_TOKEN_PAD), "cls_token", role_of(tokenizer, SMHF_TOKEN_CLS),
        "mask_token", role_of(tokenizer, SMHF_TOKEN_MASK));
}

/* --- Copies, files, capsules ----------------------------------------------------------------- */

PyDoc_STRVAR(with_tokens_doc,
             "with_tokens($self, tokens, /)\n--\n\nA copy that knows more added tokens: a list of "
             "(content, single_word, lstrip, rstrip, normalized, special).");

static PyObject *tokenizer_with_tokens(PyObject *op, PyObject *list) {
    smhf_tokenizer *copy = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    PyObject *result = NULL, *fast = PySequence_Fast(list, "tokens: expected a list");
    if (fast == NULL) {
        return NULL;
    }
    Py_ssize_t count = PySequence_Fast_GET_SIZE(fast), held = 0;
    smhf_added_token *tokens = PyMem_Calloc((size_t)count + 1, sizeof *tokens);
    PyObject **owners = PyMem_Calloc((size_t)count + 1, sizeof *owners);
    if (tokens == NULL || owners == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (; held < count; held++) {
        smhf_added_token *token = &tokens[held];
        PyObject *content;
        if (!PyArg_ParseTuple(PySequence_Fast_GET_ITEM(fast, held), "Oppppp:with_tokens", &content,
                              &token->single_word, &token->lstrip, &token->rstrip,
                              &token->normalized, &token->special)) {
            goto done;
        }
        owners[held] = utf8_of(content, "added token", &token->content);
        if (owners[held] == NULL) {
            goto done;
        }
        token->id = -1;
    }

    Py_BEGIN_ALLOW_THREADS status =
        smhf_tokenizer_with_tokens(TOKENIZER(op), tokens, (size_t)count, &copy, &err);
    Py_END_ALLOW_THREADS

        result =
            (status == SMHF_OK) ? smhf_py_tokenizer_wrap(smhf_py_tokenizer_state(Py_TYPE(op)), copy)
                                : smhf_py_raise(ERRORS(op), &err);

done:
    for (Py_ssize_t i = 0; owners != NULL && i < held; i++) {
        Py_XDECREF(owners[i]);
    }
    PyMem_Free(owners);
    PyMem_Free(tokens);
    Py_DECREF(fast);
    return result;
}

static PyObject *tokenizer_save(PyObject *op, PyObject *folder) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    PyObject *path = smhf_py_path(folder);
    if (path == NULL) {
        return NULL;
    }

    Py_BEGIN_ALLOW_THREADS status =
        smhf_tokenizer_save(TOKENIZER(op), PyBytes_AS_STRING(path), &err);
    Py_END_ALLOW_THREADS

        Py_DECREF(path);
    return (status == SMHF_OK) ? Py_NewRef(Py_None) : smhf_py_raise(ERRORS(op), &err);
}

static void capsule_release(PyObject *capsule) {
    Py_XDECREF((PyObject *)PyCapsule_GetContext(capsule));
}

static PyObject *tokenizer_capsule(PyObject *op, PyObject *ignored) {
    (void)ignored;
    PyObject *capsule = PyCapsule_New(TOKENIZER(op), "smhf.tokenizer", capsule_release);
    if (capsule == NULL) {
        return NULL;
    }
    if (PyCapsule_SetContext(capsule, op) < 0) {
        Py_DECREF(capsule);
        return NULL;
    }
    Py_INCREF(op); /* the capsule's; released by capsule_release */
    return capsule;
}

/* --- Type ------------------------------------------------------------------------------------ */

static PyMethodDef tokenizer_methods[] = {
    {"encode", (PyCFunction)(void (*)(void))tokenizer_encode, METH_VARARGS | METH_KEYWORDS,
     encode_doc},
    {"plain", (PyCFunction)(void (*)(void))tokenizer_plain, METH_FASTCALL, plain_doc},
    {"decode", tokenizer_decode, METH_VARARGS, decode_doc},
    {"token_to_id", tokenizer_token_to_id, METH_O,
     "token_to_id($self, token, /)\n--\n\nId of a token, or None."},
    {"id_to_token", tokenizer_id_to_token, METH_O,
     "id_to_token($self, id, /)\n--\n\nToken of an id, or None."},
    {"is_special", tokenizer_is_special, METH_O,
     "is_special($self, id, /)\n--\n\nWhether decode can leave this id out."},
    {"vocab", tokenizer_vocab, METH_NOARGS,
     "vocab($self, /)\n--\n\nAll tokens, added ones included, with their ids."},
    {"added_tokens", tokenizer_added_tokens, METH_NOARGS,
     "added_tokens($self, /)\n--\n\n"
     "(content, id, single_word, lstrip, rstrip, normalized, special) in order of id."},
    {"info", tokenizer_info, METH_NOARGS, "info($self, /)\n--\n\nOptions and sizes as a dict."},
    {"with_tokens", tokenizer_with_tokens, METH_O, with_tokens_doc},
    {"save", tokenizer_save, METH_O,
     "save($self, folder, /)\n--\n\nWrite the four files of a Hugging Face tokenizer."},
    {"_capsule", tokenizer_capsule, METH_NOARGS,
     "_capsule($self, /)\n--\n\nPyCapsule \"smhf.tokenizer\" that keeps this object alive."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot tokenizer_slots[] = {
    {Py_tp_dealloc, tokenizer_dealloc},
    {Py_tp_methods, tokenizer_methods},
    {Py_tp_doc, "An immutable BERT WordPiece tokenizer."},
    {0, NULL},
};

PyType_Spec smhf_py_tokenizer_spec = {
    .name = "smhf_native.tokenizer._tokenizer.Tokenizer",
    .basicsize = sizeof(tokenizer_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = tokenizer_slots,
};
