/* trainer_type.c: _model.Trainer. Class B: a second thread in the same trainer gets BusyError. */
#include "py_model.h"

#include "py_array.h"
#include "py_cancel.h"

#include <string.h>

typedef struct smhf_py_trainer {
    PyObject_HEAD PyObject *model; /* strong: the weights live there */
    smhf_trainer *trainer;
} smhf_py_trainer;

/* --- life ----------------------------------------------------------------------------------------
 */

static int parse_schedule(const char *name, smhf_schedule *out) {
    static const char *const NAMES[] = {"linear", "cosine", "constant", "constant_with_warmup"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(name, NAMES[i]) == 0) {
            *out = (smhf_schedule)i;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError,
                 "schedule: expected 'linear', 'cosine', 'constant' or 'constant_with_warmup', "
                 "got '%.60s'",
                 name);
    return -1;
}

/* None, or float32 [num_labels]. */
static int take_class_weights(PyObject *model, PyObject *weights, smhf_py_view *view,
                              smhf_trainer_options *o) {
    smhf_model_info info;
    if (weights == Py_None) {
        return 0;
    }
    smhf_model_describe(((smhf_py_model *)model)->model, &info);
    if (smhf_py_view_acquire(weights, "class_weights", "f", 1, 1, 0, view) < 0) {
        return -1;
    }
    if (view->shape[0] != info.num_labels) {
        PyErr_Format(PyExc_ValueError,
                     "class_weights: expected one for each of the %d labels, got %zd",
                     info.num_labels, view->shape[0]);
        return -1;
    }
    o->class_weights = view->data;
    return 0;
}

/* None, or one element for each parameter. */
static int take_by_parameter(PyObject *model, PyObject *object, const char *name,
                             const char *format, smhf_py_view *view) {
    smhf_model_info info;
    if (object == Py_None) {
        return 0;
    }
    smhf_model_describe(((smhf_py_model *)model)->model, &info);
    if (smhf_py_view_acquire(object, name, format, 1, 1, 0, view) < 0) {
        return -1;
    }
    if ((size_t)view->shape[0] != info.parameter_count) {
        PyErr_Format(PyExc_ValueError, "%s: expected one for each of the %zu parameters, got %zd",
                     name, info.parameter_count, view->shape[0]);
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(
    trainer_doc,
    "Trainer(model, learning_rate=5e-05, beta1=0.9, beta2=0.999, eps=1e-08, weight_decay=0.0,\n"
    "        max_grad_norm=1.0, warmup_steps=0, total_steps=0, schedule='linear',\n"
    "        gradient_accumulation_steps=1, label_smoothing=0.0, seed=42, dropout=True,\n"
    "        class_weights=None, frozen=None, rate_scales=None, gradient_checkpointing=False)\n"
    "--\n\n"
    "Fine-tuning of one model.");

static PyObject *trainer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"model",
                            "learning_rate",
                            "beta1",
                            "beta2",
                            "eps",
                            "weight_decay",
                            "max_grad_norm",
                            "warmup_steps",
                            "total_steps",
                            "schedule",
                            "gradient_accumulation_steps",
                            "label_smoothing",
                            "seed",
                            "dropout",
                            "class_weights",
                            "frozen",
                            "rate_scales",
                            "gradient_checkpointing",
                            NULL};
    smhf_py_model_state *state = PyType_GetModuleState(type);
    smhf_trainer_options o = SMHF_TRAINER_DEFAULTS;
    long long warmup = 0, total = 0;
    unsigned long long seed = o.seed;
    const char *schedule = "linear";
    PyObject *model = NULL, *weights = Py_None, *frozen = Py_None, *scales = Py_None;
    PyObject *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "O!|ddddddLLsidKpOOOp:Trainer", names, state->model_type, &model,
            &o.learning_rate, &o.beta1, &o.beta2, &o.eps, &o.weight_decay, &o.max_grad_norm,
            &warmup, &total, &schedule, &o.gradient_accumulation_steps, &o.label_smoothing, &seed,
            &o.dropout, &weights, &frozen, &scales, &o.gradient_checkpointing) ||
        parse_schedule(schedule, &o.schedule) < 0) {
        return NULL;
    }
    o.warmup_steps = warmup;
    o.total_steps = total;
    o.seed = seed;
    smhf_py_view weight_view = {0}, frozen_view = {0}, scale_view = {0};
    if (take_class_weights(model, weights, &weight_view, &o) < 0 ||
        take_by_parameter(model, frozen, "frozen", "B?", &frozen_view) < 0 ||
        take_by_parameter(model, scales, "rate_scales", "f", &scale_view) < 0) {
        goto done;
    }
    o.frozen = frozen_view.data;
    o.rate_scales = scale_view.data;
    smhf_py_trainer *self = (smhf_py_trainer *)type->tp_alloc(type, 0);
    if (self == NULL) {
        goto done;
    }
    self->model = Py_NewRef(model);

    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    Py_BEGIN_ALLOW_THREADS status =
        smhf_trainer_new(((smhf_py_model *)model)->model, &o, &self->trainer, &err);
    Py_END_ALLOW_THREADS

        if (status == SMHF_OK) {
        result = (PyObject *)self;
    }
    else {
        Py_DECREF(self);
        smhf_py_raise(&state->errors, &err);
    }

