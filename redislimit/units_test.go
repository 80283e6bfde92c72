package redislimit_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/bucket"
	"github.com/resilienthttp/resilient/redislimit"
)

// tokens costs what the header of a request says.
func tokens(req *http.Request) float64 {
	cost, err := strconv.ParseFloat(req.Header.Get("Tokens"), 64)
	if err != nil {
		return math.NaN()
	}
	return cost
}

func costing(ctx context.Context, cost string) *http.Request {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://api.example/", http.NoBody)
	if err != nil {
		panic(err)
	}
	req.Header.Set("Tokens", cost)
	return req
}

// settler is what Limiter.For returns, if it has costs.
type settler interface {
	Settle(name string, used float64)
}

// slow is so slow that nothing comes in the meantime.
const slow = 1e-6

// left returns what is left of a limit in Redis.
func (n *network) left(limit rate.Limit, burst int, name string) float64 {
	n.t.Helper()
	time.Sleep(20 * ms) // until everything is sent
	value, err := n.Get("resilient:limit:k")
	if err != nil {
		return float64(burst)
	}
	fields := strings.Fields(value)
	for _, field := range fields {
		if text, ok := strings.CutPrefix(field, name+"="); ok {
			ahead, err := strconv.ParseFloat(text, 64)
			require.NoError(n.t, err)
			return float64(burst) - ahead*float64(limit)/1e6
		}
	}
	if name == "requests" {
		ahead, err := strconv.ParseFloat(fields[2], 64)
		require.NoError(n.t, err)
		return float64(burst) - ahead*float64(limit)/1e6
	}
	return float64(burst)
}

// transport returns a client of a process whose limiter has a limit of tokens.
func (n *network) transport(base http.RoundTripper, l *redislimit.Limiter, opts ...resilient.Option) *resilient.Transport {
	return resilient.NewTransport(base, append([]resilient.Option{
		resilient.WithLimiter(l), resilient.WithMaxWait(time.Hour),
	}, opts...)...)
}

func roundTrip(t *testing.T, transport http.RoundTripper, req *http.Request) {
	t.Helper()
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
}

// api notes when requests came, and answers with the given statuses, and then with 200.
type api struct {
	start    time.Time
	statuses []int
	fail     error // in place of the first answer

	mu   sync.Mutex
	came []time.Duration
}

func (a *api) RoundTrip(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := len(a.came)
	a.came = append(a.came, time.Since(a.start))
	if n == 0 && a.fail != nil {
		return nil, a.fail
	}
	status := http.StatusOK
	if n < len(a.statuses) {
		status = a.statuses[n]
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
}

// TestUnits sends requests one after the other, at 10 tokens a second and 100 at once, and
// 1 request a second and 50 at once. It is what a Transport does alone.
func TestUnits(t *testing.T) {
	for _, tt := range []struct {
		why   string
		costs []string
		at    []time.Duration
	}{
		{"as many as there are go at once", []string{"40", "60"}, []time.Duration{0, 0}},
		{"and the next ones wait for theirs", []string{"100", "10", "20.5"}, []time.Duration{0, time.Second, 3050 * ms}},
		{"one that is larger than the burst waits for a full bucket", []string{"50", "130", "10"}, []time.Duration{0, 5 * time.Second, 9 * time.Second}},
		{"the largest number there is takes no longer than it must", []string{"1", "+Inf", "10"}, []time.Duration{0, 100 * ms, 1100 * ms}},
		{"a cost of nothing", []string{"100", "0", "0"}, []time.Duration{0, 0, 0}},
		{"a cost that makes no sense is 0", []string{"100", "-5", "NaN"}, []time.Duration{0, 0, 0}},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				a := &api{start: time.Now()}
				l := redislimit.New(n.client(), "k", 1, 50, redislimit.WithLimit("tokens", 10, 100, tokens))
				for _, cost := range tt.costs {
					roundTrip(t, n.transport(a, l), costing(t.Context(), cost))
				}
				requireTimes(t, tt.at, a.came)
			})
		})
	}
}

// requireTimes allows for the microseconds of the script's clock.
func requireTimes(t *testing.T, want, got []time.Duration) {
	t.Helper()
	require.Len(t, got, len(want), "%v", got)
	for i := range want {
		require.InDelta(t, want[i], got[i], float64(3*time.Microsecond), "request %d: want %v, got %v", i, want, got)
	}
}

// TestOneInstant: a request takes from all its limits in one instant or from none, and
// nothing overtakes it.
func TestOneInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		l := redislimit.New(n.client(), "k", 1, 2, redislimit.WithLimit("tokens", 10, 100, tokens), redislimit.WithLimit("calls", 100, 10, nil))
		start := time.Now()
		var all []*waiting
		for _, cost := range []string{"100", "100", "1"} {
			all = append(all, wait(t.Context(), l.For(costing(t.Context(), cost)), start))
		}
		require.InDelta(t, 1, n.left(1, 2, "requests"), 0.1, "one that waits for tokens takes nothing else")
		var went []time.Duration
		for _, w := range all {
			<-w.done
			require.NoError(t, w.err)
			went = append(went, w.at)
		}
		requireTimes(t, []time.Duration{0, 10 * time.Second, 10100 * ms}, went)
		value, err := n.Get("resilient:limit:k")
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(value, "v3 "), value)
	})
}

