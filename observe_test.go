package resilient_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
)

// TestPauseIsShared: a pause holds for all requests of its key and for no other
// key, and ends step by step: one attempt goes, then twice as many with each
// round trip.
func TestPauseIsShared(t *testing.T) {
	for _, tt := range []struct {
		name      string
		rejection step
	}{
		{"429", answer(429, "Retry-After", "2")},
		{"503", answer(503, "Retry-After", "2")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				base := newScript(func(req *http.Request) (*http.Response, error) {
					if req.URL.Host == "api.test" && time.Since(start) < 2*time.Second {
						return tt.rejection(req)
					}
					time.Sleep(10 * ms)
					return answer(200)(req)
				})
				var r recorder
				transport := resilient.NewTransport(base, every(0), resilient.WithTrace(r.trace()))
				var wg sync.WaitGroup
				wg.Go(func() { callers(t, transport, 3) }) // three in a row make it a pause
				time.Sleep(time.Second)
				wg.Go(func() { callers(t, transport, 4) })
				other, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://other.test/", ""))
				require.NoError(t, err)
				require.NoError(t, other.Body.Close())
				require.Less(t, time.Since(start), 1100*ms, "other keys go on")
				wg.Wait()
				got := since(base, start)
				require.Equal(t, []time.Duration{
					0, 0, 10 * ms, // refused
					1000 * ms, 1000 * ms, // another host's, and the probe of the pause, refused too
				}, got[:5])
				// Then one, and twice as many with each round trip.
				require.Equal(t, []time.Duration{
					3000 * ms,
					3010 * ms, 3010 * ms,
					3020 * ms, 3020 * ms, 3020 * ms, 3020 * ms,
				}, got[5:])
				require.Equal(t, "pause", r.waits[len(r.waits)-1].Reason)
				time.Sleep(2 * time.Second)
				callers(t, transport, 1) // those who were refused would have come back by now
				callers(t, transport, 20)
				require.Equal(t, since(base, start)[13], since(base, start)[32], "then it is open")
			})
		})
	}
}

// TestPauseCostsOneRefusal: the limit is still in force when the pause ends,
// and one attempt finds out for all.
func TestPauseCostsOneRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := time.Now().Add(6 * time.Second)
		base := newScript(func(req *http.Request) (*http.Response, error) {
			if time.Now().Before(open) {
				return answer(429, "Retry-After", "2")(req)
			}
			return answer(200)(req)
		})
		callers(t, resilient.NewTransport(base, every(0), resilient.WithMaxAttempts(10)), 64)
		refused := base.Count() - 64
		require.LessOrEqual(t, refused, 6, "not one for each of 64 callers")
	})
}

// TestAHintBindsItsRequest: others go one by one, and the first that is accepted frees
// them.
func TestAHintBindsItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rejected := false
		base := newScript(func(req *http.Request) (*http.Response, error) {
			if !rejected {
				rejected = true
				return answer(429, "Retry-After", "10")(req)
			}
			time.Sleep(10 * ms)
			return answer(200)(req)
		})
		transport := resilient.NewTransport(base, every(0), resilient.WithRateLimit(20, 20))
		start := time.Now()
		callers(t, transport, 4)
		require.Equal(t, []time.Duration{0, 0, 10 * ms, 10 * ms, 10 * time.Second}, since(base, start))
	})
}

func TestAProbeThatHangsDoesNotHoldUpTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := func(req *http.Request) (*http.Response, error) {
			time.Sleep(30 * time.Second)
			return answer(200)(req)
		}
		base := newScript(answer(429, "Retry-After", "5"), hangs, hangs, answer(200))
		transport := resilient.NewTransport(base, every(0))
		start := time.Now()
		callers(t, transport, 4)
		require.Equal(t, []time.Duration{
			0, 0, time.Second, 2 * time.Second, 5 * time.Second,
		}, since(base, start), "one more goes each second, and the one that is accepted frees the rest")
	})
}

