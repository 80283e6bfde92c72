package limit_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/limit"
)

func one() limit.Route { return all }

// TestBucket is a server with a limit on the rate: it is found, and a trial confirms
// it.
func TestBucket(t *testing.T) {
	for _, tt := range []struct {
		name    string
		rate    float64
		burst   float64
		outcome limit.Outcome
		workers int // more than there is room for
	}{
		{"20 a second", 20, 5, limit.Refused, 32},
		{"100 a second", 100, 10, limit.Refused, 64},
		{"as 503", 20, 5, limit.Shed, 32},
		{"1 a second", 1, 10, limit.Refused, 8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := simulate(t, newBucket(tt.rate, tt.burst).server(tt.outcome))
			s.workers(tt.workers, one)
			s.run(time.Minute)
			got := s.run(time.Minute)
			v := s.view(all)
			require.Equal(t, limit.Rate, v.State)
			require.InDelta(t, tt.rate, v.Rate, 0.1*tt.rate)
			require.Greater(t, float64(got.accepted), 0.9*60*tt.rate)
			require.Less(t, float64(got.refused), 0.05*60*tt.rate+10)
			require.Positive(t, v.Sent)
			require.Positive(t, v.Refused)
			require.False(t, v.Confirmed.IsZero())
			l := s.key.Limit(all)
			require.True(t, l.Paces())
			require.True(t, l.Certain(s.now))
			require.False(t, s.key.Idle(s.now))
			require.False(t, s.key.Paused(s.now))
			require.InDelta(t, 100/tt.rate, l.Behind(s.now, 100, 100).Seconds(), 10/tt.rate)

			s.over = true
			s.run(3 * time.Minute)
			require.Zero(t, s.waiting())
		})
	}
}

// TestSlowBucketAs503: nginx says 503, and a limit of two a second was taken for an
// outage, in which nobody is held back.
func TestSlowBucketAs503(t *testing.T) {
	for _, rate := range []float64{2, 3, 5} {
		s := simulate(t, newBucket(rate, 10).server(limit.Shed))
		s.workers(32, one)
		got := s.run(10 * time.Second)
		require.GreaterOrEqual(t, got.accepted, int(10+8*rate))
		require.Less(t, got.refused, 60, "%v a second", rate)
	}
}

// TestAQueueThatIsTooLong: a server that has places for 8, and lets 8 more wait for a moment,
// refuses those that come together. As soon as nobody waited all were free again, came
// together again, and half of the places were empty.
func TestAQueueThatIsTooLong(t *testing.T) {
	serving, queued := 0, []time.Time(nil)
	s := simulate(t, nil)
	s.server = func(now time.Time, _ limit.Route) (limit.Result, time.Duration, func()) {
		for len(queued) > 0 && !queued[0].After(now) {
			queued = queued[1:]
		}
		end := now.Add(80 * ms)
		if serving >= 8 {
			if len(queued) < 8 { // the first that is free is its place
				queued = append(queued, now.Add(100*ms))
				return accepted(), 160 * ms, nil
			}
			return limit.Result{Outcome: limit.Shed}, 100 * ms, nil
		}
		serving++
		return accepted(), end.Sub(now), func() { serving-- }
	}
	s.workers(32, one)
	s.run(10 * time.Second)
	got := s.run(time.Minute)
	require.Less(t, float64(got.refused), 0.15*float64(got.accepted))
	require.Greater(t, got.accepted, 60*90)
}

// TestFewWorkers have nobody waiting for a trial, and get what the server gives.
func TestFewWorkers(t *testing.T) {
	for workers := range 4 {
		s := simulate(t, newBucket(20, 5).server(limit.Refused))
		s.workers(1+workers, one)
		s.run(time.Minute)
		got := s.run(time.Minute)
		require.Greater(t, got.accepted, 1000, "%d workers", 1+workers)
	}
}

// window is a server that accepts so many in each window of a clock.
func window(d time.Duration, most int) server {
	current, n := int64(-1), 0
	return func(now time.Time, _ limit.Route) (limit.Result, time.Duration, func()) {
		if w := int64(now.Sub(begin()) / d); w != current {
			current, n = w, 0
		}
		if n++; n > most {
			return refused(), 5 * ms, nil
		}
		return accepted(), 20 * ms, nil
	}
}

// TestShortWindows is a server that accepts so many in a window. After each one it is
// closed for a long time, and as many were refused as were accepted.
func TestShortWindows(t *testing.T) {
	for _, tt := range []struct {
		window time.Duration
		most   int
	}{
		{10 * time.Second, 50},
		{10 * time.Second, 100},
		{15 * time.Second, 60},
	} {
		t.Run(fmt.Sprint(tt.most, " in ", tt.window), func(t *testing.T) {
			s := simulate(t, window(tt.window, tt.most))
			s.workers(64, one)
			s.run(time.Minute)
			got := s.run(5 * time.Minute)
			require.Greater(t, float64(got.accepted), 0.9*float64(tt.most)*float64(5*time.Minute/tt.window))
			require.Less(t, float64(got.refused), 0.4*float64(got.accepted))
		})
	}
}

