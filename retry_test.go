package resilient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

// TestAttempts: WithMaxAttempts is exact, and the last response is whole.
func TestAttempts(t *testing.T) {
	for n := 1; n <= 5; n++ {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r recorder
				base := newScript(answer(500))
				resp, err := resilient.NewTransport(base, resilient.WithMaxAttempts(n), resilient.WithTrace(r.trace())).RoundTrip(get(t))
				require.NoError(t, err, "exhaustion does not lose the response")
				require.Equal(t, n, base.Count())
				require.Equal(t, "out of attempts", r.why(t))
				require.Contains(t, readAll(t, resp), `"message":"m"`, "the last body is whole")
			})
		})
	}
}

// TestBackOffIntervals: a policy without jitter is exact, and there is one for
// each call that is retried.
func TestBackOffIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := 0
		policy := resilient.WithBackOff(func() backoff.BackOff {
			made++
			// Not Reset by whoever made it: its intervals would all be 0.
			return &backoff.ExponentialBackOff{
				InitialInterval: time.Second, Multiplier: 3, MaxInterval: 5 * time.Second,
				Stop: backoff.Stop, Clock: backoff.SystemClock,
			}
		})
		base := newScript(answer(500))
		transport := resilient.NewTransport(base, policy, resilient.WithMaxAttempts(5), unbounded())
		resp, err := transport.RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, []time.Duration{1 * time.Second, 3 * time.Second, 5 * time.Second, 5 * time.Second}, base.Gaps())
		require.Equal(t, 1, made, "one policy for each request that is retried: they keep state")

		base.Reset(resilienttest.Status(200))
		resp, err = transport.RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 1, made, "none for a request that is not")
	})
}

// TestBackOffMaxIntervalIncludesJitter: jitter stays within its bounds, and a
// wait below the maximum, at the hundredth attempt too. backoff/v4 applies its
// jitter after MaxInterval: 1 s became 1.498 s.
func TestBackOffMaxIntervalIncludesJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := resilient.WithBackOff(func() backoff.BackOff {
			return backoff.NewExponentialBackOff(backoff.WithInitialInterval(time.Second), backoff.WithMaxInterval(time.Second))
		})
		base := newScript(answer(500))
		resp, err := resilient.NewTransport(base, policy, resilient.WithMaxAttempts(100), unbounded()).RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		distinct := map[time.Duration]bool{}
		for _, gap := range base.Gaps() {
			require.LessOrEqual(t, gap, time.Second)
			require.GreaterOrEqual(t, gap, time.Second/2)
			distinct[gap] = true
		}
		require.Greater(t, len(distinct), 90, "and there is jitter at the cap too: no herd")
	})
}

// TestBackOffMaxIntervalBeforeInitial: an isolated failure came back after the smallest
// interval of the initial one, 5 s, though no wait may be above 1 s.
func TestBackOffMaxIntervalBeforeInitial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := resilient.WithBackOff(func() backoff.BackOff {
			return backoff.NewExponentialBackOff(backoff.WithInitialInterval(10*time.Second), backoff.WithMaxInterval(time.Second))
		})
		base := newScript(answer(500))
		resp, err := resilient.NewTransport(base, policy).RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Len(t, base.Gaps(), 3)
		for i, gap := range base.Gaps() {
			require.LessOrEqual(t, gap, time.Second, "retry %d", i+1)
			require.GreaterOrEqual(t, gap, time.Second/2, "retry %d", i+1)
		}
	})
}

// TestDefaultBackOff: the wait after a 429 without a hint is within the jitter
// of the default policy, and never zero.
func TestDefaultBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 50 {
			base := newScript(answer(429))
			resp, err := resilient.NewTransport(base).RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			for i, gap := range base.Gaps() {
				mean := 500 * time.Millisecond << i
				require.InDelta(t, mean, gap, float64(mean)/2+1, "never zero after a 429")
			}
		}
	})
}

// TestIsolatedFailureIsRetriedSoon: nobody else fails, so there is no herd to
// spread out.
func TestIsolatedFailureIsRetriedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 50 {
			base := newScript(answer(500), answer(200))
			resp, err := resilient.NewTransport(base).RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.InDelta(t, 262500*time.Microsecond, base.Gaps()[0], float64(12500*time.Microsecond))
		}

		longest := time.Duration(0)
		for range 50 {
			base := newScript(answer(500), answer(500), answer(500), answer(200))
			transport := resilient.NewTransport(base, resilient.WithMaxAttempts(2))
			for range 2 {
				resp, err := transport.RoundTrip(get(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
			}
			require.Equal(t, 4, base.Count())
			longest = max(longest, base.Gaps()[2])
		}
		require.Greater(t, longest, 275*ms, "once a retry has failed, the intervals are what the policy says")
	})
}

