package limit

import (
	"time"

	"github.com/resilienthttp/resilient/internal/pace"
)

// looking finds out what it is that refuses more than chance. One attempt goes, and
// each that is accepted lets two follow, so a limit that is still in force costs
// one refusal, and not one for each waiter. No more are under way than were ever
// accepted together. That is also what tells the two kinds of limits apart: a limit
// on requests under way refuses nothing below that number, and a rate does.
//
// While nothing is accepted, one attempt knocks, ever more seldom.
type looking struct {
	credit  int       // attempts that may go
	knockAt time.Time // when one goes without credit
	begun   time.Time
	refused int // refusals since an attempt was accepted
	shed    int // those before any was, that said nothing of a limit

	most     int       // most attempts under way of which one was accepted
	bounded  bool      // one was refused with more under way
	accepted int       // since bounded
	hinted   time.Time // until when, if only a hint is the reason to look
}

const (
	// While nothing is accepted, one attempt goes after firstKnock, and each one
	// after it waits four times as long. After so many knocks it is a rate that is
	// exhausted, of which package pace knows more.
	firstKnock = 10 * time.Millisecond
	knocks     = 4

	// hanging is how long an attempt may hang before the next one may go: as slow as
	// the slowest limits in use, one a second, since nothing else is known.
	hanging = time.Second

	// backoffs is about how long those stay away who were refused before. A look that ended as
	// soon as nobody waited let all of them go together when they came back, and so it went
	// on.
	backoffs = time.Second

	// outage refusals that say nothing of a limit, with nothing accepted, are a server
	// that is down. By the last of them 0.85 s have passed, in which a limit of two a second
	// would have let one through, and some servers refuse by 503.
	outage = knocks + 1
)

func (l *looking) begin(now time.Time) {
	*l = looking{credit: 1, knockAt: now.Add(hanging), begun: now}
}

// wait returns how long the next attempt is held back.
func (l *looking) wait(now time.Time, underWay int) time.Duration {
	if l.bounded && underWay >= l.most {
		return forever
	}
	if l.credit > 0 {
		return 0
	}
	next := l.knockAt
	if !l.hinted.IsZero() && l.hinted.Before(next) {
		next = l.hinted // when it is over
	}
	return next.Sub(now)
}

func (l *looking) sent(now time.Time) {
	l.credit = max(l.credit-1, 0)
	l.knockAt = now.Add(hanging)
}

// acceptance notes that an attempt was accepted with so many under way.
func (l *looking) acceptance(n int) {
	l.credit += 2
	l.most = max(l.most, n)
	l.refused, l.shed = 0, 0
	if l.bounded {
		l.accepted++
	}
}

// refusal notes that an attempt was refused with so many under way, and reports whether
// it is a rate that refuses, or everything is.
func (l *looking) refusal(now time.Time, n int, o Outcome, flight bool, p *pace.Pace) bool {
	if l.refused++; l.refused > knocks {
		l.knockAt = now.Add(p.KnockAfter(now.Sub(l.begun)))
	} else {
		l.knockAt = now.Add(firstKnock << (2 * (l.refused - 1)))
	}
	if l.most > 0 {
		if n <= l.most || l.most <= fewUnderWay || !flight {
			return true
		}
		l.bounded, l.accepted = true, 0
		return false
	}
	if o == Shed {
		l.shed++
	}
	return l.refused >= knocks && (l.shed < l.refused || l.shed >= outage)
}

// flight reports whether it is a limit on requests under way.
func (l *looking) flight() bool {
	const margin = 2
	return l.bounded && l.accepted >= 2*l.most+margin
}
