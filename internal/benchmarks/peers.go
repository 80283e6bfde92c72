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
	once   bool   // sends each request once
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
	noBudget bool // where only the cost is measured, of retries without end
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
		failsafe(),
		failsafeBudget(),
		reHTTP(),
		heimdallV7(),
		restyV3(),
		azcore(),
		awsStandard(),
		awsAdaptive(),
	}
}

// bare is the control: the base, and nothing else.
func bare() peer {
	return peer{
		name:   "bare",
		cannot: "no retries: the control",
		once:   true,
		client: func(base http.RoundTripper, _ config) doer { return base.RoundTrip },
	}
}
