package hedge_test

import (
	"compress/gzip"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/hedge"
)

// contractTest is one check of one way in which a call can go. A hedge is sent after
// 100 ms.
type contractTest struct {
	*testing.T

	first  time.Duration // until the first request is passed to the base
	second time.Duration // and the second, since it was sent; -1: never
	nested bool          // a resilient.Transport is in between
}

// over returns a Transport over base.
func (t contractTest) over(base http.RoundTripper) *hedge.Transport {
	if t.nested {
		base = resilient.NewTransport(base, resilient.WithMaxAttempts(1))
	}
	return hedge.New(&late{base, t, sync.Map{}}, hedge.WithDelay(100*ms), hedge.WithIdempotencyKeys(true))
}

// late holds requests back. It tells those of a call by the field N.
type late struct {
	http.RoundTripper

	t    contractTest
	seen sync.Map
}

func (l *late) RoundTrip(req *http.Request) (*http.Response, error) {
	n := req.Header.Get("N")
	d := l.t.first
	if _, again := l.seen.LoadOrStore(n, true); again && l.t.first != 0 {
		l.seen.Delete(n)
		d = l.t.second
	}
	if d != 0 {
		due := make(<-chan time.Time)
		if d > 0 {
			timer := time.NewTimer(d)
			defer timer.Stop()
			due = timer.C
		}
		select {
		case <-due:
		case <-req.Context().Done():
			if req.Body != nil {
				_ = req.Body.Close()
			}
			return nil, context.Cause(req.Context())
		}
	}
	return l.RoundTripper.RoundTrip(req)
}

func (l *late) CloseIdleConnections() {
	if c, ok := l.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// TestContract is the contract that a RoundTripper owes its caller, as in the root
// package: for a call that is not hedged, and for one that either request wins. Each check
// runs in a bubble of its own, which also fails if it leaves a goroutine behind.
func TestContract(t *testing.T) {
	for _, check := range []struct {
		name string
		run  func(contractTest)
	}{
		{"request untouched", requestUntouched},
		{"malformed request", malformedRequest},
		{"request reused", requestReused},
		{"body closed", bodyClosed},
		{"broken base", brokenBase},
		{"101", upgradedConnection},
		{"no body", noBody},
		{"trailers", trailers},
		{"gzip", gzipIsTransparent},
		{"short body", shortBody},
		{"closed body", closedBody},
		{"abandoned response", abandonedResponse},
		{"error is the base's", errorIsTheBases},
		{"context", contextCause},
		{"client timeout", clientTimeout},
		{"idle connections", idleConnections},
		{"64 at once", manyAtOnce},
	} {
		for _, c := range []struct {
			name          string
			first, second time.Duration
			nested        bool
		}{
			{"not hedged", 0, 0, false},
			{"the first wins", 150 * ms, -1, false},
			{"the second wins", time.Hour, 20 * ms, false},
			{"both at once", 150 * ms, 50 * ms, false},
			{"the second wins over resilient", time.Hour, 20 * ms, true},
		} {
			t.Run(check.name+"/"+c.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { check.run(contractTest{t, c.first, c.second, c.nested}) })
			})
		}
	}
}

// requestUntouched: the caller's Request is not written to, both requests have all of its
// fields, and it is the one in Response.Request.
func requestUntouched(t contractTest) {
	req := newRequest(t, http.MethodPut, "http://user:pass@api.test/a%2Fb?q=1#f", "payload", "Idempotency-Key", "k")
	req.URL.Opaque, req.Host, req.Close = "//api.test/a%2Fb", "virtual.test", true
	req.TransferEncoding = []string{"identity"}
	req.Header["X-None"] = nil
	fields := func(req *http.Request) http.Request {
		s := *req.WithContext(t.Context())
		target := *req.URL
		s.URL, s.Header, s.TransferEncoding = &target, req.Header.Clone(), slices.Clone(req.TransferEncoding)
		s.Body, s.GetBody = nil, nil
		return s
	}
	before, body := fields(req), req.Body
	resp, err := t.over(roundTripper(func(sent *http.Request) (*http.Response, error) {
		require.Equal(t, before, fields(sent))
		b, _ := io.ReadAll(sent.Body)
		_ = sent.Body.Close()
		require.Equal(t, "payload", string(b))
		sent.Header.Get("X")
		return newServer(after(0, 200)).RoundTrip(sent)
	})).RoundTrip(req)
	require.NoError(t, err)
	require.Same(t, req, resp.Request)
	readAll(t, resp)
	require.Equal(t, before, fields(req))
	require.True(t, body == req.Body, "the Body field is not replaced") //nolint:testifylint // identity
}

