package limit_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/limit"
)

const (
	ms      = time.Millisecond
	maxWait = time.Minute
)

var (
	search = limit.Route{Method: "GET", Path: "/search"}
	items  = limit.Route{Method: "GET", Path: "/items"}
	all    limit.Route // one for the whole key
)

func begin() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }

// server answers requests. It returns the answer to one that is sent, how long that
// takes, and what is to be done then; nil: nothing.
type server func(now time.Time, route limit.Route) (r limit.Result, took time.Duration, then func())

// sim sends requests to a server through a key, as package gate does, in virtual time.
// A request that is refused comes again after its hint, or after a backoff.
type sim struct {
	*testing.T
	key    limit.Key
	now    time.Time
	server server
	random *rand.Rand
	lines  []*line
	events []event
	over   bool // nobody begins anew

	costs   func() float64                    // draws the cost of a request, as it is guessed; nil: each costs 1
	settles func(guess float64) float64       // returns what a request has really cost; nil: nobody says
	sending float64                           // guessed cost of the request that the server sees
	usual   struct{ n, mean, square float64 } // of costs

	in tally // since the last run began
}

// tally is what came of requests in a time.
type tally struct {
	sent, accepted, refused int
	cost                    float64                  // of those accepted, as it was guessed
	held                    time.Duration            // longest wait
	byRoute                 map[limit.Route]*byRoute // of these
}

type byRoute struct {
	sent, accepted, refused int
	held                    time.Duration
}

type line struct {
	limit    *limit.Limit
	requests []*request
}

type event struct {
	at time.Time
	do func()
}

type request struct {
	route           limit.Route
	number          int
	cost            float64
	arrived, queued time.Time
	accepted        func()
}

func simulate(t *testing.T, srv server) *sim {
	t.Helper()
	return &sim{T: t, now: begin(), server: srv, random: rand.New(rand.NewPCG(1, 2)), in: tally{byRoute: make(map[limit.Route]*byRoute)}}
}

// after does something after d.
func (s *sim) after(d time.Duration, do func()) {
	e := event{s.now.Add(d), do}
	i, _ := slices.BinarySearchFunc(s.events, e, func(x, y event) int {
		if x.at.After(y.at) {
			return 1
		}
		return -1
	})
	s.events = slices.Insert(s.events, i, e)
}

// every sends a request of a route so many times a second.
func (s *sim) every(route limit.Route, perSecond float64) {
	s.after(time.Duration(float64(time.Second)/perSecond), func() {
		if s.over {
			return
		}
		s.every(route, perSecond)
		s.arrive(&request{route: route})
	})
}

// workers each send one request after the other.
func (s *sim) workers(n int, route func() limit.Route) {
	for range n {
		var again func()
		again = func() {
			if !s.over {
				s.arrive(&request{route: route(), accepted: again})
			}
		}
		s.after(0, again)
	}
}

func (s *sim) line(l *limit.Limit) *line {
	for _, line := range s.lines {
		if line.limit == l {
			return line
		}
	}
	s.lines = append(s.lines, &line{limit: l})
	return s.lines[len(s.lines)-1]
}

func (s *sim) waiting() (n int) {
	for _, line := range s.lines {
		n += len(line.requests)
	}
	return n
}

func (s *sim) of(route limit.Route) *byRoute {
	if s.in.byRoute[route] == nil {
		s.in.byRoute[route] = new(byRoute)
	}
	return s.in.byRoute[route]
}

func (s *sim) arrive(r *request) {
	if r.arrived.IsZero() {
		r.arrived = s.now
		if r.cost = 1; s.costs != nil {
			r.cost = s.costs()
		}
	}
	r.queued = s.now
	l := s.key.Limit(r.route)
	if len(s.line(l).requests) == 0 && s.hold(l, r) <= 0 {
		s.send(r, l, false)
		return
	}
	s.push(r)
}

func (s *sim) push(r *request) {
	line := s.line(s.key.Limit(r.route))
	i := len(line.requests)
	for i > 0 && line.requests[i-1].arrived.After(r.arrived) {
		i--
	}
	line.requests = slices.Insert(line.requests, i, r)
	if line.limit != nil {
		line.limit.Waiting++
	}
}

func (s *sim) hold(l *limit.Limit, r *request) time.Duration {
	if l == nil {
		return 0
	}
	d := l.Hold(s.now, r.cost)
	require.GreaterOrEqual(s, d, time.Duration(0))
	return d
}

// unit returns the cost in which a rate is counted, as package gate does.
func (s *sim) unit(cost float64) float64 {
	u := &s.usual
	u.n++
	u.mean += (cost - u.mean) / u.n
	u.square += (cost*cost - u.square) / u.n
	return u.square / u.mean
}

