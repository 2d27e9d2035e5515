/* smhf_test.h: eighty lines of test framework.
 *
 *     static void test_append(void) { CHECK(1 + 1 == 2); CHECK_INT(size, 3); }
 *     int main(void) { RUN(test_append); return smhf_test_finish(); }
 *
 * CHECK reports and goes on; SKIP("reason") ends a test as skipped. The last line printed is
 * "N passed, N failed, N skipped". Test names given as arguments are not needed: run them all.
 */
#ifndef SMHF_TEST_H
#define SMHF_TEST_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static int smhf_test_passed, smhf_test_failed, smhf_test_skipped;
static int smhf_test_broken; /* failures inside the running test */
static const char *smhf_test_skip_reason;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            smhf_test_broken++;                                                                    \
            printf("  %s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition);                 \
        }                                                                                          \
    } while (0)

#define CHECK_INT(actual, expected)                                                                \
    do {                                                                                           \
        long long smhf_a_ = (long long)(actual), smhf_e_ = (long long)(expected);                  \
        if (smhf_a_ != smhf_e_) {                                                                  \
            smhf_test_broken++;                                                                    \
            printf("  %s:%d: %s = %lld, expected %lld\n", __FILE__, __LINE__, #actual, smhf_a_,    \
                   smhf_e_);                                                                       \
        }                                                                                          \
    } while (0)

#define CHECK_STR(actual, expected)                                                                \
    do {                                                                                           \
        const char *smhf_a_ = (actual), *smhf_e_ = (expected);                                     \
        if (strcmp(smhf_a_, smhf_e_) != 0) {                                                       \
            smhf_test_broken++;                                                                    \
            printf("  %s:%d: %s = \"%s\", expected \"%s\"\n", __FILE__, __LINE__, #actual,         \
                   smhf_a_, smhf_e_);                                                              \
        }                                                                                          \
    } while (0)

#define CHECK_CLOSE(actual, expected, tolerance)                                                   \
    do {                                                                                           \
        double smhf_a_ = (double)(actual), smhf_e_ = (double)(expected);                           \
        if (!(fabs(smhf_a_ - smhf_e_) <= (tolerance))) {                                           \
            smhf_test_broken++;                                                                    \
            printf("  %s:%d: %s = %.9g, expected %.9g +- %.3g\n", __FILE__, __LINE__, #actual,     \
                   smhf_a_, smhf_e_, (double)(tolerance));                                         \
        }                                                                                          \
    } while (0)

/* The status is OK, else the sentence is shown. */
#define CHECK_OK(expr, err)                                                                        \
    do {                                                                                           \
        if ((expr) != 0) {                                                                         \
            smhf_test_broken++;                                                                    \
            printf("  %s:%d: %s failed: %s\n", __FILE__, __LINE__, #expr, (err)->message);         \
        }                                                                                          \
    } while (0)

#define SKIP(reason)                                                                               \
    do {                                                                                           \
        smhf_test_skip_reason = reason;                                                            \
        return;                                                                                    \
    } while (0)

#define RUN(test) smhf_test_run(#test, test)

static void smhf_test_run(const char *name, void (*test)(void)) {
    smhf_test_broken = 0;
    smhf_test_skip_reason = NULL;
    test();
    if (smhf_test_broken > 0) {
        smhf_test_failed++;
        printf("FAIL %s\n", name);
    } else if (smhf_test_skip_reason != NULL) {
        smhf_test_skipped++;
        printf("skip %s: %s\n", name, smhf_test_skip_reason);
    } else {
        smhf_test_passed++;
        printf("ok   %s\n", name);
    }
}

static int smhf_test_finish(void) {
    printf("%d passed, %d failed, %d skipped\n", smhf_test_passed, smhf_test_failed,
           smhf_test_skipped);
    return smhf_test_failed == 0 ? 0 : 1;
}

#endif
