package pace

import "time"

const (
	// A server that has refused so many in a row is closed.
	closedAfter = 12

	// While everything is refused, an attempt finds out whether that is over after
	// each knockPart of the time it has taken, but after mostKnock at most. So a minute
	// that is used up refuses some 50 attempts, and its end is found within 5 s. The next one
	// refuses half as many, since it is known how long it takes. What takes longer than
	// longestWindow is not expected again.
	knockPart     = 12
	mostKnock     = time.Minute
	longestWindow = time.Minute

	// What a server accepts from one opening to the next is a window's if that is short, or if
	// it is closed most of the time, and this part of it would be refused otherwise. In a long
	// one the pace is not less than the mostFall-th part of what was accepted while it was open:
	// a window that is used up early loses nothing, and a ban is avoided after two or three.
	shortCycle = 20 * time.Second
	dear       = 0.02
	mostFall   = 4

	// If the rate is not known, a server is also closed that refuses everything for longGap:
	// a bucket of two a second and more has gained a token by then. So is one of which
	// nothing was accepted for as long after it had accepted much.
	longGap = 500 * time.Millisecond

	// minPerWindow attempts must fit a window for its blocked stretch to say by
	// how much the pace was too fast. Of a window of fewer, one attempt more or
	// less is too large a part.
	minPerWindow = 4 * minSamples

	// initialPerWindow attempts in a window are the beginning if it is not known how
	// many fit.
	initialPerWindow = 4

	// blockedAfter refusals in a row are no chance at a pace that is about right.
	blockedAfter = 3
)

// BlockedFor returns for how long all attempts have been refused, if there were
// more of them than chance explains.
func (p *Pace) BlockedFor(now time.Time) (d time.Duration, blocked bool) {
	if p == nil {
		return 0, false
	}
	return now.Sub(p.firstRefusal.at), p.blockedAt(now)
}

// BlockedUntil returns when the server last refused everything: the last refusal,
// if it still does.
func (p *Pace) BlockedUntil() time.Time {
	switch {
	case p == nil:
		return time.Time{}
	case p.streak >= blockedAfter:
		return p.lastNews
	}
	return p.recoveredAt
}

// knocks returns how many attempts a second find out whether a blocked stretch is over.
func (p *Pace) knocks(now time.Time) float64 {
	return min(1/max(p.KnockAfter(now.Sub(p.firstRefusal.at)).Seconds(), 1e-6), minRate)
}

// Knock sets the pace to that of knocks, because everything was refused from the first
// refusal on, and nothing is known of the rate.
func (p *Pace) Knock(now time.Time) {
	p.proof = 0
	p.set(p.knocks(now), now)
}

// KnockAfter returns how long after a refusal another attempt finds out whether a time is
// over in which everything was refused for so long. If it is known how long the last such
// time was, the attempts are spread over as long.
func (p *Pace) KnockAfter(d time.Duration) time.Duration {
	return min(max(d, min(p.closedFor, longestWindow))/knockPart, mostKnock)
}

// blockedAt reports whether an attempt that is sent at the given time is in a
// blocked stretch. Over a long way many attempts are refused before the pace can be
// lowered.
func (p *Pace) blockedAt(at time.Time) bool {
	return p.streak >= blockedAfter && at.Sub(p.firstRefusal.at) >= 2*p.rtt
}

// before returns a mark right before an attempt that was accepted.
func (p *Pace) before(t Stamp) mark {
	return mark{t.Sent, total{t.Seq - 1, t.total - t.weight}, p.refused}
}

// recover ends a blocked stretch of so many refusals, with the pace that fits a
// window, or the rate of the long run, or what was accepted from one opening to the
// next, or if none of these is known, with a few attempts in the time the stretch took.
// A server that was closed is as if nothing were known, unless that was tried in vain.
func (p *Pace) recover(t Stamp, now time.Time, refused int) {
	took := t.Sent.Sub(p.firstRefusal.at)
	good := p.sent.n - p.refused.n
	since := good - p.recovered
	wrong := p.recovered > 0 && since < 16 // the last time
	if wrong {
		p.longRunRate = 0
	}
	cycle := p.opened // from one opening to the next
	p.opened = p.before(t)
	p.recovered, p.recoveredAt = good, now
	closed := refused > closedAfter
	if p.longRunRate == 0 {
		// Perhaps all who could ask had been refused, and stayed away.
		closed = closed || p.lastRefusal.at.Sub(p.firstRefusal.at) > longGap || took > longGap && since >= minPerWindow
	}
	accepted, whole := cycle.accepted(p.opened), p.opened.at.Sub(cycle.at)
	var rate, fastest float64 // what fits, and what was accepted before the stretch
	proof, length := float64(probeEvery), p.longestBlock.Seconds()
	p.window = mark{} // the end of a long blocked stretch is not seen exactly, as it is seldom asked
	switch {
	case closed && took >= p.longestBlock && !wrong:
		p.closedFor = took
		refused := p.refused.weight - cycle.refused.weight
		if whole > max(shortCycle, 2*took) || accepted < minSamples || refused <= dear*accepted {
			p.Forget()
			return
		}
		rate, proof, fastest = cycle.rate(p.opened, 0), accepted, accepted/(whole-took).Seconds()
		p.n, p.longestBlock, p.window, p.windows = 0, whole, p.opened, true
	case took < p.longestBlock && !wrong && p.rateBefore*length >= minPerWindow:
		lost := took - t.Sent.Sub(p.lastRefusal.at)/2 // it ended somewhere between these two
		rate = max(p.rateBefore*(1-lost.Seconds()/length), initialPerWindow/length)
		if n := rate * length; n < 2*minSamples {
			proof = n // a limit that fell so far is not known well
		}
		fastest, p.window = p.rateBefore, p.before(t)
	default:
		if p.longRunRate == 0 && !cycle.at.IsZero() && accepted >= minPerWindow {
			p.longRunRate = cycle.rate(p.opened, 0)
		}
		rate = p.longRunRate
	}
	p.longestBlock = max(p.longestBlock, took-8*p.rtt)
	if rate > 0 {
		if p.longestBlock > shortCycle {
			rate = max(rate, fastest/mostFall)
		}
		p.proof = proof
		p.set(rate, now)
		return
	}
	p.marks[0], p.n, p.proof = p.firstRefusal, 1, 0
	p.set(initialPerWindow/max(took.Seconds(), 1e-6), now)
}
