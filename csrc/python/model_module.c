/* model_module.c: smhf_native.model._model: types Model and Trainer, backends, archives, order.
 *
 * This is the composition root of the compute rooms: here backends are registered.
 */
#include "py_model.h"

#include "py_array.h"

#include "backend/backend.h"
#include "backend_cpu/backend_cpu.h"
#include "common/archive.h"
#include "common/mem.h"
#include "common/pool.h"
#include "common/rng.h"

#define CUDA_PRIORITY 20
#define MAX_PERMUTATION 214748364u /* 2^32 / 20: beyond it torch draws differently */

static smhf_py_model_state *state_of(PyObject *module) {
    return PyModule_GetState(module);
}

/* --- backends ------------------------------------------------------------------------------------
 */

static PyObject *capability_names(uint32_t caps) {
    static const struct {
        uint32_t bit;
        const char *name;
    } NAMES[] = {{SMHF_CAP_HOST_MEMORY, "host_memory"},
                 {SMHF_CAP_ASYNC, "async"},
                 {SMHF_CAP_BF16, "bf16"},
                 {SMHF_CAP_I8, "int8"},
                 {SMHF_CAP_GRAPH, "graph"}};
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < sizeof NAMES / sizeof NAMES[0]; i++) {
        PyObject *name = (caps & NAMES[i].bit) ? PyUnicode_FromString(NAMES[i].name) : NULL;
        if ((caps & NAMES[i].bit) && (name == NULL || PyList_Append(list, name) < 0)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(name);
    }
    return list;
}

static PyObject *wrap_backend(const smhf_backend_status *backend) {
    const smhf_device_info *info = &backend->info;
    if (!backend->available) {
        return Py_BuildValue("{s:O,s:s}", "available", Py_False, "reason", backend->reason);
    }
    return Py_BuildValue(
        "{s:O,s:s,s:s,s:s,s:s,s:i,s:K,s:K,s:N}", "available", Py_True, "reason", "", "name",
        info->name, "tier", info->tier, "detail", info->detail, "units", info->units,
        "memory_bytes", (unsigned long long)info->memory_bytes, "memory_free",
        (unsigned long long)info->memory_free, "capabilities", capability_names(info->caps));
}

PyDoc_STRVAR(
    module_backends_doc,
    "backends($module, /)\n--\n\nName of each backend to what it is, or why it is not there.");

static PyObject *module_backends(PyObject *module, PyObject *unused) {
    smhf_backend_status list[SMHF_BACKEND_MAX];
    int32_t count;
    (void)module;
    (void)unused;

    Py_BEGIN_ALLOW_THREADS count = smhf_backend_list(list, SMHF_BACKEND_MAX);
    Py_END_ALLOW_THREADS

        PyObject *result = PyDict_New();
    for (int32_t i = 0; result != NULL && i < count && i < SMHF_BACKEND_MAX; i++) {
        PyObject *backend = wrap_backend(&list[i]);
        if (backend == NULL || PyDict_SetItemString(result, list[i].name, backend) < 0) {
            Py_CLEAR(result);
        }
        Py_XDECREF(backend);
    }
    return result;
}

/* --- archives and order --------------------------------------------------------------------------
 */

PyDoc_STRVAR(module_extract_archive_doc, "extract_archive($module, path, folder, /)\n--\n\nUnpack "
                                         "a tar or tar.gz into an empty folder.");