done:
    smhf_py_view_release(&scale_view);
    smhf_py_view_release(&frozen_view);
    smhf_py_view_release(&weight_view);
    return result;
}

static int trainer_traverse(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((smhf_py_trainer *)op)->model);
    return 0;
}

static int trainer_clear(PyObject *op) {
    smhf_py_trainer *self = (smhf_py_trainer *)op;
    smhf_trainer_free(self->trainer); /* before the model that it writes */
    self->trainer = NULL;
    Py_CLEAR(self->model);
    return 0;
}

static void trainer_dealloc(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)trainer_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

/* --- a step --------------------------------------------------------------------------------------
 */

/* The shape that the model's task asks for; ranges are the core's business. */
static int check_labels(PyObject *model, const smhf_py_batch *batch, const smhf_py_view *labels) {
    smhf_model_info info;
    smhf_model_describe(((smhf_py_model *)model)->model, &info);
    const int floats = labels->format == 'f';
    const Py_ssize_t rows = (Py_ssize_t)batch->rows;
    const Py_ssize_t cols = labels->ndim == 2 ? labels->shape[1] : 1;
    Py_ssize_t want_rows = rows, want_cols = 1;
    if (strcmp(info.task, "question-answering") == 0) {
        want_cols = 2;
    } else if (info.per_token && batch->is_packed) {
        want_rows = batch->ids.shape[0];
    } else if (info.per_token) {
        want_cols = (Py_ssize_t)batch->padded.columns;
    } else if (floats) {
        want_cols = info.num_labels;
    }
    if (labels->shape[0] == want_rows && cols == want_cols) {
        return 0;
    }
    if (floats && !info.per_token) {
        PyErr_Format(
            PyExc_ValueError,
            "labels: floats are one number for each of the %d labels of a row, shape (%zd, "
            "%zd), got (%zd, %zd); class numbers are integers",
            info.num_labels, want_rows, want_cols, labels->shape[0], cols);
    } else if (want_cols == 1) {
        PyErr_Format(PyExc_ValueError, "labels: expected one for each of the %zd %s, got %zd",
                     want_rows, info.per_token ? "tokens" : "rows", labels->shape[0]);
    } else {
        PyErr_Format(PyExc_ValueError, "labels: expected shape (%zd, %zd), got (%zd, %zd)",
                     want_rows, want_cols, labels->shape[0], cols);
    }
    return -1;
}

/* The arguments of a pass; released whatever acquire said. */
typedef struct pass_call {
    smhf_py_batch batch;
    smhf_py_view labels;
    smhf_examples examples;
} pass_call;

