package resilient

import (
	"math"
	"net/http"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient/internal/bucket"
	"github.com/resilienthttp/resilient/internal/gate"
	"github.com/resilienthttp/resilient/internal/waithint"
)

// requestLimit is the name of the limit of WithRateLimit.
const requestLimit = "requests"

// costLimit is a limit that the user has set.
type costLimit struct {
	name  string
	limit rate.Limit
	burst int
	cost  func(*http.Request) float64 // nil: each attempt costs 1
}

// maxCost is the largest cost. A few of the largest numbers would add up to no number.
const maxCost = 1e15

// costOf returns what an attempt of req takes. There is no waiting for more than is in a
// full bucket, so an infinite cost is that much.
func (l *costLimit) costOf(req *http.Request) float64 {
	if l.cost == nil {
		return 1
	}
	cost := l.cost(req)
	switch {
	case math.IsInf(cost, 1):
		return min(l.settings().Burst, maxCost)
	case cost > 0:
		return min(cost, maxCost)
	}
	return 0 // negative, or NaN
}

func (l *costLimit) settings() gate.Limit {
	if l.limit == rate.Inf {
		return gate.Limit{Rate: math.Inf(1), Burst: math.MaxFloat64}
	}
	return gate.Limit{Rate: float64(l.limit), Burst: float64(l.burst)}
}

// setLimit adds a limit, in place of another one with its name.
func (c *sharedConfig) setLimit(l costLimit) {
	limits := slices.DeleteFunc(slices.Clone(c.limits), func(other costLimit) bool { return other.name == l.name })
	if l.limit != rate.Inf || l.cost != nil {
		limits = append(limits, l)
	}
	mustBe(len(limits) <= gate.MaxLimits, "WithLimit", "used for at most 8 names", len(limits))
	c.limits = limits
}

// gate returns the settings of the gate of each key.
func (c *config) gate() gate.Settings {
	s := gate.Settings{InFlight: c.shared.inFlight, Told: c.profile != nil && len(c.profile.Quotas) > 0}
	for i := range c.shared.limits {
		l := &c.shared.limits[i]
		s.Limits = append(s.Limits, l.settings())
		s.Told = s.Told || l.limit == rate.Inf
	}
	s.Learned = c.shared.learned() + 1
	return s
}

// learned returns the index of the limit in whose unit a rate of the server's is learned,
// the first one that has a cost and no rate; -1: it is learned in attempts.
func (c *sharedConfig) learned() int {
	return slices.IndexFunc(c.limits, func(l costLimit) bool { return l.limit == rate.Inf && l.name != requestLimit })
}

// answered tells the gate what the server says of the limits.
func (c *call) answered(a *attempt) {
	var says gate.Told
	if a.resp != nil {
		received := a.ended
		if received.IsZero() {
			received = time.Now()
		}
		for i := range c.cfg.shared.limits {
			says[i] = c.told(c.cfg.shared.limits[i].name, a.resp.Header, received)
		}
	}
	c.key.gate.Answered(&c.question, &says)
	c.question = gate.Question{}
}

// told returns what the header of a response says of a limit, or nil.
func (c *call) told(limit string, h http.Header, received time.Time) *bucket.Told {
	var fields QuotaFields
	if p := c.cfg.profile; p != nil {
		fields = p.Quotas[limit]
	}
	q, whole, ok := waithint.Quota{}, 0.0, false
	if fields.Remaining != "" {
		q, whole, ok = waithint.Named(h, received, waithint.Fields(fields))
	}
	if !ok {
		q, whole, ok = waithint.OfUnit(h, limit)
	}
	if !ok {
		return nil
	}
	return &bucket.Told{Limit: whole, Remaining: q.Remaining, Rate: q.Rate}
}

// costs returns what an attempt of req takes from each limit.
func (c *sharedConfig) costs(req *http.Request) (costs gate.Costs) {
	for i := range c.limits {
		costs[i] = c.limits[i].costOf(req)
	}
	return costs
}

// giveBack gives back what an attempt has taken that the server has not charged for. An
// attempt that was refused did cost nothing of what a cost function counts, but it was
// an attempt, so it stays one for a limit without such a function.
//
// From the second refusal of a call on no more is given back than what was taken beyond a
// full bucket. There is less left at the server than was thought, because costs were
// guessed or requests came at other intervals than they were sent, and it stays so until
// somebody pays for it. One refusal alone may be chance.
func (c *call) giveBack(a *attempt) {
	unsent := a.Verdict.Reason == ReasonNeverSent
	if a.refused() {
		c.refusals++
	}
	if !unsent && !a.refused() {
		return
	}
	var back gate.Costs
	for i, l := range c.cfg.shared.limits {
		switch {
		case unsent || l.cost != nil && c.refusals == 1:
			back[i] = c.costs[i]
		case l.cost != nil:
			back[i] = max(c.costs[i]-l.settings().Burst, 0)
		}
	}
	c.key.gate.GiveBack(&back, !unsent && c.refusals == 1)
}
