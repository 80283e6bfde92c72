package resilient_test

import (
	"context"
	"log/slog"
	"math"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/kit"
	"github.com/resilienthttp/resilient/resilienttest"
)

// step answers a request. It is a base too.
type step func(*http.Request) (*http.Response, error)

func (s step) RoundTrip(req *http.Request) (*http.Response, error) { return s(req) }

// newScript returns a base that answers with its steps in turn, the last one for
// ever, and notes what it was sent and when.
func newScript(steps ...step) *resilienttest.Script {
	return resilienttest.New(answers(steps)...)
}

func answers(steps []step) []resilienttest.Answer {
	all := make([]resilienttest.Answer, len(steps))
	for i, s := range steps {
		all[i].Func = s
	}
	return all
}

// newSteps returns a base that answers with its steps in turn and leaves the body
// to them, which a Script reads.
func newSteps(steps ...step) http.RoundTripper {
	n := 0
	return step(func(req *http.Request) (*http.Response, error) {
		n++
		return steps[n-1](req)
	})
}

// answer is a step: a status, header lines as name, value pairs, and for an
// error status the documented error object.
func answer(status int, header ...string) step {
	body := `{"ok":true}`
	if status >= 400 {
		body = `{"code":"` + http.StatusText(status) + `","type":"T","message":"m"}`
	}
	return answerWith(status, body, header...)
}

func answerWith(status int, body string, header ...string) step {
	a := resilienttest.Status(status, header...)
	a.Body, a.NoBody = body, body == ""
	return a.Response
}

func fails(err error) step { return resilienttest.Answer{Err: err}.Response }

// since returns the times at which requests were sent, to the millisecond.
func since(base *resilienttest.Script, start time.Time) []time.Duration {
	var at []time.Duration
	for _, a := range base.Attempts() {
		at = append(at, a.At.Sub(start).Truncate(time.Millisecond))
	}
	return at
}

// every retries after exactly d.
func every(d time.Duration) resilient.Option {
	return resilient.WithBackOff(func() backoff.BackOff { return backoff.NewConstantBackOff(d) })
}

// unbounded switches the retry budget off.
func unbounded() resilient.Option { return resilient.WithRetryBudget(inf, 0) }

const ms = time.Millisecond

const year = 365 * 24 * time.Hour

var inf, nan = math.Inf(1), math.NaN()

func newRequest(tb testing.TB, method, target, body string) *http.Request {
	tb.Helper()
	return kit.Request(tb, method, target, body)
}

func get(tb testing.TB) *http.Request {
	tb.Helper()
	return kit.Get(tb)
}

func post(tb testing.TB) *http.Request {
	tb.Helper()
	return newRequest(tb, http.MethodPost, "http://api.test/v1", "payload")
}

// stream is a POST whose body cannot be sent again.
func stream(tb testing.TB) *http.Request {
	tb.Helper()
	req := post(tb)
	req.GetBody = nil
	return req
}

func keyed(req *http.Request) *http.Request {
	req.Header.Set("Idempotency-Key", "k")
	return req
}

func readAll(tb testing.TB, resp *http.Response) string {
	tb.Helper()
	return kit.ReadAll(tb, resp)
}

// callers sends n requests at once, a nanosecond apart so that their order is
// known, and returns when all have ended.
func callers(t *testing.T, transport http.RoundTripper, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			resp, err := transport.RoundTrip(get(t))
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
		})
		time.Sleep(time.Nanosecond)
	}
	wg.Wait()
}

func serve(tb testing.TB, handler http.HandlerFunc) *http.Transport {
	tb.Helper()
	return kit.Serve(tb, handler)
}

// recorder is a Trace that notes what happened, in words.
type recorder struct {
	mu       sync.Mutex
	attempts []resilient.AttemptInfo
	waits    []resilient.WaitInfo
	done     []resilient.DoneInfo
	bodies   []resilient.BodyInfo
	starts   int
}

func (r *recorder) trace() *resilient.Trace {
	lock := func(f func()) { r.mu.Lock(); defer r.mu.Unlock(); f() }
	return &resilient.Trace{
		AttemptStart: func(resilient.AttemptInfo) { lock(func() { r.starts++ }) },
		AttemptDone:  func(a resilient.AttemptInfo) { lock(func() { r.attempts = append(r.attempts, a) }) },
		Wait:         func(w resilient.WaitInfo) { lock(func() { r.waits = append(r.waits, w) }) },
		Done:         func(d resilient.DoneInfo) { lock(func() { r.done = append(r.done, d) }) },
		Body:         func(b resilient.BodyInfo) { lock(func() { r.bodies = append(r.bodies, b) }) },
	}
}

func (r *recorder) why(tb testing.TB) string {
	tb.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	require.Len(tb, r.done, 1, "one Done for each call")
	return r.done[0].Reason
}

type trackedBody = kit.Body

// drip gives a byte a minute, for ever, and unblocks when it is closed.
type drip struct {
	done chan struct{}
	once sync.Once
}

func (d *drip) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Minute): //nolint:forbidigo // the test's clock is virtual
		p[0] = 'x'
		return 1, nil
	case <-d.done:
		return 0, net.ErrClosed
	}
}

func (d *drip) Close() error { d.once.Do(func() { close(d.done) }); return nil }

func dripping(status int) (*drip, step) {
	d := &drip{done: make(chan struct{})}
	return d, func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: d, ContentLength: -1}, nil
	}
}

type switching struct{ to http.RoundTripper }

func (s *switching) RoundTrip(req *http.Request) (*http.Response, error) { return s.to.RoundTrip(req) }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

type closerFunc func() error

func (f closerFunc) Close() error { return f() }

type limiterFunc func(context.Context) error

func (f limiterFunc) Wait(ctx context.Context) error { return f(ctx) }

// recordHandler is a slog.Handler that takes every record.
type recordHandler func(slog.Record)

func (recordHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h recordHandler) Handle(_ context.Context, r slog.Record) error { h(r); return nil }

func (h recordHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h recordHandler) WithGroup(string) slog.Handler { return h }
