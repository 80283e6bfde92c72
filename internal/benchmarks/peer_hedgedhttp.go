package main

import (
	"net/http"
	"sync"
	"time"
	_ "unsafe" // for go:linkname

	"github.com/cristalhq/hedgedhttp"

	"github.com/resilienthttp/resilient"
)

const hedgedhttpModule = "github.com/cristalhq/hedgedhttp"

// The package keeps its goroutines and timers for later calls. Those of one bubble cannot
// be used in another one, so each client begins with new ones.
//
//go:linkname hedgedhttpTasks github.com/cristalhq/hedgedhttp.taskQueue
var hedgedhttpTasks chan func() //nolint:gochecknoglobals // it is the package's

//go:linkname hedgedhttpTimers github.com/cristalhq/hedgedhttp.timerPool
var hedgedhttpTimers sync.Pool //nolint:gochecknoglobals // it is the package's

// hedgedHTTP has the delay of the example in the package's README.
func hedgedHTTP() peer {
	return peer{
		name:   "hedgedhttp over resilient",
		module: hedgedhttpModule,
		cannot: "a fixed delay, here the 10 ms of its README, and one hedge; no budget; any response wins; POSTs are hedged too",
		only:   "m",
		client: func(base http.RoundTripper, cfg config) doer { return hedgedAfter(10*time.Millisecond, base, cfg) },
	}
}

func hedgedHTTPDelayKnown() peer {
	return peer{
		name:   "hedgedhttp, delay known",
		module: hedgedhttpModule,
		cannot: "as hedgedhttp, with the server's p95 for the delay",
		only:   "m",
		client: func(base http.RoundTripper, cfg config) doer { return hedgedAfter(cfg.known.p95, base, cfg) },
	}
}

func hedgedAfter(delay time.Duration, base http.RoundTripper, cfg config) doer {
	hedgedhttpTasks = make(chan func())
	hedgedhttpTimers = sync.Pool{New: func() any { return time.NewTimer(time.Second) }}
	t, err := hedgedhttp.NewRoundTripper(delay, 2, resilient.NewTransport(base, oursOptions(cfg)...))
	if err != nil {
		panic(err) // the delay is positive
	}
	return t.RoundTrip
}
