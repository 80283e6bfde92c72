package main

import (
	"net/http"
	"time"

	"golang.org/x/time/rate"
)

// peer is a column of the scoreboard: a way to send a request so that a failure
// is not the end of it.
type peer struct {
	name   string
	module string // whose version is stated; "": none
	cannot string // what it does not do, or does otherwise than the rest
	only   string // scenarios that it takes part in, by letter; "": all
	client func(base http.RoundTripper, cfg config) doer
}

// doer sends a request, as often as it sees fit.
type doer func(*http.Request) (*http.Response, error)

// config is what is set for every peer. Everything else is as it comes.
type config struct {
	attempts int           // in all, the first included
	backoff  time.Duration // the first interval
	limit    rate.Limit    // of the server, for who is told; 0: none
	burst    int
}

// maxBackoff is given to the peers that have no default for it.
const maxBackoff = 30 * time.Second

// peers are the columns, from left to right.
func peers() []peer {
	return []peer{
		bare(),
		ours(),
		oursLimitKnown(),
		handWritten(),
		handWrittenLimitKnown(),
		retryableHTTP(),
	}
}

// bare is the control: the base, and nothing else.
func bare() peer {
	return peer{
		name:   "bare",
		cannot: "no retries: the control",
		client: func(base http.RoundTripper, _ config) doer { return base.RoundTrip },
	}
}
