package resilient

import (
	"context"
	"math"
	"slices"
	"sync"

	"github.com/resilienthttp/resilient/internal/gate"
)

// Settle says what a request has really taken of the limit that [WithLimit] has given
// that name, in the place of the estimate of its cost function:
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
// is made up for. If less was used, they wait less, up to the burst. A negative number is
// 0. Settle does nothing if used is infinite or NaN, if there is nothing to settle, if
// no limit has the name, or if the limit was forgotten meanwhile (see [WithLimitKey]). Of
// one context the last 1,024 requests can be settled.
func Settle(ctx context.Context, name string, used float64) {
	o, ok := ctx.Value(optionsKey{}).(*contextOptions)
	if !ok || math.IsNaN(used) || math.IsInf(used, 0) {
		return
	}
	if c, ok := o.ledger.take(name); ok {
		c.gate.Settle(c.index, max(used, 0)-c.cost)
	}
}

// charge is what a request has taken of a limit.
type charge struct {
	gate  *gate.Gate
	index int // of the limit
	name  string
	cost  float64
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
	for i, l := range c.cfg.shared.limits {
		if l.cost != nil {
			o.ledger.add(charge{c.key.gate, i, l.name, c.costs[i]})
		}
	}
}
