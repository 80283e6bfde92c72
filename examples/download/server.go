package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	fileSize  = 64 << 20
	breakSize = 9 << 20 // a connection breaks after so many bytes
)

// server serves a file over connections that break.
type server struct {
	url, sum string
	sent     atomic.Int64
	stop     func()
}

// startServer serves the file on a free port of the loopback address.
func startServer(ctx context.Context) (*server, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	file := make([]byte, fileSize)
	_, _ = rand.NewChaCha8([32]byte{}).Read(file) // it cannot fail
	s := &server{url: "http://" + l.Addr().String() + "/file", sum: fmt.Sprintf("%x", sha256.Sum256(file))}
	srv := &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("ETag", `"`+s.sum[:16]+`"`)
			http.ServeContent(&breaking{w, s, breakSize}, req, "file", time.Time{}, bytes.NewReader(file))
		}),
	}
	go func() { _ = srv.Serve(l) }()
	s.stop = func() { _ = srv.Close() }
	return s, nil
}

// breaking is a response whose connection breaks when nothing is left.
type breaking struct {
	http.ResponseWriter
	server *server
	left   int
}

func (b *breaking) Write(p []byte) (int, error) {
	if b.left < len(p) {
		n, _ := b.ResponseWriter.Write(p[:b.left])
		b.server.sent.Add(int64(n))
		_ = http.NewResponseController(b.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	n, err := b.ResponseWriter.Write(p)
	b.left -= n
	b.server.sent.Add(int64(n))
	return n, err
}
