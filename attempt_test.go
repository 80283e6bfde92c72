package resilient_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/kit"
)

// slowBody is a request body of n bytes, each of which takes a while to make.
type slowBody struct {
	n     int
	each  time.Duration
	end   error
	close func()
}

func (b *slowBody) Read(p []byte) (int, error) {
	time.Sleep(b.each)
	if b.n == 0 {
		return 0, b.end
	}
	b.n--
	p[0] = 'x'
	return 1, nil
}

func (b *slowBody) Close() error {
	if b.close != nil {
		b.close()
	}
	return nil
}

// sends reads the body of req as a line does that takes a byte every pace, until
// it ends or n bytes are read.
func sends(req *http.Request, n int, pace time.Duration) {
	for range n {
		if _, err := req.Body.Read(make([]byte, 1)); err != nil {
			return
		}
		time.Sleep(pace)
	}
}

// pause reports whether d has passed before the end of ctx.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// TestUploadIsNotTimed is an attempt with a timeout of 300 ms whose body takes
// longer than that. An upload that is cut and begun again takes longer still.
func TestUploadIsNotTimed(t *testing.T) {
	const limit = 300 * time.Millisecond
	for _, tt := range []struct {
		name   string
		why    string
		limit  time.Duration // 0: 300 ms
		body   *slowBody     // nil: none
		base   func(*http.Request)
		silent bool // the base then waits for its context
		took   time.Duration
		says   string
	}{
		{
			name: "slow producer", why: "a Read in progress never counts",
			body: &slowBody{n: 5, each: time.Minute, end: io.EOF},
			base: func(req *http.Request) { sends(req, 9, 0) }, took: 6 * time.Minute,
		},
		{
			name: "slow line", body: &slowBody{n: 20, end: io.EOF},
			base: func(req *http.Request) { sends(req, 99, 5*time.Second) }, took: 100 * time.Second,
		},
		{
			name: "silence after a slow producer", why: "the time starts anew with the end of the body",
			body: &slowBody{n: 5, each: time.Minute, end: io.EOF},
			base: func(req *http.Request) { sends(req, 9, 0) }, silent: true,
			took: 6*time.Minute + limit, says: "no response headers after 300ms",
		},
		{
			name: "silence after a slow line", why: "the last of a body may still be on its way",
			body: &slowBody{n: 20, end: io.EOF},
			base: func(req *http.Request) { sends(req, 99, time.Second) }, silent: true,
			took: 20*time.Second + limit + 20*time.Second, says: "no response headers after 300ms",
		},
		{
			name: "silence after a broken body", body: &slowBody{n: 2, each: time.Second, end: errors.New("disk")},
			base: func(req *http.Request) { sends(req, 9, 0) }, silent: true,
			took: 3*time.Second + limit, says: "no response headers after 300ms",
		},
		{
			name: "silence after Close", why: "net/http closes what the server does not want",
			body: &slowBody{n: 9, each: time.Second, end: io.EOF},
			base: func(req *http.Request) { sends(req, 2, 0); _ = req.Body.Close() }, silent: true,
			took: 2*time.Second + limit, says: "no response headers after 300ms",
		},
		{
			name: "stalled", why: "a line that takes nothing more is dead",
			body: &slowBody{n: 9, each: time.Second, end: io.EOF},
			base: func(req *http.Request) { sends(req, 2, 0) }, silent: true,
			took: 12 * time.Second, says: "the connection took nothing of the request body for 10s",
		},
		{
			name: "stalled, with a long timeout", limit: time.Minute,
			body: &slowBody{n: 9, each: time.Second, end: io.EOF},
			base: func(req *http.Request) { sends(req, 2, 0) }, silent: true,
			took: 62 * time.Second, says: "the connection took nothing of the request body for 1m0s",
		},
		{
			name: "body not read yet", why: "Expect: 100-continue",
			body: &slowBody{n: 9, each: time.Second, end: io.EOF}, base: func(*http.Request) {}, silent: true,
			took: limit, says: "no response headers after 300ms",
		},
		{
			name: "body closed unread", body: &slowBody{n: 9, each: time.Second, end: io.EOF}, silent: true,
			base: func(req *http.Request) { time.Sleep(limit / 2); _ = req.Body.Close() },
			took: limit, says: "no response headers after 300ms",
		},
		{
			name: "no body", base: func(*http.Request) {}, silent: true,
			took: limit, says: "no response headers after 300ms",
		},
		{
			name: "sent again by the base", why: "the time of an endless repetition must end",
			body: &slowBody{n: 2, each: time.Second, end: io.EOF}, silent: true,
			base: func(req *http.Request) {
				sends(req, 9, 0)
				for pause(req.Context(), 200*time.Millisecond) {
					body, err := req.GetBody()
					require.NoError(t, err)
					_, err = io.Copy(io.Discard, body)
					require.NoError(t, err)
					require.NoError(t, body.Close())
				}
			},
			took: 3*time.Second + 200*time.Millisecond + 3*time.Second + 100*time.Millisecond, says: "no response headers after 300ms",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				attempts := 0
				base := step(func(req *http.Request) (*http.Response, error) {
					attempts++
					tt.base(req)
					if tt.silent {
						<-req.Context().Done()
						return nil, req.Context().Err()
					}
					require.NoError(t, req.Context().Err())
					return answer(200)(req)
				})
				req := newRequest(t, http.MethodPut, "http://api.test/v1", "")
				if tt.body != nil {
					first := *tt.body
					req.Body = &first
					req.GetBody = func() (io.ReadCloser, error) { again := *tt.body; return &again, nil }
					req.ContentLength = int64(tt.body.n)
				}
				start := time.Now()
				resp, err := resilient.NewTransport(base, resilient.WithMaxAttempts(1),
					resilient.WithAttemptTimeout(max(tt.limit, limit))).RoundTrip(req)
				require.Equal(t, tt.took, time.Since(start))
				require.Equal(t, 1, attempts)
				if tt.says == "" {
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
					return
				}
				require.EqualError(t, err, "resilient: "+tt.says)
				var timeout net.Error
				require.ErrorAs(t, err, &timeout)
				require.True(t, timeout.Timeout())
			})
		})
	}
}

