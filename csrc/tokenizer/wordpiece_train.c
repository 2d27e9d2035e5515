/* wordpiece_train.c: draft */
#include "tokenizer/tokenizer_internal.h"
smhf_status smhf_wordpiece_train(const smhf_text_view *texts, size_t count,
                                 const smhf_wordpiece_options *options, smhf_buffer *out,
                                 smhf_error *err) {
    (void)texts; (void)count; (void)options; (void)out;
    return smhf_fail(err, SMHF_E_UNSUPPORTED, "not yet");
}
