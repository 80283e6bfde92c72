// Package pace learns the rate that a server lets through from its answers, and
// says when the next attempt may go. It is arithmetic on the times it is given:
// it waits for nothing, locks nothing and starts nothing.
//
// # Identification
//
// At a refusal the server's bucket is empty. So between two refusals as many
// attempts are accepted as it refills, large or small: accepted / elapsed is
// the rate, one attempt more or less. The pace sends that one more. The next
// refusal then comes after about as many attempts again, and each one halves the
// error. The times that count are those of sending, not of answering, and a
// refusal of an attempt that was sent before the last refusal was known is no
// news.
//
// # A limit that changes
//
// A limit that rises shows in refusals that do not come. The pace grows with every
// attempt that is accepted, so that one in probeEvery is refused as long as the
// limit stays. Without a refusal after so many it doubles again and again. So does one of
// which little is known, after a few; then the limit is what is accepted from one
// refusal to the next, if it is the same twice. A limit
// that falls shows in a blocked stretch: refusals with no attempt accepted between
// them. The pace is halved with each, until one is accepted, and then it is the
// rate of the long run again. If that ends in a blocked stretch at once, everything
// learned before is forgotten. A server that blocks for many refusals is closed,
// because it has given out all there was for this minute. It is asked now and
// then, and when it opens, learning begins anew. If that closes it again at once, for
// longer than it was open, the pace is a quarter of what was accepted in that time:
// perhaps it bans whoever was too fast. In the end it stays open, or its minute lasts.
//
// # A limit that counts in windows
//
// A server that counts in fixed windows refuses everything in the rest of a window
// that is used up. What it accepts from one opening to the next, over that time, is
// the pace. After that each blocked stretch says how much too fast the pace was: the
// attempts accepted before it should have lasted for the whole window. Nothing of the
// limit is lost while the pace is too fast, so the first windows are used up as fast
// as may be.
//
// # A limit that is shared
//
// If others use the same quota, refusals come that the pace does not account for.
// Then the limit cannot be measured, and is shared: a refusal takes a part of the
// pace, and time gives it back. The larger share is refused more often, so all
// shares become alike.
//
// # A limit that is advertised
//
// If the server says how much remains of the quota and how fast it is refilled, in
// RateLimit fields, an attempt goes when there is one left for it. But the quota is
// everybody's, and of two clients that go by it the quicker one would get it all.
// So only a client that finds itself alone goes by it: as long as the policy's
// refill comes in between two answers, or nothing, as in a fixed window. If less
// comes in, others take it, and the quota is shared as above. As long as much is
// left of the quota, a refusal is about something else.
//
// # Weights
//
// A server may count something else than attempts, of which each takes more or less. Then
// the rate, and all that is counted here, is in weights: an attempt of weight 2 takes
// what two of weight 1 do. It waits until the server has as much, because whoever is sent
// before it knows nothing of it. A pace is learned from attempts whose weight is about 1;
// the constants are for these.
//
// # Nothing to learn
//
// Only a backlog teaches anything: without one the server's bucket may be full,
// and it accepts all that it is asked. After a minute in which nobody had to wait, the
// pace is forgotten.
package pace

import (
	"cmp"
	"math"
	"time"
)

// Stamp identifies an attempt that was sent. The zero Stamp is one from before
// there was a Pace.
type Stamp struct {
	Seq    int64 // attempts sent, this one included
	Sent   time.Time
	weight float64
	total  float64       // weight of the attempts sent, this one included
	gap    time.Duration // since the attempt before it that may have been accepted
}

