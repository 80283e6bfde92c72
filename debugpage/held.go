package debugpage

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/limit"
	"github.com/resilienthttp/resilient/internal/redact"
)

// held is the limit that holds attempts back, as it was known at one time.
type held struct {
	state     resilient.LimitState // "": a limit that the program has set
	name      string               // of that limit; "": that of WithRateLimit
	route     string               // "": all of the key
	rate      float64
	unit      string // of the rate; "": attempts
	inFlight  int
	left      time.Duration // of a pause
	confirmed time.Duration // ago, or below 0
	sent      int64
	refused   int64
}

// belief is what was known of the limits of one key at one time.
type belief struct {
	key    string
	own    *held // the limit that the program has set, if there is one: the emptiest
	empty  bool  // its bucket has no token
	limits []*held
}

// newBeliefs returns what a snapshot says of limits that hold attempts back.
func newBeliefs(s *resilient.Snapshot, now time.Time) (beliefs []belief) {
	for i := range s.Keys {
		k := &s.Keys[i]
		b := belief{key: k.Key}
		b.own, b.empty = emptiest(k)
		if b.own == nil && len(k.Limits) == 0 {
			continue
		}
		for _, l := range k.Limits {
			if l.State == resilient.LimitChance {
				continue // it holds nobody back
			}
			h := &held{
				state: l.State, route: redact.Line(l.Route, maxText), rate: l.Rate, unit: l.Unit, inFlight: l.InFlight,
				left: max(l.PausedUntil.Sub(now), 0), confirmed: -1, sent: l.Sent, refused: l.Refused,
			}
			if !l.Confirmed.IsZero() {
				h.confirmed = max(now.Sub(l.Confirmed), 0)
			}
			b.limits = append(b.limits, h)
		}
		beliefs = append(beliefs, b)
	}
	return beliefs
}

// emptiest returns the limit that the program has set whose bucket has the smallest part
// of its burst, and whether that is less than a token; nil: there is none.
func emptiest(k *resilient.KeySnapshot) (h *held, empty bool) {
	least := math.Inf(1)
	look := func(name string, limit, burst, tokens float64) {
		if part := tokens / burst; limit > 0 && part < least {
			least, empty = part, tokens < 1
			h = &held{name: redact.Line(name, maxWord), rate: limit, confirmed: -1}
		}
	}
	look("", k.Limit, float64(k.Burst), k.Tokens)
	for _, b := range k.Buckets {
		look(b.Name, b.Limit, float64(b.Burst), b.Tokens)
	}
	return h, empty
}

// waiter is a request that waits for a limit. Its key is not known for certain: it
// may have a credential, or a name of WithLimitKey.
type waiter struct {
	key   string // without a credential
	route string
}

func newWaiter(req *http.Request) waiter {
	method := req.Method
	if method == "" {
		method = http.MethodGet
	}
	return waiter{
		key:   strings.ToLower(req.URL.Scheme + "://" + req.URL.Host),
		route: redact.Line(limit.Route{Method: method, Path: req.URL.Path}.String(), maxText),
	}
}

// find returns what holds w back for a reason of a WaitInfo, or nil if that cannot be
// told. The keys of other hosts cannot hold it. If several others can, it is not known
// which of them does.
func (w waiter) find(beliefs []belief, reason string) (found *held) {
	named := func(key string) bool { return key == w.key || strings.HasPrefix(key, w.key+" #") }
	byName := false
	for i := range beliefs {
		byName = byName || named(beliefs[i].key)
	}
	for i := range beliefs {
		if byName && !named(beliefs[i].key) {
			continue
		}
		h := beliefs[i].holds(w.route, reason)
		switch {
		case h == nil:
		case found != nil && *found != *h:
			return nil
		default:
			found = h
		}
	}
	return found
}

// holds returns the limit that holds back the requests of a route, or nil.
func (b *belief) holds(route, reason string) *held {
	var l *held
	for _, h := range b.limits {
		if h.reason() == reason && (h.route == route || h.route == "" && l == nil) {
			l = h
		}
	}
	if b.own == nil || reason != resilient.ReasonRateLimit {
		return l
	}
	switch {
	case l == nil || l.unit == "" && l.rate > b.own.rate:
		return b.own
	case (l.unit != "" || l.state == resilient.LimitInFlight) && b.empty:
		return nil // it may be either
	}
	return l
}

// reason returns the reason of the WaitInfo of an attempt that is held.
func (h *held) reason() string {
	switch h.state {
	case resilient.LimitLooking, resilient.LimitPaused:
		return resilient.ReasonPause
	case resilient.LimitRate, resilient.LimitInFlight, resilient.LimitTold, resilient.LimitChance:
	}
	return resilient.ReasonRateLimit
}

// text explains a wait. In brackets are the reason of the WaitInfo and the grounds of
// the belief, as they were when the wait began.
func (h *held) text() string {
	everything, to, of := "everything", "", ""
	if h.route != "" {
		everything, to, of = h.route, " to "+h.route, " for "+h.route
	}
	switch h.state {
	case resilient.LimitLooking:
		return "while it was found out what the server limits" + of + h.because()
	case resilient.LimitPaused:
		return "because the server refused " + everything + " and asked to wait for another " + duration(h.left) + h.because()
	case resilient.LimitTold:
		if h.rate > 0 {
			return "because the server says that its quota is " + about(h.rate) + unit(h.unit) + " a second" + of + h.because()
		}
		return "because the server says that little is left of its quota" + of + h.because()
	case resilient.LimitRate:
		return "because the server lets about " + about(h.rate) + unit(h.unit) + " a second through" + to + h.because()
	case resilient.LimitInFlight:
		return "because the server takes " + number(int64(h.inFlight)) + " requests at one time" + to + h.because()
	case resilient.LimitChance:
	}
	if h.name != "" {
		return "because the limit " + h.name + " allows " + rate(h.rate) + " a second" + h.because()
	}
	return "because WithRateLimit allows " + rate(h.rate) + " a second" + h.because()
}

// because returns the brackets.
func (h *held) because() string {
	s := " (" + h.reason()
	if h.refused > 0 {
		s += ": " + number(h.refused) + " of " + number(h.sent) + " attempts were refused"
		found := h.state == resilient.LimitRate || h.state == resilient.LimitInFlight
		switch {
		case found && h.confirmed >= 0:
			s += ", and a trial confirmed the limit " + duration(h.confirmed) + " before"
		case found:
			s += ", and no trial has confirmed the limit yet"
		}
	}
	return s + ")"
}

// unit formats the unit of a rate, which is the name of a limit, or "".
func unit(name string) string {
	if name == "" {
		return ""
	}
	return " " + redact.Line(name, maxWord)
}

// about formats a rate that was measured.
func about(x float64) string {
	if x >= 10 {
		return number(int64(x + 0.5))
	}
	return strconv.FormatFloat(x, 'g', 2, 64)
}
