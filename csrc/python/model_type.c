/* model_type.c: _model.Model. Class I: immutable after open; any number of threads may call it. */
#include "py_model.h"

#include "py_array.h"
#include "py_cancel.h"

#include <string.h>

#define INTEGERS "iq?B"

/* --- batches -------------------------------------------------------------------------------------
 */

smhf_int_view smhf_py_int_view(const smhf_py_view *view) {
    smhf_int_view out = {view->data, (int)view->buffer.itemsize};
    if (view->buffer.obj != NULL && out.data == NULL) {
        out.data = ""; /* an empty array is there, though it has no memory */
    }
    return out;
}

/* A [rows, columns] argument beside ids of the same shape. */
static int acquire_beside(PyObject *object, const char *name, const smhf_py_view *ids,
                          smhf_py_view *view) {
    if (object == Py_None) {
        return 0;
    }
    if (smhf_py_view_acquire(object, name, INTEGERS, 2, 2, 0, view) < 0) {
        return -1;
    }
    if (view->shape[0] != ids->shape[0] || view->shape[1] != ids->shape[1]) {
        PyErr_Format(PyExc_ValueError, "%s: expected shape (%zd, %zd) as input_ids, got (%zd, %zd)",
                     name, ids->shape[0], ids->shape[1], view->shape[0], view->shape[1]);
        return -1;
    }
    return 0;
}

static int acquire_packed(smhf_py_batch *batch, PyObject *ids, PyObject *type_ids,
                          PyObject *cu_seqlens) {
    if (smhf_py_view_acquire(ids, "ids", "i", 1, 1, 0, &batch->ids) < 0 ||
        smhf_py_view_acquire(cu_seqlens, "cu_seqlens", "i", 1, 1, 0, &batch->cu_seqlens) < 0) {
        return -1;
    }
    if (type_ids != Py_None &&
        smhf_py_view_acquire(type_ids, "type_ids", "i", 1, 1, 0, &batch->type_ids) < 0) {
        return -1;
    }
    const Py_ssize_t tokens = batch->ids.shape[0], ends = batch->cu_seqlens.shape[0];
    const int32_t *offsets = batch->cu_seqlens.data;
    if (ends < 1 || offsets[ends - 1] != tokens) {
        PyErr_Format(PyExc_ValueError, "cu_seqlens: expected to end with the %zd tokens of ids",
                     tokens);
        return -1;
    }
    if (type_ids != Py_None && batch->type_ids.shape[0] != tokens) {
        PyErr_Format(PyExc_ValueError, "type_ids: expected %zd values as ids, got %zd", tokens,
                     batch->type_ids.shape[0]);
        return -1;
    }
    batch->is_packed = 1;
    batch->rows = (size_t)(ends - 1);
    batch->packed =
        (smhf_batch){batch->ids.data, batch->type_ids.data, offsets, (size_t)(ends - 1)};
    return 0;
}

int smhf_py_batch_acquire(smhf_py_batch *batch, PyObject *ids, PyObject *mask, PyObject *type_ids,
                          PyObject *cu_seqlens) {
    memset(batch, 0, sizeof *batch);
    if (cu_seqlens != Py_None) {
        return acquire_packed(batch, ids, type_ids, cu_seqlens);
    }
    if (smhf_py_view_acquire(ids, "input_ids", "iq", 2, 2, 0, &batch->ids) < 0 ||
        acquire_beside(mask, "attention_mask", &batch->ids, &batch->mask) < 0 ||
        acquire_beside(type_ids, "token_type_ids", &batch->ids, &batch->type_ids) < 0) {
        return -1;
    }
    batch->rows = (size_t)batch->ids.shape[0];
    batch->padded = (smhf_padded){
        smhf_py_int_view(&batch->ids),      smhf_py_int_view(&batch->mask),
        smhf_py_int_view(&batch->type_ids), batch->rows,
        (size_t)batch->ids.shape[1],
    };
    return 0;
}

