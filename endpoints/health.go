package endpoints

import (
	"context"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/credential"
	"github.com/resilienthttp/resilient/internal/peek"
)

const (
	// firstProbe is the time from a failure to the first probe: as long as a resilient.Transport
	// waits for its first retry. A restart or a single bad answer is over by then.
	firstProbe = 250 * time.Millisecond

	// maxInterval bounds the time between two probes, which doubles. A server that is back is
	// used again within a second, and one that is down gets a request a second more than none.
	maxInterval = time.Second

	// probeTimeout bounds a probe that no attempt timeout bounds.
	probeTimeout = 10 * time.Second

	// relapse is the time after which another failure has nothing to do with the one before.
	relapse = 10 * time.Second

	// maxProof bounds how long an endpoint has to answer before it is used again. It is more
	// than relapse, so what is up for shorter than that is left alone in the end.
	maxProof = 16 * time.Second

	// byChance is how many answers there are to a failure by chance.
	byChance = 10
)

// state is whether calls go to an endpoint.
type state uint8

const (
	up state = iota

	// down begins with a failure that was not by chance. It ends with an answer, once the
	// endpoint has answered for as long as it must.
	down
)

// health is what is believed of an endpoint. Its zero value is up.
type health struct {
	mu       sync.Mutex
	state    state
	since    time.Time     // of the state; zero: always
	good     time.Time     // the first answer since the last failure; zero: none while down
	last     time.Time     // answer
	answers  int           // since the last failure
	proof    time.Duration // it must answer for so long to be up
	lasting  bool          // down: a request has failed that was sent since
	waits    bool          // a probe is scheduled
	interval time.Duration // down: from the last probe to the next
	due      time.Time     // the next probe
}

// doubt returns 0 if the endpoint is up. Otherwise it is the larger the more often it was
// asked in vain.
func (h *health) doubt() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == up {
		return 0
	}
	return h.interval
}

// answered notes an answer that is no failure.
func (h *health) answered(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answers++
	h.last = now
	if h.state == up {
		return
	}
	if h.good.IsZero() {
		h.good = now
	}
	if now.Sub(h.good) >= h.proof {
		h.state, h.since = up, now
	}
}

// failed notes the failure of a request that was sent at some time.
func (h *health) failed(sent, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if sent.Before(h.good) {
		return // it has answered others since
	}
	chance := h.last.After(sent) && h.answers >= byChance
	h.answers = 0
	switch {
	case h.state == up && chance:
	case h.state == up:
		if h.lasting && now.Sub(h.since) < relapse {
			h.proof = min(max(2*h.proof, time.Second), maxProof)
		} else {
			h.proof = 0
		}
		h.state, h.since, h.good, h.lasting = down, now, time.Time{}, false
		h.interval, h.due = firstProbe, now.Add(firstProbe)
	default:
		h.good = time.Time{}
		h.lasting = h.lasting || sent.After(h.since)
	}
}

// schedule reports whether the caller is to see to the next probe, and how long until it.
func (h *health) schedule() (wait time.Duration, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == up || h.waits {
		return 0, false
	}
	h.waits = true
	return time.Until(h.due), true
}

// begin reports whether a probe that was scheduled is still wanted.
func (h *health) begin(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waits = false
	if h.state == up {
		return false
	}
	h.interval = min(2*h.interval, maxInterval)
	h.due = now.Add(h.interval)
	return true
}

// startProbes schedules the next probe of each endpoint that is down, with the request of
// a call. Without calls there are none.
func (t *Transport) startProbes(req *http.Request) {
	for _, e := range t.all {
		if wait, ok := e.health.schedule(); ok {
			out := e.probeRequest(req)
			time.AfterFunc(wait, func() { e.probe(out) })
		}
	}
}

// probeRequest returns a request that does no harm. It shares nothing with the caller's,
// which may be changed when the call is over.
func (e *endpoint) probeRequest(req *http.Request) *http.Request {
	out := &http.Request{Method: req.Method, URL: e.at(req.URL), Header: req.Header.Clone(), Host: e.Host}
	safe := req.Method == "" || req.Method == http.MethodGet || req.Method == http.MethodHead
	if !safe || hasBody(req) || len(req.Header["Upgrade"]) > 0 {
		out.Method, out.URL = http.MethodHead, e.url
		maps.DeleteFunc(out.Header, func(name string, _ []string) bool { return !credential.IsField(name) })
	}
	maps.Copy(out.Header, e.Header)
	return out
}

// probe sends a request to find out whether the endpoint is back. Its context is not that
// of the call: that one may be over, and its hooks expect to be called by its goroutine.
func (e *endpoint) probe(out *http.Request) {
	if !e.health.begin(time.Now()) {
		return
	}
	defer func() { _ = recover() }() // of a base that panics: nobody could do it here, and the calls can
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	ctx = resilient.ContextWithOptions(ctx,
		resilient.WithMaxAttempts(1), resilient.WithMaxWait(0), resilient.WithResend(1, ReasonProbe),
		resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
			e.observe(&a)
			return a.Verdict
		}))
	resp, err := e.Base.RoundTrip(out.WithContext(ctx))
	if err != nil || resp == nil || resp.Body == nil {
		return
	}
	if resp.StatusCode < 400 {
		e.health.answered(time.Now())
	}
	body := peek.New(resp, time.Now())
	resp.Body = body
	// So that the connection can be used again.
	_, _ = body.Ahead(ctx, peek.Bounds{Bytes: peek.Max, Total: time.Second})
	_ = resp.Body.Close()
}