// TestRefusalByChanceIsRetriedAtOnce: one of four backends refuses everything. The retry of
// such a refusal waited for 500 ms and then 1 s, so 32 callers got two thirds of what they
// get with a loop that begins at 250 ms. It is as likely to be accepted whenever it goes.
func TestRefusalByChanceIsRetriedAtOnce(t *testing.T) {
	for _, status := range []int{429, 503} {
		synctest.Test(t, func(t *testing.T) {
			var n atomic.Int32
			backends := step(func(req *http.Request) (*http.Response, error) {
				time.Sleep(10 * ms)
				if n.Add(1)%4 == 0 {
					return answer(status)(req)
				}
				return answer(200)(req)
			})
			base := http.RoundTripper(backends)
			transport := resilient.NewTransport(step(func(req *http.Request) (*http.Response, error) { return base.RoundTrip(req) }))
			call := func() {
				resp, err := transport.RoundTrip(get(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
			}
			busy := func(calls int) {
				base = backends
				var all sync.WaitGroup
				for range 32 {
					all.Go(func() {
						for range calls {
							call()
						}
					})
				}
				all.Wait()
			}
			busy(50)
			limits := transport.Snapshot().Keys[0].Limits
			require.Len(t, limits, 1)
			require.NotZero(t, limits[0].Chance, "a trial has found it")

			gaps := func(steps ...step) []time.Duration {
				script := newScript(steps...)
				base = script
				call()
				return script.Gaps()
			}
			refuses := answer(status)
			var sum time.Duration
			const calls = 20
			for range calls {
				waits := gaps(refuses, refuses, refuses, answer(200))
				require.Len(t, waits, 3)
				require.Less(t, max(waits[0], waits[1]), 250*ms, "any part of the smallest interval")
				require.GreaterOrEqual(t, waits[2], time.Second, "the last one, in case that all are refused now")
				sum += waits[0] + waits[1]
				busy(10)
			}
			require.InDelta(t, 125*ms, sum/(2*calls), float64(50*ms), "in the mean")
			require.GreaterOrEqual(t, gaps(answer(500), answer(200))[0], 250*ms, "of a 500 nothing is known")
			require.GreaterOrEqual(t, gaps(answer(status, "Retry-After", "2"), answer(200))[0], 2*time.Second, "the server has said when")
		})
	}
}

func TestBackOffStops(t *testing.T) {
	for _, tt := range []struct {
		name   string
		policy resilient.Option
	}{
		{"stop", resilient.WithBackOff(func() *backoff.StopBackOff { return &backoff.StopBackOff{} })},
		{"no policy", resilient.WithBackOff(func() backoff.BackOff { return nil })},
		{"no policy of a type", resilient.WithBackOff(func() *backoff.ExponentialBackOff { return nil })},
		{"max retries", resilient.WithBackOff(func() backoff.BackOff { return backoff.WithMaxRetries(&backoff.ZeroBackOff{}, 0) })},
		{"negative", resilient.WithBackOff(func() fixed { return fixed{-2} })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r recorder
			base := newScript(answer(429, "Retry-After", "1"))
			resp, err := resilient.NewTransport(base, tt.policy, resilient.WithTrace(r.trace())).RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, 1, base.Count(), "Stop is -1 and must not reach a timer")
			require.Equal(t, "backoff stopped", r.why(t))
		})
	}
}

// fixed is a policy of the caller's own, which has no other method.
type fixed struct{ interval time.Duration }

func (f fixed) NextBackOff() time.Duration { return f.interval }

// TestBackOffOfAnyType: no version of cenkalti/backoff is needed. A policy that can be
// reset is, once, before it is asked.
func TestBackOffOfAnyType(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, policy := range []resilient.Option{
			resilient.WithBackOff(func() fixed { return fixed{7 * time.Second} }),
			resilient.WithBackOff(func() *fixed { return &fixed{7 * time.Second} }),
			resilient.WithBackOff(func() *resets { return &resets{intervals: []time.Duration{time.Hour, 7 * time.Second}} }),
		} {
			base := newScript(answer(500), answer(200))
			resp, err := resilient.NewTransport(base, policy).RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, []time.Duration{7 * time.Second}, base.Gaps())
		}
	})
}

// resets is a policy whose intervals begin anew when it is reset.
type resets struct{ intervals []time.Duration }

func (r *resets) Reset() { r.intervals = r.intervals[1:] }

func (r *resets) NextBackOff() time.Duration { return r.intervals[0] }

// TestHintIsAFloor: a hint holds on a 500 as on a 429. A wait is never shorter
// than the hint, and never longer than WithMaxWait.
func TestHintIsAFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			policy, least, most time.Duration
			why                 string
		}{
			{0, 7 * time.Second, 7 * time.Second, "nothing to add"},
			{2 * time.Second, 7 * time.Second, 9 * time.Second, "jitter only adds"},
			{100 * time.Second, 7 * time.Second, time.Minute, "up to WithMaxWait"},
		} {
			for range 20 {
				base := newScript(answer(500, "Retry-After", "7"), answer(200))
				resp, err := resilient.NewTransport(base, every(tt.policy)).RoundTrip(get(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.GreaterOrEqual(t, base.Gaps()[0], tt.least, tt.why)
				require.LessOrEqual(t, base.Gaps()[0], tt.most, tt.why)
			}
		}
	})
}

