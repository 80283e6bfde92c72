package redislimit

import (
	"context"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/bucket"
)

// WithLimit adds a limit beside that of requests, such as one of tokens a minute. A
// request takes from all limits of its key in one instant, or from none. cost returns
// what it takes: the words of its prompt, a price. It is asked once for each call, and
// must not change the request, nor read its body except through GetBody. If cost is
// nil, every attempt takes 1. A cost that is negative or NaN is 0, one that is infinite
// is the burst, and one above 1e15 is that.
//
//	limiter := redislimit.New(client, "account-42", 500.0/60, 20, // 500 requests a minute
//		redislimit.WithLimit("tokens", 100_000.0/60, 40_000, tokens))
//	transport := resilient.NewTransport(nil, resilient.WithLimiter(limiter))
//	...
//	resilient.Settle(ctx, "tokens", usage.TotalTokens)
//
// A request that costs more than the burst waits for a full bucket, and those after it
// wait until that is made up for. One that costs 0 does not wait for the limit. An
// attempt of which nothing was sent gives everything back. One that the server has
// refused for its rate gives back the costs of cost functions, if it is the first
// refusal of the call. These are the rules of [resilient.WithLimit].
//
// [resilient.Settle] corrects the cost when the truth is known, and takes the caller no
// time. The package documentation has more on corrections, and on the turns of processes.
//
// All processes that share a key should have the same limits. WithLimit panics if name
// is empty or "requests", which is the limit of [New], if limit is not above 0 or is
// rate.Inf, or if burst is less than 1. New panics if there are more than 7 names. A
// limit with the name of an earlier one replaces it. The default is none.
func WithLimit(name string, limit rate.Limit, burst int, cost func(*http.Request) float64) Option {
	mustBe(name != "" && name != requestLimit, "WithLimit", "used with a name that is not empty or requests", strconv.Quote(name))
	mustBe(limit > 0 && limit != rate.Inf, "WithLimit", "used with a limit above 0 and finite", limit) // NaN is not above 0
	mustBe(burst >= 1, "WithLimit", "used with a burst of at least 1", burst)
	added := unitLimit{name, url.QueryEscape(name), 1e6 / float64(limit), float64(burst), cost}
	return func(c *config) {
		for i, l := range c.limits {
			if l.name == name {
				c.limits[i] = added
				return
			}
		}
		c.limits = append(c.limits, added)
	}
}

const (
	// requestLimit is the name of the limit of New.
	requestLimit = "requests"

	// maxUnits is the largest number of limits beside that of requests. With that one
	// there are as many as a Transport may have.
	maxUnits = 7

	// maxCost is the largest cost, as in the Transport: sums of larger ones are no numbers.
	maxCost = 1e15

	// settleAfter is how long a correction waits for another call to Redis that it can go
	// with. A worker that settles a request sends its next one at once.
	settleAfter = 10 * time.Millisecond

	// askTrips is how many round trips before its turn a request asks again. The script
	// grants what is due within leadTrips of them.
	askTrips = 2

	// askEvery is the shortest time until a request asks again that was told to wait for
	// longer than that.
	askEvery = 200 * time.Millisecond

	// leastUsed bounds the part of the costs that turns out to be used, for the time until
	// a request asks again.
	leastUsed = 0.1

	// maxWindow bounds the requests for which a process has a place in the queue.
	maxWindow = maxBatch / 4
)

// unitLimit is a limit beside that of requests.
type unitLimit struct {
	name     string
	escaped  string  // the name in Redis
	interval float64 // from one unit to the next, in microseconds
	burst    float64
	cost     func(*http.Request) float64 // nil: each attempt costs 1
}

// costOf returns what an attempt of req takes.
func (u *unitLimit) costOf(req *http.Request) float64 {
	if u.cost == nil {
		return 1
	}
	cost := u.cost(req)
	switch {
	case math.IsInf(cost, 1):
		return min(u.burst, maxCost)
	case cost > 0:
		return min(cost, maxCost)
	}
	return 0 // negative, or NaN
}

// units is the part of a Limiter that has limits beside that of requests.
//
// The instant at which a request may go cannot be reserved long before, because each
// correction moves it. So Redis grants only requests that are due within a few round
// trips. If the first requests of a process have to wait longer, the process has a place
// in a queue in Redis, for as many of them as go in these round trips. It is told when
// their time will come, asks again shortly before, and after a second in any case. Each
// slot belongs to one request, because the next one has another cost.
//
// Reserved instants that each process moves when it hears of corrections are no
// alternative. With costs guessed threefold, ten processes would reserve three times as
// far ahead as the queue is long. Their other buckets would count as full until then.
type units struct {
	id   string    // in the queue in Redis
	tats []float64 // of the limits, as Redis said last; nil: never

	// The corrections that are to be sent: how much more was taken than was asked for, of
	// requests and then of each limit.
	owed     []float64
	settleAt time.Time // when they are sent at the latest, or zero: with the next call

	// The part of the costs that was used, smoothed. The time that a request is told to wait
	// will become shorter by that.
	used float64

	placed bool      // this process has a place in the queue
	nextAt time.Time // when the first request with the place goes
	askAt  time.Time // when to ask for it

	queued []float64        // the costs of all requests in the queue of this process
	local  []*bucket.Bucket // of LocalShare; nil: Redis answers
}

