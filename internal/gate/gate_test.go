package gate_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient/internal/gate"
	"github.com/resilienthttp/resilient/internal/limit"
	"github.com/resilienthttp/resilient/internal/waithint"
)

const (
	ms      = time.Millisecond
	maxWait = time.Minute
)

// passes notes when attempts pass a gate, and in what order.
type passes struct {
	*gate.Gate
	start time.Time

	mu     sync.Mutex
	all    []pass
	stamps map[string]gate.Stamp
	routes map[string]limit.Route
}

type pass struct {
	name string
	at   time.Duration
}

func watch(g *gate.Gate) *passes {
	return &passes{Gate: g, start: time.Now(), stamps: make(map[string]gate.Stamp), routes: make(map[string]limit.Route)}
}

func (p *passes) note(name string, s gate.Stamp, r limit.Route) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, pass{name, time.Since(p.start)})
	p.stamps[name], p.routes[name] = s, r
}

// admit sends an attempt through the gate in a goroutine of its own.
func (p *passes) admit(ctx context.Context, name string, a gate.Attempt) {
	var s gate.Stamp
	if p.TryAdmit(&s, a) {
		p.note(name, s, a.Route)
		return
	}
	go func() {
		s, err := p.Admit(ctx, a, maxWait, ignore)
		if err == nil {
			p.note(name, s, a.Route)
			return
		}
		p.note(fmt.Sprintf("%s: %v", name, err), s, a.Route)
	}()
	synctest.Wait()
}

func ignore(string, time.Duration) {}

// done tells the gate of the outcome of an attempt that has passed.
func (p *passes) done(name string, o limit.Outcome, hint time.Duration) {
	synctest.Wait()
	p.mu.Lock()
	s, r := p.stamps[name], p.routes[name]
	p.mu.Unlock()
	p.Done(s, r, time.Now(), limit.Result{Outcome: o, Hint: hint, MaxWait: maxWait})
	synctest.Wait()
}

func (p *passes) refused(name string, hint time.Duration) { p.done(name, limit.Refused, hint) }
func (p *passes) accepted(name string)                    { p.done(name, limit.Accepted, 0) }
func (p *passes) lost(name string)                        { p.done(name, limit.Unanswered, 0) }

// sorted returns all that have passed, in their order. Those that pass at the same
// instant are noted in any order.
func (p *passes) sorted() []pass {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.SortedStableFunc(slices.Values(p.all), func(a, b pass) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.name, b.name)) })
}

// order returns the names of all that have passed, in their order.
func (p *passes) order() (names []string) {
	for _, pass := range p.sorted() {
		names = append(names, pass.name)
	}
	return names
}

var (
	first = gate.Attempt{Number: 1, Costs: gate.Costs{1}}
	retry = gate.Attempt{Number: 2, Retry: true, Costs: gate.Costs{1}}

	users = limit.Route{Method: "GET", Path: "/users"}
	items = limit.Route{Method: "GET", Path: "/items"}
)

func of(r limit.Route) gate.Attempt { return gate.Attempt{Number: 1, Route: r, Costs: gate.Costs{1}} }

// limited returns a gate with a token bucket.
func limited(rate, burst float64) *gate.Gate {
	if rate == 0 {
		return new(gate.Gate)
	}
	return gate.New(gate.Settings{Limits: []gate.Limit{{Rate: rate, Burst: burst}}})
}

// story is what happens to a gate, and who passes when.
type story struct {
	name string
	gate *gate.Gate
	run  func(t *testing.T, p *passes)
	want []pass
	why  string
}

// tell checks that stories end as they should.
func tell(t *testing.T, stories []story) {
	t.Helper()
	for _, tt := range stories {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := watch(tt.gate)
				tt.run(t, p)
				time.Sleep(time.Hour)
				synctest.Wait()
				require.Equal(t, tt.want, p.sorted(), tt.why)
				require.Zero(t, p.Snapshot(time.Now()).Waiting, "nobody is lost")
			})
		})
	}
}

