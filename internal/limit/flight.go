package limit

import "time"

// flight is a limit on requests under way at one time: so many threads, connections
// or places in a queue. The rate that it lets through varies with the time the
// server takes for each, so a pace gives much of it away. A bound on what is under
// way does not.
//
// The bound rises a little with every attempt that is accepted, and falls by one when
// the last one that it lets go is refused, so one in mostBetween is refused as long
// as the limit stays. If one is refused with fewer under way, the limit has fallen, or
// others take a part of it: then the bound falls by a part of itself. A bound of one
// that is refused all the same is no limit of this kind.
type flight struct {
	bound   float64       // attempts under way
	between float64       // accepted attempts until the bound has risen by one
	wrong   int           // refusals at a bound of one
	last    time.Time     // when the last attempt went
	gap     time.Duration // until the next one may
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

	// fallenBy is the part of itself that a bound falls by if the limit has fallen.
	fallenBy = 8

	// maxWrong refusals at a bound of one show that it is none.
	maxWrong = 3
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
	switch bound := float64(int(f.bound)); {
	case n > int(bound): // it went ahead, or before the bound fell
	case bound == 1:
		f.wrong++
		f.bound = 1
	case n == int(bound):
		f.bound = bound - 1
	default:
		f.bound = max(bound-max(bound/fallenBy, 1), 1)
	}
	return f.wrong < maxWrong
}

// together notes how many attempts were under way together when one was accepted, and
// when one was refused. If a rate refuses, the two are much alike. If all refusals come
// with more under way than any acceptance, it is no rate.
type together struct {
	accepted int // since most was begun anew
	most     int
	before   int // most of the time before it
	above    int // refusals in a row with more
}

const (
	// The most that were accepted together is that of the last memory attempts to
	// twice as many. refusalsAbove in a row are no rate.
	memory        = 64
	refusalsAbove = 4
)

func (t *together) acceptance(n int) {
	if t.accepted++; t.accepted > memory {
		t.before, t.most, t.accepted = t.most, 0, 0
	}
	t.most = max(t.most, n)
}

// refusal reports whether it is a limit on requests under way, and which.
func (t *together) refusal(n int) (bound int, found bool) {
	bound = max(t.most, t.before)
	if n <= bound || bound == 0 {
		t.above = 0
		return 0, false
	}
	t.above++
	return bound, t.above >= refusalsAbove
}
