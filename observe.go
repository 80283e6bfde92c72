package resilient

import (
	"net/http"
	"time"

	"github.com/resilienthttp/resilient/internal/gate"
	"github.com/resilienthttp/resilient/internal/limit"
	"github.com/resilienthttp/resilient/internal/waithint"
)

// lowQuota is where the rest of a quota begins to matter. Nothing is remembered of
// a key with more than that.
const lowQuota = 1000

// news are the facts about its limit key that an attempt brings.
type news struct {
	limited   bool // it was refused for its rate
	learn     bool // the limit is to be learned
	hinted    bool // the server asked everybody to stay away
	temporary bool // it failed, and not for its rate
	result    limit.Result
}

// any reports whether the key is worth remembering.
func (n *news) any() bool {
	return n.hinted || n.limited && n.learn || n.temporary || n.result.Told
}

// observe passes the outcome of an attempt on: to the caller's limiter, to the
// counters, and to the gate and the budget of the key. Nothing is remembered of a
// key that never failed.
func (c *call) observe(a *attempt) {
	if c.learner != nil {
		c.learner.Observe(a.AttemptInfo)
	}
	n := c.news(a)
	if c.key == nil && n.any() {
		c.key = c.t.keys.findOrAdd(c.cfg, c.req)
	}
	if a.failed() && len(c.cfg.shared.limits) > 0 {
		c.giveBack(a)
	}
	if c.question.Asked() {
		c.answered(a)
	}
	if a.Attempt > 1 || a.failed() {
		for _, t := range c.totals() {
			t.attempt(a)
		}
	}
	if c.key == nil || !n.any() && a.Attempt == 1 && !c.key.troubled.Load() {
		return
	}
	if n.any() {
		c.key.troubled.Store(true)
	}
	now := a.ended
	if a.errored || !c.timed {
		now = time.Now() // its body may have taken a while, or nobody asked yet
	}
	c.tellGate(a, &n, now)
	c.tellBudget(a, &n, now)
}

func (c *call) news(a *attempt) news {
	v := a.Verdict
	limited := v.Kind == KindRateLimit
	n := news{
		limited: limited,
		// A client that never waits cannot be paced, and a limiter that learns
		// does it better.
		learn:     a.resp != nil && !c.t.cfg.shared.unlearned && c.t.cfg.maxWait > 0 && c.learner == nil,
		hinted:    v.Pause && v.RetryAfter > 0 && a.resp != nil && c.t.cfg.maxWait > 0 && (!limited || c.learner == nil),
		temporary: v.Retry && v.Kind != KindRateLimit,
	}
	if n.learn {
		q, ok := waithint.Remaining(a.resp.Header)
		n.result.Told = ok && q.Rate > 0 && q.Remaining <= lowQuota
		n.result.Quota = q
	}
	switch {
	case n.learn && n.limited:
		n.result.Outcome = limit.Refused
	case n.learn && n.temporary && mayBeALimit(a.StatusCode):
		n.result.Outcome = limit.Shed
	case n.hinted, n.limited:
		n.result.Outcome = limit.Closed
	case a.resp != nil && !n.limited:
		n.result.Outcome = limit.Accepted
	}
	return n
}

// mayBeALimit reports whether servers that mean a limit answer with the status: 503 is
// what nginx says by default, 529 what Anthropic does. A 500 is not one of them: to hold
// back for it lost a tenth of the calls to a server that failed a fifth of them.
func mayBeALimit(status int) bool {
	const overloaded = 529
	return status == http.StatusServiceUnavailable || status == overloaded
}

// tellGate tells the gate when the next attempts may go. The bound of a pause is
// the Transport's, because the pause is everybody's.
func (c *call) tellGate(a *attempt, n *news, now time.Time) {
	if n.hinted {
		n.result.Hint = a.Verdict.RetryAfter - now.Sub(a.ended)
	}
	n.result.MaxWait = c.t.cfg.maxWait
	if a.resp != nil {
		n.result.Name = limitName(a.resp.Header)
	}
	a.cause = c.key.gate.Done(a.stamp, c.route(), now, n.result)
	if (n.result.Outcome == limit.Refused || a.cause == limit.KnownLimit && n.result.Outcome == limit.Shed) && c.arrived.IsZero() {
		if c.arrived = a.stamp.Arrived; c.arrived.IsZero() {
			c.arrived = a.ended
		}
	}
	a.stamp = gate.Stamp{}
}

// limitName returns the name that the server gives to what it limits, such as GitHub's
// "search" in X-RateLimit-Resource, or one of Discord's buckets; "": none.
func limitName(h http.Header) string {
	for _, field := range [...]string{"X-Ratelimit-Resource", "X-Ratelimit-Bucket"} {
		if v := h[field]; len(v) > 0 && v[0] != "" {
			return v[0]
		}
	}
	return ""
}

// tellBudget tells the budget whether retries help. A refusal by a limit is the
// gate's business, and a permanent error is no sign of the server's health.
func (c *call) tellBudget(a *attempt, n *news, now time.Time) {
	switch {
	case n.limited || a.cause == limit.KnownLimit && n.temporary || a.Err != nil && !a.Verdict.Retry:
		c.refund(a, now)
	case n.temporary && a.Attempt > 1:
		due := 0
		if a.charged == 0 {
			due = a.cost()
		}
		c.charged += due
		c.key.budget.Failed(now, due)
	case n.temporary:
	case a.Attempt > 1:
		c.key.budget.Recovered(now, c.charged)
	default:
		c.key.budget.Answered(now)
	}
	a.charged = 0
}

// refund gives back the tokens of a retry that was not one in the end.
func (c *call) refund(a *attempt, now time.Time) {
	if a.charged > 0 {
		c.key.budget.Deposit(now, float64(a.charged))
		c.charged -= a.charged
		a.charged = 0
	}
}
