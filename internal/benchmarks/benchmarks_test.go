package main

import (
	"encoding/xml"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// small returns the parameters of a scenario, reduced so that it takes a moment.
func small(p params) params {
	p.n, p.workers, p.clients, p.each = 100, 12, 4, 2
	p.length = min(p.length, 4*time.Second)
	return p
}

func TestEveryRequestIsAccountedFor(t *testing.T) {
	for _, s := range scenarios() {
		for _, v := range s.variants {
			if v.measure == nil {
				continue // it runs in real time
			}
			for _, pr := range peers() {
				if !pr.takesPart(s) {
					continue
				}
				t.Run(v.name+"/"+pr.name, func(t *testing.T) {
					p := small(v.params)
					values, r := v.measure(t, p, &pr)
					require.Len(t, values, len(v.metrics))
					require.NotEmpty(t, r.calls)
					succeeded, attempts := 0, 0
					for _, c := range r.calls {
						require.False(t, c.begin.IsZero())
						require.False(t, c.end.Before(c.begin))
						require.LessOrEqual(t, c.attempts, p.attempts*s.requests())
						if c.ok {
							succeeded++
							require.Positive(t, c.attempts)
						}
						attempts += c.attempts
					}
					sum := r.srv.count(interval{0, forever})
					require.Equal(t, attempts, sum.accepted+sum.refused+sum.failed, "of the callers and of the server")
					require.Equal(t, len(r.calls), succeeded+r.failed())
					if s.requests() == 1 {
						require.Equal(t, sum.accepted, succeeded, "what the server accepted, a caller got")
					}
					if v.metrics[0].name == "makespan / optimum" || s.letter == "c" {
						require.Len(t, r.calls, p.n)
					}
				})
			}
		}
	}
}

// Each set changes the parameters of its variants, and can be measured.
func TestOthers(t *testing.T) {
	usual := map[string]variant{}
	for _, s := range scenarios() {
		for _, v := range s.variants {
			usual[v.name] = v
		}
	}
	pr, seen := ours(), map[string]bool{}
	for _, o := range others() {
		for _, name := range o.variants {
			require.Contains(t, usual, name)
			require.False(t, seen[name], name)
			seen[name] = true
			for _, set := range []string{"1", "2", "3"} {
				v, ok := usual[name].other(set)
				require.True(t, ok)
				require.NotEqual(t, usual[name].params, v.params)
				t.Run(v.name, func(t *testing.T) {
					p := v.params
					p.clients, p.each, p.length = min(p.clients, 4), min(p.each, 20), min(p.length, 2*time.Second)
					got, r := v.measure(t, p, &pr)
					require.Len(t, got, len(v.metrics))
					require.NotEmpty(t, r.calls)
				})
			}
		}
	}
}

// Each row is a target that depends on the parameters.
func TestScaledTargets(t *testing.T) {
	for _, row := range []struct {
		variant, metric string
		flags           string
		want            float64
	}{
		{"a.sustained", "p99", "", 0.96},
		{"e.fleet", "light p99", "", 1},
		{"e.fleet", "light p99", "-rate 50", 2},
		{"g.chance5", "p99", "", 0.4},
		{"g.chance5", "p99", "-way 10ms", 0.44},
		{"g.chance5-hint", "p99", "", 1.6},
		{"g.chance30", "failed", "", 0.0131},
		{"g.chance60", "failed", "-share 0.5", 0.0825},
		{"i.search", "/items p99", "", 0.025},
		{"i.search", "/items p50", "-way 1ms", 0.029},
		{"i.chance", "/items p99", "", 0.4},
		{"j.open180", "p50", "", 0.1},
		{"k.hint", "last answer after the hint", "", 0.25},
		{"k.hint", "other host p99", "", 0.06},
	} {
		v := findVariant(t, row.variant)
		v = v.with(v.params.with(row.flags))
		k := slices.IndexFunc(v.metrics, func(m metric) bool { return m.name == row.metric })
		require.GreaterOrEqual(t, k, 0, row.metric)
		require.InDelta(t, row.want, v.metrics[k].target, 1e-9, "%s %s", row.variant, row.metric)
	}
}

// Each distribution of the times until the answers has the mean that is asked for.
func TestService(t *testing.T) {
	for _, service := range []string{"exponential", "log-normal", "bimodal"} {
		p := defaults().with("-latency 200ms -share 0.05 -service " + service)
		draw, rng := p.newService(), rand.New(rand.NewPCG(1, 1))
		sum := 0.0
		for range 100_000 {
			sum += draw(rng).Seconds()
		}
		require.InDelta(t, 0.2, sum/100_000, 0.005, service)
	}
	p := defaults()
	require.Nil(t, p.newService())
}

// Runs repeat for the peers whose jitter can be seeded.
func TestRunsRepeat(t *testing.T) {
	for _, v := range drain().variants[:2] {
		for _, pr := range []peer{bare(), handWritten(), failsafe(), reHTTP(), oursLimitKnown()} {
			t.Run(v.name+"/"+pr.name, func(t *testing.T) {
				p := v.params
				p.n, p.workers = min(p.n, 300), min(p.workers, 300)
				first, r1 := v.measure(t, p, &pr)
				second, r2 := v.measure(t, p, &pr)
				require.Equal(t, values(first), values(second))
				require.Equal(t, r1.srv.bins, r2.srv.bins)
			})
		}
	}
	t.Run("another seed, another run", func(t *testing.T) {
		v, pr := drain().variants[0], handWritten()
		p := v.params
		p.n = 300
		_, r1 := v.measure(t, p, &pr)
		p.seed++
		_, r2 := v.measure(t, p, &pr)
		require.NotEqual(t, r1.srv.bins, r2.srv.bins)
	})
}

// values replaces NaN by -1, so that the values can be compared.
func values(v []float64) []float64 {
	for i := range v {
		if math.IsNaN(v[i]) {
			v[i] = -1
		}
	}
	return v
}

// These results are known beforehand.
func TestKnownResults(t *testing.T) {
	t.Run("who knows the limit is optimal", func(t *testing.T) {
		for _, pr := range []peer{oursLimitKnown(), handWrittenLimitKnown()} {
			v := drain().variants[0]
			got, _ := v.measure(t, v.params, &pr)
			require.InDelta(t, 1, got[0], 0.01, "makespan")
			require.Zero(t, got[1], "refused")
			require.Zero(t, got[2], "failed")
			require.InDelta(t, 0.64, got[4], 0.01, "p99 is workers / rate")
		}
	})
	t.Run("a FIFO queue that knows everything is the optimum", func(t *testing.T) {
		for _, name := range []string{"l.tokens", "l.mixed-small", "l.both", "l.flight10-long"} {
			for _, pr := range []peer{oursLimitKnown(), handWrittenLimitKnown()} {
				v := findVariant(t, name)
				got, _ := v.measure(t, v.params, &pr)
				require.InDelta(t, 1, got[1], 0.001, "%s: makespan", name)
				require.Zero(t, got[2], "%s: refused", name)
				require.InDelta(t, 1, got[5], 0.001, "%s: p99", name)
				require.InDelta(t, 1, got[6], 0.001, "%s: longest", name)
			}
		}
	})
	t.Run("in a FIFO queue everybody waits for the crowd", func(t *testing.T) {
		pr, v := handWrittenLimitKnown(), findVariant(t, "l.interactive")
		got, r := v.measure(t, v.params, &pr)
		require.InDelta(t, 1, got[0], 0.001)
		require.InDelta(t, 2, r.waited(0.99, 1), 0.1, "200 workers at 100 a second")
		random := 0
		for _, c := range r.calls {
			random += c.process
		}
		require.InDelta(t, 120, random, 3*math.Sqrt(120), "2 a second for a minute")
	})
	t.Run("without retries a stall is over when the surplus has emptied the queue", func(t *testing.T) {
		pr, v := bare(), findVariant(t, "b.stall")
		p := v.params
		p.clients = 10
		got, _ := v.measure(t, p, &pr)
		require.InDelta(t, 1, got[0], 1e-9, "amplification")
		// It is the backlog of 10 s, except the second that is in time, at a surplus of
		// 0.3 times the load.
		require.InDelta(t, 29, got[1], 1)
	})
	t.Run("a token that is revoked is found out by all that are under way", func(t *testing.T) {
		for _, row := range []struct {
			peer peer
			want []float64 // refreshes, extra, failed
		}{
			{oauthAlone(), []float64{0, 2000, 2000}}, // a worker makes a call every 100 ms
			{handWrittenRefresh(), []float64{100, 100, 0}},
			{oauthReauth(), []float64{1, 100, 0}},
			{oursReauth(), []float64{1, 100, 0}},
		} {
			v := findVariant(t, "n.revoked")
			got, _ := v.measure(t, v.params, &row.peer)
			require.Equal(t, row.want, got[:3], row.peer.name)
		}
	})
	t.Run("who asks the endpoints in order waits each time", func(t *testing.T) {
		for _, row := range []struct {
			peer           peer
			waited, failed float64
		}{{oursTimed(), 600, 600}, {handWrittenFailover(), 600, 0}} {
			v := findVariant(t, "o.silent")
			got, _ := v.measure(t, v.params, &row.peer)
			require.InDelta(t, row.waited, got[0], 1, row.peer.name)
			require.InDelta(t, row.failed, got[1], 1, row.peer.name)
		}
	})
	t.Run("after a fixed delay there is a hedge for each request that takes longer", func(t *testing.T) {
		pr, v := hedgedHTTP(), findVariant(t, "m.slow")
		p := v.params
		p.length = 20 * time.Second
		got, _ := v.measure(t, p, &pr)
		// 5 % take 10 times as long, and 2.3 % of the others more than 10 ms.
		require.InDelta(t, 0.05+0.95*0.023, got[0], 0.004)
	})
	t.Run("without retries a failure is a failure", func(t *testing.T) {
		pr, v := bare(), findVariant(t, "c.isolated")
		p := v.params
		p.n = 20_000
		got, _ := v.measure(t, p, &pr)
		require.InDelta(t, 0.01, got[0], 0.003)
		require.Equal(t, "never", v.metrics[1].format(got[1]), "more than 0.5 % were not answered")
	})
}

func findVariant(t *testing.T, name string) variant {
	t.Helper()
	chosen := chooseVariants(name, "0")
	require.Len(t, chosen, 1)
	require.Len(t, chosen[0].variants, 1)
	return chosen[0].variants[0]
}

func TestTokenBucket(t *testing.T) {
	start := time.Unix(0, 0)
	b := &tokenBucket{rate: 10, burst: 2, tokens: 2, at: start}
	at := func(d time.Duration) bool { return accepts(b, start.Add(d), &call{}) }
	require.True(t, at(0))
	require.True(t, at(0))
	require.False(t, at(0), "the burst is used up")
	require.False(t, at(99*time.Millisecond))
	require.True(t, at(100*time.Millisecond), "a refusal costs nothing")
	require.True(t, at(time.Hour))
	require.True(t, at(time.Hour))
	require.False(t, at(time.Hour), "never more than the burst")
	remaining, reset := b.state(start.Add(time.Hour), &call{})
	require.Zero(t, remaining)
	require.Equal(t, 100*time.Millisecond, reset.Round(time.Microsecond))

	b = &tokenBucket{rate: 10, burst: 1, tokens: 1, at: start, costly: true}
	require.True(t, at(0))
	require.False(t, at(99*time.Millisecond))
	require.False(t, at(198*time.Millisecond), "the refusal took what was there")
	require.True(t, at(298*time.Millisecond))
}

func TestFixedWindow(t *testing.T) {
	start := time.Unix(0, 0)
	w := &fixedWindow{size: 2, period: time.Second, begin: start}
	at := func(d time.Duration) bool { return accepts(w, start.Add(d), &call{}) }
	require.True(t, at(0))
	require.True(t, at(999*time.Millisecond))
	require.False(t, at(999*time.Millisecond))
	_, reset := w.state(start.Add(999*time.Millisecond), &call{})
	require.Equal(t, time.Millisecond, reset)
	require.True(t, at(time.Second), "another window")
	require.True(t, at(time.Hour))
	remaining, _ := w.state(start.Add(time.Hour), &call{})
	require.Equal(t, 1, remaining)

	w = &fixedWindow{size: 2, period: time.Second, begin: start, costly: true}
	for k := range 5 {
		require.Equal(t, k < 2, at(0))
	}
	require.False(t, at(time.Second), "the excess of three is carried over")
	require.False(t, at(2*time.Second), "as are two of four")
	require.True(t, at(3*time.Second))
}

// Each row is a sequence of requests, and what becomes of them.
func TestLimits(t *testing.T) {
	start := time.Unix(0, 0)
	sec := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	type request struct {
		at   float64 // in seconds
		url  string
		cost float64
		want bool
	}
	for _, row := range []struct {
		name     string
		limit    limit
		requests []request
	}{
		{
			"a bucket of one token wants a distance", newBucket(10, 1, false, start),
			[]request{{at: 0, want: true}, {at: 0.099}, {at: 0.1, want: true}, {at: 0.25, want: true}, {at: 0.349}, {at: 0.35, want: true}},
		},
		{
			"a bucket of tokens", newBucket(100, 100, false, start),
			[]request{{at: 0, cost: 101}, {at: 0, cost: 90, want: true}, {at: 0, cost: 11}, {at: 0, cost: 10, want: true}, {at: 0.1, cost: 10, want: true}},
		},
		{
			"a sliding window", &slidingWindow{size: 2, period: 10 * time.Second},
			[]request{{at: 0, want: true}, {at: 9, want: true}, {at: 9.9}, {at: 10, want: true}, {at: 18.9}, {at: 19, want: true}},
		},
		{
			"a few", &few{from: sec(1), n: 2},
			[]request{{at: 0, want: true}, {at: 1}, {at: 5}, {at: 5, want: true}},
		},
		{
			"closed", &closed{from: sec(1), to: sec(2)},
			[]request{{at: 0.9, want: true}, {at: 1}, {at: 1.9}, {at: 2, want: true}},
		},
		{
			"a limit that begins later has counted before", &during{newBucket(1, 2, false, start), sec(1), sec(5)},
			[]request{{at: 0, want: true}, {at: 0, want: true}, {at: 0, want: true}, {at: 0.9, want: true}, {at: 1}, {at: 1.9, want: true}, {at: 1.9}, {at: 5, want: true}},
		},
		{
			"what one limit refuses, the other does not count",
			every{newBucket(1, 2, false, start), newBucket(10, 1, false, start)},
			[]request{{at: 0, want: true}, {at: 0}, {at: 0}, {at: 0.1, want: true}, {at: 0.2}, {at: 0.9}, {at: 1, want: true}},
		},
		{
			"a route",
			routes{search: newBucket(1, 1, false, start)},
			[]request{{at: 0, url: search, want: true}, {at: 0, url: search}, {at: 0, url: items, want: true}, {at: 0, url: items, want: true}, {at: 1, url: search, want: true}},
		},
		{
			"one of three backends", &chance{every: 3},
			[]request{{want: true}, {want: true}, {}, {want: true}, {want: true}, {}},
		},
		{
			"a ban", &ban{limit: newBucket(1, 1, false, start), length: time.Minute},
			[]request{{at: 0, want: true}, {at: 0.5}, {at: 2}, {at: 60.4}, {at: 60.5, want: true}, {at: 61.5, want: true}},
		},
		{
			"a ban that is prolonged", &ban{limit: newBucket(1, 1, false, start), length: time.Minute, prolonged: true},
			[]request{{at: 0, want: true}, {at: 0.5}, {at: 60}, {at: 119}, {at: 179, want: true}},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			for k, r := range row.requests {
				c := &call{url: r.url, cost: r.cost}
				require.Equal(t, r.want, accepts(row.limit, sec(r.at), c), "request %d", k)
			}
		})
	}
}

