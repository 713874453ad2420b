// The load: a WebSocket server that sends a known sequence of messages to each connection.
//
// It must cost far less than the client it feeds. So the frames are made before the first client
// comes; sending is a copy of many frames into a chunk, NUMBER_DIGITS digits written into each,
// and one write. One thread, one epoll, no allocation once a connection is up.
//
// A connection asks for its feed by path ("GET /7"), so that a message on the wrong tape shows.
// Sending starts when all expected connections are up. Each gets its messages, a Close frame, and
// a moment to answer it. A second connection for one feed, or one more than expected, is refused.
//
// On stdout: "ready key=value ..." once it listens, "done key=value ..." at the end. It exits 0
// if every connection took every message.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "messages.h"
#include "util.h"

// One write: large enough to make system calls rare, small enough to stay in the cache.
#define CHUNK_BYTES (256 << 10)
#define INPUT_BYTES 4096
#define CONTROL_PAYLOAD_MAX 125
#define EVENTS_MAX 64
// After so many chunks other connections have their turn.
#define CHUNKS_PER_TURN 16
#define CLOSE_WAIT_NS 2000000000LL
#define NEVER INT64_MAX

enum state { HANDSHAKE, REQUEST, READY, CLOSING, ENDED };

struct connection {
    int fd;
    SSL *tls;
    enum state state;
    uint32_t armed;  // what epoll was told
    uint64_t feed;

    unsigned char input[INPUT_BYTES];
    size_t input_used;
    uint64_t input_skip;  // rest of a data frame whose payload is of no interest

    unsigned char *chunk;
    size_t chunk_sent;
    size_t chunk_used;
    uint64_t next;     // the first message not yet in a chunk
    uint64_t allowed;  // messages that may be sent by now
    unsigned char pong[2 + CONTROL_PAYLOAD_MAX];
    size_t pong_bytes;
    bool close_queued;
    int64_t close_by;
};

struct server {
    struct messages messages;
    uint64_t connections_expected;
    uint64_t messages_per_feed;
    uint64_t rate;  // messages per second and feed; 0: as fast as the client takes them
    SSL_CTX *tls;

    int listener;
    int epoll;
    struct connection **connections;  // in the order they were accepted
    struct connection **by_feed;
    uint64_t accepted;
    uint64_t ready;
    uint64_t ended;
    uint64_t released;  // messages allowed so far, over all feeds (with a rate)
    bool failed;

    uint64_t refused;
    uint64_t pings;
    int64_t first_ns;
    int64_t last_ns;
    int64_t late_ns_max;
};

static void send_more(struct server *server, struct connection *connection);

// ---- the socket, plain or TLS ----