// TestUploadGoesOnAfterTheResponse is a server that answers early and reads on,
// which HTTP/2 allows: no timeout cuts the upload or the response.
func TestUploadGoesOnAfterTheResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var uploaded sync.WaitGroup
		base := step(func(req *http.Request) (*http.Response, error) {
			uploaded.Go(func() {
				sends(req, 99, 15*time.Second)
				require.NoError(t, req.Context().Err())
				require.NoError(t, req.Body.Close())
			})
			time.Sleep(time.Second)
			return answer(200)(req)
		})
		closed := 0
		req := post(t)
		req.Body, req.GetBody = &slowBody{n: 5, each: time.Second, end: io.EOF, close: func() { closed++ }}, nil
		start := time.Now()
		resp, err := resilient.NewTransport(base, resilient.WithAttemptTimeout(2*time.Second)).RoundTrip(req)
		require.NoError(t, err)
		require.Equal(t, time.Second, time.Since(start))
		uploaded.Wait()
		require.Equal(t, 81*time.Second, time.Since(start))
		require.Equal(t, 1, closed)
		require.Equal(t, `{"ok":true}`, readAll(t, resp))
	})
}

// TestUploadToASlowServer is net/http's own client and server. Each of four
// attempts would be cut.
func TestUploadToASlowServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hits, body := 0, strings.Repeat("x", 1<<20)
		base := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			hits++
			buf := make([]byte, 64<<10)
			got := 0
			for {
				n, err := io.ReadFull(r.Body, buf)
				got += n
				if err != nil {
					break
				}
				time.Sleep(time.Second)
			}
			if got != len(body) || r.ContentLength != int64(got) {
				t.Errorf("got %d bytes of %d", got, r.ContentLength)
			}
		})
		start := time.Now()
		resp, err := resilient.NewTransport(base, resilient.WithAttemptTimeout(2*time.Second)).
			RoundTrip(newRequest(t, http.MethodPut, "http://api.test/", body))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 16*time.Second, time.Since(start))
		require.Equal(t, 1, hits)
	})
}

