// Package limit decides how long the attempts of one key are held back, and by what.
//
// It waits for nothing, locks nothing and starts nothing: package gate owns the
// lock, the queues and the timer.
//
// A [Key] has a limit for all of its routes and one for each route that is apart
// from the others, see scope. A [Limit] is in one of these states:
//
//	Free     nothing is held back. A refused request backs off alone, and a hint
//	         binds the request it comes with
//	Looking  more is refused than by chance. One attempt goes, and each one accepted
//	         lets two follow, until it is known what the limit counts
//	Rate     attempts a second, or their cost, see package pace
//	Flight   attempts under way at one time
//	Paused   the server refuses everything until a time that it said
//	Told     the server says how much is left of a quota, which is believed while
//	         that is found to be right
//
// Free becomes Looking by suspicion, see tally, or for a moment by a hint. Looking
// becomes Rate if an attempt is refused with fewer under way than were accepted,
// Flight if none is, Paused by hints, and Free if attempts are accepted and nobody
// has waited for a second. Paused becomes Looking when it is over, or Rate if the pace is
// known. Rate becomes Flight if the number under way explains the refusals, see together,
// and Flight becomes Rate again if that lets less through. Rate and Flight are tested, see
// trial, and given up for Free if a trial finds chance, or if they hold nobody back. A limit
// and chance can be there at once, see noise.
//
// # Invariants
//
// No refusal delays anything except its own request until there is a suspicion. A
// suspicion delays for about a trial unless that confirms it. An attempt ahead of a
// limit never lowers it. A volley goes out at the instant of a refusal, or not at
// all. Where everything is refused, 429 holds and knocks ever more seldom, and 503
// holds nothing.
package limit

import (
	"time"

	"github.com/resilienthttp/resilient/internal/pace"
	"github.com/resilienthttp/resilient/internal/waithint"
)

// State is the state of a Limit.
type State uint8

// The states, see the package.
const (
	Free State = iota
	Looking
	Rate
	Flight
	Paused
	Told
)

// Outcome is the outcome of an attempt.
type Outcome uint8

// The outcomes.
const (
	Unanswered Outcome = iota // no answer, which says nothing
	Accepted                  // an answer of any kind, except these:
	Refused                   // refused for its rate
	Shed                      // a temporary failure of the server, which may be a limit
	Closed                    // refused for everybody, with a hint, and not for its rate
)

func (o Outcome) refused() bool { return o == Refused || o == Shed }

// forever is how long an attempt is held back that waits for another one to end.
const forever = 365 * 24 * time.Hour

// lastAnswers are about as many as the time until an attempt is accepted is the mean of.
const lastAnswers = 8

// Limit is one limit of a server's, or what is believed to be one. Its zero value
// holds nothing back.
type Limit struct {
	Waiting int // attempts that it holds back, which the caller counts

	state                   State
	since                   time.Time // when the state began
	begun                   time.Time // when it was last Free
	heldAt                  time.Time // when it last held somebody back, or the state began
	epoch                   int64     // how often it was not Free; attempts from an earlier one say nothing
	underWay                int
	sentSince, refusedSince int64 // since it is not Free
	closed                  closed
	free                    float64 // part that was refused before it began
	seldom                  bool    // next to nothing was

	unit     float64 // cost of an attempt of weight 1; 0: nothing was sent yet since it was Free
	pace     pace.Pace
	trial    trial
	looking  looking
	flight   flight
	pause    pause
	service  time.Duration // until an attempt is accepted, about
	answers  int           // of which that is the mean, up to lastAnswers
	together together
	noise    noise

	noFlight time.Time // until when it is taken for no limit on requests under way

	paced   bool // it was a rate before it was Paused
	settled bool // an attempt that was not tested was accepted since the last pause began
}

func (l *Limit) active() bool { return l.state != Free }

// Over reports whether the limit holds nobody back any more.
func (l *Limit) Over() bool { return !l.active() }

// setState is the only one to change the state.
func (l *Limit) setState(s State, now time.Time) {
	if l.state == Free && s != Free {
		l.epoch++
		l.underWay, l.closed.streak, l.together = 0, 0, together{since: now}
		l.sentSince, l.refusedSince, l.begun = 0, 0, now
		l.trial.ahead, l.trial.underWay, l.unit = 0, 0, 0
	}
	if s == Paused && l.state != Paused {
		l.paced = l.state == Rate
	}
	l.state, l.since, l.heldAt = s, now, now
	switch s {
	case Free:
		l.pace.Free()
		l.trial = trial{}
		l.settled = false
	case Rate, Flight:
		l.noise.height = l.height(now)
	case Looking, Paused, Told:
	}
}

