package gate

import (
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/resilienthttp/resilient/internal/pace"
)

// trial tells a limit from refusals by chance.
//
// At the instant of a refusal, the thing that a limit counts is used up. A volley
// of attempts sent in that same breath is refused if there is a limit, and as
// rarely as anything else if the refusal was by chance: one bad backend of
// several, the limit of another route, a server that sheds load at random. So a
// pace is tested when it is learned, and again from time to time: attempts that
// wait go ahead of it, and a likelihood ratio decides. As long as it is undecided,
// the next refusal adds another volley. A volley that goes out any later finds
// tokens that a bucket has gained meanwhile, and proves nothing.
//
// An attempt of a volley never lowers the pace. The outcomes of a volley are taken
// together, because refusals come sooner than acceptances. A pace that was
// confirmed is given up only after two denials in a row, because a limit and
// chance can be there at once.
//
// Once a trial has found chance, refusals bind only the request they come with,
// until they become more than the trial had.
type trial struct {
	volley  []int64   // attempts under way
	ahead   int       // attempts that may still go
	at      time.Time // when they may
	refused int       // outcomes of the trial
	known   int       // those included that were accepted

	next      time.Time // when another trial may begin
	confirmed int       // trials in a row that found a limit
	denied    int       // trials in a row that did not

	chance      float64   // part that was refused in the trial that found chance
	recent      uint32    // the last outcomes since, a bit each: 1 is refused
	lastRefused time.Time // since then
}

const (
	// volleySize attempts are enough for a verdict if all are refused, or none.
	volleySize = 4

	// maxVolley bounds a volley. If a bucket gains more while a refusal is on its
	// way, there is no trial.
	maxVolley = 64

	// maxOutcomes ends a trial that stays undecided: then the sign decides.
	maxOutcomes = 4 * volleySize

	// A limit refuses limitPart of a volley, some of which a bucket may gain
	// meanwhile. Chance refuses chancePart, or the part that it refused in an
	// earlier trial if that was more. Three nats are odds of twenty to one.
	limitPart  = 0.75
	chancePart = 0.3
	sureNats   = 3

	// firstTrial is how long the first confirmation holds. Each one holds four
	// times as long as that before it, up to lastTrial: a test costs about four
	// refusals, which are a tenth of a percent of 100 a second in 8 s and more.
	firstTrial = 8 * time.Second
	lastTrial  = 2 * time.Minute

	// Of the last lookback outcomes, morePart more than in the trial must be
	// refused until there is a new suspicion: less is a matter of chance too.
	lookback = 24
	morePart = 0.25

	// stale is how long an outcome may take, and how long chance is remembered
	// without a refusal.
	stale = time.Minute
)

// begin lets a volley go, right after a refusal that took so long to be known,
// from those that wait. The pace is that under test; 0: it is a pause.
func (t *trial) begin(now time.Time, rate float64, delay time.Duration, waiting int) {
	if now.Sub(t.at) > stale {
		t.volley, t.refused, t.known = nil, 0, 0 // of another time
	}
	size := volleySize * (1 + rate*delay.Seconds()) // a bucket gains meanwhile
	if len(t.volley) > 0 || now.Before(t.next) || size > maxVolley {
		return
	}
	t.ahead, t.at = min(int(size), waiting), now
}

// open reports whether an attempt may go ahead of the pace now.
func (t *trial) open(now time.Time) bool { return t.ahead > 0 && now.Equal(t.at) }

// sent notes an attempt that went ahead.
func (t *trial) sent(s pace.Stamp) {
	t.ahead--
	t.volley = append(t.volley, s.Seq)
}

// take reports whether an attempt is one of the volley, whose outcome is known now.
func (t *trial) take(s pace.Stamp) bool {
	i := slices.Index(t.volley, s.Seq)
	if i < 0 || s.Seq == 0 {
		return false
	}
	t.volley = slices.Delete(t.volley, i, i+1)
	return true
}

// outcome counts an outcome. It reports whether the trial has found that refusals
// are by chance.
func (t *trial) outcome(now time.Time, refused bool) (byChance bool) {
	t.known++
	if refused {
		t.refused++
	}
	if len(t.volley) > 0 {
		return false
	}
	chance := max(chancePart, t.chance)
	nats := float64(t.refused)*math.Log(limitPart/chance) +
		float64(t.known-t.refused)*math.Log((1-limitPart)/(1-chance))
	switch {
	case nats >= sureNats || t.known >= maxOutcomes && nats > 0:
		t.next = now.Add(min(firstTrial<<(2*min(t.confirmed, 4)), lastTrial))
		t.confirmed, t.denied = t.confirmed+1, 0
	case nats <= -sureNats || t.known >= maxOutcomes:
		if t.denied++; t.confirmed == 0 || t.denied == 2 {
			byChance = true
			t.confirmed, t.denied = 0, 0
			t.chance = float64(t.refused+1) / float64(t.known+2)
			t.recent, t.lastRefused = 0, now
		}
	default:
		return false // the next refusal adds to it
	}
	t.refused, t.known = 0, 0
	return byChance
}

// more notes an outcome since refusals are by chance, and reports whether they have
// become more than that.
func (t *trial) more(now time.Time, refused bool) bool {
	t.recent <<= 1
	if !refused {
		return false
	}
	t.recent |= 1
	long := now.Sub(t.lastRefused) > stale
	t.lastRefused = now
	return long || float64(bits.OnesCount32(t.recent<<(32-lookback))) > lookback*(t.chance+morePart)
}
