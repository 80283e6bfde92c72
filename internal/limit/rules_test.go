package limit_test

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/limit"
	"github.com/resilienthttp/resilient/internal/waithint"
)

var (
	users = limit.Route{Method: "GET", Path: "/users"}
	free  = limit.Route{Method: "GET", Path: "/free"}
)

func named(o limit.Outcome, name string) limit.Result { return limit.Result{Outcome: o, Name: name} }

func ban(d time.Duration) limit.Result { return limit.Result{Outcome: limit.Closed, Hint: d} }

// ownLimit has a route refused until it is held, while others are accepted.
func (d *desk) ownLimit(r limit.Route) {
	for range 4 {
		if d.key.Limit(r) != nil {
			return
		}
		d.row(1, r, refused())
		d.row(8, free, accepted())
	}
	require.NotNil(d, d.key.Limit(r))
}

// TestSuspicionOfSeveral has refusals of several routes, and of attempts from before the
// first one.
func TestSuspicionOfSeveral(t *testing.T) {
	before := func(d *desk, results ...limit.Result) {
		for _, r := range results {
			d.key.Done(limit.Stamp{}, all, d.now, r)
		}
	}
	for _, tt := range []struct {
		name string
		run  func(d *desk)
		held []limit.Route
		free []limit.Route
		why  string
	}{
		{"three routes, others accepted between", func(d *desk) {
			d.row(1, search, refused())
			d.row(1, free, accepted())
			d.row(1, items, refused())
			d.row(2, free, accepted())
			d.row(1, users, refused())
		}, nil, []limit.Route{search, items, users, free}, "several routes are no reason to expect less of chance"},
		{"two routes in a row", func(d *desk) {
			d.row(1, search, refused())
			d.row(1, items, refused())
			d.row(1, search, refused())
		}, []limit.Route{search, items}, []limit.Route{users}, "the other one was refused with it"},
		{"one of another route, and two", func(d *desk) {
			d.row(1, search, refused())
			d.row(2, items, refused())
		}, []limit.Route{search, items}, []limit.Route{users}, "two routes are not several, whichever was first"},
		{"a route, and none", func(d *desk) {
			d.row(3, search, refused())
		}, []limit.Route{search, all}, []limit.Route{items}, "the zero Route stands for all requests of the key"},
		{"a route, others accepted long before", func(d *desk) {
			d.row(100, items, accepted())
			d.row(3, search, refused())
		}, []limit.Route{search, all}, []limit.Route{items}, "that was no better a time for search"},
		{"a route that fares worse, and none", func(d *desk) {
			d.ownLimit(search)
		}, []limit.Route{search}, []limit.Route{all, items}, "the limit is not the key's"},
		{"a limit that is over, and another one", func(d *desk) {
			d.row(3, search, refused())
			d.over(search)
			d.row(3, items, refused())
		}, []limit.Route{items}, []limit.Route{search}, "a route is not held for what was refused before"},
		{"a limit for all that is over, and another one", func(d *desk) {
			d.row(1, search, refused())
			d.row(1, items, refused())
			d.row(1, users, refused())
			d.over(search)
			d.row(3, items, refused())
		}, []limit.Route{items}, []limit.Route{search, users}, "nor are all routes"},
		{"from before the first one, accepted between", func(d *desk) {
			before(d, refused(), accepted(), refused(), accepted(), refused())
		}, nil, []limit.Route{all}, "an acceptance from before makes up for a part of a refusal, as any does"},
		{"from before the first one, most refused", func(d *desk) {
			before(d, refused(), refused(), accepted(), refused(), refused())
		}, []limit.Route{all}, nil, "but not for all of them"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t)
			tt.run(d)
			d.holds(tt.held, tt.free, tt.why)
		})
	}
}

// TestRoutesOfOneName: the routes to which the server gives one name are as one route.
func TestRoutesOfOneName(t *testing.T) {
	for _, tt := range []struct {
		name string
		run  func(d *desk)
		held bool // items, a route of the same name as search
		why  string
	}{
		{"a refusal", func(d *desk) { d.row(1, search, named(limit.Refused, "core")) }, false, "it may be chance"},
		{"three refusals", func(d *desk) { d.row(3, search, named(limit.Refused, "core")) }, true, "a name has one limit"},
		{"a hint", func(d *desk) {
			d.row(1, search, limit.Result{Outcome: limit.Refused, Hint: time.Minute, Name: "core"})
		}, true, "it is about the name at most, and others go one by one"},
		{"three refusals, sent before the name was known", func(d *desk) {
			for _, name := range []string{"a", "b", "c"} {
				d.send(name, search)
			}
			for _, name := range []string{"a", "b", "c"} {
				d.done(name, named(limit.Refused, "core"))
			}
		}, true, "they count for the name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t)
			d.row(1, items, named(limit.Accepted, "core"))
			tt.run(d)
			require.Equal(t, tt.held, d.key.Limit(items) != nil, tt.why)
			require.Equal(t, tt.held, d.key.Limit(search) != nil, tt.why)
			require.Nil(t, d.key.Limit(users), "the name is not theirs")
		})
	}
}

