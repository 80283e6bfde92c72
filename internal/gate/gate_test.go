package gate_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient/internal/gate"
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
}

type pass struct {
	name string
	at   time.Duration
}

func watch(g *gate.Gate) *passes {
	return &passes{Gate: g, start: time.Now(), stamps: make(map[string]gate.Stamp)}
}

func (p *passes) note(name string, s gate.Stamp) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, pass{name, time.Since(p.start)})
	p.stamps[name] = s
}

// admit sends an attempt through the gate in a goroutine of its own.
func (p *passes) admit(ctx context.Context, name string, a gate.Attempt) {
	var s gate.Stamp
	if p.TryAdmit(&s, a.Arrived) {
		p.note(name, s)
		return
	}
	go func() {
		s, err := p.Admit(ctx, a, maxWait, func(string, time.Duration) {})
		if err == nil {
			p.note(name, s)
			return
		}
		p.note(fmt.Sprintf("%s: %v", name, err), s)
	}()
	synctest.Wait()
}

// stamp returns the stamp of an attempt that has passed.
func (p *passes) stamp(name string) gate.Stamp {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stamps[name]
}

func (p *passes) refused(name string, hint time.Duration, learn bool) {
	p.Refused(p.stamp(name), time.Now(), hint, maxWait, learn)
}

func (p *passes) accepted(name string) { p.Ended(p.stamp(name), time.Now(), true) }
func (p *passes) lost(name string)     { p.Ended(p.stamp(name), time.Now(), false) }