func TestGate(t *testing.T) {
	tell(t, []story{
		{"the zero gate", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.admit(t.Context(), "b", retry)
		}, []pass{{"a", 0}, {"b", 0}}, "nothing is known"},
		{"no limit", limited(0, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.admit(t.Context(), "b", first)
		}, []pass{{"a", 0}, {"b", 0}}, "a limit of 0 is none"},
		{"a bucket", limited(10, 2), func(t *testing.T, p *passes) {
			t.Helper()
			for _, name := range []string{"a", "b", "c", "d"} {
				p.admit(t.Context(), name, first)
			}
		}, []pass{{"a", 0}, {"b", 0}, {"c", 100 * ms}, {"d", 200 * ms}}, "its burst, then its rate"},
		{"first attempts and retries", limited(10, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.admit(t.Context(), "retry", retry)
			for i := range 10 {
				p.admit(t.Context(), strconv.Itoa(i), first)
			}
		}, []pass{
			{"a", 0},
			{"0", 100 * ms},
			{"1", 200 * ms},
			{"2", 300 * ms},
			{"3", 400 * ms},
			{"4", 500 * ms},
			{"5", 600 * ms},
			{"6", 700 * ms},
			{"7", 800 * ms},
			{"retry", 900 * ms},
			{"8", 1000 * ms},
			{"9", 1100 * ms},
		}, "every ninth place is a retry's"},
		{"refused before", limited(10, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			time.Sleep(50 * ms)
			p.admit(t.Context(), "b", first)
			p.admit(t.Context(), "c", gate.Attempt{Number: 2, Arrived: time.Now().Add(-20 * ms), Costs: gate.Costs{1}})
			p.admit(t.Context(), "d", gate.Attempt{Number: 2, Arrived: time.Now().Add(-10 * ms), Costs: gate.Costs{1}})
		}, []pass{{"a", 0}, {"c", 100 * ms}, {"d", 200 * ms}, {"b", 300 * ms}}, "it keeps its place"},
		{"a refusal", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.refused("a", 0)
			p.admit(t.Context(), "b", first)
			p.admit(t.Context(), "c", first)
		}, []pass{{"a", 0}, {"b", 0}, {"c", 0}}, "it is about one request until there are more"},
		{"a hint", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.refused("a", 10*time.Second)
			for _, name := range []string{"b", "c", "d"} {
				p.admit(t.Context(), name, first)
			}
			time.Sleep(10 * ms)
			p.accepted("b")
		}, []pass{{"a", 0}, {"b", 0}, {"c", 10 * ms}, {"d", 10 * ms}}, "the others go one by one, until one is accepted"},
		{"a hint that is true", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.refused("a", 4*time.Second)
			p.admit(t.Context(), "b", first)
			p.refused("b", 4*time.Second)
			p.admit(t.Context(), "c", first)
			time.Sleep(10 * ms)
			p.refused("c", 4*time.Second)
			p.admit(t.Context(), "d", first)
			p.admit(t.Context(), "e", first)
			time.Sleep(1010 * ms)
			p.refused("d", 3*time.Second)
		}, []pass{{"a", 0}, {"b", 0}, {"c", 10 * ms}, {"d", 1010 * ms}, {"e", 4020 * ms}}, "three refusals begin a pause, in which one attempt asks whether it is over"},
		{"an attempt without an answer", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.TryOne(time.Now())
			p.admit(t.Context(), "a", first)
			p.admit(t.Context(), "b", first)
			time.Sleep(100 * ms)
			p.lost("a")
		}, []pass{{"a", 0}, {"b", 100 * ms}}, "a lost attempt leaves things as they were before it"},
		{"a deadline", limited(1, 1), func(t *testing.T, p *passes) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 500*ms)
			defer cancel()
			p.admit(ctx, "a", first)
			p.admit(ctx, "b", first)
		}, []pass{{"a", 0}, {"b: rate limit", 0}}, "a wait that cannot end well is not begun"},
		{"a retry that gives up", limited(10, 1), func(t *testing.T, p *passes) {
			t.Helper()
			ctx, cancel := context.WithCancelCause(t.Context())
			p.admit(t.Context(), "a", first)
			p.admit(ctx, "retry", retry)
			for i := range 9 {
				p.admit(t.Context(), strconv.Itoa(i), first)
			}
			time.Sleep(850 * ms)
			cancel(errors.New("enough"))
			synctest.Wait()
		}, []pass{
			{"a", 0},
			{"0", 100 * ms},
			{"1", 200 * ms},
			{"2", 300 * ms},
			{"3", 400 * ms},
			{"4", 500 * ms},
			{"5", 600 * ms},
			{"6", 700 * ms},
			{"7", 800 * ms},
			{"retry: enough", 850 * ms},
			{"8", 900 * ms},
		}, "the ninth place is a first attempt's then"},
		{"one that gives up", limited(1, 1), func(t *testing.T, p *passes) {
			t.Helper()
			ctx, cancel := context.WithCancelCause(t.Context())
			p.admit(t.Context(), "a", first)
			p.admit(ctx, "b", first)
			p.admit(t.Context(), "c", first)
			time.Sleep(500 * ms)
			cancel(errors.New("enough"))
			synctest.Wait()
		}, []pass{{"a", 0}, {"b: enough", 500 * ms}, {"c", time.Second}}, "it takes no token with it"},
		{"the first one gives up", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			ctx, cancel := context.WithCancelCause(t.Context())
			p.TryOne(time.Now())
			p.admit(t.Context(), "a", first)
			p.admit(ctx, "b", first)
			p.admit(t.Context(), "c", first)
			time.Sleep(500 * ms)
			cancel(errors.New("enough"))
			synctest.Wait()
		}, []pass{{"a", 0}, {"b: enough", 500 * ms}, {"c", time.Second}}, "the next one goes when it would have gone"},
		{"one is tried", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.TryOne(time.Now())
			p.TryOne(time.Now())
			p.admit(t.Context(), "a", first)
			p.admit(t.Context(), "b", first)
			time.Sleep(10 * ms)
			p.accepted("a")
			p.accepted("b")
			p.admit(t.Context(), "c", first)
			p.admit(t.Context(), "d", first)
			p.admit(t.Context(), "e", first)
		}, []pass{{"a", 0}, {"b", 10 * ms}, {"c", 10 * ms}, {"d", 10 * ms}, {"e", 10 * ms}}, "nobody is left to hold back"},
		{"a bucket and a limit", limited(0.5, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.TryOne(time.Now())
			p.admit(t.Context(), "a", first)
			p.admit(t.Context(), "b", first)
		}, []pass{{"a", 0}, {"b", 2 * time.Second}}, "it may go after 1 s, and has its token after 2 s"},
		{"another route", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", of(users))
			p.refused("a", 10*time.Second)
			p.admit(t.Context(), "b", of(users))
			p.admit(t.Context(), "c", of(users))
			p.admit(t.Context(), "d", of(items))
			p.admit(t.Context(), "e", of(items))
		}, []pass{{"a", 0}, {"b", 0}, {"d", 0}, {"e", 0}, {"c", time.Second}}, "a hint is about the route that it came with"},
		{"one bucket, two queues", limited(0.5, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", of(users))
			p.refused("a", time.Hour)
			time.Sleep(ms)
			p.admit(t.Context(), "b", of(users))
			time.Sleep(ms)
			p.admit(t.Context(), "c", of(items))
			time.Sleep(ms)
			p.admit(t.Context(), "d", of(users))
			time.Sleep(ms)
			p.admit(t.Context(), "e", of(items))
		}, []pass{{"a", 0}, {"b", 2 * time.Second}, {"c", 4 * time.Second}, {"d", 6 * time.Second}, {"e", 8 * time.Second}}, "whose first one waits longest goes first"},
		{"a route that is held later", limited(0.5, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", of(users))
			for _, name := range []string{"b", "c", "d"} {
				p.admit(t.Context(), name, of(users))
			}
			p.refused("a", 10*time.Second)
			time.Sleep(2 * time.Second)
			p.refused("b", 10*time.Second)
			time.Sleep(2 * time.Second)
			p.refused("c", 10*time.Second)
		}, []pass{{"a", 0}, {"b", 2 * time.Second}, {"c", 4 * time.Second}, {"d", 6 * time.Second}}, "those who wait for a token wait for the limit too"},
	})
}