static PyObject *module_extract_archive(PyObject *module, PyObject *args) {
    PyObject *path = NULL, *folder = NULL;
    if (!PyArg_ParseTuple(args, "O&O&:extract_archive", PyUnicode_FSConverter, &path,
                          PyUnicode_FSConverter, &folder)) {
        return NULL;
    }

    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    Py_BEGIN_ALLOW_THREADS status =
        smhf_archive_extract(PyBytes_AS_STRING(path), PyBytes_AS_STRING(folder), NULL, &err);
    Py_END_ALLOW_THREADS

        Py_DECREF(path);
    Py_DECREF(folder);
    if (status != SMHF_OK) {
        return smhf_py_raise(&state_of(module)->errors, &err);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    module_create_archive_doc,
    "create_archive($module, path, folder, /)\n--\n\nPack a folder's children into a tar.gz.");

static PyObject *module_create_archive(PyObject *module, PyObject *args) {
    PyObject *path = NULL, *folder = NULL;
    if (!PyArg_ParseTuple(args, "O&O&:create_archive", PyUnicode_FSConverter, &path,
                          PyUnicode_FSConverter, &folder)) {
        return NULL;
    }

    smhf_error err = SMHF_ERROR_INIT;
    smhf_status status;
    Py_BEGIN_ALLOW_THREADS status =
        smhf_archive_create(PyBytes_AS_STRING(path), PyBytes_AS_STRING(folder), &err);
    Py_END_ALLOW_THREADS

        Py_DECREF(path);
    Py_DECREF(folder);
    if (status != SMHF_OK) {
        return smhf_py_raise(&state_of(module)->errors, &err);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(module_torch_randperm_doc,
             "torch_randperm($module, n, seed, /)\n--\n\nThe order of torch.randperm, int64 (n,).");

static PyObject *module_torch_randperm(PyObject *module, PyObject *args) {
    unsigned long long count = 0, seed = 0;
    int64_t *data = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "KK:torch_randperm", &count, &seed)) {
        return NULL;
    }
    if (count >= MAX_PERMUTATION) {
        return PyErr_Format(PyExc_ValueError, "torch_randperm: expected n below %u, got %llu",
                            MAX_PERMUTATION, count);
    }
    PyObject *result = smhf_py_array_i64((size_t)count, &data);
    if (result == NULL) {
        return NULL;
    }

    Py_BEGIN_ALLOW_THREADS smhf_rng_torch_randperm(data, (size_t)count, seed);
    Py_END_ALLOW_THREADS

        return result;
}

/* --- for tests and reports -----------------------------------------------------------------------
 */

PyDoc_STRVAR(
    module_memory_doc,
    "memory($module, /)\n--\n\n(allocations so far, live blocks, live bytes) of the core.");

static PyObject *module_memory(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return Py_BuildValue("(KLL)", (unsigned long long)smhf_mem_count(), (long long)smhf_mem_live(),
                         (long long)smhf_mem_bytes());
}

PyDoc_STRVAR(
    module_threads_doc,
    "threads($module, count=0, /)\n--\n\nThreads of the core's pool; sets them when count > 0.");

static PyObject *module_threads(PyObject *module, PyObject *args) {
    int count = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "|i:threads", &count)) {
        return NULL;
    }
    if (count > 0) {
        smhf_pool_set_threads(count);
    }
    return PyLong_FromLong(smhf_pool_threads());
}

static PyMethodDef module_methods[] = {
    {"backends", module_backends, METH_NOARGS, module_backends_doc},
    {"extract_archive", module_extract_archive, METH_VARARGS, module_extract_archive_doc},
    {"create_archive", module_create_archive, METH_VARARGS, module_create_archive_doc},
    {"torch_randperm", module_torch_randperm, METH_VARARGS, module_torch_randperm_doc},
    {"memory", module_memory, METH_NOARGS, module_memory_doc},
    {"threads", module_threads, METH_VARARGS, module_threads_doc},
    {NULL, NULL, 0, NULL},
};

/* --- module --------------------------------------------------------------------------------------
 */

static int register_backends(smhf_py_model_state *state) {
    smhf_error err = SMHF_ERROR_INIT;
    if (smhf_backend_register(smhf_cpu_backend(), SMHF_CPU_PRIORITY, &err) != SMHF_OK ||
        smhf_backend_register_plugin("cuda", "libsmhf_cuda.so", "libcuda.so.1", CUDA_PRIORITY,
                                     &err) != SMHF_OK) {
        smhf_py_raise(&state->errors, &err);
        return -1;
    }
    return 0;
}

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **slot) {
    *slot = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return (*slot == NULL || PyModule_AddType(module, *slot) < 0) ? -1 : 0;
}

static int module_exec(PyObject *module) {
    smhf_py_model_state *state = state_of(module);
    if (smhf_py_array_init() < 0 || smhf_py_errors_init(&state->errors) < 0 ||
        add_type(module, &smhf_py_model_spec, &state->model_type) < 0 ||
        add_type(module, &smhf_py_trainer_spec, &state->trainer_type) < 0) {
        return -1;
    }
    return register_backends(state);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    smhf_py_model_state *state = state_of(module);
    Py_VISIT(state->model_type);
    Py_VISIT(state->trainer_type);
    return smhf_py_errors_traverse(&state->errors, visit, arg);
}

static int module_clear(PyObject *module) {
    smhf_py_model_state *state = state_of(module);
    Py_CLEAR(state->model_type);
    Py_CLEAR(state->trainer_type);
    smhf_py_errors_clear(&state->errors);
    return 0;
}

static void module_free(void *module) {
    (void)module_clear((PyObject *)module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, (void *)module_exec},
    SMHF_PY_MOD_GIL_NOT_USED SMHF_PY_NO_SUBINTERPRETERS{0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_model",
    .m_doc = "Sequence classifiers: open, run, train, save.",
    .m_size = sizeof(smhf_py_model_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__model(void);

PyMODINIT_FUNC PyInit__model(void) {
    return PyModuleDef_Init(&module_def);
}
