// Package sdktest_test runs published SDKs over a resilient.Transport and real
// sockets, each set up as described in the README. The checks for all of them are in
// [sdk.check]. There is a file for each SDK, with its calls and its errors.
//
//	go test -race .
//	go test -race -run TestStripe .
package sdktest_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

//go:generate go run github.com/ogen-go/ogen/cmd/ogen@v1.24.0 --config ogen.yaml --target ogenpeople --package ogenpeople --clean ../../examples/sdk/people.yaml

// sdk is a published SDK.
type sdk struct {
	// call makes a call that is answered with ok. The SDK's own retries are off, as
	// described in the README.
	call func(ctx context.Context, at endpoint) result

	// upload sends payload. It is nil for an SDK whose upload would test nothing new.
	upload func(ctx context.Context, at endpoint, payload string) error

	ok     resilienttest.Answer
	stored resilienttest.Answer                  // the answer to an upload, by default 200, {}
	fail   func(status int) resilienttest.Answer // an error of the API, by default the documented object

	post     bool // call is a POST that is not marked as idempotent
	response bool // the caller gets the response of an error, so that it can use ErrorFromResponse
	opaque   bool // the error object is XML, so that only the status is understood

	code string // the code or the type in the error object that fail makes, or ""
}

// endpoint is the server that an SDK calls, and the transport that it uses.
type endpoint struct {
	url       string
	transport http.RoundTripper
}

func (e endpoint) client() *http.Client { return &http.Client{Transport: e.transport} }

// result is the result of a call.
type result struct {
	value  string         // of a success
	err    error          // returned by the SDK
	status int            // in the SDK's own error type, or 0 if it has none
	resp   *http.Response // of an error, if the SDK gives it to the caller
}

// value is the value in the answer sdk.ok, and errorMessage the message of an error.
const (
	value        = "forty-two"
	errorMessage = "told by the server"
)

// attempts is the maximum number of attempts of the Transports in these tests.
const attempts = 3

func (s sdk) failure(status int) resilienttest.Answer {
	if s.fail != nil {
		return s.fail(status)
	}
	return answer(status, `{"code":"c","type":"T","message":"`+errorMessage+`"}`)
}

// answer is resilienttest.Status with a body.
func answer(status int, body string, header ...string) resilienttest.Answer {
	a := resilienttest.Status(status, header...)
	a.Body = body
	return a
}

// start serves answers on the loopback interface, and returns an endpoint with a
// Transport whose backoff is 0.
func start(tb testing.TB, script *resilienttest.Script, opts ...resilient.Option) endpoint {
	tb.Helper()
	srv := httptest.NewServer(script)
	tb.Cleanup(srv.Close)
	base := &http.Transport{}
	tb.Cleanup(base.CloseIdleConnections)
	return endpoint{srv.URL, resilient.NewTransport(base, append(defaults(), opts...)...)}
}

func defaults() []resilient.Option {
	return []resilient.Option{
		resilient.WithMaxAttempts(attempts),
		resilient.WithBackOff(func() backoff.BackOff { return new(backoff.ZeroBackOff) }),
	}
}

// again returns a context whose requests may be sent twice.
func again(ctx context.Context) context.Context {
	return resilient.ContextWithOptions(ctx, resilient.WithRetryNonIdempotent(true))
}

// watch returns a context that records the calls of a Transport for its requests.
func watch(ctx context.Context) (context.Context, *watched) {
	w := new(watched)
	return resilient.ContextWithOptions(ctx, resilient.WithTrace(&resilient.Trace{
		AttemptDone: func(a resilient.AttemptInfo) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.last = a.APIError
		},
		Done: func(d resilient.DoneInfo) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.done = append(w.done, d)
		},
	})), w
}

type watched struct {
	mu   sync.Mutex
	done []resilient.DoneInfo // of each RoundTrip
	last *resilient.APIError
}

// roundTrips returns how often the SDK called the Transport.
func (w *watched) roundTrips() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.done)
}

