package bucket_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/bucket"
)

const (
	ms   = time.Millisecond
	year = 365 * 24 * time.Hour
)

// op is one thing that happens to a bucket, and what is then seen of it.
type op struct {
	at    time.Duration // since the start
	take  float64
	ahead float64 // of the next request
	cost  float64 // of the next request

	tokens float64
	delay  time.Duration
}

func TestBucket(t *testing.T) {
	inf := math.Inf(1)
	for _, tt := range []struct {
		name        string
		rate, burst float64
		ops         []op
		why         string
	}{
		{"new", 10, 5, []op{
			{cost: 1, tokens: 5},
			{cost: 5, tokens: 5},
		}, "it is full"},
		{"refill", 10, 5, []op{
			{take: 5, cost: 1, tokens: 0, delay: 100 * ms},
			{at: 50 * ms, cost: 1, tokens: 0.5, delay: 50 * ms},
			{at: 100 * ms, cost: 1, tokens: 1},
			{at: 100 * ms, take: 1, cost: 2, tokens: 0, delay: 200 * ms},
		}, "at its rate"},
		{"the burst", 10, 5, []op{
			{take: 5, cost: 5, tokens: 0, delay: 500 * ms},
			{at: time.Hour, cost: 5, tokens: 5},
			{at: time.Hour, take: 5, cost: 5, tokens: 0, delay: 500 * ms},
		}, "an hour of rest earns no more"},
		{"rounded up", 3, 1, []op{
			{take: 1, cost: 1, tokens: 0, delay: time.Second/3 + 1},
			{at: time.Second / 3, cost: 1, tokens: 0.999999999, delay: 1},
			{at: time.Second/3 + 1, cost: 1, tokens: 1},
		}, "when the time has passed, the tokens are there"},
		{"others ahead", 10, 5, []op{
			{cost: 1, ahead: 4, tokens: 5},
			{cost: 1, ahead: 5, tokens: 5, delay: 100 * ms},
			{take: 5, cost: 1, ahead: 9, tokens: 0, delay: time.Second},
		}, "their tokens come before"},
		{"a cost of nothing", 10, 5, []op{
			{cost: 0, tokens: 5},
			{take: 5, cost: 0, tokens: 0},
			{take: 1, cost: 0, tokens: -1},
		}, "it waits for no token, and not for the debt of others"},
		{"more than the burst", 10, 5, []op{
			{take: 1, cost: 20, tokens: 4, delay: 100 * ms},
			{at: 100 * ms, cost: 20, tokens: 5},
			{at: 100 * ms, take: 20, cost: 1, tokens: -15, delay: 1600 * ms},
			{at: 100 * ms, cost: 20, tokens: -15, delay: 2 * time.Second},
			{at: 1600 * ms, cost: 1, tokens: 0, delay: 100 * ms},
			{at: 1700 * ms, cost: 1, tokens: 1},
		}, "it waits for a full bucket and leaves a debt, and the next one until that is paid"},
		{"more than the burst, behind others", 10, 5, []op{
			{take: 5, cost: 1, ahead: 20, tokens: 0, delay: 2100 * ms},
		}, "the debt of those ahead is foreseen"},
		{"settled for more", 10, 5, []op{
			{take: 1, cost: 1, tokens: 4},
			{take: 9, cost: 1, tokens: -5, delay: 600 * ms},
		}, "tokens that are not there are owed"},
		{"given back", 10, 5, []op{
			{take: 5, cost: 1, tokens: 0, delay: 100 * ms},
			{take: -3, cost: 4, tokens: 3, delay: 100 * ms},
			{take: -3, cost: 5, tokens: 5},
			{at: time.Second, take: 5, cost: 1, tokens: 0, delay: 100 * ms},
		}, "as many as there is room for"},
		{"given back to one in debt", 10, 5, []op{
			{take: 10, cost: 1, tokens: -5, delay: 600 * ms},
			{take: -4, cost: 1, tokens: -1, delay: 200 * ms},
		}, "the debt is less"},
		{"a clock that goes back", 10, 5, []op{
			{at: time.Second, take: 5, cost: 1, tokens: 0, delay: 100 * ms},
			{at: 0, cost: 1, tokens: 0, delay: 100 * ms},
			{at: 0, take: 1, cost: 1, tokens: -1, delay: 200 * ms},
			{at: time.Second, cost: 1, tokens: -1, delay: 200 * ms},
			{at: 1200 * ms, cost: 1, tokens: 1},
		}, "no time is paid for twice"},
		{"no time", 10, 5, []op{
			{take: 5, cost: 1, tokens: 0, delay: 100 * ms},
			{take: 0, cost: 1, tokens: 0, delay: 100 * ms},
		}, "to take nothing changes nothing"},
		{"a rate without end", inf, math.MaxFloat64, []op{
			{cost: 1, tokens: math.MaxFloat64},
			{take: math.MaxFloat64, cost: math.MaxFloat64, tokens: math.MaxFloat64},
			{take: math.MaxFloat64, cost: math.MaxFloat64, ahead: math.MaxFloat64, tokens: math.MaxFloat64},
			{take: math.MaxFloat64, cost: 1, ahead: inf, tokens: math.MaxFloat64},
			{at: time.Second, cost: 1, tokens: math.MaxFloat64},
			{at: time.Second, take: -1, cost: 1, tokens: math.MaxFloat64},
		}, "nobody ever waits: the sums were infinite, and their difference not a number"},
		{"a tiny rate", 1e-12, 1, []op{
			{take: 1, cost: 1, tokens: 0, delay: year},
			{at: year, cost: 1, tokens: 31536000e-12, delay: year},
		}, "a wait is a year at most"},
		{"the smallest rate", math.SmallestNonzeroFloat64, 1, []op{
			{take: 1, cost: 1, tokens: 0, delay: year},
		}, "the wait would be infinite"},
		{"a big debt", 1, 1, []op{
			{take: math.MaxFloat64, cost: 1, tokens: -math.MaxFloat64, delay: year},
		}, "a wait is a year at most"},
		{"one token in two days", 1.0 / (48 * 3600), 1, []op{
			{take: 1, cost: 1, tokens: 0, delay: 48 * time.Hour},
			{at: 48 * time.Hour, cost: 1, tokens: 1},
		}, "less than one a day is a rate, too"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, start := bucket.New(tt.rate, tt.burst), time.Now()
			require.Equal(t, tt.rate, b.Rate())   //nolint:testifylint // it is the same number
			require.Equal(t, tt.burst, b.Burst()) //nolint:testifylint // it is the same number
			require.True(t, b.Full(start), "a new one is full")
			for i, op := range tt.ops {
				now := start.Add(op.at)
				b.Take(now, op.take)
				require.InDelta(t, op.tokens, b.Tokens(now), 1e-9, "%d: %s", i, tt.why)
				require.Equal(t, op.delay, b.Delay(now, op.cost, op.ahead), "%d: %s", i, tt.why)
				require.Equal(t, op.tokens == tt.burst, b.Full(now), "%d: %s", i, tt.why)
			}
		})
	}
}

