package kit

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
)

// Way is one way in which a call can go.
type Way struct {
	Name string

	// New returns a RoundTripper over base that goes this way with each request: idempotent
	// ones, and POSTs with an idempotency key. The field N tells those of several calls
	// apart.
	New func(base http.RoundTripper) http.RoundTripper

	// Longest is how long the longest of 64 calls takes.
	Longest time.Duration

	// Own takes out of a request what the RoundTripper sets in those that it sends.
	Own func(*http.Request)
}

// run is a check of one way.
type run struct {
	*testing.T

	way Way
}

func (t run) over(base http.RoundTripper) http.RoundTripper { return t.way.New(base) }

// fails sends a request that gets no response, and returns the error.
func (t run) fails(base http.RoundTripper, req *http.Request, name ...any) error {
	t.Helper()
	resp, err := t.over(base).RoundTrip(req)
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	require.Nil(t, resp, name...)
	require.Error(t, err, name...)
	return err
}

// Contract is what a RoundTripper owes its caller, whichever way a call goes. Each check
// runs in a bubble of its own, which also fails if it leaves a goroutine behind.
func Contract(t *testing.T, ways []Way) {
	t.Helper()
	for _, check := range []struct {
		name string
		run  func(run)
	}{
		{"request untouched", requestUntouched},
		{"malformed request", malformedRequest},
		{"request reused", requestReused},
		{"body closed", bodyClosed},
		{"broken base", brokenBase},
		{"101", upgradedConnection},
		{"upgrade", upgrade},
		{"no body", noBody},
		{"trailers", trailers},
		{"request trailers", requestTrailers},
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
		for _, way := range ways {
			t.Run(check.name+"/"+way.Name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { check.run(run{t, way}) })
			})
		}
	}
}

// requestUntouched: the caller's Request is not written to, all requests have all of its
// fields and the whole body, and it is the one in Response.Request.
func requestUntouched(t run) {
	req := Request(t, http.MethodPut, "http://user:pass@api.test/a%2Fb?q=1#f", "payload", "Idempotency-Key", "k")
	req.URL.Opaque, req.Host, req.Close = "//api.test/a%2Fb", "virtual.test", true
	req.TransferEncoding = []string{"identity"}
	req.Header["X-None"] = nil
	fields := func(req *http.Request) http.Request {
		s := *req.Clone(t.Context())
		s.Body, s.GetBody = nil, nil
		return s
	}
	shared := func(req *http.Request) http.Request {
		s := fields(req)
		if t.way.Own != nil {
			t.way.Own(&s)
		}
		return s
	}
	before, body := fields(req), req.Body
	resp, err := t.over(RoundTripper(func(sent *http.Request) (*http.Response, error) {
		require.Equal(t, shared(req), shared(sent))
		require.Equal(t, "payload", Take(sent))
		resp := Response(200, "{}")
		resp.Request = sent
		return resp, nil
	})).RoundTrip(req)
	require.NoError(t, err)
	require.Same(t, req, resp.Request)
	ReadAll(t, resp)
	require.Equal(t, before, fields(req))
	require.True(t, body == req.Body, "the Body field is not replaced") //nolint:testifylint // identity
}

// malformedRequest: a malformed request is an error, and its body is closed.
func malformedRequest(t run) {
	for _, tt := range []struct {
		name string
		edit func(*http.Request)
	}{
		{"nil URL", func(r *http.Request) { r.URL = nil }},
		{"nil header", func(r *http.Request) { r.Header = nil }},
		{"bad method", func(r *http.Request) { r.Method = "P UT" }},
		{"bad header", func(r *http.Request) { r.Header["X Y"] = []string{"v"} }},
	} {
		base := Serve(t, func(http.ResponseWriter, *http.Request) { t.Error(tt.name, "was sent") })
		body := NewBody("x")
		req := Request(t, http.MethodPut, "http://api.test/", "", "Idempotency-Key", "k")
		req.Body, req.ContentLength = body, 1
		req.GetBody = func() (io.ReadCloser, error) { return NewBody("x"), nil }
		tt.edit(req)
		_ = t.fails(base, req, tt.name)
		require.Equal(t, 1, body.Closes(), tt.name)
	}
}

// requestReused: nobody looks at a Request any more once its response is closed. With
// -race this finds who does.
func requestReused(t run) {
	base := Serve(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Header.Get("N")) })
	transport, req := t.over(base), Get(t)
	for i := range 5 {
		req.Header["N"] = []string{strconv.Itoa(i)}
		req.URL.Path = "/" + strconv.Itoa(i)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(i), ReadAll(t, resp))
	}
}

