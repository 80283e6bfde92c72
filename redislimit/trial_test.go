package redislimit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/redislimit"
)

// refuseByChance makes the API refuse a part of the requests.
func (a *limitedAPI) refuseByChance(part float64, seed uint64) {
	a.chance, a.random = part, rand.New(rand.NewPCG(seed, 0))
}

// observed calls the API without a Transport, whose own pauses would hold requests
// back as well. Its refusals say to wait for a second.
func observed(ctx context.Context, wg *sync.WaitGroup, api *limitedAPI, l *redislimit.Limiter, goroutines int) {
	for range goroutines {
		wg.Go(func() {
			for l.Wait(ctx) == nil {
				start := time.Now()
				resp, err := api.RoundTrip(nil)
				if err != nil {
					panic(err)
				}
				a := resilient.AttemptInfo{StatusCode: resp.StatusCode, Duration: time.Since(start)}
				if resp.StatusCode != 200 {
					a.Verdict = resilient.Verdict{Kind: resilient.KindRateLimit, Pause: true, RetryAfter: time.Second}
				}
				l.Observe(a)
			}
		})
	}
}

// A fleet that was given 400 a second fell to 14 when 5 % were refused by chance.
func TestRefusalsByChance(t *testing.T) {
	for _, tt := range []struct {
		why          string
		limit        rate.Limit
		chance       float64
		processes    int
		way, service time.Duration
		hints        bool
		seeds        uint64
	}{
		{"one process", 400, 0.05, 1, 10 * ms, 0, false, 1},
		{"four", 400, 0.05, 4, 10 * ms, 0, false, 1},
		{"refusals come sooner than acceptances", 400, 0.05, 4, 2 * ms, 46 * ms, false, 1},
		{"refusals come late", 400, 0.05, 4, 50 * ms, 0, false, 1},
		{"each says to wait", 400, 0.05, 4, 10 * ms, 0, true, 1},
		{"rarely", 400, 0.01, 4, 10 * ms, 0, false, 1},
		{"often", 400, 0.2, 4, 2 * ms, 16 * ms, false, 1},
		{"a low limit", 50, 0.05, 4, 10 * ms, 0, false, 3},
		{"a high limit", 2000, 0.05, 4, 10 * ms, 0, false, 1},
	} {
		t.Run(tt.why, func(t *testing.T) {
			for seed := range tt.seeds {
				synctest.Test(t, func(t *testing.T) {
					n := newNetwork(t)
					log, logged := logger()
					api := newLimitedAPI(rate.Inf, 1)
					api.way, api.service = tt.way, tt.service
					api.refuseByChance(tt.chance, seed)
					ctx, cancel := context.WithCancel(t.Context())
					var wg sync.WaitGroup
					start := time.Now()
					for range tt.processes {
						l := redislimit.New(n.client(), "k", tt.limit, 10, redislimit.WithLogger(log))
						if tt.hints {
							observed(ctx, &wg, api, l, 64/tt.processes)
						} else {
							work(ctx, &wg, api, l, 64/tt.processes)
						}
					}
					period := min(10, 4000/float64(tt.limit)) // seconds
					time.Sleep(time.Duration(period * float64(time.Second)))
					accepted, refused := api.between(start, time.Now())
					cancel()
					wg.Wait()
					given := float64(tt.limit) * period
					require.GreaterOrEqual(t, accepted+refused, 0.97*given, "seed %d", seed)
					require.LessOrEqual(t, accepted+refused, given+10+12, "with a burst and a volley")
					require.Empty(t, logged(), "there is no lower limit")
				})
			}
		})
	}
}

// The limit is not lowered before a trial has confirmed it. Finding it must cost no
// more refusals than if each of them lowered it at once, which most is about.
func TestALowerLimitIsFoundFast(t *testing.T) {
	for _, tt := range []struct {
		limit rate.Limit
		way   time.Duration
		most  float64 // refusals in the first second
		later float64 // for each accepted request, when it is found
	}{
		{200, 10 * ms, 25, 0.02}, // it was 17, a volley less
		{100, 10 * ms, 35, 0.02},
		{40, 10 * ms, 53, 0.04},
		{100, 50 * ms, 152, 0.2}, // a limit that rises is looked for faster than refusals are known
	} {
		t.Run(fmt.Sprintf("%v of 400, %v away", tt.limit, tt.way), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				log, logged := logger()
				api := newLimitedAPI(tt.limit, 10)
				api.way = tt.way
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				start := time.Now()
				for range 4 {
					work(ctx, &wg, api, process(n, redislimit.WithLogger(log)), 16)
				}
				time.Sleep(20 * time.Second)
				_, refused := api.between(start, start.Add(time.Second))
				require.LessOrEqual(t, refused, tt.most)
				accepted, refused := api.between(start.Add(5*time.Second), time.Now())
				cancel()
				wg.Wait()
				require.GreaterOrEqual(t, accepted, 0.95*15*float64(tt.limit), "it is kept")
				require.LessOrEqual(t, refused, tt.later*accepted)
				require.Equal(t, 4, strings.Count(logged(), "\n"), "each process says it once")
			})
		})
	}
}

