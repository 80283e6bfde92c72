package resume_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/resume"
)

// text is what the tests download: a hundred bytes, no two decades alike.
const text = "" +
	"a0b1c2d3e4f5g6h7i8j9A0B1C2D3E4F5G6H7I8J9k0l1m2n3o4p5q6r7s8t9" +
	"K0L1M2N3O4P5Q6R7S8T9u0v1w2x3y4z5U0V1W2X3"

var (
	errCut   = errors.New("the connection was cut")
	errOther = errors.New("something else")
)

// answer is a response of the server: of the text, with the ETag "v1".
type answer struct {
	status int // 0: 206
	header []string
	body   string
	length int64 // 0: the length of the body; -1: unknown
	cut    error // the end of the body
	err    error // in place of the response
	edit   func(*http.Response)
}

// whole is the text, of which n bytes arrive.
func whole(n int, header ...string) answer {
	a := answer{status: 200, header: header, body: text[:n], length: int64(len(text))}
	if n < len(text) {
		a.cut = errCut
	}
	return a
}

// part is the range of the text from start to end, of which n bytes arrive.
func part(start, end, n int, header ...string) answer {
	a := answer{body: text[start : start+n], length: int64(end - start)}
	a.header = append([]string{"Content-Range", contentRange(start, end, len(text))}, header...)
	if start+n < end {
		a.cut = errCut
	}
	return a
}

func contentRange(start, end, complete int) string {
	return "bytes " + strconv.Itoa(start) + "-" + strconv.Itoa(end-1) + "/" + strconv.Itoa(complete)
}

// with returns the answer with one header field set, or left out if no value is
// given.
func (a answer) with(name string, values ...string) answer {
	edit := a.edit
	a.edit = func(resp *http.Response) {
		if edit != nil {
			edit(resp)
		}
		delete(resp.Header, name)
		for _, v := range values {
			resp.Header.Add(name, v)
		}
	}
	return a
}

func (a answer) response(req *http.Request) (*http.Response, error) {
	if a.err != nil {
		return nil, a.err
	}
	resp := &http.Response{
		StatusCode: a.status, Header: http.Header{"Etag": {`"v1"`}}, Request: req, ContentLength: a.length,
		Body: &trackedBody{Reader: io.MultiReader(strings.NewReader(a.body), failing{a.cut})},
	}
	if a.status == 0 {
		resp.StatusCode = http.StatusPartialContent
	}
	if a.length == 0 {
		resp.ContentLength = int64(len(a.body))
	}
	for field := range slices.Chunk(a.header, 2) {
		resp.Header.Set(field[0], field[1])
	}
	if a.edit != nil {
		a.edit(resp)
	}
	return resp, nil
}

// server is a base that gives its answers in turn, and fails the test if it is
// asked more often.
type server struct {
	tb      testing.TB
	answers []answer

	mu       sync.Mutex
	requests []*http.Request
	bodies   []*trackedBody
}

func newServer(tb testing.TB, answers ...answer) *server {
	tb.Helper()
	s := &server{tb: tb, answers: answers}
	tb.Cleanup(func() {
		for i, b := range s.bodies {
			require.Equal(tb, 1, b.closed, "body %d is closed once", i)
		}
	})
	return s
}

func (s *server) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, req)
	if len(s.requests) > len(s.answers) {
		s.tb.Errorf("request %d was not expected", len(s.requests))
		return nil, errOther
	}
	for _, b := range s.bodies {
		require.Equal(s.tb, 1, b.closed, "a body is closed before the next request")
	}
	resp, err := s.answers[len(s.requests)-1].response(req)
	if resp != nil {
		if b, ok := resp.Body.(*trackedBody); ok {
			s.bodies = append(s.bodies, b)
		}
	}
	return resp, err
}

// trackedBody counts how often it is closed.
type trackedBody struct {
	io.Reader
	closed int
}

func (b *trackedBody) Close() error { b.closed++; return nil }

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err == nil {
		return 0, io.EOF
	}
	return 0, f.err
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func get(tb testing.TB, header ...string) *http.Request {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, "http://api.test/file", nil)
	require.NoError(tb, err)
	for field := range slices.Chunk(header, 2) {
		req.Header.Set(field[0], field[1])
	}
	return req
}

// resumed reads what base answers, through a Transport.
func resumed(tb testing.TB, base http.RoundTripper, req *http.Request) (string, error) {
	tb.Helper()
	return download(tb, resume.NewTransport(base), req)
}

// download reads what transport answers.
func download(tb testing.TB, transport http.RoundTripper, req *http.Request) (string, error) {
	tb.Helper()
	resp, err := transport.RoundTrip(req)
	require.NoError(tb, err)
	defer resp.Body.Close()
	var got bytes.Buffer
	_, err = io.CopyBuffer(&got, resp.Body, make([]byte, 7))
	var again error
	for again == nil { // a reader may read nothing, without an error
		var n int
		n, again = resp.Body.Read(make([]byte, 7))
		require.Zero(tb, n)
	}
	if err == nil {
		require.Equal(tb, io.EOF, again)
	} else {
		require.Equal(tb, err, again, "the final error stays")
	}
	return got.String(), err
}