// TestHugeHintDoesNotOverflow: the jitter was added to a hint of 292 years,
// which made the wait negative and the retry immediate.
func TestHugeHintDoesNotOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		forever := resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
			a.Verdict.RetryAfter = math.MaxInt64
			return a.Verdict
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		base := newScript(answer(429))
		resp, err := resilient.NewTransport(base, every(time.Second), forever, resilient.WithMaxWait(math.MaxInt64)).RoundTrip(get(t).WithContext(ctx))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 1, base.Count())
	})
}

// TestWaitsThatCannotSucceedAreNotBegun: a wait that outlasts the deadline or
// WithMaxWait is not begun, and the caller gets the response with its hint at
// once.
func TestWaitsThatCannotSucceedAreNotBegun(t *testing.T) {
	for _, tt := range []struct {
		name, hint string
		deadline   time.Duration
		opts       []resilient.Option
		attempts   int
		took       time.Duration
		why        string
	}{
		{name: "hint over the default", hint: "3600", attempts: 1, why: "max wait"},
		{name: "hint over WithMaxWait", hint: "31", opts: []resilient.Option{resilient.WithMaxWait(30 * time.Second)}, attempts: 1, why: "max wait"},
		{name: "hint just fits", hint: "30", opts: []resilient.Option{resilient.WithMaxWait(30 * time.Second)}, attempts: 4, took: 90 * time.Second, why: "out of attempts"},
		{name: "hint that overflows", hint: "9223372037", attempts: 1, why: "max wait"},
		{name: "hint over the deadline", hint: "10", deadline: 10 * time.Second, attempts: 1, why: "deadline"},
		{name: "jitter gives way to the deadline", hint: "10", deadline: 11 * time.Second, opts: []resilient.Option{every(time.Hour)}, attempts: 2, took: 10 * time.Second, why: "deadline"},
		{name: "backoff over the deadline", deadline: time.Second, opts: []resilient.Option{every(2 * time.Second)}, attempts: 1, why: "deadline"},
		{name: "backoff is shortened", opts: []resilient.Option{every(time.Hour), resilient.WithMaxWait(time.Second)}, attempts: 4, took: 3 * time.Second, why: "out of attempts"},
		{name: "never wait", opts: []resilient.Option{every(1), resilient.WithMaxWait(0)}, attempts: 1, why: "max wait"},
		{name: "never wait, and nothing to wait for", opts: []resilient.Option{resilient.WithMaxWait(0)}, attempts: 4, why: "out of attempts"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r recorder
				header := []string{}
				if tt.hint != "" {
					header = []string{"Retry-After", tt.hint}
				}
				base := newScript(answer(429, header...))
				ctx := t.Context()
				if tt.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.deadline)
					defer cancel()
				}
				opts := append([]resilient.Option{every(0), resilient.WithTrace(r.trace())}, tt.opts...)
				start := time.Now()
				resp, err := resilient.NewTransport(base, opts...).RoundTrip(get(t).WithContext(ctx))
				require.NoError(t, err, "the response, not an error")
				require.Equal(t, 429, resp.StatusCode)
				require.Equal(t, tt.hint, resp.Header.Get("Retry-After"), "with the full hint")
				require.NoError(t, resp.Body.Close())
				require.Equal(t, tt.attempts, base.Count())
				require.Equal(t, tt.took, time.Since(start))
				require.Equal(t, tt.why, r.why(t))
			})
		})
	}
}

// traced is a step that reports to httptrace as a transport would, then fails.
func traced(err error, hooks ...func(*httptrace.ClientTrace)) step {
	return func(req *http.Request) (*http.Response, error) {
		if trace := httptrace.ContextClientTrace(req.Context()); trace != nil {
			for _, hook := range hooks {
				hook(trace)
			}
		}
		return nil, err
	}
}

// TestNeverSentIsProven: a POST of which provably nothing was sent is sent
// again, and one that may have been sent is not.
func TestNeverSentIsProven(t *testing.T) {
	seek := func(c *httptrace.ClientTrace) { c.GetConn("api.test:80") }
	connect := func(c *httptrace.ClientTrace) { c.GotConn(httptrace.GotConnInfo{}) }
	field := func(c *httptrace.ClientTrace) { c.WroteHeaderField("Host", nil) }
	wrote := func(c *httptrace.ClientTrace) { c.WroteRequest(httptrace.WroteRequestInfo{}) }
	broke := func(c *httptrace.ClientTrace) { c.WroteRequest(httptrace.WroteRequestInfo{Err: io.EOF}) }
	headers := func(c *httptrace.ClientTrace) { c.WroteHeaders() }
	refused := &net.OpError{Op: "dial", Err: errors.New("refused")}
	for _, tt := range []struct {
		name string
		base step
		want int
	}{
		{"no hooks: nothing is known", traced(io.EOF), 1},
		{"no connection", traced(io.EOF, seek), 4},
		{"nothing written", traced(io.EOF, seek, connect, broke), 4},
		{"a field written", traced(io.EOF, seek, connect, field), 1},
		{"headers written", traced(io.EOF, seek, connect, headers), 1},
		{"all written", traced(io.EOF, seek, connect, wrote), 1},
		{"dial failed", traced(refused), 4},
		{"sent once, then the dial failed", traced(refused, seek, connect, wrote), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := newScript(tt.base)
			_, err := resilient.NewTransport(base, every(0), unbounded()).RoundTrip(post(t))
			require.Error(t, err)
			require.Equal(t, tt.want, base.Count())
		})
	}
}