func (s *sim) send(r *request, l *limit.Limit, waited bool) {
	if s.costs != nil {
		s.key.Unit = s.unit(r.cost)
	}
	stamp := s.key.Sent(s.now, r.route, l, waited, r.cost)
	s.sending = r.cost
	res, took, then := s.server(s.now, r.route)
	res.MaxWait = maxWait
	s.in.sent++
	of := s.of(r.route)
	of.sent++
	held := s.now.Sub(r.queued)
	s.in.held, of.held = max(s.in.held, held), max(of.held, held)
	s.after(took, func() {
		if then != nil {
			then()
		}
		s.key.Done(stamp, r.route, s.now, res)
		if res.Outcome == limit.Accepted {
			if s.settles != nil {
				s.key.Settle(stamp, s.settles(r.cost)-r.cost)
			}
			s.in.accepted++
			s.in.cost += r.cost
			s.of(r.route).accepted++
			if r.accepted != nil {
				r.accepted()
			}
			return
		}
		s.in.refused++
		s.of(r.route).refused++
		r.number++
		backoff := time.Duration(s.random.Float64() * float64(100*ms<<min(r.number, 5)))
		s.after(max(res.Hint, backoff), func() { s.arrive(r) })
	})
}

// serve sends all that may go now, and returns how long until another one may.
func (s *sim) serve() (d time.Duration) {
	for {
		if s.key.Moved {
			s.key.Moved = false
			lines := s.lines
			s.lines = nil
			for _, line := range lines {
				if line.limit != nil {
					line.limit.Waiting -= len(line.requests)
				}
				for _, r := range line.requests {
					s.push(r)
				}
			}
		}
		var next *line
		d = time.Hour
		for _, line := range s.lines {
			if len(line.requests) == 0 {
				continue
			}
			if hold := s.hold(line.limit, line.requests[0]); hold > 0 {
				d = min(d, hold)
			} else if next == nil || line.requests[0].arrived.Before(next.requests[0].arrived) {
				next = line
			}
		}
		if next == nil {
			return d
		}
		r := next.requests[0]
		next.requests = next.requests[1:]
		if next.limit != nil {
			next.limit.Waiting--
		}
		s.send(r, next.limit, true)
	}
}

// run lets time pass, and returns what came of it.
func (s *sim) run(d time.Duration) tally {
	s.in = tally{byRoute: make(map[limit.Route]*byRoute)}
	for end := s.now.Add(d); ; {
		wait := s.serve()
		next := end
		if len(s.events) > 0 && s.events[0].at.Before(next) {
			next = s.events[0].at
		}
		if at := s.now.Add(wait); at.Before(next) {
			s.now = at
			continue
		}
		s.now = next
		if next.Equal(end) {
			return s.in
		}
		e := s.events[0]
		s.events = s.events[1:]
		e.do()
	}
}

// view returns what is believed of a route: its own limit, or that of the key.
func (s *sim) view(route limit.Route) (v limit.View) { return view(&s.key, s.now, route) }

func view(k *limit.Key, now time.Time, route limit.Route) (v limit.View) {
	for _, v := range k.View(now) {
		if v.Route == route {
			return v
		}
	}
	if k.Limit(route) != nil {
		for _, v := range k.View(now) {
			if v.Route == all {
				return v
			}
		}
	}
	return limit.View{}
}

func accepted() limit.Result { return limit.Result{Outcome: limit.Accepted} }
func refused() limit.Result  { return limit.Result{Outcome: limit.Refused} }

// bucket is a token bucket; with a burst of 1 and no room for a part of a token it
// keeps none.
type bucket struct {
	rate, burst float64
	tokens      float64
	at          time.Time
}

func newBucket(rate, burst float64) *bucket {
	return &bucket{rate: rate, burst: burst, tokens: burst, at: begin()}
}

func (b *bucket) allow(now time.Time) bool {
	b.tokens = min(b.tokens+b.rate*now.Sub(b.at).Seconds(), b.burst)
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// server refuses what is above the bucket's rate.
func (b *bucket) server(o limit.Outcome) server {
	return func(now time.Time, _ limit.Route) (limit.Result, time.Duration, func()) {
		if b.allow(now) {
			return accepted(), 20 * ms, nil
		}
		return limit.Result{Outcome: o}, 5 * ms, nil
	}
}

// byChance refuses a part of the requests.
func byChance(part float64, r limit.Result) server {
	random := rand.New(rand.NewPCG(3, 4))
	return func(time.Time, limit.Route) (limit.Result, time.Duration, func()) {
		if random.Float64() < part {
			return r, 5 * ms, nil
		}
		return accepted(), 20 * ms, nil
	}
}

// inFlight refuses what would be more than so many under way at one time.
func inFlight(most *int, o limit.Outcome, service time.Duration) server {
	underWay := 0
	random := rand.New(rand.NewPCG(5, 6))
	return func(time.Time, limit.Route) (limit.Result, time.Duration, func()) {
		if underWay >= *most {
			return limit.Result{Outcome: o}, 2 * ms, nil
		}
		underWay++
		took := time.Duration((0.5 + random.Float64()) * float64(service))
		return accepted(), took, func() { underWay-- }
	}
}