// TestMeter: each row is a sequence of requests, each answered after a second.
func TestMeter(t *testing.T) {
	for _, row := range []struct {
		name   string
		counts counting
		first  call
		left   float64 // once it is accepted, of 10 tokens, at 1 a second
		after  float64 // once it is answered
	}{
		{"in advance", inAdvance, call{cost: 6, guess: 2}, 4, 5},
		{"more than there is room for", inAdvance, call{cost: 16}, -6, -5},
		{"by a guess that is too low", byGuess, call{cost: 6, guess: 2}, 8, 5},
		{"by a guess that is too high", byGuess, call{cost: 6, guess: 9}, 1, 5},
		{"afterward", afterward, call{cost: 6, guess: 2}, 10, 4},
		{"afterward, and it owes", afterward, call{cost: 16}, 10, -6},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMeter(tokens, 1, 10, true, time.Now())
				m.counts = row.counts
				require.True(t, accepts(m, time.Now(), &row.first))
				require.InDelta(t, row.left, m.level, 1e-4)
				require.Equal(t, m.level > 0, accepts(m, time.Now(), &call{cost: 1e-9, guess: 1e-9}))
				time.Sleep(time.Second)
				m.done(&row.first)
				require.InDelta(t, row.after, m.level, 1e-4)
				h := http.Header{}
				m.tell(h, time.Now())
				require.Equal(t, "10", h.Get("X-Ratelimit-Limit-Tokens"))
				require.Equal(t, strconv.Itoa(int(max(row.after, 0))), h.Get("X-Ratelimit-Remaining-Tokens"))
				require.Equal(t, fmt.Sprint(10-row.after)+"s", h.Get("X-Ratelimit-Reset-Tokens"))
			})
		})
	}
	now := time.Now()
	m := newMeter(requests, 1, 2, false, now)
	require.True(t, accepts(m, now, &call{cost: 100}))
	require.True(t, accepts(m, now, &call{cost: 100}), "it counts requests")
	require.False(t, accepts(m, now, &call{}))
}