func TestGate(t *testing.T) {
	first := gate.Attempt{Number: 1}
	retry := gate.Attempt{Number: 2, Retry: true}
	for _, tt := range []struct {
		name string
		gate *gate.Gate
		run  func(t *testing.T, p *passes)
		want []pass
		why  string
	}{
		{"the zero gate", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.admit(t.Context(), "b", retry)
		}, []pass{{"a", 0}, {"b", 0}}, "nothing is known"},
		{"no limit", gate.New(0, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.admit(t.Context(), "b", first)
		}, []pass{{"a", 0}, {"b", 0}}, "a limit of 0 is none"},
		{"a bucket", gate.New(10, 2), func(t *testing.T, p *passes) {
			t.Helper()
			for _, name := range []string{"a", "b", "c", "d"} {
				p.admit(t.Context(), name, first)
			}
		}, []pass{{"a", 0}, {"b", 0}, {"c", 100 * ms}, {"d", 200 * ms}}, "its burst, then its rate"},
		{"first attempts and retries", gate.New(10, 1), func(t *testing.T, p *passes) {
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
		{"refused before", gate.New(10, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			time.Sleep(50 * ms)
			p.admit(t.Context(), "b", first)
			p.admit(t.Context(), "c", gate.Attempt{Number: 2, Arrived: time.Now().Add(-20 * ms)})
			p.admit(t.Context(), "d", gate.Attempt{Number: 2, Arrived: time.Now().Add(-10 * ms)})
		}, []pass{{"a", 0}, {"c", 100 * ms}, {"d", 200 * ms}, {"b", 300 * ms}}, "it keeps its place"},
		{"a pause", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.refused("a", 2*time.Second, false)
			for _, name := range []string{"b", "c", "d", "e", "f"} {
				p.admit(t.Context(), name, first)
			}
			time.Sleep(2010 * ms)
			p.accepted("b")
			synctest.Wait()
		}, []pass{{"a", 0}, {"b", 2 * time.Second}, {"c", 2010 * ms}, {"d", 2010 * ms}, {"e", 3 * time.Second}, {"f", 4 * time.Second}}, "then one, and two for each that is accepted, and one each second"},
		{"a pause that nobody waited for", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.refused("a", 2*time.Second, false)
			time.Sleep(4500 * ms)
			for _, name := range []string{"b", "c", "d", "e", "f"} {
				p.admit(t.Context(), name, first)
			}
		}, []pass{{"a", 0}, {"b", 4500 * ms}, {"c", 4500 * ms}, {"d", 4500 * ms}, {"e", 5 * time.Second}, {"f", 6 * time.Second}}, "the seconds since it ended are made up for"},
		{"a hint that is over", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.refused("a", 0, false)
			p.admit(t.Context(), "b", first)
			p.admit(t.Context(), "c", first)
		}, []pass{{"a", 0}, {"b", 0}, {"c", 0}}, "reading the body took as long"},
		{"a refusal without a hint", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.refused("a", 0, true)
			p.admit(t.Context(), "b", first)
			p.admit(t.Context(), "c", first)
			time.Sleep(100 * ms)
			p.lost("b")
			synctest.Wait()
		}, []pass{{"a", 0}, {"b", 0}, {"c", 100 * ms}}, "a lost attempt leaves things as they were before it"},
		{"a hint longer than the longest wait", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.refused("a", time.Hour, false)
			p.admit(t.Context(), "b", first)
			time.Sleep(maxWait)
			p.admit(t.Context(), "c", first)
			p.refused("c", 10*time.Second, false)
			p.admit(t.Context(), "d", first)
		}, []pass{{"a", 0}, {"b: pause", 0}, {"c", maxWait}, {"d", maxWait + 10*time.Second}}, "callers are told at once, and one finds out when the longest wait is over. The next hint is another one"},
		{"a deadline", gate.New(1, 1), func(t *testing.T, p *passes) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 500*ms)
			defer cancel()
			p.admit(ctx, "a", first)
			p.admit(ctx, "b", first)
		}, []pass{{"a", 0}, {"b: rate limit", 0}}, "a wait that cannot end well is not begun"},
		{"a retry that gives up", gate.New(10, 1), func(t *testing.T, p *passes) {
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
		{"one that gives up", gate.New(1, 1), func(t *testing.T, p *passes) {
			t.Helper()
			ctx, cancel := context.WithCancelCause(t.Context())
			p.admit(t.Context(), "a", first)
			p.admit(ctx, "b", first)
			p.admit(t.Context(), "c", first)
			time.Sleep(500 * ms)
			cancel(errors.New("enough"))
			synctest.Wait()
		}, []pass{{"a", 0}, {"b: enough", 500 * ms}, {"c", time.Second}}, "it takes no token with it"},
		{"a probe", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.refused("a", 4*time.Second, true)
			time.Sleep(4 * time.Second)
			p.admit(t.Context(), "b", first)
			p.refused("b", 4*time.Second, true)
			p.admit(t.Context(), "c", first)
			p.admit(t.Context(), "d", first)
			time.Sleep(1010 * ms)
			p.accepted("c")
			synctest.Wait()
			p.refused("d", 8*time.Second, false)
			p.admit(t.Context(), "e", first)
			p.refused("e", 8*time.Second+ms, false)
			p.admit(t.Context(), "f", first)
		}, []pass{{"a", 0}, {"b", 4 * time.Second}, {"c", 5 * time.Second}, {"d", 5010 * ms}, {"e", 5010 * ms}, {"f", 13011 * ms}}, "it was accepted, so hints are about one request, unless they are more than twice as long"},
		{"a probe takes a token", gate.New(0.5, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.refused("a", 4*time.Second, true)
			time.Sleep(4 * time.Second)
			p.admit(t.Context(), "b", first)
			p.refused("b", 4*time.Second, true)
			p.admit(t.Context(), "c", first)
		}, []pass{{"a", 0}, {"b", 4 * time.Second}, {"c", 6 * time.Second}}, "it is due after 1 s, and its token after 2 s"},
		{"no probe in a first pause", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.refused("a", 4*time.Second, true)
			time.Sleep(8 * time.Second)
			p.admit(t.Context(), "b", first)
			p.refused("b", 4*time.Second, true)
			p.admit(t.Context(), "c", first)
		}, []pass{{"a", 0}, {"b", 8 * time.Second}, {"c", 12 * time.Second}}, "the one before is over for as long as the hint"},
		{"a late refusal in a pause", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.admit(t.Context(), "a2", first)
			p.refused("a", 4*time.Second, true)
			p.refused("a2", 4*time.Second, true)
			time.Sleep(4 * time.Second)
			p.admit(t.Context(), "b", first)
			p.refused("b", 4*time.Second, true)
			p.admit(t.Context(), "c", first)
		}, []pass{{"a", 0}, {"a2", 0}, {"b", 4 * time.Second}, {"c", 5 * time.Second}}, "it was no probe, so the next pause has one"},
		{"a probe that is refused", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.refused("a", 4*time.Second, true)
			time.Sleep(4 * time.Second)
			p.admit(t.Context(), "b", first)
			p.refused("b", 4*time.Second, true)
			p.admit(t.Context(), "c", first)
			p.admit(t.Context(), "d", first)
			time.Sleep(1010 * ms)
			p.refused("c", 3*time.Second, true)
			synctest.Wait()
		}, []pass{{"a", 0}, {"b", 4 * time.Second}, {"c", 5 * time.Second}, {"d", 8010 * ms}}, "no other one goes before the pause is over"},
		{"where nobody waits", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.Refused(gate.Stamp{}, time.Now(), time.Hour, 0, true)
			p.admit(t.Context(), "a", first)
		}, []pass{{"a", 0}}, "nothing is held back"},
		{"one is tried", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.TryOne(time.Now())
			p.TryOne(time.Now())
			p.admit(t.Context(), "a", first)
			p.admit(t.Context(), "b", first)
			time.Sleep(10 * ms)
			p.accepted("a")
			synctest.Wait()
			p.accepted("b")
			p.admit(t.Context(), "c", first)
			p.admit(t.Context(), "d", first)
			p.admit(t.Context(), "e", first)
		}, []pass{{"a", 0}, {"b", 10 * ms}, {"c", 10 * ms}, {"d", 10 * ms}, {"e", 10 * ms}}, "nobody is left to hold back"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := watch(tt.gate)
				tt.run(t, p)
				time.Sleep(time.Hour)
				synctest.Wait()
				slices.SortStableFunc(p.all, func(a, b pass) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.name, b.name)) })
				require.Equal(t, tt.want, p.all, tt.why)
			})
		})
	}
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
				p, start := watch(gate.New(1, 1)), time.Now()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				at := func(i int) time.Time { return start.Add(time.Duration(i) * time.Microsecond) }
				wait := func(a gate.Attempt, longest time.Duration) error {
					_, err := p.Admit(ctx, a, longest, func(string, time.Duration) {})
					return err
				}
				p.admit(t.Context(), "a", gate.Attempt{Number: 1, Arrived: start})
				for _, class := range []struct {
					n     int
					retry bool
				}{{tt.firsts, false}, {tt.retries, true}} {
					for i := range class.n {
						go func() { _ = wait(gate.Attempt{Retry: class.retry, Number: 1, Arrived: at(2*i + 2)}, time.Hour) }()
						synctest.Wait()
					}
				}
				require.Equal(t, tt.firsts+tt.retries, p.Snapshot(start).Waiting)
				time.Sleep(time.Duration(tt.gone) * time.Second)
				a := gate.Attempt{Retry: tt.retry, Number: 1, Arrived: at(1000)}
				if tt.arrived > 0 {
					a.Arrived = at(2*tt.arrived + 1)
				}
				var refusal *gate.RefusalError
				require.ErrorAs(t, wait(a, ms), &refusal)
				require.Equal(t, gate.RateLimit, refusal.Reason)
				require.InDelta(t, time.Duration(tt.want)*time.Second, refusal.Wait, float64(ms), tt.why)
			})
		})
	}
}