// TestRealDialFailureRetriesPost: a failed dial proves that nothing was sent.
func TestRealDialFailureRetriesPost(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	var r recorder
	_, err = resilient.NewTransport(base, every(0), resilient.WithTrace(r.trace())).
		RoundTrip(newRequest(t, http.MethodPost, "http://"+l.Addr().String(), "payload"))
	require.Error(t, err)
	require.Len(t, r.attempts, 4)
	require.Equal(t, "never sent", r.attempts[0].Verdict.Reason)
}

// TestRealLostPostIsSentOnce: a POST whose connection ended without an answer
// may have been acted upon.
func TestRealLostPostIsSentOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hits := 0
		base := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			hits++
			_, _ = io.ReadAll(r.Body)
			panic(http.ErrAbortHandler) // the connection ends without an answer
		})
		_, err := resilient.NewTransport(base, every(0)).RoundTrip(post(t))
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, 1, hits)
	})
}

// TestAnswersToOurOwnRetry: a POST that had timed out was told, when it came
// again, that a request with its key is in progress, and that was final.
func TestAnswersToOurOwnRetry(t *testing.T) {
	lost := fails(&net.OpError{Op: "read", Err: io.EOF})
	for _, tt := range []struct {
		name  string
		steps []step
		key   bool
		want  int
		final int
		why   string
	}{
		{"409", []step{lost, answer(409), answer(409), answer(201)}, true, 4, 201, "an earlier attempt is in progress"},
		{"423", []step{lost, answer(423), answer(201)}, true, 3, 201, "the same with another status"},
		{"425", []step{lost, answer(425), answer(201)}, true, 3, 201, "the same with another status"},
		{"after a 504", []step{answer(504), answer(409), answer(201)}, true, 3, 201, "a gateway gave up, its upstream did not"},
		{"out of attempts", []step{lost, answer(409)}, true, 4, 409, "within its attempts"},
		{"at the first attempt", []step{answer(409)}, true, 1, 409, "somebody else's"},
		{"after a rejection", []step{answer(429), answer(409)}, true, 2, 409, "nothing of ours is in progress"},
		{"after a failed dial", []step{fails(&net.OpError{Op: "dial", Err: io.EOF}), answer(409)}, true, 2, 409, "nothing of ours is in progress"},
		{"the server says no", []step{lost, answer(409, "X-Should-Retry", "false")}, true, 2, 409, "it knows better"},
		{"another status", []step{lost, answer(422)}, true, 2, 422, "the key was used with another body"},
		{"without a key", []step{lost, answer(409)}, false, 2, 409, "a conflict of states"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(tt.steps...)
				opt := resilient.WithRetryNonIdempotent(true)
				if tt.key {
					opt = resilient.WithIdempotencyKey(func(*http.Request) string { return "k" })
				}
				resp, err := resilient.NewTransport(base, opt, unbounded()).RoundTrip(post(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, tt.want, base.Count(), tt.why)
				require.Equal(t, tt.final, resp.StatusCode)
			})
		})
	}
}

// TestExpectationFailed: RFC 9110 section 10.1.1 has the request repeated without
// the expectation.
func TestExpectationFailed(t *testing.T) {
	refuses := func(req *http.Request) (*http.Response, error) {
		if req.Header.Get("Expect") != "" {
			return answer(417)(req)
		}
		return answer(201)(req)
	}
	synctest.Test(t, func(t *testing.T) {
		base, start := newScript(refuses), time.Now()
		req := post(t)
		req.Header.Set("Expect", "100-continue")
		resp, err := resilient.NewTransport(base).RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 201, resp.StatusCode, "of any method: the request was refused by its header")
		require.Equal(t, "payload", string(base.Attempts()[1].Body))
		require.Equal(t, 2, base.Count())
		require.Zero(t, time.Since(start), "there is nothing to wait for")
		require.Equal(t, "100-continue", req.Header.Get("Expect"), "the caller's request is not written to")

		base = newScript(answer(417))
		resp, err = resilient.NewTransport(base).RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 2, base.Count(), "a second one is about something else")
		base = newScript(answer(417))
		resp, err = resilient.NewTransport(base).RoundTrip(post(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 1, base.Count(), "nothing was expected")
	})
}

