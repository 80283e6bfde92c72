package limit_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/limit"
	"github.com/resilienthttp/resilient/internal/waithint"
)

// desk sends attempts through a key by hand.
type desk struct {
	*testing.T
	key      limit.Key
	now      time.Time
	attempts map[string]attempt
}

type attempt struct {
	route limit.Route
	stamp limit.Stamp
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	return &desk{T: t, now: begin(), attempts: make(map[string]attempt)}
}

func (d *desk) sleep(t time.Duration) { d.now = d.now.Add(t) }

// hold returns how long the next attempt of a route is held back.
func (d *desk) hold(r limit.Route) time.Duration {
	l := d.key.Limit(r)
	if l == nil {
		return 0
	}
	hold := l.Hold(d.now, 1)
	require.Equal(d, hold, l.Hold(d.now, 1), "it is the same if it is asked again")
	require.GreaterOrEqual(d, hold, time.Duration(0))
	return hold
}

// holds requires that these routes have a limit and those have none.
func (d *desk) holds(held, free []limit.Route, why string) {
	for _, r := range held {
		require.NotNil(d, d.key.Limit(r), "%s is held: %s", r, why)
	}
	for _, r := range free {
		require.Nil(d, d.key.Limit(r), "%s is free: %s", r, why)
	}
}

// send sends an attempt of a route that is not held back.
func (d *desk) send(name string, r limit.Route) {
	require.Zero(d, d.hold(r), "%s is held back", name)
	d.attempts[name] = attempt{r, d.key.Sent(d.now, r, d.key.Limit(r), false, 1)}
}

func (d *desk) done(name string, r limit.Result) limit.Cause {
	a, ok := d.attempts[name]
	require.True(d, ok)
	r.MaxWait = maxWait
	return d.key.Done(a.stamp, a.route, d.now, r)
}

func (d *desk) refused(name string, hint time.Duration) limit.Cause {
	return d.done(name, limit.Result{Outcome: limit.Refused, Hint: hint})
}

func (d *desk) accepted(name string) { d.done(name, accepted()) }

// over ends a look for the limit of a route: one is accepted, and nobody has waited for long.
func (d *desk) over(r limit.Route) {
	d.sleep(2 * time.Second)
	d.row(1, r, accepted())
}

// pace has the key's limit paced, at about 100 a second, with so many waiting. The last
// attempt was refused just now.
func (d *desk) pace(waiting int) {
	d.row(3, all, refused())
	d.others(waiting)
	for range 5 {
		d.wait(all)
		d.row(1, all, accepted())
	}
	d.row(1, all, refused())
	require.Equal(d, limit.Rate, d.state(all))
}

// rush sends all attempts that may go at this instant, named by their numbers from 0.
func (d *desk) rush() (n int) {
	for ; d.hold(all) == 0; n++ {
		d.send(strconv.Itoa(n), all)
	}
	return n
}

// volley sends all attempts that may go at this instant, and gives them an outcome.
func (d *desk) volley(o limit.Outcome) (n int) {
	n = d.rush()
	d.sleep(ms)
	for i := range n {
		d.done(strconv.Itoa(i), limit.Result{Outcome: o})
	}
	return n
}

// shut has everything refused: three in a row, and ten that knock.
func (d *desk) shut() {
	d.row(3, all, refused())
	for range 10 {
		d.wait(all)
		d.row(1, all, refused())
	}
}

// row sends so many attempts, one after the other and 10 ms apart, that all have the
// same outcome.
func (d *desk) row(n int, r limit.Route, res limit.Result) {
	for range n {
		d.sleep(10 * ms)
		d.send("", r)
		d.done("", res)
	}
}

func (d *desk) paused() bool { return d.state(all) == limit.Paused }

func (d *desk) state(r limit.Route) limit.State { return view(&d.key, d.now, r).State }

// wait lets time pass until an attempt may go.
func (d *desk) wait(r limit.Route) time.Duration {
	hold := d.hold(r)
	require.Less(d, hold, 24*time.Hour)
	d.sleep(hold)
	return hold
}

// others makes the limit of a route believe that so many are waiting.
func (d *desk) others(n int) { d.key.Limit(all).Waiting = n }

