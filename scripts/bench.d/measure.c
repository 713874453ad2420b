// Runs one command and reports what it cost, and only it.
//
// ru_maxrss of a child starts with what its parent held at the moment of the exec (the kernel
// takes over the high-water mark), so a Python parent would put its own megabytes under every
// figure. This parent is smaller than anything it starts. While the command runs, its high-water
// marks and its CPU clock are sampled: VmPeak has no other source, and the CPU of a stretch of the
// run (without its start) none either.
//
// The report: "sample MONOTONIC_NS CPU_NS" lines, then one "end key=value ..." line.

#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "util.h"

#define SAMPLE_EVERY_NS 20000000

struct marks {
    long rss_kib;
    long virtual_kib;
};

// Leaves the marks alone once the process has given up its memory.
static void read_marks(pid_t pid, struct marks *marks)
{
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *status = fopen(path, "r");
    if (status == NULL)
        return;
    while (fgets(line, sizeof line, status) != NULL) {
        sscanf(line, "VmHWM: %ld", &marks->rss_kib);
        sscanf(line, "VmPeak: %ld", &marks->virtual_kib);
    }
    fclose(status);
}

static void sample(pid_t pid, FILE *report, struct marks *marks)
{
    clockid_t clock;
    struct timespec cpu;
    int64_t now = monotonic_ns();
    if (clock_getcpuclockid(pid, &clock) == 0 && clock_gettime(clock, &cpu) == 0)
        fprintf(report, "sample %" PRId64 " %" PRId64 "\n", now,
                (int64_t)cpu.tv_sec * 1000000000 + cpu.tv_nsec);
    read_marks(pid, marks);
}

static int64_t micros(struct timeval time)
{
    return (int64_t)time.tv_sec * 1000000 + time.tv_usec;
}

int main(int argc, char **argv)
{
    die_with_parent();
    if (argc < 4)
        die("usage: measure DEADLINE-SECONDS REPORT COMMAND...");
    int64_t start = monotonic_ns();
    int64_t deadline =
        start + (int64_t)number_argument("DEADLINE-SECONDS", argv[1], 1, 86400) * 1000000000LL;
    FILE *report = fopen(argv[2], "we");
    if (report == NULL)
        die_errno("%s", argv[2]);

    sigset_t child_ended;
    sigemptyset(&child_ended);
    sigaddset(&child_ended, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child_ended, NULL);
    pid_t pid = fork();
    if (pid < 0)
        die_errno("fork");
    if (pid == 0) {
        die_with_parent();
        sigprocmask(SIG_UNBLOCK, &child_ended, NULL);
        execv(argv[3], argv + 3);
        die_errno("%s", argv[3]);
    }

    struct marks marks = {0};
    struct rusage used;
    int status;
    bool killed = false;
    for (;;) {
        const struct timespec pause = {.tv_nsec = SAMPLE_EVERY_NS};
        sigtimedwait(&child_ended, NULL, &pause);
        pid_t ended = wait4(pid, &status, WNOHANG, &used);
        if (ended == pid)
            break;
        if (ended < 0)
            die_errno("wait");
        sample(pid, report, &marks);
        if (monotonic_ns() > deadline && !killed) {
            kill(pid, SIGKILL);
            killed = true;
        }
    }
    fprintf(report,
            "end exit=%d timed_out=%d wall_ns=%" PRId64 " user_us=%" PRId64 " system_us=%" PRId64
            " maxrss_kib=%ld hwm_kib=%ld peak_kib=%ld\n",
            WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), killed,
            monotonic_ns() - start, micros(used.ru_utime), micros(used.ru_stime), used.ru_maxrss,
            marks.rss_kib, marks.virtual_kib);
    if (fclose(report) != 0)
        die_errno("%s", argv[2]);
    return 0;
}