// TestNewcomersOfAHintGoOneByOne: while a hint is in force, and not after it.
func TestNewcomersOfAHintGoOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(req *http.Request) (*http.Response, error) {
			time.Sleep(10 * ms)
			return answer(200)(req)
		}
		base := newScript(answer(429, "Retry-After", "5"), slow)
		var r recorder
		transport := resilient.NewTransport(base, resilient.WithMaxAttempts(1), resilient.WithTrace(r.trace()))
		start := time.Now()
		callers(t, transport, 1)
		time.Sleep(4 * time.Second)
		callers(t, transport, 3)
		require.Equal(t, []time.Duration{0, 4 * time.Second, 4010 * ms, 4010 * ms}, since(base, start))
		require.Len(t, r.waits, 2)
		require.Equal(t, "pause", r.waits[0].Reason)
		require.Zero(t, r.waits[0].Duration, "how long it takes is up to the server")
		base.Reset()
		callers(t, transport, 1)
		time.Sleep(5500 * ms)
		start = time.Now()
		callers(t, transport, 3)
		require.Equal(t, []time.Duration{0, 0, 0}, since(base, start)[1:])
	})
}

func TestAProbeWithoutAnAnswerIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(429, "Retry-After", "5"), fails(io.EOF), answer(200))
		start := time.Now()
		callers(t, resilient.NewTransport(base, every(0)), 1)
		require.Equal(t, 5*time.Second, time.Since(start).Truncate(ms))
	})
}

// TestPauseLongerThanMaxWait: nobody can wait for such a pause, so callers are
// told at once. But the key is not shut for an hour on one server's word: after
// WithMaxWait one call goes and finds out.
func TestPauseLongerThanMaxWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuses := answer(429, "Retry-After", "3600")
		base := newScript(refuses, refuses, refuses, answer(200))
		transport := resilient.NewTransport(base)
		for range 3 {
			resp, err := transport.RoundTrip(get(t))
			require.NoError(t, err)
			require.Equal(t, 429, resp.StatusCode)
			require.NoError(t, resp.Body.Close())
		}

		time.Sleep(59 * time.Second)
		_, err := transport.RoundTrip(get(t))
		var limited *resilient.LimitError
		require.ErrorAs(t, err, &limited)
		require.Equal(t, resilient.LimitError{Reason: "pause", Wait: 3541 * time.Second, Bound: "WithMaxWait"}, *limited)
		require.Equal(t, 3, base.Count(), "nothing was sent")

		time.Sleep(time.Second)
		resp, err := transport.RoundTrip(get(t))
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode)
		require.NoError(t, resp.Body.Close())
	})
}

// TestAPauseFarLongerThanMaxWait: a hint of more than four times WithMaxWait,
// when it came again, held the key for twice as long as it should. One goes when
// WithMaxWait has passed. If that is refused too, the hint is believed.
func TestAPauseFarLongerThanMaxWait(t *testing.T) {
	for _, hint := range []int{241, 300, 480, 3600, 2400} {
		synctest.Test(t, func(t *testing.T) {
			base, start := newScript(answer(429, "Retry-After", strconv.Itoa(hint))), time.Now()
			transport := resilient.NewTransport(base)
			for range 10 * 60 { // a call a second, that comes to nothing
				if resp, err := transport.RoundTrip(get(t)); err == nil {
					require.NoError(t, resp.Body.Close())
				}
				time.Sleep(time.Second)
			}
			want := []time.Duration{0, time.Second, 2 * time.Second}
			for at := 62 * time.Second; at < 12*time.Minute; at += time.Duration(hint) * time.Second {
				want = append(want, at)
			}
			require.Equal(t, want, since(base, start), hint)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(429, "Retry-After", "2592000")) // 30 days
		transport := resilient.NewTransport(base)
		for range 24 * 60 {
			if resp, err := transport.RoundTrip(get(t)); err == nil {
				require.NoError(t, resp.Body.Close())
			}
			time.Sleep(time.Minute)
		}
		require.InDelta(t, 4+22, base.Count(), 2, "about one an hour finds out")
	})
}