func hinted(d time.Duration) limit.Result { return limit.Result{Outcome: limit.Refused, Hint: d} }

// TestStates has the transitions of the package doc.
func TestStates(t *testing.T) {
	shed := limit.Result{Outcome: limit.Shed}
	for _, tt := range []struct {
		name string
		run  func(d *desk)
		want limit.State
		why  string
	}{
		{"the zero key", func(*desk) {}, limit.Free, "nothing is known"},
		{"accepted", func(d *desk) { d.row(100, all, accepted()) }, limit.Free, "nothing is refused"},
		{"a refusal", func(d *desk) { d.row(1, all, refused()) }, limit.Free, "it may be chance"},
		{"two refusals", func(d *desk) { d.row(2, all, refused()) }, limit.Free, "they may be chance"},
		{"three refusals in a row", func(d *desk) { d.row(3, all, refused()) }, limit.Looking, "that is a suspicion"},
		{"three 503s in a row", func(d *desk) { d.row(3, all, shed) }, limit.Looking, "some servers limit so"},
		{"without an answer", func(d *desk) { d.row(20, all, limit.Result{}) }, limit.Free, "that says nothing"},
		{"refusals between others", func(d *desk) {
			for range 10 {
				d.row(1, all, refused())
				d.row(9, all, accepted())
			}
		}, limit.Free, "one of ten is no limit"},
		{"refusals without answers between", func(d *desk) {
			for range 10 {
				d.row(1, all, refused())
				d.row(9, all, limit.Result{})
			}
		}, limit.Free, "an attempt without an answer is taken for accepted"},
		{"every second one", func(d *desk) {
			for range 3 {
				d.row(1, all, refused())
				d.row(1, all, accepted())
			}
			d.row(1, all, refused())
		}, limit.Looking, "half of all are a suspicion too"},
		{"an hour apart", func(d *desk) {
			for range 10 {
				d.row(1, all, refused())
				d.sleep(time.Hour)
			}
		}, limit.Free, "refusals that are far apart say nothing"},
		{"two, and two an hour later", func(d *desk) {
			d.row(2, all, refused())
			d.sleep(time.Hour)
			d.row(2, all, refused())
		}, limit.Free, "they are no row"},
		{"refusals overtake", func(d *desk) {
			for i := range 16 {
				d.send(strconv.Itoa(i), all)
			}
			for i := range 4 {
				d.refused(strconv.Itoa(4*i), 0)
			}
		}, limit.Free, "they were not sent in a row"},
		{"from before the first one", func(d *desk) {
			for range 2 {
				d.key.Done(limit.Stamp{}, all, d.now, refused())
			}
		}, limit.Free, "nobody counted what was accepted"},
		{"three from before the first one", func(d *desk) {
			for range 3 {
				d.key.Done(limit.Stamp{}, all, d.now, refused())
			}
		}, limit.Looking, "all are refused"},
		{"accepted ones from before the first one", func(d *desk) {
			for range 3 {
				d.key.Done(limit.Stamp{}, all, d.now, refused())
				for range 4 {
					d.key.Done(limit.Stamp{}, all, d.now, accepted())
				}
			}
		}, limit.Free, "they count, too"},
		{"looking, and accepted", func(d *desk) {
			d.row(3, all, refused())
			d.row(1, all, accepted())
		}, limit.Looking, "those who were refused come back"},
		{"looking, and accepted for a while", func(d *desk) {
			d.row(3, all, refused())
			d.over(all)
		}, limit.Free, "nobody waits"},
		{"looking, and accepted while others wait", func(d *desk) {
			d.row(3, all, refused())
			d.others(5)
			d.row(1, all, accepted())
		}, limit.Looking, "until it is known what it is"},
		{"looking, and 503s", func(d *desk) {
			d.row(3, all, refused())
			for range 5 {
				d.wait(all)
				d.row(1, all, shed)
			}
		}, limit.Free, "the server is down, and to hold anything helps nobody"},
		{"looking, and all refused", func(d *desk) {
			d.row(3, all, refused())
			for range 4 {
				d.wait(all)
				d.row(1, all, refused())
			}
		}, limit.Rate, "a rate that is exhausted"},
		{"looking, and refused with as few under way as were accepted", func(d *desk) {
			d.row(3, all, refused())
			d.others(100)
			for range 5 {
				d.wait(all)
				d.row(1, all, accepted())
			}
			d.row(1, all, refused())
		}, limit.Rate, "a limit on those under way would accept it"},
		{"looking, and refused from before it began", func(d *desk) {
			for i := range 8 {
				d.send(strconv.Itoa(i), all)
			}
			for i := range 8 {
				d.sleep(ms)
				d.refused(strconv.Itoa(i), 0)
			}
		}, limit.Looking, "they tell nothing new"},
		{"a hint", func(d *desk) { d.row(1, all, hinted(10*time.Second)) }, limit.Looking, "others go one by one"},
		{"a hint, and accepted", func(d *desk) {
			d.row(1, all, hinted(10*time.Second))
			d.others(5)
			d.row(1, all, accepted())
		}, limit.Free, "it was about one request"},
		{"a hint, and refused without one", func(d *desk) {
			d.row(1, all, hinted(10*time.Second))
			d.row(1, all, refused())
			d.wait(all)
			d.row(1, all, refused())
		}, limit.Looking, "no pause without a hint"},
		{"three hints", func(d *desk) { threeHints(d, 10*time.Second) }, limit.Paused, "everything is refused"},
		{"a ban", func(d *desk) { d.row(1, all, limit.Result{Outcome: limit.Closed, Hint: 10 * time.Second}) }, limit.Paused, "it leaves no doubt"},
		{"a pause, and no answer to its probe", func(d *desk) {
			threeHints(d, 10*time.Second)
			d.wait(all)
			d.row(1, all, limit.Result{})
		}, limit.Paused, "that says nothing"},
		{"a pause, and its probe accepted", func(d *desk) {
			threeHints(d, 10*time.Second)
			require.Less(d, d.wait(all), 10*time.Second)
			d.send("probe", all)
			d.accepted("probe")
			d.over(all)
		}, limit.Free, "hints are about the request they come with"},
		{"a pause, and its probe accepted while others wait", func(d *desk) {
			threeHints(d, 10*time.Second)
			d.wait(all)
			d.others(5)
			d.send("probe", all)
			d.accepted("probe")
		}, limit.Looking, "step by step"},
		{"a pause, and its probe refused", func(d *desk) {
			threeHints(d, 10*time.Second)
			d.wait(all)
			d.send("probe", all)
			d.refused("probe", 8*time.Second)
		}, limit.Paused, "it is true"},
		{"told", func(d *desk) { d.row(1, all, quota(5, 1)) }, limit.Told, "the server says what is left"},
		{"told, and refused with much left", func(d *desk) {
			d.row(3, all, quota(900, 1))
			d.row(2, all, refused())
		}, limit.Told, "it is about something else"},
		{"told, and three refused with much left", func(d *desk) {
			d.row(3, all, quota(900, 1))
			d.row(3, all, refused())
		}, limit.Looking, "there is another limit"},
		{"told, and refused with little left", func(d *desk) {
			d.row(3, all, quota(1, 1))
			d.row(1, all, refused())
		}, limit.Rate, "the policy is the pace"},
		{"told while looking", func(d *desk) {
			d.row(3, all, refused())
			d.others(5)
			d.row(40, all, quota(7, 100))
		}, limit.Told, "the server's word is better"},
		{"another gate is closed", func(d *desk) { d.key.Look(d.now) }, limit.Looking, "one goes and finds out"},
		{"another gate is closed, and accepted", func(d *desk) {
			d.key.Look(d.now)
			d.row(1, all, accepted())
		}, limit.Free, "this one is not"},
		{"another gate is closed, and refused", func(d *desk) {
			d.key.Look(d.now)
			d.row(1, all, refused())
		}, limit.Looking, "perhaps this one is, too"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t)
			tt.run(d)
			require.Equal(t, tt.want, d.state(all), tt.why)
			if tt.want != limit.Told { // which may hold nothing back
				require.Equal(t, tt.want == limit.Free, d.key.Idle(d.now))
			}
			require.Equal(t, tt.want == limit.Free, d.key.Limit(all) == nil)
		})
	}
}