// TestWindowsOfASecond: after the first window, in which a server refused a few, the pace
// was four in a window and doubled once in each, so it took ten of them to find a limit
// of 100, and a loop that asks again and again got three times as much.
func TestWindowsOfASecond(t *testing.T) {
	for _, tt := range []struct{ most, workers int }{{20, 4}, {20, 32}, {100, 32}, {100, 64}} {
		t.Run(fmt.Sprint(tt.most, " for ", tt.workers), func(t *testing.T) {
			s := simulate(t, window(time.Second, tt.most))
			s.workers(tt.workers, one)
			got := s.run(8 * time.Second)
			require.Greater(t, float64(got.accepted), 0.9*8*float64(tt.most))
			require.Less(t, float64(got.refused), 0.5*float64(got.accepted))
			got = s.run(time.Minute)
			require.Greater(t, float64(got.accepted), 0.97*60*float64(tt.most))
			require.Less(t, float64(got.refused), 0.05*float64(got.accepted))
		})
	}
}

// TestWindowsOfWholeSeconds: a server said when its window ends in whole seconds, which was
// too late, and each window was asked by all at once. All that it refused then was taken for
// the work of other clients, and the pace stayed at 5 a second.
func TestWindowsOfWholeSeconds(t *testing.T) {
	total := 0
	for window := range 10 {
		for clock := range 10 {
			t.Run(fmt.Sprint(window, " ", clock), func(t *testing.T) {
				ends, left := begin().Add(time.Duration(window+1)*100*ms), 100
				tell := func(at time.Time) time.Time { return at.Add(time.Duration(clock) * 100 * ms).Truncate(time.Second) }
				s := simulate(t, func(now time.Time, _ limit.Route) (limit.Result, time.Duration, func()) {
					if !now.Before(ends) { // it begins with a request
						ends, left = now.Add(time.Second), 100
					}
					if left--; left < 0 {
						r := refused()
						r.Hint = tell(ends).Sub(tell(now))
						return r, ms, nil
					}
					return accepted(), 11 * ms, nil
				})
				s.workers(32, one)
				got := s.run(10 * time.Second)
				total += got.accepted
				require.Greater(t, got.accepted, 550)
				require.Less(t, float64(got.refused), 0.4*float64(got.accepted))
			})
		}
	}
	require.Greater(t, total, 82_000, "of 100,000")
}

// TestKnocksAreSpread: whenever a window was used up, attempts asked for its end ten times a
// second at first, and ever more seldom, as if nothing were known. Half as many as were
// accepted were refused, and a few callers with four attempts each had none left after 2 s.
func TestKnocksAreSpread(t *testing.T) {
	s := simulate(t, window(40*time.Second, 120))
	s.workers(7, one)
	s.run(80 * time.Second)
	got := s.run(400 * time.Second)
	require.Greater(t, float64(got.accepted), 0.97*10*120)
	require.Less(t, float64(got.refused), 0.3*float64(got.accepted))
}

// TestChance is a server that refuses a part of the requests whatever is sent. To hold
// any back would not help.
func TestChance(t *testing.T) {
	oneOf := func(n int) server {
		i := 0
		return func(time.Time, limit.Route) (limit.Result, time.Duration, func()) {
			if i++; i%n == 0 {
				return refused(), 5 * ms, nil
			}
			return accepted(), 20 * ms, nil
		}
	}
	for _, tt := range []struct {
		name   string
		server server
		seen   bool // that it is chance
	}{
		{"5 %", byChance(0.05, refused()), false},
		{"5 %, with a hint", byChance(0.05, limit.Result{Outcome: limit.Refused, Hint: time.Second}), false},
		{"20 %", byChance(0.2, refused()), true},
		{"20 %, as 503", byChance(0.2, limit.Result{Outcome: limit.Shed}), true},
		{"40 %", byChance(0.4, refused()), true},
		{"one of four backends", oneOf(4), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := simulate(t, tt.server)
			s.every(all, 100)
			got := s.run(2 * time.Minute)
			require.Greater(t, got.accepted, 2*60*100-200)
			require.Less(t, got.held, 5*time.Second, "for about a trial")
			held := 0
			for range 120 {
				if s.run(time.Second).held > 0 {
					held++
				}
			}
			require.Less(t, held, 12, "seconds in which somebody was held back")
			s.over = true
			s.run(30 * time.Second)
			v := s.view(all)
			require.Equal(t, limit.Free, v.State)
			if tt.seen {
				require.InDelta(t, 0.3, v.Chance, 0.25)
				require.False(t, v.Since.IsZero())
				require.False(t, s.key.Idle(s.now), "it is remembered")
			}
			s.run(10 * time.Minute)
			require.Empty(t, s.key.View(s.now), "but not for ever")
			require.True(t, s.key.Idle(s.now))
		})
	}
}

