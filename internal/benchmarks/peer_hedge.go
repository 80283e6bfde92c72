package main

import (
	"net/http"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/hedge"
)

// oursHedged is the transport with package hedge above it.
func oursHedged() peer {
	return peer{
		name:   "hedge over resilient",
		module: oursModule,
		only:   "m",
		client: func(base http.RoundTripper, cfg config) doer {
			return hedge.New(resilient.NewTransport(base, oursOptions(cfg)...)).RoundTrip
		},
	}
}