// look begins to look for a limit.
func (l *Limit) look(now time.Time, share float64, row int, seldom bool, hint time.Duration) {
	l.free, l.seldom = share, seldom
	hinted := time.Time{}
	if hint > 0 {
		hinted = now.Add(hint)
	}
	if l.state == Looking { // with more reason now
		l.looking.hinted = hinted
		return
	}
	l.noise = noise{}
	l.lookFrom(now, now)
	l.looking.hinted = hinted
	l.closed.streak, l.closed.at = row, now
	l.pace.Refused(pace.Stamp{}, now, false)
}

// lookFrom begins to look. Attempts that were sent before begun say nothing.
func (l *Limit) lookFrom(now, begun time.Time) {
	l.setState(Looking, now)
	l.looking.begin(begun)
}

// resume ends what is over: a pause, and a limit that has held nobody back for long.
func (l *Limit) resume(now time.Time) {
	switch {
	case l.state == Paused && !now.Before(l.pause.until):
		if l.paced && l.pace.Known() {
			l.setState(Rate, now)
			return
		}
		l.lookFrom(now, l.pause.until)
	case l.state == Looking && !l.looking.hinted.IsZero() && !now.Before(l.looking.hinted):
		l.setState(Free, now)
	case l.state == Rate && !l.pace.Known(), l.active() && l.state != Paused && !l.pace.Advertised() && l.Waiting == 0 && now.Sub(l.heldAt) > stale:
		l.setState(Free, now)
	case l.told() && l.pace.Known():
		l.setState(Rate, now)
	}
}

// told reports whether nothing is known of the limit except what the server says of its
// quota, and that is not believed.
func (l *Limit) told() bool { return l.state == Told && !l.pace.Advertised() }

// doubtful reports whether refusals are yet to show that there is a limit: all that is
// known is a hint, or a quota.
func (l *Limit) doubtful() bool { return l.told() || l.state == Looking && !l.looking.hinted.IsZero() }

// Hold returns how long the next attempt is held back, if it costs so much. It is the one
// place that knows: all else goes by it.
func (l *Limit) Hold(now time.Time, cost float64) time.Duration {
	if l.trial.open(now) {
		return 0
	}
	l.resume(now)
	d := l.hold(now, l.weight(cost))
	if d > 0 {
		l.heldAt = now
	}
	return max(d, 0)
}

func (l *Limit) hold(now time.Time, weight float64) time.Duration {
	switch l.state {
	case Paused:
		return l.pause.wait(now)
	case Looking:
		return l.looking.wait(now, l.underWay)
	case Rate:
		return l.pace.Wait(now, weight)
	case Flight:
		return l.flight.wait(now, l.underWay)
	case Told:
		if l.pace.Advertised() {
			return l.pace.Wait(now, weight)
		}
	case Free:
	}
	return 0
}

// sent counts an attempt that goes now, and notes in its stamp what the limit has to
// know when it ends.
func (l *Limit) sent(now time.Time, s *Stamp, waited bool, cost float64) {
	if !waited {
		l.pace.Undelayed(now)
	}
	l.underWay++
	l.sentSince++
	s.limit, s.epoch, s.underWay, s.weight = l, l.epoch, l.underWay, l.weight(cost)
	s.pace = l.pace.Sent(now, s.weight)
	if l.trial.open(now) {
		l.trial.sent(s.weight)
		s.kind = tested
		return
	}
	switch l.state {
	case Paused:
		l.pause.probeAt = time.Time{}
		s.kind = probing
	case Looking:
		l.looking.sent(now)
	case Flight:
		l.flight.last = now
	case Free, Rate, Told:
	}
}

// done takes the outcome of an attempt that it let go.
func (l *Limit) done(s *Stamp, now time.Time, r Result) verdict {
	l.underWay--
	if r.Outcome > Accepted {
		l.refusedSince++
	}
	l.resume(now)
	if s.kind == tested {
		return l.tested(s, now, r)
	}
	switch r.Outcome {
	case Unanswered:
		// Which leaves things as they were before it.
		switch {
		case l.state == Looking && !s.Sent.Before(l.looking.begun):
			l.looking.credit++
		case l.state == Rate && l.closed.now():
			l.pace.Repeat(s.pace)
		}
	case Accepted:
		l.acceptance(s, now)
	case Refused, Shed:
		return l.refusal(s, now, r)
	case Closed: // which is the key's business
	}
	return undecided
}