func TestAWaitAsLongAsTheLongest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, start := gate.New(1, 1), time.Now()
		var s gate.Stamp
		require.True(t, g.TryAdmit(&s, time.Time{}))
		_, err := g.Admit(t.Context(), gate.Attempt{Number: 1}, time.Second, func(string, time.Duration) {})
		require.NoError(t, err)
		require.Equal(t, time.Second, time.Since(start))
	})
}

func TestAdmitAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate.New(1, 1)
		s, err := g.Admit(t.Context(), gate.Attempt{Number: 1}, 0, func(string, time.Duration) { t.Error("it does not wait") })
		require.NoError(t, err)
		require.Equal(t, time.Now(), s.Arrived)
		g = new(gate.Gate)
		g.TryOne(time.Now())
		require.True(t, g.TryAdmit(&s, time.Time{}), "nor does the one that is tried")
		require.False(t, g.TryAdmit(&s, time.Time{}))
		_, err = g.Admit(t.Context(), gate.Attempt{Number: 1}, ms, func(string, time.Duration) {})
		require.Equal(t, &gate.RefusalError{Reason: gate.Pause, Wait: time.Second}, err, "the next one goes in a second")
	})
}

// TestPassedAndCanceledAtOnce: an attempt that passes in the instant in which its
// context ends has gone or has not. A token that it took is not lost.
func TestPassedAndCanceledAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		passed, canceled := 0, 0
		for range 100 {
			g := gate.New(1, 1)
			var s gate.Stamp
			require.True(t, g.TryAdmit(&s, time.Time{}))
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			tokens := 1.0
			if _, err := g.Admit(ctx, gate.Attempt{Number: 1}, maxWait, func(string, time.Duration) {}); err == nil {
				passed++
				tokens = 0
			} else {
				canceled++
			}
			require.InDelta(t, tokens, g.Snapshot(time.Now()).Tokens, 1e-6)
			cancel()
		}
		require.Equal(t, 100, passed+canceled)
	})
}

