package limit

import (
	"hash/maphash"
	"strings"
	"time"

	"github.com/resilienthttp/resilient/internal/lru"
	"github.com/resilienthttp/resilient/internal/pace"
	"github.com/resilienthttp/resilient/internal/waithint"
)

// Key has the limits of one limit key: one for the whole key, and one for each route
// whose requests are refused while those of others are accepted. It is used from the
// first refusal on.
//
// The limit of the whole key holds back only the routes that were refused themselves.
// Once several of them were, it holds all routes, or else a client that uses
// unbounded paths would be free with each of them.
type Key struct {
	whole    Limit
	wide     bool // it holds all routes
	all      tally
	routes   lru.Table[uint64, *route]
	none     route // of all requests, if there are no routes
	seed     maphash.Seed
	down     bool      // everything failed, with nothing to say that it is a limit, and nothing was accepted since
	digested time.Time // when those are through who gathered before what turned out to be chance
	row      row       // the refusals since all.nats began to rise
	Unit     float64   // cost that a rate is counted in, which the caller knows; 0: 1
	Moved    bool      // a route may have another limit than before: the caller moves the waiters
}

// route is a route of a key.
type route struct {
	name  Route
	tally tally
	limit *Limit // that holds it: its own or that of the key; nil: neither
	epoch int64  // of limit
	named bool   // it is what the server gives a name
	group *route // of which the server says that it is one; nil: it says nothing
}

// Stamp identifies an attempt that was sent. The zero Stamp is one from before there
// was a Key.
type Stamp struct {
	Sent time.Time

	route    *route
	seq, all int64 // of the route and of the key
	limit    *Limit
	epoch    int64
	underWay int     // with it
	weight   float64 // for it
	pace     pace.Stamp
	kind     kind
}

// kind is why an attempt was let go.
type kind uint8

const (
	ordinary kind = iota
	tested        // ahead of the limit, by a trial
	probing       // in spite of a pause
)

// Result is the outcome of an attempt with all that the server said.
type Result struct {
	Outcome Outcome
	Hint    time.Duration // for the whole key; 0: none
	MaxWait time.Duration // the bound of a pause
	Quota   waithint.Quota
	Told    bool   // there is a Quota
	Name    string // that the server gives to what it limits; "": none
}

// Cause is what refused an attempt, as far as is known.
type Cause uint8

// The causes.
const (
	Unknown    Cause = iota // or none has
	KnownLimit              // one that was known before
	Chance                  // by which as much is refused whatever is done, as a trial found
)

const (
	// maxRoutes routes of a key are known apart.
	maxRoutes = 64

	// Those who gathered before a limit that is given up take about as long to be
	// answered, and nothing is suspected until then. What was held for longer was taken for
	// a limit with reason.
	longestDigestion = 5 * time.Second

	// severalRefused refusals apart from those of one route show that the key's limit
	// refuses, and not one route's.
	severalRefused = 2

	// fareWell attempts of other routes that were accepted show that the limit of a route is
	// not theirs. If it is, they are refused as well, see severalRefused.
	fareWell = 4
)

// row counts refusals in a row, as all of the key's, by their routes.
type row struct {
	routes [4]*route // beyond these they are several in any case
	counts [4]int
	n      int
}

func (w *row) add(r *route) {
	w.n++
	for i := range w.routes {
		if w.routes[i] == nil || w.routes[i] == r {
			w.routes[i] = r
			w.counts[i]++
			return
		}
	}
}

// top returns the route that was refused most, and how many refusals are those of
// others.
func (w *row) top() (r *route, others int) {
	top := 0
	for i, n := range w.counts {
		if n > w.counts[top] {
			top = i
		}
	}
	return w.routes[top], w.n - w.counts[top]
}

// of returns the route with the given name.
func (k *Key) of(name Route) *route {
	if k.routes.Idle == nil {
		k.seed = maphash.MakeSeed()
		k.routes.Size, k.routes.Limit = maxRoutes, maxRoutes
		k.routes.Idle = func(r *route) bool { return r.held() == nil }
	}
	h := name.hash(k.seed)
	if h == 0 {
		return &k.none
	}
	r, ok := k.routes.Get(h)
	if !ok {
		r = &route{name: name, named: name.Method == ""}
		// It is for people from here on, and may be a part of something long.
		r.name.Path = strings.Clone(name.Path[:min(len(name.Path), maxShown)])
		k.routes.Add(h, r)
	}
	if r.group != nil {
		return r.group
	}
	return r
}

// maxShown is the length of a path that is kept to be shown.
const maxShown = 256

// maxName is the length of the longest name of a limit that is believed.
const maxName = 64

