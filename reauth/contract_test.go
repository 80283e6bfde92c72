package reauth_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/reauth"
)

// snapshot returns a deep copy of what a caller sees of a request.
func snapshot(req *http.Request) http.Request {
	c := *req
	u := *req.URL
	c.URL, c.Header, c.Trailer = &u, req.Header.Clone(), req.Trailer.Clone()
	c.GetBody = nil
	return c
}

// TestRequestUntouched: the caller's request is not written to, and every field of it
// reaches the second request.
func TestRequestUntouched(t *testing.T) {
	for _, known := range []bool{false, true} {
		base, r := newAPI(t, "T2"), refreshes("T2")
		transport := over(base, r)
		if known {
			require.Equal(t, 200, status(t, transport, get(t, "T1")))
		}
		req := newRequest(t, http.MethodPost, "T1", "payload")
		req.Host, req.Close = "virtual.test", true
		req.Header.Set("X-Other", "kept")
		req.Trailer = http.Header{"X-Sum": nil}
		body := &trackedBody{Reader: strings.NewReader("payload")}
		req.Body = body
		replayed := &trackedBody{Reader: strings.NewReader("payload")}
		req.GetBody = func() (io.ReadCloser, error) { return replayed, nil }
		before := snapshot(req)
		base.also = func(sent *http.Request) *http.Response {
			require.Equal(t, req.Method, sent.Method)
			require.Equal(t, req.URL, sent.URL)
			require.Equal(t, req.Host, sent.Host)
			require.Equal(t, req.Close, sent.Close)
			require.Equal(t, req.ContentLength, sent.ContentLength)
			require.Equal(t, req.Trailer, sent.Trailer)
			require.Equal(t, "kept", sent.Header.Get("X-Other"))
			return nil
		}
		require.Equal(t, 200, status(t, transport, req))
		after := snapshot(req)
		require.Equal(t, before, after)
		require.Equal(t, 1, body.closes())
		if !known {
			require.Equal(t, 1, replayed.closes())
		}
	}
}

// TestMalformed: a request that is not whole is the base's to refuse.
func TestMalformed(t *testing.T) {
	base := newAPI(t, "T2")
	transport := over(base, refreshes("T2"))
	require.Equal(t, 200, status(t, transport, get(t, "T1")))
	for _, edit := range []func(*http.Request){
		func(req *http.Request) { req.URL = nil },
		func(req *http.Request) { req.Header = nil },
	} {
		req := newRequest(t, http.MethodPost, "T1", "payload")
		body := &trackedBody{Reader: strings.NewReader("payload")}
		req.Body = body
		edit(req)
		_, err := outcome(t, transport, req)
		require.ErrorContains(t, err, "resilient: nil Request.")
		require.Equal(t, 1, body.closes())
	}
	require.Len(t, base.tokens(), 2)
}

// TestRequestReused: a caller may change its request once it has the response.
func TestRequestReused(t *testing.T) {
	base, r := newAPI(t, "T2"), refreshes("T2")
	r.takes = 20 * ms
	transport := over(base, r)
	ctx, cancel := context.WithTimeout(t.Context(), ms)
	defer cancel()
	req := get(t, "T1").WithContext(ctx)
	_, err := outcome(t, transport, req)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	req.Header.Set("Authorization", "other")
	req.URL.Host = "other.test"
	require.Equal(t, 200, status(t, transport, get(t, "T1")), "a race, if the refresh looks at the request")
}

// TestClosesIdleConnections: the base is told, if it has the method.
func TestClosesIdleConnections(t *testing.T) {
	c := &closer{RoundTripper: newAPI(t)}
	client := &http.Client{Transport: over(c, refreshes("T2"))}
	client.CloseIdleConnections()
	require.Equal(t, 1, c.closed)
	(&http.Client{Transport: reauth.New(newAPI(t), refreshes("T2").refresh)}).CloseIdleConnections()
}

type closer struct {
	http.RoundTripper
	closed int
}

func (c *closer) CloseIdleConnections() { c.closed++ }

// TestDefaultBase: a nil base is http.DefaultTransport.
func TestDefaultBase(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	client := &http.Client{Transport: reauth.New(nil, unasked(t))}
	resp, err := client.Get(srv.URL)
	require.NoError(t, err)
	require.Equal(t, 404, resp.StatusCode)
	require.NoError(t, resp.Body.Close())
}

// TestErrors: an error of the base is its own, before and after a refresh.
func TestErrors(t *testing.T) {
	lost := errors.New("lost")
	for after := range 2 {
		calls := 0
		transport := reauth.New(roundTripper(func(*http.Request) (*http.Response, error) {
			if calls++; calls > after {
				return nil, lost
			}
			return answer(401), nil
		}), refreshes("T2").refresh)
		resp, err := transport.RoundTrip(get(t, "T1"))
		require.Nil(t, resp)
		require.Equal(t, lost, err)
	}
	transport := reauth.New(roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 401}, nil // a base without a body
	}), refreshes("T2").refresh)
	resp, err := transport.RoundTrip(get(t, "T1"))
	require.NoError(t, err)
	require.Equal(t, 401, resp.StatusCode)
}

