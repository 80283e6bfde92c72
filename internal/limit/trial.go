package limit

import (
	"math"
	"time"
)

// trial tells a limit from refusals by chance.
//
// At the instant of a refusal, the thing that a limit counts is used up. A volley
// of attempts sent in that same breath is refused if there is a limit, and as
// rarely as anything else if the refusal was by chance: one bad backend of
// several, the limit of another route, a server that sheds load at random. So a
// limit is tested when it is learned, and again from time to time: attempts that
// wait go ahead of it, and a likelihood ratio decides. As long as it is undecided,
// the next refusal adds another volley. A volley that goes out any later finds
// tokens that a bucket has gained meanwhile, and proves nothing.
//
// An attempt of a volley never lowers the limit. The outcomes of a volley are taken
// together, because refusals come sooner than acceptances.
//
// A limit and chance can be there at once. Then most refusals are by chance if the limit
// is kept to, and a volley after one of these is accepted. So a limit is given up only
// after more denials in a row than there were confirmations: until then it is raised, see
// noise. One denial is enough if much is refused although the limit is kept to.
//
// A limit is also tested when it has fallen by a third since it was confirmed. A pace that
// gives way to refusals by chance falls and falls, and until the next test in its turn
// there might be nothing left of it.
type trial struct {
	size     int       // of the next volley, without the gain; 0: volleySize
	underWay int       // attempts of the volley
	ahead    float64   // what may still go, by its weight
	at       time.Time // when it may
	refused  float64   // outcomes of the trial, by their weight
	known    float64   // those included that were accepted
	squares  float64   // sum of the squares of all

	next        time.Time // when another trial may begin
	confirmed   int       // trials that found the limit
	denied      int       // trials that did not since
	confirmedAt time.Time // when the last one did; zero: none has
}

const (
	// volleySize attempts are enough for a verdict if all are refused, or none.
	volleySize = 4

	// A bucket gains something until the outcome of a volley is known. A volley is at least
	// leastOver times as much: of a smaller one most is accepted, and a limit looks like
	// chance. If fewer wait, there is no volley.
	leastOver = 3

	// Where requests cost more or less, a dear one is refused and some of the volley after it
	// is not. So a volley after one of which some was accepted is twice as large, up to
	// mostGrown times: a limit refuses more of that, and chance does not.
	mostGrown = 4

	// maxVolley bounds a volley. If a bucket gains more while a refusal is on its
	// way, there is no trial.
	maxVolley = 128

	// maxOutcomes ends a trial that stays undecided: what predicts no better than chance is
	// no limit.
	maxOutcomes = 12 * volleySize

	// A limit refuses limitPart of a volley, some of which a bucket may gain
	// meanwhile. Chance refuses chancePart, or what was refused before there was a
	// limit, up to maxChancePart: beyond it the two are too much alike. Three nats are
	// odds of twenty to one.
	limitPart     = 0.75
	chancePart    = 0.3
	maxChancePart = 0.6
	sureNats      = 3

	// A limit refuses leastPart in any case. If less is refused of many, neither it nor
	// chance explains that: fifty nodes have a limit each, which a volley meets.
	leastPart = 0.6

	// firstTrial is how long the first confirmation holds. Each one holds four
	// times as long as that before it, up to lastTrial: a test costs about four
	// refusals, which are a tenth of a percent of 100 a second in 8 s and more.
	firstTrial = 8 * time.Second
	lastTrial  = 2 * time.Minute

	// A limit that has fallen to this part of what was confirmed is tested again, whenever
	// that was.
	retested = 0.7

	// emptying is how long it may take a limit that was raised to use up what a bucket
	// has gained while it was too low. A trial before that proves nothing.
	emptying = 2 * time.Second
)

// verdict is the outcome of a trial.
type verdict uint8

const (
	undecided verdict = iota
	confirmed
	denied // but confirmed before
	byChance
	serverDown // everything fails, and it is no limit
)

// begin lets a volley go, right after a refusal, from those that wait. The gain is
// what a server has to give in the time until a refusal is known. Before that it may have
// had a little less than what the refused attempt weighs.
func (t *trial) begin(now time.Time, weight, gain float64, waiting int) {
	if now.Sub(t.at) > stale {
		t.underWay = 0 // of another time
		t.clear()
	}
	t.size = max(t.size, volleySize)
	size := min(float64(t.size)*(weight+gain), maxVolley, float64(waiting))
	if t.underWay > 0 || now.Before(t.next) || size < weight+leastOver*gain || volleySize*(weight+gain) > maxVolley {
		return
	}
	t.ahead, t.at = math.Floor(size), now
}

func (t *trial) clear() { t.refused, t.known, t.squares, t.size = 0, 0, 0, 0 }

// soon lets a trial begin because of something else that is to be tested.
func (t *trial) soon(now time.Time) {
	if t.denied == 0 {
		t.next = now
	}
}

// again lets a trial begin that one denial decides.
func (t *trial) again(now time.Time) { t.next, t.confirmed, t.denied = now, 0, 0 }

// open reports whether an attempt may go ahead of the limit now.
func (t *trial) open(now time.Time) bool { return t.ahead > 0 && now.Equal(t.at) }

// sent notes an attempt that goes ahead.
func (t *trial) sent(weight float64) {
	t.ahead -= weight
	t.underWay++
}

// done takes the outcome of an attempt that went ahead; one without an answer says
// nothing. The chance is the part that was refused before.
func (t *trial) done(now time.Time, o Outcome, weight, chance float64) verdict {
	t.underWay--
	if o != Unanswered {
		t.known += weight
		t.squares += weight * weight
		if o.refused() {
			t.refused += weight
		}
	}
	if t.underWay > 0 || t.known == 0 {
		return undecided
	}
	n, part := t.outcomes()
	chance = min(max(chance, chancePart), maxChancePart)
	limit := max(limitPart, (1+chance)/2+0.1*(chance-chancePart))
	nats := n * (part*math.Log(limit/chance) + (1-part)*math.Log((1-limit)/(1-chance)))
	switch {
	case part >= leastPart && nats >= sureNats:
		t.next = now.Add(min(firstTrial<<(2*min(t.confirmed, 4)), lastTrial))
		t.confirmed, t.denied, t.confirmedAt = t.confirmed+1, 0, now
		t.clear()
		return confirmed
	case nats <= -sureNats || n >= maxOutcomes:
		if t.denied++; t.denied > t.confirmed {
			return byChance
		}
		t.clear()
		return denied
	}
	if part < 1 {
		t.size = min(2*t.size, mostGrown*volleySize)
	}
	return undecided // the next refusal adds to it
}

// outcomes returns how many attempts of one weight say as much as those of the trial, which
// are few if some weigh much more than others (L. Kish, Survey Sampling, 1965, 11.7), and
// which part of their weight was refused.
func (t *trial) outcomes() (n, part float64) {
	return t.known * t.known / t.squares, t.refused / t.known
}

// share returns the part of the volleys that was refused, as far as so few can tell.
func (t *trial) share() float64 {
	n, part := t.outcomes()
	return (part*n + 1) / (n + 2)
}