void smhf_py_batch_release(smhf_py_batch *batch) {
    smhf_py_view_release(&batch->ids);
    smhf_py_view_release(&batch->mask);
    smhf_py_view_release(&batch->type_ids);
    smhf_py_view_release(&batch->cu_seqlens);
}

/* --- making --------------------------------------------------------------------------------------
 */

static PyObject *wrap_model(PyTypeObject *type, smhf_model *model) {
    smhf_py_model *self = (smhf_py_model *)type->tp_alloc(type, 0);
    if (self == NULL) {
        smhf_model_free(model);
        return NULL;
    }
    self->model = model;
    return (PyObject *)self;
}

PyDoc_STRVAR(
    model_open_doc,
    "open($type, folder, num_labels=0, device='auto', precision='fp32', seed=42, task=None, "
    "remake_head=False)\n--\n\n"
    "Open folder/config.json and folder/model.safetensors.");

static PyObject *model_open(PyObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"folder", "num_labels", "device",      "precision",
                            "seed",   "task",       "remake_head", NULL};
    smhf_model_options options = SMHF_MODEL_DEFAULTS;
    unsigned long long seed = options.seed;
    PyObject *folder = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&|issKzp:open", names, PyUnicode_FSConverter,
                                     &folder, &options.num_labels, &options.device,
                                     &options.precision, &seed, &options.task,
                                     &options.remake_head)) {
        return NULL;
    }
    options.seed = seed;

    smhf_error err = SMHF_ERROR_INIT;
    smhf_model *model = NULL;
    smhf_status status;
    Py_BEGIN_ALLOW_THREADS status =
        smhf_model_open(PyBytes_AS_STRING(folder), &options, &model, &err);
    Py_END_ALLOW_THREADS

        Py_DECREF(folder);
    if (status != SMHF_OK) {
        smhf_py_model_state *state = PyType_GetModuleState((PyTypeObject *)type);
        return smhf_py_raise(&state->errors, &err);
    }
    return wrap_model((PyTypeObject *)type, model);
}

PyDoc_STRVAR(
    model_new_doc,
    "new($type, config, num_labels=0, device='auto', precision='fp32', seed=42, task=None)\n--\n\n"
    "Make a model with new weights from the bytes of a config.json.");

static PyObject *model_new(PyObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"config", "num_labels", "device", "precision", "seed", "task", NULL};
    smhf_model_options options = SMHF_MODEL_DEFAULTS;
    unsigned long long seed = options.seed;
    Py_buffer config;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*|issKz:new", names, &config,
                                     &options.num_labels, &options.device, &options.precision,
                                     &seed, &options.task)) {
        return NULL;
    }
    options.seed = seed;

    smhf_error err = SMHF_ERROR_INIT;
    smhf_model *model = NULL;
    smhf_status status;
    Py_BEGIN_ALLOW_THREADS status =
        smhf_model_new((smhf_bytes_view){config.buf, (size_t)config.len}, &options, &model, &err);
    Py_END_ALLOW_THREADS

        PyBuffer_Release(&config);
    if (status != SMHF_OK) {
        smhf_py_model_state *state = PyType_GetModuleState((PyTypeObject *)type);
        return smhf_py_raise(&state->errors, &err);
    }
    return wrap_model((PyTypeObject *)type, model);
}

static void model_dealloc(PyObject *op) {
    smhf_py_model *self = (smhf_py_model *)op;
    PyTypeObject *type = Py_TYPE(op);
    smhf_model_free(self->model);
    type->tp_free(op);
    Py_DECREF(type);
}

/* --- running -------------------------------------------------------------------------------------
 */