// TestRefusedTimeIsAWaitOfItsOwn: a waiter stays for as long as the server refused
// everything meanwhile, on top of the longest wait, and no longer.
func TestRefusedTimeIsAWaitOfItsOwn(t *testing.T) {
	for _, tt := range []struct {
		name   string
		others int // that go before it
		took   time.Duration
		err    error
	}{
		{"its turn comes", 0, 70 * time.Second, nil},
		{"its turn does not come", 3, 130 * time.Second, &gate.RefusalError{Reason: gate.RateLimit, Wait: maxWait}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, start := gate.New(1.0/50, 1), time.Now()
				var s gate.Stamp
				require.True(t, g.TryAdmit(&s, time.Time{}))
				done := make(chan error, 1)
				go func() { // it would wait for 50 s
					_, err := g.Admit(t.Context(), gate.Attempt{Number: 1}, maxWait, func(string, time.Duration) {})
					done <- err
				}()
				time.Sleep(40 * time.Second)
				g.Refused(s, time.Now(), 30*time.Second, maxWait, false)
				for range tt.others {
					go func() {
						_, _ = g.Admit(t.Context(), gate.Attempt{Number: 2, Arrived: start.Add(-time.Hour)}, time.Hour, func(string, time.Duration) {})
					}()
				}
				require.Equal(t, tt.err, <-done)
				require.Equal(t, tt.took, time.Since(start))
				time.Sleep(time.Hour)
			})
		})
	}
}

// refuse sends an attempt through the gate as soon as one may go, and has it
// refused at once.
func refuse(t *testing.T, g *gate.Gate, hint time.Duration) {
	t.Helper()
	s, err := g.Admit(t.Context(), gate.Attempt{Number: 1}, time.Hour, func(string, time.Duration) {})
	require.NoError(t, err)
	g.Refused(s, time.Now(), hint, maxWait, true)
}

// TestFewestAttemptsGoFirst: while the server refuses everything, the attempts in
// front would use up all that their calls have.
func TestFewestAttemptsGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := watch(new(gate.Gate))
		for range 5 {
			refuse(t, p.Gate, 0)
			time.Sleep(time.Second)
		}
		for range 4 { // at the pace of a server that is closed
			refuse(t, p.Gate, 0)
		}
		for _, a := range []struct {
			name   string
			number int
		}{{"third", 3}, {"first", 1}, {"second", 2}, {"second too", 2}} {
			p.admit(t.Context(), a.name, gate.Attempt{Number: a.number})
		}
		require.Equal(t, 4, p.Snapshot(time.Now()).Waiting)
		time.Sleep(time.Hour)
		synctest.Wait()
		var order []string
		for _, pass := range p.all {
			order = append(order, pass.name)
		}
		require.Equal(t, []string{"first", "second", "second too", "third"}, order)
	})
}

