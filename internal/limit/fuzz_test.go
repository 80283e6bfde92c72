package limit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/limit"
	"github.com/resilienthttp/resilient/internal/waithint"
)

// FuzzKey has attempts and outcomes of several routes in any order, at any time,
// against the rules that hold for all of them.
func FuzzKey(f *testing.F) {
	f.Add([]byte("saasrrsartsssarrrrrrrrstttaaaassssrrrrr"), byte(0))
	f.Add([]byte{0, 3, 0, 3, 0, 3, 9, 19, 0, 3, 9, 29, 0, 4, 99, 0, 1, 0, 2, 0, 5}, byte(0))
	f.Add([]byte{0, 10, 20, 3, 3, 3, 0, 10, 20, 2, 2, 3, 4, 4, 4, 0, 109, 0, 209, 5, 6, 7, 8, 16, 26}, byte(3))
	f.Add([]byte{0, 6, 0, 16, 0, 26, 0, 3, 0, 3, 0, 226, 229, 0, 126}, byte(2))
	f.Add([]byte{0, 10, 20, 30, 3, 3, 3, 3, 140, 9, 210, 2, 132, 9, 0, 23, 10, 252, 39, 0, 0}, byte(200))
	f.Fuzz(func(t *testing.T, ops []byte, routes byte) {
		if len(ops) > 400 {
			t.Skip("long enough")
		}
		newPlay(t, routes).run(ops)
	})
}

// play is what fuzzed operations do to a key.
type play struct {
	*desk
	routes     []limit.Route
	open       []attempt // sent, and not answered yet
	untroubled bool      // nothing but acceptances so far
	priced     bool      // attempts cost more or less, and are settled
}

func newPlay(t *testing.T, routes byte) *play {
	t.Helper()
	p := &play{desk: newDesk(t), untroubled: true, priced: routes >= 200}
	for i := range routes % 5 {
		p.routes = append(p.routes, limit.Route{Method: "GET", Path: "/" + name(int(i))})
	}
	if len(p.routes) == 0 {
		p.routes = []limit.Route{all}
	}
	return p
}

func (p *play) run(ops []byte) {
	for _, op := range ops {
		p.now = p.now.Add(time.Duration(op) * 100 * time.Microsecond)
		route := p.routes[int(op/10)%len(p.routes)]
		hint := time.Duration(op) * 100 * ms
		switch op % 10 {
		case 0, 1:
			p.try(route, op > 128, op)
		case 2:
			p.answer(op, limit.Result{Outcome: limit.Accepted})
		case 3:
			p.answer(op, limit.Result{Outcome: limit.Refused})
		case 4:
			p.answer(op, limit.Result{Outcome: limit.Refused, Hint: hint})
		case 5:
			p.answer(op, limit.Result{Outcome: [...]limit.Outcome{limit.Unanswered, limit.Shed, limit.Closed}[op/10%3], Hint: hint * time.Duration(op%2)})
		case 6:
			p.answer(op, limit.Result{Outcome: limit.Outcome(1 + op/10%2), Told: true, Quota: waithint.Quota{
				Remaining: float64(op % 16), Rate: float64(op%8) * 10, Reset: hint * time.Duration(op%3),
			}})
		case 7:
			if l := p.key.Limit(route); l != nil {
				l.Waiting = int(op) / 8
			}
		case 8:
			if op > 250 {
				p.untroubled = false
				p.key.Look(p.now)
			}
			p.now = p.now.Add(time.Duration(op) * time.Second)
		case 9:
			p.now = p.now.Add(time.Duration(op) * ms)
		}
		p.check()
	}
	// Whatever happened, a limit that nobody is under way to lets one go in the end.
	for _, a := range p.open {
		p.key.Done(a.stamp, a.route, p.now, limit.Result{})
	}
	p.open = nil
	p.check()
	for _, r := range p.routes {
		require.LessOrEqual(p, p.hold(r), 25*time.Hour, "nobody is left to let it go")
	}
}

// try sends an attempt if it may go.
func (p *play) try(r limit.Route, waited bool, op byte) {
	cost := 1.0
	if p.priced {
		p.key.Unit, cost = 3, [...]float64{3, 0, 1, 50, 1e6}[op/10%5]
	}
	if p.hold(r) > 0 {
		return
	}
	p.open = append(p.open, attempt{r, p.key.Sent(p.now, r, p.key.Limit(r), waited, cost)})
}

func (p *play) answer(op byte, r limit.Result) {
	if r.Outcome > limit.Accepted || r.Told {
		p.untroubled = false
	}
	r.MaxWait = maxWait
	if len(p.open) == 0 { // of one from before there was a key
		p.key.Done(limit.Stamp{}, p.routes[0], p.now, r)
		return
	}
	i := int(op/10) % len(p.open)
	a := p.open[i]
	p.open = append(p.open[:i], p.open[i+1:]...)
	if p.priced && r.Outcome == limit.Accepted && op > 100 {
		p.key.Settle(a.stamp, 2*(float64(op)-180))
	}
	p.key.Done(a.stamp, a.route, p.now, r)
}

func (p *play) check() {
	for _, r := range p.routes {
		p.hold(r) // is not negative, and the same if it is asked again
		l := p.key.Limit(r)
		if l == nil {
			continue
		}
		require.False(p, p.untroubled, "nothing was refused, and it is held")
		require.GreaterOrEqual(p, l.Behind(p.now, 10, 10), time.Duration(0))
		require.GreaterOrEqual(p, l.ClosedFor(p.now), time.Duration(0))
		require.GreaterOrEqual(p, l.Refused(p.now), time.Duration(0))
		l.Opens(p.now)
		l.Risk(p.now)
		l.Certain(p.now)
		l.Paces()
	}
	views := p.key.View(p.now)
	require.LessOrEqual(p, len(views), 1+64)
	for _, v := range views {
		require.LessOrEqual(p, v.Refused, v.Sent, "%+v", v)
		require.Equal(p, v.State == limit.Flight, v.InFlight > 0)
		require.Equal(p, v.State == limit.Paused, v.Until.After(p.now), "%+v", v)
		require.Equal(p, v.State == limit.Free, v.Chance > 0)
		require.GreaterOrEqual(p, v.Rate, 0.0)
		require.False(p, v.Since.After(p.now))
	}
	if p.untroubled {
		require.Empty(p, views)
		require.True(p, p.key.Idle(p.now))
	}
}