func (w *watched) apiError() *resilient.APIError {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// statuses lists the expected numbers of attempts for each status, by an idempotent
// call and by a POST.
var statuses = []struct {
	status          int
	idempotent, any int
}{
	{400, 1, 1},
	{404, 1, 1},
	{429, attempts, attempts},
	{500, attempts, 1},
	{503, attempts, 1},
}

// check tests the promises that hold for every SDK.
func (s sdk) check(t *testing.T) {
	t.Helper()
	for _, tt := range statuses {
		hits := tt.idempotent
		if s.post {
			hits = tt.any
		}
		t.Run(http.StatusText(tt.status), func(t *testing.T) {
			t.Run("response", func(t *testing.T) {
				script := resilienttest.New(s.failure(tt.status))
				ctx, seen := watch(t.Context())
				got := s.call(ctx, start(t, script))
				require.Len(t, script.Attempts(), hits, "ours alone: %v", got.err)
				require.Equal(t, 1, seen.roundTrips(), "the SDK does not retry")
				require.Equal(t, tt.status, got.status, "the SDK's own error: %v", got.err)
				s.requireParsed(t, seen.apiError(), tt.status, hits)
				require.Equal(t, s.response, got.resp != nil)
				if s.response {
					apiErr, ok := resilient.ErrorFromResponse(got.resp)
					require.True(t, ok)
					s.requireParsed(t, apiErr, tt.status, hits)
				}
			})
			t.Run("status errors", func(t *testing.T) {
				script := resilienttest.New(s.failure(tt.status))
				ctx, seen := watch(t.Context())
				got := s.call(ctx, start(t, script, resilient.WithStatusErrors(true)))
				require.Len(t, script.Attempts(), hits, "ours alone: %v", got.err)
				require.Equal(t, 1, seen.roundTrips(), "the SDK does not take it for a lost connection")
				apiErr, ok := errors.AsType[*resilient.APIError](got.err)
				require.True(t, ok, "%T: %v", got.err, got.err)
				s.requireParsed(t, apiErr, tt.status, hits)
			})
		})
	}
	t.Run("success at last", func(t *testing.T) {
		script := resilienttest.New(s.failure(429), s.failure(429), s.ok)
		got := s.call(t.Context(), start(t, script))
		require.NoError(t, got.err)
		require.Equal(t, value, got.value)
		require.Len(t, script.Attempts(), 3)
	})
	if s.upload != nil {
		t.Run("upload", s.checkUpload)
	}
}

func (s sdk) requireParsed(t *testing.T, got *resilient.APIError, status, attempts int) {
	t.Helper()
	require.NotNil(t, got)
	require.Equal(t, status, got.StatusCode)
	require.Equal(t, attempts, got.Attempts)
	require.Contains(t, string(got.Body), errorMessage)
	if !s.opaque {
		require.Equal(t, errorMessage, got.Message)
	}
	if s.code != "" {
		require.Contains(t, []string{got.Code, got.Type}, s.code)
	}
}

// checkUpload checks the requests that arrive when a request is sent again.
func (s sdk) checkUpload(t *testing.T) {
	payload := strings.Repeat("a", 10_000) + value // more than a buffer of 4 KiB
	for name, first := range map[string]resilienttest.Answer{
		"rejected": s.failure(429),
		"reset":    {Lost: true},
	} {
		t.Run(name, func(t *testing.T) {
			script := resilienttest.New(first, s.stored)
			at := start(t, script, resilient.WithReplayBuffer(1<<20))
			ctx, seen := watch(t.Context())
			require.NoError(t, s.upload(ctx, at, payload))
			require.Equal(t, 1, seen.roundTrips(), "the SDK does not retry")
			sent := script.Attempts()
			require.Len(t, sent, 2)
			require.Contains(t, string(sent[0].Body), payload)
			require.Equal(t, sent[0].Body, sent[1].Body)
			require.Equal(t, sent[0].Header, sent[1].Header)
		})
	}
}
