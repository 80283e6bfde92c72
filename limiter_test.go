package resilient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
)

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(200))
		var r recorder
		transport := resilient.NewTransport(base, resilient.WithRateLimit(10, 3), resilient.WithTrace(r.trace()))
		start := time.Now()
		callers(t, transport, 6)
		require.Equal(t, []time.Duration{0, 0, 0, 100 * ms, 200 * ms, 300 * ms}, since(base, start))
		require.Len(t, r.waits, 3)
		for i, w := range r.waits {
			require.Equal(t, "rate limit", w.Reason)
			require.InDelta(t, time.Duration(i+1)*100*ms, w.Duration, float64(ms))
		}
	})
}

func TestAWaitAsLongAsMaxWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(200))
		start := time.Now()
		transport := resilient.NewTransport(base, resilient.WithRateLimit(1, 1), resilient.WithMaxWait(time.Second))
		for range 3 {
			callers(t, transport, 1)
		}
		require.Equal(t, []time.Duration{0, time.Second, 2 * time.Second}, since(base, start))
	})
}

func TestRateLimitAppliesToRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(500))
		start := time.Now()
		resp, err := resilient.NewTransport(base, every(0), resilient.WithRateLimit(1, 1)).RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, []time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second}, since(base, start))
	})
}

// TestWaitersAreServedInOrder: waiters are served in the order of their
// arrival.
func TestWaitersAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var order []string
		base := step(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			order = append(order, req.URL.Path)
			mu.Unlock()
			return answer(200)(req)
		})
		transport := resilient.NewTransport(base, resilient.WithRateLimit(1, 1))
		var want []string
		var wg sync.WaitGroup
		for i := range 20 {
			path := fmt.Sprint("/", i)
			want = append(want, path)
			wg.Go(func() {
				resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://api.test"+path, ""))
				if err == nil {
					_ = resp.Body.Close()
				}
			})
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		require.Equal(t, want, order)
	})
}

// failsFirst answers the first request with status and the others with 200, and
// notes the paths in the order in which they come.
func failsFirst(status int, order *[]string) step {
	var mu sync.Mutex
	return func(req *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		if *order = append(*order, req.URL.Path); len(*order) == 1 {
			return answer(status)(req)
		}
		return answer(200)(req)
	}
}

func TestFirstAttemptsGoBeforeRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		transport := resilient.NewTransport(failsFirst(500, &order), every(100*ms), resilient.WithRateLimit(1, 1))
		var wg sync.WaitGroup
		for i, path := range []string{"/retried", "/a", "/b"} {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 200 * ms) // the retry is in the queue first
				resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://api.test"+path, ""))
				if err == nil {
					_ = resp.Body.Close()
				}
			})
		}
		wg.Wait()
		require.Equal(t, []string{"/retried", "/a", "/b", "/retried"}, order)
	})
}

// In a backlog there is always a first attempt in the queue. A retry of a 502 stood
// behind all of them until WithMaxWait was over.
func TestARetryGetsItsTurnInABacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		var r recorder
		transport := resilient.NewTransport(failsFirst(502, &order), every(time.Second), resilient.WithRateLimit(10, 1))
		stop := time.Now().Add(5 * time.Second)
		var wg sync.WaitGroup
		wg.Go(func() {
			req := newRequest(t, http.MethodGet, "http://api.test/retried", "")
			ctx := resilient.ContextWithOptions(t.Context(), resilient.WithTrace(r.trace()))
			resp, err := transport.RoundTrip(req.WithContext(ctx))
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
		})
		for i := range 20 {
			wg.Go(func() {
				time.Sleep(time.Duration(i+1) * time.Microsecond)
				for time.Now().Before(stop) {
					callers(t, transport, 1)
				}
			})
		}
		wg.Wait()
		require.InDelta(t, 18, slices.Index(order[1:], "/retried"), 1, "10 went in the second it backed off, and 8 before it")
		require.Equal(t, "rate limit", r.waits[1].Reason)
		require.InDelta(t, 900*ms, r.waits[1].Duration, float64(100*ms), "and that was foreseen")
	})
}