// TestUnitsTurns: the processes take turns, a request each. Nobody who has no request is
// waited for.
func TestUnitsTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		start := time.Now()
		var all []*waiting
		for range 2 {
			l := redislimit.New(n.client(), "k", 1000, 1000, redislimit.WithLimit("tokens", 10, 10, tokens))
			for range 4 {
				all = append(all, wait(t.Context(), l.For(costing(t.Context(), "10")), start))
			}
		}
		var went []time.Duration
		for _, w := range all {
			<-w.done
			require.NoError(t, w.err)
			went = append(went, w.at)
		}
		s := time.Second
		requireTimes(t, []time.Duration{0, 1 * s, 3 * s, 5 * s, 2 * s, 4 * s, 6 * s, 7 * s}, went)
	})
}

// TestUnitsShares: shares are equal in requests. All of the limit is used, and never more
// than it.
func TestUnitsShares(t *testing.T) {
	for _, tt := range []struct {
		why   string
		delay time.Duration // of each message
		limit rate.Limit    // of tokens, of which a request takes 10 on average
		most  float64       // calls for each request
	}{
		{"near", 0, 1000, 1.3},
		{"far", 2500 * time.Microsecond, 20000, 0.3},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				n.delay.Store(int64(tt.delay))
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				var mu sync.Mutex
				went, used := make([]float64, 4), 0.0
				server, refused := bucket.New(float64(tt.limit), float64(tt.limit)/10+20), 0
				var fleet []*redislimit.Limiter
				begin := time.Now().Add(2 * time.Second)
				for i := range went {
					l := redislimit.New(n.client(), "k", 1e5, 1e5, redislimit.WithLimit("tokens", tt.limit, int(tt.limit)/10, tokens))
					fleet = append(fleet, l)
					random := rand.New(rand.NewPCG(1, uint64(i)))
					for range 16 {
						wg.Go(func() {
							for {
								mu.Lock()
								cost := float64(random.IntN(19) + 1)
								mu.Unlock()
								if l.For(costing(ctx, fmt.Sprint(cost))).Wait(ctx) != nil {
									return
								}
								mu.Lock()
								if now := time.Now(); now.After(begin) {
									went[i]++
									used += cost
								}
								if server.Delay(time.Now(), cost, 0) > 0 {
									refused++
								}
								server.Take(time.Now(), cost)
								mu.Unlock()
							}
						})
					}
				}
				time.Sleep(2 * time.Second)
				calls := 0.0
				for _, l := range fleet {
					calls -= float64(l.Stats().Calls)
				}
				time.Sleep(5 * time.Second)
				for _, l := range fleet {
					calls += float64(l.Stats().Calls)
				}
				cancel()
				wg.Wait()
				sum := 0.0
				for _, its := range went {
					sum += its
				}
				for _, its := range went {
					require.InDelta(t, sum/4, its, 0.06*sum, "%v", went)
				}
				t.Logf("%v, %.3f calls a request", went, calls/sum)
				require.InDelta(t, 5*float64(tt.limit), used, 0.02*5*float64(tt.limit))
				require.Zero(t, refused)
				require.LessOrEqual(t, calls, tt.most*sum)
			})
		})
	}
}

// TestUnitsGivenBack: an attempt that the server did not charge for costs nothing, of what
// is counted by a function. It was an attempt all the same.
func TestUnitsGivenBack(t *testing.T) {
	dial := &net.OpError{Op: "dial", Err: errors.New("refused")}
	for _, tt := range []struct {
		why      string
		statuses []int
		fail     error
		tokens   float64
		requests float64
		calls    float64 // of a limit that counts attempts too
	}{
		{"refused for its rate", []int{429}, nil, 60, 8, 18},
		{"refused twice: there is less left than was thought", []int{429, 429}, nil, 20, 7, 17},
		{"never sent", nil, dial, 60, 9, 19},
		{"it may have been processed", []int{500}, nil, 20, 8, 18},
		{"wrong, which the server had to find out", []int{400}, nil, 60, 9, 19},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				l := redislimit.New(n.client(), "k", slow, 10, redislimit.WithLearnedRate(false),
					redislimit.WithLimit("tokens", slow, 100, tokens), redislimit.WithLimit("calls", slow, 20, nil))
				transport := n.transport(&api{statuses: tt.statuses, fail: tt.fail}, l)
				roundTrip(t, transport, costing(t.Context(), "40"))
				require.InDelta(t, tt.tokens, n.left(slow, 100, "tokens"), 1e-3)
				require.InDelta(t, tt.requests, n.left(slow, 10, "requests"), 1e-3)
				require.InDelta(t, tt.calls, n.left(slow, 20, "calls"), 1e-3)
			})
		})
	}
}