// TestFIFO: what an ideal queue takes is known beforehand.
func TestFIFO(t *testing.T) {
	sec := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	for _, row := range []struct {
		name    string
		job     job
		workers int
		calls   []call // the cost and the time until the answer
		want    []time.Duration
		last    float64
	}{
		{
			"tokens",
			job{bounds: ofTokens(1, 10)},
			3,
			[]call{{cost: 10, takes: sec(1)}, {cost: 2, takes: sec(1)}, {cost: 1, takes: sec(1)}, {cost: 1, takes: sec(1)}},
			[]time.Duration{sec(1), sec(3), sec(4), sec(4)},
			5,
		},
		{
			"more than the burst",
			job{bounds: ofTokens(1, 10)},
			3,
			[]call{{cost: 5}, {cost: 15}, {cost: 1}},
			[]time.Duration{0, sec(5), sec(11)},
			11,
		},
		{
			"in flight",
			job{bounds: bounds{inFlight: 2}},
			3,
			[]call{{takes: sec(3)}, {takes: sec(1)}, {takes: sec(1)}, {takes: sec(1)}},
			[]time.Duration{sec(3), sec(1), sec(2), sec(2)},
			3,
		},
		{
			"both",
			job{bounds: bounds{buckets: []bound{{requests, 1, 1}, {"minute", 0.5, 2}}}},
			4,
			[]call{{}, {}, {}, {}},
			[]time.Duration{0, sec(1), sec(2), sec(4)},
			4,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			var calls []*call
			for i := range row.calls {
				calls = append(calls, &row.calls[i])
			}
			last, each := row.job.fifo(&params{workers: row.workers}, calls)
			require.InDelta(t, row.last, last, 1e-9)
			require.Equal(t, row.want, each)
		})
	}
}