// TestAServerThatWasClosed: after so many refusals in a row the pace says nothing,
// and the gate is opened step by step.
func TestAServerThatWasClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := new(gate.Gate)
		for range 20 {
			refuse(t, g, 0)
			time.Sleep(100 * ms)
		}
		s, err := g.Admit(t.Context(), gate.Attempt{Number: 1}, time.Hour, func(string, time.Duration) {})
		require.NoError(t, err)
		for range 9 {
			go func() {
				_, _ = g.Admit(t.Context(), gate.Attempt{Number: 1}, time.Hour, func(string, time.Duration) {})
			}()
		}
		synctest.Wait()
		require.False(t, g.Snapshot(time.Now()).Reopening)
		g.Ended(s, time.Now(), true)
		synctest.Wait()
		now := g.Snapshot(time.Now())
		require.Zero(t, now.Rate, "it is forgotten")
		require.True(t, now.Reopening)
		require.Equal(t, 6, now.Waiting, "one, and two for the one that was accepted")
		time.Sleep(time.Hour)
	})
}

// TestHintsHoldAgain: hints were seen to be about one request. When the server
// refuses everything for a quarter of a hint, that is over.
func TestHintsHoldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := new(gate.Gate)
		for range 2 {
			refuse(t, g, 4*time.Second)
			require.True(t, g.Paused(time.Now()))
		}
		s, err := g.Admit(t.Context(), gate.Attempt{Number: 1}, time.Hour, func(string, time.Duration) {})
		require.NoError(t, err)
		g.Ended(s, time.Now(), true) // a probe in the second pause
		require.False(t, g.Paused(time.Now()))

		start := time.Now()
		for range 3 {
			refuse(t, g, 4*time.Second)
			require.False(t, g.Paused(time.Now()), "about one request")
		}
		require.Less(t, time.Since(start), ms)
		time.Sleep(time.Until(start.Add(time.Second)))
		refuse(t, g, 4*time.Second)
		require.True(t, g.Paused(time.Now()))
	})
}

// TestTheQueueIsNotForever: a wait that turns out longer than the longest one ends.
func TestTheQueueIsNotForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate.New(1.0/50, 1)
		var s gate.Stamp
		require.True(t, g.TryAdmit(&s, time.Time{}))
		start := time.Now()
		done := make(chan error, 1)
		go func() { // it would wait for 50 s
			_, err := g.Admit(t.Context(), gate.Attempt{Number: 1}, maxWait, func(string, time.Duration) {})
			done <- err
		}()
		synctest.Wait()
		time.Sleep(10 * time.Second)
		// Others that arrived earlier go before it.
		for range 3 {
			go func() {
				_, _ = g.Admit(t.Context(), gate.Attempt{Number: 2, Arrived: start.Add(-time.Hour)}, 1000*time.Hour, func(string, time.Duration) {})
			}()
		}
		synctest.Wait()
		require.Equal(t, &gate.RefusalError{Reason: gate.RateLimit, Wait: maxWait}, <-done)
		require.Equal(t, maxWait, time.Since(start))
		time.Sleep(time.Hour)
	})
}

// server refuses attempts as a limit or by chance, and answers at once.
type server struct {
	p       *passes
	refuses func(n int) bool // the attempt, from 1
	hint    time.Duration
	n       int
	seen    int // passes that were answered
}

// answer answers all attempts that have passed, in their order.
func (s *server) answer() {
	for ; s.seen < len(s.p.all); s.seen++ {
		name := s.p.all[s.seen].name
		if strings.Contains(name, ":") {
			continue // it was refused at the gate
		}
		s.n++
		if s.refuses(s.n) {
			s.p.refused(name, s.hint, true)
		} else {
			s.p.accepted(name)
		}
		synctest.Wait()
	}
}

