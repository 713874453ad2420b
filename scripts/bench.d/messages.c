// Makes the cycle of frames, from a file or generated; see messages.h.

#define _GNU_SOURCE
#include "messages.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

// Long enough not to sit in a first-level cache, short enough to be made in a few milliseconds.
#define GENERATED_COUNT 8192
#define GENERATED_BYTES_MAX 1024

#define OPCODE_TEXT 0x1
#define OPCODE_BINARY 0x2

bool messages_option(struct messages_source *source, const char *option, const char *value)
{
    if (strcmp(option, "--mixed") == 0)
        source->mixed = true;
    else if (strcmp(option, "--messages") == 0 && value != NULL)
        source->path = value;
    else if (strcmp(option, "--seed") == 0 && value != NULL)
        source->seed = number_argument(option, value, 0, UINT64_MAX);
    else
        return false;
    return true;
}

// RFC 6455, section 5.2: an unfragmented, unmasked frame.
static size_t put_frame_header(unsigned char *at, int opcode, size_t bytes)
{
    at[0] = (unsigned char)(0x80 | opcode);
    if (bytes < 126) {
        at[1] = (unsigned char)bytes;
        return 2;
    }
    size_t wide = bytes < 65536 ? 2 : 8;
    at[1] = wide == 2 ? 126 : 127;
    for (size_t i = 0; i < wide; i++)
        at[2 + i] = (unsigned char)((uint64_t)bytes >> (8 * (wide - 1 - i)));
    return 2 + wide;
}

struct room {
    size_t frames;
    size_t count;
};

// `number_in_payload` is where the digits stand; they must be there already, with any value.
static void append(struct messages *messages, struct room *room, int opcode,
                   const unsigned char *payload, size_t bytes, size_t number_in_payload)
{
    size_t at = messages->count == 0 ? 0 : messages->frame_at[messages->count];
    if (at + bytes + 10 > room->frames) {
        room->frames = 2 * (at + bytes + 10);
        messages->frames = must_grow(messages->frames, room->frames);
    }
    if (messages->count + 2 > room->count) {
        room->count = 2 * (messages->count + 2);
        messages->frame_at = must_grow(messages->frame_at, room->count * sizeof(size_t));
        messages->payload_at = must_grow(messages->payload_at, room->count * sizeof(size_t));
        messages->number_at = must_grow(messages->number_at, room->count * sizeof(size_t));
        messages->kind = must_grow(messages->kind, room->count);
    }
    size_t header = put_frame_header(messages->frames + at, opcode, bytes);
    memcpy(messages->frames + at + header, payload, bytes);

    size_t end = at + header + bytes;
    bool has_line_feed = memchr(payload, '\n', bytes) != NULL;
    messages->frame_at[messages->count] = at;
    messages->payload_at[messages->count] = at + header;
    messages->number_at[messages->count] = at + header + number_in_payload;
    messages->kind[messages->count] = opcode == OPCODE_BINARY ? '~' : has_line_feed ? '\\' : ' ';
    messages->count++;
    messages->frame_at[messages->count] = end;
    if (end - at > messages->frame_bytes_max)
        messages->frame_bytes_max = end - at;
}

// A line of the file with the number put in so that JSON stays JSON:
// {"a":1} becomes {"seq":N,"a":1}; [1] becomes [N,1]; anything else gets "N " in front.
static void append_line(struct messages *messages, struct room *room, const char *line,
                        size_t bytes, unsigned char *scratch)
{
    char digits[NUMBER_DIGITS + 1];
    memset(digits, '0', NUMBER_DIGITS);
    digits[NUMBER_DIGITS] = '\0';

    bool object = bytes >= 2 && line[0] == '{';
    bool array = bytes >= 2 && line[0] == '[';
    bool empty = (object && line[1] == '}') || (array && line[1] == ']');
    const char *before = object ? "{\"seq\":" : array ? "[" : "";
    const char *after = !object && !array ? " " : empty ? "" : ",";
    size_t taken = object || array ? 1 : 0;

    int put = sprintf((char *)scratch, "%s%s%s", before, digits, after);
    memcpy(scratch + put, line + taken, bytes - taken);
    append(messages, room, OPCODE_TEXT, scratch, (size_t)put + bytes - taken, strlen(before));
}

static void load(struct messages *messages, const char *path)
{
    FILE *file = fopen(path, "r");
    if (file == NULL)
        die_errno("%s", path);
    struct room room = {0};
    char *line = NULL;
    size_t line_room = 0;
    unsigned char *scratch = NULL;
    ssize_t got;
    while (errno = 0, (got = getline(&line, &line_room, file)) > 0) {
        size_t bytes = (size_t)got;
        if (line[bytes - 1] == '\n')
            bytes--;
        scratch = must_grow(scratch, bytes + 64);
        append_line(messages, &room, line, bytes, scratch);
    }
    if (errno != 0 || ferror(file))
        die_errno("%s", path);
    if (messages->count == 0)
        die("%s: no messages in it, one a line expected", path);
    free(scratch);
    free(line);
    fclose(file);
}

// xorshift64*: good enough for prices, the same on every machine.
static uint64_t random_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717ULL;
}

static uint64_t random_below(uint64_t *state, uint64_t bound)
{
    return (random_next(state) >> 16) % bound;
}

struct market {
    const char *symbol;
    uint64_t cents;
};

