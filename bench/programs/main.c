/* suite [--budget SECONDS] [--only NAME,NAME or GROUP,...] [--list] [--loops N]
 *
 * Runs each program for about the budget and prints, for each, one line
 *     NAME VALUE ns/op RESULT
 * or  NAME skipped REASON
 * or  NAME wrong RESULT RESULT, when two units disagreed,
 * between two lines "suite: begin CLOCK" and "suite: end CLOCK", with this machine's own
 * monotonic clock in seconds, for whoever wants to hold it against another. */
#include "suite.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct program *const all_programs[] = {integer_programs, floating_programs,
                                                     memory_programs, system_programs};
enum { table_count = sizeof all_programs / sizeof all_programs[0] };

/* One measurement takes about this part of the budget: many, so that some are undisturbed, and
 * each still as long as a timer tick. */
static const double batch_part = 1.0 / 40;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

void give_up(const char *what)
{
    printf("suite: %s: %s\n", what, strerror(errno));
    fflush(stdout);
    exit(1);
}

/* Whether `word` is one of the comma-separated words of `list`. */
static bool names(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        if (!strncmp(at, word, length) && (at[length] == ',' || !at[length])) return true;
    }
    return false;
}

struct measurement {
    double unit_seconds; /* of the fastest batch */
    uint64_t result;
    uint64_t other_result; /* differs from result when the units disagreed */
};

static double run_batch(const struct program *program, long units, struct measurement *measured)
{
    double start = seconds();
    for (long i = 0; i < units; ++i) {
        uint64_t result = program->unit();
        if (result != measured->result) measured->other_result = result;
    }
    return (seconds() - start) / (double)units;
}

/* The first unit warms up; it counts only where there is no time for a second. */
static struct measurement measure(const struct program *program, double budget)
{
    double start = seconds();
    struct measurement measured = {.result = program->unit()};
    measured.other_result = measured.result;
    measured.unit_seconds = seconds() - start;
    while (seconds() - start < budget) {
        long units = (long)(budget * batch_part / measured.unit_seconds);
        double took = run_batch(program, units < 1 ? 1 : units, &measured);
        if (took < measured.unit_seconds) measured.unit_seconds = took;
    }
    return measured;
}

static void report(const struct program *program, double budget)
{
    const char *lacking = program->lacking ? program->lacking() : NULL;
    if (lacking) {
        printf("%s skipped %s\n", program->name, lacking);
        return;
    }
    if (program->prepare) program->prepare();
    struct measurement measured = measure(program, budget);
    if (program->finish) program->finish();
    if (measured.result != measured.other_result) {
        printf("%s wrong %016" PRIx64 " %016" PRIx64 "\n", program->name, measured.result,
               measured.other_result);
        return;
    }
    printf("%s %.3f ns/op %016" PRIx64 "\n", program->name,
           measured.unit_seconds * 1e9 / (double)program->operations, measured.result);
}

static void list_programs(void)
{
    for (int table = 0; table < table_count; ++table) {
        for (const struct program *program = all_programs[table]; program->name; ++program) {
            printf("%s %s\n", program->name, program->group);
        }
    }
}

static void run_suite(const char *only, double budget)
{
    printf("suite: begin %.6f\n", seconds());
    for (int table = 0; table < table_count; ++table) {
        for (const struct program *program = all_programs[table]; program->name; ++program) {
            if (only && !names(only, program->name) && !names(only, program->group)) continue;
            report(program, budget);
        }
    }
    printf("suite: end %.6f\n", seconds());
}

int main(int count, char **arguments)
{
    double budget = 0.3;
    long loops = 1;
    const char *only = NULL;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < count; ++i) {
        bool has_value = i + 1 < count;
        if (!strcmp(arguments[i], "--list")) {
            list_programs();
            return 0;
        }
        if (!strcmp(arguments[i], "--budget") && has_value) {
            budget = atof(arguments[++i]);
        } else if (!strcmp(arguments[i], "--only") && has_value) {
            only = arguments[++i];
        } else if (!strcmp(arguments[i], "--loops") && has_value) {
            loops = atol(arguments[++i]);
        } else {
            fprintf(stderr, "Usage: suite [--budget SECONDS] [--only NAMES] [--loops N] [--list]\n");
            return 2;
        }
    }
    while (loops-- > 0) run_suite(only, budget);
    return 0;
}
