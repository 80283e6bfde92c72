package debugpage

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// plot shows the rate in the window, second by second. A second is 1 wide, and the
// plot is 100 high.
type plot struct {
	Width   int64
	Areas   []area
	Lines   []line
	Max     string
	Half    string
	Minutes []int
}

type area struct{ Name, Class, Count, Path string }

type line struct{ Name, Class, Value, Path string }

func newPlot(seen *[seconds]second, now time.Duration, keys int) *plot {
	p := &plot{Width: seconds, Minutes: []int{5, 4, 3, 2, 1}}
	first := int64(now/time.Second) - seconds + 1
	at := func(i int64) *second {
		s := &seen[max(first+i, 0)%seconds]
		if s.at != first+i {
			return nil
		}
		return s
	}
	most, limit := 0.0, 0.0
	for i := range seconds {
		if s := at(i); s != nil {
			n := 0.0
			for _, c := range s.counts {
				n += float64(c)
			}
			most = max(most, n)
			for _, l := range s.lines {
				limit = max(limit, l.limit)
			}
		}
	}
	// A limit far above the rate, such as the first guess, is cut off.
	top := niceCeil(max(most, min(limit, 1.5*most), 4))
	p.Max, p.Half = rate(top), rate(top/2)

	var below [seconds]float64
	for outcome, name := range [outcomes]string{"accepted", "accepted on a retry", "refused", "failed"} {
		total := int64(0)
		var path strings.Builder
		for i := range seconds {
			s := at(i)
			if s == nil || s.counts[outcome] == 0 {
				continue
			}
			total += int64(s.counts[outcome])
			height := 100 * float64(s.counts[outcome]) / top
			fmt.Fprintf(&path, "M%d %.2fh1v%.2fh-1z", i, 100-below[i]-height, height)
			below[i] += height
		}
		class := [outcomes]string{"ok", "retried", "refused", "failed"}[outcome]
		p.Areas = append(p.Areas, area{name, class, number(total), path.String()})
	}
	p.draw(at, top, keys)
	return p
}

// draw adds a line for each limit with a learned rate, the most recent one first. A
// line has a gap if the rate was not known for longer than near. Single seconds
// without a call do not interrupt it.
func (p *plot) draw(at func(int64) *second, top float64, keys int) {
	const near = 5 // seconds
	type trace struct {
		learned

		last int64
		path strings.Builder
	}
	var traces []*trace
	for i := range seconds {
		s := at(i)
		if s == nil {
			continue
		}
		for _, l := range s.lines {
			if l.limit <= 0 {
				continue
			}
			j := slices.IndexFunc(traces, func(t *trace) bool { return t.key == l.key && t.route == l.route })
			if j < 0 {
				j, traces = len(traces), append(traces, &trace{last: -near - 1})
			}
			t, command := traces[j], "L"
			if i-t.last > near {
				command = "M"
			}
			fmt.Fprintf(&t.path, "%s%.1f %.2f", command, float64(i)+0.5, max(100-100*l.limit/top, 0))
			t.learned, t.last = l, i
		}
	}
	slices.SortStableFunc(traces, func(a, b *trace) int { return cmp.Compare(b.last, a.last) })
	for i, t := range traces[:min(len(traces), maxLines)] {
		name := "learned limit"
		if t.route != "" {
			name += " for " + t.route
		}
		if keys > 1 {
			name += " of " + t.key
		}
		p.Lines = append(p.Lines, line{name, "line" + strconv.Itoa(i+1), rate(t.limit) + "/s", t.path.String()})
	}
}

// niceCeil returns the smallest number that is not below x and is 1, 2, 4, 5, 6, 8
// or 10 times a power of ten.
func niceCeil(x float64) float64 {
	if x <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(x)))
	for _, f := range [...]float64{1, 2, 4, 5, 6, 8} {
		if f*power >= x {
			return f * power
		}
	}
	return 10 * power
}