// TestConnectionIsReused: retries share one connection. 1,000 retries over
// connections that were not drained took a peer 1,001.
func TestConnectionIsReused(t *testing.T) {
	for _, tt := range []struct {
		name string
		body string
	}{
		{"empty", ""},
		{"16 KiB", strings.Repeat("x", 16<<10)},
		{"chunked", strings.Repeat("x", 60<<10)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hits := 0
				conns := map[string]bool{}
				base := serve(t, func(w http.ResponseWriter, _ *http.Request) {
					if hits++; hits < 100 {
						w.WriteHeader(http.StatusInternalServerError)
						_, _ = io.WriteString(w, tt.body)
					}
				})
				base.MaxConnsPerHost = 1 // a body left open would block for ever
				dial := base.DialContext
				base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					conns[strconv.Itoa(len(conns))] = true
					return dial(ctx, network, addr)
				}
				resp, err := resilient.NewTransport(base, every(time.Second), resilient.WithMaxAttempts(100), unbounded()).RoundTrip(get(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, 200, resp.StatusCode)
				require.Len(t, conns, 1)
			})
		})
	}
}

// TestSlowErrorBodyNeverHoldsARetry: a retried response is read for at most a
// second, and that second is part of the wait.
func TestSlowErrorBodyNeverHoldsARetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body, slow := dripping(500)
		base := newScript(slow, answer(200))
		start := time.Now()
		resp, err := resilient.NewTransport(base, every(3*time.Second)).RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 3*time.Second, time.Since(start), "reading overlaps the backoff")
		<-body.done // closed
	})
}

// The wait runs from the answer, but whether it fits the deadline was asked as
// if it began once the body had been read.
func TestSlowErrorBodyIsNotCountedTwiceAgainstTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, slow := dripping(500)
		base := newScript(slow, answer(200))
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		start := time.Now()
		resp, err := resilient.NewTransport(base, every(3*time.Second)).RoundTrip(get(t).WithContext(ctx))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 3*time.Second, time.Since(start))
	})
}

// TestSlowErrorBodyOfTheLastResponse: a second is the most that the parsing of
// an error object takes, and the caller reads on from the first byte.
func TestSlowErrorBodyOfTheLastResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body, slow := dripping(400)
		start := time.Now()
		resp, err := resilient.NewTransport(newScript(slow)).RoundTrip(get(t))
		require.NoError(t, err)
		require.Equal(t, time.Second, time.Since(start))
		buf := make([]byte, 3)
		_, err = io.ReadFull(resp.Body, buf)
		require.NoError(t, err, "the caller reads on from the beginning")
		require.Equal(t, "xxx", string(buf))
		require.Equal(t, 3*time.Minute, time.Since(start))
		require.NoError(t, resp.Body.Close())
		<-body.done
		e, ok := resilient.ErrorFromResponse(resp)
		require.True(t, ok)
		require.Equal(t, "xxx", string(e.Body))
	})
}

// TestAnErrorThatIsFinalByItsStatus: nobody waits for a body that can change nothing. The
// caller reads it, or asks for the error object, and gets all of either.
func TestAnErrorThatIsFinalByItsStatus(t *testing.T) {
	for _, status := range []int{401, 402, 404, 405, 409, 410, 422, 501, 505} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			base := newScript(func(*http.Request) (*http.Response, error) {
				body := io.MultiReader(strings.NewReader("not fou"), readerFunc(func([]byte) (int, error) {
					time.Sleep(time.Minute)
					return 0, io.EOF
				}))
				return &http.Response{StatusCode: status, Header: http.Header{}, ContentLength: -1, Body: io.NopCloser(body)}, nil
			})
			transport := resilient.NewTransport(base)
			resp, err := transport.RoundTrip(get(t))
			require.NoError(t, err)
			require.Zero(t, time.Since(start), "%d", status)
			got, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, "not fou", string(got), "%d", status)
			require.NoError(t, resp.Body.Close())

			// Whoever is shown the object waits for it, for a second.
			start = time.Now()
			resp, err = resilient.NewTransport(base, resilient.WithTrace(&resilient.Trace{})).RoundTrip(get(t))
			require.NoError(t, err)
			require.Equal(t, time.Second, time.Since(start), "%d", status)
			require.NoError(t, resp.Body.Close())
			time.Sleep(time.Minute) // until the Read ends
		})
	}
}

// TestEndlessErrorBodyIsBounded: at most 64 KiB of a retried response are read.
func TestEndlessErrorBodyIsBounded(t *testing.T) {
	read := 0
	endless := func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 500, Header: http.Header{}, ContentLength: -1, Body: io.NopCloser(readerFunc(func(p []byte) (int, error) {
			read += len(p)
			return len(p), nil
		}))}, nil
	}
	resp, err := resilient.NewTransport(newScript(endless), every(0)).RoundTrip(get(t))
	require.NoError(t, err)
	require.LessOrEqual(t, read, 4*64<<10, "64 KiB of each attempt")
	require.NoError(t, resp.Body.Close())
}