// TestChanceIsToldFromALimit: a pace that was learned from two refusals is tested
// in the breath of a refusal, by attempts that wait. If they are accepted, nothing
// is held back any more. If they are refused, it stays.
func TestChanceIsToldFromALimit(t *testing.T) {
	for _, tt := range []struct {
		name    string
		refuses func(n int) bool
		hint    time.Duration
		free    bool
		why     string
	}{
		{"one of four backends", func(n int) bool { return n%4 == 1 }, 0, true, "three of a volley are accepted, whoever they are"},
		{"one of four backends, with a hint", func(n int) bool { return n%4 == 1 }, time.Second, true, "a hint is about the request that it comes with"},
		{"one of three backends", func(n int) bool { return n%3 == 1 }, 0, true, "undecided at first, until more are accepted"},
		{"a limit", func(n int) bool { return n > 8 }, 0, false, "all of the volley are refused"},
		{"a limit, with a hint", func(n int) bool { return n > 8 }, time.Second, false, "all of the volley are refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := watch(new(gate.Gate))
				s := &server{p: p, refuses: tt.refuses, hint: tt.hint}
				for i := range 6000 { // a hundred a second, 50 ms away
					p.admit(t.Context(), strconv.Itoa(i), gate.Attempt{Number: 1})
					if i%5 == 4 {
						s.answer()
					}
					time.Sleep(10 * ms)
				}
				got := p.Snapshot(time.Now())
				require.Equal(t, tt.free, got.Waiting == 0 && got.Rate == 0 && got.PausedUntil.IsZero() && !got.Reopening, "%s: %+v", tt.why, got)
				if tt.free {
					require.Equal(t, 6000, s.n, "and nobody is refused")
				}
				require.Equal(t, tt.free, got.Chance > 0, "it is seen")
				time.Sleep(time.Hour)
			})
		})
	}
}

// TestChanceIsNotForEver: a limit that begins while refusals are by chance is
// found, because they become more.
func TestChanceIsNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := watch(new(gate.Gate))
		limited := false
		s := &server{p: p, refuses: func(n int) bool { return limited || n%5 == 1 }}
		for i := range 1000 {
			limited = i >= 500
			p.admit(t.Context(), strconv.Itoa(i), gate.Attempt{Number: 1})
			if i%2 == 1 {
				s.answer()
			}
			time.Sleep(20 * ms)
			if i == 499 {
				require.Zero(t, p.Snapshot(time.Now()).Waiting)
			}
		}
		require.Positive(t, p.Snapshot(time.Now()).Rate)
		require.Less(t, s.n, 700, "it is held to a pace")
		time.Sleep(time.Hour)
	})
}

func TestBeginsPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate.New(1, 1)
		var s gate.Stamp
		require.True(t, g.TryAdmit(&s, time.Time{}))
		require.PanicsWithValue(t, "hook", func() {
			_, _ = g.Admit(t.Context(), gate.Attempt{Number: 1}, maxWait, func(string, time.Duration) { panic("hook") })
		})
		require.Zero(t, g.Snapshot(time.Now()).Waiting)
	})
}

func TestSnapshotAndIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate.New(1, 2)
		now := time.Now()
		require.True(t, g.Idle(now))
		require.Equal(t, gate.Snapshot{Tokens: 2}, g.Snapshot(now))
		var s gate.Stamp
		require.True(t, g.TryAdmit(&s, time.Time{}))
		require.False(t, g.Idle(now), "its bucket is not full")
		require.Equal(t, gate.Snapshot{Tokens: 1}, g.Snapshot(now))
		require.True(t, g.Idle(now.Add(time.Second)))

		g = new(gate.Gate)
		g.Refused(gate.Stamp{}, now, 5*time.Second, maxWait, false)
		require.False(t, g.Idle(now))
		require.True(t, g.Paused(now))
		require.Equal(t, gate.Snapshot{PausedUntil: now.Add(5 * time.Second), Reopening: true}, g.Snapshot(now))
		require.Equal(t, 5*time.Second, g.RetryDelay(now))
		now = now.Add(5 * time.Second)
		require.False(t, g.Paused(now))
		require.Equal(t, gate.Snapshot{Reopening: true}, g.Snapshot(now))
		require.Zero(t, g.RetryDelay(now))
		require.False(t, g.Idle(now))
		require.False(t, g.Idle(now.Add(time.Minute)))
		require.True(t, g.Idle(now.Add(time.Minute+1)), "nobody asked for more than a minute")
	})
}

