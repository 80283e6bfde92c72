package kit

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// Serve runs handler on a real http.Server over in-memory connections, and returns an
// http.Transport that dials it. Both end with the test, inside its bubble if there is one,
// which then reports every goroutine left behind.
func Serve(tb testing.TB, handler http.HandlerFunc) *http.Transport {
	tb.Helper()
	base, _ := ServeHTTP(tb, 1, handler)
	return base
}

// ServeHTTP is [Serve] with a version of HTTP, 1 or 2. It also returns how often the server
// was dialed.
func ServeHTTP(tb testing.TB, version int, handler http.HandlerFunc) (base *http.Transport, dials func() int) {
	tb.Helper()
	l := &listener{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: time.Hour, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(version == 1)
	srv.Protocols.SetUnencryptedHTTP2(version == 2)
	go func() { _ = srv.Serve(l) }()
	base = &http.Transport{DialContext: l.dial, Protocols: srv.Protocols}
	tb.Cleanup(func() {
		base.CloseIdleConnections()
		_ = srv.Close()
		time.Sleep(time.Second) // virtual: the server lingers half a second over a connection it closes early
	})
	return base, func() int { l.mu.Lock(); defer l.mu.Unlock(); return l.dials }
}

type listener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	mu    sync.Mutex
	dials int
}

func (l *listener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	l.mu.Lock()
	l.dials++
	l.mu.Unlock()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// Echo upgrades a connection, and sends back what comes on it.
func Echo(w http.ResponseWriter, _ *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	_ = rw.Flush()
	_, _ = io.Copy(conn, rw)
}
