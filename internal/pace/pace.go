// Package pace learns the rate that a server lets through from its answers, and
// says when the next attempt may go. It is arithmetic on the times it is given:
// it waits for nothing, locks nothing and starts nothing.
//
// # Identification
//
// At a refusal the server's bucket is empty. So between two refusals as many
// attempts are accepted as it refills, whatever its size: accepted / elapsed is
// the rate, one attempt more or less. The one more is what is sent: the next
// refusal then comes after about as many again, and each one halves the error.
// What counts is when attempts were sent, not when they were answered, and a
// refusal of an attempt that was sent before the last one was known is no news.
//
// # A limit that changes
//
// A limit that rises shows in refusals that do not come. With every attempt that
// is accepted the pace creeps upward, so that one in probeEvery is refused as
// long as the limit stays; without a refusal after so many, it doubles again and
// again. A limit that falls shows in refusals without an attempt accepted
// between them, a drought: the pace is halved with each, until one is accepted.
// Then it is the rate of the long run again; if that ends in a drought at once,
// what was learned before is forgotten. A drought of many refusals is a server
// that is closed, as one is that has given out all there was for this minute: it
// is asked now and then, and when it opens, learning begins anew.
//
// # A limit that counts in windows
//
// A server that counts in fixed windows refuses whatever comes in the rest of one
// that is used up. So the first drought is about a window, and each one after it
// says how much too fast the pace was: what was accepted before it should have
// lasted for the whole window. Nothing of the limit is lost while the pace is too
// fast, so the next one may well be found by growing until there is a drought.
//
// # A limit that is shared
//
// Where others use the same quota, refusals come that the pace does not account
// for. Then it cannot be measured, and is shared: a refusal takes a part of the
// pace, and time gives it back. As the larger share is refused more often, all
// shares become alike.
//
// # A limit that is told
//
// Where the server says what remains of the quota and how fast it is refilled,
// in RateLimit fields, that is used instead: an attempt goes when there is one
// left for it. But what remains is everybody's, and of two clients that go by it
// the one that is quicker would get it all. So it is used only by who is found to
// be alone: while what comes in between two answers is what the policy says, or
// nothing, as in a fixed window. Where less comes in, others take it, and the
// quota is shared as above.
//
// # Nothing to learn
//
// Only a backlog teaches anything: without one the server's bucket may be full,
// and what is accepted is what was asked for. After a minute in which nobody had
// to wait, the pace is forgotten.
package pace

import (
	"math"
	"time"
)

// Stamp identifies an attempt that was sent. The zero Stamp is one from before there
// was a Pace.
type Stamp struct {
	N  int64 // attempts sent, this one included
	At time.Time
}

// Pace is what is known of one limit. The zero Pace knows nothing, and lets
// everything go; so does a nil one, which must not be told anything.
type Pace struct {
	rate  float64   // attempts a second that may go; 0: not known
	base  float64   // the rate as of the last refusal
	proof float64   // the attempts accepted on which base rests
	next  time.Time // when the next attempt may go
	last  time.Time // when the last one went
	held  time.Time // when somebody last had to wait
	idle  bool      // since the last refusal, there was a time without a backlog

	sent, refused int64         // since learning began
	marks         [8]mark       // refusals that the rate is measured from, the oldest first
	n             int           // marks in use
	known         time.Time     // when the last refusal was known: older attempts say nothing new
	row           int           // refusals since an attempt was accepted
	first, struck mark          // the first of them, and the last
	revived       int64         // attempts accepted when the last drought ended
	revivedAt     time.Time     // when that was
	long          float64       // the rate when the drought began
	dry           time.Duration // how long the longest drought was: about a window of the server's
	window        mark          // where one of them began, by the end of a drought
	over          float64       // the pace in it when the last drought began

	acks  int           // attempts accepted since the last refusal, in a backlog
	ackAt time.Time     // when the last one was
	rtt   time.Duration // until a refusal is known

	strange int     // refusals that the pace does not account for, less those that it does
	peak    float64 // the pace at the last refusal
	level   int     // refusals in a row at the same pace
	quota   allowance
}