func TestAdvertised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Alone with 10 a second: what the server says is what goes.
		g := new(gate.Gate)
		start, sent := time.Now(), 0
		for time.Since(start) < time.Minute {
			var s gate.Stamp
			if !g.TryAdmit(&s, time.Time{}) {
				var err error
				s, err = g.Admit(t.Context(), gate.Attempt{Number: 1}, maxWait, func(string, time.Duration) {})
				require.NoError(t, err)
			}
			sent++
			left := 100 + 10*time.Since(start).Seconds() - float64(sent)
			require.Positive(t, left, "never overrun")
			time.Sleep(50 * ms)
			g.Advertised(s, time.Now(), waithint.Quota{Remaining: float64(int(left)), Rate: 10})
		}
		require.InDelta(t, 10, g.Snapshot(time.Now()).Rate, 0.5)
		require.InDelta(t, 700, sent, 15)
		require.False(t, g.Idle(time.Now()))

		// Each waits for those before it, too.
		ctx, cancel := context.WithCancel(t.Context())
		var waits []time.Duration
		for range 8 {
			go func() {
				_, _ = g.Admit(ctx, gate.Attempt{Number: 1}, maxWait, func(_ string, d time.Duration) { waits = append(waits, d) })
			}()
			synctest.Wait()
		}
		require.Greater(t, len(waits), 4, "the rest need not wait")
		for i := range waits[1:] {
			require.InDelta(t, 100*ms, waits[i+1]-waits[i], float64(10*ms), "what one more takes at 10 a second")
		}
		cancel()
		synctest.Wait()

		// The server's word is better than a reopening, but does not end a pause.
		left := waithint.Quota{Remaining: 5, Rate: 10}
		g.TryOne(time.Now())
		require.True(t, g.Snapshot(time.Now()).Reopening)
		g.Advertised(gate.Stamp{}, time.Now(), left)
		require.False(t, g.Snapshot(time.Now()).Reopening)
		g.Refused(gate.Stamp{}, time.Now(), 2*time.Second, maxWait, false)
		require.False(t, g.Paused(time.Now()), "a hint of 2 s is the time until there is one left")
		g.Refused(gate.Stamp{}, time.Now(), 2*time.Second+ms, maxWait, false)
		require.True(t, g.Paused(time.Now()))
		require.False(t, g.Snapshot(time.Now()).Reopening, "nor will it be reopened")
		g.Advertised(gate.Stamp{}, time.Now(), left)
		require.True(t, g.Paused(time.Now()))
		time.Sleep(2*time.Second + ms)
		require.False(t, g.Paused(time.Now()))
		require.False(t, g.Snapshot(time.Now()).Reopening, "the pace is known")
	})
}

// FuzzGate runs whatever order of arrivals, outcomes and cancellations against
// the rules that hold for all of them.
func FuzzGate(f *testing.F) {
	f.Add([]byte{0, 0, 0, 8, 1, 3, 0, 0, 2, 9, 9, 9, 4, 5, 6}, byte(5), byte(2))
	f.Add([]byte{0, 3, 0, 0, 0, 9, 9, 6, 9, 9, 0, 0, 9, 7, 9}, byte(0), byte(0))
	f.Add([]byte{0, 0, 0, 2, 2, 2, 5, 5, 9, 9, 9, 4, 0, 0, 9}, byte(0), byte(0))
	f.Fuzz(func(t *testing.T, ops []byte, limit, burst byte) {
		if len(ops) > 200 {
			t.Skip("long enough")
		}
		synctest.Test(t, func(t *testing.T) { play(t, ops, rate.Limit(limit%20), int(burst%5)+1) })
	})
}

// crowd is what fuzzed operations do to a gate.
type crowd struct {
	t      *testing.T
	gate   *gate.Gate
	ctx    context.Context
	cancel []context.CancelFunc

	mu       sync.Mutex
	arrivals int
	ended    int                  // Admits that have returned
	queued   [2]map[int]time.Time // when first attempts and retries passed; zero: not yet
	probes   map[time.Time]int    // attempts that passed in a pause, by its end
	passed   int
	open     []gate.Stamp // passed, and not answered yet
}

