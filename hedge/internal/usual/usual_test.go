package usual_test

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/hedge/internal/usual"
)

const ms = time.Millisecond

// delay returns the delay, without what there is of tokens.
func delay(c *usual.Calls) time.Duration {
	d, _ := c.Delay()
	return d
}

func learn(c *usual.Calls, n int, ran time.Duration) {
	for range n {
		c.Ended(ran, true, false)
	}
}

// TestDelay is the delay after calls that were answered.
func TestDelay(t *testing.T) {
	for _, tt := range []struct {
		name  string
		share float64
		calls func(*usual.Calls)
		want  time.Duration
		why   string
	}{
		{"none", 0.05, func(*usual.Calls) {}, 0, "nothing is known"},
		{"31", 0.05, func(c *usual.Calls) { learn(c, 31, 10*ms) }, 0, "too little is known"},
		{"32", 0.05, func(c *usual.Calls) { learn(c, 32, 10*ms) }, 10_223_616, "the end of the bucket: all of them are usual"},
		{"in no time", 0.05, func(c *usual.Calls) { learn(c, 32, 0) }, 33 * 1024, "the first bucket"},
		{"an hour", 0.05, func(c *usual.Calls) { learn(c, 32, time.Hour) }, 1 << 39, "the last bucket, whose end is nine minutes"},
		{"one of 32", 0.05, func(c *usual.Calls) { learn(c, 31, 10*ms); learn(c, 1, time.Second) }, 10_223_616, "less than the share"},
		{"two of 32", 0.05, func(c *usual.Calls) { learn(c, 30, 10*ms); learn(c, 2, time.Second) }, 1_006_632_960, "more than the share"},
		{"exactly the share", 0.0625, func(c *usual.Calls) { learn(c, 30, 10*ms); learn(c, 2, time.Second) }, 10_223_616, "no more than the share outlast it"},
		{"failed at once", 0.05, func(c *usual.Calls) {
			for range 99 {
				c.Ended(0, false, false)
			}
		}, 0, "no answer"},
		{"failed late", 0.05, func(c *usual.Calls) {
			learn(c, 30, 10*ms)
			learn(c, 2, 10*ms)
			for range 16 {
				c.Ended(time.Second, false, false)
			}
		}, 1_006_632_960, "whatever came of it, it has outlasted the delay"},
		{"slow for a while", 0.05, func(c *usual.Calls) {
			learn(c, 8192, 10*ms)
			learn(c, 400, time.Second)
			learn(c, 2*8192, 10*ms)
		}, 10_223_616, "it is forgotten"},
		{"slow from now on", 0.05, func(c *usual.Calls) { learn(c, 8192, 10*ms); learn(c, 8192, time.Second) }, 1_006_632_960, "it is usual now"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := usual.New(tt.share, 0)
			tt.calls(c)
			require.Equal(t, tt.want, delay(c), tt.why)
		})
	}
	fixed := usual.New(0.05, time.Second)
	learn(fixed, 100, 10*ms)
	require.Equal(t, time.Second, delay(fixed), "it was given")
}

// TestDelayIsTheQuantile: no more than the share of the calls outlast the delay, and a
// delay that is 4 % shorter would be outlasted by more.
func TestDelayIsTheQuantile(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, share := range []float64{0.001, 0.01, 0.0575, 0.1} {
		for _, sigma := range []float64{0.01, 0.4, 1, 3} {
			c := usual.New(share, 0)
			all := make([]time.Duration, 8192)
			for i := range all {
				all[i] = time.Duration(math.Exp(rng.NormFloat64()*sigma) * float64(20*ms))
				c.Ended(all[i], true, false)
			}
			slices.Sort(all)
			outlast := func(d time.Duration) float64 {
				n, _ := slices.BinarySearch(all, d)
				return float64(len(all)-n) / float64(len(all))
			}
			d := delay(c)
			require.LessOrEqual(t, outlast(d), share)
			require.Greater(t, outlast(d-d/25), share)
		}
	}
}

// TestTokens is how many of 1,000 requests that outlast the delay there is a token for, if
// some calls are fast before each.
func TestTokens(t *testing.T) {
	for _, tt := range []struct {
		name string
		fast int
		want int
		why  string
	}{
		{"all are slow", 0, 20, "those that there were"},
		{"a half", 1, 21, "hardly more"},
		{"one of ten", 9, 59, "until they are used up"},
		{"one of 17", 16, 1000, "it is what there is room for"},
	} {
		c := usual.New(0.0575, time.Second)
		got := 0
		for range 1000 {
			learn(c, tt.fast, ms)
			if c.Outlasted() {
				got++
			}
		}
		require.Equal(t, tt.want, got, "%s: %s", tt.name, tt.why)
		learn(c, 100, ms)
		require.True(t, c.Outlasted(), "%s: a hundred calls make up for everything", tt.name)
	}
}

// TestChargedOnce: a call that has outlasted the delay is charged when it ends, unless that
// was done when the delay was over.
func TestChargedOnce(t *testing.T) {
	affordable := func(charged bool) (n int) {
		c := usual.New(0.0575, time.Second)
		for range 20 {
			if _, ok := c.Delay(); ok {
				n++
			}
			if charged {
				c.Outlasted()
			}
			c.Ended(2*time.Second, true, charged)
		}
		_, ok := c.Delay()
		require.False(t, ok)
		return n
	}
	require.Equal(t, 20, affordable(false))
	require.Equal(t, 20, affordable(true))
}

// FuzzCalls: whatever calls there are, no more tokens are spent than there were and were
// earned, and the delay is a time at which a histogram ends.
func FuzzCalls(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3})
	f.Add(slices.Repeat([]byte{0x80, 0x96, 0x98, 0, 1, 2}, 100))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := usual.New(0.0575, 0)
		spent, ended := 0, 0
		for len(data) >= 5 {
			ran := time.Duration(binary.LittleEndian.Uint32(data)) << (data[4] & 15)
			switch d, affordable := c.Delay(); {
			case d > 0 && data[4]&16 != 0:
				if c.Outlasted() {
					require.True(t, affordable)
					spent++
				}
			default:
				c.Ended(ran, data[4]&32 != 0, data[4]&64 != 0)
				ended++
			}
			require.LessOrEqual(t, float64(spent), 20+1.3*0.0575*float64(ended)+1e-6)
			if d := delay(c); d != 0 {
				require.GreaterOrEqual(t, ended, 32)
				require.GreaterOrEqual(t, d, 33*1024*time.Nanosecond)
				require.LessOrEqual(t, d, time.Duration(1<<39))
			}
			data = data[5:]
		}
	})
}