// TestEstimate asks how long an attempt would wait, of a bucket that refills by one
// a second.
func TestEstimate(t *testing.T) {
	for _, tt := range []struct {
		name            string
		firsts, retries int // that wait
		gone            int // of them
		retry           bool
		arrived         int // after so many of its class; 0: after all
		want            int // s
		why             string
	}{
		{"nobody waits", 0, 0, 0, false, 0, 1, "the token after the one that was used"},
		{"behind others", 3, 0, 0, false, 0, 4, "in order of arrival"},
		{"refused before", 3, 0, 0, false, 1, 2, "it goes back to its place, behind the one before it"},
		{"a retry", 3, 0, 0, true, 0, 4, "first attempts go before it"},
		{"a retry in a backlog", 20, 0, 0, true, 0, 9, "but no more than eight"},
		{"the second retry", 20, 1, 0, true, 0, 18, "and eight more for the one before"},
		{"five have gone before", 20, 1, 5, true, 0, 13, "they count"},
		{"retries behind", 3, 2, 0, false, 0, 4, "no retry's turn comes before"},
		{"one retry between", 8, 2, 0, false, 0, 10, "every ninth place is a retry's"},
		{"two retries between", 16, 5, 0, false, 0, 19, "every ninth"},
		{"the last retry", 30, 1, 0, false, 0, 32, "there are no others"},
		{"a retry's turn is near", 8, 1, 5, false, 0, 5, "five first attempts have gone before"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, start := watch(limited(1, 1)), time.Now()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				at := func(i int) time.Time { return start.Add(time.Duration(i) * time.Microsecond) }
				p.admit(t.Context(), "a", gate.Attempt{Number: 1, Arrived: start, Costs: gate.Costs{1}})
				for _, class := range []struct {
					n     int
					retry bool
				}{{tt.firsts, false}, {tt.retries, true}} {
					for i := range class.n {
						p.admit(ctx, "", gate.Attempt{Retry: class.retry, Number: 1, Arrived: at(2*i + 2), Costs: gate.Costs{1}})
					}
				}
				require.Equal(t, tt.firsts+tt.retries, p.Snapshot(start).Waiting)
				time.Sleep(time.Duration(tt.gone) * time.Second)
				a := gate.Attempt{Retry: tt.retry, Number: 1, Arrived: at(1000), Costs: gate.Costs{1}}
				if tt.arrived > 0 {
					a.Arrived = at(2*tt.arrived + 1)
				}
				_, err := p.Admit(ctx, a, 0, ignore)
				var refusal *gate.RefusalError
				require.ErrorAs(t, err, &refusal)
				require.Equal(t, gate.RateLimit, refusal.Reason)
				require.EqualError(t, refusal, gate.RateLimit)
				require.InDelta(t, time.Duration(tt.want)*time.Second, refusal.Wait, float64(ms), tt.why)
			})
		})
	}
}

