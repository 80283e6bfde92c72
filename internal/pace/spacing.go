package pace

import "time"

// spacing notices a server that keeps no token: it accepts an attempt if enough time
// has passed since the last one that it accepted, and time that passed before is lost.
// Then refusals come after smaller gaps than any acceptance. The pace is one in the
// smallest gap that was accepted, and lateness is never made up for.
type spacing struct {
	last   time.Time     // when the last attempt went that is not known to be refused
	least  time.Duration // smallest gap after which an attempt was accepted
	known  int           // attempts that were
	streak int           // refusals in a row after smaller ones
}

const (
	// A pace that is tried out grows by less than smaller between two refusals, so a
	// refusal after a gap that is smaller by as much is about the gap.
	smaller = 0.05

	// spacedAfter refusals in a row after smaller gaps are no chance.
	spacedAfter = 2
)

// sent returns the time since the last attempt that may have been accepted.
func (s *spacing) sent(now time.Time) (gap time.Duration) {
	if !s.last.IsZero() {
		gap = now.Sub(s.last)
	}
	s.last = now
	return gap
}

// accepted notes that an attempt was accepted. Of attempts with different weights, gaps say
// nothing.
func (s *spacing) accepted(t Stamp) {
	if t.weight != 1 {
		return
	}
	if s.known == 0 || t.gap < s.least {
		s.least = t.gap
	}
	s.known++
}

// refused notes that an attempt was refused.
func (s *spacing) refused(t Stamp) {
	if s.last.Equal(t.Sent) {
		s.last = t.Sent.Add(-t.gap)
	}
	if s.known >= minSamples && float64(t.gap) < float64(s.least)*(1-smaller) {
		s.streak++
		return
	}
	if s.streak == 0 || s.on() { // the gap was large enough, and yet
		s.known = 0
	}
	s.streak = 0
}

// on reports whether the server keeps no token.
func (s *spacing) on() bool { return s.streak >= spacedAfter && s.least > 0 }

// rate returns the pace.
func (s *spacing) rate() float64 { return 1 / s.least.Seconds() }
