package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// api is an API with a limit that belongs to the account and not to a process. It
// counts the requests by the name of the process, which is in User-Agent.
type api struct {
	*httptest.Server

	bucket *rate.Limiter

	mu      sync.Mutex
	served  map[string]int
	refused map[string]int
}

func newAPI(limit rate.Limit, burst int) *api {
	a := &api{bucket: rate.NewLimiter(limit, burst), served: map[string]int{}, refused: map[string]int{}}
	a.Server = httptest.NewServer(a) // on loopback
	return a
}

func (a *api) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	name := req.Header.Get("User-Agent")
	allowed := a.bucket.AllowN(time.Now(), 1)
	a.mu.Lock()
	defer a.mu.Unlock()
	if allowed {
		a.served[name]++
		return
	}
	a.refused[name]++
	w.Header().Set("Retry-After", "1")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusTooManyRequests)
	_ = json.NewEncoder(w).Encode(map[string]string{
		"code": "429", "type": "RATE_LIMIT_ERROR", "message": "The account has sent too many requests.",
	})
}

// counts returns the numbers of requests of a process that were served and refused.
func (a *api) counts(name string) (served, refused int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.served[name], a.refused[name]
}
