// Package budget bounds retries to a share of the traffic, so that an outage is
// not amplified.
package budget

import (
	"math"
	"sync"
	"time"
)

const (
	// window is how long a failed retry is remembered, and about how long a
	// balance above start lasts.
	window = 10 * time.Second

	// leastStart covers the retries of one call with the default of four attempts.
	leastStart = 3

	// most is as good as no bound, and can be written as JSON, which infinity
	// cannot.
	most = 1e9
)

// Budget is the retry budget of one limit key. It may be used from several
// goroutines at once.
//
// While the last retry to end was a success, or there was none lately, failures
// look isolated: a retry is let go on credit and costs its token only if it
// fails. A burst of 64 unlucky requests is then retried whole. Once a retry has
// failed, failures look correlated, and each retry is charged ahead, so an outage
// soon uses up the balance. A retry that succeeds earns a token, so where more of them
// succeed than fail they are never cut off: one bad backend of three is no outage.
// Tokens come with time too, but not while call after call fails. Above its start the
// balance fades within about a window: the earnings of a good hour are not there to be
// spent on a bad minute.
type Budget struct {
	ratio float64 // tokens for each call that is answered at once
	floor float64 // tokens a second
	start float64 // tokens to begin with

	mu         sync.Mutex
	balance    float64
	at         time.Time // when balance was right
	correlated time.Time // until when failures are
	failing    bool      // nothing was answered since a failure
}

// New returns a budget that earns ratio tokens for each call answered at once, and
// perSecond tokens a second. It begins with those for the retries of one call that fails:
// enough for a client that makes a call now and then. For one that makes a call each
// second they are a tenth of an outage of 30 s. An infinite ratio is no bound.
func New(ratio, perSecond float64, retries int, now time.Time) *Budget {
	start := max(float64(retries), leastStart)
	return &Budget{ratio: ratio, floor: perSecond, start: start, balance: start, at: now}
}

func (b *Budget) unbounded() bool { return math.IsInf(b.ratio, 1) }

// TryWithdraw reports whether a retry that costs so many tokens may be made, and how
// many it has been charged ahead. The last token is enough.
func (b *Budget) TryWithdraw(now time.Time, cost int) (ok bool, charged int) {
	if b.unbounded() {
		return true, 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle(now)
	if b.failing = true; b.balance < 1 {
		return false, 0
	}
	if !now.Before(b.correlated) && cost == 1 {
		return true, 0
	}
	charged = min(cost, int(b.balance))
	b.balance -= float64(charged)
	return true, charged
}

// Correlated reports whether a retry has failed lately, so that failures are not
// a matter of chance.
func (b *Budget) Correlated(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return now.Before(b.correlated)
}

// Strained reports whether failures are not isolated, or no token is left.
func (b *Budget) Strained(now time.Time) bool {
	balance := b.Balance(now)
	return b.Correlated(now) || balance >= 0 && balance < 1
}

// Failed charges a retry that failed for the tokens that were not charged ahead.
func (b *Budget) Failed(now time.Time, due int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.correlated = now.Add(window)
	b.balance = max(b.balance-float64(due), 0)
}

// Answered earns the ratio for a call that was answered at its first attempt.
func (b *Budget) Answered(now time.Time) {
	b.Deposit(now, b.ratio)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failing = false
}

// Recovered earns a token for a call that was answered by a retry, and gives those back
// that it was charged ahead: failures are isolated again.
func (b *Budget) Recovered(now time.Time, charged int) {
	b.Deposit(now, float64(charged)+1)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.correlated, b.failing = time.Time{}, false
}

// Deposit adds tokens.
func (b *Budget) Deposit(now time.Time, tokens float64) {
	if b.unbounded() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle(now)
	b.balance = min(b.balance+tokens, most)
}

// Balance returns the tokens there are; -1 if there is no bound.
func (b *Budget) Balance(now time.Time) float64 {
	if b.unbounded() {
		return -1
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle(now)
	return b.balance
}

// Idle reports whether a new budget would do as well.
func (b *Budget) Idle(now time.Time) bool {
	return !b.Correlated(now) && (b.unbounded() || b.Balance(now) >= b.start)
}

// settle brings the balance up to now: it rises to start by the floor, and falls
// to it exponentially.
func (b *Budget) settle(now time.Time) {
	elapsed := now.Sub(b.at)
	b.at = now
	if b.balance <= b.start {
		if b.failing {
			elapsed = max(elapsed-window, 0)
		}
		b.balance = min(b.balance+b.floor*elapsed.Seconds(), b.start)
		return
	}
	b.balance = b.start + (b.balance-b.start)*math.Exp(-float64(elapsed)/float64(window))
}