// TestMaxWait: the longest wait bounds what others believe or know, and not what the
// user has set.
func TestMaxWait(t *testing.T) {
	for _, tt := range []struct {
		name    string
		gate    func(t *testing.T) *gate.Gate
		maxWait time.Duration
		timeout time.Duration // of the context; 0: none
		took    time.Duration
		err     error
		why     string
	}{
		{"a bucket", used(1.0 / 50), time.Second, 0, 50 * time.Second, nil, "the user's own limit is bounded by the context alone"},
		{"as long as the longest", used(1), time.Second, 0, time.Second, nil, "it is not longer"},
		{"a bucket and a deadline", used(1.0 / 50), time.Second, 49 * time.Second, 0, &gate.RefusalError{Reason: gate.RateLimit, Wait: 50 * time.Second, Deadline: true}, "which is known before"},
		{"a bucket and a context that ends later", used(1.0 / 50), time.Second, 51 * time.Second, 50 * time.Second, nil, ""},
		{"no wait", used(1), 0, 0, 0, &gate.RefusalError{Reason: gate.RateLimit, Wait: time.Second}, "even for the user's own limit"},
		{"no wait, and none needed", func(*testing.T) *gate.Gate { return limited(1, 1) }, 0, 0, 0, nil, "there is a token"},
		{"no wait before a belief", looking(0), 0, 0, 0, &gate.RefusalError{Reason: gate.Pause}, "it would have to wait"},
		{"a belief", looking(0), time.Second, 0, time.Second, nil, "its turn comes when the attempt before it hangs"},
		{"a long queue before a belief", looking(10), 10 * time.Second, 0, 11 * time.Second, nil, "nobody knows how long it takes, so it stays for another wait"},
		{"too long a queue before a belief", looking(20), 10 * time.Second, 0, 20 * time.Second, &gate.RefusalError{Reason: gate.Pause, Wait: 10 * time.Second}, "but no longer"},
		{"a pause", paused(30 * time.Second), 29 * time.Second, 0, 0, &gate.RefusalError{Reason: gate.Pause, Wait: 30 * time.Second}, "the server has said so"},
		{"a pause that is short enough", paused(4 * time.Second), 4 * time.Second, 0, time.Second, nil, "one asks whether it is over"},
		{"a pause longer than the longest wait", paused(time.Hour), maxWait, 0, 0, &gate.RefusalError{Reason: gate.Pause, Wait: time.Hour}, "callers are told how long the server refuses everything"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := tt.gate(t)
				ctx, cancel := context.WithCancel(t.Context())
				if tt.timeout > 0 {
					ctx, cancel = context.WithTimeout(ctx, tt.timeout)
				}
				defer cancel()
				start, waited := time.Now(), false
				_, err := g.Admit(ctx, first, tt.maxWait, func(string, time.Duration) { waited = true })
				if tt.err == nil {
					require.NoError(t, err, tt.why)
				} else {
					require.Equal(t, tt.err, err, tt.why)
				}
				require.Equal(t, tt.took, time.Since(start), tt.why)
				require.Equal(t, tt.took > 0, waited, "begins is called if it waits")
				time.Sleep(time.Hour) // for the others
			})
		})
	}
}

// used returns a gate with a bucket whose token is used.
func used(limit float64) func(t *testing.T) *gate.Gate {
	return func(t *testing.T) *gate.Gate {
		t.Helper()
		g := limited(limit, 1)
		var s gate.Stamp
		require.True(t, g.TryAdmit(&s, first))
		return g
	}
}

// looking returns a gate that looks for a limit. One attempt has gone and is not
// answered, and so many wait.
func looking(waiting int) func(t *testing.T) *gate.Gate {
	return func(t *testing.T) *gate.Gate {
		t.Helper()
		p := watch(new(gate.Gate))
		p.TryOne(time.Now())
		for i := range 1 + waiting {
			p.admit(t.Context(), strconv.Itoa(i), first)
		}
		require.Equal(t, waiting, p.Snapshot(time.Now()).Waiting)
		return p.Gate
	}
}

// paused returns a gate that is paused by a hint.
func paused(hint time.Duration) func(t *testing.T) *gate.Gate {
	return func(t *testing.T) *gate.Gate {
		t.Helper()
		g := new(gate.Gate)
		for range 3 {
			refuse(t, g, hint)
			require.True(t, g.Paused(time.Now()), "the server has said so")
		}
		return g
	}
}

// refuse sends an attempt through the gate as soon as one may go, and has it
// refused at once.
func refuse(t *testing.T, g *gate.Gate, hint time.Duration) {
	t.Helper()
	s, err := g.Admit(t.Context(), first, time.Hour, ignore)
	require.NoError(t, err)
	g.Done(s, limit.Route{}, time.Now(), limit.Result{Outcome: limit.Refused, Hint: hint, MaxWait: maxWait})
}

