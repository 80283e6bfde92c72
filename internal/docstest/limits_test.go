package docstest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/debugpage"
	"github.com/resilienthttp/resilient/redislimit"
	"github.com/resilienthttp/resilient/resilienttest"
)

const api = "https://api.example.com/v1/people"

func TestKeyAndSetLimits(t *testing.T) {
	script := answer(t, resilienttest.Status(200))
	synctest.Test(t, func(t *testing.T) {
		// docs: limits key
		perTenant := resilient.WithLimitKey(func(req *http.Request) string {
			return req.URL.Host + " " + req.Header.Get("X-Tenant")
		})
		// end
		// docs: limits set
		transport := resilient.NewTransport(nil, perTenant,
			resilient.WithRateLimit(10, 2), // 10 attempts a second, 2 at once
			resilient.WithLimit("bytes", 1<<20, 4<<20, // 1 MiB a second, 4 MiB at once
				func(req *http.Request) float64 { return float64(req.ContentLength) }),
			resilient.WithMaxInFlight(8), // until the bodies are read or closed
			resilient.WithClass(func(req *http.Request) resilient.Class {
				return resilient.Class{Flow: req.Header.Get("X-Job")} // jobs take turns
			}),
		)
		// end
		client := &http.Client{Transport: transport}
		began := time.Now()
		for i := range 6 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, api, http.NoBody)
			require.NoError(t, err)
			req.Header.Set("X-Tenant", strconv.Itoa(i%2))
			_, _, err = send(client, req)
			require.NoError(t, err)
		}
		require.Equal(t, 6, script.Count())
		require.Equal(t, 100*time.Millisecond, time.Since(began), "each tenant has 2 at once, and the third after 100 ms")
		snapshot := transport.Snapshot()
		require.Len(t, snapshot.Keys, 2)
		require.Equal(t, "api.example.com 1", snapshot.Keys[0].Key)
		require.Equal(t, "bytes", snapshot.Keys[0].Buckets[0].Name)
		require.Equal(t, 8, snapshot.Keys[0].MaxInFlight)
	})
}

// TestSnapshot: a server that accepts 10 a second is asked more, and the limit is shown.
// counting is a server that counts.
type counting func(*http.Request) (*http.Response, error)

func (f counting) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestLearnedInTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// docs: limits cost
		learned := resilient.WithLimit("tokens", rate.Inf, 0, // the server says nothing, and you need not know the rate
			func(req *http.Request) float64 { return float64(req.ContentLength) / 4 })
		// end
		bucket := rate.NewLimiter(1000, 4000)
		var mu sync.Mutex
		transport := resilient.NewTransport(counting(func(req *http.Request) (*http.Response, error) {
			time.Sleep(10 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			status := http.StatusOK
			if !bucket.AllowN(time.Now(), int(req.ContentLength)/4) {
				status = http.StatusTooManyRequests
			}
			return resilienttest.Status(status).Response(req)
		}), learned)
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for i := range 20 {
					body := strings.NewReader(strings.Repeat("word ", 40+20*i))
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, api, body)
					if err == nil {
						_, _, _ = send(&http.Client{Transport: transport}, req)
					}
				}
			})
		}
		wg.Wait()
		limits := transport.Snapshot().Keys[0].Limits
		require.Len(t, limits, 1)
		require.Equal(t, "tokens", limits[0].Unit)
		require.InEpsilon(t, 1000, limits[0].Rate, 2, "as it happens to be at the end")
	})
}

func TestSnapshot(t *testing.T) {
	answer(t, resilienttest.Answer{Func: bucket(10)})
	synctest.Test(t, func(t *testing.T) {
		transport := resilient.NewTransport(nil)
		mux := http.NewServeMux()
		// docs: limits page
		mux.Handle("/debug/resilient", debugpage.Handler(transport))
		// end
		client := &http.Client{Transport: transport}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for ctx.Err() == nil {
					_, _, _ = get(ctx, t, client, api)
				}
			})
		}
		time.Sleep(20 * time.Second)
		out := new(bytes.Buffer)
		// docs: limits snapshot
		for _, key := range transport.Snapshot().Keys {
			fmt.Fprintf(out, "%s: %d wait\n", key.Key, key.Waiting)
			for _, limit := range key.Limits {
				fmt.Fprintf(out, "  %v\n", limit)
			}
		}
		// end
		require.Regexp(t, `^https://api\.example\.com: \d+ wait\n  (9|10|11)[.0-9]*/s`, out.String())
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/debug/resilient", http.NoBody))
		require.Equal(t, 200, w.Code)
		require.Contains(t, w.Body.String(), "https://api.example.com")
		cancel()
		wg.Wait()
	})
}

// bucket returns the answers of a server that accepts so many a second.
func bucket(perSecond rate.Limit) func(*http.Request) (*http.Response, error) {
	limiter := rate.NewLimiter(perSecond, 5)
	return func(req *http.Request) (*http.Response, error) {
		time.Sleep(20 * time.Millisecond)
		if !limiter.Allow() {
			return resilienttest.Status(429).Response(req)
		}
		return resilienttest.Status(200).Response(req)
	}
}

func TestLimitError(t *testing.T) {
	script := answer(t, resilienttest.Status(200))
	synctest.Test(t, func(t *testing.T) {
		client := &http.Client{Transport: resilient.NewTransport(nil, resilient.WithRateLimit(1, 1))}
		_, _, err := get(t.Context(), t, client, api)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, _, err = get(ctx, t, client, api)
		var later time.Duration
		queueAgain := func(after time.Duration) { later = after }
		// docs: limits error
		if limited, ok := errors.AsType[*resilient.LimitError](err); ok {
			queueAgain(max(limited.Wait, time.Second)) // nothing was sent
		}
		// end
		require.Equal(t, time.Second, later)
		require.Equal(t, 1, script.Count())
	})
}

func TestLearningOff(t *testing.T) {
	answer(t, resilienttest.Status(429), resilienttest.Status(200))
	synctest.Test(t, func(t *testing.T) {
		// docs: limits off
		transport := resilient.NewTransport(nil,
			resilient.WithRateLimit(10, 2), // what the documentation of the API says
			resilient.WithLearnedRate(false),
		)
		// end
		status, _, err := get(t.Context(), t, &http.Client{Transport: transport}, api)
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Empty(t, transport.Snapshot().Keys[0].Limits)
	})
}

func TestRedis(t *testing.T) {
	answer(t, resilienttest.Status(200))
	server := miniredis.RunT(t)
	address := server.Addr()
	// docs: limits redis
	store := redis.NewClient(&redis.Options{Addr: address, ContextTimeoutEnabled: true, MaxRetries: -1})
	limiter := redislimit.New(store, "account-42", 200, 20, // 200 a second, 20 at once, of all processes
		redislimit.WithFallback(redislimit.LocalShare(4))) // 4 processes share it while Redis is down
	client := &http.Client{Transport: resilient.NewTransport(nil, resilient.WithLimiter(limiter))}
	// end
	defer store.Close()
	status, _, err := get(t.Context(), t, client, api)
	require.NoError(t, err)
	require.Equal(t, 200, status)
	require.Equal(t, []string{"resilient:limit:account-42"}, server.Keys())
}
