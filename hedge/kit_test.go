package hedge_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/kit"
)

const ms = time.Millisecond

var errCut = errors.New("the connection was cut")

// answer is what comes of a request: a status, or an error in its place. The zero answer
// never comes.
type answer struct {
	after   time.Duration
	status  int
	err     error
	body    io.ReadCloser // nil: the number of the request
	deaf    bool          // the request does not end with its context
	nothing bool          // neither a response nor an error
}

func after(d time.Duration, status int) answer { return answer{after: d, status: status} }

func fails(d time.Duration, err error) answer { return answer{after: d, err: err} }

func never() answer { return answer{} }

// server is a base that gives its answers in turn, the last one for ever.
type server struct {
	answers []answer

	mu       sync.Mutex
	requests []*http.Request
	causes   []error // of the requests whose context ended before their answer
}

func newServer(answers ...answer) *server { return &server{answers: answers} }

// then sets the answers to the requests that follow.
func (s *server) then(answers ...answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers, s.requests, s.causes = answers, nil, nil
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

func (s *server) RoundTrip(req *http.Request) (*http.Response, error) {
	kit.Take(req)
	s.mu.Lock()
	s.requests = append(s.requests, req)
	n := len(s.requests)
	a := s.answers[min(n, len(s.answers))-1]
	s.mu.Unlock()
	if err := a.wait(req.Context()); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.causes = append(s.causes, err)
		return nil, err
	}
	if a.status == 0 {
		return nil, a.err
	}
	body := a.body
	if body == nil {
		body = io.NopCloser(strings.NewReader(strings.Repeat("I", n)))
	}
	return &http.Response{StatusCode: a.status, Header: http.Header{}, Body: body, ContentLength: -1, Request: req}, nil
}

func (a answer) wait(ctx context.Context) error {
	if a.deaf {
		time.Sleep(a.after)
		return nil
	}
	due := make(<-chan time.Time)
	if a.status != 0 || a.err != nil || a.nothing {
		timer := time.NewTimer(a.after)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-due:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

type roundTripper = kit.RoundTripper

// call sends a GET, reads the response and returns what came of it, and how long it took.
func call(tb testing.TB, transport http.RoundTripper) (status int, body string, took time.Duration, err error) {
	tb.Helper()
	start := time.Now()
	resp, err := transport.RoundTrip(kit.Get(tb))
	took = time.Since(start)
	if err != nil {
		require.Nil(tb, resp)
		return 0, "", took, err
	}
	return resp.StatusCode, kit.ReadAll(tb, resp), took, nil
}

// calls makes n calls one after the other.
func calls(tb testing.TB, transport http.RoundTripper, n int) {
	tb.Helper()
	for range n {
		_, _, _, _ = call(tb, transport)
	}
}