// threeHints has three attempts refused with a hint, as soon as they may go.
func threeHints(d *desk, hint time.Duration) {
	for range 3 {
		d.wait(all)
		d.send("", all)
		d.refused("", hint)
	}
}

func quota(left, rate float64) limit.Result {
	return limit.Result{Outcome: limit.Accepted, Told: true, Quota: waithint.Quota{Remaining: left, Rate: rate}}
}

// TestService: the time until an answer is that of the first one, and not an eighth of it. As
// long as it was too short, attempts went whose callers gave up just before the answer. So
// none was accepted, and nothing more was known of the time.
func TestService(t *testing.T) {
	d := newDesk(t)
	d.row(3, all, refused())
	l := d.key.Limit(all)
	require.Zero(t, l.Service())
	for i, tt := range []struct{ took, want time.Duration }{
		{40 * ms, 40 * ms},
		{20 * ms, 30 * ms},
		{30 * ms, 30 * ms},
		{30 * ms, 30 * ms},
		{30 * ms, 30 * ms},
		{30 * ms, 30 * ms},
		{30 * ms, 30 * ms},
		{30 * ms, 30 * ms},
		{70 * ms, 35 * ms}, // an eighth, from here on
		{75 * ms, 40 * ms},
	} {
		d.others(1)
		d.wait(all)
		d.send("a", all)
		d.sleep(tt.took)
		d.accepted("a")
		require.Equal(t, tt.want, l.Service(), "%d", i)
	}
}