// malformedRequest: a malformed request is an error, and its body is closed.
func malformedRequest(t contractTest) {
	for name, edit := range map[string]func(*http.Request){
		"nil URL":    func(r *http.Request) { r.URL = nil },
		"nil header": func(r *http.Request) { r.Header = nil },
		"no host":    func(r *http.Request) { r.URL.Host, r.Host = "", "" },
		"bad scheme": func(r *http.Request) { r.URL.Scheme = "gopher" },
		"bad method": func(r *http.Request) { r.Method = "P UT" },
		"bad header": func(r *http.Request) { r.Header["X Y"] = []string{"v"} },
	} {
		base, _ := serve(t, func(http.ResponseWriter, *http.Request) { t.Error(name, "was sent") })
		body := tracked("x")
		req := newRequest(t, http.MethodPut, "http://api.test/", "", "Idempotency-Key", "k")
		req.Body, req.ContentLength = body, 1
		edit(req)
		resp, err := t.over(base).RoundTrip(req)
		require.Nil(t, resp, name)
		require.Error(t, err, name)
		require.Equal(t, 1, body.closes(), name)
	}
}

// requestReused: nobody looks at a Request any more once its response is closed. With
// -race this finds who does.
func requestReused(t contractTest) {
	base, _ := serve(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Header.Get("N")) })
	transport, req := t.over(base), get(t)
	for i := range 5 {
		req.Header["N"] = []string{strconv.Itoa(i)}
		req.URL.Path = "/" + strconv.Itoa(i)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(i), readAll(t, resp))
	}
}

// bodyClosed: the body of a request is closed, however the call ends, and so is each body
// that GetBody returned.
func bodyClosed(t contractTest) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, a := range []answer{after(0, 200), after(0, 404), after(0, 503), fails(0, errCut)} {
		for _, ctx := range []context.Context{t.Context(), ended} {
			bodies := []*trackedBody{tracked("payload")}
			req := newRequest(t, http.MethodPost, "http://api.test/", "payload", "Idempotency-Key", "k").WithContext(ctx)
			req.Body = bodies[0]
			req.GetBody = func() (io.ReadCloser, error) {
				bodies = append(bodies, tracked("payload"))
				return bodies[len(bodies)-1], nil
			}
			resp, err := t.over(newServer(a)).RoundTrip(req)
			require.NotEqual(t, resp == nil, err == nil)
			if resp != nil {
				require.NoError(t, resp.Body.Close())
			}
			synctest.Wait()
			for _, b := range bodies {
				require.Equal(t, 1, b.closes())
			}
		}
	}
}

// brokenBase: a call ends with a response or an error, and a response has a body, whatever
// the base returns.
func brokenBase(t contractTest) {
	body := tracked("")
	for _, base := range []roundTripper{
		func(*http.Request) (*http.Response, error) { return nil, nil },
		func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: body}, errCut
		},
		func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: 200}, errCut },
	} {
		resp, err := t.over(base).RoundTrip(get(t))
		require.Error(t, err)
		require.Nil(t, resp)
	}
	require.Positive(t, body.closes(), "nothing is lost: the dropped response is closed")
	resp, err := t.over(roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200}, nil
	})).RoundTrip(get(t))
	require.NoError(t, err)
	require.Equal(t, http.NoBody, resp.Body)
}

// upgradedConnection: the body of a 101 keeps its type, even if nobody had asked for one.
func upgradedConnection(t contractTest) {
	type halfCloser struct{ io.ReadWriteCloser }
	for _, header := range [][]string{nil, {"Upgrade", "echo"}} {
		client, server := net.Pipe()
		defer server.Close()
		resp, err := t.over(roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusSwitchingProtocols, Body: halfCloser{client}}, nil
		})).RoundTrip(newRequest(t, http.MethodGet, "http://api.test/", "", header...))
		require.NoError(t, err)
		require.IsType(t, halfCloser{}, resp.Body)
		require.NoError(t, resp.Body.Close())
	}
}

// noBody: a response to HEAD, a 204 and a 304 have http.NoBody and their length.
func noBody(t contractTest) {
	base, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.Path[1:])
		if r.Method == http.MethodHead {
			w.Header().Set("Content-Length", "1000")
		}
		w.WriteHeader(status)
	})
	for _, tt := range []struct {
		method string
		status int
		length int64
	}{{http.MethodHead, 200, 1000}, {http.MethodHead, 404, 1000}, {http.MethodGet, 204, 0}, {http.MethodGet, 304, 0}} {
		resp, err := t.over(base).RoundTrip(newRequest(t, tt.method, fmt.Sprint("http://api.test/", tt.status), ""))
		require.NoError(t, err)
		require.Equal(t, tt.length, resp.ContentLength)
		require.Equal(t, http.NoBody, resp.Body, "net/http looks for it")
	}
}