// TestPanickingBodyIsAnError: a body that panics is an error of reading it. The
// beginning of an error body is read in a goroutine, and a panic there would
// end the process.
func TestPanickingBodyIsAnError(t *testing.T) {
	for _, tt := range []struct {
		name string
		read readerFunc
	}{
		{"panic", func([]byte) (int, error) { panic("body") }},
		{"impossible", func(p []byte) (int, error) { return len(p) + 1, nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := resilient.NewTransport(step(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 400, Header: http.Header{}, Body: io.NopCloser(tt.read)}, nil
			})).RoundTrip(get(t))
			require.NoError(t, err)
			_, err = io.ReadAll(resp.Body)
			require.ErrorContains(t, err, "resilient: ")
			require.NoError(t, resp.Body.Close())
		})
	}
}

// TestAttemptTimeout: the timeout of an attempt ends a connection that never
// answers, which nothing else ends if there is no deadline. It stops at the
// headers: a peer cut the body.
func TestAttemptTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hits atomic.Int32
		base := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if hits.Add(1) == 1 {
				<-r.Context().Done()
				return
			}
			w.WriteHeader(http.StatusOK)
			for range 60 {
				_, _ = w.Write(make([]byte, 1<<10))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(time.Second)
			}
		})
		start := time.Now()
		resp, err := resilient.NewTransport(base, every(0), resilient.WithAttemptTimeout(2*time.Second)).RoundTrip(get(t))
		require.NoError(t, err)
		require.Equal(t, 2*time.Second, time.Since(start))
		require.Len(t, readAll(t, resp), 60<<10, "it stops at the headers: a peer cut the body")
		require.Equal(t, 62*time.Second, time.Since(start))
	})
}

// TestAttemptTimeoutIsToldFromTheCallers: the timeout of an attempt is told
// from the caller's own, and is retried if the request is idempotent.
func TestAttemptTimeoutIsToldFromTheCallers(t *testing.T) {
	hang := func(req *http.Request) (*http.Response, error) {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	synctest.Test(t, func(t *testing.T) {
		base := newScript(hang)
		_, err := resilient.NewTransport(base, every(0), unbounded(), resilient.WithAttemptTimeout(time.Second)).RoundTrip(get(t))
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, context.Canceled)
		require.Equal(t, 4, base.Count())
		var retried *resilient.RetryError
		require.ErrorAs(t, err, &retried)
		require.Equal(t, 4, retried.Attempts)
		require.True(t, retried.Timeout())

		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		base = newScript(hang)
		_, err = resilient.NewTransport(base, resilient.WithAttemptTimeout(time.Second)).RoundTrip(get(t).WithContext(ctx))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1, base.Count())

		base = newScript(hang)
		_, err = resilient.NewTransport(base, resilient.WithAttemptTimeout(time.Second)).RoundTrip(post(t))
		require.Error(t, err)
		require.Equal(t, 1, base.Count(), "a POST that timed out may have been processed")
	})
}

// TestAttemptTimeoutBeforeAConnectionIsProvenUnsent: an attempt that timed out
// before it had a connection has sent nothing.
func TestAttemptTimeoutBeforeAConnectionIsProvenUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int32
		base := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			dials.Add(1)
			time.Sleep(time.Minute) // net/http dials on after the request has gone
			return nil, errors.New("no route")
		}}
		_, err := resilient.NewTransport(base, every(0), resilient.WithAttemptTimeout(time.Second)).RoundTrip(post(t))
		require.Error(t, err)
		require.EqualValues(t, 4, dials.Load())
		time.Sleep(time.Hour)
	})
}

// TestAttemptTimeoutReleasesItsContext: the context of an attempt ends with its
// body, closed or not.
func TestAttemptTimeoutReleasesItsContext(t *testing.T) {
	for _, tt := range []struct {
		name string
		body string
	}{
		{"body", "x"},
		{"no body", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var attempt context.Context
			base := step(func(req *http.Request) (*http.Response, error) {
				attempt = req.Context()
				resp, _ := answerWith(200, tt.body)(req)
				if tt.body == "" {
					resp.Body = http.NoBody
				}
				return resp, nil
			})
			resp, err := resilient.NewTransport(base, resilient.WithAttemptTimeout(time.Hour)).RoundTrip(get(t))
			require.NoError(t, err)
			if tt.body == "" {
				require.Equal(t, http.NoBody, resp.Body, "net/http looks for it")
			} else {
				require.NoError(t, attempt.Err(), "not before the body is read")
				_, err = io.ReadAll(resp.Body)
				require.NoError(t, err)
			}
			require.Error(t, attempt.Err(), "also when Close is forgotten")
			require.NoError(t, resp.Body.Close())
		})
	}
}

// TestLateHeadersAreATimeout: a base that ignores its context is held to the
// timeout too, and its late response is closed.
func TestLateHeadersAreATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := &trackedBody{Reader: strings.NewReader("")}
		late := func(*http.Request) (*http.Response, error) { // a base that ignores its context
			time.Sleep(2 * time.Second)
			return &http.Response{StatusCode: 200, Body: body}, nil
		}
		_, err := resilient.NewTransport(newScript(late), resilient.WithMaxAttempts(1), resilient.WithAttemptTimeout(time.Second)).RoundTrip(get(t))
		require.ErrorContains(t, err, "no response headers after 1s")
		require.Equal(t, 1, body.Closes())
	})
}