// mark is a refusal: an instant at which the server's bucket was empty.
type mark struct {
	at            time.Time
	sent, refused int64
}

const (
	// probeEvery attempts are accepted between two refusals while the limit
	// stays the same: below one in a hundred, and still often enough to notice
	// within 10 s that a limit of 20 a second has become one of 200.
	probeEvery = 120

	// doubling is how fast the pace grows when a limit has risen. Much faster,
	// and it would overshoot while a server's burst hides the limit.
	doubling = 500 * time.Millisecond

	// slowest is where a pace stops to fall when nothing else is known: little to
	// ask of a server, and one that refuses everybody once must not stop
	// everybody for minutes.
	slowest = 5.0

	// A server that has refused so many in a row is closed, and is asked at this
	// pace whether it opens: of a minute that is used up after 6 s it refuses a
	// hundred, which is less than two for each of 64 callers.
	closed   = 16
	knocking = 1.5

	// fastest is as good as no limit.
	fastest = 1e6

	// tells is how many attempts a window must hold for its drought to say by how
	// much the pace was too fast. Of a window of fewer, one attempt more or less
	// is too large a part.
	tells = 4 * weak

	// few attempts in a window are what is begun with where it is not known how
	// many fit.
	few = 4

	// longest is the drought that slows the pace's growth most: twice as long
	// has to pass before a window of the server's can be told from a new limit.
	longest = 2 * time.Second

	// risen is how much above the last measurement the pace must be for that to
	// be out of date.
	risen = 1.25

	// weak is how few accepted attempts make a measurement that is not to be
	// relied upon.
	weak = 8

	// sure is the trust from which on a caller may be told that its turn comes
	// too late.
	sure = 0.5

	// strangers is how many more refusals are not accounted for by the pace than
	// are, where a quota is shared.
	strangers = 5

	// drought refusals in a row are no chance at a pace that is about right.
	drought = 3

	// A shared pace loses shareCut of itself with a refusal and is given back
	// shareCut * shareGrowth * pace^(1/4) of it each second. So in the balance
	// shareGrowth / pace^(3/4) of the attempts are refused: 1.4 % at 18 a second.
	// Of a large share that is less than of a small one, so they become alike,
	// the faster the smaller the exponent; at 0 the figure would hold for one
	// scale of limits only. The cut is how fast, and what it costs of the quota.
	shareCut    = 0.2
	shareGrowth = 0.12

	// An account of a quota is closed after so many attempts, so much that the
	// policy promises to come in, and so many round trips, that neither rounding
	// nor the order of the answers makes out what is missing of accountPart.
	accountSent   = 4
	accountRefill = 8
	accountTrips  = 4
	accountPart   = 0.75

	// leastShare is the part of a quota that a client begins with where it is
	// shared. From one attempt a second, which is all that a late one may find
	// left, it would take minutes to grow.
	leastShare = 1.0 / 16

	// quotaSpare is what is left of a quota for others.
	quotaSpare = 2

	// catchUp is how much time an attempt that goes late, as timers are late,
	// is made up for.
	catchUp = 10 * time.Millisecond

	// forgetting is how long a pace is kept that holds nobody back.
	forgetting = time.Minute

	// pausing is how long nothing goes while the pace is not known only if nobody
	// asks: while a key is reopened, an attempt goes each second. A refusal an
	// hour after another one says nothing about the rate.
	pausing = 2 * time.Second
)

// Known reports whether there is a pace, learned or told.
func (p *Pace) Known() bool { return p != nil && (p.rate > 0 || p.quota.alone) }

// Blank reports whether there is nothing to be lost with p.
func (p *Pace) Blank() bool { return p.rate == 0 && p.quota == allowance{} }

// Told reports whether the pace is what the server says of its quota.
func (p *Pace) Told() bool { return p != nil && p.quota.alone }

// Rate returns how many attempts a second may go; 0: that is not known.
func (p *Pace) Rate(now time.Time) float64 {
	switch {
	case p.Told():
		return p.quota.refill
	case !p.Known() || !p.next.After(now) && now.Sub(p.held) > forgetting:
		return 0
	}
	return p.rate
}