func newUnits(limits []unitLimit) *units {
	if len(limits) == 0 {
		return nil
	}
	return &units{
		id:     strconv.FormatUint(rand.Uint64()>>16, 36), // 48 bits, in 10 letters
		owed:   make([]float64, 1+len(limits)),
		used:   1,
		queued: make([]float64, len(limits)),
	}
}

// For returns a limiter for the attempts of one request, which take from all limits
// what the request costs, see [WithLimit]. A Transport calls it. Without limits beside
// that of requests it returns l.
//
// Otherwise the limiter has two more methods. Settle(name string, used float64) corrects
// the cost of the last attempt that has waited, and GiveBack() is for one that was not
// sent. Code without a Transport calls them itself. A Transport calls them for
// [resilient.Settle], and for attempts that it does not make.
func (l *Limiter) For(req *http.Request) resilient.Limiter {
	limits := l.store.limits
	if len(limits) == 0 {
		return l
	}
	r := &request{l: l, costs: make([]float64, len(limits))}
	for i := range limits {
		r.costs[i] = limits[i].costOf(req)
	}
	return r
}

// request is the limiter of one call. Its methods but Settle are called one after the
// other.
type request struct {
	l        *Limiter
	costs    []float64
	refusals int
	local    bool // the last attempt went without Redis
}

var _ resilient.LearningLimiter = (*request)(nil)

// GiveBack gives back everything, because the attempt that has waited was not sent.
func (r *request) GiveBack() {
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	l.owe(0, -1, r.local)
	for i, cost := range r.costs {
		l.owe(i+1, -cost, r.local)
	}
	l.serve(time.Now())
}

// Wait is Limiter.Wait with the costs of the request.
func (r *request) Wait(ctx context.Context) error {
	w := &waiter{costs: r.costs}
	err := r.l.wait(ctx, w)
	r.local = w.local
	return err
}

// Observe is Limiter.Observe, and gives back costs that the server has not charged for.
//
// After the second refusal of a call, only the part beyond a full bucket is given back.
// There is less left at the server than was thought, and it stays so until somebody pays
// for it.
func (r *request) Observe(a resilient.AttemptInfo) {
	r.l.Observe(a)
	if a.Verdict.Reason == resilient.ReasonNeverSent {
		r.GiveBack()
		return
	}
	if a.Verdict.Kind != resilient.KindRateLimit || !a.Verdict.Unprocessed {
		return
	}
	r.refusals++
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, limit := range l.store.limits {
		switch {
		case limit.cost == nil:
		case r.refusals == 1:
			l.owe(i+1, -r.costs[i], r.local)
		default:
			l.owe(i+1, -max(r.costs[i]-limit.burst, 0), r.local)
		}
	}
	l.serve(time.Now())
}

// Names returns the names of the limits whose costs can be settled.
func (r *request) Names() []string {
	var names []string
	for _, limit := range r.l.store.limits {
		if limit.cost != nil {
			names = append(names, limit.name)
		}
	}
	return names
}

// Settle corrects what the last attempt has taken of a limit.
func (r *request) Settle(name string, used float64) {
	l := r.l
	for i, limit := range l.store.limits {
		if limit.name == name {
			l.mu.Lock()
			defer l.mu.Unlock()
			if r.costs[i] > 0 {
				l.units.used += (min(max(used/r.costs[i], leastUsed), 1) - l.units.used) / samples
			}
			l.owe(i+1, min(used, maxCost)-r.costs[i], r.local)
			l.serve(time.Now())
		}
	}
}

// owe notes that so much more was taken of a limit, where 0 is that of requests. Requests
// that went without Redis do not concern the fleet.
func (l *Limiter) owe(limit int, more float64, local bool) {
	u := l.units
	if local {
		if limit > 0 && u.local != nil {
			u.local[limit-1].Settle(time.Now(), more)
		}
		return
	}
	u.owed[limit] += more
	if more != 0 && u.settleAt.IsZero() && l.store.down() == nil {
		u.settleAt = time.Now().Add(settleAfter)
	}
}