// Pace is the pace of one limit. The zero Pace knows nothing, and lets
// everything go; so does a nil one, which must not be told anything.
type Pace struct {
	rate        float64   // attempts a second that may go; 0: not known
	base        float64   // the rate as of the last refusal
	proof       float64   // the attempts accepted on which base rests
	next        time.Time // when the next attempt of weight 1 may go
	last        time.Time // when the last one went
	lastDelayed time.Time // when somebody last had to wait
	idle        bool      // since the last refusal, there was a time without a backlog

	sent, refused total     // since learning began
	marks         [8]mark   // refusals that the rate is measured from, the oldest first
	n             int       // marks in use
	lastNews      time.Time // when the last refusal was known: older attempts say nothing new
	streak        int       // refusals since an attempt was accepted
	firstRefusal  mark      // of the streak
	lastRefusal   mark
	between       float64       // accepted a second between the last two streaks; 0: too few
	recovered     int64         // attempts accepted when the last blocked stretch ended
	recoveredAt   time.Time     // when that was
	closedFor     time.Duration // how long it took until then
	opened        mark          // the first attempt that was accepted after it
	longRunRate   float64       // the rate when the blocked stretch began
	longestBlock  time.Duration // the longest blocked stretch: about a window of the server's
	windows       bool          // the pace is what it accepts in a window
	window        mark          // where one of its windows began, by the end of a blocked stretch
	rateBefore    float64       // the pace in the window when the last blocked stretch began

	acks  float64       // accepted since the last refusal, in a backlog
	ackAt time.Time     // when the last one was
	rtt   time.Duration // until a refusal is known

	sharedAt    time.Time // when it was last found to be shared
	unexplained float64   // refusals that the pace does not account for, less those that it does
	peak        float64   // the pace at the last refusal
	level       int       // refusals in a row at the same pace
	quota       quota
	spacing     spacing
}

// total is a number of attempts, and their weight together.
type total struct {
	n      int64
	weight float64
}

func (t *total) add(weight float64) {
	t.n++
	t.weight += weight
}

// mark is a refusal: an instant at which the server's bucket was empty.
type mark struct {
	at            time.Time
	sent, refused total
}

const (
	// probeEvery attempts are accepted between two refusals while the limit
	// stays the same: below one in a hundred, and still often enough to notice
	// within 10 s that a limit of 20 a second has become one of 200.
	probeEvery = 120

	// A small pace that does not account for its refusals is tried after probeAfter, but after
	// leastProbe attempts at least. If others use the quota too, it is refused by chance before
	// it has been accepted 120 times, and with 1 a second would stay there for minutes.
	probeAfter = 20 * time.Second
	leastProbe = 3 * minSamples

	// doubling is how fast the pace grows when a limit has risen. Much faster,
	// and it would overshoot while a server's burst hides the limit.
	doubling = 500 * time.Millisecond

	// minRate is where a pace stops to fall when nothing else is known: little to
	// ask of a server, and one that refuses everybody once must not stop
	// everybody for minutes.
	minRate = 5.0

	// maxRate is as good as no limit.
	maxRate = 1e6

	// maxSlack is the blocked stretch that slows the pace's growth most, of those up to
	// shortCycle: twice as long has to pass before a window of the server's can be told
	// from a new limit.
	maxSlack = 2 * time.Second

	// risen is how much above the last measurement the pace must be for that to
	// be out of date, and how alike two numbers of accepted attempts a second are
	// that are of one limit.
	risen = 1.25

	// minSamples accepted attempts make a measurement that can be relied upon.
	minSamples = 8

	// catchUp is how much time an attempt that goes late, as timers are late,
	// is made up for.
	catchUp = 10 * time.Millisecond

	// forgetting is how long a pace is kept that holds nobody back.
	forgetting = time.Minute

	// pausing is how long nothing goes only if nobody asks, when the next attempt
	// need not wait. A refusal an hour after another one says nothing about the
	// rate, nor does one after the caller's own backoff.
	pausing = 100 * time.Millisecond
)

// Known reports whether there is a pace, learned or told.
func (p *Pace) Known() bool { return p != nil && (p.rate > 0 || p.quota.alone) }

// Blank reports whether there is nothing to be lost with p.
func (p *Pace) Blank() bool { return p.rate == 0 && p.quota == quota{} }

// Advertised reports whether the pace is the one that the server says of its quota.
func (p *Pace) Advertised() bool { return p != nil && p.quota.alone }

// expected reports whether a refusal is due: as many attempts were accepted since the
// last one as are when the pace is right.
func (p *Pace) expected() bool { return !p.idle && p.acks >= p.every()/2 }

// Scarce reports whether the server says that little is left of a quota.
func (p *Pace) Scarce() bool { return p.quota.rate > 0 && p.quota.scarce() }

// Rate returns how many attempts a second may go; 0: that is not known.
func (p *Pace) Rate(now time.Time) float64 {
	switch {
	case p.Advertised():
		return p.quota.refill
	case !p.Known() || !p.next.After(now) && now.Sub(p.lastDelayed) > forgetting:
		return 0
	}
	return p.rate
}