static int put_levels(char *at, uint64_t *state, uint64_t cents, bool up)
{
    int put = 0;
    uint64_t levels = random_below(state, 5);
    for (uint64_t i = 0; i < levels; i++) {
        uint64_t away = (i + 1) * (1 + random_below(state, 40));
        uint64_t price = up ? cents + away : cents - away;
        put += sprintf(at + put, "%s[\"%" PRIu64 ".%02" PRIu64 "\",\"%" PRIu64 ".%04" PRIu64 "\"]",
                       i == 0 ? "" : ",", price / 100, price % 100, random_below(state, 90),
                       random_below(state, 10000));
    }
    return put;
}

// Trades, book changes and tickers, about as long as venues send them (median near 170 bytes).
static size_t put_market_data(char *at, uint64_t *state, uint64_t ordinal, const char *gap)
{
    static struct market markets[] = {
        {"BTC-USD", 6412345}, {"ETH-USD", 345678}, {"SOL-USD", 14321}, {"XRP-EUR", 5321},
        {"ADA-EUR", 4567},    {"LTC-USD", 8123},   {"DOT-USD", 7001},  {"LINK-EUR", 1822},
    };
    struct market *market = &markets[random_below(state, sizeof markets / sizeof markets[0])];
    uint64_t cents = market->cents - 100 + random_below(state, 200);
    uint64_t time_ms = 1700000000000ULL + ordinal * 7;
    uint64_t choice = random_below(state, 10);
    const char *channel = choice < 5 ? "trades" : choice < 9 ? "book" : "ticker";

    int put = sprintf(at, "{\"seq\":%0*d,%s\"channel\":\"%s\",\"symbol\":\"%s\",\"time\":%" PRIu64,
                      NUMBER_DIGITS, 0, gap, channel, market->symbol, time_ms);
    if (choice < 5) {
        put += sprintf(at + put,
                       ",%s\"data\":{\"id\":%" PRIu64 ",\"side\":\"%s\",\"price\":\"%" PRIu64
                       ".%02" PRIu64 "\",\"size\":\"%" PRIu64 ".%06" PRIu64 "\",\"maker\":%s}}",
                       gap, 900000000 + ordinal, random_below(state, 2) ? "buy" : "sell",
                       cents / 100, cents % 100, random_below(state, 20),
                       random_below(state, 1000000), random_below(state, 2) ? "true" : "false");
    } else if (choice < 9) {
        put += sprintf(at + put, ",%s\"data\":{\"bids\":[", gap);
        put += put_levels(at + put, state, cents, false);
        put += sprintf(at + put, "],\"asks\":[");
        put += put_levels(at + put, state, cents, true);
        put += sprintf(at + put, "],\"checksum\":%" PRIu64 "}}", random_below(state, 4000000000));
    } else {
        put += sprintf(at + put,
                       ",%s\"data\":{\"bid\":\"%" PRIu64 ".%02" PRIu64 "\",\"ask\":\"%" PRIu64
                       ".%02" PRIu64 "\",\"volume_24h\":\"%" PRIu64 ".%03" PRIu64
                       "\",\"open\":\"%" PRIu64 ".%02" PRIu64 "\",\"note\":\"a\\\\b\"}}",
                       gap, cents / 100, cents % 100, (cents + 1) / 100, (cents + 1) % 100,
                       random_below(state, 99999), random_below(state, 1000), cents / 100,
                       random_below(state, 100));
    }
    return (size_t)put;
}

static void generate(struct messages *messages, uint64_t seed, bool mixed)
{
    uint64_t state = seed * 2 + 1;
    struct room room = {0};
    unsigned char payload[GENERATED_BYTES_MAX];
    size_t number_at = strlen("{\"seq\":");
    for (uint64_t i = 0; i < GENERATED_COUNT; i++) {
        bool binary = mixed && i % 16 == 5;
        bool lines = mixed && i % 16 == 11;
        size_t bytes = put_market_data((char *)payload, &state, i, lines ? "\n  " : "");
        if (binary) {
            // Every byte value, and every remainder of three for base64's padding.
            bytes -= i / 16 % 3;
            for (size_t at = number_at + NUMBER_DIGITS; at < bytes; at++)
                payload[at] = (unsigned char)random_next(&state);
        }
        append(messages, &room, binary ? OPCODE_BINARY : OPCODE_TEXT, payload, bytes, number_at);
    }
}

void messages_make(struct messages *messages, const struct messages_source *source)
{
    memset(messages, 0, sizeof *messages);
    if (source->path != NULL)
        load(messages, source->path);
    else
        generate(messages, source->seed, source->mixed);
}

uint64_t messages_wire_bytes(const struct messages *messages, uint64_t number)
{
    uint64_t cycles = number / messages->count;
    return cycles * messages->frame_at[messages->count] +
           messages->frame_at[number % messages->count];
}

static int compare_sizes(const void *a, const void *b)
{
    size_t left = *(const size_t *)a, right = *(const size_t *)b;
    return (left > right) - (left < right);
}

size_t messages_median_bytes(const struct messages *messages)
{
    size_t *sizes = must_alloc(messages->count * sizeof *sizes);
    for (size_t i = 0; i < messages->count; i++)
        sizes[i] = messages->frame_at[i + 1] - messages->payload_at[i];
    qsort(sizes, messages->count, sizeof *sizes, compare_sizes);
    size_t median = sizes[messages->count / 2];
    free(sizes);
    return median;
}

void messages_number(unsigned char *digits, uint64_t feed, uint64_t number)
{
    uint64_t value = 100000000000000ULL + feed * MESSAGES_MAX + number;
    for (int i = NUMBER_DIGITS - 1; i >= 0; i--) {
        digits[i] = (unsigned char)('0' + value % 10);
        value /= 10;
    }
}
