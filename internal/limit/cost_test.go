package limit_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/limit"
)

// logNormal draws costs with a median and a sigma, up to a largest one.
func logNormal(median, sigma, most float64) func() float64 {
	random := rand.New(rand.NewPCG(7, 8))
	return func() float64 { return math.Ceil(min(median*math.Exp(random.NormFloat64()*sigma), most)) }
}

// fewLarge draws costs of which one in so many is large.
func fewLarge(large, small float64, oneIn int) func() float64 {
	random := rand.New(rand.NewPCG(9, 10))
	return func() float64 {
		if random.IntN(oneIn) == 0 {
			return large
		}
		return small
	}
}

// ofCost refuses a request that costs more than is in the bucket. Its cost is truth times
// the guess.
func (s *sim) ofCost(b *bucket, took time.Duration, truth float64) {
	s.server = func(now time.Time, _ limit.Route) (limit.Result, time.Duration, func()) {
		b.tokens = min(b.tokens+b.rate*now.Sub(b.at).Seconds(), b.burst)
		b.at = now
		if b.tokens < truth*s.sending {
			return refused(), 5 * ms, nil
		}
		b.tokens -= truth * s.sending
		return accepted(), took, nil
	}
}

// TestCosts is a server that counts what its requests cost. Learned in requests, the
// pace was right for the mean, and wrong for each of them.
func TestCosts(t *testing.T) {
	for _, tt := range []struct {
		name        string
		costs       func() float64
		rate, burst float64
		workers     int
		truth       float64 // of a guess
		used        float64
		refused     float64 // part, at most
		off         float64 // by how much the pace is off
	}{
		{"as a model's", logNormal(1000, 0.75, 10_000), 10_000, 50_000, 64, 1, 0.97, 0.1, 0.35},
		{"very different", logNormal(600, 1, 40_000), 10_000, 50_000, 64, 1, 0.97, 0.12, 0.35},
		{"small", logNormal(2.25, 0.75, 50), 100, 50, 64, 1, 0.97, 0.08, 0.35},
		{"few large ones", fewLarge(10_000, 500, 20), 10_000, 20_000, 64, 1, 0.97, 0.1, 0.35},
		{"fractions", func() float64 { return 0.001 }, 0.1, 0.01, 64, 1, 0.97, 0.03, 0.35},
		{"guessed at half, and settled", logNormal(500, 0.75, 5000), 10_000, 50_000, 64, 2, 0.95, 0.12, 0.4},
		{"guessed threefold, and settled", logNormal(3000, 0.75, 30_000), 10_000, 50_000, 64, 1. / 3, 0.95, 0.12, 1.5}, // what is given back late is lost in part, and the pace makes up for it
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := simulate(t, nil)
			s.costs = tt.costs
			s.ofCost(newBucket(tt.rate, tt.burst), 200*ms, tt.truth)
			if tt.truth != 1 {
				s.settles = func(guess float64) float64 { return tt.truth * guess }
			}
			s.workers(tt.workers, one)
			s.run(time.Minute)
			for range 3 {
				got := s.run(2 * time.Minute)
				v := s.view(all)
				require.Equal(t, limit.Rate, v.State, "and not a limit on requests under way")
				require.True(t, v.OfCost)
				require.InDelta(t, tt.rate, v.Rate, tt.off*tt.rate)
				require.Greater(t, got.cost*tt.truth, tt.used*120*tt.rate)
				require.Less(t, float64(got.refused), tt.refused*float64(got.sent))
			}
			require.False(t, s.view(all).Confirmed.IsZero())
		})
	}
}

// TestCostsThatNobodyKnows: a dear request is refused, and those that are sent right after
// it are cheaper, so some are accepted. That was taken for chance, all who waited were sent
// at once, and so it went on: four were refused for each that was accepted.
func TestCostsThatNobodyKnows(t *testing.T) {
	for seed := range uint64(8) {
		random := rand.New(rand.NewPCG(seed, 5))
		b := newBucket(10_000, 100_000)
		s := simulate(t, func(now time.Time, _ limit.Route) (limit.Result, time.Duration, func()) {
			b.tokens = min(b.tokens+b.rate*now.Sub(b.at).Seconds(), b.burst)
			b.at = now
			cost := 1000 * math.Exp(random.NormFloat64()-0.5)
			if cost > b.tokens {
				return refused(), 5 * ms, nil
			}
			b.tokens -= cost
			return accepted(), 200 * ms, nil
		})
		s.random = rand.New(rand.NewPCG(seed, 1))
		s.workers(90, one)
		s.run(30 * time.Second)
		got := s.run(3 * time.Minute)
		require.Less(t, float64(got.refused), 0.4*float64(got.accepted), "seed %d", seed)
	}
}

// TestCostsByChance: a server that refuses by chance has no limit, whatever is refused.
func TestCostsByChance(t *testing.T) {
	for _, part := range []float64{0.05, 0.2} {
		s := simulate(t, byChance(part, refused()))
		s.costs = fewLarge(10_000, 100, 20)
		s.workers(32, one)
		s.run(time.Minute)
		got := s.run(5 * time.Minute)
		require.Greater(t, float64(got.accepted), 0.95*(1-part)*float64(got.sent))
		require.Greater(t, got.accepted, 32*5*60*17, "20 a second each are possible beside the backoffs")
		require.Less(t, got.held, 2*time.Second)
	}
}

// TestCostsChange: the costs of an hour ago are not those in which a limit is counted now.
func TestCostsChange(t *testing.T) {
	s := simulate(t, nil)
	s.costs = func() float64 { return 1 }
	s.ofCost(newBucket(20, 20), 20*ms, 1)
	s.workers(32, one)
	s.run(30 * time.Second)
	require.InDelta(t, 20, s.view(all).Rate, 2)
	s.over = true
	s.run(3 * time.Minute) // nobody is held back, so it is over
	require.Equal(t, limit.Free, s.view(all).State)

	s.over, s.usual.n = false, 0
	s.costs = func() float64 { return 1000 }
	s.ofCost(newBucket(20_000, 20_000), 20*ms, 1)
	s.workers(32, one)
	s.run(30 * time.Second)
	require.InDelta(t, 20_000, s.view(all).Rate, 2000)
}

// TestSettleLate: what was sent before a limit was looked for is none of its business.
func TestSettleLate(t *testing.T) {
	s := simulate(t, nil)
	s.costs = func() float64 { return 10 }
	free := s.key.Sent(s.now, all, nil, false, 10)
	s.ofCost(newBucket(100, 100), 20*ms, 1)
	s.workers(8, one)
	s.run(30 * time.Second)
	l := s.key.Limit(all)
	before := l.Hold(s.now, 10)
	s.key.Settle(free, 1e6)
	require.Equal(t, before, l.Hold(s.now, 10))

	its := s.key.Sent(s.now, all, l, true, 10)
	held := l.Hold(s.now, 10)
	s.key.Settle(its, 50)
	require.InDelta(t, 0.5, (l.Hold(s.now, 10) - held).Seconds(), 0.1, "50 more at 100 a second")
	held = l.Hold(s.now, 10)
	s.key.Settle(s.key.Sent(s.now, all, l, true, 10), -10)
	require.InDelta(t, 0, (l.Hold(s.now, 10) - held).Seconds(), 0.01, "it has cost nothing, so nobody waits for it")
	for range 3 {
		s.key.Settle(its, math.MaxFloat64)
	}
	require.Less(t, l.Hold(s.now, 10), 10*time.Minute, "one that is wrong by so much stops nobody for a year")
}