// giveBack gives back what was granted to a request that does not go.
func (l *Limiter) giveBack(w *waiter) {
	l.owe(0, -1, false)
	for i := range l.store.limits {
		l.owe(i+1, -w.cost(i), false)
	}
}

// cost returns what a request takes of a limit beside that of requests.
func (w *waiter) cost(i int) float64 {
	if w.costs == nil {
		return 0
	}
	return w.costs[i]
}

// joined notes that requests have joined the queue, and left that they have left it.
func (u *units) joined(w *waiter) {
	for i := range u.queued {
		u.queued[i] += w.cost(i)
	}
}

func (u *units) left(empty bool, all ...*waiter) {
	for i := range u.queued {
		for _, w := range all {
			u.queued[i] -= w.cost(i)
		}
		if empty { // the rest is rounding
			u.queued[i] = 0
		}
	}
}

// unitsDue reports whether Redis is to be called for the sake of the units. When that has
// a place for requests that have gone, nobody else should wait for them.
func (l *Limiter) unitsDue(now time.Time) bool {
	u := l.units
	if !u.settleAt.IsZero() && !now.Before(u.settleAt) {
		return true
	}
	if l.missing() > 0 {
		return !u.placed || !now.Before(u.askAt)
	}
	return u.placed
}

// unitsNext returns when unitsDue has to be asked again, or zero.
func (l *Limiter) unitsNext() time.Time {
	u := l.units
	if u == nil || l.calling || l.store.down() != nil {
		return time.Time{}
	}
	next := u.settleAt
	if u.placed && l.missing() > 0 && (next.IsZero() || u.askAt.Before(next)) {
		next = u.askAt
	}
	return next
}

// unitsWanted returns the number of requests to ask for. If there may be enough for all
// of them, all are asked for. Otherwise those that have a place are, and those for which
// it is then renewed.
func (l *Limiter) unitsWanted() int {
	n := min(l.missing(), maxBatch)
	if l.units.placed {
		n = min(n, 2*l.maxSlots())
	}
	return max(n, 0)
}

// unitArgs returns the arguments for the script before those for the waiters.
func (l *Limiter) unitArgs(args []any, c *call) []any {
	u := l.units
	c.owed, u.owed, u.settleAt = u.owed, make([]float64, len(u.owed)), time.Time{}
	args = append(args, u.id, number(c.owed[0]))
	for i, limit := range l.store.limits {
		tat := ""
		if u.tats != nil {
			tat = number(u.tats[i])
		}
		args = append(args, limit.escaped, number(limit.interval), number(limit.burst), tat, number(c.owed[i+1]))
	}
	return args
}

// unitsFailed keeps the corrections of a call that failed. Redis may have made them
// nevertheless, so that those which give back are given up: to make them twice could
// exceed the limit.
func (u *units) unitsFailed(c *call) {
	for i, more := range c.owed {
		u.owed[i] += max(more, 0)
	}
	u.placed = false
}

// takeUnits takes over the instants in an answer. If that is late, its corrections may be
// made twice, see unitsFailed.
func (l *Limiter) takeUnits(now time.Time, c *call, r reply, late bool) {
	u := l.units
	u.local = nil
	if late {
		for i, more := range c.owed {
			u.owed[i] -= max(more, 0)
		}
	}
	if u.tats == nil {
		u.tats = make([]float64, len(l.store.limits))
	}
	l.tat = l.seen + r.tats[0]
	for i := range u.tats {
		u.tats[i] = l.seen + r.tats[i+1]
	}
	for i, answer := range r.ahead {
		w := c.waiters[i]
		switch {
		case answer > 0:
			l.grantUnits(now, w, answer-1)
		case !late && l.remove(w):
			w.end(l.refusal(now, duration(-answer)))
		}
	}
	if u.placed = len(r.ahead) < len(c.waiters); !u.placed {
		return
	}
	u.nextAt = now.Add(duration(r.next))
	ask := duration(r.next - l.lead*askTrips/leadTrips)
	u.askAt = now.Add(min(max(duration(r.next*u.used), askEvery), ask, pollEvery))
	// The places of all processes together should last for the lead.
	l.window += l.window * (min(max(l.lead/max(r.next, 1), 0.5), 2) - 1) / samples
	l.window = min(max(l.window, 1), maxWindow)
}

// grantUnits adds the slot of a request that may go after so many microseconds.
func (l *Limiter) grantUnits(now time.Time, w *waiter, wait float64) {
	n := len(l.slots)
	at := now.Add(duration(wait))
	if n > 0 && at.Before(l.slots[n-1].at) {
		at = l.slots[n-1].at
	}
	if n >= len(l.queue) || l.queue[n] != w || at.Before(l.pausedUntil) && l.unpublished {
		l.giveBack(w) // it has given up, or a pause began of which Redis did not know
		return
	}
	if at.Before(l.pausedUntil) {
		at = l.pausedUntil // the two clocks differ
	}
	// A request that is late leaves its units in the bucket. It is too late if that
	// overflows.
	until := duration(l.store.burst * l.interval())
	for i, limit := range l.store.limits {
		if w.cost(i) > 0 {
			until = min(until, duration(limit.burst*limit.interval))
		}
	}
	l.slots = append(l.slots, slot{at: at, until: at.Add(until + lateness)})
}

