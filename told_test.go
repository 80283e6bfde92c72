package resilient_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
)

// tokenServer has a bucket of tokens, and says how much is left in each answer.
type tokenServer struct {
	rate, burst float64
	latency     time.Duration
	silent      bool // it says nothing
	ietf        bool // it says so in RateLimit fields, else in OpenAI's

	mu                sync.Mutex
	tokens            float64
	at                time.Time
	answered, refused int
	most              int // requests at one time
	flying            int
}

func (s *tokenServer) RoundTrip(req *http.Request) (*http.Response, error) {
	time.Sleep(s.latency / 2)
	cost := tokens(req)
	s.mu.Lock()
	now := time.Now()
	s.tokens, s.at = min(s.burst, s.tokens+now.Sub(s.at).Seconds()*s.rate), now
	s.flying++
	s.most = max(s.most, s.flying)
	status := http.StatusOK
	if cost > s.tokens {
		status = http.StatusTooManyRequests
		s.refused++
	} else {
		s.tokens -= cost
		s.answered++
	}
	full := time.Duration((s.burst - s.tokens) / s.rate * float64(time.Second)).Round(time.Millisecond)
	header := []string{
		"X-RateLimit-Limit-Tokens", fmt.Sprint(s.burst), "X-RateLimit-Remaining-Tokens", strconv.Itoa(int(s.tokens)),
		"X-RateLimit-Reset-Tokens", full.String(),
	}
	if s.ietf {
		header = []string{
			"RateLimit", fmt.Sprintf(`"llm";r=%d;t=%d`, int(s.tokens), int(full.Seconds())+1),
			"RateLimit-Policy", fmt.Sprintf(`"llm";q=%d;w=%d;qu="tokens"`, int(s.burst), int(s.burst/s.rate)),
		}
	}
	if s.silent {
		header = nil
	}
	s.mu.Unlock()
	time.Sleep(s.latency / 2)
	s.mu.Lock()
	s.flying--
	s.mu.Unlock()
	return answer(status, header...)(req)
}

// TestTold: nothing is configured but what a request costs. The server says the rest.
func TestTold(t *testing.T) {
	quotas := resilient.WithProfile(resilient.Profile{Quotas: map[string]resilient.QuotaFields{"tokens": {
		Limit: "x-ratelimit-limit-tokens", Remaining: "x-ratelimit-remaining-tokens", Reset: "x-ratelimit-reset-tokens",
	}}})
	for _, tt := range []struct {
		why         string
		rate, burst float64
		ietf        bool
		opts        []resilient.Option
	}{
		{"OpenAI's fields", 1000, 10_000, false, []resilient.Option{quotas}},
		{"a small bucket", 1000, 5000, false, []resilient.Option{quotas}},
		{"a large one", 500, 60_000, false, []resilient.Option{quotas}},
		{"RateLimit fields with a unit", 1000, 10_000, true, nil},
	} {
		for seed := range uint64(5) {
			t.Run(fmt.Sprintf("%s %d", tt.why, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					const calls, workers = 400, 32
					random := rand.New(rand.NewPCG(seed, 1))
					costs, sum := make([]float64, calls), 0.0
					for i := range costs {
						costs[i] = math.Round(min(1000*math.Exp(random.NormFloat64()*0.75), tt.burst))
						sum += costs[i]
					}
					s := &tokenServer{rate: tt.rate, burst: tt.burst, tokens: tt.burst, latency: 200 * ms, ietf: tt.ietf, at: time.Now()}
					transport := resilient.NewTransport(s, append(tt.opts, resilient.WithLimit("tokens", rate.Inf, 0, tokens))...)
					start, next := time.Now(), make(chan float64)
					var failed atomic.Int32
					var wg sync.WaitGroup
					for range workers {
						wg.Go(func() {
							for cost := range next {
								resp, err := transport.RoundTrip(costing(t, fmt.Sprint(cost)))
								if err != nil || resp.StatusCode != 200 {
									failed.Add(1)
								}
								if err == nil {
									_ = resp.Body.Close()
								}
							}
						})
					}
					for _, cost := range costs {
						next <- cost
					}
					close(next)
					wg.Wait()
					optimum := (sum - tt.burst) / tt.rate
					took := time.Since(start).Seconds()
					t.Logf("%.1f s of %.1f s, %.3f; %d refused", took, optimum, took/optimum, s.refused)
					require.Zero(t, failed.Load())
					require.LessOrEqual(t, s.refused, 1)
					require.LessOrEqual(t, took, 1.05*optimum+1)
					b := transport.Snapshot().Keys[0].Buckets[0]
					require.InDelta(t, tt.rate, b.Limit, tt.rate/20)
					require.InDelta(t, tt.burst, b.Burst, 1)
				})
			})
		}
	}
}

// TestNothingIsTold: the first request goes alone, and when nothing is known then, there
// is no limit.
func TestNothingIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &tokenServer{rate: 1000, burst: 1e9, tokens: 1e9, latency: time.Second, silent: true}
		transport := resilient.NewTransport(s, resilient.WithLimit("tokens", rate.Inf, 0, func(*http.Request) float64 { return 1 }))
		start := time.Now()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				resp, err := transport.RoundTrip(costing(t, "1"))
				if err == nil {
					_ = resp.Body.Close()
				}
			})
		}
		wg.Wait()
		require.Equal(t, 2*time.Second, time.Since(start))
		require.Equal(t, 19, s.most)
		require.Equal(t, []resilient.BucketSnapshot{{Name: "tokens"}}, transport.Snapshot().Keys[0].Buckets)
	})
}

