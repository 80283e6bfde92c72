// Package usual learns how long the calls of a key take, and bounds how many requests are
// sent because one takes longer.
package usual

import (
	"math/bits"
	"sync"
	"time"
)

const (
	minSamples = 32   // before there is a delay; the two slowest then say what it is
	generation = 8192 // samples that are forgotten together
	every      = 16   // samples until the delay is computed anew

	// surplus is how many tokens are earned for each call that should outlast the delay.
	// With it and burst, chance refuses few of a thousand hedges.
	surplus = 1.3
	burst   = 20

	// debt is the most that can be owed. Calls that are all fast earn it back within a
	// hundred, and where a tenth of them is slow the balance does not get to a token.
	debt = 6

	// A bucket is a 32nd of an octave, or 3 % wide. They begin at 32 microseconds, and
	// the last one has all that is longer than nine minutes.
	perOctave, octaves, shift = 32, 24, 10
)

// Calls is what is known of the calls of a key. It may be used from several goroutines
// at once. It has one balance of tokens, and two rules: a call that ends before
// the delay earns a part of one, and a request that outlasts the delay costs one.
//
// The share of the calls that outlast the delay is known, because that is how the delay is
// chosen. So calls earn just a little more than they cost, and the balance stays near the
// top while they are slow independently of each other. It falls as soon as more of them are
// slow, which is before a server that hangs has answered any, and no matter how slow they
// are. Below zero nothing can be paid for until calls are fast again.
type Calls struct {
	share float64 // of the calls that outlast the delay
	fixed bool    // the delay was given

	mu      sync.Mutex
	delay   time.Duration                  // 0: not known yet
	balance float64                        // tokens, from -debt to burst
	counts  [2][perOctave * octaves]uint16 // of this generation and the last one
	samples [2]int
}

// New returns what is known of a key at first: the share of its calls that are to outlast
// the delay, and the delay itself, or 0 if it is to be learned.
func New(share float64, delay time.Duration) *Calls {
	return &Calls{share: share, delay: delay, fixed: delay > 0, balance: burst}
}

// Delay returns the delay, or 0 if it is not known yet, and whether there is a token for a
// request that outlasts it.
func (c *Calls) Delay() (delay time.Duration, affordable bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.delay, c.delay > 0 && c.balance >= 1
}

// Outlasted charges a request that has outlasted the delay, even if no other one follows.
// It reports whether there was a token.
func (c *Calls) Outlasted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.charge()
}

func (c *Calls) charge() bool {
	was := c.balance
	c.balance = max(was-1, -debt)
	return was >= 1
}

// Ended takes note of how long the first request of a call ran. If it was canceled, it would
// have taken longer than that. If it has failed before the delay, that says nothing. The
// request is charged if it has outlasted the delay and was not charged before.
func (c *Calls) Ended(ran time.Duration, answered, charged bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	slow := c.delay > 0 && ran >= c.delay
	switch {
	case !slow:
		c.balance = min(c.balance+surplus*c.share, burst)
	case !charged:
		c.charge()
	}
	if c.fixed || !answered && !slow {
		return
	}
	if c.samples[0] == generation {
		c.counts[1], c.samples[1] = c.counts[0], generation
		clear(c.counts[0][:])
		c.samples[0] = 0
	}
	c.counts[0][bucket(ran)]++
	c.samples[0]++
	if n := c.samples[0] + c.samples[1]; n >= minSamples && n%every == 0 {
		c.delay = c.quantile(c.share * float64(n))
	}
}

// quantile returns a duration that no more samples than that outlast. It is the end of a
// bucket, so that calls which all take about as long do not outlast it.
func (c *Calls) quantile(longer float64) time.Duration {
	i := perOctave*octaves - 1
	for above := 0; i > 0; i-- {
		if above += int(c.counts[0][i]) + int(c.counts[1][i]); float64(above) > longer {
			break
		}
	}
	return time.Duration(perOctave+i%perOctave+1) << (shift + i/perOctave)
}

func bucket(d time.Duration) int {
	n := max(uint64(d)>>shift, perOctave)
	octave := bits.Len64(n / perOctave)
	return min((octave-2)*perOctave+int(n>>(octave-1)), perOctave*octaves-1)
}