// TestALongPauseIsForgotten: the longest hint ever given was taken for that of
// every later pause.
func TestALongPauseIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(429, "Retry-After", "86400"), answer(200), answer(429, "Retry-After", "2"), answer(200))
		transport := resilient.NewTransport(base, every(0))
		callers(t, transport, 1)
		time.Sleep(2 * time.Minute)
		callers(t, transport, 1)
		start := time.Now()
		callers(t, transport, 1)
		require.Equal(t, 4, base.Count())
		require.Equal(t, 2*time.Second, time.Since(start).Truncate(ms))
	})
}

// TestTheRetryThatSucceedsReopensTheKey: without hooks it was not known when
// the retry had been sent, so it did not count, and the next call waited for a
// second.
func TestTheRetryThatSucceedsReopensTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(429, "Retry-After", "1"), answer(200))
		start := time.Now()
		transport := resilient.NewTransport(base, every(0))
		callers(t, transport, 1)
		callers(t, transport, 2)
		require.Equal(t, []time.Duration{0, time.Second, time.Second, time.Second}, since(base, start))
	})
}

func TestARetryMindsAPauseThatBeganMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pause := answer(429, "Retry-After", "10")
		base := newScript(answer(429), pause, pause, pause, answer(200))
		start := time.Now()
		callers(t, resilient.NewTransport(base, every(time.Second)), 4)
		at := since(base, start)
		require.Len(t, at, 8)
		require.Equal(t, 2*time.Second, at[3].Truncate(100*ms), "it is the probe of the pause")
		require.Equal(t, 12*time.Second, at[4].Truncate(100*ms), "which is refused, and then holds it")
	})
}

func TestAPauseGivesBackTheReservedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pause := answer(509, "Retry-After", "10")
		late := func(req *http.Request) (*http.Response, error) {
			time.Sleep(500 * ms)
			return pause(req)
		}
		base := newScript(late, answer(200))
		transport := resilient.NewTransport(base, resilient.WithRateLimit(0.1, 1), resilient.WithMaxAttempts(1), resilient.WithMaxWait(time.Hour))
		var wg sync.WaitGroup
		wg.Go(func() { callers(t, transport, 1) })
		time.Sleep(100 * ms)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		time.AfterFunc(10200*ms, cancel) // in the pause, after its token fell due
		_, err := transport.RoundTrip(get(t).WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
		wg.Wait()
		start := time.Now()
		callers(t, transport, 1)
		require.Less(t, time.Since(start), time.Second, "the token is there")
	})
}

