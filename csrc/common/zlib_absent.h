/* zlib_absent.h: in place of zlib.h where there is none (SMHF_NO_ZLIB): everything compiles, and
 * compressed files are refused. A machine that only computes needs no more. */
#ifndef SMHF_COMMON_ZLIB_ABSENT_H
#define SMHF_COMMON_ZLIB_ABSENT_H

#include "common/status.h"

typedef unsigned char Bytef;
typedef unsigned int uInt;

typedef struct z_stream {
    Bytef *next_in, *next_out;
    uInt avail_in, avail_out;
    const char *msg;
    void *(*zalloc)(void *opaque, unsigned count, unsigned size);
    void (*zfree)(void *opaque, void *block);
} z_stream;

enum {
    Z_OK = 0,
    Z_STREAM_END = 1,
    Z_MEM_ERROR = -4,
    Z_BUF_ERROR = -5,
    Z_VERSION_ERROR = -6,
    Z_NO_FLUSH = 0,
    Z_FINISH = 4,
    Z_DEFLATED = 8,
    Z_DEFAULT_STRATEGY = 0,
};

#define inflateInit2(z, bits) ((void)(z), Z_VERSION_ERROR)
#define inflateReset(z) ((void)(z), Z_VERSION_ERROR)
#define inflate(z, flush) ((void)(z), Z_VERSION_ERROR)
#define inflateEnd(z) ((void)(z))
#define deflateInit2(z, level, method, bits, memory, strategy) ((void)(z), Z_VERSION_ERROR)
#define deflate(z, flush) ((void)(z), (void)(flush), Z_VERSION_ERROR)
#define deflateEnd(z) ((void)(z))

#endif
