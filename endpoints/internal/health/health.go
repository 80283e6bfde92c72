// Package health says whether an endpoint is up, from what became of its requests.
package health

import (
	"net/http"
	"sync"
	"time"

	"github.com/resilienthttp/resilient"
)

const (
	// firstProbe is the time from a failure to the first probe: as long as a resilient.Transport
	// waits for its first retry. A restart or a single bad answer is over by then.
	firstProbe = 250 * time.Millisecond

	// maxInterval bounds the time between two probes, which doubles. A server that is back is
	// used again within a second, and one that is down gets a request a second more than none.
	maxInterval = time.Second

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

// Health is what is believed of an endpoint. Its zero value is up. It may be used from
// several goroutines at once.
type Health struct {
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

// Doubt returns 0 if the endpoint is up. Otherwise it is the larger the more often it was
// asked in vain.
func (h *Health) Doubt() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == up {
		return 0
	}
	return h.interval
}

// Observe notes what became of an attempt that was no success, and reports whether it was
// the endpoint that has failed.
func (h *Health) Observe(a *resilient.AttemptInfo) bool {
	v := a.Verdict
	switch {
	case a.StatusCode == 0 && (v.Retry || Unreached(v.Reason)),
		Unavailable(a.StatusCode) && v.Retry && v.Kind != resilient.KindRateLimit:
		h.failed(a.Duration)
		return true
	case a.StatusCode != 0:
		h.Answered()
	}
	return false
}

// Unreached reports whether an attempt has failed for a reason that is final at the
// endpoint, and for which no request was sent.
func Unreached(why resilient.Reason) bool {
	return why == resilient.ReasonUnknownHost || why == resilient.ReasonTLS
}

// Unavailable reports whether a status says that a server cannot answer for now, whatever
// the request: RFC 9110 sections 15.6.3 and 15.6.4, and Anthropic's "overloaded".
func Unavailable(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == 529
}

// Answered notes an answer that is no failure.
func (h *Health) Answered() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = time.Now()
	h.answers++
	if h.state == up {
		return
	}
	if h.good.IsZero() {
		h.good = h.last
	}
	if h.last.Sub(h.good) >= h.proof {
		h.state, h.since = up, h.last
	}
}

// failed notes the failure of a request that was sent some time ago.
func (h *Health) failed(ago time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	sent := now.Add(-ago)
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

// Schedule reports whether the caller is to see to the next probe, and how long until it.
func (h *Health) Schedule() (wait time.Duration, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == up || h.waits {
		return 0, false
	}
	h.waits = true
	return time.Until(h.due), true
}

// Begin reports whether a probe that was scheduled is still wanted. It begins now.
func (h *Health) Begin() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waits = false
	if h.state == up {
		return false
	}
	h.interval = min(2*h.interval, maxInterval)
	h.due = time.Now().Add(h.interval)
	return true
}