// TestUnitsNotMade: an attempt that the Transport does not make after all, because its
// own limit would take too long, gives everything back.
func TestUnitsNotMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		l := redislimit.New(n.client(), "k", slow, 10, redislimit.WithLimit("tokens", slow, 100, tokens))
		transport := n.transport(&api{}, l, resilient.WithRateLimit(0.001, 1))
		roundTrip(t, transport, costing(t.Context(), "40"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := transport.RoundTrip(costing(ctx, "40"))
		var limitErr *resilient.LimitError
		require.ErrorAs(t, err, &limitErr)
		require.InDelta(t, 60, n.left(slow, 100, "tokens"), 1e-3)
		require.InDelta(t, 9, n.left(slow, 10, "requests"), 1e-3)
	})
}

// TestUnitsSettle corrects the cost of one request, which was estimated at 40 of 100.
func TestUnitsSettle(t *testing.T) {
	for _, tt := range []struct {
		why  string
		used []float64
		name string
		left float64
	}{
		{"not at all: the estimate stands", nil, "tokens", 60},
		{"less", []float64{10}, "tokens", 90},
		{"nothing", []float64{0}, "tokens", 100},
		{"more", []float64{70}, "tokens", 30},
		{"more than there is: it is owed", []float64{250}, "tokens", -150},
		{"below zero is zero", []float64{-1000}, "tokens", 100},
		{"twice: the second has nothing to settle", []float64{10, 50}, "tokens", 90},
		{"no number", []float64{math.NaN(), math.Inf(1), math.Inf(-1)}, "tokens", 60},
		{"another limit", []float64{10}, "words", 60},
		{"a limit that counts attempts", []float64{10}, "calls", 60},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				l := redislimit.New(n.client(), "k", slow, 10, redislimit.WithLimit("tokens", slow, 100, tokens), redislimit.WithLimit("calls", slow, 20, nil))
				ctx := resilient.ContextWithOptions(t.Context())
				roundTrip(t, n.transport(&api{}, l), costing(ctx, "40"))
				before := l.Stats().Calls
				for _, used := range tt.used {
					asked := time.Now()
					resilient.Settle(ctx, tt.name, used)
					require.Zero(t, time.Since(asked), "it takes the caller no time")
				}
				require.InDelta(t, tt.left, n.left(slow, 100, "tokens"), 1e-3)
				require.InDelta(t, 9, n.left(slow, 10, "requests"), 1e-3)
				require.LessOrEqual(t, l.Stats().Calls-before, uint64(1))
			})
		})
	}
}

// TestSettleIsForBoth: the Transport may have a limit of the same name, of its own.
func TestSettleIsForBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		l := redislimit.New(n.client(), "k", slow, 10, redislimit.WithLimit("tokens", slow, 100, tokens), redislimit.WithLimit("words", slow, 100, tokens))
		transport := n.transport(&api{}, l, resilient.WithLimit("tokens", 1e-9, 50, tokens))
		ctx := resilient.ContextWithOptions(t.Context())
		roundTrip(t, transport, costing(ctx, "40"))
		resilient.Settle(ctx, "tokens", 10)
		resilient.Settle(ctx, "words", 20)
		require.InDelta(t, 90, n.left(slow, 100, "tokens"), 1e-3)
		require.InDelta(t, 80, n.left(slow, 100, "words"), 1e-3)
		require.InDelta(t, 40, transport.Snapshot().Keys[0].Buckets[0].Tokens, 1e-3)
	})
}

// TestSettleGoesWithTheNextRequest: a correction that another call can take along needs
// none of its own.
func TestSettleGoesWithTheNextRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		l := redislimit.New(n.client(), "k", slow, 1000, redislimit.WithLimit("tokens", slow, 100, tokens))
		transport := n.transport(&api{}, l)
		for range 10 { // of 40 tokens each
			ctx := resilient.ContextWithOptions(t.Context())
			roundTrip(t, transport, costing(ctx, "40"))
			resilient.Settle(ctx, "tokens", 1)
		}
		require.InDelta(t, 90, n.left(slow, 100, "tokens"), 1e-3)
		require.EqualValues(t, 11, l.Stats().Calls, "one for each request, and one for the last correction")
	})
}

// TestSettleWakesTheFleet: what turns out to be there is used by those who wait, in this
// process at once and in another one within a second.
func TestSettleWakesTheFleet(t *testing.T) {
	for _, tt := range []struct {
		why   string
		other bool
		most  time.Duration
	}{
		{"in the same process", false, 3*time.Second + 10*ms},
		{"in another one", true, 4 * time.Second},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				l := redislimit.New(n.client(), "k", 10, 10, redislimit.WithLimit("tokens", 1, 100, tokens))
				other := l
				if tt.other {
					other = redislimit.New(n.client(), "k", 10, 10, redislimit.WithLimit("tokens", 1, 100, tokens))
				}
				ctx := resilient.ContextWithOptions(t.Context())
				a := &api{start: time.Now()}
				roundTrip(t, n.transport(a, l), costing(ctx, "100"))
				time.AfterFunc(3*time.Second, func() { resilient.Settle(ctx, "tokens", 20) })
				roundTrip(t, n.transport(a, other), costing(t.Context(), "50"))
				require.GreaterOrEqual(t, a.came[1], 3*time.Second)
				require.LessOrEqual(t, a.came[1], tt.most)
			})
		})
	}
}