// TestWaitersWhoGiveUpLeaveNoTrace: an attempt that is not made costs nothing,
// and takes nobody's turn.
func TestWaitersWhoGiveUpLeaveNoTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(200))
		transport := resilient.NewTransport(base, resilient.WithRateLimit(1, 1), resilient.WithMaxWait(time.Hour))
		start := time.Now()
		callers(t, transport, 1)
		ctx, cancel := context.WithCancelCause(t.Context())
		gone, req := errors.New("gone"), get(t).WithContext(ctx)
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				_, err := transport.RoundTrip(req)
				if err != gone { //nolint:errorlint // the cause itself: nothing was sent
					t.Error(err)
				}
			})
		}
		time.Sleep(10 * ms)
		cancel(gone)
		wg.Wait()
		callers(t, transport, 2)
		require.Equal(t, []time.Duration{0, time.Second, 2 * time.Second}, since(base, start), "as if they had never been")

		ended, end := context.WithCancel(t.Context())
		end()
		time.Sleep(time.Minute)
		start = time.Now()
		_, err := transport.RoundTrip(get(t).WithContext(ended))
		require.ErrorIs(t, err, context.Canceled)
		callers(t, transport, 1)
		require.Zero(t, time.Since(start).Truncate(ms), "one who comes with an ended context takes no token")
	})
}

// TestManyWaitersGiveUpAtOnce: 40,000 of them took seconds, each of them looking
// for its place among the others.
func TestManyWaitersGiveUpAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(200))
		transport := resilient.NewTransport(base, resilient.WithRateLimit(0.001, 1), resilient.WithMaxWait(1<<62))
		ctx, cancel := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		for range 40_000 {
			waiting.Go(func() {
				if resp, err := transport.RoundTrip(get(t).WithContext(ctx)); err == nil {
					_ = resp.Body.Close()
				}
			})
		}
		synctest.Wait()
		require.Equal(t, 39_999, transport.Snapshot().Keys[0].Waiting)
		cancel()
		waiting.Wait()
		require.Zero(t, transport.Snapshot().Keys[0].Waiting)
		require.Equal(t, 1, base.Count())
	})
}

// TestAPanickingWaitHookLeavesTheQueue: a panic of a hook leaves no place in the
// queue behind.
func TestAPanickingWaitHookLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(200))
		transport := resilient.NewTransport(base, resilient.WithRateLimit(1, 1))
		start := time.Now()
		callers(t, transport, 1)
		hook := resilient.WithTrace(&resilient.Trace{Wait: func(resilient.WaitInfo) { panic("hook") }})
		require.PanicsWithValue(t, "hook", func() {
			_, _ = transport.RoundTrip(get(t).WithContext(resilient.ContextWithOptions(t.Context(), hook)))
		})
		callers(t, transport, 1)
		require.Equal(t, []time.Duration{0, time.Second}, since(base, start))
	})
}

// TestLimitError: a limit that would take too long refuses at once. Its error
// is not DeadlineExceeded, because no deadline has passed.
func TestLimitError(t *testing.T) {
	for _, tt := range []struct {
		name     string
		opts     []resilient.Option
		deadline time.Duration
	}{
		{"over the deadline", nil, time.Second},
		{"never wait", []resilient.Option{resilient.WithMaxWait(0)}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answer(200))
				var r recorder
				transport := resilient.NewTransport(base, append(tt.opts, resilient.WithRateLimit(0.5, 1))...)
				callers(t, transport, 1)
				ctx := resilient.ContextWithOptions(t.Context(), resilient.WithTrace(r.trace()))
				if tt.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.deadline)
					defer cancel()
				}
				start := time.Now()
				_, err := transport.RoundTrip(get(t).WithContext(ctx))
				var limited *resilient.LimitError
				require.ErrorAs(t, err, &limited)
				require.InDelta(t, 2*time.Second, limited.Wait, float64(ms))
				require.Equal(t, "rate limit", limited.Reason)
				require.NotErrorIs(t, err, context.DeadlineExceeded, "would is not did")
				require.ErrorIs(t, err, resilient.ErrRateLimit, "whoever knows of it")
				require.Contains(t, err.Error(), limited.Bound, "it says what bounds the wait")
				require.NotImplements(t, (*interface{ Timeout() bool })(nil), err)
				require.Contains(t, err.Error(), "client-side rate limit")
				require.Zero(t, time.Since(start), "at once")
				require.Equal(t, 1, base.Count(), "nothing was sent")
				require.Equal(t, "limited", r.why(t))
				require.Zero(t, r.done[0].Attempts)
				require.Empty(t, r.waits)
			})
		})
	}
}

func TestRetryThatTheLimitWouldHoldTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(500))
		for _, tt := range []struct {
			why      string
			longest  time.Duration
			deadline time.Duration
		}{
			{"max wait", 9500 * ms, time.Hour},
			{"deadline", time.Minute, 9 * time.Second},
		} {
			var r recorder
			transport := resilient.NewTransport(base, every(0), resilient.WithRateLimit(0.1, 1), resilient.WithMaxWait(tt.longest), resilient.WithTrace(r.trace()))
			ctx, cancel := context.WithTimeout(t.Context(), tt.deadline)
			resp, err := transport.RoundTrip(get(t).WithContext(ctx))
			require.NoError(t, err, "the response now, rather than an error later")
			require.Equal(t, 500, resp.StatusCode)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, tt.why, r.why(t))
			cancel()
		}
	})
}

// TestHintAndLimitAreWaitedForTogether: the next token comes in 70 s, which is
// longer than the limiter may hold anybody, but 50 s of that are the server's.
func TestHintAndLimitAreWaitedForTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(500, "Retry-After", "50"), answer(200))
		start := time.Now()
		callers(t, resilient.NewTransport(base, every(0), resilient.WithRateLimit(rate.Limit(1.0/70), 1)), 1)
		require.Equal(t, []time.Duration{0, 70 * time.Second}, since(base, start))
	})
}

func TestRetriesQueueBehindRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(500), answer(500), answer(200))
		var r recorder
		transport := resilient.NewTransport(base, every(10*ms), resilient.WithRateLimit(1, 2), resilient.WithTrace(r.trace()))
		callers(t, transport, 2)
		require.Len(t, r.waits, 4)
		require.Equal(t, "rate limit", r.waits[2].Reason)
		require.InDelta(t, 990*ms, r.waits[2].Duration, float64(ms))
		require.InDelta(t, 1990*ms, r.waits[3].Duration, float64(ms), "one retry is ahead")
	})
}

// TestTheUsersLimitIsBoundedByTheContext: of 2,000 calls at once behind a limit of ten a
// second, WithMaxWait failed 1,390, the first of them at once. Only a context bounds
// x/time/rate's own Wait.
func TestTheUsersLimitIsBoundedByTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, start := newScript(answer(200)), time.Now()
		callers(t, resilient.NewTransport(base, resilient.WithRateLimit(10, 1)), 2000)
		require.Equal(t, 2000, base.Count())
		require.Equal(t, 199900*ms, time.Since(start).Truncate(ms))
	})
}

// TestTinyRates: the wait overflowed, and callers queued for nothing.
func TestTinyRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := resilient.NewTransport(newScript(answer(500)), every(0), resilient.WithRateLimit(1e-10, 1))
		start := time.Now()
		callers(t, transport, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := transport.RoundTrip(get(t).WithContext(ctx))
		var limited *resilient.LimitError
		require.ErrorAs(t, err, &limited)
		require.Equal(t, year, limited.Wait)
		require.Zero(t, time.Since(start).Truncate(ms))
	})
}

// TestASlowKeyDelaysNobodyElse: a slow key delays no other.
func TestASlowKeyDelaysNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := resilient.NewTransport(newScript(answer(200)), resilient.WithRateLimit(0.1, 1))
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { callers(t, transport, 5) })
		time.Sleep(time.Second)
		resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://other.test/", ""))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, time.Second, time.Since(start))
		wg.Wait()
	})
}

