package limit

import "time"

// noise is the part of the attempts that is refused by chance although there is a limit.
// It is what was refused since the limit was confirmed, if a trial then finds that the
// pace has fallen far below it. As many refusals are excused from then on: they say
// nothing about the limit.
type noise struct {
	part    float64
	until   time.Time
	excuses float64

	rate          float64 // of the limit, when it was confirmed last
	sent, refused float64 // since then
}

const (
	// noiseFor is how long the noise is believed.
	noiseFor = 2 * time.Minute

	// A limit above which attempts are accepted is raised to raisedTo of what was
	// confirmed.
	raisedTo = 1.25

	// mostNoise and mostExcuses bound what a mistake can cost.
	mostNoise   = 0.3
	mostExcuses = 2
)

// confirmed notes the limit that a trial has found.
func (n *noise) confirmed(rate float64) { n.rate, n.sent, n.refused = rate, 0, 0 }

// denied notes that attempts were accepted ahead of the limit, and returns the pace to
// go on with.
func (n *noise) denied(now time.Time) (rate float64) {
	n.part = min(n.refused/max(n.sent, 1), mostNoise)
	n.until = now.Add(noiseFor)
	return raisedTo * n.rate
}

// outcome notes an outcome, and reports whether a refusal is excused.
func (n *noise) outcome(now time.Time, refused bool) (excused bool) {
	n.sent++
	if refused {
		n.refused++
	}
	if now.After(n.until) {
		return false
	}
	n.excuses = min(n.excuses+n.part, mostExcuses)
	if !refused || n.excuses < 1 {
		return false
	}
	n.excuses--
	return true
}