// TestNamesAndRoutes has what a name changes when it comes.
func TestNamesAndRoutes(t *testing.T) {
	d := newDesk(t)
	d.row(3, search, named(limit.Refused, "core"))
	d.key.Limit(search).Waiting = 5
	d.key.Moved = false
	d.row(1, items, named(limit.Accepted, "core"))
	require.NotNil(t, d.key.Limit(items))
	require.True(t, d.key.Moved, "a route that is given a name has the limit of that name")
	d.key.Moved = false
	d.row(1, items, named(limit.Accepted, "core"))
	require.False(t, d.key.Moved, "it is told with each answer")

	d = newDesk(t)
	d.row(1, search, named(limit.Accepted, "core"))
	d.key.Moved = false
	d.row(1, search, named(limit.Accepted, "core"))
	require.False(t, d.key.Moved, "nothing is new")

	d = newDesk(t)
	for i, r := range []limit.Route{search, items, users} {
		d.row(1, r, named(limit.Accepted, name(i)))
	}
	for i, r := range []limit.Route{search, items, users} {
		d.row(1, r, named(limit.Refused, name(i)))
	}
	require.Empty(t, d.key.View(d.now), "the server says that they are three limits, and a refusal of one may be chance")

	d = newDesk(t)
	d.row(3, all, named(limit.Refused, "core"))
	require.Equal(t, all, d.key.View(d.now)[0].Route, "without routes, a name tells nothing apart")
}

// TestLongNames: a name that is too long for one is not believed.
func TestLongNames(t *testing.T) {
	for _, tt := range []struct {
		bytes    int
		believed bool
	}{{64, true}, {65, false}} {
		d := newDesk(t)
		d.row(1, items, named(limit.Accepted, strings.Repeat("x", tt.bytes)))
		d.row(3, search, named(limit.Refused, strings.Repeat("x", tt.bytes)))
		require.Equal(t, tt.believed, d.key.Limit(items) != nil, "%d bytes", tt.bytes)
	}
}

// TestOutcomesAfterALimit: an outcome that comes when the limit is over counts for the
// next one, even if the attempt was sent under the limit.
func TestOutcomesAfterALimit(t *testing.T) {
	d := newDesk(t)
	d.row(3, all, refused())
	d.others(5)
	d.row(1, all, accepted())
	d.send("a", all)
	d.send("b", all)
	d.others(0)
	d.sleep(2 * time.Second)
	d.accepted("a")
	require.Equal(t, limit.Free, d.state(all))
	require.Equal(t, limit.Unknown, d.refused("b", 0), "no limit was known")
	d.row(2, all, refused())
	require.Equal(t, limit.Looking, d.state(all), "three in a row")
}

// TestIdleWithoutAView: a limit that holds nobody back for long is over, although no
// person looks.
func TestIdleWithoutAView(t *testing.T) {
	d := newDesk(t)
	d.row(3, all, refused())
	d.sleep(2 * time.Minute)
	require.True(t, d.key.Idle(d.now))

	d = newDesk(t)
	d.row(3, all, refused())
	d.sleep(2 * time.Minute)
	require.Empty(t, d.key.View(d.now))

	d = newDesk(t)
	d.row(1, all, quota(5, 1))
	require.Equal(t, limit.Told, d.state(all))
	require.True(t, d.key.Idle(d.now), "a quota that is not believed yet is told again")
}

// TestAHintForTheKey: the server has asked the key to stay away until the latest of its
// hints is over, or an attempt is accepted.
func TestAHintForTheKey(t *testing.T) {
	d := newDesk(t)
	d.send("a", all)
	d.send("b", all)
	d.refused("a", 10*time.Second)
	d.refused("b", time.Second)
	d.sleep(5 * time.Second)
	require.True(t, d.key.Paused(d.now), "a shorter hint does not end it earlier")
	d.sleep(5 * time.Second)
	require.False(t, d.key.Paused(d.now))

	d = newDesk(t)
	d.row(1, all, hinted(10*time.Second))
	require.True(t, d.key.Paused(d.now))
	d.row(1, all, accepted())
	require.False(t, d.key.Paused(d.now))
}

// TestWhoeverWaits has limits that nobody asks for although somebody waits.
func TestWhoeverWaits(t *testing.T) {
	d := newDesk(t)
	d.row(3, all, refused())
	d.others(5)
	d.sleep(2 * time.Minute)
	require.Equal(t, limit.Looking, d.state(all), "it holds somebody back")

	d = newDesk(t)
	d.row(1, all, hinted(10*time.Second))
	d.others(5)
	d.sleep(10 * time.Second)
	require.Equal(t, limit.Free, d.state(all), "a hint is over when it says so, whoever waits")
}

