package resilient

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/resilienthttp/resilient/internal/limit"
)

// Snapshot is the state of a Transport at one moment. It can be encoded as JSON,
// so this publishes it with package expvar:
//
//	expvar.Publish("resilient", expvar.Func(func() any { return t.Snapshot() }))
type Snapshot struct {
	// Totals are of all requests since the Transport was made.
	Totals Totals `json:"totals"`

	// Keys are the limit keys that have a rate limit or have had a failure, the
	// one used last in front. WithLimitKey says how many are remembered.
	Keys []KeySnapshot `json:"keys"`

	// KeyChurn is set if limit keys are made faster than they are used again:
	// more than 1,024 were made, and fewer than half of them used by a second
	// call. Then a WithLimitKey or the credentials name each request, and no
	// limit is shared.
	KeyChurn *KeyChurn `json:"key_churn,omitempty"`
}

// KeyChurn counts limit keys.
type KeyChurn struct {
	Made   int64 `json:"made"`
	Reused int64 `json:"reused"` // by a second call
}

// KeySnapshot is the state of one limit key.
type KeySnapshot struct {
	// Key is scheme and host, and if there is a credential, a mark behind it
	// that tells it from others in this process: "https://api.example.com
	// #5f3a9c01". With [WithLimitKey] it is the string of that function, as it
	// is.
	Key string `json:"key"`

	Limit  float64 `json:"limit,omitzero"` // of WithRateLimit, which is "requests" of WithLimit; 0: none
	Burst  int     `json:"burst,omitzero"` // of WithRateLimit
	Tokens float64 `json:"tokens"`         // in the bucket of WithRateLimit

	// Buckets are the others of [WithLimit].
	Buckets []BucketSnapshot `json:"buckets,omitempty"`

	// MaxInFlight is the limit of [WithMaxInFlight], and InFlight is how many requests
	// are in flight, if there is one. OldestInFlight is since when the oldest of them
	// is: much longer than any response takes means that a body is never closed.
	MaxInFlight    int       `json:"max_in_flight,omitzero"`
	InFlight       int       `json:"in_flight,omitzero"`
	OldestInFlight time.Time `json:"oldest_in_flight,omitzero"`

	Waiting int             `json:"waiting"`          // attempts in the queue
	Queues  []QueueSnapshot `json:"queues,omitempty"` // the same by priority, the highest first

	// Limits are what is believed of the server's limits, that of the whole key
	// first. It is empty as long as nothing suggests that there is one.
	Limits []LimitSnapshot `json:"limits,omitempty"`

	Budget float64 `json:"budget"` // tokens of the retry budget; -1: it is switched off
	Totals Totals  `json:"totals"` // since the key is remembered
}

// BucketSnapshot is a limit of [WithLimit].
type BucketSnapshot struct {
	Name   string  `json:"name"`
	Limit  float64 `json:"limit,omitzero"` // a second; 0: none
	Burst  int     `json:"burst,omitzero"`
	Tokens float64 `json:"tokens"` // below 0: so many are owed
}

// QueueSnapshot has the attempts of one priority that wait, see [Class].
type QueueSnapshot struct {
	Priority int `json:"priority"`
	Flows    int `json:"flows"`
	Waiting  int `json:"waiting"`
}

// LimitSnapshot is what is believed of one limit of the server's. A trial tells it from
// chance: right after a refusal a few requests are sent at once, which a limit refuses
// and chance does not.
type LimitSnapshot struct {
	// Route is the method and the path of the requests that the limit binds, with "*"
	// in place of ids, such as "GET /v1/search"; "" is the whole key.
	Route string     `json:"route,omitzero"`
	State LimitState `json:"state"`
	Since time.Time  `json:"since"` // when the state began

	Rate        float64   `json:"rate,omitzero"`         // that is let go a second; 0: it is not known
	Unit        string    `json:"unit,omitzero"`         // of Rate, the name of a limit of WithLimit; "": attempts
	InFlight    int       `json:"in_flight,omitzero"`    // attempts under way that are let go
	PausedUntil time.Time `json:"paused_until,omitzero"` // when attempts go again
	Chance      float64   `json:"chance,omitzero"`       // part that is refused by chance
	Confirmed   time.Time `json:"confirmed,omitzero"`    // when a trial found the limit last; zero: none has

	// Sent and Refused count the attempts since the limit was first looked for.
	Sent    int64 `json:"sent"`
	Refused int64 `json:"refused"`
}

// LimitState says what a limit of the server's is taken for.
type LimitState string

// The states of a limit.
const (
	LimitLooking  LimitState = "looking"   // more is refused than by chance; one attempt goes, and more as they are accepted
	LimitRate     LimitState = "rate"      // attempts a second
	LimitInFlight LimitState = "in flight" // attempts under way at one time
	LimitPaused   LimitState = "paused"    // everything is refused until a time that the server said
	LimitTold     LimitState = "told"      // the server says how much is left of a quota
	LimitChance   LimitState = "chance"    // there is none: a part is refused, whatever is sent
)

// String returns what is believed in words, such as "100/s for GET /v1/search,
// confirmed 8s ago".
func (l LimitSnapshot) String() string {
	var what string
	switch l.State {
	case LimitLooking:
		what = fmt.Sprintf("looking for a limit (%d of %d refused)", l.Refused, l.Sent)
	case LimitRate:
		what = l.rate()
	case LimitInFlight:
		what = fmt.Sprintf("%d in flight", l.InFlight)
	case LimitPaused:
		what = "paused for " + seconds(time.Until(l.PausedUntil)) + ", as the server asked,"
	case LimitTold:
		what = "a quota that the server tells"
		if l.Rate > 0 {
			what = l.rate() + ", as the server tells"
		}
	case LimitChance:
		what = fmt.Sprintf("chance: %.0f %% refused, whatever is sent", 100*l.Chance)
	}
	if l.Route != "" {
		what += " for " + l.Route
	}
	what = strings.TrimSuffix(what, ",")
	if !l.Confirmed.IsZero() {
		what += ", confirmed " + seconds(time.Since(l.Confirmed)) + " ago"
	}
	return what
}