// tested takes the outcome of an attempt that went ahead of the limit.
func (l *Limit) tested(s *Stamp, now time.Time, r Result) verdict {
	switch {
	case r.Outcome == Closed:
		return l.trial.done(now, Unanswered, s.weight, l.free)
	case r.Outcome.refused():
		l.pace.Tested(s.pace)
	case r.Outcome == Accepted:
		l.closed.acceptance(s)
		l.pace.Accepted(s.pace, now, l.Waiting > 0)
	}
	v := l.trial.done(now, r.Outcome, s.weight, l.noise.chance(l.free))
	switch {
	case v == byChance:
		return l.chance(now, l.trial.share())
	case v == confirmed:
		l.noise.confirmed(l.height(now))
	case v == denied && l.state == Rate:
		l.pace.Raise(l.noise.found(), now)
		l.trial.next = now.Add(emptying)
	}
	return v
}

func (l *Limit) acceptance(s *Stamp, now time.Time) {
	l.settled = true
	l.closed.acceptance(s)
	l.pause.probeRefused = false
	if s.kind == probing && l.state == Paused {
		l.pause.disproved(now)
		l.pace.Stop(now)
		l.lookFrom(now, s.Sent)
	}
	l.answers = min(l.answers+1, lastAnswers)
	l.service += (now.Sub(s.Sent) - l.service) / time.Duration(l.answers)
	l.together.acceptance(s.underWay, now)
	known := l.pace.Known()
	l.pace.Accepted(s.pace, now, l.Waiting > 0)
	switch l.state {
	case Looking:
		if s.Sent.Before(l.looking.begun) {
			return
		}
		l.looking.acceptance(min(s.underWay, l.underWay+1)) // those that were refused at the same time took no place
		switch {
		case l.Waiting == 0 && now.Sub(l.heldAt) > backoffs && !l.pace.Reopened() || !l.looking.hinted.IsZero():
			l.setState(Free, now) // nobody is left to hold back, nor comes back
		case l.looking.flight():
			l.fly(now, l.looking.most)
		}
	case Rate:
		l.noise.outcome(false)
		if known && !l.pace.Known() { // the server was closed, and is as if nothing were known
			l.lookFrom(now, s.Sent)
		}
	case Flight:
		l.noise.outcome(false)
		l.flight.acceptance(s.underWay, l.service)
		if l.flight.slower(&l.together) {
			l.notFlight(now)
			l.setState(Rate, now)
		}
	case Free, Paused, Told:
	}
}

func (l *Limit) refusal(s *Stamp, now time.Time, r Result) verdict {
	if s.kind == probing {
		l.pause.probeRefused = true
	}
	if l.told() && !l.pace.Scarce() {
		return undecided // it is about something else than the quota
	}
	if l.state == Rate && l.noise.outcome(true) && !l.closed.now() {
		return undecided
	}
	news := l.pace.Refused(s.pace, now, true)
	switch {
	case l.closed.now():
	case l.noise.useless():
		l.trial.again(now)
	case l.fallen(now):
		l.trial.soon(now)
	}
	if d, blocked := l.pace.BlockedFor(now); blocked && d >= r.Hint/probePart {
		l.pause.perRequest = 0
	}
	l.closed.refusal(s)
	l.hinted(now, r)
	gain := 0.0
	switch l.state {
	case Looking:
		if s.Sent.Before(l.looking.begun) {
			return undecided
		}
		if !l.looking.refusal(now, s.underWay, r.Outcome, l.mayBeFlight(now), &l.pace) {
			return undecided
		}
		switch {
		case l.looking.shed >= outage:
			l.setState(Free, now)
			return serverDown
		case !l.pace.Known():
			return undecided
		}
		if l.looking.most == 0 {
			l.pace.Knock(now)
		}
		l.setState(Rate, now)
		gain = l.pace.Rate(now) * now.Sub(s.Sent).Seconds()
	case Rate:
		if news && l.together.refusal(s.underWay) && l.mayBeFlight(now) {
			l.fly(now, max(s.underWay-1, 1))
			return undecided
		}
		gain = l.pace.Rate(now) * now.Sub(s.Sent).Seconds()
	case Flight:
		if !l.flight.refusal(s.underWay) {
			l.notFlight(now)
			l.lookFrom(now, now)
			return undecided
		}
		l.noise.outcome(true)
		gain = l.flight.bound * now.Sub(s.Sent).Seconds() / max(l.service.Seconds(), 1e-6)
	case Free, Paused, Told:
		return undecided
	}
	l.trial.begin(now, max(s.weight, 1), gain, l.Waiting)
	return undecided
}