// TestALimitAndChance is a limit behind which a part is refused by chance. The pace gave
// way to each refusal by chance, so that next to nothing was left of the limit: a third of
// it with 2 %, and with 5 % a tenth.
func TestALimitAndChance(t *testing.T) {
	for _, tt := range []struct {
		rate, burst, share float64
		limit              time.Duration // when it begins
		used               float64
	}{
		{50, 10, 0.02, 0, 0.85},
		{50, 10, 0.05, 0, 0.8},
		{50, 10, 0.05, time.Minute, 0.85},
		{100, 10, 0.03, 0, 0.8},
		{10, 10, 0.1, time.Minute, 0.7},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			bucket := newBucket(tt.rate, tt.burst).server(limit.Refused)
			chance := byChance(tt.share, refused())
			s := simulate(t, func(now time.Time, r limit.Route) (limit.Result, time.Duration, func()) {
				got, took, then := chance(now, r)
				if got.Outcome == limit.Accepted && now.Sub(begin()) >= tt.limit {
					return bucket(now, r)
				}
				return got, took, then
			})
			s.workers(64, one)
			s.run(tt.limit + time.Minute)
			got := s.run(3 * time.Minute)
			require.Greater(t, float64(got.accepted), tt.used*tt.rate*180)
			require.Less(t, float64(got.refused), (0.1+2*tt.share)*float64(got.accepted))
		})
	}
}

// TestALimitThatTrialsDeny: if a twentieth is refused by chance and the limit is kept to,
// most refusals are by chance, and what is sent right after one of these is accepted. The
// limit was given up after two of them, and everybody who waited was sent at once.
func TestALimitThatTrialsDeny(t *testing.T) {
	for seed := range uint64(8) {
		chance, bucket := byChance(0.05, refused()), newBucket(50, 10).server(limit.Refused)
		s := simulate(t, func(now time.Time, r limit.Route) (limit.Result, time.Duration, func()) {
			if got, took, then := chance(now, r); got.Outcome == limit.Refused {
				return got, took, then
			}
			return bucket(now, r)
		})
		s.random = rand.New(rand.NewPCG(seed, 1))
		s.workers(64, one)
		s.run(10 * time.Second)
		got := s.run(3 * time.Minute)
		require.Less(t, float64(got.refused), 0.145*float64(got.accepted), "seed %d", seed)
		require.Greater(t, float64(got.accepted), 0.85*180*50, "seed %d", seed)
	}
}

// TestChanceBesideALimitedRoute: where a part of everything is refused by chance, one
// limited route must not slow the others. In one run of five it did: half of the calls
// to a route without a limit failed.
func TestChanceBesideALimitedRoute(t *testing.T) {
	for seed := range uint64(5) {
		bucket := newBucket(5, 5).server(limit.Refused)
		chance := byChance(0.05, refused())
		s := simulate(t, func(now time.Time, r limit.Route) (limit.Result, time.Duration, func()) {
			got, took, then := chance(now, r)
			if got.Outcome == limit.Accepted && r == search {
				return bucket(now, r)
			}
			return got, took, then
		})
		s.random = rand.New(rand.NewPCG(seed, 1))
		s.every(items, 80)
		s.every(search, 20)
		s.run(10 * time.Second)
		got := s.run(time.Minute)
		require.Greater(t, got.byRoute[items].accepted, 4700, "seed %d", seed)
		require.Less(t, got.byRoute[items].held, 5*time.Second, "seed %d", seed)
		require.Greater(t, got.byRoute[search].accepted, 200, "seed %d", seed)
	}
}

// TestNodesFarAway: fifty nodes have a small limit each, and get less than that. Those who
// had gathered until it was found to be chance were a crowd, which was refused, and that
// was taken for a limit again, and so on: a quarter of what was asked was not answered.
func TestNodesFarAway(t *testing.T) {
	for seed := range uint64(16) {
		random := rand.New(rand.NewPCG(seed, 2))
		var nodes []server
		for range 50 {
			nodes = append(nodes, newBucket(6, 2).server(limit.Refused))
		}
		s := simulate(t, func(now time.Time, r limit.Route) (limit.Result, time.Duration, func()) {
			got, took, then := nodes[random.IntN(len(nodes))](now, r)
			return got, took + 160*ms, then
		})
		s.random = rand.New(rand.NewPCG(seed, 1))
		s.every(all, 180)
		s.run(10 * time.Second)
		got := s.run(2 * time.Minute)
		require.Greater(t, float64(got.accepted), 0.98*120*180, "seed %d", seed)
	}
}

