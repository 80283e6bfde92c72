package redislimit_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/redislimit"
)

// limitedAPI is a RoundTripper that stands for a server with a token bucket, which
// may also refuse requests by chance.
type limitedAPI struct {
	bucket  *rate.Limiter
	hint    string // Retry-After
	way     time.Duration
	service time.Duration // of an accepted request

	mu                sync.Mutex
	accepted, refused []time.Time
	chance            float64
	random            *rand.Rand
}

func newLimitedAPI(limit rate.Limit, burst int) *limitedAPI {
	return &limitedAPI{bucket: rate.NewLimiter(limit, burst), way: 10 * ms}
}

func (a *limitedAPI) RoundTrip(req *http.Request) (*http.Response, error) {
	time.Sleep(a.way) // virtual
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: req}
	a.mu.Lock()
	now := time.Now()
	ok := (a.chance == 0 || a.random.Float64() >= a.chance) && a.bucket.AllowN(now, 1)
	if ok {
		a.accepted = append(a.accepted, now)
	} else {
		a.refused = append(a.refused, now)
		resp.StatusCode = http.StatusTooManyRequests
		resp.Body = io.NopCloser(strings.NewReader(`{"type":"RATE_LIMIT_ERROR"}`))
		if a.hint != "" {
			resp.Header.Set("Retry-After", a.hint)
		}
	}
	a.mu.Unlock()
	if ok {
		time.Sleep(a.service)
	}
	time.Sleep(a.way)
	return resp, nil
}

func (a *limitedAPI) setLimit(limit rate.Limit) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bucket.SetLimitAt(time.Now(), limit)
}

// between returns the numbers of requests accepted and refused in a period.
func (a *limitedAPI) between(from, until time.Time) (accepted, refused float64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	count := func(times []time.Time) (n float64) {
		for _, at := range times {
			if !at.Before(from) && at.Before(until) {
				n++
			}
		}
		return n
	}
	return count(a.accepted), count(a.refused)
}

// work lets the goroutines of one process call the API until ctx ends.
func work(ctx context.Context, wg *sync.WaitGroup, api *limitedAPI, l *redislimit.Limiter, goroutines int) {
	client := &http.Client{Transport: resilient.NewTransport(api, resilient.WithLimiter(l), resilient.WithMaxAttempts(1))}
	for range goroutines {
		wg.Go(func() {
			for ctx.Err() == nil {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://api.example/", http.NoBody)
				if err != nil {
					panic(err)
				}
				if resp, err := client.Do(req); err == nil {
					resp.Body.Close()
				}
			}
		})
	}
}

// process adds a process to a fleet whose configured limit is 400 a second.
func process(n *network, opts ...redislimit.Option) *redislimit.Limiter {
	return redislimit.New(n.client(), "k", 400, 10, opts...)
}

func TestLearnsTheServersLimit(t *testing.T) {
	for _, tt := range []struct {
		why   string
		hint  string
		used  float64       // of the limit, at least
		found time.Duration // until a higher limit is found, or 0 if that takes too long for a test
	}{
		{"from refusals alone", "", 0.95, 10 * time.Second},
		{"a refusal that is a pause for all costs more, so there are fewer", "1", 0.9, 0},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				api := newLimitedAPI(100, 10)
				api.hint = tt.hint
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				var fleet []*redislimit.Limiter
				for range 4 {
					l := process(n)
					fleet = append(fleet, l)
					work(ctx, &wg, api, l, 8)
				}
				time.Sleep(10 * time.Second)
				start := time.Now()
				time.Sleep(30 * time.Second)
				accepted, refused := api.between(start, time.Now())
				require.GreaterOrEqual(t, accepted, tt.used*100*30)
				require.LessOrEqual(t, refused, 0.02*accepted)
				for _, l := range fleet {
					require.InDelta(t, 100, l.Stats().LearnedLimit, 50, "the same for all")
				}

				if tt.found > 0 {
					api.setLimit(200)
					time.Sleep(tt.found)
					start = time.Now()
					time.Sleep(10 * time.Second)
					accepted, refused = api.between(start, time.Now())
					require.GreaterOrEqual(t, accepted, 0.9*200*10, "found again")
					require.LessOrEqual(t, refused, 0.03*accepted)
				}
				cancel()
				wg.Wait()
			})
		})
	}
}

func TestWhoJoinsIsPacedFromTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		api := newLimitedAPI(100, 10)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		first := process(n)
		work(ctx, &wg, api, first, 32)
		time.Sleep(10 * time.Second)
		cancel()
		wg.Wait()
		learned := first.Stats().LearnedLimit
		require.InDelta(t, 100, learned, 50)

		_, before := api.between(time.Time{}, time.Now())
		ctx, cancel = context.WithCancel(t.Context())
		second := process(n)
		start := time.Now()
		work(ctx, &wg, api, second, 32)
		time.Sleep(2 * time.Second)
		cancel()
		wg.Wait()
		require.InDelta(t, 100, second.Stats().LearnedLimit, 50)
		accepted, after := api.between(start, time.Now())
		require.GreaterOrEqual(t, accepted, 180.0)
		require.LessOrEqual(t, after-before, 5.0, "to learn it took the first one more")
	})
}

func TestNothingToLearn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := func(opts ...redislimit.Option) uint64 {
			n := newNetwork(t)
			api := newLimitedAPI(500, 20) // requests that leave at 400 a second arrive in time
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			l := process(n, opts...)
			work(ctx, &wg, api, l, 16)
			time.Sleep(5 * time.Second)
			cancel()
			wg.Wait()
			accepted, refused := api.between(time.Time{}, time.Now())
			require.Zero(t, refused)
			require.InDelta(t, 5*400, accepted, 15)
			require.Zero(t, l.Stats().LearnedLimit)
			value, err := n.Get("resilient:limit:k")
			require.NoError(t, err)
			require.True(t, strings.HasPrefix(value, "v1 "), value)
			return l.Stats().Calls
		}
		without := calls(redislimit.WithLearnedRate(false))
		require.InDelta(t, without, calls(), 2, "it costs nothing; the last ones may be given up") // by the end
	})
}

func TestUnlearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		api := newLimitedAPI(100, 10)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		deaf, learner := process(n, redislimit.WithLearnedRate(false)), process(n)
		work(ctx, &wg, api, deaf, 16)
		time.Sleep(5 * time.Second)
		accepted, refused := api.between(time.Time{}, time.Now())
		require.InDelta(t, 5*400, accepted+refused, 20, "nothing is learned")
		cancel()
		wg.Wait()

		ctx, cancel = context.WithCancel(t.Context())
		work(ctx, &wg, api, learner, 16)
		time.Sleep(5 * time.Second)
		cancel()
		wg.Wait()
		require.InDelta(t, 100, learner.Stats().LearnedLimit, 50)
		require.Equal(t, []time.Duration{0, 2500 * time.Microsecond}, intervals(t, deaf, 2), "it does not go by it either")
		require.InDelta(t, 100, learner.Stats().LearnedLimit, 50, "and takes nothing away")
		require.NoError(t, learner.Wait(t.Context()))
		require.InDelta(t, 100, learner.Stats().LearnedLimit, 50)
	})
}

// intervals lets n requests wait at an empty bucket, and returns the times from the
// first of them.
func intervals(t *testing.T, l *redislimit.Limiter, n int) []time.Duration {
	t.Helper()
	departures(t, l, 20) // the burst
	went := departures(t, l, n)
	for i := range went[1:] {
		went[i+1] = (went[i+1] - went[0]).Round(10 * time.Microsecond)
	}
	went[0] = 0
	return went
}

func TestWhatNobodyNeedsIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		api := newLimitedAPI(100, 10)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		log, logged := logger()
		l := process(n, redislimit.WithLogger(log))
		work(ctx, &wg, api, l, 16)
		time.Sleep(5 * time.Second)
		cancel()
		wg.Wait()
		require.InDelta(t, 100, l.Stats().LearnedLimit, 50)
		for range 300 { // hardly any
			require.NoError(t, l.Wait(t.Context()))
			time.Sleep(time.Second)
		}
		require.Zero(t, l.Stats().LearnedLimit)
		require.Equal(t, 1, strings.Count(logged(), `level=INFO msg="redislimit: the server lets through less than the limit given" limit=400`))
		require.Equal(t, 1, strings.Count(logged(), `level=INFO msg="redislimit: the limit given is in force again" limit=400`))
		require.Equal(t, 2, strings.Count(logged(), "\n"), logged())
	})
}

func TestLearnedLimitOutlivesRedis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		api := newLimitedAPI(100, 10)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		l, other := process(n), process(n)
		work(ctx, &wg, api, l, 16)
		time.Sleep(5 * time.Second)
		n.FlushAll()
		time.Sleep(time.Second)
		cancel()
		wg.Wait()
		require.NoError(t, other.Wait(t.Context()))
		require.InDelta(t, 100, other.Stats().LearnedLimit, 50, "it was told to Redis again")
	})
}

// A fleet is upgraded process by process. The previous script, v1, has no learned
// limit.
func TestFleetOfTwoVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script, err := os.ReadFile("testdata/v1.lua")
		require.NoError(t, err)
		n := newNetwork(t)
		client := n.client()
		old := func() (ahead string, err error) {
			reply, err := redis.NewScript(string(script)).Run(t.Context(), client, []string{"resilient:limit:k"},
				2500, 10, "", "", "", 0, 0, int64(time.Hour/time.Microsecond)).StringSlice()
			if err != nil {
				return "", err
			}
			return reply[3], nil
		}
		l := process(n)
		departures(t, l, 3)
		ahead, err := old()
		require.NoError(t, err)
		require.Equal(t, "10000.000", ahead, "one after the three of the new version")
		require.Equal(t, make([]time.Duration, 6), departures(t, l, 6), "and those share what is left of the burst")
		require.Positive(t, departures(t, l, 1)[0])

		api := newLimitedAPI(100, 10)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		work(ctx, &wg, api, l, 16)
		time.Sleep(5 * time.Second)
		cancel()
		wg.Wait()
		_, err = old()
		require.ErrorContains(t, err, "something other than a limit", "while something is learned, it has to go by WithFallback")
		require.InDelta(t, 100, l.Stats().LearnedLimit, 50)

		later, err := n.Get("resilient:limit:k")
		require.NoError(t, err)
		require.NoError(t, n.Set("resilient:limit:k", "v3"+strings.TrimPrefix(later, "v2")+" and more"))
		require.NoError(t, l.Wait(t.Context()), "of a later version as much is read as is known")
		require.InDelta(t, 100, l.Stats().LearnedLimit, 50)
	})
}

func TestTheWaitIsAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		l := redislimit.New(n.client(), "k", 10, 1)
		require.NoError(t, l.Wait(t.Context()))
		type wait struct {
			reason              string
			at, announced, took time.Duration
		}
		start := time.Now()
		waits := make(chan wait, 3)
		for range 3 {
			go func() {
				var w wait
				api := newLimitedAPI(1000, 10)
				client := http.Client{Transport: resilient.NewTransport(api, resilient.WithLimiter(l), resilient.WithTrace(&resilient.Trace{
					Wait: func(i resilient.WaitInfo) {
						w.reason, w.at, w.announced = i.Reason, time.Since(start), i.Duration
					},
					AttemptStart: func(resilient.AttemptInfo) { w.took = time.Since(start) },
				}))}
				resp, err := client.Get("http://api.example/")
				if err == nil {
					resp.Body.Close()
				}
				waits <- w
			}()
			synctest.Wait()
		}
		for i := range 3 {
			d := time.Duration(i+1) * 100 * ms
			require.Equal(t, wait{"limiter", 0, d, d}, <-waits, "before it begins, and in full")
		}
	})
}
