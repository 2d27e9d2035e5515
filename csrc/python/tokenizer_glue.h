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
} tokenizer_state;

extern PyModuleDef smhf_py_tokenizer_module;
extern PyType_Spec smhf_py_tokenizer_spec;
extern PyType_Spec smhf_py_encoding_spec;
extern PyType_Spec smhf_py_field_spec;

tokenizer_state *smhf_py_tokenizer_state(PyTypeObject *type);
/* Takes the handle over (also on failure, when it is freed). */
PyObject *smhf_py_encoding_wrap(tokenizer_state *state, smhf_encoding *encoding);
PyObject *smhf_py_tokenizer_wrap(tokenizer_state *state, smhf_tokenizer *tokenizer);
/* Keyword arguments of the openers: do_lower_case=, strip_accents=, tokenize_chinese_chars=,
 * clean_text= (None: not said), model_max_length= (None), unk_token= … mask_token= (None). */
int smhf_py_tokenizer_options(PyObject *kwargs, smhf_tokenizer_options *out);

#endif