func TestInFlight(t *testing.T) {
	now, c := time.Unix(0, 0), &call{}
	l := every{&inFlight{most: 2}, unlimited{}}
	require.True(t, accepts(l, now, c))
	require.True(t, accepts(l, now, c))
	require.False(t, accepts(l, now, c))
	l.done(c)
	require.True(t, accepts(l, now, c))
	l.setRate(now, 1)
	l.done(c)
	require.False(t, accepts(l, now, c), "one is still under way")
	l.done(c)
	require.True(t, accepts(l, now, c))
}

func TestNodes(t *testing.T) {
	now := time.Unix(0, 0)
	n := &nodes{rng: rand.New(rand.NewPCG(1, 1))}
	for range 4 {
		n.each = append(n.each, newBucket(1, 3, false, now))
	}
	accepted := 0
	for range 1000 {
		if accepts(n, now, &call{}) {
			accepted++
		}
	}
	require.Equal(t, 12, accepted)
}

func TestStateOfSeveralLimits(t *testing.T) {
	now := time.Unix(0, 0)
	end := now.Add(time.Minute)
	l := every{newBucket(1, 5, false, now), &closed{from: now, to: end}, &during{newBucket(1, 3, false, now), end, end.Add(time.Minute)}, unlimited{}}
	remaining, reset := l.state(now, &call{})
	require.Zero(t, remaining)
	require.Equal(t, time.Minute, reset)
	remaining, reset = l.state(end, &call{})
	require.Equal(t, 3, remaining)
	require.Zero(t, reset)
}

