// Package kit has what the tests of several packages share: requests, bodies that count
// how often they are closed, a real server in virtual time ([Serve]), and what a
// RoundTripper owes its caller ([Contract]). A helper that fails ends the test.
package kit

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// RoundTripper is a function that is a base.
type RoundTripper func(*http.Request) (*http.Response, error)

// RoundTrip calls f.
func (f RoundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// Base is another base, to be embedded in one that does something else with some requests.
type Base struct{ http.RoundTripper }

// CloseIdleConnections passes the call on, if the other base has the method.
func (b Base) CloseIdleConnections() {
	if c, ok := b.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// Idler is a base that counts how often its idle connections are closed.
type Idler struct {
	http.RoundTripper

	Closed int
}

// CloseIdleConnections counts.
func (i *Idler) CloseIdleConnections() { i.Closed++ }

// Request returns a request with a body, unless that is "", and with header fields, given
// as name, value pairs. Its context is that of the test.
func Request(tb testing.TB, method, target, body string, header ...string) *http.Request {
	tb.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(tb.Context(), method, target, r)
	require.NoError(tb, err)
	for field := range slices.Chunk(header, 2) {
		req.Header.Set(field[0], field[1])
	}
	return req
}

// Get returns the usual request.
func Get(tb testing.TB) *http.Request {
	tb.Helper()
	return Request(tb, http.MethodGet, "http://api.test/v1", "")
}

// Take reads and closes the body of a request, as every base has to, and returns it.
func Take(req *http.Request) string {
	if req.Body == nil {
		return ""
	}
	defer req.Body.Close()
	b, _ := io.ReadAll(req.Body)
	return string(b)
}

// Response returns a response with a JSON body that counts how often it is closed.
func Response(status int, body string, header ...string) *http.Response {
	resp := &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}},
		ContentLength: int64(len(body)), Body: NewBody(body),
	}
	for field := range slices.Chunk(header, 2) {
		resp.Header.Set(field[0], field[1])
	}
	return resp
}

// ReadAll reads and closes the body of resp.
func ReadAll(tb testing.TB, resp *http.Response) string {
	tb.Helper()
	b, err := io.ReadAll(resp.Body)
	require.NoError(tb, err)
	require.NoError(tb, resp.Body.Close())
	return string(b)
}

// Body counts how often it is closed.
type Body struct {
	io.Reader

	mu     sync.Mutex
	closed int
}

// NewBody returns a Body of the text.
func NewBody(text string) *Body { return &Body{Reader: strings.NewReader(text)} }

// Close counts.
func (b *Body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed++
	return nil
}

// Closes returns how often the body was closed.
func (b *Body) Closes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// Bodies are those of the responses of a base.
type Bodies struct {
	mu  sync.Mutex
	all []*Body
}

// NewBodies returns a Bodies. Each body that is noted has to have been closed once when the
// test ends.
func NewBodies(tb testing.TB) *Bodies {
	tb.Helper()
	b := new(Bodies)
	tb.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for i, body := range b.all {
			require.Equal(tb, 1, body.Closes(), "body %d is closed once", i)
		}
	})
	return b
}

// Note notes the body of a response, if it is a [Body].
func (b *Bodies) Note(resp *http.Response) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if body, ok := resp.Body.(*Body); ok {
		b.all = append(b.all, body)
	}
}