// rate returns the rate for people, such as "100/s" or "12000 tokens/s".
func (l LimitSnapshot) rate() string {
	s := strconv.FormatFloat(l.Rate, 'g', 3, 64)
	if l.Rate >= 1000 {
		s = strconv.FormatFloat(l.Rate, 'f', 0, 64)
	}
	if l.Unit != "" {
		s += " " + l.Unit
	}
	return s + "/s"
}

// seconds returns a duration for people.
func seconds(d time.Duration) string {
	if d > 10*time.Second {
		return d.Round(time.Second).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

// limitSnapshot returns what is believed of a limit for people.
func (c *sharedConfig) limitSnapshot(v limit.View) LimitSnapshot {
	l := LimitSnapshot{
		Route: v.Route.String(), Since: v.Since, Rate: v.Rate, InFlight: v.InFlight, PausedUntil: v.Until,
		Chance: v.Chance, Confirmed: v.Confirmed, Sent: v.Sent, Refused: v.Refused,
	}
	if i := c.learned(); v.OfCost && i >= 0 {
		l.Unit = c.limits[i].name
	}
	switch v.State {
	case limit.Free:
		l.State = LimitChance
	case limit.Looking:
		l.State = LimitLooking
	case limit.Rate:
		l.State = LimitRate
	case limit.Flight:
		l.State = LimitInFlight
	case limit.Paused:
		l.State = LimitPaused
	case limit.Told:
		l.State = LimitTold
	}
	return l
}

// Totals are counters. The maps have at most 64 entries each; further reasons of a
// [Classifier] are counted as "other".
type Totals struct {
	Calls    int64                `json:"calls"`    // that have ended
	Attempts int64                `json:"attempts"` // that have ended
	Retries  int64                `json:"retries"`  // attempts that were not the first of their call
	Ended    map[string]int64     `json:"ended"`    // calls, by DoneInfo.Reason
	Failures map[string]int64     `json:"failures"` // attempts that failed, by Verdict.Reason
	Waits    map[string]WaitTotal `json:"waits"`    // waits that have ended, by WaitInfo.Reason
}

// WaitTotal counts the waits for one reason, and the time they took together. In
// JSON the time is in nanoseconds.
type WaitTotal struct {
	Count int64         `json:"count"`
	Time  time.Duration `json:"time_ns"`
}

// Snapshot returns the state as it is now. Each key is looked at under its lock, one
// after the other, and requests go on meanwhile. The counting costs a call that
// succeeds at once one addition.
func (t *Transport) Snapshot() Snapshot {
	s := Snapshot{Totals: t.totals.snapshot(), Keys: []KeySnapshot{}}
	now := time.Now()
	for _, k := range t.keys.snapshot(&s) {
		s.Keys = append(s.Keys, k.snapshot(now, &t.cfg.shared))
	}
	return s
}

// counters are the counters of Totals. A call that succeeds at once is the common
// case, and costs one addition. attempt, call and wait may be called on nil.
type counters struct {
	plain atomic.Int64 // calls that were one attempt and a success

	mu                       sync.Mutex
	calls, attempts, retries int64 // without the plain ones
	ended, failures, waits   tallies
}

// tallies count by reason. There are few of them, and there may be many keys, so
// a list does better than a map.
type tallies []tally

type tally struct {
	reason string
	total  WaitTotal // the time is that of waits
}

// maxReasons bounds tallies, as a Classifier may give a new reason each time.
const maxReasons = 64

func (t *tallies) add(reason string, d time.Duration) {
	i := slices.IndexFunc(*t, func(e tally) bool { return e.reason == reason })
	switch {
	case i >= 0:
	case len(*t) >= maxReasons-1 && reason != reasonOther:
		t.add(reasonOther, d)
		return
	default:
		i = len(*t)
		*t = append(*t, tally{reason: reason})
	}
	e := &(*t)[i].total
	e.Count++
	e.Time += d
}

func (t tallies) counts() map[string]int64 {
	m := make(map[string]int64, len(t))
	for _, e := range t {
		m[e.reason] = e.total.Count
	}
	return m
}

// attempt counts one that failed, or was not the first of its call.
func (c *counters) attempt(a *attempt) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attempts++
	if a.Attempt > 1 {
		c.retries++
	}
	if a.failed() {
		c.failures.add(a.Verdict.Reason, 0)
	}
}

// call counts a call that has ended and is not plain.
func (c *counters) call(why Reason) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	c.ended.add(why, 0)
}

// wait counts a wait that has ended.
func (c *counters) wait(reason string, d time.Duration) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waits.add(reason, d)
}

func (c *counters) snapshot() Totals {
	c.mu.Lock()
	defer c.mu.Unlock()
	plain := c.plain.Load()
	t := Totals{
		Calls: c.calls + plain, Attempts: c.attempts + plain, Retries: c.retries,
		Ended: c.ended.counts(), Failures: c.failures.counts(), Waits: make(map[string]WaitTotal, len(c.waits)),
	}
	if plain > 0 {
		t.Ended[ReasonSuccess] += plain
	}
	for _, e := range c.waits {
		t.Waits[e.reason] = e.total
	}
	return t
}