// A request is counted in flight while the server has it, not on its way.
func TestWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := defaults()
		p.server, p.flight, p.way, p.latency = "flight", 1, 100*time.Millisecond, 50*time.Millisecond
		s := newServer(&p)
		var calls []*call
		tl := &tally{}
		for id, at := range []time.Duration{0, 40 * time.Millisecond, 60 * time.Millisecond} {
			c := &call{id: id}
			calls = append(calls, c)
			tl.wg.Go(func() {
				_ = sleepUntil(t.Context(), s.start.Add(at))
				c.send(s.RoundTrip)
			})
		}
		tl.wg.Wait()
		for k, want := range []time.Duration{250 * time.Millisecond, 205 * time.Millisecond, 250 * time.Millisecond} {
			require.Equal(t, want, calls[k].end.Sub(calls[k].begin).Round(time.Millisecond))
			require.Equal(t, k != 1, calls[k].ok)
		}
	})
}

func TestSummary(t *testing.T) {
	v := variant{metrics: []metric{atMost("", "", 2), atLeast("", "", 2), atLeast("", "", 2)}}
	v.metrics[2].anySeed = 1
	c := v.summary([][]float64{{3, 3, 3}, {1, 1, 1}, {2, math.NaN(), 2}}, nil)
	require.Equal(t, []float64{2, 1, 2}, c.values)
	require.InDelta(t, 3, c.worst[0], 0)
	require.True(t, math.IsNaN(c.worst[1]))
	require.InDelta(t, 1, c.worst[2], 0)
	require.False(t, c.met(0, v.metrics[0]), "a seed misses it")
	require.True(t, c.met(2, v.metrics[2]), "the worst seed may be worse")
	require.Equal(t, "2.000 (3.000)", c.text(0, v.metrics[0]))
	require.Contains(t, v.describe(c), "2.000 (3.000) MISSED <= 2.000")
}