// Wait returns how long until the next attempt may go, if it has that weight.
func (p *Pace) Wait(now time.Time, weight float64) time.Duration {
	if p.Advertised() {
		return p.quota.wait(now, p.sent.n)
	}
	if !p.Known() {
		return 0
	}
	d := p.due(weight).Sub(now)
	if d > 0 {
		p.lastDelayed = now
	} else if now.Sub(p.lastDelayed) > forgetting {
		p.Forget()
	}
	return max(d, 0)
}

// due returns when an attempt of that weight may go.
func (p *Pace) due(weight float64) time.Time {
	return p.next.Add(p.gap(weight - 1))
}

// gap returns what an attempt of that weight keeps from the one before it. A weight below
// zero gives as much back.
func (p *Pace) gap(weight float64) time.Duration {
	if weight < 0 {
		return -Seconds(-weight / p.rate)
	}
	return Seconds(weight / p.rate)
}

// Behind returns how much longer it takes for an attempt with so many of such a weight
// before it, as far as that can be told.
func (p *Pace) Behind(now time.Time, ahead int, weight float64) time.Duration {
	if p.Advertised() {
		return Seconds(float64(ahead) / p.quota.refill)
	}
	if !p.Known() || p.confidence() < 1 || p.unexplained >= untoldAfter || now.Sub(p.sharedAt) < forgetting || p.streak >= blockedAfter {
		return 0
	}
	return p.gap(weight)
}

// Forget leaves the pace as it was before the first refusal.
func (p *Pace) Forget() {
	*p = Pace{
		sent: p.sent, refused: p.refused, lastNews: p.lastNews, quota: p.quota,
		recovered: p.recovered, recoveredAt: p.recoveredAt, opened: p.opened, closedFor: p.closedFor,
	}
}

// Free is Forget for a time in which attempts go that the pace is not told of.
func (p *Pace) Free() {
	p.Forget()
	p.opened = mark{}
}

// Reopened reports whether the server was closed, and the pace is not known since.
func (p *Pace) Reopened() bool { return p.rate == 0 && !p.opened.at.IsZero() }

// Undelayed takes note of an attempt that goes now without having waited. If
// nothing has gone for some time, nobody asked: then there was no backlog, and as
// many are accepted as are asked for.
func (p *Pace) Undelayed(now time.Time) {
	if p.rate == 0 && now.Sub(later(later(p.last, p.next), p.lastNews)) > pausing {
		p.idle = true
	}
}

// Sent counts an attempt of that weight that goes now.
func (p *Pace) Sent(now time.Time, weight float64) Stamp {
	if p == nil {
		return Stamp{}
	}
	if !p.window.at.IsZero() {
		if past := now.Sub(p.window.at).Truncate(p.longestBlock); past > 0 {
			p.window = mark{p.window.at.Add(past), p.sent, p.refused}
		}
	}
	p.sent.add(weight)
	p.last = now
	if p.rate > 0 && !p.Advertised() { // a client that goes by an advertised quota runs up no debt
		due := p.due(weight)
		p.idle = p.idle || now.Sub(due) > p.gap(1)
		earliest := now.Add(-catchUp)
		if p.spacing.on() {
			earliest = now
		}
		p.next = later(due, earliest).Add(p.gap(1))
	}
	return Stamp{p.sent.n, now, weight, p.sent.weight, p.spacing.sent(now)}
}

// Tested takes note of a refusal of an attempt that was sent ahead of the pace, as a
// test. It says nothing about the pace, and took no token, so another attempt goes
// in its place.
func (p *Pace) Tested(t Stamp) {
	p.refused.add(t.weight)
	p.Repeat(t)
}

// Settle corrects the weight of an attempt that was accepted, because more than it was
// taken, or less.
func (p *Pace) Settle(more float64) {
	p.sent.weight += more
	p.shift(more)
}

// Raise takes the pace to be too slow, because attempts were accepted ahead of it. What
// was measured says nothing any more.
func (p *Pace) Raise(rate float64, now time.Time) {
	if p.rate > 0 && !p.Advertised() {
		p.n, p.unexplained, p.acks, p.proof = 0, 0, 0, probeEvery
		p.set(max(rate, p.rate), now)
	}
}

// Repeat lets another attempt go in the place of one that came to nothing.
func (p *Pace) Repeat(t Stamp) { p.shift(-t.weight) }

// shift lets the next attempt go later by such a weight, or earlier if it is below zero.
func (p *Pace) shift(weight float64) {
	if p.rate > 0 && !p.Advertised() {
		p.next = p.next.Add(p.gap(weight))
	}
}