// trailers: those of a response are there when its body ends.
func trailers(t contractTest) {
	base, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Told")
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Told", "1")
		w.Header().Set(http.TrailerPrefix+"X-Untold", "2")
	})
	resp, err := t.over(base).RoundTrip(get(t))
	require.NoError(t, err)
	require.Equal(t, "body", readAll(t, resp))
	require.Equal(t, http.Header{"X-Told": {"1"}, "X-Untold": {"2"}}, resp.Trailer)
}

// gzipIsTransparent: gzip is net/http's business.
func gzipIsTransparent(t contractTest) {
	base, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, "body")
		_ = z.Close()
	})
	resp, err := t.over(base).RoundTrip(get(t))
	require.NoError(t, err)
	require.True(t, resp.Uncompressed)
	require.Equal(t, "body", readAll(t, resp))
}

// shortBody: a body that was cut short says so where it ends.
func shortBody(t contractTest) {
	base, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "short")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	resp, err := t.over(base).RoundTrip(get(t))
	require.NoError(t, err)
	b, err := io.ReadAll(resp.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Equal(t, "short", string(b))
	require.NoError(t, resp.Body.Close())
}

// closedBody: to read a closed body is an error, and to close it again is not.
func closedBody(t contractTest) {
	base, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "body") })
	resp, err := t.over(base).RoundTrip(get(t))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.NoError(t, resp.Body.Close())
	_, err = resp.Body.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, io.EOF, "which would pass for a whole body")
}

// abandonedResponse: a response that is never closed keeps no goroutine, or the bubble
// would not end.
func abandonedResponse(t contractTest) {
	transport := t.over(newServer(after(0, 200), after(0, 404), after(0, 503)))
	for i := range 20 {
		_, _ = transport.RoundTrip(newRequest(t, http.MethodGet, "http://api.test/", "", "N", strconv.Itoa(i)))
	}
}

// errorIsTheBases: the error is the base's own. http.Client asserts its type.
func errorIsTheBases(t contractTest) {
	for _, want := range []error{http.ErrSkipAltProtocol, x509.UnknownAuthorityError{}} {
		_, err := t.over(newServer(fails(0, want))).RoundTrip(get(t))
		require.True(t, err == want) //nolint:errorlint,testifylint // identity
	}
}

// contextCause: a call ends with its context, with the cause for it.
func contextCause(t contractTest) {
	cause := errors.New("shutting down")
	hangs, _ := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(3*time.Second, func() { cancel(cause) })
	start := time.Now()
	for range 2 {
		_, err := t.over(hangs).RoundTrip(get(t).WithContext(ctx))
		require.ErrorIs(t, err, cause)
		require.Equal(t, 3*time.Second, time.Since(start))
	}
}

// clientTimeout: the Timeout of http.Client ends a call in time, and the error says that
// it was a timeout.
func clientTimeout(t contractTest) {
	hangs, _ := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	start := time.Now()
	_, err := (&http.Client{Transport: t.over(hangs), Timeout: 5 * time.Second}).Do(get(t))
	var u *url.Error
	require.ErrorAs(t, err, &u)
	require.True(t, u.Timeout())
	require.Equal(t, 5*time.Second, time.Since(start))
}

type closer struct {
	http.RoundTripper

	closed int
}

func (c *closer) CloseIdleConnections() { c.closed++ }

// idleConnections: http.Client.CloseIdleConnections reaches the base.
func idleConnections(t contractTest) {
	base := &closer{RoundTripper: newServer(after(0, 200))}
	client := &http.Client{Transport: t.over(base)}
	resp, err := client.Do(get(t))
	require.NoError(t, err)
	readAll(t, resp)
	require.Zero(t, base.closed)
	client.CloseIdleConnections()
	require.Equal(t, 1, base.closed)
}

// manyAtOnce: 64 calls share a Transport without a data race, and do not wait for each
// other. There are tokens for 20 hedges, and the others are answered without.
func manyAtOnce(t contractTest) {
	base, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.ToUpper(r.Header.Get("N")))
	})
	client := &http.Client{Transport: t.over(base)}
	start := time.Now()
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			resp, err := client.Do(newRequest(t, http.MethodGet, "http://api.test/", "", "N", fmt.Sprint("call ", i)))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != fmt.Sprint("CALL ", i) {
				t.Errorf("got %q, %v", b, err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, t.first, time.Since(start))
}