func TestHints(t *testing.T) {
	start := time.Unix(0, 0)
	tell := func(hint string, accepted bool) http.Header {
		s := &server{hint: hint, limit: &tokenBucket{rate: 2, burst: 5, tokens: 0.5, at: start}}
		h := http.Header{}
		s.setHint(h, start, &call{}, accepted)
		return h
	}
	require.Empty(t, tell("none", false))
	require.Empty(t, tell("retry-after", true))
	require.Equal(t, "1", tell("retry-after", false).Get("Retry-After"))
	require.Equal(t, `"default";r=0;t=1`, tell("ratelimit", true).Get("RateLimit"))
	require.Equal(t, `"default";q=2;w=1`, tell("ratelimit", false).Get("RateLimit-Policy"))
	require.Equal(t, "0", tell("x-ratelimit", false).Get("X-RateLimit-Remaining"))
	require.Panics(t, func() { tell("nonsense", false) })
}

func TestQueueIsServedThoughNobodyWaits(t *testing.T) {
	start := time.Unix(0, 0)
	s := &server{start: start, capacity: 10, stall: interval{time.Second, 2 * time.Second}}
	require.Equal(t, 100*time.Millisecond, s.queue(start))
	require.Equal(t, 200*time.Millisecond, s.queue(start))
	require.Equal(t, 600*time.Millisecond, s.queue(start.Add(1500*time.Millisecond)), "not before the stall ends")
	require.Equal(t, 700*time.Millisecond, s.queue(start.Add(1500*time.Millisecond)))
}