// join notes that the server gives a name to what it limits, of which the route is a
// part. That wins over all that refusals tell.
func (k *Key) join(r *route, name string) {
	if name == "" || len(name) > maxName || r.named || r == &k.none {
		return
	}
	if g := k.of(Route{Path: name}); r.group != g {
		r.group = g
		k.Moved = true
	}
}

// held returns the limit that the route itself is known to have, or nil.
func (r *route) held() *Limit {
	if r.limit == nil || !r.limit.active() || r.epoch != r.limit.epoch {
		return nil
	}
	return r.limit
}

// own returns a limit for the route alone.
func (r *route) own() *Limit {
	if l := r.held(); l != nil {
		return l
	}
	return new(Limit)
}

func (r *route) hold(l *Limit) { r.limit, r.epoch = l, l.epoch }

// Limit returns the limit that holds back the attempts of a route; nil: none does.
func (k *Key) Limit(name Route) *Limit { return k.limitOf(k.of(name)) }

func (k *Key) limitOf(r *route) *Limit {
	if l := r.held(); l != nil {
		return l
	}
	if k.whole.active() && (k.wide || r == &k.none) {
		return &k.whole
	}
	k.wide = k.wide && k.whole.active()
	return nil
}

// Sent counts an attempt of a route that goes now, if it is held by the limit l, or
// by none if that is nil. It waited before, or not, and costs so much.
func (k *Key) Sent(now time.Time, name Route, l *Limit, waited bool, cost float64) Stamp {
	s := Stamp{Sent: now, route: k.of(name)}
	k.all.sent++
	s.route.tally.sent++
	s.seq, s.all = s.route.tally.sent, k.all.sent
	if l != nil {
		if l.unit == 0 {
			l.unit = k.Unit
		}
		l.sent(now, &s, waited, cost)
	}
	return s
}

// Settle corrects the cost of an attempt that was accepted: it was so much more, or less if
// that is below zero.
func (k *Key) Settle(s Stamp, more float64) {
	if l := s.limit; l != nil && l.epoch == s.epoch && l.active() {
		l.settle(s.weight, more)
	}
}

// Done takes the outcome of an attempt of a route, and returns what refused it.
func (k *Key) Done(s Stamp, name Route, now time.Time, r Result) Cause {
	if s.route == nil {
		s.route = k.of(name)
	}
	k.join(s.route, r.Name)
	if s.route.group != nil && s.limit == nil { // it was sent before that was known
		s.route, s.seq = s.route.group, 0
	}
	if r.Told {
		k.quota(s, now, r.Quota)
	}
	if r.Outcome == Accepted {
		k.down, k.all.until, s.route.tally.until = false, time.Time{}, time.Time{}
		k.all.accepted++
		s.route.tally.accepted++
	}
	if r.Outcome != Unanswered {
		k.all.lately.outcome(now, r.Outcome != Accepted)
		s.route.tally.lately.outcome(now, r.Outcome != Accepted)
	}
	if r.Outcome == Closed && r.Hint > 0 { // whatever held it, it binds all routes
		k.whole.shut(now, r)
		k.wide, k.Moved = true, true
	}
	if l := s.limit; l != nil && l.epoch == s.epoch && l.active() {
		before := l.state
		switch l.done(&s, now, r) {
		case byChance:
			k.chance(l, s.route, now)
		case serverDown:
			k.down = true
		case undecided, confirmed, denied:
		}
		k.Moved = k.Moved || !l.active()
		switch {
		case l.doubtful():
		case r.Outcome.refused() && before != Looking:
			return KnownLimit
		default:
			return Unknown
		}
	}
	l := k.limitOf(s.route)
	switch {
	case l != nil && !l.doubtful(): // it was sent before there was a limit
	case r.Outcome == Accepted:
		k.all.acceptance(s.seq == 0)
		s.route.tally.acceptance(s.seq == 0)
	case s.Sent.Before(k.digested): // a crowd of our own making is refused by many a server
	case r.Outcome == Shed && k.down: // the retry budget is what protects it
	case r.Outcome.refused():
		k.suspect(&s, now, r)
		if l := k.limitOf(s.route); (l == nil || l.doubtful()) && max(k.all.chance, s.route.tally.chance) > 0 {
			return Chance
		}
	}
	return Unknown
}

// chance takes note of refusals by chance.
func (k *Key) chance(l *Limit, r *route, now time.Time) {
	if d := now.Sub(l.begun); d < longestDigestion {
		k.digested = now.Add(d)
	}
	k.tallyOf(l, r).found(now, l.free)
}