func TestChanceBesideALowerLimit(t *testing.T) {
	for _, tt := range []struct {
		why   string
		limit rate.Limit // in the first 10 s
	}{
		{"from the beginning", 200},
		{"chance is known when the limit begins", rate.Inf},
	} {
		t.Run(tt.why, func(t *testing.T) {
			for _, seed := range []uint64{1} { // more of them, and CI takes minutes more
				synctest.Test(t, func(t *testing.T) {
					n := newNetwork(t)
					api := newLimitedAPI(tt.limit, 10)
					api.refuseByChance(0.05, seed)
					ctx, cancel := context.WithCancel(t.Context())
					var wg sync.WaitGroup
					log, _ := logger()
					for range 4 {
						work(ctx, &wg, api, process(n, redislimit.WithLogger(log)), 8)
					}
					time.Sleep(10 * time.Second)
					api.setLimit(200)
					time.Sleep(5 * time.Second)
					start := time.Now()
					time.Sleep(20 * time.Second)
					accepted, refused := api.between(start, time.Now())
					cancel()
					wg.Wait()
					require.GreaterOrEqual(t, accepted, 0.9*20*200, "seed %d", seed)
					require.LessOrEqual(t, refused, 0.25*accepted, "seed %d: of 400 a second it would be 1", seed)
				})
			}
		})
	}
}

// A process ended between its volley and the outcomes.
func TestALostVolley(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		log, _ := logger()
		l := process(n, redislimit.WithLogger(log))
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		api := newLimitedAPI(100, 10)
		api.way = time.Minute
		work(ctx, &wg, api, l, 400)
		refusal := resilient.AttemptInfo{StatusCode: 429, Verdict: resilient.Verdict{Kind: resilient.KindRateLimit}}
		time.Sleep(100 * ms)
		l.Observe(refusal)
		synctest.Wait()
		time.Sleep(15 * time.Second)
		cancel()
		wg.Wait()

		other := process(n, redislimit.WithLogger(log))
		api = newLimitedAPI(100, 10)
		ctx, cancel = context.WithCancel(t.Context())
		work(ctx, &wg, api, other, 32)
		time.Sleep(5 * time.Second)
		cancel()
		wg.Wait()
		require.InDelta(t, 100, other.Stats().LearnedLimit, 50, "another process can find out")
	})
}

// The limit given was in force again, and not, several times a second, and each time
// every process said so.
func TestTheLogSaysAStateOnce(t *testing.T) {
	t.Run("the server's limit is only a little lower", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			api := newLimitedAPI(360, 10)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			log, logged := logger()
			for range 4 {
				work(ctx, &wg, api, process(n, redislimit.WithLogger(log)), 8)
			}
			time.Sleep(20 * time.Second)
			cancel()
			wg.Wait()
			require.Equal(t, 4, strings.Count(logged(), "\n"), logged())
			require.Equal(t, 4, strings.Count(logged(), "lets through less"))
		})
	})
	t.Run("Redis answers only now and then", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			log, logged := logger()
			l := process(n, redislimit.WithLogger(log))
			for range 90 {
				n.SetError("busy")
				require.Error(t, l.Wait(t.Context()))
				n.SetError("")
				require.NoError(t, l.Wait(t.Context()))
				time.Sleep(time.Second)
			}
			synctest.Wait()
			require.Equal(t, 2, strings.Count(logged(), "does not answer"), "once a minute: %s", logged())
			require.Equal(t, 2, strings.Count(logged(), "answers again"))

			n.SetError("gone")
			for range 4 {
				require.Error(t, l.Wait(t.Context()))
				time.Sleep(time.Second)
			}
			require.Equal(t, 3, strings.Count(logged(), "does not answer"), "an outage is said even then")
		})
	})
}