// TestContextEndsWhileWaiting: a wait ends with the context. The error has the
// cause of the context and the outcome of the attempt before the wait, and
// neither hides the other.
func TestContextEndsWhileWaiting(t *testing.T) {
	cause := errors.New("shutting down")
	for _, tt := range []struct {
		name  string
		first step
		last  func(error) bool
	}{
		{"after a response", answer(503), func(err error) bool {
			var apiErr *resilient.APIError
			return errors.As(err, &apiErr) && apiErr.StatusCode == 503 && errors.Is(err, resilient.ErrServer)
		}},
		{"after a transport error", fails(io.ErrUnexpectedEOF), func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(3*time.Second, func() { cancel(cause) })
				base := newScript(tt.first)
				var r recorder
				start := time.Now()
				_, err := resilient.NewTransport(base, every(10*time.Second), resilient.WithTrace(r.trace())).RoundTrip(get(t).WithContext(ctx))
				require.Equal(t, 3*time.Second, time.Since(start))
				require.ErrorIs(t, err, cause)
				require.True(t, tt.last(err), "neither hides the other: %v", err)
				require.Equal(t, 1, base.Count())
				require.Equal(t, "canceled", r.why(t))
				require.Contains(t, err.Error(), "resilient: gave up after attempt 1: shutting down (before: ")
			})
		})
	}
}

// TestContextEndsDuringAnAttempt: the error of the context is found, and there
// is no other attempt.
func TestContextEndsDuringAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		var hits atomic.Int32
		base := serve(t, func(_ http.ResponseWriter, r *http.Request) { hits.Add(1); <-r.Context().Done() })
		_, err := resilient.NewTransport(base).RoundTrip(get(t).WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
		require.EqualValues(t, 1, hits.Load())
	})
}

// TestContextEndsDuringTheErrorBody: reading an error body ends with the
// context, and the caller gets the response.
func TestContextEndsDuringTheErrorBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, slow := dripping(500)
		base := newScript(slow)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		start := time.Now()
		resp, err := resilient.NewTransport(base).RoundTrip(get(t).WithContext(ctx))
		require.NoError(t, err, "there is a response")
		require.NoError(t, resp.Body.Close())
		require.Equal(t, time.Millisecond, time.Since(start))
		require.Equal(t, 1, base.Count())
	})
}

// TestPanicsLeaveNothingBehind: a panic of the base leaves no lock and no token
// behind.
func TestPanicsLeaveNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		base := newScript(func(req *http.Request) (*http.Response, error) {
			if n++; n == 1 {
				panic("base")
			}
			return answer(200)(req)
		})
		transport := resilient.NewTransport(base, resilient.WithRateLimit(1, 1), resilient.WithAttemptTimeout(time.Second))
		require.PanicsWithValue(t, "base", func() { _, _ = transport.RoundTrip(post(t)) })
		start := time.Now()
		resp, err := transport.RoundTrip(post(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, time.Second, time.Since(start), "no lock is held")
	})
}

// TestPanickingHooksLeaveNoBodyOpen: a panic of a hook leaves no body open.
func TestPanickingHooksLeaveNoBodyOpen(t *testing.T) {
	boom := func() { panic("hook") }
	for _, tt := range []struct {
		name string
		opt  resilient.Option
	}{
		{"AttemptDone", resilient.WithTrace(&resilient.Trace{AttemptDone: func(resilient.AttemptInfo) { boom() }})},
		{"Done", resilient.WithTrace(&resilient.Trace{Done: func(resilient.DoneInfo) { boom() }})},
		{"classifier", resilient.WithClassifier(func(resilient.AttemptInfo) resilient.Verdict { boom(); return resilient.Verdict{} })},
		{"backoff", resilient.WithBackOff(func() backoff.BackOff { boom(); return nil })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body := &trackedBody{Reader: strings.NewReader("x")}
			base := step(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 500, Header: http.Header{}, Body: body}, nil
			})
			attempts := resilient.WithMaxAttempts(1)
			if tt.name == "backoff" {
				attempts = nil
			}
			for i, asErrors := range []bool{false, true} {
				transport := resilient.NewTransport(base, tt.opt, attempts, resilient.WithStatusErrors(asErrors))
				require.PanicsWithValue(t, "hook", func() { _, _ = transport.RoundTrip(get(t)) })
				require.Equal(t, i+1, body.Closes(), "once each")
			}
		})
	}
}