func TestAlign(t *testing.T) {
	now := time.Unix(1, 12345)
	seen := map[int64]bool{}
	for id := range lattice {
		at := align(now, id)
		require.False(t, at.Before(now))
		require.Less(t, at.Sub(now), lattice*time.Nanosecond)
		seen[at.UnixNano()] = true
	}
	require.Len(t, seen, lattice, "an instant for each")
	require.Equal(t, align(now, 5), align(align(now, 5), 5))
}

func TestQuantile(t *testing.T) {
	var d []time.Duration
	for k := range 100 {
		d = append(d, time.Duration(100-k))
	}
	require.Equal(t, time.Duration(50), quantile(d, 0.5))
	require.Equal(t, time.Duration(99), quantile(d, 0.99))
	require.Equal(t, time.Duration(1), quantile(d, 0))
	require.Equal(t, time.Duration(100), quantile(d, 1))
	require.Zero(t, quantile(nil, 0.5))
}

func TestJain(t *testing.T) {
	p := fleet().variants[0].params
	p.clients, p.length = 4, time.Second // fair: 48, 48, 2, 2
	jain := func(got ...int) float64 {
		r := &run{params: p}
		for process, n := range got {
			for range n {
				r.calls = append(r.calls, &call{process: process, ok: true})
			}
		}
		return r.jain(2)
	}
	require.InDelta(t, 1, jain(48, 48, 2, 2), 1e-9)
	require.InDelta(t, 1, jain(24, 24, 1, 1), 1e-9, "fair, though little")
	require.InDelta(t, 0.5, jain(48, 48, 0, 0), 1e-9)
	require.InDelta(t, 0.25, jain(48, 0, 0, 0), 1e-9)
}

func TestFound(t *testing.T) {
	r := &run{srv: &server{}}
	for k := range 600 {
		b := bin{accepted: 10}
		if k < 300 {
			b.refused = 5
		}
		r.srv.bins = append(r.srv.bins, b)
	}
	// In a fifth of the 2 s before, refusals may be half of the accepted requests.
	require.Equal(t, 31700*time.Millisecond, r.found(100, 0, time.Minute))
	require.Equal(t, 2*time.Second, r.found(100, 40*time.Second, 20*time.Second))
	require.Equal(t, forever, r.found(200, 0, time.Minute), "too little accepted")
}

func TestMetric(t *testing.T) {
	for _, row := range []struct {
		m      metric
		v      float64
		met    bool
		missed float64
	}{
		{atMost("", "", 1), 1, true, 0},
		{atMost("", "", 1), 10, false, 1},
		{atMost("", "", 0), 999, false, 1},
		{atLeast("", "", 0.9), 0.9, true, 0},
		{atLeast("", "", 0.9), 0.45, false, 1},
		{atMost("", "", 1), math.NaN(), false, math.NaN()},
	} {
		require.Equal(t, row.met, row.m.met(row.v))
		if math.IsNaN(row.missed) {
			require.True(t, math.IsNaN(row.m.missedBy(row.v)))
			continue
		}
		require.InDelta(t, row.missed, row.m.missedBy(row.v), 1e-9)
	}
	require.Equal(t, "never", atMost("", "s", 1).format(forever.Seconds()))
	require.Equal(t, "-", atMost("", "s", 1).format(math.NaN()))
}