static int pass_acquire(PyObject *op, PyObject *args, PyObject *kwargs, const char *format,
                        const char *last, int *last_value, pass_call *call) {
    char *names[] = {"ids", "mask", "type_ids", "cu_seqlens", "labels", (char *)last, NULL};
    smhf_py_trainer *self = (smhf_py_trainer *)op;
    PyObject *ids, *mask = Py_None, *type_ids = Py_None, *cu_seqlens = Py_None, *labels = Py_None;
    memset(call, 0, sizeof *call);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &ids, &mask, &type_ids,
                                     &cu_seqlens, &labels, last_value) ||
        smhf_py_batch_acquire(&call->batch, ids, mask, type_ids, cu_seqlens) < 0 ||
        smhf_py_view_acquire(labels, "labels", "iqf", 1, 2, 0, &call->labels) < 0 ||
        check_labels(self->model, &call->batch, &call->labels) < 0) {
        return -1;
    }
    call->examples.batch = call->batch.is_packed ? &call->batch.packed : NULL;
    call->examples.padded = &call->batch.padded;
    if (call->labels.format == 'f') {
        call->examples.values = call->labels.data;
    } else {
        call->examples.labels = smhf_py_int_view(&call->labels);
    }
    return 0;
}

static void pass_release(pass_call *call) {
    smhf_py_view_release(&call->labels);
    smhf_py_batch_release(&call->batch);
}

/* NULL, with what a signal handler raised, or the core's error. */
static PyObject *pass_failed(PyObject *op, const smhf_error *err) {
    return PyErr_Occurred() ? NULL : smhf_py_raise(&smhf_py_model_state_of(op)->errors, err);
}

typedef smhf_status (*pass_function)(smhf_trainer *, const smhf_examples *, float *, smhf_error *);

static PyObject *run_pass(PyObject *op, PyObject *args, PyObject *kwargs, const char *format,
                          pass_function pass) {
    smhf_py_trainer *self = (smhf_py_trainer *)op;
    pass_call call;
    int accumulation = 0;
    float loss = 0.0f;
    if (pass_acquire(op, args, kwargs, format, "accumulation", &accumulation, &call) < 0) {
        pass_release(&call);
        return NULL;
    }

    smhf_error err = SMHF_ERROR_INIT;
    smhf_py_cancel cancel;
    smhf_py_cancel_begin(&cancel);
    call.examples.accumulation = accumulation;
    call.examples.cancel = smhf_py_cancel_of(&cancel);
    const smhf_status status = pass(self->trainer, &call.examples, &loss, &err);
    smhf_py_cancel_end(&cancel);

    pass_release(&call);
    return status == SMHF_OK ? PyFloat_FromDouble((double)loss) : pass_failed(op, &err);
}

PyDoc_STRVAR(
    trainer_forward_backward_doc,
    "forward_backward($self, ids, mask=None, type_ids=None, cu_seqlens=None, labels=None,\n"
    "                 accumulation=0)\n--\n\n"
    "Mean loss; adds its gradient / accumulation to the step's gradients.");

static PyObject *trainer_forward_backward(PyObject *op, PyObject *args, PyObject *kwargs) {
    return run_pass(op, args, kwargs, "O|OOOOi:forward_backward", smhf_trainer_forward_backward);
}

PyDoc_STRVAR(trainer_evaluate_doc,
             "evaluate($self, ids, mask=None, type_ids=None, cu_seqlens=None, labels=None,\n"
             "         accumulation=0)\n--\n\n"
             "Mean loss without dropout and gradients.");

static PyObject *trainer_evaluate(PyObject *op, PyObject *args, PyObject *kwargs) {
    return run_pass(op, args, kwargs, "O|OOOOi:evaluate", smhf_trainer_evaluate);
}

PyDoc_STRVAR(trainer_optimizer_step_doc, "optimizer_step($self, /)\n--\n\n"
                                         "Clip and update; (step, learning_rate, grad_norm).");

static PyObject *trainer_optimizer_step(PyObject *op, PyObject *unused) {
    smhf_py_trainer *self = (smhf_py_trainer *)op;
    (void)unused;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_step_report report = {0};
    smhf_status status;

    Py_BEGIN_ALLOW_THREADS status = smhf_trainer_optimizer_step(self->trainer, &report, &err);
    Py_END_ALLOW_THREADS

        if (status != SMHF_OK) {
        return smhf_py_raise(&smhf_py_model_state_of(op)->errors, &err);
    }
    return Py_BuildValue("(Ldd)", (long long)report.step, report.learning_rate, report.grad_norm);
}

static PyObject *report_of(const smhf_step_report *report) {
    return Py_BuildValue("(Lddd)", (long long)report->step, report->learning_rate,
                         report->grad_norm, report->loss);
}