// TestDown: where all fails with nothing to say that it is a limit, more of that is no
// suspicion until an attempt is accepted. The retry budget is what protects the server.
func TestDown(t *testing.T) {
	shed := limit.Result{Outcome: limit.Shed}
	for _, tt := range []struct {
		name string
		run  func(d *desk)
		want limit.State
		why  string
	}{
		{"still down", func(d *desk) { d.row(10, all, shed) }, limit.Free, "to hold anything helps nobody"},
		{"up, and refused", func(d *desk) {
			d.row(1, all, accepted())
			d.row(3, all, shed)
		}, limit.Looking, "that may be a limit"},
		{"down, and 429", func(d *desk) { d.row(3, all, refused()) }, limit.Looking, "that is a limit"},
		{"down, and a quota", func(d *desk) { d.row(1, all, quota(5, 1)) }, limit.Told, "it is up"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t)
			d.row(3, all, shed)
			for range 5 {
				d.wait(all)
				d.row(1, all, shed)
			}
			require.Equal(t, limit.Free, d.state(all))
			tt.run(d)
			require.Equal(t, tt.want, d.state(all), tt.why)
			if tt.want == limit.Told {
				require.Zero(t, d.key.Limit(all).ClosedFor(d.now))
			}
		})
	}
}

// TestAHintAtLast: a hint begins a pause at once if it comes with the refusal that makes
// the suspicion.
func TestAHintAtLast(t *testing.T) {
	for _, tt := range []struct {
		name   string
		routes []limit.Route
		server string // its name for them
	}{
		{"of one route", []limit.Route{search, search, search}, ""},
		{"of three", []limit.Route{search, items, users}, ""},
		{"of one name", []limit.Route{search, items, users}, "core"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t)
			for _, r := range tt.routes {
				d.row(1, r, named(limit.Accepted, tt.server))
			}
			for i, r := range tt.routes {
				res := named(limit.Refused, tt.server)
				if i == 2 {
					res.Hint = 10 * time.Second
				}
				d.row(1, r, res)
			}
			for _, r := range tt.routes {
				v, held := d.key.Held(d.now, r)
				require.True(t, held)
				require.Equal(t, limit.Paused, v.State, "%s", r)
			}
			require.Equal(t, 10*time.Second, d.key.Limit(tt.routes[0]).Refused(d.now))
		})
	}
}

// TestMoved: the key says that a route may have another limit, until the caller knows.
func TestMoved(t *testing.T) {
	d := newDesk(t)
	d.row(3, search, refused())
	require.True(t, d.key.Moved)
	d.key.Moved = false
	d.send("a", search)
	d.done("a", ban(10*time.Second))
	require.NotNil(t, d.key.Limit(items))
	require.True(t, d.key.Moved, "a ban holds all routes, whatever held the attempt that hears of it")

	d = newDesk(t)
	d.row(1, search, quota(5, 1))
	require.True(t, d.key.Moved, "so does a quota")

	d = newDesk(t)
	d.row(3, search, refused())
	d.key.Moved = false
	d.over(search)
	require.Nil(t, d.key.Limit(search))
	require.True(t, d.key.Moved, "those who wait for it are free")
}

// TestViewsOfRoutes has what people are told of the limits of routes.
func TestViewsOfRoutes(t *testing.T) {
	t.Run("one route that the key's limit holds", func(t *testing.T) {
		d := newDesk(t)
		d.row(3, search, refused())
		require.Equal(t, []limit.View{{Route: search, State: limit.Looking, Since: d.now}}, d.key.View(d.now), "it holds no other")
		v, held := d.key.Held(d.now, search)
		require.True(t, held)
		require.Equal(t, search, v.Route)
		_, held = d.key.Held(d.now, items)
		require.False(t, held)
	})
	t.Run("a route's own limit beside that of all", func(t *testing.T) {
		d := newDesk(t)
		d.ownLimit(search)
		for i := range 5 {
			d.row(1, limit.Route{Method: "GET", Path: "/" + name(i)}, refused())
		}
		for _, tt := range []struct{ route, limit limit.Route }{{search, search}, {items, all}, {free, all}} {
			v, held := d.key.Held(d.now, tt.route)
			require.True(t, held)
			require.Equal(t, tt.limit, v.Route)
		}
	})
	t.Run("the key's limit that holds all", func(t *testing.T) {
		d := newDesk(t)
		for _, r := range []limit.Route{search, items, users} {
			d.row(1, r, refused())
		}
		require.Equal(t, []limit.View{{State: limit.Looking, Since: d.now}}, d.key.View(d.now))
	})
	t.Run("a long path", func(t *testing.T) {
		d := newDesk(t)
		d.row(3, limit.Route{Method: "GET", Path: strings.Repeat("/users", 1000)}, refused())
		require.LessOrEqual(t, len(d.key.View(d.now)[0].Route.Path), 256, "it is for people, and kept for long")
	})
	t.Run("another one", func(t *testing.T) {
		d := newDesk(t)
		d.row(3, all, refused())
		d.over(all)
		d.row(20, all, accepted())
		d.row(3, all, refused())
		require.Zero(t, view(&d.key, d.now, all).Sent, "what was sent under an earlier one is not its own")
	})
	t.Run("a pause that is over", func(t *testing.T) {
		d := newDesk(t)
		threeHints(d, 10*time.Second)
		d.sleep(10 * time.Second)
		v, held := d.key.Held(d.now, all)
		require.True(t, held)
		require.Equal(t, limit.Looking, v.State)
	})
	t.Run("one that nobody asks for", func(t *testing.T) {
		d := newDesk(t)
		d.ownLimit(search)
		require.Len(t, d.key.View(d.now), 1)
		d.sleep(2 * time.Minute)
		require.Empty(t, d.key.View(d.now))
	})
	t.Run("one that nobody asks for is not kept", func(t *testing.T) {
		d := newDesk(t)
		d.ownLimit(search)
		require.False(t, d.key.Idle(d.now))
		d.sleep(2 * time.Minute)
		require.True(t, d.key.Idle(d.now))
	})
}