// TestNonsenseHeadersBlockNobody: rate limit headers that make no sense hold
// nobody up. Whatever is made of one, a wait is at most WithMaxWait, for the
// call that is told and for the next one.
func TestNonsenseHeadersBlockNobody(t *testing.T) {
	for _, header := range [][]string{
		{"Retry-After", "-1"},
		{"Retry-After", "99999999999999999999"},
		{"Retry-After", strings.Repeat("9", 64<<10)},
		{"Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"},
		{"Retry-After", "120, 240"},
		{"X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "0"},
		{"X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "-9223372036854775808"},
		{"X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "NaN"},
		{"X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "1e400"},
		{"X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "946684830"},
		{"X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "946684830000"},
		{"X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "1"},
		{"X-Ratelimit-Remaining", "0"},
		{"X-Ratelimit-Reset", "9223372036854775807"},
		{"X-Ratelimit-Limit", "0", "X-Ratelimit-Remaining", "-5"},
		{"Ratelimit", `"default";r=0;t=9223372036854775807`},
		{"Ratelimit", `"default";r=NaN;t=-1`},
		{"Ratelimit", `;;;`},
		{"Ratelimit-Policy", `"default";q=0;w=0`},
		{"Ratelimit-Remaining", "0", "Ratelimit-Reset", "1e400"},
	} {
		for _, opts := range [][]resilient.Option{nil, {resilient.WithRateLimit(10, 10)}} {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answer(429, header...), answer(200))
				transport := resilient.NewTransport(base, append(opts, every(time.Second))...)
				start := time.Now()
				resp, err := transport.RoundTrip(get(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				took := time.Since(start)
				require.LessOrEqual(t, took, time.Minute, header)
				if resp.StatusCode == 200 {
					require.GreaterOrEqual(t, took, time.Second, "%v: nonsense is no reason to hurry", header)
				}
				time.Sleep(time.Minute - took)
				callers(t, transport, 1)
				require.LessOrEqual(t, time.Since(start), time.Minute+ms, header)
			})
		}
	}
}

// TestManyHints: of many hints the first one counts, or none. It is not their
// sum, and reading them is bounded work.
func TestManyHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var header []string
		for range 500 {
			header = append(header, "Retry-After", "7")
		}
		base := newScript(answer(429, header...), answer(200))
		start := time.Now()
		callers(t, resilient.NewTransport(base, every(0)), 1)
		require.Contains(t, []time.Duration{0, 7 * time.Second}, since(base, start)[1])
	})
}

// bucket is a server with a limit, 20 ms away.
type bucket struct {
	mu       sync.Mutex
	limit    *rate.Limiter
	header   func(h http.Header, left float64)
	accepted []time.Time
	refused  int
}

func (b *bucket) RoundTrip(req *http.Request) (*http.Response, error) {
	b.mu.Lock()
	now := time.Now()
	ok := b.limit.AllowN(now, 1)
	step, wait := answer(200), 20*ms
	if ok {
		b.accepted = append(b.accepted, now)
	} else {
		b.refused++
		step, wait = answer(429), 5*ms
	}
	resp, err := step(req)
	if b.header != nil {
		b.header(resp.Header, b.limit.TokensAt(now))
	}
	b.mu.Unlock()
	time.Sleep(wait)
	return resp, err
}

// drain makes n calls with 64 workers and returns how long they took.
func drain(t *testing.T, transport *resilient.Transport, n int) time.Duration {
	t.Helper()
	start := time.Now()
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(n))
	for w := range 64 {
		wg.Go(func() {
			time.Sleep(time.Duration(w) * time.Microsecond)
			for left.Add(-1) >= 0 {
				resp, err := transport.RoundTrip(get(t))
				if err != nil || resp.StatusCode != 200 {
					t.Errorf("%v, %v", resp, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

func TestLearnedRate(t *testing.T) {
	const limit, burst, n = 100, 10, 1500
	optimum := (n - burst) * time.Second / limit
	for _, tt := range []struct {
		name    string
		header  func(h http.Header, left float64)
		opts    []resilient.Option
		within  float64 // times the optimum
		refused int
	}{
		{name: "from refusals", within: 1.05, refused: 100},
		{
			name: "from RateLimit fields", within: 1.02, refused: 64, // those of the first burst, and no other
			header: func(h http.Header, left float64) {
				h.Set("RateLimit-Policy", `"p";q=100;w=1`)
				h.Set("RateLimit", fmt.Sprintf(`"p";r=%d;t=1`, int(left)))
			},
		},
		{
			name: "with a hint on each refusal", within: 1.3, refused: 150,
			header: func(h http.Header, left float64) {
				if left < 1 {
					h.Set("Retry-After", "1")
				}
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &bucket{limit: rate.NewLimiter(limit, burst), header: tt.header}
				opts := append([]resilient.Option{resilient.WithMaxAttempts(10)}, tt.opts...)
				took := drain(t, resilient.NewTransport(srv, opts...), n)
				require.Less(t, took.Seconds(), tt.within*optimum.Seconds())
				require.LessOrEqual(t, srv.refused, tt.refused)
			})
		})
	}
}

// A server that counts by the minute has given out all it has after some seconds.
// Calls failed because the rest of the minute and the time until their turn came
// were taken for one wait, longer than WithMaxWait; and without a hint, because
// those in front were refused again and again until they had no attempts left.
func TestAMinuteThatIsUsedUp(t *testing.T) {
	for _, tt := range []struct {
		name string
		tell bool
	}{
		{"with Retry-After", true},
		{"without a hint", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				start, accepted, refused := time.Now(), map[int]int{}, 0
				base := step(func(req *http.Request) (*http.Response, error) {
					mu.Lock()
					minute := int(time.Since(start) / time.Minute)
					ok := accepted[minute] < 600
					if ok {
						accepted[minute]++
					} else {
						refused++
					}
					mu.Unlock()
					time.Sleep(20 * ms)
					switch {
					case ok:
						return answer(200)(req)
					case tt.tell:
						left := time.Until(start.Add(time.Duration(minute+1) * time.Minute))
						return answer(429, "Retry-After", strconv.Itoa(int(left.Seconds())+1))(req)
					}
					return answer(429)(req)
				})
				drain(t, resilient.NewTransport(base, resilient.WithMaxAttempts(10)), 2000) // fails if a call does
				require.Equal(t, map[int]int{0: 600, 1: 600, 2: 600, 3: 200}, accepted)
				require.Less(t, refused, 600, "it is asked, but not all the time")
			})
		})
	}
}

func TestLearnedRateOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &bucket{limit: rate.NewLimiter(100, 10)}
		var r recorder
		drain(t, resilient.NewTransport(srv, resilient.WithLearnedRate(false), resilient.WithMaxAttempts(100), resilient.WithTrace(r.trace())), 500)
		require.Greater(t, srv.refused, 200, "each finds out for itself")
		for _, w := range r.waits {
			require.Equal(t, "backoff", w.Reason)
		}
	})
}

// TestLearnedRateNeverExceedsTheLimitSet has a server that refuses one request
// in fifty, so that there is a pace, and then none, so that the pace rises.
func TestLearnedRateNeverExceedsTheLimitSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sent []time.Time
		base := step(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			sent = append(sent, time.Now())
			n := len(sent)
			mu.Unlock()
			time.Sleep(20 * ms)
			if n <= 200 && n%50 == 0 {
				return answer(429)(req)
			}
			return answer(200)(req)
		})
		drain(t, resilient.NewTransport(base, resilient.WithRateLimit(100, 5), resilient.WithMaxAttempts(10)), 1000)
		require.Greater(t, len(sent), 1000, "some were refused")
		for i := 105; i < len(sent); i++ {
			require.GreaterOrEqual(t, sent[i].Sub(sent[i-105]), time.Second-ms)
		}
	})
}

