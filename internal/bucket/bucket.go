// Package bucket is a token bucket for requests that cost more or less than one token.
//
// x/time/rate counts whole tokens, and can give back no more than the last reservation.
// Here a request has a cost that is an estimate, and may be settled long after, up or
// down. Tokens may so be owed: the next request waits until the debt is paid, and the
// rate is kept in the long run.
package bucket

import (
	"math"
	"time"
)

// longest is as long as anybody is told to wait. Longer waits would overflow sums.
const longest = 365 * 24 * time.Hour

// Bucket is a token bucket. It is not safe for concurrent use.
type Bucket struct {
	rate   float64 // tokens a second
	burst  float64
	tokens float64 // at that time; below 0: owed
	at     time.Time

	most struct{ rate, burst float64 } // that the user allows
	used float64                       // of the limit when the server told the rate
	told bool
	room float64 // how much more there may be by what the server has told
}

// Told is what a server says of a limit.
type Told struct {
	Limit     float64 // what there is when nothing was used; 0: unknown
	Remaining float64
	Rate      float64 // what comes in a second; 0: unknown
}

// New returns a full bucket.
func New(rate, burst float64) *Bucket {
	b := &Bucket{rate: rate, burst: burst, tokens: burst}
	b.most.rate, b.most.burst = rate, burst
	return b
}

// Tokens returns how many tokens there are; below 0, how many are owed.
func (b *Bucket) Tokens(now time.Time) float64 {
	if b.infinite() {
		return b.burst
	}
	elapsed := now.Sub(b.at).Seconds()
	if b.at.IsZero() || elapsed <= 0 {
		return b.tokens // a clock that goes back earns nothing
	}
	return min(b.burst, b.tokens+elapsed*b.rate)
}

// Delay returns how long until a request may go, after others that cost so many tokens
// together. One that costs more than the burst waits for a full bucket, and one that costs
// nothing waits for nothing, not even for the debt of others.
func (b *Bucket) Delay(now time.Time, cost, ahead float64) time.Duration {
	missing := ahead + min(cost, b.burst) - b.Tokens(now)
	if cost == 0 || missing <= 0 || b.infinite() {
		return 0
	}
	// Rounded up, so that the tokens are there when the time has passed.
	ns := math.Ceil(missing / b.rate * float64(time.Second))
	return time.Duration(min(ns, float64(longest)))
}

// Take takes tokens, and owes those that are not there. A negative number gives tokens
// back, as many as there is room for.
func (b *Bucket) Take(now time.Time, tokens float64) {
	b.tokens = min(b.burst, b.Tokens(now)-tokens)
	if now.After(b.at) {
		b.at = now
	}
}

// Tell keeps the bucket within what the server says, and within what the user allows. What
// it says is older than age, and may or may not count requests that take so many tokens
// together. Within these bounds the bucket knows better.
func (b *Bucket) Tell(now time.Time, t Told, age time.Duration, uncounted float64) {
	if b.infinite() && t.Limit <= 0 {
		return // nobody knows how fast it is filled
	}
	tokens := b.Tokens(now)
	if t.Limit > 0 {
		b.burst = min(b.most.burst, t.Limit)
	}
	switch used := t.Limit - t.Remaining; {
	case t.Rate > 0 && used >= enough*b.used:
		b.rate, b.used = min(b.most.rate, t.Rate*(1-margin)), used
	case b.infinite():
		b.rate = t.Limit / minute
	}
	least, most := t.Remaining-uncounted, t.Remaining+b.rate*age.Seconds()
	if !math.IsInf(b.most.rate, 1) {
		least = math.Inf(-1) // the user's own limit may have less left
	}
	b.tokens, b.at = min(max(tokens, least), most, b.burst), now
	if tokens >= math.MaxFloat64 {
		b.tokens = min(least, b.burst) // nothing was known before
	}
	b.told, b.room = true, most-b.tokens
}

// Settle takes more tokens for a request that has cost another number than it had taken,
// or with a negative number gives some back. What the server has told may count that
// already, so no more is given back than it allows for.
func (b *Bucket) Settle(now time.Time, more float64) {
	if b.told {
		more = max(more, -b.room)
		b.room += more
	}
	b.Take(now, more)
}

const (
	// A rate is what was used by the time in which it is made up for. Both are rounded,
	// so the more was used the better it is known, and one of which less than this part
	// was used does not count any more.
	enough = 0.9

	// margin is how much slower the bucket is filled than the server says: if it were
	// ever so little faster, the sum of that would be refused in the end.
	margin = 0.002

	// minute is the time for which most limits are told, in seconds. It is assumed as
	// long as nothing was used, and the server says no time.
	minute = 60
)

// infinite reports whether nobody ever waits. What is taken of such a bucket, and what
// others ahead take, may be beyond all numbers.
func (b *Bucket) infinite() bool { return math.IsInf(b.rate, 1) }

// Full reports whether nothing is lost if the bucket is forgotten.
func (b *Bucket) Full(now time.Time) bool { return b.Tokens(now) >= b.burst }

// Rate returns how many tokens come in a second.
func (b *Bucket) Rate() float64 { return b.rate }

// Burst returns how many tokens the bucket holds.
func (b *Bucket) Burst() float64 { return b.burst }