// Wait returns how long until the next attempt may go.
func (p *Pace) Wait(now time.Time) time.Duration {
	if p.Told() {
		return p.quota.wait(now, p.sent)
	}
	if !p.Known() {
		return 0
	}
	d := p.next.Sub(now)
	if d > 0 {
		p.held = now
	} else if now.Sub(p.held) > forgetting {
		p.Forget()
	}
	return max(d, 0)
}

// Behind returns how much longer it takes for an attempt with so many before it,
// as far as that can be told.
func (p *Pace) Behind(ahead int) time.Duration {
	if p.Told() {
		return Seconds(float64(ahead) / p.quota.refill)
	}
	if !p.Known() || p.trust() < sure || p.shared() || p.row >= drought {
		return 0
	}
	return Seconds(float64(ahead) / p.rate)
}

// Drought returns for how long all attempts have been refused, if there were
// more of them than chance explains.
func (p *Pace) Drought(now time.Time) (d time.Duration, dry bool) {
	if p == nil {
		return 0, false
	}
	return now.Sub(p.first.at), p.dryAt(now)
}

// DryUntil returns when the server last refused everything, until now if it still
// does.
func (p *Pace) DryUntil() time.Time {
	switch {
	case p == nil:
		return time.Time{}
	case p.row >= drought:
		return p.known
	}
	return p.revivedAt
}

// dryAt reports whether an attempt that is sent at the given time is in a
// drought. Over a long way many are refused before the pace can be lowered.
func (p *Pace) dryAt(at time.Time) bool {
	return p.row >= drought && at.Sub(p.first.at) >= 2*p.rtt
}

// Forget leaves the pace as it was before the first refusal.
func (p *Pace) Forget() {
	*p = Pace{
		sent: p.sent, refused: p.refused, known: p.known, quota: p.quota,
		revived: p.revived, revivedAt: p.revivedAt,
	}
}

// Send counts an attempt that goes now.
func (p *Pace) Send(now time.Time) Stamp {
	if p == nil {
		return Stamp{}
	}
	if !p.window.at.IsZero() {
		if past := now.Sub(p.window.at).Truncate(p.dry); past > 0 {
			p.window = mark{p.window.at.Add(past), p.sent, p.refused}
		}
	}
	if p.rate == 0 && now.Sub(later(later(p.last, p.next), p.known)) > pausing {
		p.idle = true
	}
	p.sent++
	p.last = now
	if p.rate > 0 && !p.Told() { // who goes by what is told runs up no debt
		gap := Seconds(1 / p.rate)
		p.idle = p.idle || now.Sub(p.next) > gap
		if earliest := now.Add(-catchUp); p.next.Before(earliest) {
			p.next = earliest
		}
		p.next = p.next.Add(gap)
	}
	return Stamp{p.sent, now}
}

// Refused takes note of a refusal and reports whether it is news: one of an
// attempt that was sent before the last one was known is not, nor is one of an
// attempt from before learning began.
func (p *Pace) Refused(t Stamp, now time.Time, learning bool) bool {
	if t.N == 0 && learning {
		return false
	}
	p.refused++
	if learning && t.At.Before(p.known) {
		return false
	}
	if t.N == 0 {
		p.Forget()
		t = Stamp{p.sent, now}
	} else {
		p.rtt = now.Sub(t.At)
		p.quota.breach(t, now, p.row+1)
	}
	m := mark{t.At, t.N, p.refused}
	lately := p.struck.accepted(m)
	most := (lately + weak/2) / max(m.at.Sub(p.struck.at).Seconds(), 1e-6)
	if p.row++; m.sent-p.struck.sent != m.refused-p.struck.refused {
		p.row = 1 // others were sent between them, whose answers may take longer
	}
	if p.struck = m; p.row == 1 {
		p.first, p.over = m, p.rate
		// It may have grown within the window, of which a short part says little.
		if d := m.at.Sub(p.window.at); !p.window.at.IsZero() && d > p.dry/4 {
			p.over = p.window.accepted(m) / d.Seconds()
		}
	}
	p.known = now
	p.judge()
	// What was measured is out of date if the bucket was full meanwhile, or if
	// the limit has risen. Without a backlog there is nothing to measure it
	// from anew; only a pace that nobody can keep up with must not stay.
	if p.idle || p.rate > risen*p.base {
		p.n, p.base = 0, p.rate
	}
	if p.idle && lately < weak {
		p.base = min(p.base, most)
	}
	switch {
	case p.dryAt(m.at) && !p.shared() || p.row >= 2*drought:
		least := slowest
		if p.row > closed {
			least = knocking
		}
		p.base, p.proof = max(p.rate/2, min(p.rate, least)), 0
	case p.shared() && !p.idle:
		p.base = max(p.rate*(1-shareCut), min(p.rate, slowest))
	case p.n > 0 && !p.shared():
		p.proof = p.marks[0].accepted(m)
		p.base = (p.proof + 1) / max(m.at.Sub(p.marks[0].at).Seconds(), 1e-6)
	}
	if p.row == 1 && p.proof >= weak {
		p.long = p.base
	}
	if p.base == 0 && p.quota.voids == 0 && p.quota.scarce() {
		p.base = p.quota.rate // where the policy is told, to begin with
	}
	p.add(m)
	p.set(p.base, now)
	p.acks, p.ackAt, p.idle = 0, now, false
	return true
}