// dropUnits gives back the slots from the first selected one on, whose requests ask
// again.
func (l *Limiter) dropUnits(which func(slot) bool) {
	for i, s := range l.slots {
		if !which(s) {
			continue
		}
		for k, s := range l.slots[i:] {
			if !s.local {
				l.giveBack(l.queue[i+k])
			}
		}
		l.slots = l.slots[:i]
		return
	}
}

// volleyUnits lets the first n requests take what they cost, because they go ahead of
// their turn. The script has taken a request for each.
func (l *Limiter) volleyUnits(n int) {
	for i, w := range l.queue[:n] {
		if i < len(l.slots) {
			if !l.slots[i].local {
				l.owe(0, -1, false) // it has two
			}
			continue
		}
		for k := range l.store.limits {
			l.owe(k+1, w.cost(k), false)
		}
	}
	l.slots = slices.Delete(l.slots, 0, min(n, len(l.slots)))
	l.units.left(n == len(l.queue), l.queue[:n]...)
}

// earliest returns when a request may go at the earliest, with those before it in the
// queue of this process that have no slot: their number and their costs.
func (l *Limiter) earliest(now time.Time, w *waiter, ahead int, costs []float64) time.Time {
	u := l.units
	at := now
	later := func(other time.Time) {
		if other.After(at) {
			at = other
		}
	}
	later(l.pausedUntil)
	if n := len(l.slots); n > 0 {
		later(l.slots[n-1].at)
	}
	if u.placed {
		later(u.nextAt)
	}
	if u.tats == nil || l.store.down() != nil {
		return at
	}
	later(l.localTime(l.tat + (float64(ahead)+1-l.store.burst)*l.interval()))
	for i, limit := range l.store.limits {
		if cost := w.cost(i); cost > 0 {
			later(l.localTime(u.tats[i] + (costs[i]+min(cost, limit.burst)-limit.burst)*limit.interval))
		}
	}
	return at
}

// localTime returns the local time of an instant on Redis's clock.
func (l *Limiter) localTime(clock float64) time.Time { return l.syncedAt.Add(duration(clock - l.seen)) }

// newcomer returns when a request may go at the earliest that joins the queue now.
func (l *Limiter) newcomer(now time.Time, w *waiter) time.Time {
	costs := make([]float64, len(l.units.queued))
	copy(costs, l.units.queued)
	for _, granted := range l.queue[:min(len(l.queue), len(l.slots))] {
		for i := range costs {
			costs[i] -= granted.cost(i)
		}
	}
	return l.earliest(now, w, len(l.queue)-len(l.slots), costs)
}

// refuseLateUnits is refuseLate, and tells those that wait how long that will be.
func (l *Limiter) refuseLateUnits(now time.Time) {
	costs := make([]float64, len(l.units.queued))
	for i, ahead := len(l.slots), 0; i < len(l.queue); {
		w := l.queue[i]
		at := l.earliest(now, w, ahead, costs)
		if w.tooLate(at) {
			l.remove(w)
			w.end(l.refusal(now, at.Sub(now)))
			continue
		}
		if l.units.placed {
			w.announce(at.Sub(now))
		}
		for k := range costs {
			costs[k] += w.cost(k)
		}
		i, ahead = i+1, ahead+1
	}
}

// localUnits returns when a request may go by the share of this process, not before
// at. It begins with empty buckets, because the fleet may have just used them up.
func (l *Limiter) localUnits(at time.Time, w *waiter) time.Time {
	u, share := l.units, float64(l.store.fallback.processes)
	if u.local == nil {
		for _, limit := range l.store.limits {
			burst := max(limit.burst/share, 1)
			b := bucket.New(1e6/limit.interval/share, burst)
			b.Take(at, burst)
			u.local = append(u.local, b)
		}
	}
	goes := at
	for i, b := range u.local {
		if t := at.Add(b.Delay(at, w.cost(i), 0)); t.After(goes) {
			goes = t
		}
	}
	return goes
}

// takeLocalUnits takes the costs of a request that goes by the share of this process.
func (l *Limiter) takeLocalUnits(at time.Time, w *waiter) {
	for i, b := range l.units.local {
		if cost := w.cost(i); cost > 0 {
			b.Take(at, cost)
		}
	}
}
