/* py_common.h: what every glue file shares. Python.h comes first, so include this first.
 *
 * Glue has no logic. A method is three beats: parse (GIL held, owned references and views),
 * run (GIL released, one core call for the whole batch), wrap (GIL held, result or smhf_py_raise).
 */
#ifndef SMHF_PY_COMMON_H
#define SMHF_PY_COMMON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "common/bytes.h"
#include "common/status.h"

/* The exception classes of smhf_native.errors, one set per module object. They are written in
 * Python and imported at module exec, so that a re-imported module raises the same classes. */
typedef struct smhf_py_errors {
    PyObject *smhf_error;    /* SmhfError(Exception) */
    PyObject *parse_error;   /* ParseError(SmhfError, ValueError): .offset */
    PyObject *backend_error; /* BackendError(SmhfError, RuntimeError) */
    PyObject *http_error;    /* HTTPError(SmhfError, OSError): .status */
    PyObject *busy_error;    /* BusyError(SmhfError, RuntimeError) */
    PyObject *cancelled;     /* Cancelled(SmhfError) */
} smhf_py_errors;

/* Imports the classes; -1 with an exception set. Call from Py_mod_exec. */
int smhf_py_errors_init(smhf_py_errors *errors);
int smhf_py_errors_traverse(const smhf_py_errors *errors, visitproc visit, void *arg);
void smhf_py_errors_clear(smhf_py_errors *errors);

/* Turns a core error into the Python exception of its code; always returns NULL.
 * NOMEM MemoryError, ARG ValueError, PARSE ParseError, IO OSError, HTTP HTTPError,
 * TIMEOUT TimeoutError, CANCELLED Cancelled, BUSY BusyError, the rest BackendError. */
PyObject *smhf_py_raise(const smhf_py_errors *errors, const smhf_error *err);

/* Texts: str objects read in place (PEP 393), or bytes as UTF-8. Holds a reference to each. */
typedef struct smhf_py_arrow smhf_py_arrow;
typedef struct smhf_py_texts {
    smhf_text_view *views; /* count entries; valid until release */
    PyObject **owners;     /* strong references; NULL for an Arrow column and a held tuple */
    Py_ssize_t count;
    smhf_py_arrow *arrow; /* what keeps an Arrow column alive, or NULL */
} smhf_py_texts;

/* Fills *texts from a list, tuple, Arrow column or other sequence of str or bytes (a bare str is
 * refused; pass one in a tuple). -1 with TypeError naming the row ("texts[3]: expected str or
 * bytes, got NoneType"). Release even after failure; a zeroed struct may be released. */
int smhf_py_texts_acquire(PyObject *sequence, const char *name, smhf_py_texts *texts);
void smhf_py_texts_release(smhf_py_texts *texts);
/* The same of an object with __arrow_c_array__ or __arrow_c_stream__ over strings, whose buffers
 * are read in place: 1 done, 0 no such object, -1 exception. smhf_py_texts_acquire asks it. */
int smhf_py_arrow_acquire(PyObject *object, const char *name, smhf_py_texts *texts);
void smhf_py_arrow_release(smhf_py_arrow *arrow);
/* The same for a tuple that the caller holds until release: no references of its own. */
int smhf_py_texts_borrow(PyObject *tuple, const char *name, smhf_py_texts *texts);
/* One text of them. */
int smhf_py_text_view(PyObject *item, const char *name, Py_ssize_t row, smhf_text_view *view);

/* A C-contiguous array argument through the buffer protocol. */
typedef struct smhf_py_view {
    Py_buffer buffer; /* buffer.obj == NULL: nothing held */
    const void *data;
    Py_ssize_t shape[2];
    int ndim;
    char format; /* struct code after the byte-order mark: 'f', 'd', 'i', 'q', '?', 'B', ... */
} smhf_py_view;

/* Acquires `object` with 1..2 dimensions; `formats` lists the accepted codes, e.g. "iq" ("l" is
 * reported as 'q' or 'i' by its size). -1 with TypeError/ValueError naming `name`, what was
 * expected and what came. Release with smhf_py_view_release (zeroed struct is fine). */
int smhf_py_view_acquire(PyObject *object, const char *name, const char *formats, int ndim_min,
                         int ndim_max, int writable, smhf_py_view *view);
void smhf_py_view_release(smhf_py_view *view);

/* Path argument (str, bytes, os.PathLike) as new bytes object; NULL with exception set. */
PyObject *smhf_py_path(PyObject *object);

#ifndef Py_BEGIN_CRITICAL_SECTION /* before 3.13: the GIL is the lock */
#define Py_BEGIN_CRITICAL_SECTION(op) {
#define Py_END_CRITICAL_SECTION() }
#endif

#ifndef Py_mod_gil /* before 3.13 */
#define SMHF_PY_MOD_GIL_NOT_USED
#else
#define SMHF_PY_MOD_GIL_NOT_USED {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
#ifndef Py_mod_multiple_interpreters /* before 3.12 */
#define SMHF_PY_OWN_GIL
#define SMHF_PY_SHARED_GIL
#define SMHF_PY_NO_SUBINTERPRETERS
#else
#define SMHF_PY_OWN_GIL {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#define SMHF_PY_SHARED_GIL {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_SUPPORTED},
#define SMHF_PY_NO_SUBINTERPRETERS                                                                 \
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif

#endif