// TestClosedAgain: a server that has been open since is closed since it refused again.
func TestClosedAgain(t *testing.T) {
	d := newDesk(t)
	d.key.Look(d.now)
	knock := func() (first time.Time) {
		for i := range 8 {
			d.wait(all)
			if i == 0 {
				first = d.now
			}
			d.row(1, all, refused())
		}
		return first
	}
	knock()
	d.wait(all)
	d.others(5)
	d.row(1, all, accepted())
	d.others(0)
	d.sleep(30 * time.Second)
	first := knock()
	require.InDelta(t, d.now.Sub(first), d.key.Limit(all).ClosedFor(d.now), float64(20*ms))
}

// TestClosedAsLongAsBefore: a server that was closed for a time is likely to be closed for
// as long again, the longest time that it was.
func TestClosedAsLongAsBefore(t *testing.T) {
	d := newDesk(t)
	d.key.Look(d.now)
	closed := func(atLeast time.Duration) (first time.Time) {
		d.others(0)
		for n := 0; n < 6 || d.now.Sub(first) < atLeast; n++ {
			require.Less(t, n, 100)
			d.wait(all)
			if n == 0 {
				first = d.now
			}
			d.send("", all)
			d.sleep(ms)
			d.refused("", 0)
		}
		return first
	}
	opens := func() time.Time { return d.key.Limit(all).Opens(d.now) }
	first := closed(time.Minute)
	for range 2 {
		took := d.now.Sub(first)
		d.wait(all)
		d.others(5)
		d.send("open", all)
		d.accepted("open")
		require.Zero(t, opens(), "it is open")
		d.sleep(10 * time.Second)
		took = max(took, time.Minute)
		first = closed(0)
		require.Less(t, d.now.Sub(first), 30*time.Second)
		require.WithinRange(t, opens(), first.Add(time.Minute), first.Add(2*took+time.Second))
	}
}

// TestADeadServerIsNotClosed: nothing holds the last attempt of a call back where the
// server is down, and nobody waits for it to open.
func TestADeadServerIsNotClosed(t *testing.T) {
	d := newDesk(t)
	d.row(3, all, refused())
	l := d.key.Limit(all)
	for range 5 {
		d.wait(all)
		d.row(1, all, limit.Result{Outcome: limit.Shed})
	}
	require.Nil(t, d.key.Limit(all))
	require.Zero(t, l.Opens(d.now))
	require.Zero(t, l.ClosedFor(d.now))
}

