/* trace_support.h: a scratch folder with made-up files in it, for the two tests of the trace room.
 */
#ifndef SMHF_TESTS_TRACE_SUPPORT_H
#define SMHF_TESTS_TRACE_SUPPORT_H

#include "smhf_test.h"

#include "common/file.h"
#include "common/mem.h"
#include "trace/trace_internal.h"

#include <stdlib.h>

static char scratch_folder[] = "/tmp/smhf_test_trace_XXXXXX";

static const char *scratch(const char *name) {
    static char paths[8][512];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", scratch_folder, name);
    return path;
}

static void put(const char *path, const char *text) {
    char folder[512];
    snprintf(folder, sizeof folder, "%s", path);
    *strrchr(folder, '/') = '\0';
    CHECK_INT(smhf_trace_make_folders(folder, NULL), SMHF_OK);
    CHECK_INT(smhf_file_write_atomic(path, smhf_bytes_from_string(text), NULL), SMHF_OK);
}

/* Fails allocation 1, 2, 3, ... of a scenario until it gets through; nothing may leak. */
static void torture(smhf_status (*scenario)(const char *, smhf_error *), const char *path) {
    int64_t live = smhf_mem_live();
    for (uint64_t n = 1; n < 2000; n++) {
        smhf_error err = SMHF_ERROR_INIT;
        smhf_mem_fail_at(n);
        smhf_status status = scenario(path, &err);
        int hit = smhf_mem_fail_hit();
        smhf_mem_fail_at(0);
        CHECK_INT(smhf_mem_live(), live);
        if (!hit) {
            CHECK_INT(status, SMHF_OK);
            return;
        }
        if (status != SMHF_OK) { /* giving surplus memory back may fail without harm */
            CHECK_INT(status, SMHF_E_NOMEM);
            CHECK(err.message[0] != '\0');
        }
    }
    CHECK(0);
}

/* Between these two the scratch folder is there. */
static int scratch_open(void) {
    return mkdtemp(scratch_folder) != NULL ? 0 : 1;
}

static int scratch_close(void) {
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", scratch_folder);
    return system(command) == 0 ? 0 : 1;
}

#endif
