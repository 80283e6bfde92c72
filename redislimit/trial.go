package redislimit

import (
	"slices"
	"sync/atomic"
	"time"
)

// trial is the part of a process in the trials of the fleet, which tell a limit from
// refusals by chance. The script begins them and decides. It asks a process to let a
// volley go: some requests at once, right after a refusal.
//
// The outcomes of a volley are reported together, because refusals come sooner than
// acceptances. An outcome says only when its request was sent, so this tells which
// one it was. If two are mistaken for each other, they were sent at nearly the same
// time, and the outcomes mean nearly the same.
type trial struct {
	watches atomic.Bool // acceptances matter too
	volley

	at     time.Time   // when the volley went
	hinted bool        // after a refusal that said how long to wait
	going  []departure // requests whose outcome is not known, in order

	chance float64 // part that is refused by chance as a trial found, or 0
	part   float64 // that is refused now, smoothed
}

// volley counts the outcomes of a volley.
type volley struct {
	size  int
	left  int // outcomes that are missing
	known int // outcomes that say something
	bad   int // of these, the refusals
}

type departure struct {
	at     time.Time
	volley bool
}

const (
	// maxGoing bounds the requests that are told apart. It is the script's maxVolley.
	maxGoing = 64

	// lateSent is the longest time between the departure of a request and its
	// sending. Requests that take longer were held back by a pause of the Transport.
	lateSent = 50 * time.Millisecond

	// lostVolley is how long the outcomes of a volley may take.
	lostVolley = 10 * time.Second

	// Of the last lookback requests or so, morePart more than in the trial must be
	// refused until there is another one: less is a matter of chance too.
	lookback = 32
	morePart = 0.15
)

// begin begins a volley. The requests that go in it are noted with sent.
func (t *trial) begin(now time.Time, size int, hinted bool) {
	t.volley, t.at, t.going, t.hinted = volley{size: size}, now, nil, hinted
	t.watch()
}

// sent notes a request that goes now.
func (t *trial) sent(now time.Time, inVolley bool) {
	if t.size == 0 || len(t.going) == maxGoing {
		return
	}
	t.going = append(t.going, departure{now, inVolley})
	if inVolley {
		t.left++
	}
}

// take takes an outcome, and reports whether it is one of the volley.
func (t *trial) take(sent time.Time, answered, refused bool) bool {
	i := len(t.going) - 1
	for i >= 0 && t.going[i].at.After(sent) {
		i--
	}
	if i < 0 || t.left == 0 {
		return false
	}
	d := t.going[i]
	t.going = slices.Delete(t.going, i, i+1)
	if !d.volley {
		return false
	}
	t.left--
	switch late := sent.Sub(d.at) > lateSent; {
	case late && t.hinted: // its Transport believes the hint
		t.known++
		t.bad++
	case answered && !late:
		t.known++
		if refused {
			t.bad++
		}
	}
	return true
}

// ended reports whether all outcomes of a volley are known.
func (t *trial) ended() bool { return t.size > 0 && t.left == 0 }

// end returns the outcomes of a volley that has ended or is lost. The size is 0 if
// there is none.
func (t *trial) end(now time.Time) volley {
	if t.left > 0 && now.Sub(t.at) <= lostVolley {
		return volley{}
	}
	v := t.volley
	t.volley, t.going = volley{}, nil
	t.watch()
	return v
}

// found takes over what the trials of the fleet have found.
func (t *trial) found(chance float64) {
	if chance != t.chance {
		t.chance, t.part = chance, chance
		t.watch()
	}
}

// note notes an outcome, and reports whether refusals have become more than by
// chance.
func (t *trial) note(refused bool) bool {
	if t.chance == 0 {
		return false
	}
	t.part -= t.part / lookback
	if refused {
		t.part += 1.0 / lookback
	}
	return t.part > t.chance+morePart
}

func (t *trial) watch() { t.watches.Store(t.size > 0 || t.chance > 0) }