// TestLooking: one goes, and each that is accepted lets two follow.
func TestLooking(t *testing.T) {
	d := newDesk(t)
	d.row(3, all, refused())
	require.True(t, d.key.Moved)
	l := d.key.Limit(all)
	require.False(t, l.Paces(), "nobody knows how long it takes")
	require.False(t, l.Certain(d.now))
	require.Zero(t, l.Behind(d.now, 100, 100))
	d.others(100)
	d.send("a", all)
	require.Positive(t, d.hold(all), "one")
	d.sleep(10 * ms)
	d.accepted("a")
	d.send("b", all)
	d.send("c", all)
	require.Positive(t, d.hold(all), "two")
	d.sleep(10 * ms)
	d.accepted("b")
	d.accepted("c")
	for _, name := range []string{"d", "e", "f", "g"} {
		d.send(name, all)
	}
	require.Positive(t, d.hold(all), "four")
	d.done("d", limit.Result{})
	d.send("h", all)
	require.Positive(t, d.hold(all), "a lost attempt leaves things as they were before it")
	hung := d.wait(all)
	require.Positive(t, hung)
	d.send("i", all)
	require.Equal(t, hung, d.hold(all), "one that hangs lets another one go after a time")
}

// TestKnocks: while all is refused, one attempt knocks ever more seldom.
func TestKnocks(t *testing.T) {
	d := newDesk(t)
	d.row(3, all, refused())
	start, last, knocks := d.now, time.Duration(0), 0 // see also TestKnocksBecomeFewer
	for d.now.Sub(start) < time.Hour {
		hold := d.wait(all)
		if d.now.Sub(start) > 10*time.Second {
			require.GreaterOrEqual(t, hold, last, "ever more seldom")
		}
		last = hold
		d.send("", all)
		d.sleep(ms)
		require.Equal(t, knocks >= 4, d.refused("", 0) == limit.KnownLimit, "it is known once it is no suspicion")
		knocks++
	}
	require.Less(t, knocks, 150)
	l := d.key.Limit(all)
	require.Equal(t, limit.Great, l.Risk(d.now))
	require.InDelta(t, time.Hour, l.ClosedFor(d.now), float64(3*time.Minute))
	require.LessOrEqual(t, last, time.Minute)
	require.Zero(t, l.Refused(d.now), "it does not say for how long")

	d.wait(all)
	d.others(2)
	d.send("open", all)
	d.accepted("open")
	require.Equal(t, limit.Small, l.Risk(d.now))
	require.Zero(t, l.ClosedFor(d.now))
}

// TestKnocksBecomeFewer: after four knocks ever more seldom, there were seven at once,
// see TestABusyKeyThatIsClosed.
func TestKnocksBecomeFewer(t *testing.T) {
	d := newDesk(t)
	d.row(3, all, refused())
	var last time.Duration
	for range 20 {
		hold := d.wait(all)
		require.GreaterOrEqual(t, 16*hold, last, "no later knock comes much sooner than that before it")
		last = hold
		d.send("", all)
		d.sleep(ms)
		d.refused("", 0)
	}
}