// TestALimitThatBecomesChance: a limit that was confirmed is given up when trials find
// chance more often than they found the limit.
func TestALimitThatBecomesChance(t *testing.T) {
	srv := newBucket(50, 10).server(limit.Refused)
	s := simulate(t, func(now time.Time, r limit.Route) (limit.Result, time.Duration, func()) { return srv(now, r) })
	s.workers(64, one)
	s.run(30 * time.Second)
	require.Equal(t, limit.Rate, s.view(all).State)
	srv = byChance(0.3, refused())
	s.run(2 * time.Minute)
	require.Equal(t, limit.Free, s.view(all).State)
	require.Positive(t, s.view(all).Chance)
	got := s.run(time.Minute)
	require.Greater(t, got.accepted, 60*400)
}

// TestALimitAfterChance: a limit that held for long was taken for one with reason, so what is
// refused after it is no crowd of our own making.
func TestALimitAfterChance(t *testing.T) {
	s := simulate(t, newBucket(50, 10).server(limit.Refused))
	s.workers(64, one)
	s.run(30 * time.Second)
	s.server = byChance(0.3, refused())
	for n := 0; s.view(all).State != limit.Free; n++ {
		require.Less(t, n, 1200)
		s.run(100 * ms)
	}
	b := newBucket(50, 1)
	b.at = s.now
	s.server = b.server(limit.Refused)
	s.run(2 * time.Second)
	require.NotEqual(t, limit.Free, s.view(all).State)
}

// TestChanceBeyondAHalf is a server that refuses so much by chance that a trial takes
// it for a limit. But a lower pace does not help.
func TestChanceBeyondAHalf(t *testing.T) {
	s := simulate(t, byChance(0.65, refused()))
	s.every(all, 50)
	s.run(5 * time.Minute)
	got := s.run(5 * time.Minute)
	require.Greater(t, got.accepted, 300*50*8/10)
}

// TestChanceThatStays: chance was forgotten after five minutes though as much was refused
// as before, and each trial that found it again held everybody back.
func TestChanceThatStays(t *testing.T) {
	s := simulate(t, byChance(0.4, refused()))
	s.every(all, 5)
	s.run(5 * time.Minute)
	require.Equal(t, limit.Free, s.view(all).State)
	held := 0
	for range 60 * 60 {
		if s.run(time.Second).held > 0 {
			held++
		}
	}
	require.Less(t, held, 20, "seconds in which somebody was held back")
	s.server = byChance(0, refused())
	s.run(10 * time.Minute)
	require.Zero(t, s.view(all).Chance, "it is forgotten when it is over")
}

// TestChanceIsKnown: the second trial that finds chance takes all that was refused lately, and
// what was long ago is forgotten.
func TestChanceIsKnown(t *testing.T) {
	for seed := range uint64(5) {
		part, random := 0.5, rand.New(rand.NewPCG(seed, 4))
		s := simulate(t, func(time.Time, limit.Route) (limit.Result, time.Duration, func()) {
			if random.Float64() < part {
				return refused(), 5 * ms, nil
			}
			return accepted(), 20 * ms, nil
		})
		s.every(all, 100)
		s.run(5 * time.Minute)
		require.InDelta(t, 0.5, s.view(all).Chance, 0.07, "seed %d", seed)
		part = 0
		s.run(20 * time.Minute)
		part = 0.25
		s.run(5 * time.Minute)
		require.InDelta(t, 0.25, s.view(all).Chance, 0.07, "seed %d", seed)
	}
}

// TestInFlight is a server with a limit on the requests under way at one time.
func TestInFlight(t *testing.T) {
	for _, tt := range []struct {
		name    string
		most    int
		outcome limit.Outcome
		service time.Duration
		workers int
	}{
		{"8", 8, limit.Refused, 100 * ms, 32},
		{"16, as 503", 16, limit.Shed, 50 * ms, 64},
		{"30, slow", 30, limit.Refused, time.Second, 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := simulate(t, inFlight(&tt.most, tt.outcome, tt.service))
			s.workers(tt.workers, one)
			s.run(time.Minute)
			got := s.run(time.Minute)
			v := s.view(all)
			require.Equal(t, limit.Flight, v.State)
			require.InDelta(t, tt.most, v.InFlight, 1.5)
			require.Greater(t, float64(got.accepted), 0.9*60*float64(tt.most)/tt.service.Seconds())
			require.Less(t, float64(got.refused), 0.03*float64(got.accepted))
			require.False(t, v.Confirmed.IsZero())
			l := s.key.Limit(all)
			require.True(t, l.Certain(s.now))
			require.True(t, l.Paces())
			require.InDelta(t, 10*tt.service.Seconds(), l.Behind(s.now, 10*tt.most, float64(10*tt.most)).Seconds(), 3*tt.service.Seconds())
		})
	}
}