// TestRulesOfAPause has what begins and ends a pause, and what is left of it then. See
// also TestPause.
func TestRulesOfAPause(t *testing.T) {
	t.Run("a ban longer than the longest wait", func(t *testing.T) {
		d := newDesk(t)
		d.row(1, all, ban(time.Hour))
		l := d.key.Limit(all)
		require.Equal(t, time.Hour, l.Refused(d.now), "the server's word")
		require.Equal(t, maxWait, d.wait(all), "one finds out when callers would have")
		require.Equal(t, limit.Looking, d.state(all))
		require.Zero(t, l.Refused(d.now), "which is not known until then")
		threeHints(d, 10*time.Second)
		require.Equal(t, limit.Paused, d.state(all))
		require.Equal(t, 10*time.Second, l.Refused(d.now), "the later word is that of the server now")
	})
	t.Run("a pace", func(t *testing.T) {
		d := newDesk(t)
		d.pace(1)
		for n := 0; !d.paused(); n++ {
			require.Less(t, n, 10)
			d.wait(all)
			d.send("", all)
			d.refused("", 10*time.Second)
		}
		d.sleep(ms) // its volley is over
		d.wait(all)
		d.send("probe", all)
		d.refused("probe", 20*time.Second) // it is longer than that
		d.now = view(&d.key, d.now, all).Until
		require.Equal(t, limit.Rate, d.state(all), "it goes on where it was")
	})
	t.Run("hints about one request, and a quota", func(t *testing.T) {
		d := newDesk(t)
		threeHints(d, 20*time.Second)
		d.wait(all)
		d.row(1, all, accepted())
		d.row(1, all, quota(5, 1))
		d.row(1, all, quota(0, 1))
		threeHints(d, 30*time.Second)
		require.False(t, d.paused(), "a quota makes no hint one for everybody")
	})
	t.Run("hints about one request, and none", func(t *testing.T) {
		d := newDesk(t)
		threeHints(d, 20*time.Second)
		d.wait(all)
		d.others(1)
		d.row(1, all, accepted())
		d.row(1, all, refused())
		threeHints(d, 30*time.Second)
		require.False(t, d.paused(), "nor does a refusal without a hint")
	})
	t.Run("nobody asks", func(t *testing.T) {
		d := newDesk(t)
		threeHints(d, 10*time.Minute)
		d.sleep(5 * time.Minute)
		require.True(t, d.paused(), "a pause is not forgotten for that")
		require.Equal(t, 5*time.Minute, d.key.Limit(all).Refused(d.now))
	})
	t.Run("the time of its probe", func(t *testing.T) {
		for _, tt := range []struct {
			hint, probe time.Duration
			why         string
		}{
			{4 * time.Second, time.Second, "a part of it"},
			{20 * time.Second, 2 * time.Second, "that is not long"},
			{24 * time.Hour, maxWait, "when callers would have found out"},
		} {
			d := newDesk(t)
			threeHints(d, tt.hint)
			require.True(t, d.paused())
			require.Equal(t, tt.probe, d.hold(all), tt.why)
		}
	})
	t.Run("a later word while it lasts", func(t *testing.T) {
		for _, tt := range []struct{ first, second, until, refused time.Duration }{
			{30 * time.Second, 10 * time.Second, 30 * time.Second, 30 * time.Second},
			{10 * time.Second, 30 * time.Second, 31 * time.Second, 31 * time.Second},
			{time.Hour, 10 * time.Second, maxWait, time.Hour},
		} {
			d := newDesk(t)
			d.send("a", all)
			d.send("b", all)
			d.done("a", ban(tt.first))
			d.sleep(time.Second)
			d.done("b", ban(tt.second))
			require.Equal(t, tt.until, view(&d.key, d.now, all).Until.Sub(begin()), "the longer one counts")
			require.Equal(t, tt.refused-time.Second, d.key.Limit(all).Refused(d.now))
		}
	})
	t.Run("hints that were about one request", func(t *testing.T) {
		d := newDesk(t)
		threeHints(d, 20*time.Second)
		d.wait(all)
		d.row(20, all, accepted())
		start := d.now
		for !d.paused() {
			d.wait(all)
			d.send("", all)
			d.sleep(ms)
			d.refused("", 20*time.Second)
			require.Less(t, d.now.Sub(start), time.Minute, "they are believed again where all is refused for as long")
		}
		require.Greater(t, d.now.Sub(start), 4*time.Second)
	})
	t.Run("too long", func(t *testing.T) {
		d := newDesk(t)
		d.row(1, all, ban(2*waithint.Max))
		require.Equal(t, waithint.Max, d.key.Limit(all).Refused(d.now), "nothing beyond it is meant")
	})
	t.Run("a quota while it lasts", func(t *testing.T) {
		d := newDesk(t)
		d.send("late", all)
		threeHints(d, 10*time.Second)
		told := quota(5, 1)
		told.Outcome = limit.Refused
		d.done("late", told)
		require.True(t, d.paused(), "it does not end a pause")
	})
	t.Run("an acceptance after a true one", func(t *testing.T) {
		d := newDesk(t)
		threeHints(d, 10*time.Second)
		d.wait(all)
		d.send("probe", all)
		d.refused("probe", 8*time.Second)
		d.wait(all)
		d.row(20, all, accepted())
		threeHints(d, 10*time.Second)
		require.True(t, d.paused())
		require.Less(t, d.hold(all), 5*time.Second, "the next one is tried again")
	})
	t.Run("a probe that is lost, and the pause over", func(t *testing.T) {
		d := newDesk(t)
		threeHints(d, 10*time.Second)
		d.wait(all)
		d.send("probe", all)
		d.wait(all)
		require.Equal(t, limit.Looking, d.state(all))
		d.done("probe", limit.Result{})
		d.send("a", all)
		require.Positive(t, d.hold(all), "one goes, and no other one for an attempt from before")
	})
	t.Run("some accepted", func(t *testing.T) {
		d := newDesk(t)
		d.row(3, all, refused())
		d.others(20)
		d.row(1, all, accepted())
		for range 3 {
			d.wait(all)
			d.sleep(ms) // a volley is over
			d.wait(all)
			d.send("", all)
			d.sleep(5 * ms)
			d.refused("", 10*time.Second)
		}
		require.True(t, d.paused())
		for range 4 {
			d.send("", all) // at the instant of the refusal
		}
		require.Positive(t, d.hold(all), "a volley tests whether it is true")
	})
	t.Run("nothing accepted", func(t *testing.T) {
		d := newDesk(t)
		d.row(3, all, refused())
		d.over(all)
		require.Equal(t, limit.Free, d.state(all))
		d.row(2, all, refused())
		d.row(1, all, refused())
		d.others(20)
		d.wait(all)
		d.send("", all)
		d.refused("", 10*time.Second)
		require.True(t, d.paused())
		require.Positive(t, d.hold(all), "nothing was accepted since it began, so nothing is to be tested")
	})
}