PyDoc_STRVAR(trainer_step_doc,
             "step($self, ids, mask=None, type_ids=None, cu_seqlens=None, labels=None, wait=True)\n"
             "--\n\n"
             "A pass and an update; (step, learning_rate, grad_norm, loss). Without wait they are\n"
             "queued, and the report is that of an earlier step, or None.");

static PyObject *trainer_step(PyObject *op, PyObject *args, PyObject *kwargs) {
    smhf_py_trainer *self = (smhf_py_trainer *)op;
    pass_call call;
    int wait = 1, found = 1;
    if (pass_acquire(op, args, kwargs, "O|OOOOp:step", "wait", &wait, &call) < 0) {
        pass_release(&call);
        return NULL;
    }

    smhf_error err = SMHF_ERROR_INIT;
    smhf_step_report report = {0};
    smhf_py_cancel cancel;
    smhf_py_cancel_begin(&cancel);
    call.examples.accumulation = 1;
    call.examples.cancel = smhf_py_cancel_of(&cancel);
    smhf_status status =
        smhf_trainer_step(self->trainer, &call.examples, wait ? &report : NULL, &err);
    if (status == SMHF_OK && !wait) {
        status = smhf_trainer_collect(self->trainer, 0, &report, &found, &err);
    }
    smhf_py_cancel_end(&cancel);

    pass_release(&call);
    if (status != SMHF_OK) {
        return pass_failed(op, &err);
    }
    if (!found) {
        Py_RETURN_NONE;
    }
    return report_of(&report);
}

PyDoc_STRVAR(trainer_collect_doc,
             "collect($self, /)\n--\n\n"
             "Wait; the oldest report of a step that nobody waited for, or None.");

static PyObject *trainer_collect(PyObject *op, PyObject *unused) {
    smhf_py_trainer *self = (smhf_py_trainer *)op;
    (void)unused;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_step_report report = {0};
    smhf_status status;
    int found = 0;

    Py_BEGIN_ALLOW_THREADS status = smhf_trainer_collect(self->trainer, 1, &report, &found, &err);
    Py_END_ALLOW_THREADS

        if (status != SMHF_OK) {
        return smhf_py_raise(&smhf_py_model_state_of(op)->errors, &err);
    }
    if (!found) {
        Py_RETURN_NONE;
    }
    return report_of(&report);
}

PyDoc_STRVAR(trainer_progress_doc,
             "progress($self, /)\n--\n\nSteps done and the learning rate of the next one.");

static PyObject *trainer_progress(PyObject *op, PyObject *unused) {
    smhf_py_trainer *self = (smhf_py_trainer *)op;
    int64_t step = 0;
    double rate = 0.0;
    (void)unused;
    smhf_trainer_progress(self->trainer, &step, &rate);
    return Py_BuildValue("(Ld)", (long long)step, rate);
}

PyDoc_STRVAR(trainer_trains_doc,
             "trains($self, index, /)\n--\n\nWhether a parameter is trained: not frozen.");

static PyObject *trainer_trains(PyObject *op, PyObject *args) {
    smhf_py_trainer *self = (smhf_py_trainer *)op;
    smhf_model_info info;
    Py_ssize_t index = 0;
    if (!PyArg_ParseTuple(args, "n:trains", &index)) {
        return NULL;
    }
    smhf_model_describe(((smhf_py_model *)self->model)->model, &info);
    if (index < 0 || (size_t)index >= info.parameter_count) {
        return PyErr_Format(PyExc_IndexError, "parameter %zd: the model has %zu", index,
                            info.parameter_count);
    }
    return PyBool_FromLong(smhf_trainer_trains(self->trainer, (size_t)index));
}

PyDoc_STRVAR(trainer_activation_bytes_doc,
             "activation_bytes($self, /)\n--\n\nBytes planned for activations so far.");

static PyObject *trainer_activation_bytes(PyObject *op, PyObject *unused) {
    (void)unused;
    return PyLong_FromSize_t(smhf_trainer_activation_bytes(((smhf_py_trainer *)op)->trainer));
}

PyDoc_STRVAR(trainer_gradient_doc,
             "gradient($self, index, /)\n--\n\nCopy of one parameter's gradient, float32.");