// TestAConfirmedLimit: what a trial has found, or the server says, is no belief. Then
// a caller that would have to wait for too long is told at once.
func TestAConfirmedLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := new(gate.Gate)
		ctx, stop := context.WithCancel(t.Context())
		bucket := rate.NewLimiter(10, 5)
		for range 40 {
			go func() {
				for {
					s, err := g.Admit(ctx, first, time.Hour, ignore)
					if err != nil {
						return
					}
					accepted := bucket.Allow()
					time.Sleep(10 * ms)
					r := limit.Result{Outcome: limit.Accepted, MaxWait: maxWait}
					if !accepted {
						r.Outcome = limit.Refused
					}
					g.Done(s, limit.Route{}, time.Now(), r)
				}
			}()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		now := time.Now()
		views := g.Snapshot(now).Limits
		require.Len(t, views, 1)
		require.Equal(t, limit.Rate, views[0].State)
		require.InDelta(t, 10, views[0].Rate, 2)
		require.False(t, views[0].Confirmed.IsZero())

		// While it is not known how long the queue takes, nobody is told.
		var refusal *gate.RefusalError
		for range 1000 {
			start := time.Now()
			s, err := g.Admit(t.Context(), first, time.Second, ignore)
			if err != nil && time.Since(start) == 0 {
				require.ErrorAs(t, err, &refusal)
				break
			}
			if err == nil {
				g.Done(s, limit.Route{}, time.Now(), limit.Result{})
			}
		}
		require.NotNil(t, refusal)
		require.Equal(t, gate.RateLimit, refusal.Reason)
		require.InDelta(t, 4, refusal.Wait.Seconds(), 1, "40 are before it")
		d, bounded := g.RetryDelay(time.Now(), first)
		require.Positive(t, d)
		require.True(t, bounded)

		begun := false
		_, err := g.Admit(t.Context(), first, 10*time.Second, func(string, time.Duration) { begun = true })
		require.NoError(t, err)
		require.True(t, begun)
		stop()
		synctest.Wait()
		require.Zero(t, g.Snapshot(time.Now()).Waiting)
	})
}

// TestPlacesAreNotWasted: more is asked than a limit lets through, by callers who give up.
// Each place went to the one who had waited longest, and so to one who gave up before the
// answer came: of 10 a second none was of use.
func TestPlacesAreNotWasted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const patience, service = 3 * time.Second, 300 * ms
		g := new(gate.Gate)
		bucket := rate.NewLimiter(10, 5)
		var answered atomic.Int64
		call := func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			for ctx.Err() == nil {
				s, err := g.Admit(ctx, first, maxWait, ignore)
				if err != nil {
					return
				}
				r, took := limit.Result{Outcome: limit.Refused, MaxWait: maxWait}, 10*ms
				if bucket.Allow() {
					r.Outcome, took = limit.Accepted, service
				}
				if time.Sleep(took); ctx.Err() != nil {
					r.Outcome = limit.Unanswered
				}
				g.Done(s, limit.Route{}, time.Now(), r)
				if r.Outcome == limit.Accepted {
					answered.Add(1)
					return
				}
				time.Sleep(100 * ms)
			}
		}
		arrivals := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(33 * ms) {
				go call()
			}
		}
		arrivals(time.Minute)
		before := answered.Load()
		arrivals(time.Minute)
		require.Greater(t, answered.Load()-before, int64(0.85*10*60))
		time.Sleep(time.Hour)
		require.Zero(t, g.Snapshot(time.Now()).Waiting)
	})
}

func TestAdmitAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := limited(1, 1)
		s, err := g.Admit(t.Context(), first, maxWait, func(string, time.Duration) { t.Error("it does not wait") })
		require.NoError(t, err)
		require.Equal(t, time.Now(), s.Arrived)
		g = new(gate.Gate)
		g.TryOne(time.Now())
		require.True(t, g.TryAdmit(&s, first), "nor does the one that is tried")
		require.Equal(t, time.Now(), s.Arrived)
		require.False(t, g.TryAdmit(&s, first))
		arrived := time.Now().Add(-time.Hour)
		require.True(t, new(gate.Gate).TryAdmit(&s, gate.Attempt{Arrived: arrived, Costs: gate.Costs{1}}))
		require.Equal(t, arrived, s.Arrived, "it keeps its place if it is refused again")
	})
}

// TestPassedAndCanceledAtOnce: an attempt that passes in the instant in which its
// context ends has gone or has not. A token that it took is not lost.
func TestPassedAndCanceledAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		passed, canceled := 0, 0
		for range 100 {
			g := limited(1, 1)
			var s gate.Stamp
			require.True(t, g.TryAdmit(&s, first))
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			tokens := 1.0
			if _, err := g.Admit(ctx, first, maxWait, ignore); err == nil {
				passed++
				tokens = 0
			} else {
				canceled++
			}
			require.InDelta(t, tokens, g.Snapshot(time.Now()).Tokens[0], 1e-6)
			cancel()
		}
		require.Equal(t, 100, passed+canceled)
	})
}