/* How many results a batch has: sequences, or tokens (the ones of a mask; the core checks it). */
static size_t count_results(const smhf_py_batch *batch, int per_token) {
    size_t tokens = 0;
    if (!per_token) {
        return batch->rows;
    }
    if (batch->is_packed) {
        return (size_t)batch->ids.shape[0];
    }
    const size_t cells = batch->padded.rows * batch->padded.columns;
    if (batch->padded.mask.data == NULL) {
        return cells;
    }
    for (size_t i = 0; i < cells; i++) {
        tokens += smhf_int_at(batch->padded.mask, i) != 0;
    }
    return tokens;
}

/* pooling < 0: what the head gives. picks: None, or int32 [any]. */
static PyObject *run_batch(PyObject *op, PyObject *ids, PyObject *mask, PyObject *type_ids,
                           PyObject *cu_seqlens, PyObject *picks, int pooling) {
    smhf_py_model *self = (smhf_py_model *)op;
    PyObject *result = NULL;
    smhf_py_batch batch;
    smhf_py_view pick_view = {0};
    smhf_model_info info;
    float *out = NULL;
    smhf_model_describe(self->model, &info);
    if (smhf_py_batch_acquire(&batch, ids, mask, type_ids, cu_seqlens) < 0 ||
        (picks != Py_None && smhf_py_view_acquire(picks, "picks", "i", 1, 1, 0, &pick_view) < 0)) {
        goto done;
    }
    const int per_token = info.per_token && pooling <= SMHF_POOLING_NONE;
    const size_t count =
        picks != Py_None ? (size_t)pick_view.shape[0] : count_results(&batch, per_token);
    const size_t width = (size_t)info.width;
    result = smhf_py_array_f32(2, (size_t[2]){count, width}, &out);
    if (result == NULL) {
        goto done;
    }

    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    smhf_py_cancel cancel;
    smhf_py_cancel_begin(&cancel);
    const smhf_run run = {
        .batch = batch.is_packed ? &batch.packed : NULL,
        .padded = &batch.padded,
        .pooling = pooling >= 0 ? (smhf_pooling)pooling : SMHF_POOLING_NONE,
        .picks = picks == Py_None         ? NULL
                 : pick_view.data != NULL ? pick_view.data
                                          : (const int32_t[1]){0},
        .pick_count = picks == Py_None ? 0 : (size_t)pick_view.shape[0],
        .cancel = smhf_py_cancel_of(&cancel),
    };
    status = pooling >= 0 ? smhf_model_encode(self->model, &run, out, &err)
                          : smhf_model_run(self->model, &run, out, &err);
    smhf_py_cancel_end(&cancel);

    if (status != SMHF_OK) {
        Py_CLEAR(result);
        if (!PyErr_Occurred()) { /* what a signal handler raised */
            smhf_py_raise(&smhf_py_model_state_of(op)->errors, &err);
        }
    }

done:
    smhf_py_view_release(&pick_view);
    smhf_py_batch_release(&batch);
    return result;
}

PyDoc_STRVAR(model_forward_doc,
             "forward($self, ids, mask=None, type_ids=None, cu_seqlens=None, picks=None)\n--\n\n"
             "What the head gives, float32 (rows, tokens or picks, width), of padded\n"
             "[rows, columns] arrays, or of packed int32 arrays when cu_seqlens is given.");

static PyObject *model_forward(PyObject *op, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"ids", "mask", "type_ids", "cu_seqlens", "picks", NULL};
    PyObject *ids, *mask = Py_None, *type_ids = Py_None, *cu_seqlens = Py_None, *picks = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|OOOO:forward", names, &ids, &mask, &type_ids,
                                     &cu_seqlens, &picks)) {
        return NULL;
    }
    return run_batch(op, ids, mask, type_ids, cu_seqlens, picks, -1);
}

PyDoc_STRVAR(
    model_encode_doc,
    "encode($self, pooling, ids, mask=None, type_ids=None, cu_seqlens=None)\n--\n\n"
    "Hidden states, float32: 0 of every token, 1 mean of a sequence, 2 its first token's.");

