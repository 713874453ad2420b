// Compares what a client left on disk with what the load server sent, every byte of it.
//
// Three forms: "raw" (the wire's bytes, as floor-copy writes them), "lines" (floor-lines), "tape"
// (feedtape; the segments of a feed in order, events skipped). The expected messages are made
// again from the same source, so the comparison is with the sequence itself, not with a digest
// of it. The first difference of a feed ends its comparison, and is shown.

#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "messages.h"
#include "util.h"

#define STAMP_DIGITS 19
#define EXCERPT_BYTES 100
#define EXCERPT_BEFORE 40

enum form { RAW, LINES, TAPE };

struct feed {
    uint64_t feed;
    uint64_t next;  // the message expected next
    uint64_t events;
    bool differs;
};

struct check {
    struct messages messages;
    enum form form;
    uint64_t count;
    unsigned char *scratch;  // a payload after its escapes or base64 were taken off
    size_t scratch_room;
};

struct bytes {
    const unsigned char *at;
    size_t count;
};

static void show(const char *what, struct bytes bytes, size_t from)
{
    printf("  %s (%zu bytes)%s", what, bytes.count, from > 0 ? ": ..." : ": ");
    for (size_t i = from; i < bytes.count && i < from + EXCERPT_BYTES; i++) {
        unsigned char byte = bytes.at[i];
        if (byte >= 0x20 && byte < 0x7f)
            putchar(byte);
        else
            printf("\\x%02x", byte);
    }
    printf("%s\n", bytes.count > from + EXCERPT_BYTES ? "..." : "");
}

// Both, from a little before the first byte that differs.
static void show_difference(struct bytes sent, struct bytes found)
{
    size_t same = 0;
    while (same < sent.count && same < found.count && sent.at[same] == found.at[same])
        same++;
    size_t from = same > EXCERPT_BEFORE ? same - EXCERPT_BEFORE : 0;
    printf("  the first %zu bytes are equal\n", same);
    show("sent ", sent, from);
    show("found", found, from);
}

static void differ(struct feed *feed, const char *path, size_t offset, const char *what)
{
    feed->differs = true;
    printf("feed %" PRIu64 ", message %" PRIu64 ": %s\n  at byte %zu of %s\n", feed->feed,
           feed->next, what, offset, path);
}

static struct bytes map(const char *path)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat facts;
    if (file < 0 || fstat(file, &facts) != 0)
        die_errno("%s", path);
    struct bytes bytes = {.at = NULL, .count = (size_t)facts.st_size};
    if (bytes.count > 0) {
        void *mapped = mmap(NULL, bytes.count, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
        if (mapped == MAP_FAILED)
            die_errno("%s", path);
        bytes.at = mapped;
    }
    close(file);
    return bytes;
}

// The place in the cycle of the message expected next, with its number put in.
static size_t expect(struct check *check, const struct feed *feed)
{
    size_t place = feed->next % check->messages.count;
    messages_number(check->messages.frames + check->messages.number_at[place], feed->feed,
                    feed->next);
    return place;
}

static void check_raw(struct check *check, struct feed *feed, const char *path, struct bytes file)
{
    size_t at = 0;
    for (; feed->next < check->count; feed->next++) {
        size_t place = expect(check, feed);
        const unsigned char *frame = check->messages.frames + check->messages.frame_at[place];
        size_t bytes = check->messages.frame_at[place + 1] - check->messages.frame_at[place];
        size_t have = file.count - at < bytes ? file.count - at : bytes;
        if (have < bytes || memcmp(file.at + at, frame, bytes) != 0) {
            differ(feed, path, at, "the frame is not the one sent");
            show_difference((struct bytes){frame, bytes}, (struct bytes){file.at + at, have});
            return;
        }
        at += bytes;
    }
    if (at != file.count)
        differ(feed, path, at, "more bytes than were sent");
}

static bool unescape(struct bytes line, unsigned char *into, size_t *bytes)
{
    size_t put = 0;
    for (size_t i = 0; i < line.count; i++) {
        unsigned char byte = line.at[i];
        if (byte == '\\') {
            if (++i == line.count || (line.at[i] != '\\' && line.at[i] != 'n'))
                return false;
            byte = line.at[i] == 'n' ? '\n' : '\\';
        }
        into[put++] = byte;
    }
    *bytes = put;
    return true;
}

static int base64_value(unsigned char letter)
{
    if (letter >= 'A' && letter <= 'Z')
        return letter - 'A';
    if (letter >= 'a' && letter <= 'z')
        return letter - 'a' + 26;
    if (letter >= '0' && letter <= '9')
        return letter - '0' + 52;
    return letter == '+' ? 62 : letter == '/' ? 63 : -1;
}

// RFC 4648, section 4, with padding, and with the unused bits zero as section 3.5 wants them.
static bool from_base64(struct bytes line, unsigned char *into, size_t *bytes)
{
    if (line.count % 4 != 0)
        return false;
    size_t letters = line.count;
    while (letters > 0 && line.count - letters < 2 && line.at[letters - 1] == '=')
        letters--;
    uint32_t bits = 0;
    unsigned held = 0;
    size_t put = 0;
    for (size_t i = 0; i < letters; i++) {
        int value = base64_value(line.at[i]);
        if (value < 0)
            return false;
        bits = bits << 6 | (uint32_t)value;
        held += 6;
        if (held >= 8) {
            held -= 8;
            into[put++] = (unsigned char)(bits >> held);
            bits &= (1U << held) - 1;
        }
    }
    *bytes = put;
    return bits == 0;
}

