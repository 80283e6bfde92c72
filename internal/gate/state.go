package gate

import (
	"time"

	"github.com/resilienthttp/resilient/internal/pace"
	"github.com/resilienthttp/resilient/internal/waithint"
)

// state is the state of the gate, apart from the pace and the bucket.
//
//	open       nothing holds attempts back
//	paused     the server refuses everything until a stated time; then reopening,
//	           or if the pace is known, open
//	reopening  at first one attempt may go, and each that is accepted lets two
//	           more follow, so that the flow doubles with every round trip. A
//	           limit that is still in force costs one refusal, and not one for
//	           each waiter. It ends when an attempt is accepted and nobody waits,
//	           or when the pace is known
//	free       a trial has shown that refusals are by chance: they bind only the
//	           request they come with, until they become more
//
// A refusal without a hint leads from open to reopening, and a hint leads to paused.
// A trial that finds chance leads from any state to free. If refusals become more
// than by chance, free ends as open does.
type state uint8

const (
	open state = iota
	paused
	reopening
	free
)

const (
	// reopenPace is how long an attempt may hang before the next one may go
	// while a key is reopened: as slow as the slowest limits in use, one a
	// second, since nothing else is known.
	reopenPace = time.Second

	// probePart of a pause goes by before its probe is sent.
	probePart = 4

	// forgetting is how long a reopening is remembered that nobody asks about.
	forgetting = time.Minute
)

// machine is the state with all that belongs to one of them.
type machine struct {
	state state

	// paused:
	pausedUntil  time.Time
	refusedUntil time.Time     // by the server, which may be longer than the pause
	hint         time.Duration // that began the pause
	probeAt      time.Time     // when one attempt goes in spite of the pause; zero: none does
	probe        int64         // that attempt

	// reopening:
	credit     int       // attempts that may go
	creditAt   time.Time // when credit last grew with time
	reopenedAt time.Time // attempts from before it say nothing about the time after it

	trial trial

	// learned from probes:
	probeRefused   bool          // the last one was, and no attempt accepted since
	accepted       bool          // an attempt was, since the last pause began
	perRequestHint time.Duration // hints up to it are about the request they come with
}

// setState is the only one to change the state. The time is when it begins.
func (g *Gate) setState(s state, from time.Time) {
	g.state = s
	switch s {
	case open, paused, free:
	case reopening:
		g.learner() // which counts the attempts
		g.credit, g.creditAt, g.reopenedAt = 1, from, from
	}
}

// resume ends a pause whose time is over.
func (g *Gate) resume(now time.Time) {
	if g.state != paused || now.Before(g.pausedUntil) {
		return
	}
	if g.pace.Known() {
		g.setState(open, g.pausedUntil)
	} else {
		g.setState(reopening, g.pausedUntil)
	}
}

// hold returns how long the next attempt is held back, and the reason. It is the
// one place that knows: all else goes by it.
func (g *Gate) hold(now time.Time) (time.Duration, string) {
	g.resume(now)
	if g.trial.open(now) {
		return g.bucketDelay(now, 0), RateLimit
	}
	switch g.state {
	case paused:
		until := g.pausedUntil
		if !g.probeAt.IsZero() {
			until = g.probeAt
		}
		if d := until.Sub(now); d > 0 {
			return d, Pause
		}
		return g.bucketDelay(now, 0), RateLimit // a probe, for which the pace does not matter
	case reopening:
		if n := int(now.Sub(g.creditAt) / reopenPace); n > 0 {
			g.credit += n
			g.creditAt = g.creditAt.Add(time.Duration(n) * reopenPace)
		}
		if g.credit <= 0 {
			return g.creditAt.Add(reopenPace).Sub(now), Pause
		}
	case open, free:
	}
	return max(g.pace.Wait(now), g.bucketDelay(now, 0)), RateLimit
}

// sent counts an attempt.
func (g *Gate) sent(now time.Time, stamp pace.Stamp) {
	if g.trial.open(now) {
		g.trial.sent(stamp)
		return
	}
	switch g.state {
	case open, free:
	case paused:
		g.probe, g.probeAt = stamp.Seq, time.Time{}
	case reopening:
		g.credit--
	}
}

// Refused tells the gate of an attempt that was refused, with the server's hint
// for the whole key if there was one. A hint stops the key for as long as it says,
// unless such hints were seen to be about one request only. If learn is true the
// attempt was refused for its rate: then the key is paced, or if the pace is not
// known, reopened. The refusal of an attempt of a trial changes nothing but the
// outcome of the trial. After a trial that found chance, a refusal binds only its own
// request.
func (g *Gate) Refused(s Stamp, now time.Time, hint, maxWait time.Duration, learn bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if maxWait == 0 {
		return // where nobody waits, nothing is held back
	}
	g.resume(now)
	volley := g.trial.take(s.Stamp)
	switch {
	case g.isProbe(s):
		g.probeRefused = true
	case volley && learn:
		g.learner().Tested()
		g.judge(now, true)
		g.serve(now)
		return
	case g.state == free && learn:
		if !g.trial.more(now, true) {
			return
		}
		g.setState(reopening, now)
	case learn:
		g.learnRefusal(s, now, hint)
	}
	if hint > g.perRequestHint {
		g.pause(now, hint, maxWait, learn)
		if learn && g.accepted {
			g.trial.begin(now, 0, now.Sub(s.Sent), g.queue.len())
		}
		g.accepted = false
	}
	g.serve(now)
}