// TestALimitThatHasFallen is not certain until it is confirmed again. Requests of different
// cost, each of which takes a second, were taken for a limit on requests under way. That may
// fall to one, and as its higher value had been confirmed, calls were told that it would take
// too long, where the server would have taken them.
func TestALimitThatHasFallen(t *testing.T) {
	eight, part := 8, 0.0
	server, random := inFlight(&eight, limit.Refused, time.Second), rand.New(rand.NewPCG(1, 1))
	s := simulate(t, func(now time.Time, r limit.Route) (limit.Result, time.Duration, func()) {
		if random.Float64() < part {
			return refused(), 5 * ms, nil
		}
		return server(now, r)
	})
	s.workers(32, one)
	s.run(time.Minute)
	require.Equal(t, limit.Flight, s.view(all).State)
	require.True(t, s.key.Limit(all).Certain(s.now))

	part = 0.5
	confirmed, height, fallen := s.view(all).Confirmed, s.view(all).InFlight, 0
	for range 600 {
		s.run(100 * ms)
		v := s.view(all)
		if v.State != limit.Flight {
			break
		}
		if v.Confirmed != confirmed {
			confirmed, height = v.Confirmed, v.InFlight
		}
		if float64(v.InFlight) <= 0.7*float64(height)-1 {
			fallen++
			require.False(t, s.key.Limit(all).Certain(s.now), "%d of %d", v.InFlight, height)
		}
	}
	require.Positive(t, fallen)
}

// TestInFlightIsNotARate: one refusal with as many under way as were accepted made a
// limit on requests under way a rate, and it stayed one. Only four refusals in a row with
// more under way than any of the last 128 accepted were taken for the opposite, and only
// if the pace did not expect them. So a third to half of the limit was used for good, in
// nine of twenty runs with four under way.
func TestInFlightIsNotARate(t *testing.T) {
	for _, tt := range []struct {
		most    int
		service time.Duration
		workers int
	}{{3, 25 * ms, 12}, {4, 25 * ms, 20}} {
		t.Run(fmt.Sprint(tt.most, " for ", tt.service), func(t *testing.T) {
			for seed := range uint64(20) {
				random := rand.New(rand.NewPCG(seed, 7))
				underWay := 0
				s := simulate(t, func(time.Time, limit.Route) (limit.Result, time.Duration, func()) {
					if underWay >= tt.most {
						return refused(), 5 * ms, nil
					}
					underWay++
					return accepted(), time.Duration(random.ExpFloat64() * float64(tt.service)), func() { underWay-- }
				})
				s.workers(tt.workers, one)
				s.run(20 * time.Second)
				got := s.run(20 * time.Second)
				require.Greater(t, float64(got.accepted), 0.85*20*float64(tt.most)/tt.service.Seconds(), "seed %d", seed)
			}
		})
	}
}

// TestARateIsNotInFlight: a server that keeps no token refuses what comes too soon after
// the last one, so a bound on what is under way is of no use. But the number under way
// may explain all refusals. In the first case it does by a coincidence, because an answer
// takes two gaps: three are under way if and only if two gaps were too short. In the
// second one the pace rose to twice the limit now and then, and with it the number. After
// half a minute that was taken for a limit on requests under way, which used half of the
// rate, and was kept.
func TestARateIsNotInFlight(t *testing.T) {
	for _, tt := range []struct {
		rate         float64
		answer, deny time.Duration
		workers      int
		used         float64
	}{
		{100, 20 * ms, 5 * ms, 64, 0.85},
		{140, 180 * ms, 165 * ms, 90, 0.6}, // more is not in the pace
	} {
		t.Run(fmt.Sprint(tt.rate, " a second, ", tt.answer, " away"), func(t *testing.T) {
			b := newBucket(tt.rate, 1)
			s := simulate(t, func(now time.Time, _ limit.Route) (limit.Result, time.Duration, func()) {
				if b.allow(now) {
					return accepted(), tt.answer, nil
				}
				return refused(), tt.deny, nil
			})
			s.workers(tt.workers, one)
			s.run(time.Minute)
			got := s.run(2 * time.Minute)
			require.Equal(t, limit.Rate, s.view(all).State)
			require.Greater(t, float64(got.accepted), tt.used*120*tt.rate)
		})
	}
}

// TestARateFarAwayIsNotInFlight: many are under way at any time, and what a rate refuses is no
// sign of their number.
func TestARateFarAwayIsNotInFlight(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(most time.Duration) time.Duration { return time.Duration(rng.Float64() * float64(most)) }
	b := newBucket(100, 10)
	s := simulate(t, func(now time.Time, _ limit.Route) (limit.Result, time.Duration, func()) {
		if b.allow(now) {
			return accepted(), 100*ms + random(200*ms), nil
		}
		return refused(), 100*ms + random(100*ms), nil
	})
	s.workers(200, one)
	s.run(10 * time.Second)
	for range 1200 {
		s.run(100 * ms)
		require.Equal(t, limit.Rate, s.view(all).State)
	}
}