func play(t *testing.T, ops []byte, limit rate.Limit, burst int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	c := &crowd{
		t: t, gate: gate.New(limit, burst), ctx: ctx, probes: make(map[time.Time]int),
		queued: [2]map[int]time.Time{{}, {}},
	}
	start := time.Now()
	for _, op := range ops {
		switch op % 10 {
		case 0, 1:
			c.arrive(false)
		case 2:
			c.arrive(true)
		case 3:
			c.answer(func(s gate.Stamp) { c.gate.Refused(s, time.Now(), time.Duration(op)*100*ms, maxWait, op%20 < 10) })
		case 4:
			c.answer(func(s gate.Stamp) { c.gate.Refused(s, time.Now(), 0, maxWait, true) })
		case 5, 6:
			c.answer(func(s gate.Stamp) { c.gate.Ended(s, time.Now(), true) })
		case 7:
			c.answer(func(s gate.Stamp) { c.gate.Ended(s, time.Now(), false) })
		case 8:
			if n := len(c.cancel); n > 0 {
				c.cancel[int(op)%n]()
			}
		case 9:
			time.Sleep(time.Duration(op) * 10 * ms)
		}
		synctest.Wait()
		c.check(limit, burst, start)
	}
	time.Sleep(3 * maxWait) // the longest wait, another one, and the longest pause
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Equal(t, c.arrivals, c.ended, "no waiter is lost")
	require.Zero(t, c.gate.Snapshot(time.Now()).Waiting)
	if limit > 0 {
		require.InDelta(t, burst, c.gate.Snapshot(time.Now()).Tokens, 1e-6, "no token is lost")
	}
	for _, class := range c.queued {
		var last time.Time
		for _, id := range slices.Sorted(maps.Keys(class)) {
			require.False(t, class[id].Before(last), "order is kept within a class")
			last = class[id]
		}
	}
}

func (c *crowd) check(limit rate.Limit, burst int, start time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if limit > 0 {
		require.LessOrEqual(c.t, float64(c.passed), float64(burst)+float64(limit)*time.Since(start).Seconds()+1e-6, "tokens are conserved")
	}
	for _, n := range c.probes {
		require.LessOrEqual(c.t, n, 1, "at most one probe in a pause")
	}
}

func (c *crowd) arrive(retry bool) {
	ctx, cancel := context.WithCancel(c.ctx)
	c.cancel = append(c.cancel, cancel)
	c.mu.Lock()
	c.arrivals++
	id := c.arrivals
	c.mu.Unlock()
	var s gate.Stamp
	if c.gate.TryAdmit(&s, time.Time{}) {
		require.Zero(c.t, c.gate.Snapshot(time.Now()).Waiting, "nobody is overtaken")
		c.pass(s)
		c.mu.Lock()
		c.ended++
		c.mu.Unlock()
		return
	}
	class := 0
	if retry {
		class = 1
	}
	go func() {
		begun, queued := time.Now(), false
		s, err := c.gate.Admit(ctx, gate.Attempt{Retry: retry, Number: 1 + class}, maxWait, func(string, time.Duration) {
			queued = true
		})
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ended++
		if d := time.Since(begun); d > 3*maxWait {
			c.t.Errorf("waited for %v", d)
		}
		var refusal *gate.RefusalError
		switch {
		case err == nil:
			if queued {
				c.queued[class][id] = time.Now()
			}
			c.passLocked(s)
		case errors.As(err, &refusal):
			if !queued && refusal.Wait <= maxWait {
				c.t.Errorf("refused at once to wait for %v", refusal.Wait)
			}
		case !errors.Is(err, context.Canceled):
			c.t.Error(err)
		}
	}()
	synctest.Wait()
}

func (c *crowd) pass(s gate.Stamp) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.passLocked(s)
}

func (c *crowd) passLocked(s gate.Stamp) {
	c.passed++
	c.open = append(c.open, s)
	if until := c.gate.Snapshot(time.Now()).PausedUntil; until.After(time.Now()) {
		c.probes[until]++
	}
}

// answer takes the attempt that passed first and was not answered yet.
func (c *crowd) answer(f func(gate.Stamp)) {
	c.mu.Lock()
	if len(c.open) == 0 {
		c.mu.Unlock()
		return
	}
	s := c.open[0]
	c.open = c.open[1:]
	c.mu.Unlock()
	f(s)
}