// TestLimiterOption: a limiter is asked before each attempt. A wait that would
// be too long is refused at once, and its error is not DeadlineExceeded.
func TestLimiterOption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(500), answer(200))
		var r recorder
		transport := resilient.NewTransport(base, every(0), resilient.WithLimiter(rate.NewLimiter(1, 1)), resilient.WithTrace(r.trace()))
		start := time.Now()
		callers(t, transport, 1)
		require.Equal(t, []time.Duration{0, time.Second}, since(base, start), "retries take tokens too")
		require.Equal(t, "limiter", r.waits[0].Reason)
		require.Equal(t, time.Second, r.waits[0].Duration)

		// x/time/rate refuses with an error that has no type.
		for _, tt := range []struct {
			name     string
			deadline time.Duration
			longest  time.Duration
		}{
			{"deadline", time.Millisecond, time.Minute},
			{"max wait", time.Hour, time.Millisecond},
		} {
			ctx := resilient.ContextWithOptions(t.Context(), resilient.WithMaxWait(tt.longest))
			ctx, cancel := context.WithTimeout(ctx, tt.deadline)
			now := time.Now()
			_, err := transport.RoundTrip(get(t).WithContext(ctx))
			var limited *resilient.LimitError
			require.ErrorAs(t, err, &limited, tt.name)
			require.Equal(t, "limiter", limited.Reason)
			require.ErrorContains(t, err, "would exceed context deadline")
			require.NotErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, now, time.Now(), "at once")
			cancel()
		}
	})
}

func TestLimiterOfAnyKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("redis is gone")
		_, err := resilient.NewTransport(newScript(answer(200)),
			resilient.WithLimiter(limiterFunc(func(context.Context) error { return broken }))).RoundTrip(get(t))
		require.ErrorIs(t, err, broken)
		require.NotContains(t, err.Error(), "wait:", "which nobody knows")

		stuck := resilient.WithLimiter(limiterFunc(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))
		start := time.Now()
		_, err = resilient.NewTransport(newScript(answer(200)), stuck).RoundTrip(get(t))
		var limited *resilient.LimitError
		require.ErrorAs(t, err, &limited)
		require.Equal(t, time.Minute, time.Since(start), "WithMaxWait holds for it too")
		require.NotErrorIs(t, err, context.DeadlineExceeded, "the caller's deadline has not passed")

		cause := errors.New("shutting down")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		_, err = resilient.NewTransport(newScript(answer(200)), stuck).RoundTrip(get(t).WithContext(ctx))
		require.Equal(t, cause, err)
	})
}

func TestReportWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		announces := limiterFunc(func(ctx context.Context) error {
			for range 2 {
				resilient.ReportWait(ctx, time.Second)
				require.NotEmpty(t, r.waits, "before the wait")
				time.Sleep(time.Second)
			}
			resilient.ReportWait(ctx, 0)
			return nil
		})
		transport := resilient.NewTransport(newScript(answer(200)), resilient.WithLimiter(announces), resilient.WithTrace(r.trace()))
		callers(t, transport, 1)
		require.Len(t, r.waits, 2, "those announced, and none for what they were in all")
		for _, w := range r.waits {
			require.Equal(t, resilient.WaitInfo{Request: w.Request, Path: w.Request.URL.Path, Attempt: 1, Reason: "limiter", Duration: time.Second}, w)
		}
		require.Equal(t, map[string]resilient.WaitTotal{"limiter": {1, 2 * time.Second}}, transport.Snapshot().Totals.Waits)
		resilient.ReportWait(t.Context(), time.Second) // of no attempt: nothing happens
	})
}

func TestLimiterFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		accounts := map[string]resilient.Limiter{"/a": rate.NewLimiter(1, 1), "/b": rate.NewLimiter(1, 1), "/none": nil}
		base := newScript(answer(200))
		transport := resilient.NewTransport(base, resilient.WithLimiterFor(func(req *http.Request) resilient.Limiter {
			return accounts[req.URL.Path]
		}))
		start := time.Now()
		for _, path := range []string{"/a", "/b", "/none", "/none", "/a"} {
			resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://api.test"+path, ""))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		require.Equal(t, []time.Duration{0, 0, 0, 0, time.Second}, since(base, start))
	})
}