// TestLastAttempts: while all is refused, the last attempt of a call waits until
// others have found out that this is over, or for as long as it took before, or as long
// again. It was spent at once, and a minute that was used up failed eight calls of one
// that sends them one after the other.
func TestLastAttempts(t *testing.T) {
	d := newDesk(t)
	d.shut()
	l := d.key.Limit(all)
	opens := l.Opens(d.now)
	require.True(t, opens.After(d.now), "it is alone, and waits as long again as all was refused")
	d.now = opens
	require.False(t, l.Opens(d.now).After(d.now), "and then it goes")
	d.others(2)
	require.True(t, l.Opens(d.now).After(d.now.Add(time.Hour)), "the other one finds out")

	d = newDesk(t)
	d.row(3, all, refused())
	first := d.now.Add(-20 * ms)
	d.others(5)
	for d.now.Sub(first) < 800*ms {
		d.wait(all)
		d.send("", all)
		d.sleep(ms)
		d.refused("", 0)
		require.Less(t, d.key.Limit(all).Opens(d.now).Sub(first), 2*time.Second, "a limit of one a second, of which the others know no more")
	}

	d = newDesk(t)
	for range 300 {
		d.row(1, all, refused())
		d.row(4, all, accepted())
	}
	d.shut()
	d.others(2)
	require.True(t, d.key.Limit(all).Opens(d.now).IsZero(), "where much is refused anyway, nobody knows what is over")

	d = newDesk(t)
	for range 20 {
		d.row(1, all, refused())
		d.row(19, all, accepted())
	}
	d.shut()
	require.False(t, d.key.Limit(all).Opens(d.now).IsZero(), "where one of twenty is, somebody does")
}

// TestPause has the times of a pause.
func TestPause(t *testing.T) {
	const hint = 20 * time.Second
	paused := func(t *testing.T) (*desk, *limit.Limit) {
		t.Helper()
		d := newDesk(t)
		threeHints(d, hint)
		l := d.key.Limit(all)
		require.Equal(t, hint, l.Refused(d.now))
		require.True(t, l.Certain(d.now), "it is the server's word")
		require.Equal(t, d.now.Add(hint), view(&d.key, d.now, all).Until)
		return d, l
	}
	t.Run("a probe", func(t *testing.T) {
		d, l := paused(t)
		end := d.now.Add(hint)
		probe := d.wait(all)
		require.Less(t, probe, hint/2, "one goes early")
		d.send("probe", all)
		require.Equal(t, hint-probe, d.hold(all), "one")
		require.Equal(t, hint-probe, l.Refused(d.now))
		d.refused("probe", end.Sub(d.now))
		require.Equal(t, hint-probe, d.hold(all), "and no other one")
		d.wait(all)
		require.Equal(t, end, d.now)
		require.False(t, d.paused())
		require.Zero(t, l.Refused(d.now))
		d.send("next", all)
		require.Positive(t, d.hold(all), "one by one")
		d.refused("next", hint)
		require.True(t, d.paused(), "it goes on")
		require.Equal(t, hint, d.hold(all), "a pause after one that was true has no probe")
	})
	t.Run("disproved", func(t *testing.T) {
		d, _ := paused(t)
		d.wait(all)
		d.send("probe", all)
		d.accepted("probe")
		require.Zero(t, d.hold(all))
		threeHints(d, 2*hint)
		require.False(t, d.paused(), "hints are about one request")
		threeHints(d, 2*hint+ms)
		require.True(t, d.paused(), "except longer ones")
	})
	t.Run("longer than the longest wait", func(t *testing.T) {
		d := newDesk(t)
		threeHints(d, 24*time.Hour)
		require.True(t, d.paused())
		require.LessOrEqual(t, d.wait(all), maxWait, "one finds out when callers would have")
		d.send("probe", all)
		d.refused("probe", 24*time.Hour)
		require.True(t, d.paused())
		require.Greater(t, d.wait(all), 10*maxWait, "a hint that a probe has confirmed is believed longer")
		require.LessOrEqual(t, d.now.Sub(begin()), 2*time.Hour, "but a day is too long for one that has gone wrong")
		require.False(t, d.paused())
	})
	t.Run("a late refusal", func(t *testing.T) {
		d := newDesk(t)
		d.send("late", all)
		threeHints(d, hint)
		until := view(&d.key, d.now, all).Until
		d.refused("late", hint/2)
		require.Equal(t, until, view(&d.key, d.now, all).Until, "a shorter hint does not end it earlier")
	})
	t.Run("one that is over and nobody came", func(t *testing.T) {
		d, _ := paused(t)
		d.sleep(hint)
		require.False(t, d.paused())
		d.send("a", all)
		require.Positive(t, d.hold(all), "one by one")
	})
	t.Run("after a pace was known", func(t *testing.T) {
		s := simulate(t, newBucket(20, 5).server(limit.Refused))
		s.workers(32, one)
		s.run(30 * time.Second)
		server := s.server
		s.server = func(time.Time, limit.Route) (limit.Result, time.Duration, func()) { return hinted(hint), 5 * ms, nil }
		got := s.run(10 * time.Second)
		require.True(t, s.key.Paused(s.now))
		require.Positive(t, s.view(all).Rate, "it is not forgotten")
		require.Less(t, got.refused, 20, "one volley tests whether it is true, and one probe")
		s.server = server
		s.run(hint)
		require.Equal(t, limit.Rate, s.view(all).State, "it goes on where it was")
		require.Greater(t, s.run(10*time.Second).accepted, 150)
	})
}

