// The messages of a run: what the load server sends and what the check expects.
//
// A run is a pure function of (source, feed, number): a cycle of messages is made once, as ready
// WebSocket frames, and repeated; each message holds a field of NUMBER_DIGITS digits, which is
// overwritten with the feed's and the message's own number. So no two messages of a run are equal,
// and what must stand on a tape can be made again by the check without having been stored.

#ifndef MESSAGES_H
#define MESSAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A leading 1 (JSON numbers have no leading zeros), four digits of feed, ten of message: below
// 2^53, so that every JSON reader keeps it exactly.
#define NUMBER_DIGITS 15
#define FEEDS_MAX 10000ULL
#define MESSAGES_MAX 10000000000ULL

struct messages {
    unsigned char *frames;  // the cycle: frames back to back
    size_t *frame_at;       // count + 1 offsets into frames; the last is where the cycle ends
    size_t *payload_at;     // count offsets
    size_t *number_at;      // count offsets
    char *kind;             // count bytes: the tape's kind for this message, ' ', '\\' or '~'
    size_t count;
    size_t frame_bytes_max;
};

// Options that choose the messages; the server and the check must be given the same.
struct messages_source {
    const char *path;  // one message a line, or NULL for generated ones
    uint64_t seed;
    bool mixed;  // generated only: some messages with line feeds in them, some binary
};

// Takes one command line option if it is one of "--messages FILE", "--seed N", "--mixed".
bool messages_option(struct messages_source *source, const char *option, const char *value);

void messages_make(struct messages *messages, const struct messages_source *source);

// The bytes on the wire of the first `number` messages (any feed: numbers have one width).
uint64_t messages_wire_bytes(const struct messages *messages, uint64_t number);

// The median payload of the cycle, in bytes.
size_t messages_median_bytes(const struct messages *messages);

// Writes the NUMBER_DIGITS digits.
void messages_number(unsigned char *digits, uint64_t feed, uint64_t number);

#endif