// TestInFlightThatChanges: the bound follows a limit that falls and rises.
func TestInFlightThatChanges(t *testing.T) {
	most := 30
	s := simulate(t, inFlight(&most, limit.Refused, 50*ms))
	s.workers(100, one)
	s.run(time.Minute)
	for _, most = range []int{10, 30} {
		s.run(time.Minute)
		got := s.run(time.Minute)
		require.Greater(t, float64(got.accepted), 0.85*60*float64(most)/0.05, "%d", most)
		require.Less(t, float64(got.refused), 0.05*float64(got.accepted))
	}
}

// TestABoundThatFalls: if others take places, requests are refused with fewer under way than
// the bound. It falls by as many, and not to one.
func TestABoundThatFalls(t *testing.T) {
	most := 16
	s := simulate(t, inFlight(&most, limit.Refused, 100*ms))
	s.workers(64, one)
	s.run(30 * time.Second)
	require.InDelta(t, 16, s.view(all).InFlight, 1)
	s.over = true
	s.run(10 * time.Second)
	s.over = false
	s.workers(8, one)
	most = 6
	least := 16
	for range 500 {
		s.run(10 * ms)
		require.Equal(t, limit.Flight, s.view(all).State)
		least = min(least, s.view(all).InFlight)
	}
	require.GreaterOrEqual(t, least, 5)
	require.LessOrEqual(t, least, 6)
}

// TestABoundOfMany: a large bound stays where it is while the limit does, and follows it.
func TestABoundOfMany(t *testing.T) {
	most := 64
	s := simulate(t, inFlight(&most, limit.Refused, 200*ms))
	s.workers(256, one)
	s.run(time.Minute)
	for range 600 {
		s.run(100 * ms)
		require.InDelta(t, 64, s.view(all).InFlight, 2)
	}
	most = 16
	require.Less(t, s.run(5*time.Second).refused, 90, "those under way, and a few")
	require.InDelta(t, 16, s.view(all).InFlight, 3)
	most = 64
	highest := 0
	for range 600 {
		s.run(100 * ms)
		highest = max(highest, s.view(all).InFlight)
	}
	require.InDelta(t, 66, highest, 3, "it does not overshoot")
}

// TestARateThatBecomesInFlight is found, however long it was a rate, and begins with what was
// under way.
func TestARateThatBecomesInFlight(t *testing.T) {
	most := 20
	s := simulate(t, newBucket(100, 10).server(limit.Refused))
	s.workers(60, one)
	s.run(10 * time.Minute)
	require.Equal(t, limit.Rate, s.view(all).State)
	s.server = inFlight(&most, limit.Refused, 100*ms)
	for n := 0; s.view(all).State == limit.Rate; n++ {
		require.Less(t, n, 60_000)
		s.run(ms)
	}
	require.Equal(t, limit.Flight, s.view(all).State)
	require.Greater(t, s.view(all).InFlight, 10)
	s.run(time.Minute)
	require.Equal(t, limit.Flight, s.view(all).State)
	require.Greater(t, s.run(10*time.Second).accepted, 10*200*85/100)
}

// TestASlowServerInFlight: a bound is compared with the pace that was before it as soon as it
// is there. A server that is slower later says nothing.
func TestASlowServerInFlight(t *testing.T) {
	byRate := 0 // seeds in which it was taken for a rate at first
	for seed := range uint64(10) {
		random, underWay, service := rand.New(rand.NewPCG(seed, 7)), 0, 25*ms
		s := simulate(t, func(time.Time, limit.Route) (limit.Result, time.Duration, func()) {
			if underWay >= 4 {
				return refused(), 5 * ms, nil
			}
			underWay++
			return accepted(), time.Duration(random.ExpFloat64() * float64(service)), func() { underWay-- }
		})
		s.workers(20, one)
		for range 600 {
			if s.run(100 * ms); s.view(all).State == limit.Rate {
				byRate++
				s.run(time.Minute)
				break
			}
		}
		require.Equal(t, limit.Flight, s.view(all).State)
		service = 200 * ms
		for range 300 {
			s.run(100 * ms)
			require.Equal(t, limit.Flight, s.view(all).State, "seed %d", seed)
		}
	}
	require.Positive(t, byRate)
}

// TestInFlightThatBecomesARate: a bound of one that is refused all the same is none.
func TestInFlightThatBecomesARate(t *testing.T) {
	most := 10
	srv := inFlight(&most, limit.Refused, 50*ms)
	s := simulate(t, func(now time.Time, r limit.Route) (limit.Result, time.Duration, func()) { return srv(now, r) })
	s.workers(40, one)
	s.run(30 * time.Second)
	require.Equal(t, limit.Flight, s.view(all).State)
	b := newBucket(5, 5)
	b.at = s.now
	srv = b.server(limit.Refused)
	s.run(time.Minute)
	got := s.run(time.Minute)
	require.Equal(t, limit.Rate, s.view(all).State)
	require.InDelta(t, 5, s.view(all).Rate, 1)
	require.InDelta(t, 300, got.accepted, 30)
}