// TestSettleForMore makes those wait longer who wait already.
func TestSettleForMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		l, other := redislimit.New(n.client(), "k", 10, 10, redislimit.WithLimit("tokens", 10, 100, tokens)),
			redislimit.New(n.client(), "k", 10, 10, redislimit.WithLimit("tokens", 10, 100, tokens))
		ctx := resilient.ContextWithOptions(t.Context())
		a := &api{start: time.Now()}
		roundTrip(t, n.transport(a, l), costing(ctx, "100"))
		time.AfterFunc(time.Second, func() { resilient.Settle(ctx, "tokens", 130) })
		roundTrip(t, n.transport(a, other), costing(t.Context(), "50"))
		requireTimes(t, []time.Duration{0, 8 * time.Second}, a.came)
	})
}

// TestSettleLate: a correction counts when it is made. A key that has expired stood for
// full buckets, to which nothing can be given back.
func TestSettleLate(t *testing.T) {
	for _, tt := range []struct {
		why  string
		used float64
		at   time.Duration // of another request for the whole burst
	}{
		{"less: it is full anyway", 10, 0},
		{"more: from now on", 70, 3 * time.Second},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				l := redislimit.New(n.client(), "k", 10, 10, redislimit.WithLimit("tokens", 10, 100, tokens))
				ctx := resilient.ContextWithOptions(t.Context())
				roundTrip(t, n.transport(&api{}, l), costing(ctx, "40"))
				time.Sleep(time.Hour)
				n.FastForward(time.Hour)
				require.Empty(t, n.Keys())
				a := &api{start: time.Now()}
				resilient.Settle(ctx, "tokens", tt.used)
				roundTrip(t, n.transport(a, l), costing(t.Context(), "100"))
				requireTimes(t, []time.Duration{tt.at}, a.came)
			})
		})
	}
}

// TestSettleWhileRedisIsGone: what was used more is sent when Redis is back. What was used
// less may have been given back already.
func TestSettleWhileRedisIsGone(t *testing.T) {
	for _, tt := range []struct {
		why  string
		used float64
		left float64
	}{
		{"more", 70, 29},
		{"less", 10, 59},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				log, _ := logger()
				l := redislimit.New(n.client(), "k", slow, 10, redislimit.WithLogger(log), redislimit.WithLimit("tokens", slow, 100, tokens))
				transport := n.transport(&api{}, l)
				ctx := resilient.ContextWithOptions(t.Context())
				roundTrip(t, transport, costing(ctx, "40"))
				n.SetError("gone")
				resilient.Settle(ctx, "tokens", tt.used)
				time.Sleep(time.Minute)
				require.EqualValues(t, 2, l.Stats().Calls, "nobody goes on calling for it")
				n.SetError("")
				roundTrip(t, transport, costing(t.Context(), "1"))
				require.InDelta(t, tt.left, n.left(slow, 100, "tokens"), 1e-3)
			})
		})
	}
}

// TestSettleAnsweredTooLate: a call that Redis has executed, but not in time, is not
// repeated in effect.
func TestSettleAnsweredTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		log, _ := logger()
		client := n.clientWith(redis.Options{MaxRetries: -1}) // waits for the answer
		l := redislimit.New(client, "k", slow, 10, redislimit.WithLogger(log), redislimit.WithLimit("tokens", slow, 100, tokens))
		transport := n.transport(&api{}, l)
		ctx := resilient.ContextWithOptions(t.Context())
		roundTrip(t, transport, costing(ctx, "40"))
		n.delay.Store(int64(60 * ms))
		resilient.Settle(ctx, "tokens", 70)
		time.Sleep(time.Second)
		n.delay.Store(0)
		roundTrip(t, transport, costing(t.Context(), "1"))
		require.InDelta(t, 29, n.left(slow, 100, "tokens"), 1e-3)
	})
}

// TestUnitsGiveUp: a request that gives up takes nothing, whether it waits for Redis, for
// its turn or for the instant that was granted.
func TestUnitsGiveUp(t *testing.T) {
	for _, after := range []time.Duration{0, time.Second, 2 * time.Second, 2999 * ms, 3 * time.Second} {
		t.Run(after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				l, other := redislimit.New(n.client(), "k", 10, 10, redislimit.WithLimit("tokens", 10, 100, tokens)),
					redislimit.New(n.client(), "k", 10, 10, redislimit.WithLimit("tokens", 10, 100, tokens))
				require.NoError(t, l.For(costing(t.Context(), "100")).Wait(t.Context()))
				n.delay.Store(int64(2 * ms))
				start := time.Now()
				ctx, cancel := context.WithCancel(t.Context())
				quitter := wait(ctx, l.For(costing(ctx, "30")), start) // 3 s
				next := wait(t.Context(), other.For(costing(t.Context(), "20")), start)
				last := wait(t.Context(), l.For(costing(t.Context(), "20")), start)
				time.Sleep(after)
				cancel()
				<-quitter.done
				<-next.done
				<-last.done
				require.NoError(t, next.err)
				require.NoError(t, last.err)
				if quitter.err != nil {
					require.ErrorIs(t, quitter.err, context.Canceled)
					require.LessOrEqual(t, max(next.at, last.at), 5*time.Second, "nobody waits for it")
				} else {
					require.GreaterOrEqual(t, max(next.at, last.at), 7*time.Second)
				}
			})
		})
	}
}

