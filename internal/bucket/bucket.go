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
}

// New returns a full bucket.
func New(rate, burst float64) *Bucket {
	return &Bucket{rate: rate, burst: burst, tokens: burst}
}

// Tokens returns how many tokens there are; below 0, how many are owed.
func (b *Bucket) Tokens(now time.Time) float64 {
	elapsed := now.Sub(b.at).Seconds()
	if b.at.IsZero() || elapsed <= 0 {
		return b.tokens // a clock that goes back earns nothing
	}
	return min(b.burst, b.tokens+elapsed*b.rate)
}

// Delay returns how long until a request may go, after others that cost so many tokens
// together. One that costs more than the burst waits for a full bucket.
func (b *Bucket) Delay(now time.Time, cost, ahead float64) time.Duration {
	missing := ahead + min(cost, b.burst) - b.Tokens(now)
	if missing <= 0 {
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

// Full reports whether nothing is lost if the bucket is forgotten.
func (b *Bucket) Full(now time.Time) bool { return b.Tokens(now) >= b.burst }

// Rate returns how many tokens come in a second.
func (b *Bucket) Rate() float64 { return b.rate }

// Burst returns how many tokens the bucket holds.
func (b *Bucket) Burst() float64 { return b.burst }