static PyObject *model_encode(PyObject *op, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"pooling", "ids", "mask", "type_ids", "cu_seqlens", NULL};
    PyObject *ids, *mask = Py_None, *type_ids = Py_None, *cu_seqlens = Py_None;
    int pooling = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO|OOO:encode", names, &pooling, &ids, &mask,
                                     &type_ids, &cu_seqlens)) {
        return NULL;
    }
    if (pooling < SMHF_POOLING_NONE || pooling > SMHF_POOLING_CLS) {
        return PyErr_Format(PyExc_ValueError, "pooling: expected 0 to 2, got %d", pooling);
    }
    return run_batch(op, ids, mask, type_ids, cu_seqlens, Py_None, pooling);
}

PyDoc_STRVAR(model_set_precision_doc,
             "set_precision($self, precision, /)\n--\n\nCompute in 'fp32', 'bf16' or 'int8' "
             "from now on.");

static PyObject *model_set_precision(PyObject *op, PyObject *args) {
    smhf_py_model *self = (smhf_py_model *)op;
    const char *precision = NULL;
    if (!PyArg_ParseTuple(args, "s:set_precision", &precision)) {
        return NULL;
    }

    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    Py_BEGIN_ALLOW_THREADS status = smhf_model_set_precision(self->model, precision, &err);
    Py_END_ALLOW_THREADS

        if (status != SMHF_OK) {
        return smhf_py_raise(&smhf_py_model_state_of(op)->errors, &err);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(model_save_doc,
             "save($self, folder, /)\n--\n\nWrite folder/model.safetensors, whole or not "
             "at all.");

static PyObject *model_save(PyObject *op, PyObject *args) {
    smhf_py_model *self = (smhf_py_model *)op;
    PyObject *folder = NULL;
    if (!PyArg_ParseTuple(args, "O&:save", PyUnicode_FSConverter, &folder)) {
        return NULL;
    }

    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    Py_BEGIN_ALLOW_THREADS status = smhf_model_save(self->model, PyBytes_AS_STRING(folder), &err);
    Py_END_ALLOW_THREADS

        Py_DECREF(folder);
    if (status != SMHF_OK) {
        return smhf_py_raise(&smhf_py_model_state_of(op)->errors, &err);
    }
    Py_RETURN_NONE;
}

/* --- parameters ----------------------------------------------------------------------------------
 */

static int check_index(const smhf_model *model, Py_ssize_t index) {
    smhf_model_info info;
    smhf_model_describe(model, &info);
    if (index < 0 || (size_t)index >= info.parameter_count) {
        PyErr_Format(PyExc_IndexError, "parameter %zd: the model has %zu", index,
                     info.parameter_count);
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(model_parameter_doc,
             "parameter($self, index, /)\n--\n\nCopy of one parameter's values, float32.");

static PyObject *model_parameter(PyObject *op, PyObject *args) {
    smhf_py_model *self = (smhf_py_model *)op;
    Py_ssize_t index = 0;
    float *data = NULL;
    smhf_parameter_info info;
    if (!PyArg_ParseTuple(args, "n:parameter", &index) || check_index(self->model, index) < 0) {
        return NULL;
    }
    smhf_model_parameter(self->model, (size_t)index, &info);
    PyObject *result = smhf_py_array_f32(info.ndim, info.shape, &data);
    if (result == NULL) {
        return NULL;
    }

    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    Py_BEGIN_ALLOW_THREADS status =
        smhf_model_parameter_read(self->model, (size_t)index, data, &err);
    Py_END_ALLOW_THREADS

        if (status != SMHF_OK) {
        Py_DECREF(result);
        return smhf_py_raise(&smhf_py_model_state_of(op)->errors, &err);
    }
    return result;
}

PyDoc_STRVAR(
    model_set_parameter_doc,
    "set_parameter($self, index, values, /)\n--\n\nReplace one parameter's values, float32.");

static PyObject *model_set_parameter(PyObject *op, PyObject *args) {
    smhf_py_model *self = (smhf_py_model *)op;
    Py_ssize_t index = 0;
    PyObject *values = NULL;
    smhf_parameter_info info;
    smhf_py_view view = {0};
    if (!PyArg_ParseTuple(args, "nO:set_parameter", &index, &values) ||
        check_index(self->model, index) < 0) {
        return NULL;
    }
    smhf_model_parameter(self->model, (size_t)index, &info);
    if (smhf_py_view_acquire(values, info.name, "f", info.ndim, info.ndim, 0, &view) < 0) {
        return NULL;
    }
    if ((size_t)view.shape[0] != info.shape[0] ||
        (info.ndim == 2 && (size_t)view.shape[1] != info.shape[1])) {
        PyErr_Format(PyExc_ValueError, "%s: expected shape (%zu, %zu), got (%zd, %zd)", info.name,
                     info.shape[0], info.shape[1], view.shape[0], view.shape[1]);
        smhf_py_view_release(&view);
        return NULL;
    }

    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    Py_BEGIN_ALLOW_THREADS status =
        smhf_model_parameter_write(self->model, (size_t)index, view.data, &err);
    Py_END_ALLOW_THREADS

        smhf_py_view_release(&view);
    if (status != SMHF_OK) {
        return smhf_py_raise(&smhf_py_model_state_of(op)->errors, &err);
    }
    Py_RETURN_NONE;
}

/* --- asking --------------------------------------------------------------------------------------
 */

PyDoc_STRVAR(model_parameter_names_doc,
             "parameter_names($self, /)\n--\n\nCheckpoint names, in the order of the network.");

static PyObject *model_parameter_names(PyObject *op, PyObject *unused) {
    smhf_py_model *self = (smhf_py_model *)op;
    smhf_model_info info;
    (void)unused;
    smhf_model_describe(self->model, &info);
    PyObject *names = PyTuple_New((Py_ssize_t)info.parameter_count);
    for (size_t i = 0; names != NULL && i < info.parameter_count; i++) {
        smhf_parameter_info parameter;
        smhf_model_parameter(self->model, i, &parameter);
        PyObject *name = PyUnicode_FromString(parameter.name);
        if (name == NULL) {
            Py_CLEAR(names);
        } else {
            PyTuple_SET_ITEM(names, (Py_ssize_t)i, name);
        }
    }
    return names;
}

PyDoc_STRVAR(model_labels_doc, "labels($self, /)\n--\n\nNames of the labels, by id.");

static PyObject *model_labels(PyObject *op, PyObject *unused) {
    smhf_py_model *self = (smhf_py_model *)op;
    smhf_model_info info;
    (void)unused;
    smhf_model_describe(self->model, &info);
    PyObject *labels = PyTuple_New(info.num_labels);
    for (int i = 0; labels != NULL && i < info.num_labels; i++) {
        PyObject *label = PyUnicode_FromString(smhf_model_label(self->model, i));
        if (label == NULL) {
            Py_CLEAR(labels);
        } else {
            PyTuple_SET_ITEM(labels, i, label);
        }
    }
    return labels;
}

static PyObject *report_names(const smhf_model *model, int missing) {
    PyObject *names = PyList_New(0);
    const char *text;
    for (size_t i = 0; names != NULL && (text = smhf_model_report(model, missing, i)) != NULL;
         i++) {
        PyObject *name = PyUnicode_FromString(text);
        if (name == NULL || PyList_Append(names, name) < 0) {
            Py_CLEAR(names);
        }
        Py_XDECREF(name);
    }
    return names;
}

PyDoc_STRVAR(model_report_doc,
             "report($self, /)\n--\n\nNames of newly made weights and of tensors left unread.");

static PyObject *model_report(PyObject *op, PyObject *unused) {
    smhf_py_model *self = (smhf_py_model *)op;
    (void)unused;
    PyObject *missing = report_names(self->model, 1);
    PyObject *unexpected = (missing != NULL) ? report_names(self->model, 0) : NULL;
    if (unexpected == NULL) {
        Py_XDECREF(missing);
        return NULL;
    }
    return Py_BuildValue("(NN)", missing, unexpected);
}

PyDoc_STRVAR(model_info_doc, "info($self, /)\n--\n\nSizes of the network, backend and precision.");

static PyObject *model_info(PyObject *op, PyObject *unused) {
    smhf_py_model *self = (smhf_py_model *)op;
    smhf_model_info info;
    (void)unused;
    smhf_model_describe(self->model, &info);
    return Py_BuildValue("{s:s,s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:n,s:K,s:s,s:s}",
                         "architecture", info.architecture, "task", info.task, "vocab", info.vocab,
                         "positions", info.positions, "types", info.types, "hidden", info.hidden,
                         "heads", info.heads, "layers", info.layers, "feedforward",
                         info.feedforward, "num_labels", info.num_labels, "parameter_count",
                         (Py_ssize_t)info.parameter_count, "parameter_floats",
                         (unsigned long long)info.parameter_floats, "backend", info.backend,
                         "precision", info.precision);
}

static void capsule_release(PyObject *capsule) {
    Py_XDECREF((PyObject *)PyCapsule_GetContext(capsule));
}

PyDoc_STRVAR(
    model_capsule_doc,
    "_capsule($self, /)\n--\n\nThe C handle for other modules, as capsule 'smhf.model'; it keeps\n"
    "the model alive.");

static PyObject *model_capsule(PyObject *op, PyObject *unused) {
    smhf_py_model *self = (smhf_py_model *)op;
    (void)unused;
    PyObject *capsule = PyCapsule_New(self->model, "smhf.model", NULL);
    if (capsule == NULL) {
        return NULL;
    }
    /* The destructor is set last: until then the capsule owns nothing. */
    if (PyCapsule_SetContext(capsule, Py_NewRef(op)) < 0) {
        Py_DECREF(op);
        Py_DECREF(capsule);
        return NULL;
    }
    if (PyCapsule_SetDestructor(capsule, capsule_release) < 0) {
        Py_DECREF(op);
        Py_DECREF(capsule);
        return NULL;
    }
    return capsule;
}

static PyMethodDef model_methods[] = {
    {"open", (PyCFunction)(void (*)(void))model_open, METH_VARARGS | METH_KEYWORDS | METH_CLASS,
     model_open_doc},
    {"new", (PyCFunction)(void (*)(void))model_new, METH_VARARGS | METH_KEYWORDS | METH_CLASS,
     model_new_doc},
    {"forward", (PyCFunction)(void (*)(void))model_forward, METH_VARARGS | METH_KEYWORDS,
     model_forward_doc},
    {"encode", (PyCFunction)(void (*)(void))model_encode, METH_VARARGS | METH_KEYWORDS,
     model_encode_doc},
    {"set_precision", model_set_precision, METH_VARARGS, model_set_precision_doc},
    {"save", model_save, METH_VARARGS, model_save_doc},
    {"parameter", model_parameter, METH_VARARGS, model_parameter_doc},
    {"set_parameter", model_set_parameter, METH_VARARGS, model_set_parameter_doc},
    {"parameter_names", model_parameter_names, METH_NOARGS, model_parameter_names_doc},
    {"labels", model_labels, METH_NOARGS, model_labels_doc},
    {"report", model_report, METH_NOARGS, model_report_doc},
    {"info", model_info, METH_NOARGS, model_info_doc},
    {"_capsule", model_capsule, METH_NOARGS, model_capsule_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(model_doc, "A sequence classifier: one C handle. Made by open or new.");

static PyType_Slot model_slots[] = {
    {Py_tp_doc, (void *)model_doc},
    {Py_tp_dealloc, model_dealloc},
    {Py_tp_methods, model_methods},
    {0, NULL},
};

PyType_Spec smhf_py_model_spec = {
    .name = "smhf_native.model._model.Model",
    .basicsize = sizeof(smhf_py_model),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = model_slots,
};