// TestUnitsTooLate: a request is refused as soon as it can be foreseen that it will not go
// in time, and takes nothing.
func TestUnitsTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		l := redislimit.New(n.client(), "k", 10, 10, redislimit.WithLimit("tokens", 10, 100, tokens))
		start := time.Now()
		first := wait(t.Context(), l.For(costing(t.Context(), "100")), start)
		second := wait(t.Context(), l.For(costing(t.Context(), "80")), start)
		ctx, cancel := context.WithTimeout(t.Context(), 9*time.Second)
		defer cancel()
		short := wait(ctx, l.For(costing(ctx, "20")), start)
		third := wait(t.Context(), l.For(costing(t.Context(), "10")), start)
		var limitErr *resilient.LimitError
		require.ErrorAs(t, short.err, &limitErr)
		require.Zero(t, short.at)
		require.InDelta(t, 10*time.Second, limitErr.Wait, float64(time.Millisecond))
		var went []time.Duration
		for _, w := range []*waiting{first, second, third} {
			<-w.done
			went = append(went, w.at)
		}
		requireTimes(t, []time.Duration{0, 8 * time.Second, 9 * time.Second}, went)
	})
}

// TestUnitsPause: a pause holds all, and is heard of by the others within a second.
func TestUnitsPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		l, other := redislimit.New(n.client(), "k", 10, 10, redislimit.WithLimit("tokens", 10, 100, tokens)),
			redislimit.New(n.client(), "k", 10, 10, redislimit.WithLimit("tokens", 10, 100, tokens))
		require.NoError(t, l.For(costing(t.Context(), "100")).Wait(t.Context()))
		start := time.Now()
		first := wait(t.Context(), l.For(costing(t.Context(), "20")), start)
		second := wait(t.Context(), other.For(costing(t.Context(), "20")), start)
		time.Sleep(500 * ms)
		l.Pause(10 * time.Second)
		<-first.done
		<-second.done
		require.NoError(t, first.err)
		require.NoError(t, second.err)
		require.InDelta(t, 10500*ms, first.at, float64(time.Millisecond))
		require.InDelta(t, 10600*ms, second.at, float64(2*time.Millisecond), "without a burst of requests")
	})
}

// TestAPlaceIsLost: a process that has ended in the queue delays the others by no more than
// a second and a half.
func TestAPlaceIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		limit := redislimit.WithLimit("tokens", 10, 100, tokens)
		dead, l := redislimit.New(n.client(), "k", 10, 10, limit), redislimit.New(n.client(), "k", 10, 10, limit)
		require.NoError(t, l.For(costing(t.Context(), "100")).Wait(t.Context()))
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		its := wait(ctx, dead.For(costing(ctx, "100")), start)
		value, err := n.Get("resilient:limit:k")
		require.NoError(t, err)
		cancel()
		<-its.done
		synctest.Wait()
		require.NoError(t, n.Set("resilient:limit:k", value)) // as if it had ended before it could say so
		other := wait(t.Context(), l.For(costing(t.Context(), "10")), start)
		<-other.done
		require.NoError(t, other.err)
		require.GreaterOrEqual(t, other.at, time.Second)
		require.LessOrEqual(t, other.at, 2500*ms)
	})
}

func TestUnitsLocalShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		log, _ := logger()
		l := redislimit.New(n.client(), "k", 400, 80, redislimit.WithLogger(log), redislimit.WithFallback(redislimit.LocalShare(4)),
			redislimit.WithLimit("tokens", 40, 80, tokens))
		require.NoError(t, l.For(costing(t.Context(), "1")).Wait(t.Context()))
		n.SetError("gone")
		went := func(costs ...string) (times []time.Duration) {
			a := &api{start: time.Now()}
			for _, cost := range costs {
				roundTrip(t, n.transport(a, l), costing(t.Context(), cost))
			}
			return a.came
		}
		requireTimes(t, []time.Duration{time.Second, 3 * time.Second, 5 * time.Second, 7100 * ms}, went("10", "20", "40", "1"))
	})
}

// TestUnitsUnlimited: what went without Redis is not charged for afterwards.
func TestUnitsUnlimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		log, _ := logger()
		l := redislimit.New(n.client(), "k", slow, 10, redislimit.WithLogger(log), redislimit.WithFallback(redislimit.Unlimited()),
			redislimit.WithLimit("tokens", slow, 100, tokens))
		transport := n.transport(&api{}, l)
		roundTrip(t, transport, costing(t.Context(), "40"))
		n.SetError("gone")
		ctx := resilient.ContextWithOptions(t.Context())
		for range 10 {
			roundTrip(t, transport, costing(ctx, "40"))
		}
		n.SetError("")
		for range 10 {
			resilient.Settle(ctx, "tokens", 70)
		}
		time.Sleep(2 * time.Second)
		roundTrip(t, transport, costing(t.Context(), "1"))
		require.InDelta(t, 59, n.left(slow, 100, "tokens"), 1e-3)
	})
}

