package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// api is an API with a limit that it does not advertise. Its responses have neither
// a Retry-After nor any other field about the limit.
type api struct {
	*httptest.Server

	bucket  *rate.Limiter
	served  atomic.Int64
	refused atomic.Int64
}

func newAPI(limit rate.Limit) *api {
	a := &api{bucket: rate.NewLimiter(limit, 10)}
	a.Server = httptest.NewServer(a) // on loopback
	return a
}

func (a *api) setLimit(limit rate.Limit) { a.bucket.SetLimit(limit) }

func (a *api) counts() (served, refused int64) { return a.served.Load(), a.refused.Load() }

func (a *api) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if a.bucket.AllowN(time.Now(), 1) {
		a.served.Add(1)
		_ = json.NewEncoder(w).Encode(map[string]int{"count": 42})
		return
	}
	a.refused.Add(1)
	w.WriteHeader(http.StatusTooManyRequests)
	_ = json.NewEncoder(w).Encode(map[string]string{
		"code": "429", "type": "RATE_LIMIT_ERROR", "message": "Too many requests.",
	})
}
