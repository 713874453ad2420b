// What every program of the bench shares: ending with an error, clocks, whole writes, arguments.

#ifndef UTIL_H
#define UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Print "program: text" (with the reason errno gives, for die_errno) on stderr and exit 1.
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void die_errno(const char *format, ...) __attribute__((format(printf, 1, 2)));

void *must_alloc(size_t bytes);
void *must_grow(void *old, size_t bytes);

int64_t monotonic_ns(void);

// Writes all of it to a blocking descriptor, or dies.
void write_all(int fd, const void *data, size_t bytes);

// A decimal number within bounds, or dies naming the option.
uint64_t number_argument(const char *option, const char *text, uint64_t least, uint64_t most);

// Ends this process when its parent is gone: no program of the bench outlives the script.
void die_with_parent(void);

#endif