// In real time only the counts can be tested.
func TestCost(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a few seconds")
	}
	p := cost().variants[0].params
	for _, row := range []struct {
		peer peer
		want float64
		why  string
	}{
		{ours(), 1, "discarded responses are drained"},
		{retryableHTTP(), 1001, "a body of more than 4 KiB is not"},
	} {
		require.InDelta(t, row.want, connections(t, p, &row.peer), 0, row.why)
	}
}

func TestResultsAreWritten(t *testing.T) {
	dir := t.TempDir()
	columns := []peer{bare(), ours()}
	s := change()
	s.variants = s.variants[:1]
	b := newBoard(s, columns)
	for i := range columns {
		values, r := s.variants[0].measure(t, small(s.variants[0].params), &columns[i])
		b.set(0, i, values, r)
	}
	require.NoError(t, writeResults(dir, "svg", "a commit", []*board{b}, columns))
	readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
	require.NoError(t, err)
	require.Contains(t, string(readme), "| **d.change** token bucket, no hint | used of the limit | >= 0.930 |")
	for _, name := range []string{"scoreboard.svg", "d.change.svg"} {
		svg, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(svg), "<?xml"))
		require.Contains(t, string(svg), ">resilient<")
		require.Contains(t, string(readme), "("+name+")")
	}
}

func TestChoose(t *testing.T) {
	require.Len(t, choosePeers(""), len(peers()))
	require.Len(t, choosePeers("failsafe,rehttp"), 3, "a beginning is enough")
	require.Empty(t, chooseVariants("x", "0"))
	chosen := chooseVariants("a.window,c", "0")
	require.Len(t, chosen, 2)
	require.Len(t, chosen[0].variants, 1)
	chosen = chooseVariants("c,h.bucket,h.far", "0,3,4,x")
	require.Len(t, chosen, 2, "c has one set")
	require.Len(t, chosen[1].variants, 3, "and so has h.far")
	require.Equal(t, "h.bucket/3", chosen[1].variants[1].name)
	require.InDelta(t, 230, chosen[1].variants[1].params.rate, 0)
	names := map[string]bool{}
	for _, s := range scenarios() {
		for _, v := range s.variants {
			require.False(t, names[v.name], v.name)
			require.True(t, strings.HasPrefix(v.name, s.letter+"."))
			names[v.name] = true
		}
	}
}

func TestSendCountsWhatCameBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &call{}
		c.send(func(req *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return answer(req, http.StatusOK, nil), nil
		})
		require.True(t, c.ok)
		require.Equal(t, time.Second, c.end.Sub(c.begin))
		c.send(func(req *http.Request) (*http.Response, error) {
			return answer(req, http.StatusTooManyRequests, nil), nil
		})
		require.False(t, c.ok)
	})
}

// A duel is drawn in both modes if its two columns were measured.
func TestDuel(t *testing.T) {
	columns := []peer{oursDefaults(), handWritten()}
	s := drain()
	b := newBoard(s, columns)
	for k, v := range s.variants {
		if v.duel == nil {
			continue
		}
		names, err := b.duels(k, t.TempDir())
		require.NoError(t, err)
		require.Empty(t, names, "nothing was measured")
		for i := range columns {
			values, r := v.measure(t, small(v.params), &columns[i])
			b.set(k, i, values, r)
		}
		dir := t.TempDir()
		names, err = b.duels(k, dir)
		require.NoError(t, err)
		require.Equal(t, []string{v.name + ".svg", v.name + "-dark.svg"}, names)
		for _, name := range names {
			text, err := os.ReadFile(filepath.Join(dir, name))
			require.NoError(t, err)
			require.NoError(t, xml.Unmarshal(text, new(struct{})), name)
		}
	}
}
