package gate

import (
	"time"

	"github.com/resilienthttp/resilient/internal/bucket"
)

// Told is what the server says of the limits of Settings in an answer; nil where it says
// nothing.
type Told [MaxLimits]*bucket.Told

// told follows what the server says of the limits. As long as a limit has no number and
// nothing was heard, one attempt goes at a time: it is the question.
//
// An answer says what was left when the server counted its attempt. Others that were
// under way at some time between the attempt and its answer may be counted in it or not,
// so it gives no number, but bounds: at least all of these are not counted yet, and at
// most none. Answers that overtake each other do no harm to that.
type told struct {
	follows bool
	asks    bool  // nothing was heard yet, and a limit has no number
	flying  int   // attempts that were not answered yet
	costs   Costs // of those
	sent    Costs // by all attempts
}

func newTold(s Settings) told {
	t := told{follows: s.Told}
	for _, l := range s.Limits {
		t.asks = t.asks || s.Told && !l.finite()
	}
	return t
}

// Question is an attempt whose answer may say something of the limits. The zero one is an
// attempt of which nobody wants to know.
type Question struct {
	at    time.Time
	costs Costs
	since Costs // what was sent before, without what was under way then
}

// Asked reports whether Answered is to be called for the attempt.
func (q *Question) Asked() bool { return !q.at.IsZero() }

// waits reports whether the next attempt waits for the answer to another one.
func (t *told) waits() bool { return t.asks && t.flying > 0 }

// take counts an attempt that goes.
func (t *told) take(now time.Time, costs *Costs) (q Question) {
	if !t.follows {
		return q
	}
	q.at, q.costs = now, *costs
	for i, c := range costs {
		q.since[i] = t.sent[i] - t.costs[i]
		t.costs[i] += c
		t.sent[i] += c
	}
	t.flying++
	return q
}

// Answered tells the gate what the server says of the limits in the answer to an
// attempt, or that there is none. It is to be called once for each attempt that was Asked.
func (g *Gate) Answered(q *Question, says *Told) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now, t := time.Now(), &g.common.told
	t.flying--
	t.asks = false
	for i, b := range g.common.buckets {
		t.costs[i] -= q.costs[i]
		if says[i] != nil {
			b.Tell(now, *says[i], now.Sub(q.at), t.sent[i]-q.since[i]-q.costs[i])
		}
	}
	if t.flying == 0 {
		t.costs = Costs{} // without what rounding has left
	}
	g.serve(now)
}