// TestLearnedInTokens: nothing is configured but what a request costs, and the server says
// nothing. Learned in requests, the limit was too fast for the large ones and too slow for the
// small ones.
func TestLearnedInTokens(t *testing.T) {
	for _, guess := range []float64{1, 0.5} {
		synctest.Test(t, func(t *testing.T) {
			const calls, workers = 3000, 48
			random := rand.New(rand.NewPCG(3, 4))
			s := &tokenServer{rate: 10_000, burst: 20_000, tokens: 20_000, latency: 200 * ms, silent: true, at: time.Now()}
			var words atomic.Value
			guesses := func(req *http.Request) float64 { return guess * tokens(req) }
			transport := resilient.NewTransport(s, resilient.WithLimit("requests", rate.Inf, 0, guesses),
				resilient.WithLimit("tokens", rate.Inf, 0, guesses), resilient.WithTrace(&resilient.Trace{Wait: func(w resilient.WaitInfo) {
					if w.Reason == resilient.ReasonRateLimit {
						words.Store(w.Limit)
					}
				}}))
			start, next, sum := time.Now(), make(chan float64), 0.0
			var failed atomic.Int32
			var wg sync.WaitGroup
			for range workers {
				wg.Go(func() {
					for cost := range next {
						ctx := resilient.ContextWithOptions(t.Context())
						resp, err := transport.RoundTrip(costing(t, fmt.Sprint(cost)).WithContext(ctx))
						if err != nil || resp.StatusCode != 200 {
							failed.Add(1)
						}
						if err == nil {
							resilient.Settle(ctx, "tokens", cost)
							_ = resp.Body.Close()
						}
					}
				})
			}
			for range calls {
				cost := math.Round(min(1000*math.Exp(random.NormFloat64()*0.75), 20_000))
				sum += cost
				next <- cost
			}
			close(next)
			wg.Wait()
			took, optimum := time.Since(start).Seconds(), (sum-s.burst)/s.rate
			t.Logf("%.1f s of %.1f s; %d refused, %d failed", took, optimum, s.refused, failed.Load())
			require.LessOrEqual(t, took, 1.15*optimum)
			require.Less(t, s.refused, calls/5)
			require.Less(t, failed.Load(), int32(calls/100))
			limits := transport.Snapshot().Keys[0].Limits
			require.Len(t, limits, 1)
			require.Equal(t, "tokens", limits[0].Unit, "and not that of requests, whose name says that it counts them")
			require.Greater(t, limits[0].Rate, s.rate/4, "as it happens to be when the last request ends")
			require.Less(t, limits[0].Rate, s.rate*4)
			require.Regexp(t, `^\d+ tokens/s for GET /v1, confirmed .* ago$`, limits[0].String())
			require.Regexp(t, `^\d+ tokens/s`, words.Load())
		})
	}
}

// TestQuestionWithoutAnswer: an attempt that gets no answer, in whatever way, is no
// question that others wait for.
func TestQuestionWithoutAnswer(t *testing.T) {
	for _, first := range []step{
		fails(http.ErrServerClosed),
		func(*http.Request) (*http.Response, error) { panic("base") },
		answer(500), answer(404),
	} {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(first, answer(200))
			transport := resilient.NewTransport(base, resilient.WithMaxAttempts(1), resilient.WithLimit("tokens", rate.Inf, 0, tokens))
			for range 3 {
				func() {
					defer func() { _ = recover() }()
					resp, err := transport.RoundTrip(costing(t, "1"))
					if err == nil {
						_ = resp.Body.Close()
					}
				}()
			}
			require.Len(t, base.Attempts(), 3)
		})
	}
}

// TestToldWithinOnesOwn: the server lowers a limit that the user has set, and never
// raises it. Where it says what is left, there is nothing to settle.
func TestToldWithinOnesOwn(t *testing.T) {
	quotas := resilient.WithProfile(resilient.Profile{Quotas: map[string]resilient.QuotaFields{"tokens": {Limit: "L", Remaining: "R", Reset: "T"}}})
	for _, tt := range []struct {
		why                  string
		limit, remaining, in string
		want                 resilient.BucketSnapshot
	}{
		{"a lower limit", "50", "20", "6s", resilient.BucketSnapshot{Name: "tokens", Limit: 4.99, Burst: 50, Tokens: 20}},
		{"a higher one", "1000", "900", "1s", resilient.BucketSnapshot{Name: "tokens", Limit: 10, Burst: 100, Tokens: 60}},
		{"nothing left", "100", "0", "100s", resilient.BucketSnapshot{Name: "tokens", Limit: 0.998, Burst: 100, Tokens: 0}},
		{"nonsense", "many", "-3", "soon", resilient.BucketSnapshot{Name: "tokens", Limit: 10, Burst: 100, Tokens: 60}},
		{"only what is left", "", "7", "", resilient.BucketSnapshot{Name: "tokens", Limit: 10, Burst: 100, Tokens: 7}},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answer(200, "L", tt.limit, "R", tt.remaining, "T", tt.in))
				transport := resilient.NewTransport(base, quotas, resilient.WithLimit("tokens", 10, 100, tokens))
				resp, err := transport.RoundTrip(costing(t, "40"))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, []resilient.BucketSnapshot{tt.want}, transport.Snapshot().Keys[0].Buckets)
			})
		})
	}
}