// TestTold has what becomes of a quota that is believed.
func TestTold(t *testing.T) {
	told := func(t *testing.T) *desk {
		t.Helper()
		d := newDesk(t)
		d.row(3, all, refused())
		d.others(5)
		d.row(1, all, quota(7, 100))
		require.Equal(t, limit.Looking, d.state(all), "it is not believed at once")
		d.row(40, all, quota(7, 100))
		require.Equal(t, limit.Told, d.state(all))
		return d
	}
	t.Run("more of it", func(t *testing.T) {
		d := told(t)
		since := view(&d.key, d.now, all).Since
		d.row(5, all, quota(7, 100))
		require.Equal(t, since, view(&d.key, d.now, all).Since, "the state began with the first one")
	})
	t.Run("nobody asks", func(t *testing.T) {
		d := told(t)
		d.others(0)
		d.sleep(2 * time.Minute)
		require.Equal(t, limit.Told, d.state(all), "it is the server's word")
	})
	t.Run("a ban", func(t *testing.T) {
		d := told(t)
		d.send("late", all)
		d.row(1, all, ban(10*time.Second))
		until := d.now.Add(10 * time.Second)
		d.done("late", quota(7, 100))
		require.Equal(t, limit.Paused, d.state(all), "an answer from before does not end it")
		d.now = until
		require.Equal(t, limit.Looking, d.state(all), "one goes, and is told")
	})
}

// TestSignsOfAnID: a digit makes an id, and no sign that is not one.
func TestSignsOfAnID(t *testing.T) {
	for _, tt := range []struct{ path, want string }{
		{"/users/x0", "GET /users/*"},
		{"/users/x9", "GET /users/*"},
		{"/my-items.json", "GET /my-items.json"},
		{"/items:search", "GET /items:search"},
	} {
		require.Equal(t, tt.want, limit.Route{Method: "GET", Path: tt.path}.String())
	}
}

// TestOneRefusalClosesNothing: the last attempt of a call goes at once, unless all is
// refused.
func TestOneRefusalClosesNothing(t *testing.T) {
	d := newDesk(t)
	d.key.Look(d.now)
	require.Zero(t, d.key.Limit(all).Opens(d.now), "nothing is known yet")
	require.Zero(t, d.key.Limit(all).ClosedFor(d.now))
	d.row(1, all, refused())
	require.NotZero(t, d.key.Limit(all).Opens(d.now))
}

// TestAKnockWithoutAnAnswer leaves things as they were before it: another one goes in
// its place.
func TestAKnockWithoutAnAnswer(t *testing.T) {
	d := newDesk(t)
	d.row(3, all, refused())
	for range 10 {
		d.wait(all)
		d.send("", all)
		d.refused("", 0)
	}
	require.Equal(t, limit.Rate, d.state(all))
	d.wait(all)
	d.send("lost", all)
	require.Positive(t, d.hold(all))
	d.done("lost", limit.Result{})
	require.Zero(t, d.hold(all))
}

// TestAVolleyFindsTheServerOpen: an attempt ahead of the limit that is accepted shows that
// not all is refused any more, as any does.
func TestAVolleyFindsTheServerOpen(t *testing.T) {
	d := newDesk(t)
	d.row(3, all, refused())
	for range 6 {
		d.wait(all)
		d.send("", all)
		d.sleep(ms)
		d.refused("", 0)
	}
	d.wait(all)
	d.send("", all)
	d.others(20)
	d.sleep(ms)
	d.refused("", 0)
	require.Positive(t, d.key.Limit(all).ClosedFor(d.now))
	d.send("ahead", all) // at the instant of the refusal
	d.accepted("ahead")
	require.Zero(t, d.key.Limit(all).ClosedFor(d.now))
}

// TestVolleys: if all of a volley is refused, another one of that size decides. If some is
// accepted, a larger one does.
func TestVolleys(t *testing.T) {
	for _, tt := range []struct {
		name     string
		accepted int // of the first volley
		next     int
	}{{"refused", 0, 4}, {"one is accepted", 1, 8}, {"two are", 2, 8}} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t)
			for d.key.Limit(all) == nil { // half is refused
				d.row(1, all, refused())
				d.row(1, all, accepted())
			}
			volley := func() (names []string) { // after a refusal
				d.sleep(ms)
				d.refused("last", 0)
				for d.hold(all) == 0 {
					names = append(names, strings.Repeat("v", len(names)+1))
					d.send(names[len(names)-1], all)
				}
				return names
			}
			d.send("first", all)
			d.sleep(100 * ms)
			d.accepted("first")
			d.send("last", all)
			d.others(40)
			names := volley()
			require.Len(t, names, 4)
			d.sleep(ms)
			for i, name := range names {
				if i < tt.accepted {
					d.accepted(name)
				} else {
					d.refused(name, 0)
				}
			}
			require.Zero(t, view(&d.key, d.now, all).Confirmed, "undecided")
			require.Equal(t, limit.Rate, d.state(all))
			d.wait(all)
			d.send("last", all)
			require.Len(t, volley(), tt.next)
		})
	}
}