// TestAPanicBeforeTheAttemptClosesTheBody: the body that the base was not given
// stayed open.
func TestAPanicBeforeTheAttemptClosesTheBody(t *testing.T) {
	boom := func() { panic("hook") }
	for _, tt := range []struct {
		name string
		opt  resilient.Option
	}{
		{"AttemptStart", resilient.WithTrace(&resilient.Trace{AttemptStart: func(resilient.AttemptInfo) { boom() }})},
		{"LimiterFor", resilient.WithLimiterFor(func(*http.Request) resilient.Limiter { boom(); return nil })},
		{"Limiter", resilient.WithLimiter(limiterFunc(func(context.Context) error { boom(); return nil }))},
		{"LimitKey", resilient.WithLimitKey(func(*http.Request) string { boom(); return "" })},
		{"IdempotencyKey", resilient.WithIdempotencyKey(func(*http.Request) string { boom(); return "" })},
	} {
		for _, buffer := range []int64{0, 10} {
			t.Run(fmt.Sprint(tt.name, buffer), func(t *testing.T) {
				body := &trackedBody{Reader: strings.NewReader("x")}
				req := post(t)
				req.Body, req.GetBody = body, nil
				base := newScript(answer(200))
				transport := resilient.NewTransport(base, resilient.WithRateLimit(1, 1), resilient.WithReplayBuffer(buffer), tt.opt)
				require.PanicsWithValue(t, "hook", func() { _, _ = transport.RoundTrip(req) })
				require.Equal(t, 1, body.Closes())
				require.Zero(t, base.Count())
			})
		}
	}
	synctest.Test(t, func(t *testing.T) { // a wait for the second attempt, and one for a token
		for _, opt := range []resilient.Option{nil, resilient.WithRateLimit(1, 1)} {
			var bodies []*trackedBody
			req := post(t)
			req.GetBody = func() (io.ReadCloser, error) {
				bodies = append(bodies, &trackedBody{Reader: strings.NewReader("x")})
				return bodies[len(bodies)-1], nil
			}
			req.Body, _ = req.GetBody()
			transport := resilient.NewTransport(newScript(answer(429)), opt,
				resilient.WithTrace(&resilient.Trace{Wait: func(resilient.WaitInfo) { boom() }}))
			require.PanicsWithValue(t, "hook", func() { _, _ = transport.RoundTrip(req) })
			require.Len(t, bodies, 2)
			require.Equal(t, 1, bodies[0].Closes())
			require.Equal(t, 1, bodies[1].Closes())
		}
	})
}

// TestNoRetryMark looks at what an SDK above is told, and at the header that the
// base still holds.
func TestNoRetryMark(t *testing.T) {
	marks := http.Header{"X-Should-Retry": {"false"}, "Stripe-Should-Retry": {"false"}}
	tests := []struct {
		name   string
		answer step
		method string
		sent   int
		marked bool
		why    string
	}{
		{"final", answer(404), "GET", 1, true, "an SDK may take another view of it"},
		{"out of attempts", answer(500), "GET", 4, true, "all attempts there are to be were made"},
		{"not idempotent", answer(500), "POST", 1, true, "an SDK that sends it again may do it twice"},
		{"the server says to retry", answer(500, "X-Should-Retry", "true"), "GET", 4, true, "it was done"},
		{"success", answer(200), "GET", 1, false, "it is the base's response, untouched"},
		{"redirect", answer(304), "GET", 1, false, "the same"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, on := range []bool{true, false} {
				var kept http.Header // as a base does that answers from a cache
				base := newScript(func(req *http.Request) (*http.Response, error) {
					resp, err := tt.answer(req)
					resp.Header.Set("X-Other", "o")
					kept = resp.Header
					return resp, err
				})
				resp, err := resilient.NewTransport(base, every(0), resilient.WithNoRetryMark(on)).
					RoundTrip(newRequest(t, tt.method, "http://api.test/v1", ""))
				require.NoError(t, err)
				require.Equal(t, tt.sent, base.Count())
				want := kept.Clone()
				if on && tt.marked {
					maps.Copy(want, marks)
					require.NotEqual(t, "false", kept.Get("X-Should-Retry"), "written into the base's header")
				}
				require.Equal(t, want, resp.Header, tt.why)
				readAll(t, resp)
			}
		})
	}

	t.Run("no header at all", func(t *testing.T) {
		base := newScript(func(req *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 404, Request: req}, nil
		})
		resp, err := resilient.NewTransport(base, resilient.WithNoRetryMark(true)).RoundTrip(get(t))
		require.NoError(t, err)
		require.Equal(t, marks, resp.Header)
	})

	t.Run("the error object", func(t *testing.T) {
		p := resilient.Profile{Rules: []resilient.Rule{{Status: 500, Kind: resilient.KindRateLimit, Wait: time.Second}}}
		var seen *resilient.APIError
		transport := resilient.NewTransport(newScript(answer(500)), resilient.WithMaxAttempts(1),
			resilient.WithProfile(p), resilient.WithNoRetryMark(true),
			resilient.WithTrace(&resilient.Trace{AttemptDone: func(a resilient.AttemptInfo) { seen = a.APIError }}))
		resp, err := transport.RoundTrip(get(t))
		require.NoError(t, err)
		got, ok := resilient.ErrorFromResponse(resp)
		require.True(t, ok)
		require.Equal(t, time.Second, got.RetryAfter, "the mark is for SDKs: it says nothing new of the error")
		got.Header = seen.Header
		got.Reason, got.Unprocessed = "", false // which are not known to the hook of an attempt
		require.Equal(t, seen, got)
		require.NotContains(t, seen.Header, "X-Should-Retry", "as received")
	})
}
