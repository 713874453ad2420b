// The floor of floors: copies the bytes of its connections to files, unread, one thread for each.
//
// It does what no recorder can do without: take the bytes out of the socket (and out of TLS, when
// built WITH_TLS) and write them to a file. It doesn't look for frames, stamps nothing, and knows
// by the number of bytes when it has all.

#define _GNU_SOURCE
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "messages.h"
#include "stream.h"
#include "util.h"

// One connection reads in large pieces; many lone messages don't need them.
#define READ_BYTES_ONE (128 << 10)
#define READ_BYTES_MANY (16 << 10)
// A handshake with OpenSSL fits with room to spare; the default of 8 MiB would be most of VmPeak.
#define STACK_BYTES (128 << 10)

struct copy {
    uint64_t feed;
    uint16_t port;
    uint64_t bytes;
    const char *directory;
    size_t read_bytes;
};

static void *copy_feed(void *argument)
{
    struct copy *copy = argument;
    char path[4096];
    snprintf(path, sizeof path, "%s/%llu", copy->directory, (unsigned long long)copy->feed);
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0)
        die_errno("%s", path);
    unsigned char *buf = must_alloc(copy->read_bytes);

    struct stream stream;
    stream_open(&stream, copy->port, copy->feed);
    uint64_t rest = copy->bytes;
    while (rest > 0) {
        size_t room = rest < copy->read_bytes ? (size_t)rest : copy->read_bytes;
        size_t got = stream_read(&stream, buf, room);
        if (got == 0)
            die("feed %llu: ended %llu bytes early", (unsigned long long)copy->feed,
                (unsigned long long)rest);
        write_all(file, buf, got);
        rest -= got;
    }
    stream_close(&stream);
    close(file);
    free(buf);
    return NULL;
}

static void copy_in_threads(struct copy *copies, size_t count)
{
    pthread_t *threads = must_alloc(count * sizeof *threads);
    // Else glibc reserves 64 MiB of addresses for each of many threads.
    mallopt(M_ARENA_MAX, 1);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    for (size_t i = 0; i < count; i++)
        if (pthread_create(&threads[i], &attributes, copy_feed, &copies[i]) != 0)
            die("no thread for feed %zu", i);
    for (size_t i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
}

int main(int argc, char **argv)
{
    if (argc != 5 && argc != 6)
        die("usage: floor-copy PORT FEEDS BYTES-PER-FEED DIR [CERTIFICATE]");
    uint64_t feeds = number_argument("FEEDS", argv[2], 1, FEEDS_MAX);
    struct copy *copies = must_alloc(feeds * sizeof *copies);
    for (uint64_t feed = 0; feed < feeds; feed++)
        copies[feed] = (struct copy){
            .feed = feed,
            .port = (uint16_t)number_argument("PORT", argv[1], 1, 65535),
            .bytes = number_argument("BYTES-PER-FEED", argv[3], 1, UINT64_MAX),
            .directory = argv[4],
            .read_bytes = feeds == 1 ? READ_BYTES_ONE : READ_BYTES_MANY,
        };
    if (argc == 6)
        stream_trust(argv[5]);
    if (feeds == 1)
        copy_feed(copies);
    else
        copy_in_threads(copies, feeds);
    return 0;
}
