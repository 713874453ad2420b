// The parts that every program of the bench shares; see util.h.

#define _GNU_SOURCE
#include "util.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

_Noreturn void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

_Noreturn void die_errno(const char *format, ...)
{
    int reason = errno;
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    vfprintf(stderr, format, args);
    fprintf(stderr, ": %s\n", strerror(reason));
    va_end(args);
    exit(1);
}

void *must_alloc(size_t bytes)
{
    return must_grow(NULL, bytes);
}

void *must_grow(void *old, size_t bytes)
{
    void *memory = realloc(old, bytes > 0 ? bytes : 1);
    if (memory == NULL)
        die("out of memory for %zu bytes", bytes);
    return memory;
}

int64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

void write_all(int fd, const void *data, size_t bytes)
{
    const char *rest = data;
    while (bytes > 0) {
        ssize_t written = write(fd, rest, bytes);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            die_errno("write of %zu bytes", bytes);
        rest += written;
        bytes -= (size_t)written;
    }
}

uint64_t number_argument(const char *option, const char *text, uint64_t least, uint64_t most)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    // strtoull takes "-1" for a huge number.
    bool digits = text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0;
    if (!digits || number < least || number > most)
        die("%s: \"%s\" is not a number from %llu to %llu", option, text,
            (unsigned long long)least, (unsigned long long)most);
    return number;
}

void die_with_parent(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}
