/* sampler_type.c: the sampling thread as a Python object (class L: internally locked). */
#include "py_common.h"

#include "py_trace.h"

typedef struct sampler_object {
    PyObject_HEAD smhf_sampler *sampler;
} sampler_object;

static PyObject *sampler_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"folder",     "interval_ms", "node_id", "proc_folder",
                            "sys_folder", "nvml_path",   NULL};
    PyObject *module = PyType_GetModuleByDef(type, &trace_module);
    smhf_sampler_options options = SMHF_SAMPLER_DEFAULTS;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_sampler *sampler = NULL;
    PyObject *folder = NULL;
    long long interval = options.interval_ms;
    smhf_status status;
    if (module == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "O&|Lssss:Sampler", names, PyUnicode_FSConverter,
                                     &folder, &interval, &options.node, &options.proc_folder,
                                     &options.sys_folder, &options.nvml_path)) {
        return NULL;
    }
    options.folder = PyBytes_AS_STRING(folder);
    options.interval_ms = interval;

    Py_BEGIN_ALLOW_THREADS status = smhf_sampler_start(&options, &sampler, &err);
    Py_END_ALLOW_THREADS

        Py_DECREF(folder);
    if (status != SMHF_OK) {
        trace_state *state = PyModule_GetState(module);
        return smhf_py_raise(&state->errors, &err);
    }
    sampler_object *self = PyObject_New(sampler_object, type);
    if (self == NULL) {
        smhf_sampler_free(sampler);
        return NULL;
    }
    self->sampler = sampler;
    return (PyObject *)self;
}

static void sampler_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    smhf_sampler *sampler = ((sampler_object *)self)->sampler;

    Py_BEGIN_ALLOW_THREADS smhf_sampler_free(sampler);
    Py_END_ALLOW_THREADS

        PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *sampler_stop(PyObject *self, PyObject *Py_UNUSED(args)) {
    trace_state *state = trace_state_of(self);
    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    if (state == NULL) {
        return NULL;
    }

    Py_BEGIN_ALLOW_THREADS status = smhf_sampler_stop(((sampler_object *)self)->sampler, &err);
    Py_END_ALLOW_THREADS

        if (status != SMHF_OK) {
        return smhf_py_raise(&state->errors, &err);
    }
    Py_RETURN_NONE;
}

static PyObject *text_or_none(const char *text) {
    if (text[0] == '\0') {
        Py_RETURN_NONE;
    }
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
}

static PyObject *sampler_stats(PyObject *self, PyObject *Py_UNUSED(args)) {
    smhf_sampler_stats stats;

    Py_BEGIN_ALLOW_THREADS smhf_sampler_stats_get(((sampler_object *)self)->sampler, &stats);
    Py_END_ALLOW_THREADS

        return Py_BuildValue(
            "{sKsKsKsKsKsLsisNsN}", "ticks", (unsigned long long)stats.ticks, "rows",
            (unsigned long long)stats.rows, "bytes", (unsigned long long)stats.bytes, "late_ticks",
            (unsigned long long)stats.late_ticks, "write_errors",
            (unsigned long long)stats.write_errors, "cpu_ns", (long long)stats.cpu_ns, "gpus",
            stats.gpus, "no_gpu_reason", text_or_none(stats.no_gpu_reason), "last_error",
            text_or_none(stats.last_error));
}

static PyMethodDef sampler_methods[] = {
    {"stop", sampler_stop, METH_NOARGS,
     "stop($self, /)\n--\n\nTake a last sample, end the thread, write training_job_end.ts."},
    {"stats", sampler_stats, METH_NOARGS, "stats($self, /)\n--\n\nCounters as a dict."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot sampler_slots[] = {
    {Py_tp_new, (void *)sampler_new},
    {Py_tp_dealloc, (void *)sampler_dealloc},
    {Py_tp_methods, sampler_methods},
    {Py_tp_doc, "Sampler(folder, interval_ms=500, node_id='algo-1', proc_folder='/proc', "
                "sys_folder='/sys', nvml_path='libnvidia-ml.so.1')\n--\n\nA running sampler."},
    {0, NULL},
};

PyType_Spec sampler_type_spec = {
    .name = "smhf_native.trace._trace.Sampler",
    .basicsize = sizeof(sampler_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = sampler_slots,
};
