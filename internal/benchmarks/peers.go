package main

import (
	"net/http"
	"time"

	"golang.org/x/time/rate"
)

// peer is a column of the scoreboard: a way to send a request with retries.
type peer struct {
	name   string
	module string // shown with its version, unless it is ""
	cannot string // missing features and differences
	once   bool   // it sends each request once
	only   string // the letters of its scenarios, or "" for all
	client func(base http.RoundTripper, cfg config) doer
}

// doer sends a request one or more times.
type doer func(*http.Request) (*http.Response, error)

// config holds the settings of every peer. All other settings have their defaults.
type config struct {
	attempts int           // in all, including the first
	backoff  time.Duration // the first interval
	limit    rate.Limit    // of the server, for the peers that know it, or 0
	burst    int
	noBudget bool // set if only the cost of many retries is measured
	known    known

	authority *authority // of scenario n
}

// known is what a peer may be told in scenario l, beside limit and burst.
type known struct {
	limits   []knownLimit
	inFlight int           // requests that may be under way; 0: any number
	fields   bool          // the answers have the header fields of OpenAI
	p95      time.Duration // of the answers, in scenario m
	settles  bool          // the cost of a call is a guess, and the answer says what it was
}

// knownLimit is a token bucket. If it counts tokens, a request takes guessOf it.
type knownLimit struct {
	name   string
	limit  rate.Limit
	burst  int
	tokens bool
}

// callOf returns the call that a request is sent for. A peer may look only at its guess,
// its priority and its flow, and at its cost when it is answered.
func callOf(req *http.Request) *call {
	c, ok := req.Context().Value(callKey{}).(*call)
	if !ok {
		panic("the context is not the caller's")
	}
	return c
}

// guessOf returns what a caller takes for the cost of a request.
func guessOf(req *http.Request) float64 { return callOf(req).guess }

// maxBackoff is the longest interval for peers without a default for it.
const maxBackoff = 30 * time.Second

// peers returns the columns, from left to right.
func peers() []peer {
	return []peer{
		bare(),
		ours(),
		oursDefaults(),
		oursLimitKnown(),
		oursHedged(),
		hedgedHTTP(),
		hedgedHTTPDelayKnown(),
		oursReauth(),
		oauthReauth(),
		oauthAlone(),
		handWrittenRefresh(),
		oursTimed(),
		oursEndpoints(),
		handWrittenFailover(),
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

// bare is the control: it is the base alone.
func bare() peer {
	return peer{
		name:   "bare",
		cannot: "no retries: the control",
		once:   true,
		client: func(base http.RoundTripper, _ config) doer { return base.RoundTrip },
	}
}
