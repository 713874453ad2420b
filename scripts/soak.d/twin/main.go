// A recorder of WebSocket feeds as one would write it in Go: a goroutine for each feed, gorilla's
// WebSocket, a bufio.Writer, a file that is changed when it is large. It stamps a message when it
// was read, seals nothing, and has no bound on its memory other than Go's own habits.
//
//	twin -feeds N -out DIR [-ca PEM] ws://127.0.0.1:PORT/1/
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
)

const (
	pingEvery  = 20 * time.Second
	silentMax  = 60 * time.Second
	backoffMax = 2 * time.Second
	flushEvery = 100 * time.Millisecond
)

var rotateBytes = flag.Int64("rotate-bytes", 4<<20, "size at which a new file begins")

// tape is the file that one feed is written to.
type tape struct {
	mutex  sync.Mutex
	folder string
	file   *os.File
	buffer *bufio.Writer
	bytes  int64
	number int
}

func (t *tape) write(stamp time.Time, message []byte) error {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.file == nil || t.bytes >= *rotateBytes {
		if err := t.rotate(); err != nil {
			return err
		}
	}
	line := strconv.AppendInt(nil, stamp.UnixNano(), 10)
	line = append(append(append(line, ' '), message...), '\n')
	t.bytes += int64(len(line))
	_, err := t.buffer.Write(line)
	return err
}

func (t *tape) rotate() error {
	if err := t.close(); err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(t.folder, fmt.Sprintf("%06d.tape", t.number)))
	if err != nil {
		return err
	}
	t.file, t.buffer, t.bytes = file, bufio.NewWriter(file), 0
	t.number++
	return nil
}

func (t *tape) close() error {
	if t.file == nil {
		return nil
	}
	if err := t.buffer.Flush(); err != nil {
		return err
	}
	return t.file.Close()
}

func (t *tape) flushUntil(ctx context.Context) {
	for range time.Tick(flushEvery) {
		if ctx.Err() != nil {
			return
		}
		t.mutex.Lock()
		if t.buffer != nil {
			if err := t.buffer.Flush(); err != nil {
				log.Fatal(err)
			}
		}
		t.mutex.Unlock()
	}
}

// connectAndRead records one connection until it ends.
func connectAndRead(ctx context.Context, dialer *websocket.Dialer, url string, t *tape) error {
	conn, _, err := dialer.DialContext(ctx, url, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	done := make(chan struct{})
	defer close(done)
	go func() {
		ticker := time.NewTicker(pingEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second))
			case <-ctx.Done():
				conn.Close()
				return
			case <-done:
				return
			}
		}
	}()
	conn.SetPongHandler(func(string) error {
		return conn.SetReadDeadline(time.Now().Add(silentMax))
	})
	for {
		if err := conn.SetReadDeadline(time.Now().Add(silentMax)); err != nil {
			return err
		}
		_, message, err := conn.ReadMessage()
		if err != nil {
			return err
		}
		if err := t.write(time.Now(), message); err != nil {
			log.Fatal(err)
		}
	}
}

func record(ctx context.Context, dialer *websocket.Dialer, url, folder string) {
	if err := os.MkdirAll(folder, 0o777); err != nil {
		log.Fatal(err)
	}
	t := &tape{folder: folder}
	go t.flushUntil(ctx)
	backoff := 100 * time.Millisecond
	for ctx.Err() == nil {
		begun := time.Now()
		err := connectAndRead(ctx, dialer, url, t)
		if ctx.Err() != nil {
			break
		}
		log.Printf("%s: %v", url, err)
		if backoff *= 2; time.Since(begun) > 5*time.Second {
			backoff = 100 * time.Millisecond
		} else if backoff > backoffMax {
			backoff = backoffMax
		}
		time.Sleep(backoff)
	}
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if err := t.close(); err != nil {
		log.Fatal(err)
	}
	t.buffer = nil
}

func main() {
	feeds := flag.Int("feeds", 1, "feeds 0 to N-1 below the URL are recorded")
	out := flag.String("out", "", "folder for the files")
	ca := flag.String("ca", "", "certificate to trust, PEM")
	flag.Parse()
	dialer := &websocket.Dialer{HandshakeTimeout: 10 * time.Second}
	if *ca != "" {
		pem, err := os.ReadFile(*ca)
		if err != nil {
			log.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		dialer.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var all sync.WaitGroup
	for n := 0; n < *feeds; n++ {
		all.Add(1)
		go func(n int) {
			defer all.Done()
			folder := filepath.Join(*out, strconv.Itoa(n))
			record(ctx, dialer, flag.Arg(0)+strconv.Itoa(n), folder)
		}(n)
	}
	all.Wait()
}
