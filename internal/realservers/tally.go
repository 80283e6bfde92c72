package main

import (
	"math"
	"slices"
	"sync"
	"time"
)

// never is how long a failed call took.
const never time.Duration = math.MaxInt64

// tally collects the ends of the calls of a load.
type tally struct {
	mu     sync.Mutex
	ok     int
	failed int
	cut    int             // calls that had not ended when the run did
	took   []time.Duration // of all of these
	why    string          // the first failure
}

// ended counts a call that took d. It is a failure for the given reason, or a success
// if there is none. If the run is over, a call that did not succeed has not failed, it
// was cut off.
func (t *tally) ended(d time.Duration, why string, over bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case why == "":
		t.ok++
	case over: // it would have taken at least as long
		t.cut++
	default:
		t.failed++
		d = never
		if t.why == "" {
			t.why = why
		}
	}
	t.took = append(t.took, d)
}

// quantile returns how long the part p of the calls took at most.
func (t *tally) quantile(p float64) time.Duration {
	if len(t.took) == 0 {
		return never
	}
	slices.Sort(t.took)
	return t.took[max(int(math.Ceil(p*float64(len(t.took))))-1, 0)]
}
