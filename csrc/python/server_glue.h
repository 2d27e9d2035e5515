/* server_glue.h: what server_module.c, server_type.c and server_join.c share. */
#ifndef SMHF_SERVER_GLUE_H
#define SMHF_SERVER_GLUE_H

#include "py_common.h"

#include "server/server.h"

typedef struct server_state {
    smhf_py_errors errors;
    PyTypeObject *server_type;
} server_state;

extern PyType_Spec smhf_server_type_spec;

/* Tokenizer and model as one batch callback, in plain C (server_join.c). */
typedef struct server_join server_join;
/* Takes references to the capsules. NULL with an exception set. `function` is the model's default
 * and not SMHF_SERVER_FUNCTION_DEFAULT. */
server_join *smhf_server_join_new(PyObject *tokenizer_capsule, PyObject *model_capsule,
                                  smhf_server_function function);
/* GIL held. NULL is fine. */
void smhf_server_join_free(server_join *join);
int smhf_server_join_labels(const server_join *join);
size_t smhf_server_join_max_length(const server_join *join);
smhf_status smhf_server_join_batch(const server_join *join, const smhf_server_row *rows,
                                   smhf_server_result *results, size_t count, smhf_error *err);

#endif