// Refused takes note of a refusal and reports whether it is news: one of an
// attempt that was sent before the last one was known is not, nor is one of an
// attempt from before learning began.
func (p *Pace) Refused(t Stamp, now time.Time, learning bool) bool {
	if t.Seq == 0 {
		if learning {
			return false
		}
		t.weight = 1
	}
	p.refused.add(t.weight)
	p.spacing.refused(t)
	if learning && t.Sent.Before(p.lastNews) {
		return false
	}
	if t.Seq == 0 {
		p.Forget()
		t = Stamp{Seq: p.sent.n, Sent: now, total: p.sent.weight}
	} else {
		p.rtt = now.Sub(t.Sent)
		p.quota.breach(t, now, p.streak+1)
	}
	m := mark{t.Sent, total{t.Seq, t.total}, p.refused}
	last := p.lastRefusal
	if p.streak++; m.sent.n-last.sent.n != m.refused.n-last.refused.n {
		p.streak = 1 // others were sent between them, whose answers may take longer
	}
	if p.lastRefusal = m; p.streak == 1 {
		p.firstRefusal, p.rateBefore = m, p.rate
		// It may have grown within the window, of which a short part says little.
		if d := m.at.Sub(p.window.at); !p.window.at.IsZero() && d > p.longestBlock/4 {
			p.rateBefore = p.window.accepted(m) / d.Seconds()
		}
	}
	if p.ackAt.After(p.lastNews) { // or else it is a part of what refused the one before
		p.detectSharing()
	}
	if p.lastNews = now; p.shared() {
		p.sharedAt = now
	}
	// The measurement is out of date if the bucket was full meanwhile, or if
	// the limit has risen. Without a backlog there is nothing to measure it
	// from anew; only a pace that nobody can keep up with must not stay.
	// As long as little is known, a limit that has risen must show in what is
	// accepted, too. If that is as much as the time before, only the pace has risen.
	again := p.streak == 1 && p.again(last, m)
	if p.idle || p.rate > risen*p.base {
		p.n, p.base = 0, p.rate
		if again && p.proof < minSamples {
			p.marks[0], p.n = last, 1
		}
	}
	if p.idle && last.accepted(m) < minSamples {
		p.base = min(p.base, last.rate(m, minSamples/2))
	}
	switch {
	case p.spacing.on():
		p.base, p.proof = p.spacing.rate(), probeEvery
	case p.blockedAt(m.at) && !p.shared() || p.streak >= 2*blockedAfter:
		p.base = max(p.rate/2, min(p.rate, p.knocks(m.at)))
		p.proof = 0
	case p.shared():
		floor := min(p.rate, minRate)
		if p.n > 0 { // a limit may be lower than that, and then no more than it is accepted
			floor = min(floor, p.marks[0].rate(m, 0))
		}
		p.base = max(p.rate*(1-shareCut), floor)
	case p.n > 0:
		p.proof = p.marks[0].accepted(m)
		p.base = p.marks[0].rate(m, t.weight)
	}
	if p.streak == 1 && p.proof >= minSamples {
		p.longRunRate = p.base
	}
	if p.base == 0 && p.quota.distrusts == 0 && p.quota.scarce() {
		p.base = p.quota.rate // where the policy is told, to begin with
	}
	p.add(m)
	p.set(p.base, now)
	p.acks, p.ackAt, p.idle = 0, now, false
	return true
}

// again notes how much was accepted a second since the last refusal, and reports whether it
// was about as much between that and the one before it.
func (p *Pace) again(last, m mark) bool {
	before := p.between
	p.between = 0
	if !p.idle && last.accepted(m) >= minSamples {
		p.between = last.rate(m, 1)
	}
	return min(before, p.between) > 0 && max(before, p.between) < risen*min(before, p.between)
}

// accepted returns how many attempts were accepted from mark o to mark m.
func (o mark) accepted(m mark) float64 {
	return max(m.sent.weight-o.sent.weight-(m.refused.weight-o.refused.weight), 0)
}

// rate returns how many attempts a second were accepted from mark o to mark m, if there had
// been so many more.
func (o mark) rate(m mark, more float64) float64 {
	return (o.accepted(m) + more) / max(m.at.Sub(o.at).Seconds(), 1e-6)
}