func (g *Gate) learnRefusal(s Stamp, now time.Time, hint time.Duration) {
	if !g.learner().Refused(s.Stamp, now, g.state != open || g.pace.Known()) {
		return
	}
	if d, blocked := g.pace.BlockedFor(now); blocked && d >= hint/probePart {
		g.perRequestHint = 0
	}
	if g.pace.Known() && !g.pace.Advertised() {
		g.trial.begin(now, g.pace.Rate(now), now.Sub(s.Sent), g.queue.len())
	}
	switch {
	case g.state == reopening && g.pace.Known():
		g.setState(open, now) // the pace is better
	case g.state == open && !g.pace.Known():
		g.setState(reopening, now)
	}
}

// judge takes the outcome of an attempt of a trial.
func (g *Gate) judge(now time.Time, refused bool) {
	if g.trial.outcome(now, refused) {
		if g.state == paused {
			g.pausedUntil, g.refusedUntil = now, now
			g.pace.Stop(now)
		}
		g.learner().Forget()
		g.setState(free, now)
	}
}

// isProbe reports whether s is the probe of the pause in force.
func (g *Gate) isProbe(s Stamp) bool {
	return g.state == paused && s.Seq > 0 && s.Seq == g.probe
}

// pause stops the key because the server refuses everything for d. The pause is
// at most maxWait, so that a hint gone wrong does not shut the key for a day:
// until then callers are told at once that the wait is too long for them, and
// then one goes and finds out.
//
// Some servers put the same hint on every refusal, though they refuse no more
// than is above their rate: pausing for it would give away most of the quota. So
// in a pause that follows soon after another one, a probe is sent. If it is
// accepted, hints are about the request they come with.
func (g *Gate) pause(now time.Time, d, maxWait time.Duration, learn bool) {
	d = min(d, waithint.Max)
	if g.state != paused {
		g.refusedUntil = time.Time{} // of an earlier pause, which has been tried since
	}
	if until := now.Add(d); until.After(g.refusedUntil) {
		g.refusedUntil = until
	}
	until := now.Add(min(d, maxWait))
	if !until.After(g.pausedUntil) {
		return
	}
	g.probeAt = time.Time{}
	if at := now.Add(d / probePart); learn && !g.probeRefused && now.Sub(g.pausedUntil) < d && at.Before(until) {
		g.probeAt = at
	}
	g.pausedUntil, g.hint = until, d
	g.learner().Stop(until)
	g.setState(paused, now)
}

// Ended tells the gate of an attempt that was not refused: it was accepted, or
// got no answer, which leaves things as they were before it.
func (g *Gate) Ended(s Stamp, now time.Time, accepted bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.Seq == 0 || g.pace == nil {
		return
	}
	g.resume(now)
	volley := g.trial.take(s.Stamp) // if it got no answer, it says nothing
	if accepted {
		if g.isProbe(s) {
			g.perRequestHint, g.pausedUntil, g.refusedUntil = 2*g.hint, now, now
			g.pace.Stop(now)
			g.setState(reopening, s.Sent)
		}
		g.probeRefused, g.accepted = false, true
		known := g.pace.Known()
		if volley {
			g.judge(now, false)
		} else if g.state == free {
			g.trial.more(now, false)
		}
		g.pace.Accepted(s.Stamp, now, !g.queue.empty())
		if known && !g.pace.Known() && g.state == open {
			g.setState(reopening, s.Sent)
		}
	}
	if g.state == reopening && !s.Sent.Before(g.reopenedAt) {
		g.credit++
		if accepted {
			g.credit++
		}
		if accepted && g.queue.empty() {
			g.setState(open, now) // nobody was left to hold back
			if g.pace.Blank() {
				g.pace, g.probe = nil, 0 // attempts are counted from 1 again
				g.trial.volley = nil
			}
		}
	}
	g.serve(now)
}

// Advertised tells the gate how much remains of a quota by the server's word. Then a
// short hint is no more than the time until there is one left for the next
// request.
func (g *Gate) Advertised(s Stamp, now time.Time, q waithint.Quota) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.resume(now)
	g.learner().SetQuota(s.Stamp, now, q.Remaining, q.Rate, q.Reset)
	if _, blocked := g.pace.BlockedFor(now); !blocked {
		g.perRequestHint = max(g.perRequestHint, 2*time.Second) // hints are in whole seconds
	}
	if !g.pace.Advertised() {
		return
	}
	if g.state == reopening {
		g.setState(open, now)
	}
	g.serve(now)
}

// TryOne lets one attempt go, and more as they are accepted, because another gate
// gives reason to think that this one is closed too.
func (g *Gate) TryOne(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == open {
		g.setState(reopening, now)
	}
}

// learner returns the pace of the key, a new one if there is none.
func (g *Gate) learner() *pace.Pace {
	if g.pace == nil {
		g.pace = new(pace.Pace)
	}
	return g.pace
}