// learner is a Limiter that learns.
type learner struct {
	limiterFunc
	observed []resilient.AttemptInfo
}

func (l *learner) Observe(a resilient.AttemptInfo) { l.observed = append(l.observed, a) }

func TestLimiterThatLearns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &learner{limiterFunc: func(context.Context) error { return nil }}
		slow := func(next step) step {
			return func(req *http.Request) (*http.Response, error) {
				time.Sleep(10 * time.Millisecond)
				return next(req)
			}
		}
		base := newScript(slow(answer(429)), slow(answer(429)), slow(answer(200)), slow(answer(200)))
		transport := resilient.NewTransport(base, every(0), resilient.WithLimiter(l))
		callers(t, transport, 1)
		var got []string
		for _, a := range l.observed {
			require.Equal(t, 10*time.Millisecond, a.Duration, "when it was sent can be told")
			got = append(got, fmt.Sprint(a.Attempt, " ", a.StatusCode, " ", a.Verdict.Reason))
		}
		require.Equal(t, []string{"1 429 rate limited", "2 429 rate limited", "3 200 success"}, got)
		require.Empty(t, transport.Snapshot().Keys, "it is left to the limiter: no pace on top of its own")

		callers(t, transport, 1)
		require.Len(t, l.observed, 4, "a success at once is observed too")
	})
}

// TestLimiterIsAskedOnceForEachAttempt: a limiter is asked before each attempt,
// and once.
func TestLimiterIsAskedOnceForEachAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(500), answer(429), fails(io.EOF), answer(200))
		asked := 0
		counting := limiterFunc(func(context.Context) error {
			require.Equal(t, asked, base.Count(), "before the attempt")
			asked++
			return nil
		})
		callers(t, resilient.NewTransport(base, resilient.WithLimiter(counting)), 1)
		require.Equal(t, 4, asked)
	})
}

func TestPauseThatBeginsInTheLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(429, "Retry-After", "30"), answer(200))
		slow := limiterFunc(func(context.Context) error { time.Sleep(5 * time.Second); return nil })
		transport := resilient.NewTransport(base, every(0), resilient.WithLimiter(slow))
		start := time.Now()
		callers(t, transport, 1+1)
		at := since(base, start)
		require.Equal(t, 5*time.Second, at[0])
		for _, d := range at[1:] {
			require.True(t, d == 5*time.Second || d >= 35*time.Second, "%v", at)
		}
	})
}

// TestALimiterThatRefusesCostsNoToken: an attempt that the caller's limiter
// refuses costs no token of the rate limit.
func TestALimiterThatRefusesCostsNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuse := true
		limiter := limiterFunc(func(context.Context) error {
			if refuse {
				return errors.New("no")
			}
			return nil
		})
		transport := resilient.NewTransport(newScript(answer(200)), resilient.WithRateLimit(1, 1), resilient.WithLimiter(limiter))
		_, err := transport.RoundTrip(get(t))
		require.Error(t, err)
		refuse = false
		start := time.Now()
		callers(t, transport, 1)
		require.Zero(t, time.Since(start).Truncate(ms))
	})
}

// A request that is not needed, such as a hedge, must take nothing from others.
func TestSpare(t *testing.T) {
	for _, tt := range []struct {
		opt   resilient.Option
		steps []step
		calls int
		want  bool
		why   string
	}{
		{nil, []step{answer(200)}, 1, true, "nothing is known against it"},
		{nil, []step{answer(404)}, 1, true, "a final answer says nothing of others"},
		{nil, []step{answer(500), answer(200)}, 1, true, "the retry was answered: an isolated failure"},
		{nil, []step{answer(500), answer(500), answer(200)}, 1, true, "and so was one in the end"},
		{nil, []step{answer(500)}, 1, false, "retries fail"},
		{nil, []step{answer(429, "Retry-After", "120"), answer(429, "Retry-After", "120"), answer(429, "Retry-After", "120")}, 3, false, "the key is paused"},
		{resilient.WithRateLimit(1, 4), []step{answer(200)}, 1, true, "2 of 4 tokens would be left"},
		{resilient.WithRateLimit(1, 4), []step{answer(200)}, 2, false, "1 of 4 tokens would be left"},
		{resilient.WithRateLimit(1, 1), []step{answer(200)}, 1, false, "no token is left"},
		{resilient.WithLimit("tokens", rate.Inf, 0, func(*http.Request) float64 { return 7 }), []step{answer(200)}, 1, true, "no limit is known yet"},
		{resilient.WithMaxInFlight(4), []step{answer(200)}, 1, true, "2 of 4 may be in flight"},
	} {
		synctest.Test(t, func(t *testing.T) {
			transport := resilient.NewTransport(newScript(tt.steps...), every(0), tt.opt)
			require.True(t, transport.Spare(get(t)), "nothing was sent yet")
			for range tt.calls {
				resp, err := transport.RoundTrip(get(t))
				if err == nil {
					require.NoError(t, resp.Body.Close())
				}
			}
			require.Equal(t, tt.want, transport.Spare(get(t)), tt.why)
		})
	}
	require.False(t, resilient.NewTransport(nil).Spare(new(http.Request)), "a malformed request is none")
}