// accepted returns how many attempts were accepted from mark o to mark m.
func (o mark) accepted(m mark) float64 {
	return float64(max(m.sent-o.sent-(m.refused-o.refused), 0))
}

// add adds a mark. The oldest one gives the long base line, until it is old.
func (p *Pace) add(m mark) {
	if p.n == len(p.marks) {
		drop := 1
		if m.sent-p.marks[0].sent > int64(len(p.marks)*probeEvery) {
			drop = 0
		}
		copy(p.marks[drop:], p.marks[drop+1:])
		p.n--
	}
	p.marks[p.n] = m
	p.n++
}

// set sets the pace, from the attempt that went last.
func (p *Pace) set(rate float64, now time.Time) {
	if p.rate == 0 {
		p.held = now
	}
	rate = min(rate, p.most())
	p.base, p.rate = rate, rate
	if rate > 0 {
		p.next = later(now, p.last.Add(Seconds(1/rate)))
	}
}

// most is what a pace does not exceed: the policy, if the server tells it and
// little is left of the quota.
func (p *Pace) most() float64 {
	if p.quota.rate > 0 && p.quota.scarce() {
		return p.quota.rate
	}
	return fastest
}

// judge tells refusals that the pace accounts for from others. A pace that is
// one's own is refused at about the same height each time.
func (p *Pace) judge() {
	if p.rate == 0 || p.row > 1 {
		return
	}
	if p.shared() {
		if p.level++; math.Abs(p.rate-p.peak) > 0.02*p.peak {
			p.level = 0
		}
		p.peak = p.rate
		if p.level >= 4 {
			p.strange, p.level = 0, 0
		}
		return
	}
	if p.idle || float64(p.acks) < p.every()/2 {
		p.strange++
	} else {
		p.strange = max(p.strange-1, 0)
	}
}

// shared reports whether others use the quota too.
func (p *Pace) shared() bool { return p.strange >= strangers }

// trust is how well the pace is known, up to 1.
func (p *Pace) trust() float64 { return min((2*p.proof+4)/probeEvery, 1) }

// every is how many attempts are accepted between two refusals as long as the
// limit stays. Over a long way many are under way before a refusal is known, so
// it takes several times that.
func (p *Pace) every() float64 {
	return max(probeEvery*p.trust(), 8*p.base*p.rtt.Seconds(), 2*p.base*p.slack())
}

// slack is for how long, in seconds, a window may hide that the pace is too fast.
func (p *Pace) slack() float64 { return min(p.dry, longest).Seconds() }

