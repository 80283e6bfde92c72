package main

import (
	"net/http"
	"time"
)

// The settings that all clients share, except the transport of this repository, which
// has its defaults: four attempts too, and a first retry after 250 to 275 ms.
const (
	attempts   = 4
	backOff    = 250 * time.Millisecond
	maxBackOff = 30 * time.Second
)

// doer sends a call, retries included.
type doer func(*http.Request) (*http.Response, error)

// client is something that retries, over a base that does not.
type client struct {
	name string
	make func(base http.RoundTripper) doer
}

func clients() []client {
	return []client{ours(), handWritten(), retryableHTTP(), failsafe()}
}