// bodyClosed: the body of a request is closed, however the call ends, and so is each body
// that GetBody returned, and that of each response.
func bodyClosed(t run) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	bodies := NewBodies(t)
	for _, status := range []int{200, 404, 503, 0} {
		for _, ctx := range []context.Context{t.Context(), ended} {
			sent := []*Body{NewBody("payload")}
			req := Request(t, http.MethodPost, "http://api.test/", "payload", "Idempotency-Key", "k").WithContext(ctx)
			req.Body = sent[0]
			req.GetBody = func() (io.ReadCloser, error) {
				sent = append(sent, NewBody("payload"))
				return sent[len(sent)-1], nil
			}
			resp, err := t.over(RoundTripper(func(req *http.Request) (*http.Response, error) {
				Take(req)
				if status == 0 {
					return nil, io.ErrUnexpectedEOF
				}
				resp := Response(status, "{}")
				bodies.Note(resp)
				return resp, nil
			})).RoundTrip(req)
			require.NotEqual(t, resp == nil, err == nil)
			if resp != nil {
				require.NoError(t, resp.Body.Close())
			}
			synctest.Wait()
			for _, b := range sent {
				require.Equal(t, 1, b.Closes())
			}
		}
	}
}

// brokenBase: a call ends with a response or an error, and a response has a body, whatever
// the base returns.
func brokenBase(t run) {
	body := NewBody("")
	for _, base := range []RoundTripper{
		func(*http.Request) (*http.Response, error) { return nil, nil },
		func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: body}, io.ErrUnexpectedEOF
		},
		func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200}, io.ErrUnexpectedEOF
		},
	} {
		_ = t.fails(base, Get(t))
	}
	require.Positive(t, body.Closes(), "nothing is lost: the dropped response is closed")
	resp, err := t.over(RoundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200}, nil
	})).RoundTrip(Get(t))
	require.NoError(t, err)
	require.Equal(t, http.NoBody, resp.Body)
	require.NoError(t, resp.Body.Close())
}

// upgradedConnection: the body of a 101 keeps its type, even if nobody had asked for one.
func upgradedConnection(t run) {
	type halfCloser struct{ io.ReadWriteCloser }
	for _, header := range [][]string{nil, {"Upgrade", "echo"}} {
		client, server := net.Pipe()
		defer server.Close()
		resp, err := t.over(RoundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusSwitchingProtocols, Body: halfCloser{client}}, nil
		})).RoundTrip(Request(t, http.MethodGet, "http://api.test/", "", header...))
		require.NoError(t, err)
		require.IsType(t, halfCloser{}, resp.Body)
		require.NoError(t, resp.Body.Close())
	}
}

// upgrade: an upgraded connection is the caller's, to read and to write.
func upgrade(t run) {
	resp, err := t.over(Serve(t, Echo)).RoundTrip(Request(t, http.MethodGet, "http://api.test/", "",
		"Connection", "Upgrade", "Upgrade", "echo"))
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	conn, ok := resp.Body.(io.ReadWriteCloser)
	require.True(t, ok)
	_, err = io.WriteString(conn, "echo")
	require.NoError(t, err)
	got := make([]byte, 4)
	_, err = io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, "echo", string(got))
	require.NoError(t, conn.Close())
}

// noBody: a response to HEAD, a 204 and a 304 have http.NoBody and their length.
func noBody(t run) {
	base := Serve(t, func(w http.ResponseWriter, r *http.Request) {
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
		resp, err := t.over(base).RoundTrip(Request(t, tt.method, fmt.Sprint("http://api.test/", tt.status), ""))
		require.NoError(t, err)
		require.Equal(t, tt.length, resp.ContentLength)
		require.Equal(t, http.NoBody, resp.Body, "net/http looks for it")
		require.NoError(t, resp.Body.Close())
	}
}

// trailers: those of a response are there when its body ends.
func trailers(t run) {
	base := Serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Told")
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Told", "1")
		w.Header().Set(http.TrailerPrefix+"X-Untold", "2")
	})
	resp, err := t.over(base).RoundTrip(Get(t))
	require.NoError(t, err)
	require.Equal(t, "body", ReadAll(t, resp))
	require.Equal(t, http.Header{"X-Told": {"1"}, "X-Untold": {"2"}}, resp.Trailer)
}