// suspect looks for a limit if a refusal that nothing explains makes it likely.
func (k *Key) suspect(s *Stamp, now time.Time, r Result) {
	t := &s.route.tally
	byRoute := t.refusal(now, s.seq, r.Hint, k.all.chance, k.all.accepted)
	byKey := k.all.refusal(now, s.all, r.Hint, k.all.chance, k.all.accepted)
	if k.all.row == 1 {
		k.row = row{}
	}
	k.row.add(s.route)
	switch top, others := k.row.top(); {
	case s.route.named:
		if byRoute {
			l := s.route.own()
			k.look(l, s.route, now, 0)
			l.hinted(now, r)
		} else if r.Hint > 0 && t.denials == 0 && k.limitOf(s.route) == nil {
			k.look(s.route.own(), s.route, now, r.Hint)
		}
	case byKey && others >= severalRefused:
		k.look(&k.whole, s.route, now, 0)
		k.whole.hinted(now, r)
		k.wide = true
	case byKey || byRoute:
		if byRoute {
			top = s.route
		}
		l := &k.whole
		if k.othersFareWell(&top.tally) || l.active() && !l.doubtful() {
			l = top.own() // the limit of the key, if there is one, was found for other routes
		}
		k.look(l, top, now, 0)
		if l == &k.whole { // the others that were refused with it are bound as well
			for _, other := range k.row.routes {
				if other != nil {
					other.hold(l)
				}
			}
		}
		l.hinted(now, r)
	case r.Hint > 0 && k.all.denials == 0 && t.denials == 0 && k.limitOf(s.route) == nil:
		k.look(&k.whole, s.route, now, r.Hint)
	}
}

// look begins to look for a limit, of which the route is one.
func (k *Key) look(l *Limit, r *route, now time.Time, hint time.Duration) {
	if !l.active() || l.doubtful() {
		t := k.tallyOf(l, r)
		row, chance := int(t.row), max(k.all.chance, t.byChance())
		l.look(now, chance, row, t.blame(), hint)
	}
	r.hold(l)
	k.Moved = true
}

// tallyOf returns the tally by which a limit is suspected: that of the key or of the route.
func (k *Key) tallyOf(l *Limit, r *route) *tally {
	if l == &k.whole {
		return &k.all
	}
	return &r.tally
}

// othersFareWell reports whether the attempts of other routes are accepted while those
// of one are refused.
func (k *Key) othersFareWell(t *tally) bool {
	return k.all.accepted-t.accepted-t.others >= fareWell
}

// quota takes note of the server's word about a quota, with an answer.
func (k *Key) quota(s Stamp, now time.Time, q waithint.Quota) {
	l := s.limit
	if l == nil || l.epoch != s.epoch || !l.active() {
		if l = k.limitOf(s.route); l == nil {
			l = &k.whole
			k.wide = true
		}
		s.pace = pace.Stamp{}
	}
	l.quota(s, now, q)
	k.Moved = true
}

// Look lets one attempt go, and more as they are accepted.
func (k *Key) Look(now time.Time) {
	k.whole.look(now, 0, rowOfRefusals-1, true, stale)
	k.wide = true
}

// Paused reports whether the server has asked the whole key to stay away until later, as
// far as is known.
func (k *Key) Paused(now time.Time) bool {
	k.whole.resume(now)
	return k.whole.state == Paused || now.Before(k.all.until)
}

// View returns what is believed: that of the whole key first.
func (k *Key) View(now time.Time) (views []View) {
	add := func(l *Limit, t *tally, r Route) {
		t.forget(now)
		switch {
		case l != nil && l.active():
			v := l.view(now)
			v.Route = r
			views = append(views, v)
		case t.denials > 0:
			views = append(views, View{Route: r, Since: t.denied, Chance: t.chance})
		}
	}
	k.whole.resume(now)
	add(&k.whole, &k.all, Route{})
	bound, only := 0, Route{}
	for r := range k.routes.All() {
		if r.limit != nil {
			r.limit.resume(now)
		}
		if l := r.held(); l != &k.whole {
			add(l, &r.tally, r.name)
			continue
		}
		bound, only = bound+1, r.name
	}
	if bound == 1 && !k.wide {
		views[0].Route = only // it holds no other
	}
	return views
}

// Held returns what is believed of the limit that holds back the attempts of a route.
func (k *Key) Held(now time.Time, name Route) (v View, held bool) {
	r := k.of(name)
	l := k.limitOf(r)
	if l == nil {
		return View{}, false
	}
	if v = l.view(now); l != &k.whole || !k.wide {
		v.Route = r.name
	}
	return v, l.active()
}

// Idle reports whether nothing is lost if the key is forgotten.
func (k *Key) Idle(now time.Time) bool {
	k.whole.resume(now)
	if k.whole.active() && (k.whole.state != Told || k.whole.pace.Advertised()) || k.all.denials > 0 && now.Sub(k.all.denied) < forgetChance {
		return false
	}
	for r := range k.routes.All() {
		if r.limit != nil {
			r.limit.resume(now)
		}
		if l := r.held(); l != nil && l != &k.whole {
			return false
		}
	}
	return true
}
