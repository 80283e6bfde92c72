package resilient

import (
	"context"
	"math"
	"slices"
	"sync"

	"github.com/resilienthttp/resilient/internal/gate"
)

// Settle says what a request has really taken of the limit that [WithLimit] has given
// that name, or that of module redislimit, in the place of the estimate of its cost function:
//
//	ctx = resilient.ContextWithOptions(ctx)
//	resp, err := client.Do(req.WithContext(ctx)) // or through an SDK
//	...
//	resilient.Settle(ctx, "tokens", usage.TotalTokens)
//
// ctx is one that [ContextWithOptions] returned, or is derived from one, and the context
// of the request. A request whose response was returned is settled once. If there are
// several with the same ctx, the calls of Settle count for them in the order in which
// their responses came, so that the sum is right. A request that is not settled costs
// its estimate.
//
// Settle may be called at any time. If more was used, those that follow wait until that
// is made up for. If less was used, they wait less, up to the burst. Estimates that are
// too low in the mean are raised from then on, by as much. Those that are too high are not
// lowered, because some servers take what was asked for until they know. A negative number is
// 0. Settle does nothing if used is infinite or NaN, if there is nothing to settle, if
// no limit has the name, or if the limit was forgotten meanwhile (see [WithLimitKey]). Of
// one context the last 1,024 requests can be settled.
func Settle(ctx context.Context, name string, used float64) {
	o, ok := ctx.Value(optionsKey{}).(*contextOptions)
	if !ok || math.IsNaN(used) || math.IsInf(used, 0) {
		return
	}
	c, ok := o.ledger.take(name)
	if !ok {
		return
	}
	used = max(used, 0)
	if c.gate != nil {
		c.gate.Settle(c.stamp, c.index, c.estimate, c.cost, used)
	}
	if c.limiter != nil {
		c.limiter.Settle(name, used)
	}
}

// charge is what a request has taken of a limit.
type charge struct {
	name     string
	gate     *gate.Gate // nil: the Transport has no limit of this name
	stamp    gate.Stamp
	index    int // of the limit
	estimate float64
	cost     float64     // that was taken for it
	limiter  costLimiter // nil: the caller's Limiter has no limit of this name
}

// ledger has the charges of the requests of a context that may be settled.
type ledger struct {
	mu      sync.Mutex
	charges []charge // the oldest first
}

// maxCharges bounds a ledger of a context with which many requests are sent.
const maxCharges = 1024

func (l *ledger) add(c charge) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.charges) >= maxCharges {
		l.charges = slices.Delete(l.charges, 0, 1)
	}
	l.charges = append(l.charges, c)
}

// take removes and returns the oldest charge for a limit.
func (l *ledger) take(name string) (c charge, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.charges, func(c charge) bool { return c.name == name })
	if i < 0 {
		return c, false
	}
	c = l.charges[i]
	l.charges = slices.Delete(l.charges, i, i+1)
	return c, true
}

// charge notes the costs of a call that has a response, to be settled.
func (c *call) charge() {
	o, ok := c.req.Context().Value(optionsKey{}).(*contextOptions)
	if !ok || c.attempt.refused() {
		return // it has cost nothing
	}
	var names []string
	limiter, _ := c.limiter.(costLimiter)
	if limiter != nil {
		names = limiter.Names()
	}
	for i, l := range c.cfg.shared.limits {
		if l.cost == nil {
			continue
		}
		its := charge{name: l.name, gate: c.key.gate, stamp: c.attempt.stamp, index: i, estimate: c.estimates[i], cost: c.costs[i]}
		if k := slices.Index(names, l.name); k >= 0 { // one call of Settle is for both
			its.limiter, names = limiter, slices.Delete(names, k, k+1)
		}
		o.ledger.add(its)
	}
	for _, name := range names {
		o.ledger.add(charge{name: name, limiter: limiter})
	}
}