// line is a connection that can die: it then takes whatever is written, and
// nothing comes from it any more.
type line struct {
	net.Conn
	dead atomic.Bool
}

func (l *line) Write(p []byte) (int, error) {
	if l.dead.Load() {
		return len(p), nil
	}
	return l.Conn.Write(p)
}

func (l *line) Read(p []byte) (int, error) {
	for {
		n, err := l.Conn.Read(p)
		if err != nil || !l.dead.Load() {
			return n, err
		}
	}
}

// lines are the connections of a client of HTTP/2 without TLS.
type lines struct {
	base *http.Transport
	mu   sync.Mutex
	all  []*line
}

// serveLines is serve for HTTP/2.
func serveLines(tb testing.TB, handler http.HandlerFunc) *lines {
	tb.Helper()
	tb.Cleanup(func() { time.Sleep(time.Minute) }) // virtual, once the server is closed
	ls := &lines{}
	ls.base, _ = kit.ServeHTTP(tb, 2, handler)
	dial := ls.base.DialContext
	ls.base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		ls.mu.Lock()
		defer ls.mu.Unlock()
		ls.all = append(ls.all, &line{Conn: c})
		return ls.all[len(ls.all)-1], nil
	}
	return ls
}

func (ls *lines) dials() int {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return len(ls.all)
}

// die kills the connections there are.
func (ls *lines) die() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, l := range ls.all {
		l.dead.Store(true)
	}
}

// deliver sends a request that has to be answered.
func deliver(tb testing.TB, rt http.RoundTripper, req *http.Request) {
	tb.Helper()
	resp, err := rt.RoundTrip(req)
	require.NoError(tb, err)
	require.Equal(tb, "HTTP/2.0", resp.Proto)
	require.Same(tb, req, resp.Request)
	require.False(tb, req.Close, "the caller's request is not written to")
	readAll(tb, resp)
}

// passing is a base that wraps another one.
type passing struct{ http.RoundTripper }

func (p passing) RoundTrip(req *http.Request) (*http.Response, error) {
	return p.RoundTripper.RoundTrip(req.Clone(req.Context()))
}

// TestDeadHTTP2Connection is a connection that dies without a sign. net/http
// would send every attempt, and every call after it, to that connection. The
// attempt that follows a timeout retires it.
func TestDeadHTTP2Connection(t *testing.T) {
	const limit = 300 * time.Millisecond
	for _, tt := range []struct {
		name     string
		attempts int
		request  func(testing.TB) *http.Request
		wrap     bool
		lost     int // calls that fail
		took     time.Duration
	}{
		{name: "GET", attempts: 4, request: get, took: 2 * limit},
		{name: "GET, three attempts", attempts: 3, request: get, took: 2 * limit},
		{name: "GET, two attempts", attempts: 2, request: get, lost: 1, took: 2 * limit},
		{name: "GET, one attempt", attempts: 1, request: get, lost: 2, took: 2 * limit},
		{name: "POST", attempts: 4, request: post, lost: 2, took: 2 * limit},
		{name: "GET, wrapped", attempts: 4, request: get, wrap: true, took: 2 * limit},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ls := serveLines(t, func(http.ResponseWriter, *http.Request) {})
				var base http.RoundTripper = ls.base
				if tt.wrap {
					base = passing{base}
				}
				client := resilient.NewTransport(base, every(0), unbounded(),
					resilient.WithMaxAttempts(tt.attempts), resilient.WithAttemptTimeout(limit))
				deliver(t, client, tt.request(t))
				synctest.Wait() // for net/http, which dials once more for a request that comes too soon
				ls.die()
				start := time.Now()
				for range tt.lost {
					_, err := client.RoundTrip(tt.request(t))
					var timeout net.Error
					require.ErrorAs(t, err, &timeout)
					require.True(t, timeout.Timeout())
				}
				deliver(t, client, tt.request(t))
				require.Equal(t, tt.took, time.Since(start))
				for range 3 {
					synctest.Wait()
					deliver(t, client, tt.request(t))
				}
				require.Equal(t, tt.took, time.Since(start))
				require.Equal(t, 2, ls.dials())
			})
		})
	}
}

