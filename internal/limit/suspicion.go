package limit

import (
	"math"
	"time"
)

// tally counts the attempts of a route, or of the whole key, that nothing held
// back, and notices when more of them are refused than by chance.
//
// It is a cumulative sum of the likelihood ratio between chance and a limit. All
// that counts is how many attempts were sent between one refusal and the next: an
// attempt without an answer is taken for accepted. So outcomes count in the order
// of sending, although refusals arrive long before acceptances, and an attempt
// that is accepted costs nothing.
type tally struct {
	sent, accepted int64
	passed, stray  int64 // of those that no limit held: accepted, and refused by none

	nats   float64   // for a limit
	last   int64     // attempt that was refused last
	at     time.Time // when that was known
	until  time.Time // when the server said that it would be over
	row    int64     // refusals since nats began to rise
	others int64     // accepted of other routes until then
	first  int64     // attempt with which it began

	lately lately

	chance  float64 // part that is refused by chance; 0: none that is known of
	denials int     // trials that found chance
	denied  time.Time
}

const (
	// leastChance is the part of attempts that is taken to be refused by chance as
	// long as nothing is known: a server that refuses less is nobody's concern.
	leastChance = 0.05

	// Three refusals in a row, or a third of all, are a suspicion. Each trial that
	// found chance makes the next one take denialNats more, until it is
	// forgotten.
	suspicion  = 7.0
	denialNats = 2.0

	// strayMemory attempts or so say what is refused beside a limit.
	strayMemory = 200

	// stale is how long chance is remembered without a refusal, and how long an
	// outcome may take.
	stale = time.Minute

	// forgetChance is how long the chance that a trial found is believed, and as long again
	// if about as much is refused then. Each trial more may be wrong.
	forgetChance = 5 * time.Minute
)

// forget forgets what is out of date.
func (t *tally) forget(now time.Time) {
	old := now.Sub(t.at) > stale
	if old && now.After(t.until) {
		t.nats = 0
	}
	if t.denials > 0 && now.Sub(t.denied) > forgetChance {
		if t.denied = now; old || t.lately.refused() < t.chance/2 {
			t.chance, t.denials = 0, 0
		}
	}
}

// refusal notes a refusal of the attempt with the given number, and reports whether
// there are more of them than by chance. The number of an attempt from before there
// was a tally is 0. The chance is that of the whole key, and so is the number of all that
// were accepted so far.
func (t *tally) refusal(now time.Time, seq int64, hint time.Duration, chance float64, accepted int64) bool {
	t.forget(now)
	if until := now.Add(hint); hint > 0 && until.After(t.until) {
		t.until = until
	}
	chance = max(chance, t.chance, leastChance)
	gap := max(seq-t.last-1, -1) // -1: it was taken for accepted
	if seq == 0 {
		gap = 0
	}
	if t.nats = max(t.nats-float64(gap)*math.Ln2, 0); t.nats == 0 {
		t.others, t.first, t.row = accepted-t.accepted, seq, 0
	}
	// Against chance p stands a limit that refuses (1+p)/2, so each attempt that is
	// accepted halves the odds.
	t.nats += math.Log((1 + chance) / (2 * chance))
	t.last, t.at = max(seq, t.last), now
	t.row++
	if t.stray++; t.passed+t.stray > strayMemory {
		t.passed, t.stray = t.passed/2, t.stray/2
	}
	return t.nats >= suspicion+denialNats*float64(t.denials)
}

// acceptance notes that an attempt was accepted, perhaps one from before there was a
// tally, which was not taken for that yet.
func (t *tally) acceptance(before bool) {
	t.passed++
	if before {
		t.nats = max(t.nats-math.Ln2, 0)
	}
}

// share returns the part that was refused since nats began to rise.
func (t *tally) share() float64 {
	return float64(t.row) / float64(max(t.last-t.first+1, t.row, 1))
}

// byChance returns the part that may be refused by chance: what is known of, or what is
// refused now, as long as that is not nearly all.
func (t *tally) byChance() float64 {
	const nearlyAll = 0.7
	if s := t.share(); s < nearlyAll {
		return max(t.chance, s)
	}
	return t.chance
}

// blame takes the refusals that are suspicious now for those of a limit, and reports
// whether next to nothing else was refused.
func (t *tally) blame() (seldom bool) {
	t.stray, t.row = max(t.stray-t.row, 0), 0
	return float64(t.stray) <= 2*leastChance*float64(t.passed+t.stray)
}

// found notes that it is chance that refuses, by the word of a few attempts of which such
// a part was refused. If it is found again, then all was refused by chance that was lately,
// which is known much better. One trial alone may be wrong, and then a limit refuses most.
func (t *tally) found(now time.Time, chance float64) {
	if t.denials > 0 {
		chance = min(t.lately.refused(), maxChancePart)
	}
	t.chance, t.denied, t.nats = chance, now, 0
	t.denials++
}

// lately counts the last outcomes, held back or not. They are counted as they arrive, and
// refusals arrive first. So they are forgotten by time, long after all that was sent at
// one time has been answered.
type lately struct {
	sample, before sample
	since          time.Time
}

// sample is some attempts that were answered, and how many of them were refused.
type sample struct{ answered, refused int64 }

// sampleTime is how long a sample takes. It makes a part known to a few percent where it matters.
const sampleTime = 10 * time.Second

// outcome counts an outcome that is known now.
func (l *lately) outcome(now time.Time, refused bool) {
	if now.Sub(l.since) >= sampleTime {
		l.before, l.sample, l.since = l.sample, sample{}, now
	}
	l.sample.answered++
	if refused {
		l.sample.refused++
	}
}

// refused returns the part that was refused.
func (l *lately) refused() float64 {
	return float64(l.sample.refused+l.before.refused) / float64(max(l.sample.answered+l.before.answered, 1))
}