// weight returns what an attempt of such a cost weighs, within bounds in which a pace can
// be learned.
func (l *Limit) weight(cost float64) float64 {
	return min(max(cost/l.unitCost(), leastWeight), mostWeight)
}

func (l *Limit) unitCost() float64 {
	if l.unit == 0 {
		return 1
	}
	return l.unit
}

// Beyond these weights an attempt counts as if it had them. Nobody waits for a year
// because of one number that is wrong, and none goes for nothing.
const (
	leastWeight = 1.0 / 64
	mostWeight  = 1024
)

// rate returns how much is let through a second, and whether that is cost: a quota that
// the server tells counts attempts.
func (l *Limit) rate(now time.Time) (rate float64, ofCost bool) {
	if l.pace.Advertised() {
		return l.pace.Rate(now), false
	}
	return l.pace.Rate(now) * l.unitCost(), true
}

// settle corrects the cost of an attempt that it let go.
func (l *Limit) settle(weight, more float64) {
	more /= l.unitCost()
	l.pace.Settle(min(max(more, leastWeight-weight), mostWeight-weight))
}

// height returns how high the limit is believed to be, which is of use only to compare it
// with what it was before.
func (l *Limit) height(now time.Time) float64 {
	if l.state == Flight {
		return l.flight.bound
	}
	return l.pace.Rate(now)
}

// fallen reports whether it is so much lower than what was confirmed that it is to be tested
// again.
func (l *Limit) fallen(now time.Time) bool { return l.height(now) < retested*l.noise.height }

// chance gives the limit up, because a part is refused whatever it does.
func (l *Limit) chance(now time.Time, share float64) verdict {
	l.setState(Free, now)
	l.free = share
	return byChance
}

// fewUnderWay attempts under way may be what a rate that keeps no token lets through.
const fewUnderWay = 3

// notFlight notes that it is no limit on requests under way. That holds as long as the longest
// confirmation does.
func (l *Limit) notFlight(now time.Time) {
	l.noFlight = now.Add(lastTrial)
	l.together.begin(now)
}

// mayBeFlight reports whether it may be a limit on requests under way. If the cost of
// requests is known it is a rate of that by the user's word. Refusals would not tell: those
// that cost much are refused by either.
func (l *Limit) mayBeFlight(now time.Time) bool { return l.unit == 0 && !now.Before(l.noFlight) }

// fly begins to bound what is under way.
func (l *Limit) fly(now time.Time, bound int) {
	l.flight = flight{bound: float64(bound), between: leastBetween}
	if l.state == Rate {
		l.flight.paced = l.together.took
	}
	l.together.begin(now)
	l.setState(Flight, now)
}

// hinted begins a pause if everything is refused, with a hint.
func (l *Limit) hinted(now time.Time, r Result) {
	if r.Hint <= l.pause.perRequest || !l.closed.now() {
		return
	}
	l.stop(now, r.Hint, r.MaxWait)
	if l.settled {
		l.trial.begin(now, 1, 0, l.Waiting)
	}
	l.settled = false
}

// shut begins a pause because of a hint for everybody that is no rate limit's: a ban, for
// instance. It leaves no doubt, so nobody finds out before the longest wait has passed.
func (l *Limit) shut(now time.Time, r Result) {
	if r.Hint <= 0 {
		return
	}
	l.stop(now, min(r.Hint, r.MaxWait), r.MaxWait)
	l.pause.probeAt = time.Time{}
	if until := now.Add(min(r.Hint, waithint.Max)); until.After(l.pause.refusedUntil) {
		l.pause.refusedUntil = until
	}
}

// stop begins a pause, or makes it longer.
func (l *Limit) stop(now time.Time, hint, maxWait time.Duration) {
	l.pause.begin(now, hint, maxWait, l.state == Paused)
	l.pace.Stop(l.pause.until)
	l.setState(Paused, now)
}

// Behind returns how much longer it takes for an attempt with so many before it, which
// cost so much together, as far as that can be told.
func (l *Limit) Behind(now time.Time, ahead int, cost float64) time.Duration {
	switch l.state {
	case Rate, Told:
		return l.pace.Behind(now, ahead, cost/l.unitCost())
	case Flight:
		return l.service * time.Duration(ahead) / time.Duration(int(l.flight.bound))
	case Free, Looking, Paused:
	}
	return 0
}

