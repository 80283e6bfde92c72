package reauth_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/kit"
	"github.com/resilienthttp/resilient/reauth"
	"github.com/resilienthttp/resilient/resilienttest"
)

const ms = time.Millisecond

var errDown = errors.New("the token server is down")

// api is a server that accepts some tokens, of the field Authorization unless field says
// otherwise. It is a base.
type api struct {
	tb      testing.TB
	field   string
	latency time.Duration
	also    func(*http.Request) *http.Response // answers instead, unless it is nil

	mu       sync.Mutex
	accepted []string
	sent     []string // the tokens that came
	bodies   *kit.Bodies
}

func newAPI(tb testing.TB, accepted ...string) *api {
	tb.Helper()
	return &api{tb: tb, accepted: accepted, bodies: kit.NewBodies(tb)}
}

func (a *api) accept(tokens ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.accepted = tokens
}

func (a *api) tokens() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.sent)
}

func (a *api) RoundTrip(req *http.Request) (*http.Response, error) {
	kit.Take(req)
	field := a.field
	if field == "" {
		field = "Authorization"
	}
	token := req.Header.Get(field)
	a.mu.Lock()
	a.sent = append(a.sent, token)
	ok := slices.Contains(a.accepted, token)
	a.mu.Unlock()
	if a.latency > 0 {
		time.Sleep(a.latency)
	}
	status := http.StatusOK
	if !ok {
		status = http.StatusUnauthorized
	}
	resp := answer(status)
	if a.also != nil {
		if other := a.also(req); other != nil {
			resp = other
		}
	}
	resp.Request = req
	a.bodies.Note(resp)
	return resp, nil
}

// answer is a response with a body that says its status.
func answer(status int, header ...string) *http.Response {
	return kit.Response(status, `{"message":"`+strconv.Itoa(status)+`"}`, header...)
}

// refresher gives out tokens in turn, the last one for ever.
type refresher struct {
	tokens []string
	err    error // in their place
	takes  time.Duration

	mu    sync.Mutex
	stale []string // the tokens that were to be replaced
}

func refreshes(tokens ...string) *refresher { return &refresher{tokens: tokens} }

func (r *refresher) refresh(ctx context.Context, stale *http.Request) (http.Header, error) {
	r.mu.Lock()
	r.stale = append(r.stale, stale.Header.Get("Authorization"))
	n := len(r.stale)
	r.mu.Unlock()
	if r.takes > 0 {
		timer := time.NewTimer(r.takes)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	return http.Header{"Authorization": {r.tokens[min(n, len(r.tokens))-1]}}, nil
}

func (r *refresher) asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.stale)
}

type roundTripper = kit.RoundTripper

// over returns a Transport over the usual one, which makes no attempt wait without a hint.
func over(base http.RoundTripper, r *refresher, opts ...resilient.Option) *reauth.Transport {
	opts = append([]resilient.Option{resilient.WithBackOff(resilienttest.NoJitter)}, opts...)
	return reauth.New(resilient.NewTransport(base, opts...), r.refresh)
}

func newRequest(tb testing.TB, method, token, body string) *http.Request {
	tb.Helper()
	req := kit.Request(tb, method, "http://api.test/v1", body)
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	return req
}

func get(tb testing.TB, token string) *http.Request {
	tb.Helper()
	return newRequest(tb, http.MethodGet, token, "")
}

// status sends a request and returns the status of the response, whose body is read to
// its end.
func status(tb testing.TB, transport http.RoundTripper, req *http.Request) int {
	tb.Helper()
	code, _ := outcome(tb, transport, req)
	return code
}

// outcome is status with the parsed error.
func outcome(tb testing.TB, transport http.RoundTripper, req *http.Request) (int, error) {
	tb.Helper()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		require.Nil(tb, resp)
		return 0, err
	}
	require.Same(tb, req, resp.Request)
	defer resp.Body.Close()
	apiErr, failed := resilient.ErrorFromResponse(resp)
	body, err := io.ReadAll(resp.Body)
	require.NoError(tb, err)
	require.Contains(tb, string(body), strconv.Itoa(resp.StatusCode), "the body is whole")
	if failed {
		return resp.StatusCode, apiErr
	}
	return resp.StatusCode, nil
}
