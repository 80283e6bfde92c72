package faults_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/resilienthttp/resilient"
)

// failover is a line to a server whose connections can be forgotten: what is sent
// on them is taken and goes nowhere, and nothing comes back.
type failover struct {
	addr  string
	mu    sync.Mutex
	dead  []*atomic.Bool // of each connection there was
	conns map[net.Conn]bool
}

func newFailover(tb testing.TB, to string) *failover {
	tb.Helper()
	l := listen(tb)
	f := &failover{addr: l.Addr().String(), conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	pass := func(to, from net.Conn, dead *atomic.Bool) {
		defer to.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if dead.Load() {
				continue
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for client, err := l.Accept(); err == nil; client, err = l.Accept() {
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			dead := new(atomic.Bool)
			f.mu.Lock()
			f.dead = append(f.dead, dead)
			f.conns[client], f.conns[server] = true, true
			f.mu.Unlock()
			for c := range map[net.Conn]bool{client: true, server: true} {
				_ = c.SetDeadline(time.Now().Add(2 * patience))
			}
			wg.Go(func() { pass(server, client, dead) })
			wg.Go(func() { pass(client, server, dead) })
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		f.mu.Lock()
		for c := range f.conns {
			_ = c.Close()
		}
		f.mu.Unlock()
		wg.Wait()
	})
	return f
}

// fail forgets the connections there are.
func (f *failover) fail() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, dead := range f.dead {
		dead.Store(true)
	}
}

func (f *failover) connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.dead)
}

// serveFailover runs a server that speaks nothing but HTTP/2, with or without TLS,
// behind a failover. It returns the URL, and a base for it.
func serveFailover(tb testing.TB, encrypted bool, handler http.HandlerFunc) (*failover, string, *http.Transport) {
	tb.Helper()
	srv := httptest.NewUnstartedServer(handler)
	base, scheme := newBase(tb), "http://"
	if encrypted {
		scheme = "https://"
		srv.EnableHTTP2 = true
		srv.StartTLS()
		base.TLSClientConfig = srv.Client().Transport.(*http.Transport).TLSClientConfig
	} else {
		base.Protocols = new(http.Protocols)
		base.Protocols.SetUnencryptedHTTP2(true)
		srv.Config.Protocols = base.Protocols
		srv.Start()
	}
	tb.Cleanup(srv.Close)
	f := newFailover(tb, srv.Listener.Addr().String())
	return f, scheme + f.addr, base
}

// TestDeadHTTP2Connection is a failover without a sign. An attempt that times out
// would be followed by others on the same connection, which takes them all.
func TestDeadHTTP2Connection(t *testing.T) {
	const limit = 500 * time.Millisecond
	for _, encrypted := range []bool{true, false} {
		for _, tt := range []struct {
			method string
			tries  int
			lost   int // calls
		}{{http.MethodGet, 4, 0}, {http.MethodGet, 1, 2}, {http.MethodPost, 4, 2}} {
			t.Run(fmt.Sprintf("TLS %v, %s, %d attempts", encrypted, tt.method, tt.tries), func(t *testing.T) {
				leaveNothing(t)
				var l ledger
				f, url, base := serveFailover(t, encrypted, func(w http.ResponseWriter, req *http.Request) {
					l.note(req)
					_, _ = io.WriteString(w, req.Proto)
				})
				client := newTransport(base, resilient.WithMaxAttempts(tt.tries), resilient.WithAttemptTimeout(limit))
				answered := func(attempts int) {
					var made atomic.Int32
					req := newRequest(t, tt.method, url)
					req = req.WithContext(resilient.ContextWithOptions(req.Context(), resilient.WithTrace(&resilient.Trace{
						AttemptDone: func(resilient.AttemptInfo) { made.Add(1) },
					})))
					got := call(client, req)
					require.NoError(t, got.err)
					require.Equal(t, "HTTP/2.0", got.body)
					require.EqualValues(t, attempts, made.Load())
				}
				answered(1)
				f.fail()
				for range tt.lost {
					got := call(client, newRequest(t, tt.method, url))
					var timeout net.Error
					require.True(t, errors.As(got.err, &timeout) && timeout.Timeout(), "error: %v", got.err)
				}
				answered(3 - tt.lost)
				for range 3 {
					answered(1)
				}
				require.Equal(t, 5, l.count(tt.method))
			})
		}
	}
}

// TestSlowHTTP2Stream is the price where nothing is dead: a stream that is under
// way is not harmed, and there is one new connection at most for each timeout.
func TestSlowHTTP2Stream(t *testing.T) {
	for _, encrypted := range []bool{true, false} {
		t.Run(fmt.Sprintf("TLS %v", encrypted), func(t *testing.T) {
			leaveNothing(t)
			f, url, base := serveFailover(t, encrypted, func(w http.ResponseWriter, req *http.Request) {
				if req.URL.Path == "/slow" {
					<-req.Context().Done()
					return
				}
				tick := time.NewTicker(100 * time.Millisecond)
				defer tick.Stop()
				for range 20 {
					_, _ = io.WriteString(w, "x")
					_ = http.NewResponseController(w).Flush()
					<-tick.C
				}
			})
			client := newTransport(base, resilient.WithMaxAttempts(4), resilient.WithAttemptTimeout(300*time.Millisecond))
			stream, err := client.RoundTrip(newRequest(t, http.MethodGet, url))
			require.NoError(t, err)
			defer stream.Body.Close()
			got := call(client, newRequest(t, http.MethodGet, url+"/slow"))
			require.Error(t, got.err)
			body, err := io.ReadAll(stream.Body)
			require.NoError(t, err)
			require.Equal(t, strings.Repeat("x", 20), string(body))
			require.LessOrEqual(t, f.connections(), 4)
		})
	}
}

// TestHTTP2ServerThatRefuses is a server that does not answer in time, and then
// refuses every stream. net/http sends a refused request again. The attempt that
// would replace the connection must not dial each time for that.
func TestHTTP2ServerThatRefuses(t *testing.T) {
	leaveNothing(t)
	srv := serveHTTP2(t, func(s *stream) bool {
		if s.n > 1 {
			s.reset(http2.ErrCodeRefusedStream)
		}
		return true
	})
	got := call(newTransport(srv.base, resilient.WithAttemptTimeout(300*time.Millisecond)), newRequest(t, http.MethodGet, srv.url))
	// One times out. One is refused by two connections. One is refused twice, and
	// net/http then pauses for a second.
	want{seen: 5, tries: 3}.check(t, got, &srv.ledger, http.MethodGet)
}