// TestDrift takes a million times what has come since the last time, with numbers that
// no sum of floating point numbers hits.
func TestDrift(t *testing.T) {
	for _, rate := range []float64{0.1, 1.0 / 3, 7, 1000.0 / 7, 1e6 / 3} {
		t.Run(fmt.Sprintf("%.3g", rate), func(t *testing.T) {
			const n = 1e6
			b, start := bucket.New(rate, 10), time.Now()
			b.Take(start, 10)
			now := start
			for range int(n / 2) {
				now = now.Add(b.Delay(now, 0.1, 0))
				b.Take(now, 0.3) // is settled for a third of that
				b.Take(now, -0.2)
			}
			// The rounding of each wait is a nanosecond at most.
			late := now.Sub(start).Seconds() - n/2*0.1/rate
			require.InDelta(t, 0, late, n/2*1.5e-9)
			require.InDelta(t, 0, b.Tokens(now), 2e-9*rate+1e-9, "and it adds up to nothing")
		})
	}
}

// FuzzBucket takes what there is as soon as it is there.
func FuzzBucket(f *testing.F) {
	f.Add(10.0, 5.0, []byte{1, 2, 3, 200, 0, 0, 9, 255, 4})
	f.Add(0.01, 1.0, []byte{255, 255, 1, 0, 0, 128, 7, 7, 7, 64})
	f.Add(1e6, 1e3, []byte{0, 10, 20, 30, 40, 250, 251, 252})
	f.Fuzz(func(t *testing.T, rate, burst float64, ops []byte) {
		if !(rate >= 1e-6 && rate <= 1e9 && burst >= 1 && burst <= 1e9 && burst/rate < 1e7) || len(ops) > 1000 {
			t.Skip("tolerances are of this range")
		}
		start := time.Now()
		b, now, taken := bucket.New(rate, burst), start, 0.0
		for i, op := range ops {
			cost := burst * float64(op) / math.MaxUint8
			switch op % 4 {
			case 0: // time passes
				now = now.Add(time.Duration(float64(op) / rate * float64(time.Second) / 16))
				continue
			case 1: // one that was taken for too much is settled
				if back := min(cost, taken); i%3 == 0 {
					b.Take(now, -back)
					taken -= back
				}
				continue
			}
			// What is there, or comes in a nanosecond, and what a sum forgets.
			tolerance := rate*1e-9 + 1e-9*burst
			d := b.Delay(now, cost, 0)
			require.GreaterOrEqual(t, d, time.Duration(0))
			require.LessOrEqual(t, d.Seconds(), cost/rate+1e-6, "there is no debt")
			if d > 1 {
				require.Less(t, b.Tokens(now.Add(d-1)), cost+tolerance, "a moment before they are not there")
			}
			now = now.Add(d)
			require.GreaterOrEqual(t, b.Tokens(now), cost-tolerance, "the tokens are there")
			require.LessOrEqual(t, b.Delay(now, cost, 0), time.Duration(1+tolerance/rate*1e9), "so it goes")
			b.Take(now, cost)
			taken += cost
			require.LessOrEqual(t, taken, burst+rate*now.Sub(start).Seconds()+float64(i+1)*tolerance, "the rate is kept")
			require.LessOrEqual(t, b.Tokens(now), burst)
		}
		now = now.Add(time.Duration((burst + 1) / rate * float64(time.Second)))
		require.True(t, b.Full(now.Add(time.Second)))
	})
}