// TestRefusedGoesBeforeThoseBehindIt: what is refused for its rate keeps its
// place among those that arrived after it.
func TestRefusedGoesBeforeThoseBehindIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var order []string
		base := step(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			order = append(order, req.URL.Path)
			n := len(order)
			mu.Unlock()
			if n == 1 {
				time.Sleep(10 * ms) // while the others get into the queue
				return answer(429)(req)
			}
			return answer(200)(req)
		})
		transport := resilient.NewTransport(base, resilient.WithRateLimit(10, 1), every(0))
		var wg sync.WaitGroup
		for _, path := range []string{"/a", "/b", "/c", "/d"} {
			wg.Go(func() {
				resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://api.test"+path, ""))
				if err != nil {
					t.Error(err)
					return
				}
				_ = resp.Body.Close()
			})
			time.Sleep(ms)
		}
		wg.Wait()
		require.Equal(t, []string{"/a", "/a", "/b", "/c", "/d"}, order)
	})
}

// TestRefusedGoBackToTheirPlace: in a backlog, calls whose refused attempt went
// behind all others starved there.
func TestRefusedGoBackToTheirPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &bucket{limit: rate.NewLimiter(100, 10)}
		transport := resilient.NewTransport(srv, resilient.WithMaxAttempts(10))
		var mu sync.Mutex
		longest := time.Duration(0)
		var wg sync.WaitGroup
		for w := range 64 {
			wg.Go(func() {
				time.Sleep(time.Duration(w) * time.Microsecond)
				for range 20 {
					start := time.Now()
					resp, err := transport.RoundTrip(get(t))
					if err != nil || resp.StatusCode != 200 {
						t.Errorf("%v, %v", resp, err)
						return
					}
					mu.Lock()
					longest = max(longest, time.Since(start))
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		// 64 workers at 100 a second are 0.64 s each. A call that is refused more
		// than once has its backoff on top; the whole takes 12.7 s.
		require.Less(t, longest, 6*time.Second)
	})
}

// TestNothingIsLearnedWithoutARefusal: a key that was never refused, or has much
// left of its quota, costs nothing and waits for nothing.
func TestNothingIsLearnedWithoutARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &bucket{limit: rate.NewLimiter(rate.Inf, 1), header: func(h http.Header, _ float64) {
			h.Set("RateLimit-Policy", `"p";q=5000;w=3600`)
			h.Set("RateLimit", `"p";r=4000;t=1800`)
		}}
		var r recorder
		took := drain(t, resilient.NewTransport(srv, resilient.WithTrace(r.trace())), 640)
		require.Less(t, took, 250*ms, "ten round trips each")
		require.Empty(t, r.waits)
	})
}

