// The floor to compare with: one connection's frames parsed, stamped and written as lines.
//
// It does what a recorder of tapes must do for a message and nothing else: find the frame's end,
// take the kernel's receive stamp of the read that brought it, write "<19 digits> <payload>\n" to
// a file through a buffer. It validates nothing, escapes nothing, and has no second thread.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "messages.h"
#include "stream.h"
#include "util.h"

#define READ_BYTES (128 << 10)
// The size of the writes matters more than all the rest. Seen, in CPU s per million messages:
// 8 KiB 0.26, 64 KiB 0.16, 256 KiB 0.14, and 1 MiB 0.25 (it falls out of the cache).
#define WRITE_BYTES (256 << 10)
#define STAMP_DIGITS 19

struct input {
    int socket;
    unsigned char *buf;
    size_t room;
    size_t from;  // the first byte not yet taken
    size_t until;
    uint64_t stamp_ns;
    char stamp[STAMP_DIGITS + 1];
};

struct output {
    int file;
    unsigned char *buf;
    size_t room;
    size_t used;
};

static void set_stamp(struct input *input, uint64_t stamp_ns)
{
    // TCP may hand out a stamp older than the one before; lines never go back.
    if (stamp_ns <= input->stamp_ns)
        return;
    input->stamp_ns = stamp_ns;
    for (int i = STAMP_DIGITS - 1; i >= 0; i--) {
        input->stamp[i] = (char)('0' + stamp_ns % 10);
        stamp_ns /= 10;
    }
    input->stamp[STAMP_DIGITS] = ' ';
}

// One read; false at the end of the stream.
static bool fill(struct input *input)
{
    size_t kept = input->until - input->from;
    memmove(input->buf, input->buf + input->from, kept);
    input->from = 0;
    input->until = kept;
    if (kept == input->room) {
        input->room *= 2;
        input->buf = must_grow(input->buf, input->room);
    }
    struct iovec into = {.iov_base = input->buf + kept, .iov_len = input->room - kept};
    union {
        char bytes[CMSG_SPACE(sizeof(struct timespec))];
        struct cmsghdr aligned;
    } control;
    struct msghdr message = {
        .msg_iov = &into,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes,
    };
    ssize_t got;
    do
        got = recvmsg(input->socket, &message, 0);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        die_errno("read of the socket");
    input->until += (size_t)got;

    // The kernel switches stamping on a moment after it was asked: packets that came before have
    // none, and get the time of the read.
    struct timespec stamp;
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    if (part != NULL && part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_TIMESTAMPNS)
        memcpy(&stamp, CMSG_DATA(part), sizeof stamp);
    else
        clock_gettime(CLOCK_REALTIME, &stamp);
    set_stamp(input, (uint64_t)stamp.tv_sec * 1000000000ULL + (uint64_t)stamp.tv_nsec);
    return got > 0;
}

static void flush(struct output *output)
{
    write_all(output->file, output->buf, output->used);
    output->used = 0;
}

static void put_line(struct output *output, const char *stamp, const void *payload, size_t bytes)
{
    size_t line_bytes = STAMP_DIGITS + 1 + bytes + 1;
    if (output->used + line_bytes > output->room) {
        flush(output);
        if (line_bytes > output->room) {
            output->room = line_bytes;
            output->buf = must_grow(output->buf, output->room);
        }
    }
    unsigned char *at = output->buf + output->used;
    memcpy(at, stamp, STAMP_DIGITS + 1);
    memcpy(at + STAMP_DIGITS + 1, payload, bytes);
    at[line_bytes - 1] = '\n';
    output->used += line_bytes;
}

// Takes all whole frames out of the input; false once a Close frame was seen.
static bool take_frames(struct input *input, struct output *output)
{
    for (;;) {
        const unsigned char *frame = input->buf + input->from;
        size_t have = input->until - input->from;
        if (have < 2)
            return true;
        size_t wide = frame[1] == 127 ? 8 : frame[1] == 126 ? 2 : 0;
        if (have < 2 + wide)
            return true;
        uint64_t bytes = wide == 0 ? frame[1] : 0;
        for (size_t i = 0; i < wide; i++)
            bytes = bytes << 8 | frame[2 + i];
        if (frame[0] == 0x88)
            return false;
        if (frame[0] != 0x81)
            die("frame with first byte 0x%02x: only whole text messages are copied", frame[0]);
        if (have - 2 - wide < bytes)
            return true;
        put_line(output, input->stamp, frame + 2 + wide, bytes);
        input->from += 2 + wide + bytes;
    }
}

int main(int argc, char **argv)
{
    if (argc != 3)
        die("usage: floor-lines PORT FILE");
    struct output output = {.room = WRITE_BYTES, .buf = must_alloc(WRITE_BYTES)};
    output.file = open(argv[2], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (output.file < 0)
        die_errno("%s", argv[2]);

    struct stream stream;
    stream_open(&stream, (uint16_t)number_argument("PORT", argv[1], 1, 65535), 0);
    int on = 1;
    if (setsockopt(stream.fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on) != 0)
        die_errno("receive stamps");
    struct input input = {.socket = stream.fd, .room = READ_BYTES, .buf = must_alloc(READ_BYTES)};
    do {
        if (!fill(&input))
            die("the stream ended without a Close frame");
    } while (take_frames(&input, &output));
    flush(&output);
    close(output.file);
    stream_close(&stream);
    return 0;
}
