package main

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/endpoints"
)

// patience is the attempt timeout of scenario o.
const patience = time.Second

func timedOptions(cfg config) []resilient.Option {
	return append(oursOptions(cfg), resilient.WithAttemptTimeout(patience))
}

// oursTimed is the transport with an attempt timeout.
func oursTimed() peer {
	return peer{
		name:   "resilient, attempt timeout",
		module: oursModule,
		cannot: "one endpoint",
		only:   "o",
		client: func(base http.RoundTripper, cfg config) doer {
			return resilient.NewTransport(base, timedOptions(cfg)...).RoundTrip
		},
	}
}

// oursEndpoints is the transport with package endpoints above it.
func oursEndpoints() peer {
	return peer{
		name:   "endpoints over resilient",
		module: oursModule,
		only:   "o",
		client: func(base http.RoundTripper, cfg config) doer {
			return endpoints.New(resilient.NewTransport(base, timedOptions(cfg)...),
				[]endpoints.Endpoint{{URL: "http://" + firstRegion}, {URL: "http://" + secondRegion}}).RoundTrip
		},
	}
}

// handWrittenFailover asks one endpoint after the other, each time.
func handWrittenFailover() peer {
	return peer{
		name:   "hand-written failover",
		cannot: "asks the endpoints in order, each time, and does not retry",
		only:   "o",
		client: func(base http.RoundTripper, _ config) doer {
			return func(req *http.Request) (resp *http.Response, err error) {
				for _, host := range []string{firstRegion, secondRegion} {
					ctx, cancel := context.WithTimeout(req.Context(), patience)
					out := req.Clone(ctx)
					out.URL.Host = host
					resp, err = base.RoundTrip(out)
					if cancel(); err == nil && resp.StatusCode < 500 {
						break
					}
				}
				return resp, err
			}
		},
	}
}

// held is a value that several goroutines use.
type held[T any] struct {
	mu    sync.Mutex
	value T
}

func (h *held[T]) get() T {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.value
}

func (h *held[T]) set(value T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.value = value
}