// TestUnitsLocalShareIsSettled: a process that keeps to its share keeps to the truth.
func TestUnitsLocalShareIsSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		log, _ := logger()
		l := redislimit.New(n.client(), "k", 400, 80, redislimit.WithLogger(log), redislimit.WithFallback(redislimit.LocalShare(4)),
			redislimit.WithLimit("tokens", 40, 80, tokens))
		transport := n.transport(&api{}, l)
		roundTrip(t, transport, costing(t.Context(), "1"))
		n.SetError("gone")
		a := &api{start: time.Now()}
		ctx := resilient.ContextWithOptions(t.Context())
		roundTrip(t, n.transport(a, l), costing(ctx, "10"))
		resilient.Settle(ctx, "tokens", 30)
		roundTrip(t, n.transport(a, l), costing(t.Context(), "10"))
		requireTimes(t, []time.Duration{time.Second, 4 * time.Second}, a.came)
	})
}

// TestRedisForgetsUnits: what a process has seen lately is told to Redis again. What was
// given back before is not taken again.
func TestRedisForgetsUnits(t *testing.T) {
	for _, tt := range []struct {
		why   string
		flush bool
		at    time.Duration
	}{
		{"lost", true, 6 * time.Second},
		{"not lost, but settled by another process", false, 3 * time.Second},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				limit := redislimit.WithLimit("tokens", 10, 100, tokens)
				l, other := redislimit.New(n.client(), "k", 10, 10, limit), redislimit.New(n.client(), "k", 10, 10, limit)
				ctx := resilient.ContextWithOptions(t.Context())
				a := &api{start: time.Now()}
				roundTrip(t, n.transport(a, l), costing(ctx, "40"))
				roundTrip(t, n.transport(a, other), costing(t.Context(), "60"))
				if tt.flush {
					n.FlushAll()
				} else {
					resilient.Settle(ctx, "tokens", 10)
					time.Sleep(20 * ms)
				}
				roundTrip(t, n.transport(a, other), costing(t.Context(), "60"))
				requireTimes(t, []time.Duration{0, 0, tt.at}, a.came)
			})
		})
	}
}

// TestSettledAndExpired: a process that has been away for longer than the key lives does
// not bring back what others have given back meanwhile.
func TestSettledAndExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		limit := redislimit.WithLimit("tokens", 10, 100, tokens)
		l, other := redislimit.New(n.client(), "k", 10, 10, limit), redislimit.New(n.client(), "k", 10, 10, limit)
		ctx := resilient.ContextWithOptions(t.Context())
		roundTrip(t, n.transport(&api{}, l), costing(ctx, "5000"))
		require.NoError(t, other.For(costing(t.Context(), "0")).Wait(t.Context()))
		resilient.Settle(ctx, "tokens", 10)
		time.Sleep(5 * time.Second)
		n.FastForward(5 * time.Second)
		require.Empty(t, n.Keys())
		a := &api{start: time.Now()}
		roundTrip(t, n.transport(a, other), costing(t.Context(), "100"))
		requireTimes(t, []time.Duration{0}, a.came)
	})
}

// TestUnitsAndTheClockSetBack: the remaining waits stay about the same.
func TestUnitsAndTheClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		limit := redislimit.WithLimit("tokens", 10, 100, tokens)
		l, other := redislimit.New(n.client(), "k", 10, 10, limit), redislimit.New(n.client(), "k", 10, 10, limit)
		start := time.Now()
		require.NoError(t, l.For(costing(t.Context(), "100")).Wait(t.Context()))
		first := wait(t.Context(), l.For(costing(t.Context(), "20")), start)
		n.ahead.Store(int64(-time.Hour))
		second := wait(t.Context(), other.For(costing(t.Context(), "20")), start)
		<-first.done
		<-second.done
		require.InDelta(t, 2*time.Second, first.at, float64(1100*ms), "within the time until it asks again")
		require.InDelta(t, first.at+2*time.Second, second.at, float64(100*ms))
	})
}

