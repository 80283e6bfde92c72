package resilient

import (
	"time"

	"github.com/resilienthttp/resilient/internal/waithint"
)

// lowQuota is where the rest of a quota begins to matter. Nothing is remembered of
// a key with more than that.
const lowQuota = 1000

// news are the facts about its limit key that an attempt brings.
type news struct {
	limited    bool           // it was refused for its rate
	learn      bool           // the limit is to be learned
	hinted     bool           // the server asked everybody to stay away
	temporary  bool           // it failed, and not for its rate
	advertised bool           // the server said how much is left of a quota, and that is little
	quota      waithint.Quota // if advertised
}

// refused reports whether the gate has to hold others back.
func (n *news) refused() bool { return n.hinted || n.limited && n.learn }

// any reports whether the key is worth remembering.
func (n *news) any() bool { return n.refused() || n.temporary || n.advertised }

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
	if a.Attempt > 1 || a.failed() {
		for _, t := range c.totals() {
			t.attempt(&a.AttemptInfo)
		}
	}
	if c.key == nil || !n.any() && a.Attempt == 1 && !c.key.troubled.Load() {
		return
	}
	if n.any() {
		c.key.troubled.Store(true)
	}
	now := a.ended
	if a.APIError != nil || !c.timed {
		now = time.Now() // its body may have taken a while, or nobody asked yet
	}
	c.tellGate(a, &n, now)
	c.tellBudget(a, &n, now)
}

func (c *call) news(a *attempt) news {
	v := a.Verdict
	n := news{
		limited: v.Kind == KindRateLimit,
		// A client that never waits cannot be paced, and a limiter that learns
		// does it better.
		learn:     a.resp != nil && !c.t.cfg.shared.unlearned && c.t.cfg.maxWait > 0 && c.learner == nil,
		hinted:    v.Pause && v.RetryAfter > 0 && a.resp != nil,
		temporary: v.Retry && v.Kind != KindRateLimit,
	}
	if n.learn {
		n.quota, n.advertised = waithint.Remaining(a.resp.Header)
		n.advertised = n.advertised && n.quota.Rate > 0 && n.quota.Remaining <= lowQuota
	}
	return n
}

// tellGate tells the gate when the next attempts may go. The bound of a pause is
// the Transport's, because the pause is everybody's.
func (c *call) tellGate(a *attempt, n *news, now time.Time) {
	if n.advertised {
		c.key.gate.Advertised(a.stamp, now, n.quota)
	}
	switch {
	case n.refused():
		hint := time.Duration(0)
		if n.hinted {
			hint = a.Verdict.RetryAfter - now.Sub(a.ended)
		}
		learn := n.limited && n.learn
		c.key.gate.Refused(a.stamp, now, hint, c.t.cfg.maxWait, learn)
		if learn && c.arrived.IsZero() {
			if c.arrived = a.stamp.Arrived; c.arrived.IsZero() {
				c.arrived = a.ended
			}
		}
	case !n.limited:
		c.key.gate.Ended(a.stamp, now, a.resp != nil)
	}
}

// tellBudget tells the budget whether retries help. A refusal for the rate is the
// gate's business, and a permanent error is no sign of the server's health.
func (c *call) tellBudget(a *attempt, n *news, now time.Time) {
	switch {
	case n.limited || a.Err != nil && !a.Verdict.Retry:
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
