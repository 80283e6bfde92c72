package resilient_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
)

// TestRetryBudget: retries are a bounded share of the traffic.
func TestRetryBudget(t *testing.T) {
	run := func(t *testing.T, transport http.RoundTripper, calls int, pause time.Duration) {
		t.Helper()
		for range calls {
			resp, err := transport.RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			time.Sleep(pause)
		}
	}
	t.Run("an outage is not amplified", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(answer(503))
			transport := resilient.NewTransport(base, every(0))
			run(t, transport, 300, 100*time.Millisecond) // 10 calls a second for 30 s
			require.LessOrEqual(t, base.Count(), 330)
			require.Greater(t, base.Count(), 300, "some are tried")
		})
	})
	t.Run("a timeout costs two", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(func(req *http.Request) (*http.Response, error) {
				<-req.Context().Done()
				return nil, req.Context().Err()
			})
			transport := resilient.NewTransport(base, every(0), resilient.WithAttemptTimeout(time.Second),
				resilient.WithRetryBudget(0, 0), resilient.WithMaxAttempts(2))
			for range 100 {
				_, err := transport.RoundTrip(get(t))
				require.Error(t, err)
			}
			require.Equal(t, 102, base.Count(), "the server may still be at work: the 3 it begins with are 2")
		})
	})
	t.Run("a small client always retries", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(answer(503))
			run(t, resilient.NewTransport(base), 10, time.Minute)
			require.Equal(t, 40, base.Count())
		})
	})
	t.Run("retries that succeed cost nothing", func(t *testing.T) {
		n := 0
		base := newScript(func(req *http.Request) (*http.Response, error) {
			if n++; n%3 == 0 {
				return answer(200)(req)
			}
			return answer(500)(req)
		})
		run(t, resilient.NewTransport(base, every(0)), 1000, 0)
		require.Equal(t, 3000, base.Count())
	})
	// While a limit was known, no failure was the budget's business, whatever it was.
	t.Run("an outage behind a limit", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start, limit := time.Now(), rate.NewLimiter(50, 5)
			var calls, attempts atomic.Int32
			transport := resilient.NewTransport(step(func(req *http.Request) (*http.Response, error) {
				time.Sleep(5 * ms)
				switch down := time.Since(start) > 20*time.Second; {
				case down:
					attempts.Add(1)
					return answer(500)(req)
				case !limit.Allow():
					return answer(429)(req)
				}
				return answer(200)(req)
			}))
			var all sync.WaitGroup
			for range 16 {
				all.Go(func() {
					for time.Since(start) < 50*time.Second {
						if time.Since(start) > 20*time.Second {
							calls.Add(1)
						}
						resp, err := transport.RoundTrip(get(t))
						if err != nil {
							t.Error(err)
							return
						}
						_ = resp.Body.Close()
						time.Sleep(100 * ms)
					}
				})
			}
			all.Wait()
			require.Greater(t, calls.Load(), int32(1000))
			require.Less(t, attempts.Load(), calls.Load()*11/10)
		})
	})
	t.Run("a burst of isolated failures is retried whole", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			hits := 0
			base := step(func(req *http.Request) (*http.Response, error) {
				mu.Lock()
				defer mu.Unlock()
				if hits++; hits <= 64 {
					return answer(500)(req)
				}
				return answer(200)(req)
			})
			transport := resilient.NewTransport(base)
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					resp, err := transport.RoundTrip(get(t))
					if err != nil || resp.StatusCode != 200 {
						t.Errorf("got %v, %v", resp, err)
						return
					}
					_ = resp.Body.Close()
				})
			}
			wg.Wait()
		})
	})
	t.Run("random failures are all retried", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			calls, lost := 5000, 0
			base := newScript(func(req *http.Request) (*http.Response, error) {
				if rng.Float64() < 0.2 {
					return answer(500)(req)
				}
				return answer(200)(req)
			})
			transport := resilient.NewTransport(base)
			for range calls {
				resp, err := transport.RoundTrip(get(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				if resp.StatusCode != 200 {
					lost++
				}
			}
			require.LessOrEqual(t, lost, calls/100, "0.2^4 of them, and a margin")
		})
	})
	t.Run("refused before sleeping, with the response", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var r recorder
			transport := resilient.NewTransport(newScript(answer(503)), every(time.Millisecond), resilient.WithRetryBudget(0, 0))
			run(t, transport, 100, 0)
			start := time.Now()
			ctx := resilient.ContextWithOptions(t.Context(), resilient.WithTrace(r.trace()))
			resp, err := transport.RoundTrip(get(t).WithContext(ctx))
			require.NoError(t, err)
			require.Equal(t, 503, resp.StatusCode)
			require.NoError(t, resp.Body.Close())
			require.Zero(t, time.Since(start))
			require.Equal(t, "budget", r.why(t))
			require.Empty(t, r.waits)

			resp, err = transport.RoundTrip(newRequest(t, http.MethodGet, "http://other.test/", ""))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, 3*time.Millisecond, time.Since(start), "another host has a budget of its own")
		})
	})
	t.Run("rejections are not its business", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(answer(429))
			run(t, resilient.NewTransport(base, every(time.Millisecond), resilient.WithRetryBudget(0, 0)), 100, 0)
			require.Equal(t, 400, base.Count())
		})
	})
	t.Run("what was earned fades", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			fine, down := newScript(answer(200)), newScript(answer(503))
			failing := newScript(answer(503), answer(200)) // so that the key is known
			base := &switching{to: failing}
			transport := resilient.NewTransport(base, every(0), resilient.WithRetryBudget(1, 0), resilient.WithMaxAttempts(2))
			run(t, transport, 1, 0)
			base.to = fine
			run(t, transport, 100, 0)
			time.Sleep(time.Hour)
			base.to = down
			run(t, transport, 200, 0)
			require.InDelta(t, 203, down.Count(), 1, "the three it began with")
		})
	})
}

// TestBudgetOfRetriesThatWereNotMade: a token paid in advance was lost when the
// context ended in the backoff, or the retry was rejected for its rate.
func TestBudgetOfRetriesThatWereNotMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down, limited := newScript(answer(503)), newScript(answer(503), answer(429))
		base := &switching{to: down}
		transport := resilient.NewTransport(base, every(time.Second), resilient.WithRetryBudget(0, 0), resilient.WithMaxAttempts(2))
		resp, err := transport.RoundTrip(get(t)) // from here on retries are paid for
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		for i := range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			if i%2 == 0 {
				base.to = down
				time.AfterFunc(ms, cancel)
			} else {
				limited.Reset()
				base.to = limited
			}
			if resp, err := transport.RoundTrip(get(t).WithContext(ctx)); err == nil {
				require.Equal(t, 429, resp.StatusCode, "call %d was retried", i)
				require.NoError(t, resp.Body.Close())
			}
			cancel()
		}
	})
}