// Bytes moved; 0 if the socket would block; -1 at the end or on an error.
static ssize_t transport_read(struct connection *connection, void *into, size_t room)
{
    if (connection->tls == NULL) {
        ssize_t got = recv(connection->fd, into, room, 0);
        if (got > 0)
            return got;
        return got < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
    }
    ERR_clear_error();
    int got = SSL_read(connection->tls, into, (int)room);
    if (got > 0)
        return got;
    int reason = SSL_get_error(connection->tls, got);
    return reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

static ssize_t transport_write(struct connection *connection, const void *data, size_t bytes)
{
    if (connection->tls == NULL) {
        ssize_t put = send(connection->fd, data, bytes, MSG_NOSIGNAL);
        if (put > 0)
            return put;
        return put < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
    }
    ERR_clear_error();
    int put = SSL_write(connection->tls, data, (int)bytes);
    if (put > 0)
        return put;
    int reason = SSL_get_error(connection->tls, put);
    return reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

static void arm(struct server *server, struct connection *connection, uint32_t events)
{
    if (connection->armed == events)
        return;
    connection->armed = events;
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(server->epoll, EPOLL_CTL_MOD, connection->fd, &event) != 0)
        die_errno("epoll");
}

static void end(struct server *server, struct connection *connection, const char *complaint)
{
    if (connection->state == ENDED)
        return;
    if (complaint != NULL) {
        fprintf(stderr, "load-server: feed %" PRIu64 ", after %" PRIu64 " messages: %s\n",
                connection->feed, connection->next, complaint);
        server->failed = true;
    }
    connection->state = ENDED;
    server->ended++;
    if (connection->tls != NULL) {
        SSL_shutdown(connection->tls);
        SSL_free(connection->tls);
    }
    close(connection->fd);
    free(connection->chunk);
    connection->chunk = NULL;
}

// ---- sending ----

// Puts the next frames that may be sent into the chunk: runs of the cycle, copied whole.
static void fill_chunk(struct server *server, struct connection *connection)
{
    const struct messages *messages = &server->messages;
    size_t room = messages->frame_bytes_max > CHUNK_BYTES ? messages->frame_bytes_max : CHUNK_BYTES;
    size_t used = 0;
    unsigned char digits[NUMBER_DIGITS];
    messages_number(digits, connection->feed, connection->next);

    while (connection->next < connection->allowed) {
        size_t first = connection->next % messages->count;
        size_t until = first;
        size_t limit = messages->frame_at[first] + room - used;
        while (until < messages->count && messages->frame_at[until + 1] <= limit &&
               connection->next + (until - first) < connection->allowed)
            until++;
        if (until == first)
            break;
        size_t from = messages->frame_at[first];
        unsigned char *run = connection->chunk + used;
        memcpy(run, messages->frames + from, messages->frame_at[until] - from);
        for (size_t i = first; i < until; i++) {
            memcpy(run + messages->number_at[i] - from, digits, NUMBER_DIGITS);
            // Counting in decimal is cheaper than converting each number.
            size_t place = NUMBER_DIGITS - 1;
            while (digits[place] == '9')
                digits[place--] = '0';
            digits[place]++;
        }
        used += messages->frame_at[until] - from;
        connection->next += until - first;
    }
    connection->chunk_sent = 0;
    connection->chunk_used = used;
}

// Makes the next thing to send ready; false if there is nothing now.
static bool queue_more(struct server *server, struct connection *connection)
{
    // A pong goes between frames, and a chunk holds whole ones.
    if (connection->pong_bytes > 0) {
        memcpy(connection->chunk, connection->pong, connection->pong_bytes);
        connection->chunk_sent = 0;
        connection->chunk_used = connection->pong_bytes;
        connection->pong_bytes = 0;
        return true;
    }
    if (connection->next < connection->allowed) {
        fill_chunk(server, connection);
        return true;
    }
    if (connection->next == server->messages_per_feed && !connection->close_queued) {
        static const unsigned char close_frame[] = {0x88, 2, 0x03, 0xe8};
        memcpy(connection->chunk, close_frame, sizeof close_frame);
        connection->chunk_sent = 0;
        connection->chunk_used = sizeof close_frame;
        connection->close_queued = true;
        return true;
    }
    return false;
}

static void send_more(struct server *server, struct connection *connection)
{
    if (connection->state != READY)
        return;
    for (int chunks = 0; chunks < CHUNKS_PER_TURN;) {
        if (connection->chunk_sent == connection->chunk_used) {
            if (!queue_more(server, connection)) {
                if (connection->close_queued) {
                    connection->state = CLOSING;
                    connection->close_by = monotonic_ns() + CLOSE_WAIT_NS;
                    server->last_ns = monotonic_ns();
                }
                arm(server, connection, EPOLLIN);
                return;
            }
            chunks++;
        }
        ssize_t put = transport_write(connection, connection->chunk + connection->chunk_sent,
                                      connection->chunk_used - connection->chunk_sent);
        if (put == 0)
            break;
        if (put < 0) {
            end(server, connection, connection->close_queued ? NULL : "the client went away");
            return;
        }
        connection->chunk_sent += (size_t)put;
    }
    arm(server, connection, EPOLLIN | EPOLLOUT);
}

// With a rate, the messages of all feeds are spread evenly: of n feeds, each message n-th part of
// a period after the one of the feed before. Returns when the next one is due.
static int64_t release_due(struct server *server)
{
    uint64_t all = server->connections_expected * server->messages_per_feed;
    double step_ns = 1e9 / (double)server->rate / (double)server->connections_expected;
    while (server->released < all) {
        int64_t due = server->first_ns + (int64_t)((double)server->released * step_ns);
        int64_t now = monotonic_ns();
        if (due > now)
            return due;
        if (now - due > server->late_ns_max)
            server->late_ns_max = now - due;
        uint64_t turn = server->released % server->connections_expected;
        struct connection *connection = server->connections[turn];
        server->released++;
        connection->allowed++;
        send_more(server, connection);
    }
    return NEVER;
}

static void start_sending(struct server *server)
{
    server->first_ns = monotonic_ns();
    if (server->rate > 0)
        return;
    for (uint64_t i = 0; i < server->accepted; i++) {
        server->connections[i]->allowed = server->messages_per_feed;
        send_more(server, server->connections[i]);
    }
}

// ---- receiving ----

static void accept_key(const char *key, size_t key_bytes, char *into)
{
    // RFC 6455, section 4.2.2: SHA-1 of the key and this text, in base64.
    static const char magic[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    char joined[256];
    unsigned char sum[SHA_DIGEST_LENGTH];
    memcpy(joined, key, key_bytes);
    memcpy(joined + key_bytes, magic, sizeof magic - 1);
    SHA1((unsigned char *)joined, key_bytes + sizeof magic - 1, sum);
    EVP_EncodeBlock((unsigned char *)into, sum, sizeof sum);
}

static void refuse(struct server *server, struct connection *connection, const char *status)
{
    char response[128];
    int bytes = snprintf(response, sizeof response,
                         "HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status);
    if (transport_write(connection, response, (size_t)bytes) < 0)
        fprintf(stderr, "load-server: refused client went away\n");
    server->refused++;
    end(server, connection, status);
}

// Answers the request that ends at `request_bytes` of the input.
static void answer_request(struct server *server, struct connection *connection,
                           size_t request_bytes)
{
    char request[INPUT_BYTES + 1];
    memcpy(request, connection->input, request_bytes);
    request[request_bytes] = '\0';

    char *path_end;
    if (strncmp(request, "GET /", 5) != 0) {
        refuse(server, connection, "405 Method Not Allowed");
        return;
    }
    connection->feed = strtoull(request + 5, &path_end, 10);
    if (*path_end != ' ' || connection->feed >= server->connections_expected) {
        refuse(server, connection, "404 Not Found");
        return;
    }
    if (server->by_feed[connection->feed] != NULL) {
        refuse(server, connection, "503 Service Unavailable (second connection of this feed)");
        return;
    }
    const char *key = strcasestr(request, "\r\nSec-WebSocket-Key:");
    if (key == NULL) {
        refuse(server, connection, "400 Bad Request");
        return;
    }
    key += strlen("\r\nSec-WebSocket-Key:");
    key += strspn(key, " \t");
    size_t key_bytes = strcspn(key, " \t\r\n");
    if (key_bytes != 24) {  // 16 bytes in base64
        refuse(server, connection, "400 Bad Request");
        return;
    }

    char accept[64], response[256];
    accept_key(key, key_bytes, accept);
    int bytes = snprintf(response, sizeof response,
                         "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                         "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
    // The first bytes on an idle connection always fit into its buffer.
    if (transport_write(connection, response, (size_t)bytes) != bytes) {
        end(server, connection, "the client went away in the upgrade");
        return;
    }
    size_t room = server->messages.frame_bytes_max;
    connection->chunk = must_alloc(room > CHUNK_BYTES ? room : CHUNK_BYTES);
    connection->state = READY;
    server->by_feed[connection->feed] = connection;
    server->ready++;
    if (server->ready == server->connections_expected)
        start_sending(server);
}

static void take_control(struct server *server, struct connection *connection, int opcode,
                         const unsigned char *mask, const unsigned char *payload, size_t bytes)
{
    if (opcode == 0x8) {
        if (connection->close_queued)
            end(server, connection, NULL);
        else
            end(server, connection, "the client closed");
    } else if (opcode == 0x9) {
        server->pings++;
        connection->pong[0] = 0x8a;
        connection->pong[1] = (unsigned char)bytes;
        for (size_t i = 0; i < bytes; i++)
            connection->pong[2 + i] = payload[i] ^ mask[i % 4];
        connection->pong_bytes = 2 + bytes;
        send_more(server, connection);
    }
}

// Takes one frame, or a part of a data frame's payload, off the input; returns how many bytes.
static size_t take_frame(struct server *server, struct connection *connection)
{
    const unsigned char *frame = connection->input;
    size_t have = connection->input_used;
    if (connection->input_skip > 0) {
        size_t skipped = connection->input_skip < have ? (size_t)connection->input_skip : have;
        connection->input_skip -= skipped;
        return skipped;
    }
    if (have < 2)
        return 0;
    size_t wide = (frame[1] & 0x7f) == 127 ? 8 : (frame[1] & 0x7f) == 126 ? 2 : 0;
    size_t header = 2 + wide + 4;
    if (have < header)
        return 0;
    uint64_t bytes = wide == 0 ? frame[1] & 0x7f : 0;
    for (size_t i = 0; i < wide; i++)
        bytes = bytes << 8 | frame[2 + i];
    if ((frame[1] & 0x80) == 0 || (frame[0] & 0x70) != 0) {
        end(server, connection, "unmasked frame or reserved bits from the client");
        return 0;
    }
    int opcode = frame[0] & 0x0f;
    if ((opcode & 0x8) == 0) {
        connection->input_skip = bytes;
        return header;
    }
    if (bytes > CONTROL_PAYLOAD_MAX) {
        end(server, connection, "control frame of more than 125 bytes from the client");
        return 0;
    }
    if (have < header + bytes)
        return 0;
    take_control(server, connection, opcode, frame + header - 4, frame + header, bytes);
    return header + bytes;
}

// Takes the request or a frame off the input; returns how many bytes, 0 if it isn't whole yet.
static size_t take_input(struct server *server, struct connection *connection)
{
    if (connection->state != REQUEST)
        return take_frame(server, connection);
    unsigned char *blank =
        memmem(connection->input, connection->input_used, "\r\n\r\n", 4);
    if (blank == NULL) {
        if (connection->input_used == INPUT_BYTES)
            refuse(server, connection, "431 Request Header Fields Too Large");
        return 0;
    }
    size_t bytes = (size_t)(blank - connection->input) + 4;
    answer_request(server, connection, bytes);
    return bytes;
}

static void receive(struct server *server, struct connection *connection)
{
    while (connection->state != ENDED) {
        ssize_t got = transport_read(connection, connection->input + connection->input_used,
                                     INPUT_BYTES - connection->input_used);
        if (got == 0)
            return;
        if (got < 0) {
            end(server, connection, connection->close_queued ? NULL : "the client went away");
            return;
        }
        connection->input_used += (size_t)got;
        size_t taken;
        while (connection->state != ENDED && (taken = take_input(server, connection)) > 0) {
            connection->input_used -= taken;
            memmove(connection->input, connection->input + taken, connection->input_used);
        }
    }
}

static void shake_hands(struct server *server, struct connection *connection)
{
    ERR_clear_error();
    int done = SSL_accept(connection->tls);
    if (done == 1) {
        connection->state = REQUEST;
        arm(server, connection, EPOLLIN);
        receive(server, connection);
        return;
    }
    int reason = SSL_get_error(connection->tls, done);
    if (reason == SSL_ERROR_WANT_READ)
        arm(server, connection, EPOLLIN);
    else if (reason == SSL_ERROR_WANT_WRITE)
        arm(server, connection, EPOLLOUT);
    else
        end(server, connection, "TLS handshake failed");
}

// ---- connections and the loop ----

static void accept_one(struct server *server)
{
    int fd = accept4(server->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
            return;
        die_errno("accept");
    }
    if (server->accepted == server->connections_expected) {
        fprintf(stderr, "load-server: one connection more than the expected %" PRIu64 "\n",
                server->connections_expected);
        server->refused++;
        server->failed = true;
        close(fd);
        return;
    }
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct connection *connection = must_alloc(sizeof *connection);
    *connection = (struct connection){.fd = fd, .armed = EPOLLIN, .state = REQUEST};
    if (server->tls != NULL) {
        connection->tls = SSL_new(server->tls);
        if (connection->tls == NULL || SSL_set_fd(connection->tls, fd) != 1)
            die("out of memory for a TLS connection");
        connection->state = HANDSHAKE;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        die_errno("epoll");
    server->connections[server->accepted++] = connection;
}

static void serve_event(struct server *server, const struct epoll_event *event)
{
    struct connection *connection = event->data.ptr;
    if (connection == NULL) {
        accept_one(server);
        return;
    }
    if (connection->state == HANDSHAKE) {
        shake_hands(server, connection);
        return;
    }
    if (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(server, connection);
    if (event->events & EPOLLOUT)
        send_more(server, connection);
}

// Ends connections whose peer doesn't answer the Close frame; returns when to look again.
static int64_t end_overdue(struct server *server)
{
    int64_t next = NEVER;
    int64_t now = monotonic_ns();
    for (uint64_t i = 0; i < server->accepted; i++) {
        struct connection *connection = server->connections[i];
        if (connection->state != CLOSING)
            continue;
        if (connection->close_by <= now)
            end(server, connection, "no answer to the Close frame");
        else if (connection->close_by < next)
            next = connection->close_by;
    }
    return next;
}

static void serve(struct server *server)
{
    bool all_sent = false;
    while (server->ended < server->connections_expected) {
        int64_t wake = NEVER;
        if (server->rate > 0 && server->ready == server->connections_expected)
            wake = release_due(server);
        // Overdue Close frames matter only at the end; there is no walk over all feeds before.
        if (!all_sent)
            all_sent = server->last_ns > 0;
        if (all_sent) {
            int64_t overdue = end_overdue(server);
            wake = overdue < wake ? overdue : wake;
        }
        if (server->ended == server->connections_expected)
            break;

        struct timespec wait, *timeout = NULL;
        if (wake != NEVER) {
            int64_t rest = wake - monotonic_ns();
            rest = rest < 0 ? 0 : rest;
            wait = (struct timespec){.tv_sec = rest / 1000000000, .tv_nsec = rest % 1000000000};
            timeout = &wait;
        }
        struct epoll_event events[EVENTS_MAX];
        int count = epoll_pwait2(server->epoll, events, EVENTS_MAX, timeout, NULL);
        if (count < 0 && errno != EINTR)
            die_errno("epoll");
        for (int i = 0; i < count; i++)
            serve_event(server, &events[i]);
    }
}

static uint16_t start_listening(struct server *server)
{
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t at_bytes = sizeof at;
    if (server->listener < 0 || bind(server->listener, (struct sockaddr *)&at, at_bytes) != 0 ||
        listen(server->listener, SOMAXCONN) != 0 ||
        getsockname(server->listener, (struct sockaddr *)&at, &at_bytes) != 0)
        die_errno("listening on 127.0.0.1");
    server->epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (server->epoll < 0 ||
        epoll_ctl(server->epoll, EPOLL_CTL_ADD, server->listener, &event) != 0)
        die_errno("epoll");
    return ntohs(at.sin_port);
}

static SSL_CTX *tls_context(const char *certificate, const char *key)
{
    SSL_CTX *tls = SSL_CTX_new(TLS_server_method());
    if (tls == NULL || SSL_CTX_use_certificate_file(tls, certificate, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) != 1)
        die("%s, %s: not a certificate and its key", certificate, key);
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return tls;
}

static const char usage[] =
    "usage: load-server --connections N --count N [--rate N] [--deadline SECONDS]\n"
    "                   [--messages FILE | --seed N [--mixed]] [--certificate PEM --key PEM]";

int main(int argc, char **argv)
{
    die_with_parent();
    signal(SIGPIPE, SIG_IGN);
    struct server server = {.connections_expected = 1};
    struct messages_source source = {0};
    const char *certificate = NULL, *key = NULL;
    unsigned deadline_s = 600;
    for (int i = 1; i < argc; i++) {
        const char *option = argv[i];
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (messages_option(&source, option, value)) {
            i += strcmp(option, "--mixed") != 0;
            continue;
        }
        if (value == NULL)
            die("%s", usage);
        if (strcmp(option, "--connections") == 0)
            server.connections_expected = number_argument(option, value, 1, FEEDS_MAX);
        else if (strcmp(option, "--count") == 0)
            server.messages_per_feed = number_argument(option, value, 1, MESSAGES_MAX);
        else if (strcmp(option, "--rate") == 0)
            server.rate = number_argument(option, value, 0, 1000000);
        else if (strcmp(option, "--deadline") == 0)
            deadline_s = (unsigned)number_argument(option, value, 1, 86400);
        else if (strcmp(option, "--certificate") == 0)
            certificate = value;
        else if (strcmp(option, "--key") == 0)
            key = value;
        else
            die("%s", usage);
        i++;
    }
    if (server.messages_per_feed == 0)
        die("%s", usage);
    alarm(deadline_s);
    if (certificate != NULL)
        server.tls = tls_context(certificate, key);
    messages_make(&server.messages, &source);
    size_t slots = server.connections_expected * sizeof(struct connection *);
    server.connections = memset(must_alloc(slots), 0, slots);
    server.by_feed = memset(must_alloc(slots), 0, slots);

    uint16_t port = start_listening(&server);
    printf("ready port=%u bytes_per_feed=%" PRIu64 " median_bytes=%zu\n", port,
           messages_wire_bytes(&server.messages, server.messages_per_feed),
           messages_median_bytes(&server.messages));
    fflush(stdout);
    serve(&server);

    uint64_t sent = 0;
    for (uint64_t i = 0; i < server.accepted; i++)
        sent += server.connections[i]->next;
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("done messages=%" PRIu64 " refused=%" PRIu64 " pings=%" PRIu64
           " first_ns=%" PRId64 " last_ns=%" PRId64 " late_ns_max=%" PRId64 " cpu_us=%" PRId64 "\n",
           sent, server.refused, server.pings, server.first_ns, server.last_ns,
           server.late_ns_max,
           (int64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000 +
               used.ru_utime.tv_usec + used.ru_stime.tv_usec);
    return server.failed || sent != server.connections_expected * server.messages_per_feed;
}