// Accepted takes note of an attempt that was accepted.
func (p *Pace) Accepted(t Stamp, now time.Time, backlog bool) {
	if t.At.Before(p.known) {
		return
	}
	elapsed := now.Sub(p.ackAt)
	dry, refused := p.dryAt(t.At) && !p.shared(), p.row
	p.row, p.ackAt = 0, now
	switch {
	case p.Told():
		p.acks++
	case p.rate == 0:
	case dry:
		p.revive(t, now, refused)
	case p.shared():
		if p.acks++; p.acks > 4*probeEvery {
			p.strange = 0
		}
		growth := shareCut * min(shareGrowth*math.Sqrt(math.Sqrt(p.rate)), p.rate/10)
		p.rate = min(p.rate*math.Exp(growth*elapsed.Seconds()), p.most())
		p.base = p.rate
	case backlog:
		p.acks++
		p.creep(elapsed)
	}
}

// creep raises the pace after an attempt was accepted.
func (p *Pace) creep(elapsed time.Duration) {
	every, trust := p.every(), p.trust()
	if acks := float64(p.acks); acks <= every {
		p.rate = p.base * (1 + 2*acks/(probeEvery*every)) // so that the sum of it is one attempt
		return
	}
	d := max(doubling.Seconds()*trust, 8*trust/p.rate, max(4*trust, 1)*p.rtt.Seconds(), 2*p.slack())
	p.rate = min(p.rate*math.Exp2(min(elapsed.Seconds()/d, 1)), p.most())
}

// revive ends a drought of so many refusals, with the pace that fits a window, or
// the rate of the long run, or if neither is known, with a few attempts in the
// time the drought took. A server that was closed is as if nothing were known,
// unless that was tried in vain.
func (p *Pace) revive(t Stamp, now time.Time, refused int) {
	took := t.At.Sub(p.first.at)
	good := p.sent - p.refused
	wrong := p.revived > 0 && good-p.revived < 16 // the last time
	if wrong {
		p.long = 0
	}
	p.revived, p.revivedAt = good, now
	if refused > closed && !wrong {
		p.Forget()
		return
	}
	rate, proof, length := p.long, float64(probeEvery), p.dry.Seconds()
	p.window = mark{} // the end of a long drought is not seen exactly, as it is seldom asked
	if took < p.dry && !wrong && p.over*length >= tells {
		lost := took - t.At.Sub(p.struck.at)/2 // it ended somewhere between these two
		rate = max(p.over*(1-lost.Seconds()/length), few/length)
		if n := rate * length; n < 2*weak {
			proof = n // a limit that fell so far is not known well
		}
		p.window = mark{t.At, t.N - 1, p.refused}
	}
	p.dry = max(p.dry, took-8*p.rtt)
	if rate > 0 {
		p.proof = proof
		p.set(rate, now)
		return
	}
	p.marks[0], p.n, p.proof = p.first, 1, 0
	p.set(few/max(took.Seconds(), 1e-6), now)
}

func later(t, u time.Time) time.Time {
	if t.After(u) {
		return t
	}
	return u
}

// Stop says that nothing goes until then, and the server's bucket fills.
func (p *Pace) Stop(until time.Time) {
	p.n, p.row, p.next = 0, 0, until
}

// allowance is what the server says of a quota, in RateLimit fields: what
// remained when it answered the attempt that it had seen last, and how fast it is
// refilled. Who is alone sends an attempt when by that there is one left for it:
// the server's own word, renewed with every answer, is exact.
type allowance struct {
	rate   float64 // 0: the server does not say
	left   float64
	sent   int64 // the attempt that was answered so
	at     time.Time
	refill float64   // what comes of it to us, a second
	high   float64   // the most that remained
	reset  time.Time // when there is more at the latest; zero: not known

	account account
	alone   bool      // by the last account
	others  bool      // there are, by the last account, and nothing was made of it yet
	void    time.Time // until when the server is not believed
	voids   int       // how often it was not
}

// account is kept of what comes in, from an answer on.
type account struct {
	at       time.Time
	sent     int64
	left     float64
	refused  float64 // of those sent since
	promised float64 // by the policy, less what may not have found room
}

// Tell takes note of what the server says with an answer: what remains of the
// quota, and how much of it is refilled each second. Where nothing remains, reset
// is when that changes at the latest; 0: not said.
func (p *Pace) Tell(t Stamp, now time.Time, remaining, rate float64, reset time.Duration) {
	p.quota.told(t, now, remaining, rate, reset)
	if !p.quota.others || p.rate == 0 {
		return
	}
	p.quota.others = false
	if p.shared() {
		return
	}
	p.strange = strangers
	if least := rate * leastShare; p.rate < least {
		p.set(least, now)
	}
}