// TestTell: what a server says are bounds, because it may have counted requests that are
// under way or not. Within them the bucket knows better.
func TestTell(t *testing.T) {
	const free = math.MaxFloat64
	inf := math.Inf(1)
	for _, tt := range []struct {
		why                  string
		rate, burst, taken   float64
		told                 bucket.Told
		age                  time.Duration
		uncounted            float64
		tokens, rate2, whole float64
	}{
		{"nothing was known", inf, free, 5, bucket.Told{Limit: 100, Remaining: 60, Rate: 10}, time.Second, 0, 60, 9.98, 100},
		{"others are under way", inf, free, 5, bucket.Told{Limit: 100, Remaining: 60, Rate: 10}, time.Second, 25, 35, 9.98, 100},
		{"more than there is", inf, free, 0, bucket.Told{Limit: 100, Remaining: 60, Rate: 10}, 0, 80, -20, 9.98, 100},
		{"nothing used yet: a minute is assumed", inf, free, 0, bucket.Told{Limit: 120, Remaining: 120}, 0, 0, 120, 2, 120},
		{"nothing that helps", inf, free, 0, bucket.Told{Remaining: 60}, 0, 0, free, inf, free},
		{"the user's own has less left", 10, 100, 70, bucket.Told{Limit: 100, Remaining: 60, Rate: 10}, time.Second, 0, 30, 9.98, 100},
		{"somebody else uses it too", 10, 100, 10, bucket.Told{Limit: 100, Remaining: 20, Rate: 10}, time.Second, 0, 29.98, 9.98, 100},
		{"a lower limit", 10, 100, 0, bucket.Told{Limit: 50, Remaining: 40, Rate: 1}, 0, 0, 40, 0.998, 50},
		{"a higher one is no permission", 10, 100, 0, bucket.Told{Limit: 5000, Remaining: 4000, Rate: 1000}, 0, 0, 100, 10, 100},
		{"no rate", 10, 100, 0, bucket.Told{Limit: 50, Remaining: 50}, 0, 0, 50, 10, 50},
	} {
		t.Run(tt.why, func(t *testing.T) {
			now := time.Now()
			b := bucket.New(tt.rate, tt.burst)
			b.Take(now, tt.taken)
			b.Tell(now, tt.told, tt.age, tt.uncounted)
			require.InDelta(t, tt.tokens, b.Tokens(now), 1e-9)
			require.InDelta(t, tt.whole, b.Burst(), 0)
			if !math.IsInf(tt.rate2, 1) {
				require.InDelta(t, tt.rate2, b.Rate(), 1e-9)
			}
		})
	}

	now := time.Now()
	b := bucket.New(inf, free)
	b.Tell(now, bucket.Told{Limit: 1000, Remaining: 500, Rate: 10}, 0, 0)
	b.Tell(now, bucket.Told{Limit: 1000, Remaining: 990, Rate: 2}, 0, 600)
	require.InDelta(t, 9.98, b.Rate(), 1e-9, "of ten that were used, the rate is worse known than of 500")
	require.InDelta(t, 500, b.Tokens(now), 1e-9, "it knows better")
	b.Take(now, 400)
	b.Tell(now, bucket.Told{Limit: 1000, Remaining: 700, Rate: 10}, 0, 50)
	require.InDelta(t, 650, b.Tokens(now), 1e-9, "requests were not as expensive as expected")
	b.Settle(now, -30)
	require.InDelta(t, 680, b.Tokens(now), 1e-9, "there may be as much")
	b.Settle(now, -30)
	require.InDelta(t, 700, b.Tokens(now), 1e-9, "but no more than the server has told")
	b.Settle(now, 100)
	b.Settle(now, -100)
	require.InDelta(t, 700, b.Tokens(now), 1e-9, "what was taken too little is given back")
}
