package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// table is what was measured so far.
type table struct {
	length  time.Duration
	rows    []result
	missing []string // servers whose program is not installed
}

func (t *table) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Each client was measured for %v.\n\n", t.length)
	b.WriteString("| server | load | client | ok/s | of possible | refused/ok | failed | p50 ms | p99 ms |\n")
	b.WriteString("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	for i, r := range t.rows {
		title := fmt.Sprintf("**%s** %s | %v", r.server.name, r.server.about, r.load)
		if i > 0 && r.same(&t.rows[i-1]) {
			title = "|"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", title, r.client, strings.Join(r.figures(), " | "))
	}
	if behind := t.behind(); len(behind) > 0 {
		fmt.Fprintf(&b, "\nWhere %s is behind the best of the others:\n\n- %s\n", oursName, strings.Join(behind, "\n- "))
	}
	if len(t.missing) > 0 {
		fmt.Fprintf(&b, "\nNot installed, so not measured: %s.\n", strings.Join(t.missing, ", "))
	}
	return b.String()
}

func (r *result) String() string {
	text := fmt.Sprintf("%s, %v, %s: %s", r.server.name, r.load, r.client, strings.Join(r.figures(), ", "))
	if r.tally.why != "" {
		text += " (" + r.tally.why + ")"
	}
	if r.broken != nil {
		text += " [" + r.broken.Error() + "]"
	}
	return text
}

func (r *result) figures() []string {
	part := "-"
	if p := r.ofPossible(); !math.IsNaN(p) {
		part = fmt.Sprintf("%.2f", p)
	}
	return []string{
		fmt.Sprintf("%.1f", r.perSecond()), part, fmt.Sprintf("%.3f", r.refused()),
		fmt.Sprintf("%.2f %%", r.failed()*100), milliseconds(r.tally.quantile(.5)), milliseconds(r.tally.quantile(.99)),
	}
}

func milliseconds(d time.Duration) string {
	if d == never {
		return "never"
	}
	return fmt.Sprintf("%.0f", d.Seconds()*1000)
}

// perSecond returns the calls that succeeded.
func (r *result) perSecond() float64 { return float64(r.tally.ok) / r.length.Seconds() }

func (r *result) ofPossible() float64 {
	return r.perSecond() / r.server.possible(r.load, r.length)
}

// refused returns the attempts that were refused, for each that was accepted.
func (r *result) refused() float64 {
	return float64(r.attempts.refused) / float64(max(r.attempts.accepted, 1))
}

// failed returns the part of the calls that failed, of those that ended.
func (r *result) failed() float64 {
	return float64(r.tally.failed) / float64(max(r.tally.failed+r.tally.ok, 1))
}

// same reports whether two clients were under the same load of the same server.
func (r *result) same(o *result) bool {
	return r.server.name == o.server.name && r.load == o.load
}

// Differences of less than these are noise in runs of ten seconds.
const (
	fewerCalls  = .03 // of the calls that succeed
	moreFailed  = .002
	moreRefused = .02
	laterBy     = 1.2 // and 50 ms
)

// behind returns what is worse in our rows than in the best of the others, in words.
// How long calls take is compared where callers do not wait for each other: a closed
// loop's callers wait for each other in any case, and the shorter one's wait is, the
// longer is another's.
func (t *table) behind() (all []string) {
	for _, r := range t.rows {
		if r.client != oursName {
			continue
		}
		add := func(format string, args ...any) {
			text := fmt.Sprintf("%s, %v: ", r.server.name, r.load) + fmt.Sprintf(format, args...)
			if r.tally.why != "" {
				text += " (first failure: " + r.tally.why + ")"
			}
			all = append(all, text)
		}
		others := slices.DeleteFunc(slices.Clone(t.rows), func(o result) bool { return o.client == oursName || !o.same(&r) })
		if len(others) == 0 {
			continue
		}
		most := slices.MaxFunc(others, compare((*result).perSecond))
		if r.perSecond() < most.perSecond()*(1-fewerCalls) {
			add("%.1f calls/s, %s %.1f", r.perSecond(), most.client, most.perSecond())
		}
		least := slices.MinFunc(others, compare((*result).failed))
		if r.failed() > least.failed()+moreFailed {
			add("%.2f %% fail, %s %.2f %%", r.failed()*100, least.client, least.failed()*100)
		}
		least = slices.MinFunc(others, compare((*result).refused))
		if r.refused() > least.refused()+moreRefused {
			add("%.3f refused per success, %s %.3f", r.refused(), least.client, least.refused())
		}
		// What fails calls has less to do for the others.
		others = slices.DeleteFunc(others, func(o result) bool { return o.failed() > r.failed()+moreFailed })
		if r.load.workers > 0 || len(others) == 0 {
			continue
		}
		for _, p := range []float64{.5, .99} {
			late := func(r *result) float64 { return r.tally.quantile(p).Seconds() }
			soonest := slices.MinFunc(others, compare(late))
			if late(&r) > late(&soonest)*laterBy && late(&r) > late(&soonest)+.05 {
				add("p%g %s ms, %s %s", p*100, milliseconds(r.tally.quantile(p)), soonest.client, milliseconds(soonest.tally.quantile(p)))
			}
		}
	}
	return all
}

func compare(f func(*result) float64) func(a, b result) int {
	return func(a, b result) int {
		switch x, y := f(&a), f(&b); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	}
}