// TestConnection: an upgraded connection, trailers and a body that arrives in parts are
// left alone, also of a second request.
func TestConnection(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/upgrade", func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
	})
	mux.HandleFunc("/trailers", func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.Copy(w, req.Body)
		w.Header().Set("X-Sum", req.Trailer.Get("X-Sum"))
	})
	var once sync.Map // the paths that were refused once
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if _, before := once.LoadOrStore(req.URL.Path, true); !before {
			http.Error(w, "401", http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, req)
	}))
	defer srv.Close()
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	n := 0
	client := &http.Client{Transport: reauth.New(resilient.NewTransport(base), func(context.Context, *http.Request) (http.Header, error) {
		n++
		return http.Header{"Authorization": {strings.Repeat("T", n)}}, nil
	})}

	req, err := http.NewRequest(http.MethodGet, srv.URL+"/upgrade", nil)
	require.NoError(t, err)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := client.Do(req)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	conn, ok := resp.Body.(io.ReadWriteCloser)
	require.True(t, ok)
	_, err = io.WriteString(conn, "echo")
	require.NoError(t, err)
	got := make([]byte, 4)
	_, err = io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, "echo", string(got))
	require.NoError(t, conn.Close())

	req, err = http.NewRequest(http.MethodPost, srv.URL+"/trailers", nil)
	require.NoError(t, err)
	req.Trailer = http.Header{"X-Sum": nil}
	open := func() (io.ReadCloser, error) {
		return io.NopCloser(&ending{strings.NewReader("payload"), func() { req.Trailer.Set("X-Sum", "42") }}), nil
	}
	req.Body, _ = open()
	req.GetBody, req.ContentLength = open, -1
	resp, err = client.Do(req)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, "payload", string(body))
	require.Equal(t, "42", resp.Trailer.Get("X-Sum"))
}

// ending calls end before it returns io.EOF.
type ending struct {
	io.Reader
	end func()
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		e.end()
	}
	return n, err
}

// TestReuse: a 401 gives its connection back, for the refresh and the second request.
func TestReuse(t *testing.T) {
	var mu sync.Mutex
	dialed := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "T2" {
			http.Error(w, strings.Repeat("401", 10_000), http.StatusUnauthorized)
		}
	}))
	defer srv.Close()
	base := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		dialed++
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	defer base.CloseIdleConnections()
	client := &http.Client{Transport: reauth.New(base, func(context.Context, *http.Request) (http.Header, error) {
		return http.Header{"Authorization": {"T2"}}, nil
	})}
	resp, err := client.Get(srv.URL)
	require.NoError(t, err)
	require.Equal(t, 200, resp.StatusCode)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 1, dialed)
}

// TestCost is what a call costs that needs nothing.
func TestCost(t *testing.T) {
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.Header.Get("Authorization") == "T1" {
			return answer(401), nil
		}
		return okay, nil
	})
	for _, tt := range []struct {
		name  string
		known bool // a credential was refused before
		token string
		want  float64
		why   string
	}{
		{"nothing was ever refused", false, "T2", 0, "the base's own call"},
		{"the new credential", true, "T2", 0, "it is looked up"},
		{"another credential", true, "T3", 0, "it is looked up"},
		{"the old credential", true, "T1", 4, "a copy of the request, and of its header"},
	} {
		transport := reauth.New(base, refreshes("T2").refresh)
		if tt.known {
			require.Equal(t, 200, send(t, transport, get(t, "T1")))
		}
		req := get(t, tt.token)
		got := testing.AllocsPerRun(100, func() {
			if resp, err := transport.RoundTrip(req); err != nil || resp.StatusCode != 200 {
				t.Error(resp, err)
			}
		})
		require.LessOrEqual(t, got, tt.want, "%s: %s", tt.name, tt.why)
	}
}

var okay = &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}

func send(tb testing.TB, transport http.RoundTripper, req *http.Request) int {
	tb.Helper()
	resp, err := transport.RoundTrip(req)
	require.NoError(tb, err)
	require.NoError(tb, resp.Body.Close())
	return resp.StatusCode
}

func BenchmarkTransport(b *testing.B) {
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.Header.Get("Authorization") == "T1" {
			return answer(401), nil
		}
		return okay, nil
	})
	fresh := reauth.New(base, refreshes("T2").refresh)
	used := reauth.New(base, refreshes("T2").refresh)
	send(b, used, get(b, "T1"))
	for _, bb := range []struct {
		name      string
		transport http.RoundTripper
		token     string
	}{
		{"base", base, "T2"},
		{"never refused", fresh, "T2"},
		{"new credential", used, "T2"},
		{"old credential", used, "T1"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			req := get(b, bb.token)
			req.Header.Set("Accept", "application/json")
			req.Header.Set("User-Agent", "benchmark")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bb.transport.RoundTrip(req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