// TestDeadHTTP2ConnectionOfMany has a hundred calls that all time out on one
// connection, at different times. One of them retires it.
func TestDeadHTTP2ConnectionOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ls := serveLines(t, func(http.ResponseWriter, *http.Request) {})
		client := resilient.NewTransport(ls.base, every(50*time.Millisecond), unbounded(), resilient.WithAttemptTimeout(300*time.Millisecond))
		deliver(t, client, get(t))
		synctest.Wait()
		ls.die()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				deliver(t, client, get(t))
			})
		}
		wg.Wait()
		require.Equal(t, 2, ls.dials())
	})
}

// TestSlowHTTP2Server is a server that is alive and slow. A connection is not
// retired as long as it answers, and a stream that is under way is never harmed.
func TestSlowHTTP2Server(t *testing.T) {
	const limit = 300 * time.Millisecond
	for _, tt := range []struct {
		name  string
		other bool // a request is answered between the timeouts
		dials int
	}{
		{"nothing answered", false, 3},
		{"others answered", true, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ls := serveLines(t, func(w http.ResponseWriter, r *http.Request) {
					switch r.URL.Path {
					case "/slow":
						<-r.Context().Done()
					case "/stream":
						for range 60 {
							_, _ = io.WriteString(w, "x")
							_ = http.NewResponseController(w).Flush()
							time.Sleep(time.Second)
						}
					}
				})
				client := resilient.NewTransport(ls.base, every(limit), unbounded(), resilient.WithAttemptTimeout(limit))
				target := func(path string) *http.Request {
					return newRequest(t, http.MethodGet, "http://api.test"+path, "")
				}
				stream, err := client.RoundTrip(target("/stream"))
				require.NoError(t, err)
				synctest.Wait()
				if tt.other {
					ctx, cancel := context.WithCancel(t.Context())
					var others sync.WaitGroup
					defer others.Wait()
					defer cancel()
					others.Go(func() {
						for pause(ctx, limit/2) {
							deliver(t, client, target("/"))
						}
					})
				}
				start := time.Now()
				_, err = client.RoundTrip(target("/slow"))
				var retried *resilient.RetryError
				require.ErrorAs(t, err, &retried)
				require.Equal(t, 4, retried.Attempts)
				require.Equal(t, 7*limit, time.Since(start))
				require.Equal(t, strings.Repeat("x", 60), readAll(t, stream))
				deliver(t, client, target("/"))
				require.Equal(t, tt.dials, ls.dials(), "two timeouts retire a connection, one of them is the attempt that does it")
			})
		})
	}
}

// TestHTTP1ConnectionsAreKept is the counterpart: HTTP/1.1 closes the connection
// of a request that timed out by itself, and Close would cost the next one its
// connection too.
func TestHTTP1ConnectionsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hits, dials atomic.Int32
		base := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			if hits.Add(1) == 1 {
				<-r.Context().Done()
				return
			}
			if r.Close {
				t.Error("Connection: close")
			}
		})
		dial := base.DialContext
		base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials.Add(1)
			return dial(ctx, network, addr)
		}
		client := resilient.NewTransport(base, every(0), resilient.WithAttemptTimeout(time.Second))
		for range 3 {
			resp, err := client.RoundTrip(get(t))
			require.NoError(t, err)
			readAll(t, resp)
			synctest.Wait()
		}
		require.EqualValues(t, 4, hits.Load())
		require.EqualValues(t, 2, dials.Load())
	})
}

// TestNoTraceWithoutATimeout holds the price of all this to those who set a
// timeout.
func TestNoTraceWithoutATimeout(t *testing.T) {
	req := get(t)
	base := step(func(sent *http.Request) (*http.Response, error) {
		require.Same(t, req, sent)
		require.Nil(t, httptrace.ContextClientTrace(sent.Context()))
		return answer(200)(sent)
	})
	resp, err := resilient.NewTransport(base).RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
}