// TestAttemptsOfAnEarlierLimit take no place of those that a later one lets go, and leave
// none when they end.
func TestAttemptsOfAnEarlierLimit(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  bool
	}{{"they hang", false}, {"they end", true}} {
		t.Run(tt.name, func(t *testing.T) {
			most := 8
			s := simulate(t, inFlight(&most, limit.Refused, 100*ms))
			s.key.Look(s.now)
			l := s.key.Limit(all)
			var sent []limit.Stamp
			send := func() { sent = append(sent, s.key.Sent(s.now, all, l, true, 1)) }
			accept := func() {
				s.now = s.now.Add(10 * ms)
				s.key.Done(sent[0], all, s.now, accepted())
				sent = sent[1:]
			}
			l.Waiting = 100
			send()
			for range 7 {
				accept()
				send()
				send()
			}
			l.Waiting = 0
			accept()
			require.Nil(t, s.key.Limit(all))
			require.Len(t, sent, 7)

			s.workers(32, one)
			s.run(30 * time.Second)
			require.Equal(t, limit.Flight, s.view(all).State)
			if tt.end {
				for _, stamp := range sent {
					s.key.Done(stamp, all, s.now, accepted())
				}
			}
			got := s.run(30 * time.Second)
			require.InDelta(t, most, s.view(all).InFlight, 1.5)
			require.Less(t, float64(got.refused), 0.03*float64(got.accepted))
		})
	}
}

// TestTheFirstRefusalAfterAPause: one refusal measures nothing, and the next attempt went a
// second later. What was accepted of one in a second was then taken for the rate, and a
// client of a fleet kept to a twentieth of its share.
func TestTheFirstRefusalAfterAPause(t *testing.T) {
	d := newDesk(t)
	d.row(1, all, limit.Result{Outcome: limit.Closed, Hint: time.Second})
	require.Equal(t, limit.Paused, d.state(all))
	d.sleep(2 * time.Second)
	d.others(10)
	d.send("a", all)
	d.sleep(10 * ms)
	d.accepted("a")
	require.Equal(t, limit.Looking, d.state(all))
	d.send("b", all)
	d.send("c", all)
	d.sleep(5 * ms)
	d.refused("b", 0)
	require.Equal(t, 10*ms, d.hold(all))
	d.refused("c", 0) // sent before that was known, so it measures nothing either
	require.Equal(t, 40*ms, d.hold(all))
}

// TestWhoFaresWell: what is accepted of a route says nothing of the others. A server with one
// route that refused by chance was taken for one that limits that route, again and again.
func TestWhoFaresWell(t *testing.T) {
	random := rand.New(rand.NewPCG(6, 7))
	s := simulate(t, func(time.Time, limit.Route) (limit.Result, time.Duration, func()) {
		if random.Float64() < 0.6 {
			return refused(), 5 * ms, nil
		}
		return accepted(), 20 * ms, nil
	})
	s.every(search, 200)
	s.run(3 * time.Minute)
	views := s.key.View(s.now)
	require.Len(t, views, 1, "the chance is that of the key")
	require.Empty(t, views[0].Route)
	require.InDelta(t, 0.6, views[0].Chance, 0.1)
}

// TestChanceOfOneRoute: chance that is found for a route is that of the route, and a hint
// is about one request again.
func TestChanceOfOneRoute(t *testing.T) {
	for _, hint := range []time.Duration{0, 200 * ms} {
		random := rand.New(rand.NewPCG(1, 4))
		s := simulate(t, func(_ time.Time, r limit.Route) (limit.Result, time.Duration, func()) {
			if r == search && random.Float64() < 0.3 {
				return hinted(hint), 5 * ms, nil
			}
			return accepted(), 20 * ms, nil
		})
		s.every(items, 80)
		s.every(search, 40)
		s.run(time.Minute)
		got := s.run(time.Minute)
		v := limit.View{}
		for _, view := range s.key.View(s.now) {
			if view.Route == search {
				v = view
			}
		}

		require.InDelta(t, 0.3, v.Chance, 0.15)
		require.Zero(t, got.byRoute[items].held)
		require.Less(t, got.byRoute[search].held, time.Second, "it is no limit: what is suspected now and then is denied at once")
		require.True(t, v.Since.After(begin()))
		stamp := s.key.Sent(s.now, search, nil, false, 1)
		require.Equal(t, limit.Chance, s.key.Done(stamp, search, s.now, hinted(hint)))
		s.now = s.now.Add(10 * time.Minute)
		require.True(t, s.key.Idle(s.now), "it is forgotten")
	}
}