// TestPassedAtTheEndOfTheLongestWait: the same with the end of the longest wait.
func TestPassedAtTheEndOfTheLongestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 100 {
			g := looking(1)(t)
			_, err := g.Admit(t.Context(), first, time.Second, ignore)
			require.NoError(t, err, "its turn comes at the end of the second wait")
			require.Zero(t, g.Snapshot(time.Now()).Waiting)
		}
	})
}

// TestNewcomersAreToldAtOnce: if everything has been refused for longer than the
// longest wait, and somebody waits to find out when that ends, others need not.
func TestNewcomersAreToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, start := watch(new(gate.Gate)), time.Now()
		for time.Since(start) < 2*maxWait {
			refuse(t, p.Gate, 0)
		}
		require.Empty(t, p.order())
		p.admit(t.Context(), "a", first)
		p.admit(t.Context(), "b", first)
		require.Equal(t, []string{"b: rate limit"}, p.order(), "b is told")
		d, _ := p.RetryDelay(time.Now(), first)
		require.Positive(t, d)
		time.Sleep(maxWait)
		synctest.Wait()
		require.Equal(t, []string{"b: rate limit", "a"}, p.order(), "a finds out")
		p.accepted("a")
		p.admit(t.Context(), "c", first)
		p.admit(t.Context(), "d", first)
		p.accepted("c")
		require.Equal(t, []string{"b: rate limit", "a", "c", "d"}, p.order(), "it is over")
	})
}

// TestFewestAttemptsGoFirst: while the server refuses everything, the attempts in
// front would use up all that their calls have.
func TestFewestAttemptsGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := watch(new(gate.Gate))
		for range 12 {
			refuse(t, p.Gate, 0)
			time.Sleep(10 * ms)
		}
		for _, a := range []struct {
			name   string
			number int
		}{{"third", 3}, {"first", 1}, {"second", 2}, {"second too", 2}} {
			p.admit(t.Context(), a.name, gate.Attempt{Number: a.number, Costs: gate.Costs{1}})
		}
		require.Equal(t, 4, p.Snapshot(time.Now()).Waiting)
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, []string{"first", "second", "second too", "third"}, p.order())
	})
}

// TestLikelyRefusalsGoToThoseWhoHaveLostLeast: what a look and a trial cost was paid by the
// few in front, who were refused before, and some of their calls failed.
func TestLikelyRefusalsGoToThoseWhoHaveLostLeast(t *testing.T) {
	wait := func(t *testing.T, p *passes) {
		t.Helper()
		for i, number := range []int{3, 2, 2, 1, 1, 1, 1, 1} {
			p.admit(t.Context(), fmt.Sprintf("%d, of number %d", i, number), gate.Attempt{Number: number, Costs: gate.Costs{1}})
		}
	}
	t.Run("look", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := suspect(t)
			refuse(t, p.Gate, 0)
			wait(t, p)
			time.Sleep(10 * ms)
			synctest.Wait()
			require.Equal(t, []string{"3, of number 1"}, p.order())
			p.accepted("3, of number 1")
			require.Equal(t, []string{"0, of number 3", "1, of number 2", "3, of number 1"}, slices.Sorted(slices.Values(p.order())), "refusals are not likely any more")
		})
	})
	t.Run("trial", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := suspect(t)
			p.admit(t.Context(), "a", first)
			p.accepted("a")
			p.admit(t.Context(), "b", first)
			wait(t, p)
			require.Equal(t, []string{"0, of number 3", "a", "b"}, slices.Sorted(slices.Values(p.order())), "two follow")
			p.refused("b", 0)
			require.Equal(t, []string{"0, of number 3", "3, of number 1", "4, of number 1", "5, of number 1", "6, of number 1", "a", "b"},
				slices.Sorted(slices.Values(p.order())), "a volley")
		})
	})
}

// TestLastAttemptsWaitForAPace: as long as a pace is hardly known it is wrong now and then,
// and calls failed because it was their last attempt that showed it.
func TestLastAttemptsWaitForAPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := suspect(t)
		p.admit(t.Context(), "a", first)
		time.Sleep(100 * ms)
		p.accepted("a")
		p.admit(t.Context(), "b", first)
		p.refused("b", 0)
		require.Equal(t, limit.Rate, p.Snapshot(time.Now()).Limits[0].State)
		p.admit(t.Context(), "c", first)
		p.admit(t.Context(), "last", gate.Attempt{Number: 4, Last: true, Costs: gate.Costs{1}})
		for i := range 12 {
			p.admit(t.Context(), fmt.Sprintf("first %02d", i), first)
		}
		for seen := 2; seen < 16; {
			time.Sleep(10 * ms)
			synctest.Wait()
			for _, name := range p.order()[seen:] {
				seen++
				p.accepted(name)
			}
		}
		place := slices.Index(p.order(), "last")
		require.Equal(t, 9, place, "others find the pace, and it does not wait for all of them")
	})
}

// suspect returns a gate that looks for a limit because of a row of refusals.
func suspect(t *testing.T) *passes {
	t.Helper()
	p := watch(new(gate.Gate))
	for range 3 {
		refuse(t, p.Gate, 0)
	}
	require.Equal(t, limit.Looking, p.Snapshot(time.Now()).Limits[0].State)
	return p
}