static PyObject *trainer_gradient(PyObject *op, PyObject *args) {
    smhf_py_trainer *self = (smhf_py_trainer *)op;
    const smhf_model *model = ((smhf_py_model *)self->model)->model;
    Py_ssize_t index = 0;
    float *data = NULL;
    smhf_model_info info;
    smhf_parameter_info parameter;
    if (!PyArg_ParseTuple(args, "n:gradient", &index)) {
        return NULL;
    }
    smhf_model_describe(model, &info);
    if (index < 0 || (size_t)index >= info.parameter_count) {
        return PyErr_Format(PyExc_IndexError, "parameter %zd: the model has %zu", index,
                            info.parameter_count);
    }
    smhf_model_parameter(model, (size_t)index, &parameter);
    PyObject *result = smhf_py_array_f32(parameter.ndim, parameter.shape, &data);
    if (result == NULL) {
        return NULL;
    }

    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    Py_BEGIN_ALLOW_THREADS status =
        smhf_trainer_gradient_read(self->trainer, (size_t)index, data, &err);
    Py_END_ALLOW_THREADS

        if (status != SMHF_OK) {
        Py_DECREF(result);
        return smhf_py_raise(&smhf_py_model_state_of(op)->errors, &err);
    }
    return result;
}

static PyObject *run_file(PyObject *op, PyObject *args, const char *format,
                          smhf_status (*file)(smhf_trainer *, const char *, smhf_error *)) {
    smhf_py_trainer *self = (smhf_py_trainer *)op;
    PyObject *path = NULL;
    if (!PyArg_ParseTuple(args, format, PyUnicode_FSConverter, &path)) {
        return NULL;
    }

    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    Py_BEGIN_ALLOW_THREADS status = file(self->trainer, PyBytes_AS_STRING(path), &err);
    Py_END_ALLOW_THREADS

        Py_DECREF(path);
    if (status != SMHF_OK) {
        return smhf_py_raise(&smhf_py_model_state_of(op)->errors, &err);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(trainer_save_doc,
             "save($self, path, /)\n--\n\nWrite moments, step and seed, atomically.");

static PyObject *trainer_save(PyObject *op, PyObject *args) {
    return run_file(op, args, "O&:save", smhf_trainer_save);
}

PyDoc_STRVAR(trainer_load_doc, "load($self, path, /)\n--\n\nRead back what save wrote.");

static PyObject *trainer_load(PyObject *op, PyObject *args) {
    return run_file(op, args, "O&:load", smhf_trainer_load);
}

static PyMethodDef trainer_methods[] = {
    {"forward_backward", (PyCFunction)(void (*)(void))trainer_forward_backward,
     METH_VARARGS | METH_KEYWORDS, trainer_forward_backward_doc},
    {"evaluate", (PyCFunction)(void (*)(void))trainer_evaluate, METH_VARARGS | METH_KEYWORDS,
     trainer_evaluate_doc},
    {"optimizer_step", trainer_optimizer_step, METH_NOARGS, trainer_optimizer_step_doc},
    {"step", (PyCFunction)(void (*)(void))trainer_step, METH_VARARGS | METH_KEYWORDS,
     trainer_step_doc},
    {"collect", trainer_collect, METH_NOARGS, trainer_collect_doc},
    {"progress", trainer_progress, METH_NOARGS, trainer_progress_doc},
    {"trains", trainer_trains, METH_VARARGS, trainer_trains_doc},
    {"activation_bytes", trainer_activation_bytes, METH_NOARGS, trainer_activation_bytes_doc},
    {"gradient", trainer_gradient, METH_VARARGS, trainer_gradient_doc},
    {"save", trainer_save, METH_VARARGS, trainer_save_doc},
    {"load", trainer_load, METH_VARARGS, trainer_load_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot trainer_slots[] = {
    {Py_tp_doc, (void *)trainer_doc},
    {Py_tp_new, trainer_new},
    {Py_tp_dealloc, trainer_dealloc},
    {Py_tp_traverse, trainer_traverse},
    {Py_tp_clear, trainer_clear},
    {Py_tp_methods, trainer_methods},
    {0, NULL},
};

PyType_Spec smhf_py_trainer_spec = {
    .name = "smhf_native.model._model.Trainer",
    .basicsize = sizeof(smhf_py_trainer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = trainer_slots,
};