// TestAQuotaAfterALimit: an attempt of a limit that is over by now brought the server's word
// about its quota, and that was lost.
func TestAQuotaAfterALimit(t *testing.T) {
	d := newDesk(t)
	d.ownLimit(search)
	d.wait(search)
	d.send("late", search)
	d.sleep(2 * time.Minute)
	require.Zero(t, d.hold(search), "it has held nobody back for long")
	require.Nil(t, d.key.Limit(search))
	d.done("late", limit.Result{Outcome: limit.Accepted, Told: true, Quota: waithint.Quota{Remaining: 0, Rate: 10, Reset: time.Second}})
	require.NotNil(t, d.key.Limit(search))
	require.Equal(t, limit.Told, d.state(all))
}

// TestLookingFindsInFlight: once one was refused with more under way than were accepted, twice
// as many have to be accepted at that bound. What is refused by chance looks like one for a
// moment.
func TestLookingFindsInFlight(t *testing.T) {
	d := newDesk(t)
	d.row(3, all, refused())
	d.others(100)
	var underWay []string
	accepted, bounded := 0, false
	for n := 0; d.state(all) == limit.Looking; n++ {
		require.Less(t, n, 100)
		for d.hold(all) == 0 {
			underWay = append(underWay, strconv.Itoa(len(d.attempts)))
			d.send(underWay[len(underWay)-1], all)
		}
		d.sleep(10 * ms)
		if last := len(underWay) - 1; last >= 8 { // there are eight places
			d.refused(underWay[last], 0)
			underWay, accepted, bounded = underWay[:last], 0, true
			continue
		}
		d.accepted(underWay[0])
		underWay = underWay[1:]
		accepted++
	}
	require.True(t, bounded)
	v := view(&d.key, d.now, all)
	require.Equal(t, limit.Flight, v.State, "at once, and not by way of a rate")
	require.InDelta(t, 7, v.InFlight, 1)
	require.GreaterOrEqual(t, accepted, 2*v.InFlight+2)
	require.Less(t, accepted, 40)
}

// TestNoVolley has refusals after which none goes ahead.
func TestNoVolley(t *testing.T) {
	for _, tt := range []struct {
		name    string
		waiting int
		way     time.Duration
		volley  bool
		why     string
	}{
		{"enough wait", 100, 5 * ms, true, "four of them"},
		{"few wait", 3, 30 * ms, false, "a bucket may have gained as much"},
		{"far away", 1000, time.Second, false, "it gains more than a volley is"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t)
			d.pace(100)
			d.volley(limit.Unanswered)
			d.wait(all)
			d.send("next", all)
			d.sleep(tt.way)
			d.others(tt.waiting)
			d.refused("next", 0)
			require.Equal(t, tt.volley, d.rush() > 1, tt.why)
		})
	}
}

// TestAQuotaCountsAttempts, whatever a request costs.
func TestAQuotaCountsAttempts(t *testing.T) {
	d := newDesk(t)
	d.key.Unit = 1000
	d.row(3, all, refused())
	d.others(5)
	d.row(41, all, quota(7, 100))
	v := view(&d.key, d.now, all)
	require.Equal(t, limit.Told, v.State)
	require.InDelta(t, 100, v.Rate, 1)
	require.False(t, v.OfCost)
}

// TestShortHintsBesideAQuota are about the request they come with: until there is one left
// for it, in whole seconds.
func TestShortHintsBesideAQuota(t *testing.T) {
	for _, tt := range []struct {
		hint   time.Duration
		paused bool
	}{{2 * time.Second, false}, {3 * time.Second, true}} {
		d := newDesk(t)
		d.row(5, all, quota(900, 1))
		threeHints(d, tt.hint)
		require.Equal(t, tt.paused, d.paused(), "%s", tt.hint)
	}
}

// TestADenialIsFollowedUp only when the limit has used up what a bucket has gained.
func TestADenialIsFollowedUp(t *testing.T) {
	d := newDesk(t)
	d.pace(100)
	d.volley(limit.Unanswered)
	// next has an attempt refused, and all that go ahead of the limit then have the outcome.
	next := func(o limit.Outcome) (ahead int) {
		d.wait(all)
		d.send("next", all)
		d.sleep(ms)
		d.refused("next", 0)
		return d.volley(o)
	}
	for view(&d.key, d.now, all).Confirmed.IsZero() {
		require.Positive(t, next(limit.Refused))
	}
	for d.sleep(10 * time.Second); next(limit.Accepted) == 0; {
		require.Less(t, d.now.Sub(begin()), time.Minute)
	}
	require.Equal(t, limit.Rate, d.state(all), "denied once, and confirmed once")
	denied := d.now
	for next(limit.Accepted) == 0 {
		require.Less(t, d.now.Sub(denied), time.Minute)
	}
	require.Greater(t, d.now.Sub(denied), 2*time.Second)
	require.Equal(t, limit.Free, d.state(all))
}