// TestABanIsForAll: it pauses all routes at once.
func TestABanIsForAll(t *testing.T) {
	d := newDesk(t)
	d.row(1, search, limit.Result{Outcome: limit.Closed, Hint: 10 * time.Second})
	require.NotNil(t, d.key.Limit(items))
	require.True(t, d.paused())
	d.wait(items)
	d.send("a", items)
	d.done("a", limit.Result{Outcome: limit.Closed, Hint: 30 * time.Second})
	require.Equal(t, d.now.Add(30*time.Second), view(&d.key, d.now, all).Until)
	d.wait(search)
	d.wait(search)
	require.False(t, d.paused())
	d.over(search)
	require.Nil(t, d.key.Limit(items))
}

// TestABanInAVolley: attempts that go ahead of a limit hear of a ban, too. It was taken
// for acceptances, so the limit was taken for chance, and everything was let go.
func TestABanInAVolley(t *testing.T) {
	d := newDesk(t)
	d.pace(100)
	for _, name := range []string{"a", "b", "c", "d"} {
		d.send(name, all) // at the instant of the refusal
	}
	d.sleep(5 * ms)
	for _, name := range []string{"a", "b", "c", "d"} {
		d.done(name, limit.Result{Outcome: limit.Closed, Hint: time.Minute})
	}
	require.Equal(t, limit.Paused, d.state(all))
}

// TestScope has refusals of several routes.
func TestScope(t *testing.T) {
	users := limit.Route{Method: "GET", Path: "/users"}
	free := limit.Route{Method: "GET", Path: "/free"}
	for _, tt := range []struct {
		name       string
		run        func(d *desk)
		held, free []limit.Route
		why        string
	}{
		{"one route", func(d *desk) {
			d.row(3, search, refused())
		}, []limit.Route{search}, []limit.Route{items, free}, "a route that was not refused is not held"},
		{"one route, others accepted", func(d *desk) {
			for range 3 {
				d.row(1, search, refused())
				d.row(4, items, accepted())
			}
		}, []limit.Route{search}, []limit.Route{items, free}, "it is the limit of the route"},
		{"a hint", func(d *desk) { d.row(1, search, hinted(time.Minute)) }, []limit.Route{search}, []limit.Route{items, free}, "it is about the route at most"},
		{"three routes", func(d *desk) {
			d.row(1, search, refused())
			d.row(1, items, refused())
			d.row(1, users, refused())
		}, []limit.Route{search, items, users, free}, nil, "it is that of the key"},
		{"more routes than are counted", func(d *desk) {
			for i := range 2 { // so many in a row that none is accepted
				for j := range 2 + i {
					d.row(1, limit.Route{Method: "GET", Path: "/" + name(26*i+j)}, refused())
				}
			}
		}, []limit.Route{free}, nil, "an unbounded path is no way round it"},
		{"two routes with limits of their own", func(d *desk) {
			for range 3 {
				d.row(1, search, refused())
				d.row(8, free, accepted())
			}
			for range 3 {
				d.row(1, items, refused())
				d.row(8, free, accepted())
			}
		}, []limit.Route{search, items}, []limit.Route{free, users}, "each for itself"},
		{"a quota", func(d *desk) { d.row(1, search, quota(5, 1)) }, []limit.Route{search, items}, nil, "it is told with no route"},
		{"another gate", func(d *desk) { d.key.Look(d.now) }, []limit.Route{search, items}, nil, "it is about all"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t)
			tt.run(d)
			d.holds(tt.held, tt.free, tt.why)
		})
	}
}

