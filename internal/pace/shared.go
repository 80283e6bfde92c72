package pace

import "math"

const (
	// sharedAfter refusals that the pace does not account for show that a quota is shared, if
	// each one that it does account for takes explainedPart of one away. When others use up the
	// quota, refusals come at random, and 0.6 of them later than half the mean.
	sharedAfter   = 5
	explainedPart = 0.4

	// Until then it is not known. After untoldAfter of them nobody is told when his turn
	// comes, and after triedAfter a small pace is tried sooner.
	untoldAfter = 1
	triedAfter  = 2

	// A shared pace loses shareCut of itself with a refusal, and is given back shareGrowth
	// times that each second. So in the balance a pace of p has shareGrowth / p of its
	// attempts refused: 1.4 % at 18 a second. Of a large share that is less than of a small
	// one, so they become alike. If a large one grew faster too, by the fourth root of itself
	// for instance, the two might stay as they are: when the server has nothing left it
	// refuses both.
	shareCut    = 0.2
	shareGrowth = 0.25

	// perRefusal attempts are accepted in the balance to one that is refused. With four, twice
	// as many calls failed behind a limit of three in four seconds, and with ten, it took a small
	// share minutes to grow.
	perRefusal = 7
)

// detectSharing tells refusals that the pace, or a gap that was too small, accounts for
// from others. A pace that is one's own is refused at about the same height each time. In
// windows that are known every pace ends in refusals, and of several clients the one that
// took them for a sign of the others would leave them its share.
func (p *Pace) detectSharing() {
	if p.rate == 0 || p.windows {
		return
	}
	if p.shared() {
		if p.level++; math.Abs(p.rate-p.peak) > 0.02*p.peak {
			p.level = 0
		}
		p.peak = p.rate
		if p.level >= 4 {
			p.unexplained, p.level = 0, 0
		}
		return
	}
	if !p.expected() && p.spacing.streak == 0 {
		p.unexplained++
	} else {
		p.unexplained = max(p.unexplained-explainedPart, 0)
	}
}

// shared reports whether others use the quota too.
func (p *Pace) shared() bool { return p.unexplained >= sharedAfter }

// alone returns how many attempts are accepted in a row only by a client that shares the
// quota with nobody: several times as many as there are between two refusals. A small share
// is refused as seldom as the large ones, and not as its own pace would have it.
func (p *Pace) alone() float64 {
	const times = 3
	return min(max(times*p.rate/shareGrowth, probeEvery), 8*probeEvery)
}