// scarce reports whether little is left of the quota. With 900 left of 1,000 a day,
// a refusal is about something else, and the policy's one in 86 seconds is no pace.
func (q *allowance) scarce() bool { return q.left <= max(accountRefill, q.high/16) }

// told takes note of an answer.
func (q *allowance) told(t Stamp, now time.Time, remaining, rate float64, reset time.Duration) {
	q.high = max(q.high, remaining)
	switch {
	case now.Before(q.void):
		return
	case t.N == 0 && q.rate > 0 && (q.sent > 0 || remaining >= q.left):
		return // from before learning began, in an unknown order
	case t.N == 0:
		t.At = now
	case t.N <= q.sent:
		return
	}
	if q.rate != rate || t.N == 0 {
		q.refill, q.account = rate, account{}
	} else if dt := t.At.Sub(q.at).Seconds(); dt > 0 {
		promised := rate * dt
		seen := remaining - q.left + float64(t.N-q.sent)
		if seen > q.refill*dt || q.left+promised < q.high { // a full bucket takes less than is promised
			q.refill += (seen/dt - q.refill) * min(dt, 1)
		}
		q.refill = min(max(q.refill, rate/20), rate)
		q.account.promised += min(promised, q.high-q.left)
	}
	q.rate, q.left, q.sent, q.at = rate, remaining, t.N, t.At
	if q.reset = (time.Time{}); reset > 0 {
		q.reset = now.Add(reset)
	}
	q.audit(now)
}

// audit closes the account when there is enough of it, and begins another one.
// Who is alone finds what was promised in a bucket, and in a fixed window nothing
// at all. What comes to less has been taken by others.
func (q *allowance) audit(now time.Time) {
	was, took := q.account, q.at.Sub(q.account.at)
	sent := float64(q.sent - was.sent)
	if was.sent > 0 && (sent < accountSent || q.rate*took.Seconds() < accountRefill || took < accountTrips*now.Sub(q.at)) {
		return
	}
	q.account = account{at: q.at, sent: q.sent, left: q.left}
	if was.sent == 0 {
		return
	}
	if was.promised < accountRefill/2 && q.left <= quotaSpare {
		return // too little room was seen for much to come in
	}
	came := q.left - was.left + sent - was.refused
	if came >= accountPart*was.promised-1 || math.Abs(came) <= 1 {
		q.alone, q.others = true, false
		return
	}
	if q.alone {
		q.disbelieve(now)
	}
	q.others = true
}

// wait returns how long until there is one left for the next attempt.
func (q *allowance) wait(now time.Time, sent int64) time.Duration {
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
	// A window of the server's is over. One attempt finds out what there is.
	q.left, q.sent, q.at, q.reset = need, sent, now, time.Time{}
	return 0
}

// expected returns what is left after so many attempts, if nobody else takes any.
func (q *allowance) expected(now time.Time, sent int64) float64 {
	return q.left - float64(sent-q.sent) + q.refill*now.Sub(q.at).Seconds()
}

// disbelieve leaves the quota to be learned for a minute, and twice as long each
// time, up to an hour: others stay, and to see that they are there costs some of
// the quota.
func (q *allowance) disbelieve(now time.Time) {
	*q = allowance{void: now.Add(forgetting << q.voids), voids: min(q.voids+1, 6), high: q.high}
}

// breach takes note of a refusal, the last of so many in a row.
func (q *allowance) breach(t Stamp, now time.Time, row int) {
	if q.rate == 0 {
		return
	}
	if t.N > q.account.sent {
		q.account.refused++
	}
	q.refill = max(q.refill*(1-shareCut), q.rate/20)
	if row >= 2*drought {
		q.disbelieve(now)
	}
}

// Seconds is s seconds as a Duration, which a tiny rate would overflow.
func Seconds(s float64) time.Duration {
	return time.Duration(min(max(s, 0), maxWait.Seconds()) * float64(time.Second))
}

// maxWait is far from where a Duration would overflow.
const maxWait = 365 * 24 * time.Hour
