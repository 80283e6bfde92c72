package gate

import (
	"math"
	"time"

	"github.com/resilienthttp/resilient/internal/pace"
)

// trial tells a limit from refusals by chance.
//
// At the instant of a refusal, the thing that a limit counts is used up. A volley
// of attempts sent in that same breath is refused if there is a limit, and as
// rarely as anything else if the refusal was by chance: one bad backend of
// several, a limit of another route, a server that sheds load at random. So the
// pace that was learned is tested before it is believed, and again from time to
// time: a volley goes ahead of it, and a sequential likelihood ratio decides, with
// another volley as long as it is undecided.
//
// Attempts of a volley never lower the pace. A pace that was confirmed is given up
// only after two denials in a row, since a limit and chance can be there at once.
// After a denial the key is free: refused requests come back after their own
// backoff, and nobody else waits, until the refusals become more than the volley
// had by chance.
type trial struct {
	volley  [maxVolley]int64 // attempts under way
	pending int              // of them
	ahead   int              // attempts that may still go
	until   time.Time        // when those that have not gone are not sent any more
	refused int              // of the trial
	known   int              // outcomes of the trial

	next      time.Time // when another trial may begin
	confirmed int       // trials, in a row
	denied    int       // trials, in a row
	chance    float64   // part that is refused by chance; 0: nothing is known
	recent    uint32    // the last outcomes while free, 1: refused
}

const (
	// volleySize is enough for a verdict if all are refused, or none.
	volleySize = 4

	// maxVolley bounds a volley. A bucket that gains more while a refusal is on
	// its way cannot be tested so.
	maxVolley = 64

	// maxOutcomes ends a trial that stays undecided: then the sign decides.
	maxOutcomes = 4 * volleySize

	// Of a limit, limitShare of a volley is refused, and by chance chanceShare,
	// or more if more was seen. Three nats are odds of twenty to one.
	limitShare  = 0.75
	chanceShare = 0.3
	sureNats    = 3

	// firstTrial is how long a verdict holds the first time. It is four times as
	// long each time, up to lastTrial: a test costs some refusals.
	firstTrial = 8 * time.Second
	lastTrial  = 2 * time.Minute

	// lookback outcomes tell whether refusals have become more than by chance, by
	// at least moreThanChance.
	lookback       = 24
	moreThanChance = 0.25
)

// begin begins a trial of a pace, right after a refusal that took so long to be
// known. It reports whether it does.
func (t *trial) begin(now time.Time, rate float64, delay time.Duration, waiting int) bool {
	size := volleySize * (1 + rate*delay.Seconds())
	if t.running(now) || now.Before(t.next) || size > maxVolley {
		return false
	}
	t.ahead, t.until = min(int(size), waiting), now
	return true
}

func (t *trial) running(now time.Time) bool { return t.pending > 0 || t.open(now) }

// open reports whether an attempt may go ahead of the pace.
func (t *trial) open(now time.Time) bool { return t.ahead > 0 && !now.After(t.until) }

// sent notes an attempt that went ahead of the pace.
func (t *trial) sent(s pace.Stamp) {
	t.ahead--
	if t.pending < len(t.volley) {
		t.volley[t.pending] = s.Seq
		t.pending++
	}
}

// take reports whether an attempt is one of the trial, whose outcome is known now.
func (t *trial) take(s pace.Stamp) bool {
	for i, seq := range t.volley[:t.pending] {
		if seq == s.Seq && seq > 0 {
			t.pending--
			t.volley[i] = t.volley[t.pending]
			return true
		}
	}
	return false
}

// verdict is what a trial says.
type verdict int

const (
	undecided verdict = iota
	isLimit
	isChance
)

// outcome counts an outcome, and returns the verdict if there is one.
func (t *trial) outcome(now time.Time, refused bool) verdict {
	t.known++
	if refused {
		t.refused++
	}
	if t.pending > 0 || t.open(now) {
		return undecided // refusals come sooner than acceptances
	}
	p := max(chanceShare, t.chance)
	nats := float64(t.refused)*math.Log(limitShare/p) + float64(t.known-t.refused)*math.Log((1-limitShare)/(1-p))
	switch {
	case nats >= sureNats || t.known >= maxOutcomes && nats > 0:
		t.confirmed, t.denied = t.confirmed+1, 0
		t.refused, t.known = 0, 0
		t.wait(now, t.confirmed)
		return isLimit
	case nats <= -sureNats || t.known >= maxOutcomes:
		t.denied++
		refused, known := t.refused, t.known
		t.refused, t.known = 0, 0
		t.wait(now, 0)
		if t.confirmed > 0 && t.denied < 2 {
			return undecided // a limit and chance may be there at once
		}
		t.confirmed = 0
		t.chance = min(float64(refused+1)/float64(known+2), 0.6)
		t.recent = 0
		return isChance
	}
	return undecided // the next volley goes out at the next refusal
}

func (t *trial) wait(now time.Time, times int) {
	d := time.Duration(0)
	if times > 0 {
		d = min(firstTrial<<(2*min(times-1, 5)), lastTrial)
	}
	t.next = now.Add(d)
}

// more notes an outcome while refusals are by chance, and reports whether they
// have become more than that.
func (t *trial) more(refused bool) bool {
	t.recent <<= 1
	if refused {
		t.recent |= 1
	}
	n := 0
	for i := range lookback {
		n += int(t.recent >> i & 1)
	}
	return float64(n) > lookback*(t.chance+moreThanChance)
}