// TestUnitsAndEarlierVersions: a fleet is upgraded process by process. The script before
// this one counts requests, and drops the other limits. A process of this version without
// other limits leaves them alone.
func TestUnitsAndEarlierVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script, err := os.ReadFile("testdata/v2.lua")
		require.NoError(t, err)
		n := newNetwork(t)
		client := n.client()
		l := redislimit.New(n.client(), "k", slow, 10, redislimit.WithLimit("tokens", slow, 100, tokens))
		require.NoError(t, l.For(costing(t.Context(), "40")).Wait(t.Context()))

		plain := redislimit.New(n.client(), "k", slow, 10)
		require.NoError(t, plain.Wait(t.Context()))
		require.InDelta(t, 60, n.left(slow, 100, "tokens"), 1e-3)
		require.InDelta(t, 8, n.left(slow, 10, "requests"), 1e-3)

		reply, err := redis.NewScript(string(script)).Run(t.Context(), client, []string{"resilient:limit:k"},
			1e12, 10, 10, 1, "", "", "", "", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, int64(time.Hour/time.Microsecond)).StringSlice()
		require.NoError(t, err)
		ahead, err := strconv.ParseFloat(reply[8], 64)
		require.NoError(t, err)
		require.InDelta(t, 3e12, ahead, 1e6, "it goes as the third one")
		require.InDelta(t, 100, n.left(slow, 100, "tokens"), 1e-3, "it has no use for them")
		require.NoError(t, l.For(costing(t.Context(), "1")).Wait(t.Context()))
		require.InDelta(t, 59, n.left(slow, 100, "tokens"), 1e-3, "who has seen them lately tells Redis again")

		value, err := n.Get("resilient:limit:k")
		require.NoError(t, err)
		require.NoError(t, n.Set("resilient:limit:k", "v4"+strings.TrimPrefix(value, "v3")+" and=more of/every kind/1/2/3/4"))
		require.NoError(t, l.For(costing(t.Context(), "1")).Wait(t.Context()), "of a later version as much is read as is known")
		require.InDelta(t, 58, n.left(slow, 100, "tokens"), 1e-3)
	})
}

// TestLimitsMayChange: processes with other limits, in another order, share those that
// they both have.
func TestLimitsMayChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		l := redislimit.New(n.client(), "k", slow, 10, redislimit.WithLimit("tokens", slow, 100, tokens))
		other := redislimit.New(n.client(), "k", slow, 10, redislimit.WithLimit("a b/c=d", slow, 100, tokens), redislimit.WithLimit("tokens", slow, 100, tokens))
		require.NoError(t, l.For(costing(t.Context(), "40")).Wait(t.Context()))
		ctx, cancel := context.WithCancel(t.Context())
		w := wait(ctx, l.For(costing(ctx, "80")), time.Now())
		v := wait(ctx, other.For(costing(ctx, "70")), time.Now())
		require.InDelta(t, 60, n.left(slow, 100, "tokens"), 1e-3)
		require.InDelta(t, 100, n.left(slow, 100, "a+b%2Fc%3Dd"), 1e-3)
		cancel()
		<-w.done
		<-v.done
		synctest.Wait()
		require.NoError(t, other.For(costing(t.Context(), "30")).Wait(t.Context()), "nobody is in front of it any more")
		require.NoError(t, l.For(costing(t.Context(), "10")).Wait(t.Context()))
		require.InDelta(t, 20, n.left(slow, 100, "tokens"), 1e-3)
		require.InDelta(t, 70, n.left(slow, 100, "a+b%2Fc%3Dd"), 1e-3)
	})
}

// TestUnitsLearn: a lower limit of the server's is learned in requests. Those that are sent
// in a trial take what they cost.
func TestUnitsLearn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		server := newLimitedAPI(100, 10)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var fleet []*redislimit.Limiter
		log, _ := logger()
		for range 4 {
			l := redislimit.New(n.client(), "k", 400, 10, redislimit.WithLogger(log), redislimit.WithLimit("tokens", slow, 1e6, func(*http.Request) float64 { return 1 }))
			fleet = append(fleet, l)
			work(ctx, &wg, server, l, 8)
		}
		time.Sleep(10 * time.Second)
		start := time.Now()
		time.Sleep(20 * time.Second)
		accepted, refused := server.between(start, time.Now())
		require.GreaterOrEqual(t, accepted, 0.93*100*20)
		require.LessOrEqual(t, refused, 0.04*accepted)
		for _, l := range fleet {
			require.InDelta(t, 100, l.Stats().LearnedLimit, 50)
		}
		cancel()
		wg.Wait()
		accepted, _ = server.between(time.Time{}, time.Now())
		require.InDelta(t, 1e6-accepted, n.left(slow, 1e6, "tokens"), 40, "what was refused is given back, and what was sent is not")
	})
}

func TestUnitsKeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		keyed := redislimit.NewKeyed(n.client(), slow, 10, redislimit.WithLimit("tokens", slow, 1, nil), redislimit.WithLimit("tokens", slow, 100, tokens))
		transport := resilient.NewTransport(&api{}, resilient.WithLimiterFor(keyed.For(func(req *http.Request) string { return req.Header.Get("Account") })))
		ctx := resilient.ContextWithOptions(t.Context())
		for _, key := range []string{"k", "other"} {
			req := costing(ctx, "40")
			req.Header.Set("Account", key)
			roundTrip(t, transport, req)
		}
		resilient.Settle(ctx, "tokens", 10)
		resilient.Settle(ctx, "tokens", 20)
		require.InDelta(t, 90, n.left(slow, 100, "tokens"), 1e-3)
		require.Equal(t, []string{"resilient:limit:k", "resilient:limit:other"}, n.Keys())
	})
}

