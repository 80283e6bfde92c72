package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestQuantile(t *testing.T) {
	var v tally
	require.Equal(t, never, v.quantile(.5))
	v.ended(3*time.Second, "", false)
	v.ended(time.Second, "", true) // just in time
	v.ended(2*time.Second, "", false)
	v.ended(4*time.Second, "cut off", true)
	require.Equal(t, 2*time.Second, v.quantile(.5))
	require.Equal(t, 4*time.Second, v.quantile(.99))
	v.ended(time.Second, "503", false)
	require.Equal(t, never, v.quantile(.99))
	require.Equal(t, [3]int{3, 1, 1}, [3]int{v.ok, v.failed, v.cut})
	require.Equal(t, "503", v.why)
}

func TestTable(t *testing.T) {
	s := scenario{name: "x.y", about: "about", rate: 10, burst: 5}
	row := func(client string, l load, n counts, ok, failed int, took time.Duration) result {
		v := new(tally)
		for range ok {
			v.ended(took, "", false)
		}
		for range failed {
			v.ended(took, "why", false)
		}
		return result{server: s, client: client, load: l, length: time.Second, attempts: n, tally: v}
	}
	workers, stream := closed(2)[0], load{perSecond: 12, path: "/a"}
	tab := table{length: time.Second, missing: []string{"z"}, rows: []result{
		row(oursName, workers, counts{accepted: 6, refused: 6}, 6, 2, time.Second),
		row("a", workers, counts{accepted: 12, refused: 12}, 12, 1, time.Second),
		row("b", workers, counts{accepted: 10}, 10, 0, time.Second),
		row(oursName, stream, counts{accepted: 12}, 12, 0, time.Second),
		row("a", stream, counts{accepted: 12}, 12, 0, time.Millisecond),
	}}
	require.Equal(t, `Each client was measured for 1s.

| server | load | client | ok/s | of possible | refused/ok | failed | p50 ms | p99 ms |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
| **x.y** about | 2 workers | resilient | 6.0 | 0.40 | 1.000 | 25.00 % | 1000 | never |
| | | a | 12.0 | 0.80 | 1.000 | 7.69 % | 1000 | never |
| | | b | 10.0 | 0.67 | 0.000 | 0.00 % | 1000 | 1000 |
| **x.y** about | /a 12/s | resilient | 12.0 | 1.00 | 0.000 | 0.00 % | 1000 | 1000 |
| | | a | 12.0 | 1.00 | 0.000 | 0.00 % | 1 | 1 |

Where resilient is behind the best of the others:

- x.y, 2 workers: 6.0 calls/s, a 12.0 (first failure: why)
- x.y, 2 workers: 25.00 % fail, b 0.00 % (first failure: why)
- x.y, 2 workers: 1.000 refused per success, b 0.000 (first failure: why)
- x.y, /a 12/s: p50 1000 ms, a 1
- x.y, /a 12/s: p99 1000 ms, a 1

Not installed, so not measured: z.
`, tab.markdown())
}