// add adds a mark. The oldest one gives the long base line, until it is old.
func (p *Pace) add(m mark) {
	if p.n == len(p.marks) {
		drop := 1
		if m.sent.n-p.marks[0].sent.n > int64(len(p.marks)*probeEvery) {
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
		p.lastDelayed = now
	}
	rate = min(rate, p.most())
	p.base, p.rate = rate, rate
	if rate > 0 {
		p.next = later(now, p.last.Add(Seconds(1/rate)))
	}
}

// most is the upper bound of a pace: the policy, if the server tells it and
// little is left of the quota.
func (p *Pace) most() float64 {
	if p.quota.rate > 0 && p.quota.scarce() {
		return p.quota.rate
	}
	return maxRate
}

// Reliable reports whether enough was accepted at the pace, or before, for it to be about
// right.
func (p *Pace) Reliable() bool { return p.Advertised() || p.proof+p.acks >= minSamples }

// confidence is how well the pace is known, up to 1.
func (p *Pace) confidence() float64 { return min((2*p.proof+4)/probeEvery, 1) }

// every is how many attempts are accepted between two refusals as long as the
// limit stays. Over a long way many are under way before a refusal is known, so
// it takes several times that.
func (p *Pace) every() float64 {
	every := probeEvery * p.confidence()
	if p.unexplained >= triedAfter {
		every = min(every, max(p.base*probeAfter.Seconds(), leastProbe))
	}
	return max(every, 8*p.base*p.rtt.Seconds(), 2*p.base*p.slack())
}

// slack is for how long, in seconds, a window may hide that the pace is too fast. A long one
// is waited out, because everything is refused for as long again if it is.
func (p *Pace) slack() float64 {
	if p.longestBlock > shortCycle {
		return min(p.longestBlock, longestWindow).Seconds()
	}
	return min(p.longestBlock, maxSlack).Seconds()
}

// Accepted takes note of an attempt that was accepted.
func (p *Pace) Accepted(t Stamp, now time.Time, backlog bool) {
	p.spacing.accepted(t)
	if t.Sent.Before(p.lastNews) {
		return
	}
	elapsed := now.Sub(p.ackAt)
	blocked, refused := p.blockedAt(t.Sent) && !p.shared(), p.streak
	p.streak, p.ackAt = 0, now
	switch {
	case p.Advertised():
		p.acks += t.weight
	case p.rate == 0:
		if blocked {
			p.closedFor = t.Sent.Sub(p.firstRefusal.at)
		}
	case blocked:
		p.recover(t, now, refused)
	case !backlog: // it says nothing of a faster pace
	case p.shared():
		if p.acks += t.weight; p.acks > p.alone() {
			p.unexplained = 0
		}
		growth := shareCut * min(shareGrowth, p.rate/perRefusal)
		p.rate = min(p.rate*math.Exp(growth*elapsed.Seconds()), p.most())
		p.base = p.rate
	default:
		p.acks += t.weight
		p.increase(elapsed)
	}
}

// increase raises the pace after an attempt was accepted.
func (p *Pace) increase(elapsed time.Duration) {
	every, confidence := p.every(), p.confidence()
	if p.acks <= every {
		p.rate = p.base * (1 + 2*p.acks/(probeEvery*every)) // so that the sum of it is one attempt
		return
	}
	d := max(doubling.Seconds()*confidence, 8*confidence/p.rate, max(4*confidence, 1)*p.rtt.Seconds(), 2*p.slack())
	p.rate = min(p.rate*math.Exp2(min(elapsed.Seconds()/d, 1)), p.most())
}

func later(t, u time.Time) time.Time {
	if t.After(u) {
		return t
	}
	return u
}

// Stop says that nothing goes until then, and the server's bucket fills. That is no
// stretch of the server's, and ends the one that there may be: attempts that knock go at a
// pace that is no measurement.
func (p *Pace) Stop(until time.Time) {
	if rate := cmp.Or(p.longRunRate, p.rateBefore); p.streak >= blockedAfter && rate > p.rate {
		p.set(rate, until)
	}
	p.n, p.streak, p.next, p.opened = 0, 0, until, mark{}
}

// Seconds is s seconds as a Duration, which a tiny rate would overflow.
func Seconds(s float64) time.Duration {
	return time.Duration(min(max(s, 0), maxWait.Seconds()) * float64(time.Second))
}

// maxWait is far from where a Duration would overflow.
const maxWait = 365 * 24 * time.Hour
