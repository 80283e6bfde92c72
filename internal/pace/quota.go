package pace

import (
	"math"
	"time"
)

const (
	// A ledger is closed after so many attempts, so much that the
	// policy promises to come in, and so many round trips, that neither rounding
	// nor the order of the answers accounts for the rest of ledgerPart.
	ledgerSent   = 4
	ledgerRefill = 8
	ledgerTrips  = 4
	ledgerPart   = 0.75

	// leastShare is the part of a quota that a client begins with where it is
	// shared. From one attempt a second, which is all that a late one may find
	// left, it would take minutes to grow.
	leastShare = 1.0 / 16

	// quotaSpare is the part of a quota that is left for others.
	quotaSpare = 2
)

// quota is the server's word about a quota, in RateLimit fields: how much
// remained when it answered the attempt that it had seen last, and how fast it is
// refilled. A client that is alone sends an attempt when by that there is one left
// for it: the server's own word, renewed with every answer, is exact.
type quota struct {
	rate   float64 // 0: the server does not say
	left   float64
	sent   int64 // the attempt that was answered so
	at     time.Time
	refill float64   // our part of it, a second
	high   float64   // the most that remained
	reset  time.Time // when there is more at the latest; zero: not known

	ledger        ledger
	alone         bool      // by the last ledger
	others        bool      // there are, by the last ledger, and nothing was made of it yet
	distrustUntil time.Time // until when the server is not believed
	distrusts     int       // how often it was not
}

// ledger keeps account of the income, from an answer on.
type ledger struct {
	at       time.Time
	sent     int64
	left     float64
	refused  float64 // of those sent since
	promised float64 // by the policy, without the part that found no room
}

// SetQuota takes note of the server's word with an answer: how much remains of the
// quota, and how much of it is refilled each second. If nothing remains, reset is
// when that changes at the latest; 0: not said.
func (p *Pace) SetQuota(t Stamp, now time.Time, remaining, rate float64, reset time.Duration) {
	p.quota.told(t, now, remaining, rate, reset)
	if !p.quota.others || p.rate == 0 {
		return
	}
	p.quota.others = false
	if p.shared() {
		return
	}
	p.unexplained = sharedAfter
	if least := rate * leastShare; p.rate < least {
		p.set(least, now)
	}
}

// scarce reports whether little is left of the quota. With 900 left of 1,000 a day,
// a refusal is about something else, and the policy's one in 86 seconds is no pace.
func (q *quota) scarce() bool { return q.left <= max(ledgerRefill, q.high/16) }

// told takes note of an answer.
func (q *quota) told(t Stamp, now time.Time, remaining, rate float64, reset time.Duration) {
	q.high = max(q.high, remaining)
	switch {
	case now.Before(q.distrustUntil):
		return
	case t.Seq == 0 && q.rate > 0 && (q.sent > 0 || remaining >= q.left):
		return // from before learning began, in an unknown order
	case t.Seq == 0:
		t.Sent = now
	case t.Seq <= q.sent:
		return
	}
	if q.rate != rate || t.Seq == 0 {
		q.refill, q.ledger = rate, ledger{}
	} else if dt := t.Sent.Sub(q.at).Seconds(); dt > 0 {
		promised := rate * dt
		seen := remaining - q.left + float64(t.Seq-q.sent)
		if seen > q.refill*dt || q.left+promised < q.high { // a full bucket takes less than is promised
			q.refill += (seen/dt - q.refill) * min(dt, 1)
		}
		q.refill = min(max(q.refill, rate/20), rate)
		q.ledger.promised += min(promised, q.high-q.left)
	}
	q.rate, q.left, q.sent, q.at = rate, remaining, t.Seq, t.Sent
	if q.reset = (time.Time{}); reset > 0 {
		q.reset = now.Add(reset)
	}
	q.settle(now)
}

// settle closes the ledger when there is enough of it, and begins another one.
// A client that is alone finds all of the promise in a bucket, and nothing at all in
// a fixed window. If it finds less, others have taken the rest.
func (q *quota) settle(now time.Time) {
	was, took := q.ledger, q.at.Sub(q.ledger.at)
	sent := float64(q.sent - was.sent)
	if was.sent > 0 && (sent < ledgerSent || q.rate*took.Seconds() < ledgerRefill || took < ledgerTrips*now.Sub(q.at)) {
		return
	}
	q.ledger = ledger{at: q.at, sent: q.sent, left: q.left}
	if was.sent == 0 {
		return
	}
	if was.promised < ledgerRefill/2 && q.left <= quotaSpare {
		return // too little room was seen for much to come in
	}
	came := q.left - was.left + sent - was.refused
	if came >= ledgerPart*was.promised-1 || math.Abs(came) <= 1 {
		q.alone, q.others = true, false
		return
	}
	if q.alone {
		q.distrust(now)
	}
	q.others = true
}

// wait returns how long until there is one left for the next attempt.
func (q *quota) wait(now time.Time, sent int64) time.Duration {
	need := 1.0
	if q.high >= 8 {
		need += quotaSpare
	}
	d := Seconds((need - q.expected(now, sent)) / q.refill)
	if q.reset.IsZero() || d <= q.reset.Sub(now) {
		return d
	}
	if now.Before(q.reset) {
		return q.reset.Sub(now)
	}
	// A window of the server's is over. One attempt finds out how much there is.
	q.left, q.sent, q.at, q.reset = need, sent, now, time.Time{}
	return 0
}

// expected returns how much is left after so many attempts, if nobody else takes any.
func (q *quota) expected(now time.Time, sent int64) float64 {
	return q.left - float64(sent-q.sent) + q.refill*now.Sub(q.at).Seconds()
}

// distrust leaves the quota to be learned for a minute, and twice as long each
// time, up to an hour: others stay, and to see that they are there costs some of
// the quota.
func (q *quota) distrust(now time.Time) {
	*q = quota{distrustUntil: now.Add(forgetting << q.distrusts), distrusts: min(q.distrusts+1, 6), high: q.high}
}

// breach takes note of a refusal, the last of so many in a row.
func (q *quota) breach(t Stamp, now time.Time, row int) {
	if q.rate == 0 {
		return
	}
	if t.Seq > q.ledger.sent {
		q.ledger.refused++
	}
	q.refill = max(q.refill*(1-shareCut), q.rate/20)
	if row >= 2*blockedAfter {
		q.distrust(now)
	}
}