// TestNoBurst is a server that keeps no token.
func TestNoBurst(t *testing.T) {
	for _, rate := range []float64{5, 20, 100} {
		s := simulate(t, newBucket(rate, 1).server(limit.Refused))
		s.workers(32, one)
		s.run(time.Minute)
		got := s.run(time.Minute)
		require.Greater(t, float64(got.accepted), 0.75*60*rate, "%v a second", rate)
		require.Less(t, float64(got.refused), 0.15*60*rate, "%v a second", rate)
	}
}

// TestOneRouteIsLimited: the others are not held back by its limit.
func TestOneRouteIsLimited(t *testing.T) {
	b := newBucket(5, 5)
	limited := b.server(limit.Refused)
	s := simulate(t, func(now time.Time, r limit.Route) (limit.Result, time.Duration, func()) {
		if r == search {
			return limited(now, r)
		}
		return accepted(), 20 * ms, nil
	})
	s.every(items, 80)
	s.every(search, 20)
	begun := s.run(30 * time.Second)
	require.Zero(t, begun.byRoute[items].held, "not for a moment")
	got := s.run(time.Minute)
	require.Zero(t, got.byRoute[items].held)
	require.Nil(t, s.key.Limit(items))
	require.NotNil(t, s.key.Limit(search))
	require.Equal(t, limit.Rate, s.view(search).State)
	require.Equal(t, search, s.view(search).Route)
	require.InDelta(t, 5, s.view(search).Rate, 1)
	require.Greater(t, got.byRoute[search].accepted, 270)
	require.Less(t, got.byRoute[search].refused, 20)
	require.False(t, s.key.Paused(s.now))
	require.False(t, s.key.Idle(s.now))
	require.Nil(t, s.key.Limit(limit.Route{Method: "GET", Path: "/new"}), "nor a route that begins later")
}

// TestAllRoutesAreLimited: one limit for all is found, and it holds a route that
// begins later.
func TestAllRoutesAreLimited(t *testing.T) {
	for _, routes := range []int{2, 200} {
		t.Run(strconv.Itoa(routes), func(t *testing.T) {
			s := simulate(t, newBucket(50, 10).server(limit.Refused))
			n := 0
			s.workers(64, func() limit.Route {
				n++
				return limit.Route{Method: "GET", Path: "/" + name(n%routes)}
			})
			s.run(time.Minute)
			got := s.run(time.Minute)
			require.Greater(t, got.accepted, 2700)
			require.Less(t, got.refused, 150)
			sum := 0.0
			for _, v := range s.key.View(s.now) {
				require.Equal(t, limit.Rate, v.State)
				sum += v.Rate
			}
			require.InDelta(t, 50, sum, 10, "of two routes each may be taken to have a part")
			if routes > 2 {
				require.Equal(t, all, s.view(all).Route)
				require.NotNil(t, s.key.Limit(limit.Route{Method: "POST", Path: "/new"}), "where several are refused, all are held")
			}
			require.LessOrEqual(t, len(s.key.View(s.now)), 1+64)
		})
	}
}

// name returns a name without digits, which would be an id.
func name(n int) string {
	b := []byte{'a' + byte(n/26%26), 'a' + byte(n%26)}
	return string(b)
}

// TestTwoRoutesWithLimitsOfTheirOwn are told apart.
func TestTwoRoutesWithLimitsOfTheirOwn(t *testing.T) {
	five, twenty := newBucket(5, 5), newBucket(20, 5)
	s := simulate(t, func(now time.Time, r limit.Route) (limit.Result, time.Duration, func()) {
		switch r {
		case search:
			return five.server(limit.Refused)(now, r)
		case items:
			return twenty.server(limit.Refused)(now, r)
		}
		return accepted(), 20 * ms, nil
	})
	s.every(limit.Route{Method: "GET", Path: "/free"}, 80)
	s.workers(10, func() limit.Route { return search })
	s.run(10 * time.Second)
	s.workers(10, func() limit.Route { return items })
	s.run(time.Minute)
	got := s.run(time.Minute)
	require.Greater(t, got.byRoute[search].accepted, 270)
	require.Greater(t, got.byRoute[items].accepted, 1080)
	require.Zero(t, got.byRoute[limit.Route{Method: "GET", Path: "/free"}].held)
}