// requestTrailers: those of a request reach the server, even if the caller fills them in
// while the body is read.
func requestTrailers(t run) {
	base := Serve(t, func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		_, _ = io.WriteString(w, req.Trailer.Get("X-Sum"))
	})
	req := Request(t, http.MethodPut, "http://api.test/v1", "payload")
	req.Trailer = http.Header{"X-Sum": nil}
	open := func() (io.ReadCloser, error) {
		end := func() (int, error) { req.Trailer.Set("X-Sum", "42"); return 0, io.EOF }
		return io.NopCloser(io.MultiReader(strings.NewReader("payload"), ending(end))), nil
	}
	req.Body, _ = open()
	req.GetBody, req.ContentLength = open, -1
	resp, err := t.over(base).RoundTrip(req)
	require.NoError(t, err)
	require.Equal(t, "42", ReadAll(t, resp))
}

// ending is the end of a body.
type ending func() (int, error)

func (e ending) Read([]byte) (int, error) { return e() }

// gzipIsTransparent: gzip is net/http's business.
func gzipIsTransparent(t run) {
	base := Serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, "body")
		_ = z.Close()
	})
	resp, err := t.over(base).RoundTrip(Get(t))
	require.NoError(t, err)
	require.True(t, resp.Uncompressed)
	require.Equal(t, "body", ReadAll(t, resp))
}

// shortBody: a body that was cut short says so where it ends.
func shortBody(t run) {
	base := Serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "short")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	resp, err := t.over(base).RoundTrip(Get(t))
	require.NoError(t, err)
	b, err := io.ReadAll(resp.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Equal(t, "short", string(b))
	require.NoError(t, resp.Body.Close())
}

// closedBody: to read a closed body is an error, and to close it again is not.
func closedBody(t run) {
	base := Serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "body") })
	resp, err := t.over(base).RoundTrip(Get(t))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.NoError(t, resp.Body.Close())
	_, err = resp.Body.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, io.EOF, "which would pass for a whole body")
}

// abandonedResponse: a response that is never closed keeps no goroutine, or the bubble
// would not end.
func abandonedResponse(t run) {
	for i, status := range slices.Repeat([]int{200, 404, 503}, 7) {
		base := RoundTripper(func(*http.Request) (*http.Response, error) { return Response(status, "{}"), nil })
		req := Request(t, http.MethodGet, "http://api.test/", "", "N", strconv.Itoa(i))
		_, _ = t.over(base).RoundTrip(req) //nolint:bodyclose // that is the check
	}
}

// errorIsTheBases: the error is the base's own. http.Client asserts its type.
func errorIsTheBases(t run) {
	for _, want := range []error{http.ErrSkipAltProtocol, x509.UnknownAuthorityError{}} {
		err := t.fails(RoundTripper(func(*http.Request) (*http.Response, error) { return nil, want }), Get(t))
		require.True(t, err == want) //nolint:errorlint,testifylint // identity
	}
}

// contextCause: a call ends with its context, with the cause for it.
func contextCause(t run) {
	cause := errors.New("shutting down")
	hangs := Serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(3*time.Second, func() { cancel(cause) })
	start := time.Now()
	for range 2 {
		require.ErrorIs(t, t.fails(hangs, Get(t).WithContext(ctx)), cause)
		require.Equal(t, 3*time.Second, time.Since(start))
	}
}

// clientTimeout: the Timeout of http.Client ends a call in time, and the error says that
// it was a timeout.
func clientTimeout(t run) {
	hangs := Serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	start := time.Now()
	resp, err := (&http.Client{Transport: t.over(hangs), Timeout: 5 * time.Second}).Do(Get(t))
	if err == nil {
		_ = resp.Body.Close()
	}
	var u *url.Error
	require.ErrorAs(t, err, &u)
	require.True(t, u.Timeout())
	require.Equal(t, 5*time.Second, time.Since(start))
}

// idleConnections: http.Client.CloseIdleConnections reaches the base, and a base without
// the method does no harm.
func idleConnections(t run) {
	answers := RoundTripper(func(*http.Request) (*http.Response, error) { return Response(200, "{}"), nil })
	base := &Idler{RoundTripper: answers}
	client := &http.Client{Transport: t.over(base)}
	resp, err := client.Do(Get(t))
	require.NoError(t, err)
	ReadAll(t, resp)
	require.Zero(t, base.Closed)
	client.CloseIdleConnections()
	require.Positive(t, base.Closed)
	(&http.Client{Transport: t.over(answers)}).CloseIdleConnections()
}

// manyAtOnce: 64 calls share a RoundTripper without a data race, and do not wait for each
// other.
func manyAtOnce(t run) {
	client := &http.Client{Transport: t.over(Serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.ToUpper(r.Header.Get("N")))
	}))}
	start := time.Now()
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			resp, err := client.Do(Request(t, http.MethodGet, "http://api.test/", "", "N", fmt.Sprint("call ", i)))
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
	require.Equal(t, t.way.Longest, time.Since(start))
}
