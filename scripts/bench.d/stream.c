// A floor's connection; see stream.h.

#define _GNU_SOURCE
#include "stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util.h"

#define RESPONSE_BYTES_MAX 4096

#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>

static SSL_CTX *context;

void stream_trust(const char *certificate_path)
{
    context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || SSL_CTX_load_verify_locations(context, certificate_path, NULL) != 1)
        die("%s: can't be used as a trusted certificate", certificate_path);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
}

static void start_tls(struct stream *stream)
{
    SSL *tls = SSL_new(context);
    if (tls == NULL || SSL_set_fd(tls, stream->fd) != 1)
        die("out of memory for a TLS connection");
    if (SSL_connect(tls) != 1) {
        ERR_print_errors_fp(stderr);
        die("TLS handshake failed");
    }
    stream->tls = tls;
}

size_t stream_read(struct stream *stream, void *into, size_t room)
{
    int got = SSL_read(stream->tls, into, (int)room);
    if (got > 0)
        return (size_t)got;
    int reason = SSL_get_error(stream->tls, got);
    if (reason != SSL_ERROR_ZERO_RETURN)
        die("TLS read failed with reason %d", reason);
    return 0;
}

static void stream_write(struct stream *stream, const void *data, size_t bytes)
{
    if (SSL_write(stream->tls, data, (int)bytes) != (int)bytes)
        die("TLS write failed");
}

static void end_tls(struct stream *stream)
{
    SSL_shutdown(stream->tls);
    SSL_free(stream->tls);
}
#else
void stream_trust(const char *certificate_path)
{
    die("%s: this floor is built without TLS", certificate_path);
}

static void start_tls(struct stream *stream)
{
    stream->tls = NULL;
}

size_t stream_read(struct stream *stream, void *into, size_t room)
{
    for (;;) {
        ssize_t got = recv(stream->fd, into, room, 0);
        if (got >= 0)
            return (size_t)got;
        if (errno != EINTR)
            die_errno("read of the socket");
    }
}

static void stream_write(struct stream *stream, const void *data, size_t bytes)
{
    write_all(stream->fd, data, bytes);
}

static void end_tls(struct stream *stream)
{
    (void)stream;
}
#endif

static void upgrade(struct stream *stream, uint16_t port, uint64_t feed)
{
    // The key is the example of RFC 6455, section 1.3: a floor need not be unpredictable.
    char request[512];
    int bytes = snprintf(request, sizeof request,
                         "GET /%" PRIu64 " HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n"
                         "Upgrade: websocket\r\nConnection: Upgrade\r\n"
                         "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                         "Sec-WebSocket-Version: 13\r\n\r\n",
                         feed, port);
    stream_write(stream, request, (size_t)bytes);

    // Byte by byte, so that nothing behind the response is taken from what will be measured.
    char response[RESPONSE_BYTES_MAX + 1];
    size_t got = 0;
    while (got < 4 || memcmp(response + got - 4, "\r\n\r\n", 4) != 0) {
        if (got == RESPONSE_BYTES_MAX || stream_read(stream, response + got, 1) == 0)
            die("no whole response to the upgrade");
        got++;
    }
    response[got] = '\0';
    if (strncmp(response, "HTTP/1.1 101 ", 13) != 0)
        die("upgrade refused: %.40s", response);
    if (strcasestr(response, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") == NULL)
        die("upgrade answered with a wrong accept key");
}

void stream_open(struct stream *stream, uint16_t port, uint64_t feed)
{
    stream->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (stream->fd < 0)
        die_errno("socket");
    struct sockaddr_in to = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    if (connect(stream->fd, (struct sockaddr *)&to, sizeof to) != 0)
        die_errno("connect to port %u", port);
    start_tls(stream);
    upgrade(stream, port, feed);
}

void stream_close(struct stream *stream)
{
    // A client's frames are masked; a mask of zero is a mask.
    static const unsigned char close_frame[] = {0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8};
    stream_write(stream, close_frame, sizeof close_frame);
    end_tls(stream);
    close(stream->fd);
}