// TestLoneRefusalsMeasureNothing: two refusals an hour apart were taken for a rate
// of one an hour, and nothing was sent for that long.
func TestLoneRefusalsMeasureNothing(t *testing.T) {
	lost := fails(&net.OpError{Op: "read", Err: syscall.ECONNRESET})
	for _, tt := range []struct {
		name  string
		opts  []resilient.Option
		req   func(testing.TB) *http.Request
		steps []step // the first are one call, and come again after the gap
		gap   time.Duration
	}{
		{"single attempts", []resilient.Option{resilient.WithMaxAttempts(1)}, get, []step{answer(429)}, time.Hour},
		{"POSTs that cannot be replayed", nil, stream, []step{answer(429)}, 30 * time.Minute},
		{"half an hour of nothing, with resets", nil, get, []step{answer(429), lost, lost, lost}, 30 * time.Minute},
		{"a few seconds", []resilient.Option{resilient.WithMaxAttempts(1)}, get, []step{answer(429)}, 4 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(append(slices.Concat(tt.steps, tt.steps), answer(200))...)
				transport := resilient.NewTransport(base, tt.opts...)
				for _, gap := range []time.Duration{tt.gap, time.Second} {
					resp, err := transport.RoundTrip(tt.req(t))
					if err == nil {
						require.NoError(t, resp.Body.Close())
					}
					time.Sleep(gap)
				}
				require.Equal(t, 2*len(tt.steps), base.Count())
				for i := range 100 { // a call a second
					start := time.Now()
					resp, err := transport.RoundTrip(get(t))
					require.NoError(t, err, i)
					require.NoError(t, resp.Body.Close())
					require.Zero(t, time.Since(start), i)
					time.Sleep(time.Second)
				}
				require.Empty(t, transport.Snapshot().Keys[0].Limits)
			})
		})
	}
}

