// A floor's connection: TCP, TLS where asked for, and the WebSocket upgrade, all blocking.
//
// Without -DWITH_TLS nothing of OpenSSL is linked, so that a plain floor's memory holds none of it.

#ifndef STREAM_H
#define STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct stream {
    int fd;
    void *tls;
};

// Loads the certificate to trust; before the first stream_open, in programs built WITH_TLS only.
void stream_trust(const char *certificate_path);

// Connects to 127.0.0.1 and upgrades; asks for the messages of `feed`. Dies if it can't.
void stream_open(struct stream *stream, uint16_t port, uint64_t feed);

// At least one byte, or 0 at the end of the stream; dies on errors.
size_t stream_read(struct stream *stream, void *into, size_t room);

// A Close frame (1000), then the socket.
void stream_close(struct stream *stream);

#endif
