package main

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"time"
)

// service returns how long an upstream takes for a request.
type service func() time.Duration

func constant(d time.Duration) service { return func() time.Duration { return d } }

func exponential(mean time.Duration) service {
	return func() time.Duration { return time.Duration(rand.ExpFloat64() * float64(mean)) }
}

// quick is the service of an upstream whose time does not matter.
func quick() service { return constant(10 * time.Millisecond) }

// upstream returns the application behind a limit. It has none itself.
func upstream(takes service) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if sleep(req.Context(), takes()) == nil {
			_, _ = io.WriteString(w, "done\n")
		}
	})
}

// refuser returns an upstream that answers everything with a status.
func refuser(status int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, http.StatusText(status), status)
	})
}

// serveUpstream runs an upstream.
func (s *site) serveUpstream(ctx context.Context, takes service) (addr string, err error) {
	return s.serve(ctx, upstream(takes))
}