// While more than half of the places are taken, another is not spare.
func TestSpareInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := resilient.NewTransport(newScript(answer(200)), resilient.WithMaxInFlight(4))
		first, err := transport.RoundTrip(get(t))
		require.NoError(t, err)
		require.True(t, transport.Spare(get(t)))
		second, err := transport.RoundTrip(get(t))
		require.NoError(t, err)
		require.False(t, transport.Spare(get(t)), "three of four would be taken")
		require.NoError(t, first.Body.Close())
		require.True(t, transport.Spare(get(t)))
		require.NoError(t, second.Body.Close())
	})
}

// costlyLimiter is a Limiter whose requests have different costs, such as that of module
// redislimit. The limiter of a call notes what it is told.
type costlyLimiter struct {
	limits []string
	told   []string
}

func (*costlyLimiter) Wait(context.Context) error { return errors.New("for no request") }

func (l *costlyLimiter) For(req *http.Request) resilient.Limiter {
	return &costlyCall{l, req.Header.Get("Tokens")}
}

type costlyCall struct {
	*costlyLimiter

	cost string
}

func (c *costlyCall) Wait(context.Context) error {
	c.told = append(c.told, "take "+c.cost)
	return nil
}

func (c *costlyCall) Names() []string { return slices.Clone(c.limits) }

func (c *costlyCall) Settle(name string, used float64) {
	c.told = append(c.told, fmt.Sprint("settle ", name, " ", used))
}

func (c *costlyCall) GiveBack() { c.told = append(c.told, "give back") }

// TestLimiterOfRequests: a Limiter of the caller's may take what a request costs. Settle
// is for it, and for a limit of the Transport's that has the same name.
func TestLimiterOfRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &costlyLimiter{limits: []string{"tokens", "words"}}
		transport := resilient.NewTransport(newScript(answer(200)), resilient.WithLimiter(l),
			resilient.WithLimit("tokens", 1e-9, 100, tokens), resilient.WithLimit("bytes", 1e-9, 100, tokens))
		ctx := resilient.ContextWithOptions(t.Context())
		resp, err := transport.RoundTrip(costing(t, "40").WithContext(ctx))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		for i, name := range []string{"words", "tokens", "bytes", "tokens", "words"} {
			resilient.Settle(ctx, name, float64(10*(i-1)))
		}
		require.Equal(t, []string{"take 40", "settle words 0", "settle tokens 0"}, l.told)
		buckets := transport.Snapshot().Keys[0].Buckets
		require.InDelta(t, 100, buckets[0].Tokens, 1e-3, "tokens")
		require.InDelta(t, 90, buckets[1].Tokens, 1e-3, "bytes")

		l.told = nil
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for range 3 {
			resp, err = transport.RoundTrip(costing(t, "90").WithContext(short))
			if err == nil {
				require.NoError(t, resp.Body.Close())
			}
		}
		require.ErrorIs(t, err, resilient.ErrRateLimit, "the Transport's own limit lets it not go")
		require.Equal(t, []string{"take 90", "take 90", "give back", "take 90", "give back"}, l.told)
	})
}