// The payload of a data line, whatever its kind; at is NULL if it isn't valid.
static struct bytes payload_of(struct check *check, char kind, struct bytes line)
{
    if (kind == ' ')
        return line;
    if (line.count > check->scratch_room) {
        check->scratch_room = line.count;
        check->scratch = must_grow(check->scratch, check->scratch_room);
    }
    struct bytes payload = {.at = check->scratch};
    bool valid = kind == '\\'  ? unescape(line, check->scratch, &payload.count)
                 : kind == '~' ? from_base64(line, check->scratch, &payload.count)
                               : false;
    return valid ? payload : (struct bytes){NULL, 0};
}

static bool digits(const unsigned char *at, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (at[i] < '0' || at[i] > '9')
            return false;
    return true;
}

// Compares one data line with the message expected next; false at a difference.
static bool check_message(struct check *check, struct feed *feed, const char *path, size_t offset,
                          char kind, struct bytes line)
{
    if (feed->next == check->count) {
        differ(feed, path, offset, "a message more than were sent");
        show("found", line, 0);
        return false;
    }
    size_t place = expect(check, feed);
    struct bytes sent = {
        .at = check->messages.frames + check->messages.payload_at[place],
        .count = check->messages.frame_at[place + 1] - check->messages.payload_at[place],
    };
    char kind_sent = check->messages.kind[place];
    struct bytes payload = payload_of(check, kind, line);
    const char *what = kind != kind_sent      ? "the line has the wrong kind"
                       : payload.at == NULL   ? "the line's escapes or base64 are invalid"
                       : payload.count != sent.count ||
                               memcmp(payload.at, sent.at, sent.count) != 0
                           ? "the message is not the one sent"
                           : NULL;
    if (what == NULL)
        return true;
    differ(feed, path, offset, what);
    printf("  kind sent '%c', found '%c'\n", kind_sent, kind);
    show_difference(sent, payload.at == NULL ? line : payload);
    return false;
}

static void check_lines(struct check *check, struct feed *feed, const char *path,
                        struct bytes file)
{
    const unsigned char *stamp_before = NULL;
    size_t at = 0;
    while (at < file.count) {
        const unsigned char *line = file.at + at;
        const unsigned char *end = memchr(line, '\n', file.count - at);
        if (end == NULL || end - line < STAMP_DIGITS + 1 || !digits(line, STAMP_DIGITS)) {
            differ(feed, path, at, "not a line: 19 digits, a kind, a payload, a line feed");
            size_t have = end != NULL ? (size_t)(end - line) : file.count - at;
            show("found", (struct bytes){line, have}, 0);
            return;
        }
        if (stamp_before != NULL && memcmp(line, stamp_before, STAMP_DIGITS) < 0) {
            differ(feed, path, at, "the stamp is lower than that of the line before");
            return;
        }
        stamp_before = line;
        char kind = (char)line[STAMP_DIGITS];
        const unsigned char *payload = line + STAMP_DIGITS + 1;
        if (kind == '!' && check->form == TAPE) {
            feed->events++;
        } else {
            struct bytes rest = {payload, (size_t)(end - payload)};
            if (!check_message(check, feed, path, at, kind, rest))
                return;
            feed->next++;
        }
        at += (size_t)(end - line) + 1;
    }
}

static void finish(const struct check *check, struct feed *feed, const char *path)
{
    if (!feed->differs && feed->next != check->count) {
        feed->differs = true;
        printf("feed %" PRIu64 ": %" PRIu64 " messages of %" PRIu64 ", the rest is missing\n"
               "  at the end of %s\n", feed->feed, feed->next, check->count, path);
    }
}

static const char usage[] =
    "usage: check raw|lines|tape --count N [--messages FILE | --seed N [--mixed]] FEED=FILE...\n"
    "(the files of one feed one after the other, in order)";

int main(int argc, char **argv)
{
    if (argc < 2)
        die("%s", usage);
    struct check check = {0};
    struct messages_source source = {0};
    const char *form = argv[1];
    check.form = strcmp(form, "raw") == 0 ? RAW : strcmp(form, "lines") == 0 ? LINES : TAPE;
    if (check.form == TAPE && strcmp(form, "tape") != 0)
        die("%s", usage);
    int arg = 2;
    for (; arg + 1 < argc && strncmp(argv[arg], "--", 2) == 0; arg++) {
        if (messages_option(&source, argv[arg], argv[arg + 1]))
            arg += strcmp(argv[arg], "--mixed") != 0;
        else if (strcmp(argv[arg], "--count") == 0)
            check.count = number_argument("--count", argv[++arg], 1, MESSAGES_MAX);
        else
            die("%s", usage);
    }
    if (arg == argc || check.count == 0)
        die("%s", usage);
    messages_make(&check.messages, &source);

    bool differs = false;
    struct feed feed = {.feed = UINT64_MAX};
    const char *path = NULL;
    uint64_t events = 0;
    for (; arg < argc; arg++) {
        char *equals = strchr(argv[arg], '=');
        if (equals == NULL)
            die("%s", usage);
        *equals = '\0';
        uint64_t number = number_argument("FEED", argv[arg], 0, FEEDS_MAX - 1);
        if (number != feed.feed) {
            if (path != NULL)
                finish(&check, &feed, path);
            differs |= feed.differs;
            events += feed.events;
            feed = (struct feed){.feed = number};
        }
        path = equals + 1;
        if (feed.differs)
            continue;
        struct bytes file = map(path);
        if (check.form == RAW)
            check_raw(&check, &feed, path, file);
        else
            check_lines(&check, &feed, path, file);
        if (file.count > 0)
            munmap((void *)file.at, file.count);
    }
    finish(&check, &feed, path);
    differs |= feed.differs;
    events += feed.events;
    if (!differs)
        printf("same events=%" PRIu64 "\n", events);
    return differs;
}
