/* tokenizer_glue.h: what the three glue files of _tokenizer share. */
#ifndef SMHF_TOKENIZER_GLUE_H
#define SMHF_TOKENIZER_GLUE_H

#include "py_common.h"

#include "tokenizer/tokenizer.h"

typedef struct tokenizer_state {
    smhf_py_errors errors;
    PyObject *tokenizer_type;
    PyObject *encoding_type;
    PyObject *field_type;
    int has_numpy; /* its C API is loaded: at the first array, so that an interpreter which NumPy
                      refuses can still encode */
} tokenizer_state;

extern PyModuleDef smhf_py_tokenizer_module;
extern PyType_Spec smhf_py_tokenizer_spec;
extern PyType_Spec smhf_py_encoding_spec;
extern PyType_Spec smhf_py_field_spec;

tokenizer_state *smhf_py_tokenizer_state(PyTypeObject *type);
/* An object of `type`, state->encoding_type or a class derived from it. Takes the handle over (also
 * on failure, when it is freed). */
PyObject *smhf_py_encoding_wrap(PyTypeObject *type, smhf_encoding *encoding);
/* Whether rows are padded to the longest (`padded`), and how. */
void smhf_py_encoding_pad(PyObject *op, int padded, int left, long long pad, int item_size);
/* What a later pass over the texts needs. */
void smhf_py_encoding_keep(PyObject *op, PyObject *tokenizer, PyObject *texts);
PyObject *smhf_py_tokenizer_wrap(tokenizer_state *state, smhf_tokenizer *tokenizer);
/* Keyword arguments of the openers: do_lower_case=, strip_accents=, tokenize_chinese_chars=,
 * clean_text= (None: not said), model_max_length= (None), unk_token= … mask_token= (None). */
int smhf_py_tokenizer_options(PyObject *kwargs, smhf_tokenizer_options *out);

#endif