// TestRefusalsByChance: one percent of 429s that no limit explains failed a quarter
// of all calls, and one bad backend of four nine of ten, because each pair of
// refusals was taken for the rate of the whole key. A retry loop without any
// limiter loses none of these.
func TestRefusalsByChance(t *testing.T) {
	part := func(p float64) func(*rand.Rand, int) bool {
		return func(r *rand.Rand, _ int) bool { return r.Float64() < p }
	}
	everyFourth := func(_ *rand.Rand, n int) bool { return n%4 == 0 }
	for _, tt := range []struct {
		name      string
		refuses   func(random *rand.Rand, n int) bool
		hint      []string
		perSecond int
		failed    float64 // at most, of all calls
		why       string
	}{
		{"1 %", part(0.01), nil, 100, 0, "a plain loop loses 1e-8"},
		{"5 %", part(0.05), nil, 100, 0.0005, "a plain loop loses 6e-6"},
		{"5 %, with a hint", part(0.05), []string{"Retry-After", "1"}, 100, 0.0005, "a hint is about its request"},
		{"20 %", part(0.2), nil, 100, 0.006, "a plain loop loses .0016"},
		{"1 of 4 backends", everyFourth, nil, 50, 0.01, "a plain loop loses .0039, with a deviation of .0011"},
		{"1 of 4 backends, with a hint", everyFourth, []string{"Retry-After", "1"}, 50, 0.01, "a plain loop loses .0039, with a deviation of .0011"},
	} {
		for seed := range uint64(7) {
			t.Run(fmt.Sprint(tt.name, "/", seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					random, n := rand.New(rand.NewPCG(seed, 0)), 0
					var mu sync.Mutex
					base := step(func(req *http.Request) (*http.Response, error) {
						mu.Lock()
						n++
						refused := tt.refuses(random, n)
						mu.Unlock()
						if refused {
							time.Sleep(5 * ms)
							return answer(429, tt.hint...)(req)
						}
						time.Sleep(50 * ms)
						return answer(200)(req)
					})
					transport := resilient.NewTransport(base)
					var calls sync.WaitGroup
					all, failed := 60*tt.perSecond, 0
					for range all {
						req := get(t)
						calls.Go(func() {
							resp, err := transport.RoundTrip(req)
							mu.Lock()
							defer mu.Unlock()
							if err != nil || resp.StatusCode != 200 {
								failed++
							}
							if err == nil {
								_ = resp.Body.Close()
							}
						})
						time.Sleep(time.Second / time.Duration(tt.perSecond))
					}
					calls.Wait()
					require.LessOrEqual(t, float64(failed)/float64(all), tt.failed, tt.why)
				})
			})
		}
	}
}

// TestASequentialCallerIsNotHeldToItsOwnBackoff: after two 429s without a hint a
// single worker went on at two calls a second for good, because it had waited half
// a second between them.
func TestASequentialCallerIsNotHeldToItsOwnBackoff(t *testing.T) {
	for _, workers := range []int{1, 2, 3, 4, 8} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			n, late := 0, 0
			base := step(func(req *http.Request) (*http.Response, error) {
				mu.Lock()
				n++
				refused := n > 100 && n <= 102
				mu.Unlock()
				time.Sleep(10 * ms)
				if refused {
					return answer(429)(req)
				}
				return answer(200)(req)
			})
			transport, start := resilient.NewTransport(base), time.Now()
			var working sync.WaitGroup
			for range workers {
				working.Go(func() {
					for time.Since(start) < 20*time.Second {
						resp, err := transport.RoundTrip(get(t))
						if err != nil {
							t.Error(err)
							return
						}
						_ = resp.Body.Close()
						if time.Since(start) > 10*time.Second {
							mu.Lock()
							late++
							mu.Unlock()
						}
					}
				})
			}
			working.Wait()
			require.InDelta(t, 1000*workers, late, 50*float64(workers), "%d workers", workers)
		})
	}
}

// TestAStrayRefusalUnderALargeQuota: with 900 left of 1,000 a day a single 429 set
// the pace to one in 86 seconds, and most calls of a job at one a second failed.
func TestAStrayRefusalUnderALargeQuota(t *testing.T) {
	for _, strays := range [][]int{{10}, {10, 12}, {10, 11, 40}, {100, 200, 300}} {
		synctest.Test(t, func(t *testing.T) {
			left, n := 900, 0
			base := newScript(func(req *http.Request) (*http.Response, error) {
				left--
				n++
				fields := []string{"RateLimit", fmt.Sprintf(`"day";r=%d;t=43200`, left), "RateLimit-Policy", `"day";q=1000;w=86400`}
				if slices.Contains(strays, n) {
					return answer(429, fields...)(req)
				}
				return answer(200, fields...)(req)
			})
			transport := resilient.NewTransport(base)
			for i := range 600 {
				start := time.Now()
				resp, err := transport.RoundTrip(get(t))
				require.NoError(t, err, i)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, 200, resp.StatusCode)
				require.Less(t, time.Since(start), 4*time.Second, "%d: no more than the backoff of two retries", i)
				time.Sleep(time.Second)
			}
		})
	}
}
