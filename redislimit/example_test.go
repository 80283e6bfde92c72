package redislimit_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/redislimit"
)

// A process has one client of Redis, one limiter and one Transport. The other
// processes of the fleet have the same.
func ExampleNew() {
	server := miniredis.NewMiniRedis() // a real one in production
	if err := server.Start(); err != nil {
		panic(err)
	}
	defer server.Close()
	client := redis.NewClient(&redis.Options{
		Addr:                  server.Addr(),
		ContextTimeoutEnabled: true,
		MaxRetries:            -1,
	})
	defer client.Close()
	api := httptest.NewServer(http.NotFoundHandler())
	defer api.Close()

	limiter := redislimit.New(client, "account-42", 200, 20,
		redislimit.WithFallback(redislimit.LocalShare(4)), // 4 processes share
		redislimit.WithTimeout(time.Second))               // the embedded Redis is slow
	httpClient := &http.Client{Transport: resilient.NewTransport(nil, resilient.WithLimiter(limiter))}

	resp, err := httpClient.Get(api.URL)
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status, server.Keys())
	// Output: 404 Not Found [resilient:limit:account-42]
}

// A request is guessed to cost as many tokens as the answer may have. The answer says how
// many it was, and the rest is given back to the fleet.
func ExampleWithLimit() {
	server := miniredis.NewMiniRedis()
	if err := server.Start(); err != nil {
		panic(err)
	}
	defer server.Close()
	client := redis.NewClient(&redis.Options{
		Addr:                  server.Addr(),
		ContextTimeoutEnabled: true,
		MaxRetries:            -1,
	})
	defer client.Close()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Used-Tokens", "120")
	}))
	defer api.Close()

	most := func(*http.Request) float64 { return 30_000 }
	limiter := redislimit.New(client, "account-42", 500.0/60, 20, // 500 requests a minute
		redislimit.WithLimit("tokens", 100_000.0/60, 40_000, most), // 100,000 tokens a minute
		redislimit.WithTimeout(time.Second))                        // the embedded Redis is slow
	httpClient := &http.Client{Transport: resilient.NewTransport(nil, resilient.WithLimiter(limiter))}
	for range 10 { // two of them would use up the burst
		ctx := resilient.ContextWithOptions(context.Background())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, api.URL, http.NoBody)
		if err != nil {
			panic(err)
		}
		resp, err := httpClient.Do(req)
		if err != nil {
			panic(err)
		}
		resp.Body.Close()
		used, err := strconv.ParseFloat(resp.Header.Get("Used-Tokens"), 64)
		if err != nil {
			panic(err)
		}
		resilient.Settle(ctx, "tokens", used)
	}
	fmt.Println(server.Keys())
	// Output: [resilient:limit:account-42]
}

// With many accounts, each request waits for the limiter of its own account.
func ExampleNewKeyed() {
	server := miniredis.NewMiniRedis()
	if err := server.Start(); err != nil {
		panic(err)
	}
	defer server.Close()
	client := redis.NewClient(&redis.Options{
		Addr:                  server.Addr(),
		ContextTimeoutEnabled: true,
		MaxRetries:            -1,
	})
	defer client.Close()
	api := httptest.NewServer(http.NotFoundHandler())
	defer api.Close()

	account := func(req *http.Request) string { return req.Header.Get("X-Account") }
	keyed := redislimit.NewKeyed(client, 10, 1, redislimit.WithTimeout(time.Second)) // the embedded Redis is slow
	httpClient := &http.Client{Transport: resilient.NewTransport(nil, resilient.WithLimiterFor(keyed.For(account)))}
	for _, name := range []string{"ada", "grace"} {
		req, err := http.NewRequest(http.MethodGet, api.URL, http.NoBody)
		if err != nil {
			panic(err)
		}
		req.Header.Set("X-Account", name)
		resp, err := httpClient.Do(req)
		if err != nil {
			panic(err)
		}
		resp.Body.Close()
	}
	fmt.Println(server.Keys())
	// Output: [resilient:limit:ada resilient:limit:grace]
}
