package limit

import (
	"time"

	"github.com/resilienthttp/resilient/internal/waithint"
)

// pause is a time in which the server refuses everything, by its own word.
//
// Some servers put the same hint on every refusal, though they refuse no more than
// is above their rate: to wait for it would give away most of the quota. So a hint
// becomes a pause only after refusals that are more than chance, and a probe is sent
// early in it. If that is accepted, hints of that length are about the request they
// come with.
type pause struct {
	until        time.Time
	refusedUntil time.Time     // by the server, which may be longer than the pause
	hint         time.Duration // that began the pause
	probeAt      time.Time     // when one attempt goes in spite of the pause; zero: none does
	probeRefused bool          // the last one was, and no attempt accepted since
	perRequest   time.Duration // hints up to it are about the request they come with
}

const (
	// probePart of a pause goes by before its probe is sent, but at most latestProbe. If
	// the pause is longer than callers wait, its probe goes when the longest wait has
	// passed.
	probePart   = 4
	latestProbe = 2 * time.Second

	// believed is how many times the longest wait a pause may take: an hour by default,
	// so that a hint gone wrong does not shut the key for a day.
	believed = 64
)

// begin begins a pause, or makes it longer.
func (p *pause) begin(now time.Time, hint, maxWait time.Duration, inForce bool) {
	hint = min(hint, waithint.Max)
	if !inForce {
		p.refusedUntil = time.Time{} // of an earlier pause, which has been tried since
	}
	until := now.Add(min(hint, believed*maxWait))
	if until.After(p.refusedUntil) {
		p.refusedUntil = until
	}
	if inForce && !until.After(p.until) {
		return
	}
	p.until, p.hint, p.probeAt = until, hint, time.Time{}
	probe := min(hint/probePart, latestProbe)
	if hint > maxWait {
		probe = maxWait
	}
	if !p.probeRefused {
		p.probeAt = now.Add(probe)
	}
}

// wait returns how long the next attempt is held back.
func (p *pause) wait(now time.Time) time.Duration {
	if p.probeAt.IsZero() {
		return p.until.Sub(now)
	}
	return p.probeAt.Sub(now)
}

// disproved ends the pause, because its probe was accepted.
func (p *pause) disproved(now time.Time) {
	p.perRequest, p.until, p.refusedUntil = 2*p.hint, now, now
}
