package limit

import (
	"math"
	"time"
)

// flight is a limit on requests under way at one time: so many threads, connections
// or places in a queue. The rate that it lets through varies with the time the
// server takes for each, so a pace gives much of it away. A bound on what is under
// way does not.
//
// The bound rises a little with every attempt that is accepted, and falls by one with every
// one that is refused, so one in mostBetween is refused as long as the limit stays. If the
// limit has fallen, or others take a part of it, all that are too many are refused, and
// take their places with them. A bound of one that is refused all the same is no limit of
// this kind.
type flight struct {
	bound   float64       // attempts under way
	between float64       // accepted attempts until the bound has risen by one
	wrong   int           // refusals at a bound of one
	last    time.Time     // when the last attempt went
	gap     time.Duration // until the next one may
	paced   time.Duration // in which a sample was accepted by the pace before it; 0: not known
}

const (
	// The bound is tried every mostBetween accepted attempts, which costs one
	// refusal in a hundred as long as the limit stays. While it rises the number is
	// halved each time, down to leastBetween.
	mostBetween  = 100
	leastBetween = 2

	// Attempts go at least a part of the time apart that would spread them evenly: some
	// servers refuse what comes at once.
	apart = 2

	// maxWrong refusals at a bound of one show that it is none.
	maxWrong = 3

	// A bound in place of a pace lets more through, or it is none. For the first samples
	// of accepted attempts it is given up if one takes slowerBy times as long as with the
	// pace. The time for a sample varies by an eighth and more.
	samples  = 8
	slowerBy = 1.5
)

// wait returns how long the next attempt is held back with so many under way.
func (f *flight) wait(now time.Time, underWay int) time.Duration {
	if underWay >= int(f.bound) {
		return forever
	}
	return f.last.Add(f.gap).Sub(now)
}

// acceptance notes that the nth attempt under way was accepted, for which the server
// takes so long. An attempt counts only if it went at the bound: with fewer, nothing
// is known about more.
func (f *flight) acceptance(n int, service time.Duration) {
	f.gap = service / time.Duration(apart*int(f.bound))
	before := int(f.bound)
	if n < before {
		return
	}
	f.bound += 1 / f.between
	if int(f.bound) > before {
		f.between, f.wrong = max(f.between/2, leastBetween), 0
	}
}

// refusal notes that the nth attempt under way was refused, and reports whether the
// bound may stay.
func (f *flight) refusal(n int) bool {
	f.between = mostBetween
	switch bound := int(f.bound); {
	case n > bound: // it went ahead, or before the bound fell
	case bound == 1:
		f.wrong++
		f.bound = 1
	default:
		f.bound = float64(bound - 1)
	}
	return f.wrong < maxWrong
}

// slower reports whether less is accepted than by the pace before it.
func (f *flight) slower(t *together) bool {
	return f.paced > 0 && t.accepted <= samples*len(t.last) && float64(t.took) > slowerBy*float64(f.paced)
}

// together finds a limit on requests under way that is taken for a rate, by how many
// attempts were under way together when one was accepted, and when one was refused. Such
// a limit refuses those that go with the most. If a rate refuses, the two are much alike.
//
// Neither holds for each attempt: some answers are on their way while others are counted.
// So it is a likelihood ratio, as that of a trial, and each refusal is compared with the
// last sample of accepted attempts. But a rate may refuse in time with the number under
// way, as one does with a gap of half the time that an answer takes. The two cannot be
// told apart by watching. Then the bound shows it, see slower.
type together struct {
	last     [64]uint16 // how many were under way with each of the last accepted
	accepted int
	nats     float64       // for a limit on requests under way
	since    time.Time     // when the last whole sample had been accepted
	took     time.Duration // how long that took
}

const (
	// An attempt is refused with more under way if that is more than with mostAccepted of
	// those that were accepted, by more than a pace varies when it is right.
	mostAccepted = 0.8
	paceVaries   = 0.05

	// fewAccepted attempts are too few to compare with.
	fewAccepted = 8
)

// begin begins a sample.
func (t *together) begin(now time.Time) { t.accepted, t.nats, t.since = 0, 0, now }

// acceptance notes that an attempt was accepted with so many under way.
func (t *together) acceptance(n int, now time.Time) {
	t.last[t.accepted%len(t.last)] = uint16(min(n, math.MaxUint16))
	if t.accepted++; t.accepted%len(t.last) == 0 {
		t.took, t.since = now.Sub(t.since), now
	}
}

// refusal notes that an attempt was refused with so many under way, and reports whether
// it is their number that is limited. With few under way, a pace that goes up and down
// lets now one go and now two: then any that was accepted with as many is against it.
func (t *together) refusal(n int) bool {
	sample := t.last[:min(t.accepted, len(t.last))]
	few := n <= fewUnderWay
	if len(sample) < fewAccepted {
		return false
	}
	fewer := 0
	for _, accepted := range sample {
		if float64(accepted) < (1-paceVaries)*float64(n) {
			fewer++
		}
	}
	if fewer == len(sample) || !few && float64(fewer) >= mostAccepted*float64(len(sample)) {
		t.nats = min(t.nats+math.Log(limitPart/chancePart), sureNats)
	} else {
		t.nats = max(t.nats+math.Log((1-limitPart)/(1-chancePart)), -sureNats)
	}
	return t.nats >= sureNats
}
