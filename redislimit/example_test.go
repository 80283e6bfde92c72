package redislimit_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

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
		redislimit.WithFallback(redislimit.LocalShare(4))) // 4 processes share
	httpClient := &http.Client{Transport: resilient.NewTransport(nil, resilient.WithLimiter(limiter))}

	resp, err := httpClient.Get(api.URL)
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status, server.Keys())
	// Output: 404 Not Found [resilient:limit:account-42]
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
	keyed := redislimit.NewKeyed(client, 10, 1)
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