// TestOwnLimit: the limits of two routes are not one.
func TestOwnLimit(t *testing.T) {
	d := newDesk(t)
	for _, r := range []limit.Route{search, items} {
		for range 3 {
			d.row(1, r, refused())
			d.row(8, limit.Route{Method: "GET", Path: "/free"}, accepted())
		}
	}
	require.NotSame(t, d.key.Limit(search), d.key.Limit(items))
	var routes []limit.Route
	for _, v := range d.key.View(d.now) {
		routes = append(routes, v.Route)
	}
	require.ElementsMatch(t, []limit.Route{search, items}, routes)
	d.over(search)
	require.Nil(t, d.key.Limit(search))
	require.NotNil(t, d.key.Limit(items))
	require.True(t, d.key.Moved)
}

// TestRoutesAreBounded: of many routes, those used last are known apart.
func TestRoutesAreBounded(t *testing.T) {
	d := newDesk(t)
	d.row(4, limit.Route{Method: "GET", Path: "/free"}, accepted())
	for i := range 26 * 26 {
		r := limit.Route{Method: "GET", Path: "/" + name(i)}
		for range 3 {
			if d.key.Limit(r) != nil {
				break
			}
			d.row(1, r, refused())
			d.row(12, limit.Route{Method: "GET", Path: "/free"}, accepted())
		}
	}
	views := d.key.View(d.now)
	require.LessOrEqual(t, len(views), 64+1)
	require.Greater(t, len(views), 32, "and it is 64")
}

// TestALimitedRouteStays: as long as there are routes without a limit, one of these is
// forgotten for a new one, and not one whose limit would have to be found again.
func TestALimitedRouteStays(t *testing.T) {
	d := newDesk(t)
	d.row(20, items, accepted())
	d.row(3, search, refused())
	require.NotNil(t, d.key.Limit(search))
	require.Nil(t, d.key.Limit(items))
	for i := range 26 * 26 {
		d.row(1, limit.Route{Method: "GET", Path: "/" + name(i)}, accepted())
		require.NotNil(t, d.key.Limit(search), "after %d others", i+1)
	}
}

// TestCounts: what is shown is how many were sent since there is a limit, and refused of these.
func TestCounts(t *testing.T) {
	d := newDesk(t)
	d.row(10, all, accepted())
	d.row(3, all, refused())
	d.others(5)
	for i, r := range []limit.Result{accepted(), accepted(), refused(), accepted()} {
		d.wait(all)
		d.send("", all)
		d.done("", r)
		refused := int64(0)
		if i >= 2 {
			refused = 1
		}
		v := view(&d.key, d.now, all)
		require.Equal(t, []int64{int64(i) + 1, refused}, []int64{v.Sent, v.Refused}, "%d", i)
	}
}

// TestStaleOutcomes: an attempt of an earlier time says nothing of the limit that there
// is now.
func TestStaleOutcomes(t *testing.T) {
	d := newDesk(t)
	d.row(3, all, refused())
	d.send("old", all)
	d.others(0)
	d.wait(all)
	d.row(1, all, accepted())
	require.Nil(t, d.key.Limit(all))
	d.row(3, all, refused())
	d.others(5)
	require.Equal(t, limit.Unknown, d.refused("old", 0))
	d.accepted("old")
	d.wait(all)
	d.send("a", all)
	require.Positive(t, d.hold(all), "its acceptance lets nobody follow")
}
