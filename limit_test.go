package resilient_test

import (
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

// steadily makes calls to a URL at a steady rate for some time, each of its own
// goroutine, and returns how long each of them took; those that failed took an hour.
func steadily(t *testing.T, transport *resilient.Transport, url string, perSecond float64, d time.Duration) (took []time.Duration) {
	t.Helper()
	var mu sync.Mutex
	var calls sync.WaitGroup
	gap := time.Duration(float64(time.Second) / perSecond)
	for range int(d / gap) {
		calls.Go(func() {
			begin := time.Now()
			resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, url, ""))
			spent := time.Since(begin)
			if err == nil {
				_ = resp.Body.Close()
			}
			if err != nil || resp.StatusCode != http.StatusOK {
				spent = time.Hour
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, spent)
		})
		time.Sleep(gap)
	}
	calls.Wait()
	return took
}

// TestALimitOnOneRoute: /search takes 5 requests a second and is asked for 10, and each
// of its refusals slowed /items, a thousandfold in the end.
func TestALimitOnOneRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		search := rate.NewLimiter(5, 5)
		var refused atomic.Int32
		base := step(func(req *http.Request) (*http.Response, error) {
			if req.URL.Path == "/search" && !search.Allow() {
				time.Sleep(5 * ms)
				refused.Add(1)
				return answer(429)(req)
			}
			time.Sleep(12 * ms)
			return answer(200)(req)
		})
		transport := resilient.NewTransport(base)
		var both sync.WaitGroup
		both.Go(func() { steadily(t, transport, "http://api.test/search", 10, 20*time.Second) })
		for _, d := range steadily(t, transport, "http://api.test/items", 81, 20*time.Second) {
			require.Equal(t, 12*ms, d, "nothing is known of it")
		}
		both.Wait()
		require.LessOrEqual(t, refused.Load(), int32(80), "a loop without a limiter is refused 1,000 times")
	})
}

// TestALimitOnRequestsInFlight: a server with room for 8 requests was taken for one with
// a rate, and half of it stood empty; as a 503 it was not seen at all.
func TestALimitOnRequestsInFlight(t *testing.T) {
	for _, status := range []int{429, 503} {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			var mu sync.Mutex
			var inFlight, refused int
			base := step(func(req *http.Request) (*http.Response, error) {
				mu.Lock()
				if inFlight == 8 {
					refused++
					mu.Unlock()
					time.Sleep(5 * ms)
					return answer(status)(req)
				}
				inFlight++
				service := time.Duration(rng.ExpFloat64() * float64(80*ms))
				mu.Unlock()
				time.Sleep(service)
				mu.Lock()
				inFlight--
				mu.Unlock()
				return answer(200)(req)
			})
			transport := resilient.NewTransport(base, unbounded()) // the limit is found, whatever the budget says
			took := drain(t, transport, 3000)                      // by 64
			require.Less(t, took, 3000*10*ms*5/4, "80 ms each, 8 at a time")
			require.Less(t, refused, 300, status)
			limits := transport.Snapshot().Keys[0].Limits
			require.NotEmpty(t, limits)
			require.Equal(t, resilient.LimitInFlight, limits[0].State, limits[0].String())
			require.InDelta(t, 8, limits[0].InFlight, 2)
		})
	}
}

// TestASlowLimitForFewCallers: a few callers of a server that takes one request a second, and
// keeps none for later, may have one attempt left each before that second is over. Then each
// of them waited for the others to find out, for a minute, and so again: in one run of forty
// a minute and more was lost, and in the worst one a twentieth of the limit used.
func TestASlowLimitForFewCallers(t *testing.T) {
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			server := rate.NewLimiter(1, 1)
			var accepted, refused atomic.Int32
			base := step(func(req *http.Request) (*http.Response, error) {
				time.Sleep(22 * ms)
				if !server.Allow() {
					refused.Add(1)
					return answer(429)(req)
				}
				accepted.Add(1)
				time.Sleep(22 * ms)
				return answer(200)(req)
			})
			transport := resilient.NewTransport(base, unbounded())
			end := time.Now().Add(3 * time.Minute)
			var workers sync.WaitGroup
			for range 5 {
				workers.Go(func() {
					for time.Now().Before(end) {
						resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://api.test", ""))
						if err == nil {
							_ = resp.Body.Close()
						}
						if err != nil || resp.StatusCode != http.StatusOK {
							time.Sleep(100 * ms)
						}
					}
				})
			}
			workers.Wait()
			require.Greater(t, accepted.Load(), int32(125), "of 180")
			require.Less(t, float64(refused.Load()), 0.6*float64(accepted.Load()))
		})
	}
}

// TestNamesOfLimits: the server says which of its limits a request counts for.
func TestNamesOfLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuses := answer(429, "X-RateLimit-Resource", "core")
		base := newScript(refuses, refuses, refuses, refuses, answer(200))
		transport := resilient.NewTransport(base, resilient.WithMaxAttempts(1))
		for _, path := range []string{"/issues", "/pulls", "/issues", "/pulls"} {
			resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://api.test"+path, ""))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		limits := transport.Snapshot().Keys[0].Limits
		require.Len(t, limits, 1)
		require.Equal(t, "core", limits[0].Route)
		require.Regexp(t, "^looking for a limit .* for core$", limits[0].String())
	})
}