// TestUnitsWaitIsAnnounced: the Wait hook is told when a request goes, as it looks when it
// begins to wait.
func TestUnitsWaitIsAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		l := redislimit.New(n.client(), "k", 10, 10, redislimit.WithLimit("tokens", 10, 100, tokens))
		require.NoError(t, l.For(costing(t.Context(), "100")).Wait(t.Context()))
		waits := make(chan time.Duration, 3)
		for range 3 {
			transport := n.transport(&api{}, l, resilient.WithTrace(&resilient.Trace{
				Wait: func(i resilient.WaitInfo) { waits <- i.Duration },
			}))
			go func() {
				if resp, err := transport.RoundTrip(costing(t.Context(), "20")); err == nil {
					resp.Body.Close()
				}
			}()
			synctest.Wait()
		}
		requireTimes(t, []time.Duration{2 * time.Second, 4 * time.Second, 6 * time.Second}, []time.Duration{<-waits, <-waits, <-waits})
		time.Sleep(10 * time.Second)
	})
}

func TestUnitsNonsensePanics(t *testing.T) {
	client := redis.NewClient(&redis.Options{})
	defer client.Close()
	for _, tt := range []struct {
		want string
		make func()
	}{
		{`redislimit: WithLimit must be used with a name that is not empty or requests, got ""`, func() { redislimit.WithLimit("", 1, 1, nil) }},
		{`redislimit: WithLimit must be used with a name that is not empty or requests, got "requests"`, func() { redislimit.WithLimit("requests", 1, 1, nil) }},
		{"redislimit: WithLimit must be used with a limit above 0 and finite, got 0", func() { redislimit.WithLimit("tokens", 0, 1, nil) }},
		{"redislimit: WithLimit must be used with a burst of at least 1, got 0", func() { redislimit.WithLimit("tokens", 1, 0, nil) }},
		{"redislimit: WithLimit must be used for at most 7 names, got 8", func() {
			var opts []redislimit.Option
			for i := range 8 {
				opts = append(opts, redislimit.WithLimit(strconv.Itoa(i), 1, 1, nil))
			}
			redislimit.New(client, "k", 1, 1, opts...)
		}},
	} {
		require.PanicsWithValue(t, tt.want, tt.make)
	}
	for _, limit := range []rate.Limit{rate.Inf, -1, rate.Limit(math.NaN())} {
		require.Panics(t, func() { redislimit.WithLimit("tokens", limit, 1, nil) })
	}
}

// TestUnitsFaults: Redis fails, hangs and forgets, its clock is set back and forth, and
// requests give up meanwhile. Everybody gets an answer, and in the end nobody is waited
// for, and nothing is owed or missing.
func TestUnitsFaults(t *testing.T) {
	for i, fallback := range []redislimit.Fallback{redislimit.Refuse(), redislimit.Unlimited(), redislimit.LocalShare(3)} {
		for seed := range uint64(3) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, uint64(i)))
				n := newNetwork(t)
				log, _ := logger()
				var fleet []*redislimit.Limiter
				for k := range 3 {
					client := n.client()
					if k == 2 {
						client = n.clientWith(redis.Options{}) // with settings that are warned of
					}
					fleet = append(fleet, redislimit.New(client, "k", 100, 50, redislimit.WithLogger(log), redislimit.WithFallback(fallback),
						redislimit.WithLimit("tokens", 1000, 500, tokens)))
				}
				var wg sync.WaitGroup
				for range 400 {
					l, cost, patience := fleet[random.IntN(3)], float64(random.IntN(120)), time.Duration(random.IntN(3000))*ms
					quits, late := random.IntN(3) == 0, time.Duration(random.IntN(1000))*ms
					used := cost * random.Float64() * 1.5
					wg.Go(func() {
						ctx, cancel := context.WithCancel(t.Context())
						defer cancel()
						if quits {
							time.AfterFunc(patience, cancel)
						}
						r := l.For(costing(ctx, fmt.Sprint(cost)))
						if r.Wait(ctx) == nil {
							time.Sleep(late)
							r.(settler).Settle("tokens", used)
						}
					})
					switch random.IntN(40) {
					case 0:
						n.SetError("gone")
					case 1:
						n.hangs.Store(true)
					case 2:
						n.FlushAll()
					case 3:
						n.ahead.Store(int64(random.IntN(4000)-2000) * int64(ms))
					case 4:
						n.delay.Store(int64(random.IntN(30)) * int64(ms))
					case 5:
						l.Pause(time.Duration(random.IntN(500)) * ms)
					case 6, 7, 8, 9, 10:
						n.SetError("")
						n.hangs.Store(false)
					}
					time.Sleep(time.Duration(random.IntN(100)) * ms)
				}
				n.SetError("")
				n.hangs.Store(false)
				n.delay.Store(0)
				wg.Wait()
				time.Sleep(time.Minute)
				for _, l := range fleet { // what they have not told Redis yet
					require.NoError(t, l.For(costing(t.Context(), "0")).Wait(t.Context()))
				}
				time.Sleep(time.Minute)
				require.NoError(t, fleet[0].For(costing(t.Context(), "0")).Wait(t.Context()))
				require.InDelta(t, 500, n.left(1000, 500, "tokens"), 1e-3)
				require.InDelta(t, 49, n.left(100, 50, "requests"), 1e-3)
				value, err := n.Get("resilient:limit:k")
				require.NoError(t, err)
				require.NotContains(t, value, "/", "nobody is waited for")
			})
		}
	}
}