// TestLastAttempts: while everything is refused, the last attempt of a call is kept
// until others have found out that this is over, or it can wait no longer.
func TestLastAttempts(t *testing.T) {
	last := gate.Attempt{Number: 4, Retry: true, Last: true, Costs: gate.Costs{1}}
	closed := func(t *testing.T) *passes {
		t.Helper()
		p := watch(new(gate.Gate))
		p.TryOne(time.Now()) // next to nothing was refused before
		for range 8 {
			refuse(t, p.Gate, 0)
		}
		p.start = time.Now()
		return p
	}
	for _, tt := range []struct {
		name string
		run  func(t *testing.T, p *passes)
		want []string
		why  string
	}{
		{"alone", func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "last", last)
			time.Sleep(maxWait / 2)
		}, []string{"last"}, "nobody else finds out"},
		{"with another last one that gives up", func(t *testing.T, p *passes) {
			t.Helper()
			ctx, cancel := context.WithCancelCause(t.Context())
			p.admit(t.Context(), "last", last)
			p.admit(ctx, "last too", last)
			time.Sleep(time.Second)
			cancel(errEnough)
			time.Sleep(maxWait / 2)
		}, []string{"last too: enough", "last"}, "it is alone then, and goes after as long again as all was refused"},
		{"with another one", func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "last", last)
			p.admit(t.Context(), "last too", last)
			p.admit(t.Context(), "first", first)
			time.Sleep(maxWait / 2)
		}, []string{"first"}, "it finds out"},
		{"with another one that is accepted", func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "last", last)
			p.admit(t.Context(), "last too", last)
			p.admit(t.Context(), "first", first)
			time.Sleep(maxWait / 2)
			p.accepted("first")
			time.Sleep(maxWait / 4)
		}, []string{"first", "last", "last too"}, "it is over"},
		{"with last ones only", func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "last", last)
			p.admit(t.Context(), "last too", last)
			time.Sleep(maxWait - ms)
			require.Empty(t, p.order(), "each hopes for the other one")
			time.Sleep(maxWait / 2)
		}, []string{"last", "last too"}, "in the end they go, or else they would fail"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := closed(t)
				tt.run(t, p)
				synctest.Wait()
				require.Equal(t, tt.want, p.order(), tt.why)
				time.Sleep(time.Hour)
			})
		})
	}
}

// TestALastAttemptHoldsNobody: while everything is refused, every ninth place is a
// retry's. If that was the last attempt of a call, which waits for others to find out
// when it is over, all others waited for it.
func TestALastAttemptHoldsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := watch(new(gate.Gate))
		p.TryOne(time.Now())
		for range 8 {
			refuse(t, p.Gate, 0)
		}
		p.admit(t.Context(), "last", gate.Attempt{Number: 4, Retry: true, Last: true, Costs: gate.Costs{1}})
		for i := range 20 {
			p.admit(t.Context(), fmt.Sprintf("first %02d", i), first)
		}
		seen := 0
		for range 400 { // 40 s
			time.Sleep(100 * ms)
			synctest.Wait()
			for _, name := range p.order()[seen:] {
				seen++
				p.done(name, limit.Refused, 0)
			}
		}
		require.Greater(t, seen, 12, "%v", p.order())
	})
}

// TestAHintThatIsOver: those who were held by it go. They waited on for another
// attempt to hang, and newcomers went before them.
func TestAHintThatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := watch(new(gate.Gate))
		p.admit(t.Context(), "a", first)
		p.refused("a", 3500*ms)
		for _, name := range []string{"b", "c", "d", "e", "f", "g"} {
			p.admit(t.Context(), name, first)
		}
		time.Sleep(3501 * ms)
		require.Zero(t, p.Snapshot(time.Now()).Waiting, "the hint was over a moment ago")
		p.admit(t.Context(), "h", first)
		require.Equal(t, []string{"a", "b", "c", "d", "e", "f", "g", "h"}, p.order())
	})
}

// TestManyLeaveAtOnce: to take one out of the queue costs the same however many there
// are. With a walk through the queue each this would take minutes.
func TestManyLeaveAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name  string
		gate  func(t *testing.T) *gate.Gate
		each  int // in a goroutine: while one waits, the next one comes
		class func(i int) gate.Class
	}{
		{"a limit that is looked for", looking(0), 1, func(int) gate.Class { return gate.Class{} }},
		{"a token", used(1.0 / 3600), 8, func(int) gate.Class { return gate.Class{} }},
		{"a token, in flows", used(1.0 / 3600), 1, func(i int) gate.Class {
			return gate.Class{Priority: i % 3, Flow: strconv.Itoa(i % 100)}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := tt.gate(t)
				ctx, cancel := context.WithCancelCause(t.Context())
				var left atomic.Int64
				const goroutines = 5000 // the race detector allows for 8,128
				for i := range goroutines {
					var admit func(n int)
					admit = func(n int) {
						if n == 0 {
							<-ctx.Done()
							return
						}
						a := first
						a.Class = tt.class(i)
						_, err := g.Admit(ctx, a, maxWait, func(string, time.Duration) { admit(n - 1) })
						if err == errEnough { //nolint:errorlint // it is the cause itself
							left.Add(1)
						}
					}
					go admit(tt.each)
				}
				synctest.Wait()
				require.Equal(t, goroutines*tt.each, g.Snapshot(time.Now()).Waiting)
				cancel(errEnough)
				synctest.Wait()
				require.EqualValues(t, goroutines*tt.each, left.Load())
				require.Zero(t, g.Snapshot(time.Now()).Waiting)
			})
		})
	}
}

func TestBeginsPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := used(1)(t)
		require.PanicsWithValue(t, "hook", func() {
			_, _ = g.Admit(t.Context(), first, maxWait, func(string, time.Duration) { panic("hook") })
		})
		require.Zero(t, g.Snapshot(time.Now()).Waiting)
	})
}

func TestSnapshotAndIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := limited(1, 2)
		now := time.Now()
		require.True(t, g.Idle(now))
		require.False(t, g.Paused(now))
		require.Equal(t, gate.Snapshot{Tokens: gate.Costs{2}, Rates: gate.Costs{1}, Bursts: gate.Costs{2}}, g.Snapshot(now))
		var s gate.Stamp
		require.True(t, g.TryAdmit(&s, first))
		require.Equal(t, limit.Unknown, g.Done(s, limit.Route{}, now, limit.Result{Outcome: limit.Accepted}), "nothing to learn")
		require.False(t, g.Idle(now), "its bucket is not full")
		require.Equal(t, gate.Snapshot{Tokens: gate.Costs{1}, Rates: gate.Costs{1}, Bursts: gate.Costs{2}}, g.Snapshot(now))
		require.True(t, g.Idle(now.Add(time.Second)))

		g = new(gate.Gate)
		g.TryOne(now)
		require.False(t, g.Idle(now), "it looks for a limit")
		require.False(t, g.Paused(now))
		views := g.Snapshot(now).Limits
		require.Len(t, views, 1)
		require.Equal(t, limit.Looking, views[0].State)
		require.True(t, g.Idle(now.Add(time.Hour)), "nobody asked")

		g = paused(5 * time.Second)(t)
		now = time.Now()
		require.False(t, g.Idle(now))
		require.True(t, g.Paused(now))
		views = g.Snapshot(now).Limits
		require.Len(t, views, 1)
		require.Equal(t, limit.Paused, views[0].State)
		require.Equal(t, now.Add(5*time.Second), views[0].Until)
		d, bounded := g.RetryDelay(now, first)
		require.Equal(t, 5*time.Second, d)
		require.True(t, bounded, "the server's word")
		now = now.Add(5 * time.Second)
		require.False(t, g.Paused(now))
		d, _ = g.RetryDelay(now, first)
		require.Zero(t, d)
		require.False(t, g.Idle(now), "it was refused a moment ago")

		ctx, cancel := context.WithCancel(t.Context())
		g = used(1)(t)
		go func() { _, _ = g.Admit(ctx, first, maxWait, ignore) }()
		synctest.Wait()
		require.Equal(t, 1, g.Snapshot(time.Now()).Waiting)
		require.False(t, g.Idle(time.Now().Add(time.Hour)), "somebody waits")
		cancel()
	})
}

// TestQuota: the server says how much is left. What it says is what goes, and it is no
// belief.
func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := new(gate.Gate)
		start, sent := time.Now(), 0
		for time.Since(start) < time.Minute {
			s, err := g.Admit(t.Context(), first, maxWait, ignore)
			require.NoError(t, err)
			sent++
			left := 100 + 10*time.Since(start).Seconds() - float64(sent)
			require.Positive(t, left, "never overrun")
			time.Sleep(50 * ms)
			g.Done(s, limit.Route{}, time.Now(), limit.Result{
				Outcome: limit.Accepted, Told: true, Quota: waithint.Quota{Remaining: float64(int(left)), Rate: 10},
			})
		}
		require.InDelta(t, 700, sent, 15)
		now := time.Now()
		views := g.Snapshot(now).Limits
		require.Len(t, views, 1)
		require.Equal(t, limit.Told, views[0].State)
		require.InDelta(t, 10, views[0].Rate, 0.5)
		require.False(t, g.Idle(now))

		// Each waits for those before it, too.
		ctx, cancel := context.WithCancel(t.Context())
		var waits []time.Duration
		for range 8 {
			go func() {
				_, _ = g.Admit(ctx, first, maxWait, func(_ string, d time.Duration) { waits = append(waits, d) })
			}()
			synctest.Wait()
		}
		require.Greater(t, len(waits), 4, "the rest need not wait")
		for i := range waits[1:] {
			require.InDelta(t, 100*ms, waits[i+1]-waits[i], float64(10*ms), "what one more takes at 10 a second")
		}
		_, bounded := g.RetryDelay(now, first)
		require.True(t, bounded)
		cancel()
	})
}