// quota takes note of the server's word about a quota, with the answer to an attempt.
// A short hint is then no more than the time until there is one left for the next
// request.
func (l *Limit) quota(s Stamp, now time.Time, q waithint.Quota) {
	l.resume(now)
	if l.state == Free {
		l.setState(Told, now)
	}
	l.pace.SetQuota(s.pace, now, q.Remaining, q.Rate, q.Reset)
	if _, blocked := l.pace.BlockedFor(now); !blocked {
		const whole = 2 * time.Second // seconds, as hints are given in
		l.pause.perRequest = max(l.pause.perRequest, whole)
	}
	if l.pace.Advertised() && l.state != Paused && l.state != Told {
		l.setState(Told, now)
	}
}

// Risk is how likely it is that an attempt is refused.
type Risk uint8

// The risks.
const (
	Small Risk = iota
	Fair       // too much for the last attempt of a call, if another one can go
	Great      // more likely than not, so one goes that has lost least
)

// Risk returns the risk of an attempt that goes now.
func (l *Limit) Risk(now time.Time) Risk {
	l.resume(now)
	switch {
	case l.blocked(now), l.trial.open(now), l.state == Paused, l.state == Looking && l.looking.refused > 0:
		return Great
	case l.state == Rate && !l.pace.Reliable():
		return Fair
	}
	return Small
}

// blocked reports whether everything is refused, for longer than chance explains.
func (l *Limit) blocked(now time.Time) bool {
	_, blocked := l.pace.BlockedFor(now)
	return blocked
}

// Service returns how long it takes until an attempt is accepted, about; 0: that is not
// known.
func (l *Limit) Service() time.Duration { return l.service }

// Opens returns when the last attempt of a call is worth sending while everything is
// refused: not while others wait who can find out when that ends, and not before that is
// likely. The zero time: at once. The others may have one attempt left each, too, and
// then nobody finds out before the first has waited for the longest time.
func (l *Limit) Opens(now time.Time) time.Time {
	switch {
	case !l.active() || !l.closed.now() || !l.seldom:
		return time.Time{}
	case l.Waiting > 1 && l.closed.last.Sub(l.closed.at) >= hanging: // before that, it may be a limit of one a second
		return now.Add(forever)
	}
	return l.closed.opens()
}

// ClosedFor returns for how long everything has been refused.
func (l *Limit) ClosedFor(now time.Time) time.Duration {
	if !l.active() || !l.closed.now() {
		return 0
	}
	return now.Sub(l.closed.at)
}

// Paces reports whether it is known how long attempts are held back.
func (l *Limit) Paces() bool { return l.state == Rate || l.state == Flight || l.state == Told }

// Refused returns how long the server refuses everything, by its own word; 0: it does
// not.
func (l *Limit) Refused(now time.Time) time.Duration {
	if l.state != Paused {
		return 0
	}
	return max(l.pause.refusedUntil.Sub(now), 0) // a trial may outlast the pause in which it began
}

// Certain reports whether there is more than a belief that an attempt would be refused:
// the server's word, or a trial of late of a limit that has not fallen since.
func (l *Limit) Certain(now time.Time) bool {
	switch l.state {
	case Free, Looking:
		return false
	case Rate, Flight:
		return !l.trial.confirmedAt.IsZero() && now.Sub(l.trial.confirmedAt) < lastTrial+stale && !l.fallen(now)
	case Paused, Told:
	}
	return true
}

// View is what is believed of a limit, for people.
type View struct {
	Route     Route // the zero Route: all
	State     State
	Since     time.Time
	Rate      float64   // a second, of Rate and Told; 0: not known
	OfCost    bool      // what the Rate counts is cost, and not attempts
	InFlight  int       // the bound of Flight
	Chance    float64   // of Free: the part that is refused by chance, as a trial found
	Sent      int64     // since it is not Free
	Refused   int64     // of those
	Until     time.Time // the end of Paused
	Confirmed time.Time // when a trial found the limit last; zero: none has
}

// view returns what is believed.
func (l *Limit) view(now time.Time) View {
	l.resume(now)
	v := View{State: l.state, Since: l.since, Confirmed: l.trial.confirmedAt, Sent: l.sentSince, Refused: l.refusedSince}
	switch l.state {
	case Rate, Told:
		v.Rate, v.OfCost = l.rate(now)
	case Flight:
		v.InFlight = int(l.flight.bound)
	case Paused:
		v.Until = l.pause.until
		v.Rate, v.OfCost = l.rate(now)
	case Free, Looking:
	}
	return v
}