// TestEverythingIsRefused: a 429 holds, and one knocks ever more seldom. A 503 holds
// nothing.
func TestEverythingIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name    string
		outcome limit.Outcome
		held    bool
	}{
		{"429", limit.Refused, true},
		{"503", limit.Shed, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			down := true
			s := simulate(t, func(time.Time, limit.Route) (limit.Result, time.Duration, func()) {
				if down {
					return limit.Result{Outcome: tt.outcome}, 5 * ms, nil
				}
				return accepted(), 20 * ms, nil
			})
			s.workers(20, one)
			s.run(time.Minute)
			got := s.run(9 * time.Minute)
			if tt.held {
				require.Less(t, got.refused, 100)
				require.Equal(t, limit.Great, s.key.Limit(all).Risk(s.now))
				require.Greater(t, s.key.Limit(all).ClosedFor(s.now), 9*time.Minute)
				require.True(t, s.key.Limit(all).Opens(s.now).After(s.now.Add(time.Hour)), "others who wait find out")
			} else {
				require.Greater(t, got.refused, 9*60*5)
			}
			down = false
			got = s.run(2 * time.Minute)
			require.Positive(t, got.accepted)
			require.Greater(t, s.run(10*time.Second).accepted, 9000, "20 workers")
		})
	}
}

// TestABusyKeyThatIsClosed: the first attempt goes at the very instant of the refusal
// with which looking begins. So the first pace was one in a microsecond, and hundreds
// were refused until it had been halved often enough.
func TestABusyKeyThatIsClosed(t *testing.T) {
	s := simulate(t, func(now time.Time, _ limit.Route) (limit.Result, time.Duration, func()) {
		if now.Before(begin().Add(time.Second)) {
			return accepted(), 5 * ms, nil
		}
		return refused(), 5 * ms, nil
	})
	s.every(all, 2000)
	s.run(time.Second)
	got := s.run(time.Second)
	require.Less(t, got.refused, 60, "of 2,000")
}

// TestALostNetwork: an attempt without an answer took a token as far as is known. If each let
// another one go, a network that is gone would be asked as fast as that can be found out.
func TestALostNetwork(t *testing.T) {
	s := simulate(t, newBucket(50, 10).server(limit.Refused))
	s.workers(500, one)
	s.run(30 * time.Second)
	s.server = func(time.Time, limit.Route) (limit.Result, time.Duration, func()) { return limit.Result{}, ms, nil }
	got := s.run(10 * time.Second)
	require.Less(t, got.sent, 600)
	require.Greater(t, got.sent, 400)
}

// TestQuota is a server that says what is left of its quota.
func TestQuota(t *testing.T) {
	b := newBucket(20, 20)
	s := simulate(t, func(now time.Time, _ limit.Route) (r limit.Result, took time.Duration, then func()) {
		if r = refused(); b.allow(now) {
			r = accepted()
		}
		r.Told = true
		r.Quota.Rate, r.Quota.Remaining = b.rate, float64(int(b.tokens))
		return r, 20 * ms, nil
	})
	s.workers(32, one)
	s.run(10 * time.Second)
	got := s.run(time.Minute)
	v := s.view(all)
	require.Equal(t, limit.Told, v.State)
	require.InDelta(t, 20, v.Rate, 1)
	require.Greater(t, got.accepted, 1100)
	require.Less(t, got.refused, 5)
	l := s.key.Limit(all)
	require.True(t, l.Certain(s.now))
	require.True(t, l.Paces())
	require.InDelta(t, 5, l.Behind(s.now, 100, 100).Seconds(), 0.5)
}

// TestIdleAgain: a limit that nobody asks for is forgotten, or else a key is never
// dropped, and a person reads of a limit from hours ago.
func TestIdleAgain(t *testing.T) {
	eight := 8
	for _, tt := range []struct {
		name    string
		server  server
		workers int
		state   limit.State
	}{
		{"a rate", newBucket(20, 5).server(limit.Refused), 32, limit.Rate},
		{"in flight", inFlight(&eight, limit.Refused, 50*ms), 32, limit.Flight},
		{"refused", func(time.Time, limit.Route) (limit.Result, time.Duration, func()) { return refused(), 5 * ms, nil }, 0, limit.Looking},
		{"paused", func(time.Time, limit.Route) (limit.Result, time.Duration, func()) {
			return hinted(10 * time.Second), 5 * ms, nil
		}, 0, limit.Paused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := simulate(t, tt.server)
			s.workers(tt.workers, one)
			s.run(30 * time.Second)
			if tt.workers == 0 {
				for range 3 {
					s.arrive(&request{})
					s.run(20 * ms)
					s.lines, s.events = nil, nil // it gives up
				}
			}
			require.Equal(t, tt.state, s.view(all).State)
			require.False(t, s.key.Idle(s.now))
			s.over = true
			s.run(time.Hour)
			s.lines, s.events = nil, nil
			for range 2 { // a pause that is over leaves a limit that holds nobody back
				s.now = s.now.Add(time.Hour)
				s.key.View(s.now)
			}
			require.True(t, s.key.Idle(s.now))
			require.Empty(t, s.key.View(s.now))
		})
	}
}
