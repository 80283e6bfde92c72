package gate

import (
	"math"
	"time"

	"github.com/resilienthttp/resilient/internal/bucket"
)

// MaxLimits is how many limits a user may set. The costs of an attempt have a place for
// each, so that an attempt can be described without an allocation.
const MaxLimits = 8

// Costs are what an attempt takes from each limit of Settings.
type Costs [MaxLimits]float64

// Settings are the limits that the user has set for a key.
type Settings struct {
	Limits   []Limit // at most MaxLimits
	InFlight int     // how many attempts may be in flight at one time; 0: any number
	Told     bool    // the server may say how much is left, see Answered
	Learned  int     // from 1: of Limits, in whose tokens a rate of the server's is learned; 0: in attempts
}

// Limit is a token bucket.
type Limit struct {
	Rate  float64 // tokens a second; infinite: there is no limit unless the server tells one
	Burst float64
}

func (l Limit) finite() bool { return !math.IsInf(l.Rate, 1) }

// common is what all attempts of a key share, whichever limit of the server's binds
// them: the limits that the user has set. An attempt takes from all of them in one
// instant, or from none.
type common struct {
	buckets []*bucket.Bucket
	learned int              // as in Settings
	usual   ratio            // of the squares of the costs to the costs
	truth   [MaxLimits]ratio // of the costs to their estimates
	slots   slots
	told    told
}

func newCommon(s Settings) common {
	c := common{learned: s.Learned, slots: slots{max: s.InFlight}, told: newTold(s)}
	for _, l := range s.Limits {
		c.buckets = append(c.buckets, bucket.New(l.Rate, l.Burst))
	}
	return c
}

// cost returns what attempts take of what the server counts, with costs that are the sum of
// those of n attempts.
func (c *common) cost(n int, costs *Costs) float64 {
	if c.learned == 0 {
		return float64(n)
	}
	return costs[c.learned-1]
}

// unit returns the cost in which a rate is learned; 0: 1. As many attempts of this cost say as
// much of a bucket as attempts of which few are large and many small.
func (c *common) unit() float64 { return c.usual.value() }

// likely returns what an attempt is likely to cost, by its estimate. Estimates that have been
// too low are raised, or each attempt would be sent before the server has what it takes.
// Those that have been too high stay, because some servers take them first, and give back the
// rest.
func (c *common) likely(estimate Costs) Costs {
	for i := range c.buckets {
		estimate[i] *= max(c.truth[i].value(), 1)
	}
	return estimate
}

// mostTruth is how many times its estimate an attempt counts as at most. One number gone
// wrong must not stop all.
const mostTruth = 16

// settle takes note of what an attempt has cost.
func (c *common) settle(i int, estimate, used float64) {
	if estimate > 0 {
		c.truth[i].add(estimate, min(used, mostTruth*estimate))
	}
}

// any reports whether the user has set a limit.
func (c *common) any() bool { return len(c.buckets) > 0 || c.slots.max > 0 }

// hold returns how long the next attempt is held back: by a bucket, or until another
// attempt ends.
func (c *common) hold(now time.Time, costs *Costs) time.Duration {
	if c.full() {
		return forever
	}
	return c.delay(now, costs, &Costs{})
}

// full reports whether no attempt goes before another one ends.
func (c *common) full() bool { return c.slots.full() || c.told.waits() }

// spare reports whether at least half of each limit is left after an attempt.
func (c *common) spare(now time.Time, costs *Costs) bool {
	if c.full() || c.slots.max > 0 && 2*(c.slots.taken()+1) > c.slots.max {
		return false
	}
	var half Costs
	for i, b := range c.buckets {
		half[i] = b.Burst() / 2
	}
	return c.delay(now, costs, &half) == 0
}

// delay returns how long until the buckets have the tokens for an attempt, after others
// that take so many.
func (c *common) delay(now time.Time, costs, ahead *Costs) time.Duration {
	var d time.Duration
	for i, b := range c.buckets {
		d = max(d, b.Delay(now, costs[i], ahead[i]))
	}
	return d
}

// take takes the tokens and the slot of an attempt that goes.
func (c *common) take(now time.Time, costs *Costs) (slot int, q Question) {
	for i, b := range c.buckets {
		b.Take(now, costs[i])
	}
	if c.learned > 0 {
		cost := c.cost(1, costs)
		c.usual.add(cost, cost*cost)
	}
	return c.slots.take(now), c.told.take(now, costs)
}

// idle reports whether nothing is lost if the limits are forgotten.
func (c *common) idle(now time.Time) bool {
	for _, b := range c.buckets {
		if !b.Full(now) {
			return false
		}
	}
	return c.slots.taken() == 0 && c.told.flying == 0
}
