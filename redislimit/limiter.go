package redislimit

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/resilienthttp/resilient"
)

// Limiter holds requests back so that all processes together keep a limit. It is
// a [resilient.Limiter] that learns, for [resilient.WithLimiter]. Make it with
// [New], or with [NewKeyed] for many keys. It is safe for concurrent use, needs no Close,
// and runs no goroutine while nobody waits.
//
// Those who wait in a process stand in one line, in order of arrival. Between the
// processes it goes by turns: each has reserved as little ahead as it can, one
// request if Redis is near, so who comes first in its process has one turn of
// each other process before it, however long their lines are. If nobody waits
// before it in its process, part of the burst is kept for it: see the package
// documentation. What can go at once is asked for together.
//
// Redis answers with the instant at which the request may go, so each is asked
// for once. Who gives up leaves that instant to those behind in the same line;
// one that is left over is handed back if no process has reserved a later one,
// and waits for a newcomer otherwise. If none comes in time it is lost: that
// much of the limit, one request, goes unused.
type Limiter struct {
	store *store
	key   string

	mu      sync.Mutex
	line    []*waiter // in order of arrival
	slots   []slot    // in order of time: line[i] goes at slots[i]
	asked   int       // slots that the call under way is to bring
	calling bool
	timer   *time.Timer
	looked  time.Time // when Redis was last called, or was to be

	// How the turns of this process come. In microseconds.
	last   float64 // the last token that had to be waited for; 0: none since the line was empty
	turn   float64 // from one token of ours to the next, smoothed; 0: not known
	others int     // above 0: another process took a token not so many of ours ago
	window float64 // how many to reserve ahead; at least 1
	lead   float64 // for how long that should be enough
	rtt    float64 // of a call, about the shortest
	calls  int     // answered

	// A light process may use all of the burst.
	credit  float64 // so many tokens
	counted float64 // when that was so, on Redis's clock

	// What the fleet has learned, and what it is yet to be told.
	every   float64 // the interval learned, in microseconds; 0: none
	news    float64 // since when what is sent and refused is news, on Redis's clock
	refused int
	newest  float64 // when the last of those refused was sent, on Redis's clock

	// What Redis said, to be told again should it lose it: its clock, the last
	// token we were granted, the end of the pause.
	heard           time.Time // zero: it said nothing yet
	seen, tat, stop float64

	pausedUntil time.Time
	unpublished bool    // Redis has yet to be told of the pause
	localTAT    float64 // of LocalShare, in microseconds from localFrom
	localFrom   time.Time
}

// waiter is a request that stands in line. done is closed when it is let go, or
// with err set refused.
type waiter struct {
	deadline time.Time // zero: none
	done     chan struct{}
	told     chan time.Duration // how long it will take, once; as far as that is known
	knows    bool
	err      error
}

// tell tells w when it will go.
func (w *waiter) tell(d time.Duration) {
	if !w.knows && d > 0 {
		w.knows = true
		w.told <- d
	}
}

func (w *waiter) end(err error) {
	w.err = err
	close(w.done)
}

// slot is an instant at which one request may go.
type slot struct {
	at    time.Time
	until time.Time // later, it would add to a burst
	tat   float64   // of its token, on Redis's clock
	local bool      // not from Redis
	kept  bool      // not to be handed back: others have reserved later ones
}

// call is one call to Redis.
type call struct {
	waiters []*waiter // the slots are asked for
	back    []slot    // the slots that are handed back
	burst   float64   // what of the burst is for them
	began   time.Time
	pausing bool // it tells of a pause
	over    bool // answered, or given up
}

const (
	// lookEvery is how often Redis is called at least while somebody waits, to
	// hear of a pause that another process was told of.
	lookEvery = time.Second

	// maxBatch bounds the work of one call, which Redis does for nobody else
	// meanwhile.
	maxBatch = 1024

	// trips is for how many round trips a process reserves ahead. It asks anew
	// when it has enough for one, so a call brings what goes in two.
	trips = 3

	// lateness is how late a timer may be, on a busy machine.
	lateness = 50 * time.Millisecond

	// Who takes less than the light part of the limit need not wait for what others
	// have reserved: these leave all but a part of the burst to such a process.
	light = 1.0 / 32
	part  = 1.0 / 4

	// alone is after how many tokens of ours without one of another process
	// between them we are alone.
	alone = 256

	// share is how many windows of a process are about as long as the lead, when
	// the queue is. More make calls rarer, and waits longer.
	share = 4

	// smooth is how many measurements an average is made of.
	smooth = 4

	// longest stands for no deadline: a year.
	longest = 365 * 24 * time.Hour
)

// Wait returns nil when a request may be sent. It returns a
// [*resilient.LimitError] at once if that would be after the deadline of ctx, as
// far as the turns so far tell when it will be, or as soon as they do. That uses
// up nothing of the limit. It returns the cause of ctx when that ends; and,
// while Redis does not answer, what [WithFallback] says.
func (l *Limiter) Wait(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	w := &waiter{done: make(chan struct{}), told: make(chan time.Duration, 1)}
	w.deadline, _ = ctx.Deadline()
	l.join(w)
	select {
	case <-w.done:
		return w.err
	case d := <-w.told:
		defer l.leave(w) // if a hook panics
		resilient.ReportWait(ctx, d)
	case <-ctx.Done():
	}
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
	}
	if l.leave(w) {
		return context.Cause(ctx)
	}
	return w.err // its turn came in this same instant
}

// Pause holds back the requests of all processes for d, at most as long as
// [WithMaxPause] says. The requests of this process stop at once, those of
// another one when it next calls Redis, which it does at least each second while
// some wait. What they had reserved for that time is reserved anew. After the
// pause requests go at the pace of the limit, with no burst.
//
// Pause does not wait for Redis. If it does not answer, the pause holds in this
// process, and is told with the next call.
func (l *Limiter) Pause(d time.Duration) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pause(now, d) {
		l.serve(now)
	}
}

// Observe takes note of what a server answered to a request that this limiter
// let go; a [resilient.Transport] calls it. A rejection that says for how long it
// will be is a [Limiter.Pause]. A refusal for the rate lowers the limit of all
// processes to what the server lets through, see [WithLearnedRate].
func (l *Limiter) Observe(a resilient.AttemptInfo) {
	limited := a.Verdict.Kind == resilient.KindRateLimit && !l.store.unlearned
	hint := time.Duration(0)
	if a.Verdict.Pause {
		hint = a.Verdict.RetryAfter
	}
	if a.StatusCode == 0 || !limited && hint <= 0 {
		return
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	news := limited && l.refuse(now.Add(-a.Duration))
	if l.pause(now, hint) || news {
		l.serve(now)
	}
}

// refuse takes note of a refusal of what was sent at the given time, and reports
// whether Redis is to be told.
func (l *Limiter) refuse(sent time.Time) bool {
	at := l.clock(sent)
	if !l.known() || l.news != 0 && at <= l.news {
		return false
	}
	if l.refused == 0 || at > l.newest {
		l.newest = at
	}
	l.refused++
	return true
}

// pause begins a pause, and reports whether it is longer than what is known.
func (l *Limiter) pause(now time.Time, d time.Duration) bool {
	until := now.Add(min(d, l.store.maxPause))
	if !until.After(now) || !until.After(l.pausedUntil) {
		return false
	}
	l.unpublished = true
	l.hold(until)
	return true
}

// Stats returns what happened so far. A limiter of a [Keyed] returns that of all
// keys, but for the limit learned, which is its own.
func (l *Limiter) Stats() Stats {
	s := l.store.snapshot()
	s.LearnedLimit = l.learned()
	return s
}

// learned returns the limit that was learned, in requests a second, or 0.
func (l *Limiter) learned() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.every > 0 {
		return 1e6 / l.every
	}
	return 0
}

// join puts w in line, unless it is known already that it comes too late.
func (l *Limiter) join(w *waiter) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.letGo(now)
	l.expire(now)
	if at := l.expected(now, len(l.line)); w.tooLate(at) {
		w.end(l.refusal(now, at.Sub(now)))
		return
	}
	l.line = append(l.line, w)
	w.tell(l.expected(now, len(l.line)-1).Sub(now))
	l.serve(now)
}

// leave takes w out of the line and reports whether it was still in it.
func (l *Limiter) leave(w *waiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.remove(w) {
		return false
	}
	l.serve(time.Now())
	return true
}

func (l *Limiter) remove(w *waiter) bool {
	i := slices.Index(l.line, w)
	if i >= 0 {
		l.line = slices.Delete(l.line, i, i+1)
	}
	return i >= 0
}

func (l *Limiter) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.line) == 0 && !l.calling
}

func (w *waiter) tooLate(at time.Time) bool {
	return !w.deadline.IsZero() && !at.Before(w.deadline)
}

// expected returns when the i-th in line goes, as far as that can be told.
func (l *Limiter) expected(now time.Time, i int) time.Time {
	if i < len(l.slots) {
		return l.slots[i].at
	}
	at := now
	if l.pausedUntil.After(at) {
		at = l.pausedUntil
	}
	if l.last == 0 {
		return at
	}
	i -= len(l.slots)
	if n := len(l.slots); n > 0 && l.slots[n-1].at.After(at) {
		at = l.slots[n-1].at
		i++
	}
	return at.Add(duration(float64(i) * l.turns()))
}

func (l *Limiter) refusal(now time.Time, wait time.Duration) error {
	reason := "rate limit"
	if now.Before(l.pausedUntil) {
		reason = "pause"
	}
	return &resilient.LimitError{Reason: reason, Wait: wait}
}

// serve lets everybody go whose time has come, calls Redis if there is a reason
// to, and sets the timer for what comes next. It is called with l.mu held
// whenever something changed.
func (l *Limiter) serve(now time.Time) {
	l.letGo(now)
	look := len(l.line) > 0 && now.Sub(l.looked) >= lookEvery
	if look {
		l.looked = now
	}
	if !l.calling && (look || l.unpublished || l.refused > 0 || l.wanted() > 0 || l.surplus() > 0) && l.store.mayCall(now) {
		l.call(now)
	}
	l.expire(now)
	if err := l.store.down(); err != nil {
		l.fallBack(now, err)
	}
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	if len(l.line) == 0 {
		l.last, l.turn = 0, 0
		return
	}
	next := l.looked.Add(lookEvery)
	if len(l.slots) > 0 && l.slots[0].at.Before(next) {
		next = l.slots[0].at
	}
	l.timer = time.AfterFunc(next.Sub(now), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.serve(time.Now())
	})
}

// letGo lets those go whose time has come. After a stall of this process they
// would all go together: what the burst does not cover of that is asked for anew.
func (l *Limiter) letGo(now time.Time) {
	if len(l.slots) > 0 && l.slots[0].until.Before(now) {
		l.drop(func(s slot) bool { return s.until.Before(now) })
	}
	n, granted := 0, 0
	for n < len(l.line) && n < len(l.slots) && !l.slots[n].at.After(now) {
		if !l.slots[n].local {
			granted++
		}
		n++
	}
	if n == 0 {
		return
	}
	l.store.count(granted, n-granted, 0)
	for _, w := range l.line[:n] {
		w.end(nil)
	}
	l.line, l.slots = slices.Delete(l.line, 0, n), slices.Delete(l.slots, 0, n)
}

// expire drops the slots whose time has passed without anybody there to use
// them. To use them later would make a burst of them.
func (l *Limiter) expire(now time.Time) {
	l.drop(func(s slot) bool { return !s.at.After(now) })
}

// drop drops slots, and counts those that are thereby lost to the fleet.
func (l *Limiter) drop(which func(slot) bool) {
	lost := 0
	l.slots = slices.DeleteFunc(l.slots, func(s slot) bool {
		if !which(s) {
			return false
		}
		if !s.local {
			lost++
		}
		return true
	})
	if lost > 0 {
		l.store.count(0, 0, lost)
	}
}

// missing returns how many in line have no slot, nor one to come.
func (l *Limiter) missing() int { return len(l.line) - len(l.slots) - l.asked }

// turns returns how long it takes from one token of ours to the next, in
// microseconds. Alone, all of them are ours.
func (l *Limiter) turns() float64 { return max(l.turn, l.interval()) }

// interval returns the interval between two tokens of the fleet, in
// microseconds.
func (l *Limiter) interval() float64 { return max(l.every, l.store.interval) }

// most returns how many slots to have at most, beside those that can be used at
// once.
func (l *Limiter) most() int { return max(int(l.window), 1) }

// wanted returns how many slots to ask for.
func (l *Limiter) wanted() int {
	n := l.missing()
	switch {
	case n <= 0 || l.last == 0: // it may be that all can go at once
	case len(l.slots) > (l.most()+1)/trips:
		return 0 // for now there are enough
	default:
		n = min(n, l.most()-len(l.slots))
	}
	return min(n, maxBatch)
}

// creditAt returns how many tokens this process may take at a time of Redis's
// clock before it is no light one.
func (l *Limiter) creditAt(clock float64) float64 {
	return min(l.credit+light*max(clock-l.counted, 0)/l.interval(), l.store.burst)
}

// count counts the tokens of an answer, and looks whether there are others.
func (l *Limiter) count(r reply) {
	n := 0
	for _, ahead := range r.ahead {
		if ahead > 0 {
			n++
		}
	}
	if n == 0 {
		return
	}
	l.credit, l.counted = max(l.creditAt(l.seen)-float64(n), 0), l.seen
	l.others = max(l.others-n, 0)
	before := r.ahead[0] - l.interval()
	if r.pause == 0 && before > 0 && l.seen+before > l.tat+l.interval()/2 {
		l.others = alone
	}
}

// surplus returns how many slots at the end nobody needs and Redis might take
// back.
func (l *Limiter) surplus() int {
	n := 0
	for n < -l.missing() {
		s := l.slots[len(l.slots)-1-n]
		if s.local || s.kept || math.Abs(l.tat-float64(n)*l.interval()-s.tat) > l.interval()/2 {
			break
		}
		n++
	}
	return n
}

// call calls Redis, for all that is to be said to it.
func (l *Limiter) call(now time.Time) {
	c := &call{began: now, pausing: l.unpublished}
	turns := 0
	if n := l.wanted(); n > 0 {
		c.waiters = slices.Clone(l.line[len(l.slots):][:n])
		turns = max(l.most()-len(l.slots), 1)
		c.burst = l.store.burst
		if credit := l.creditAt(l.clock(now)); l.others > 0 && credit < 1 {
			c.burst = math.Ceil(l.store.burst * part)
		} else if l.others > 0 {
			c.waiters = c.waiters[:min(n, int(credit))]
		}
	} else if n := l.surplus(); n > 0 {
		c.back = slices.Clone(l.slots[len(l.slots)-n:])
		l.slots = l.slots[:len(l.slots)-n]
	}
	args := append(make([]any, 0, fixedArgs+len(c.waiters)), number(l.store.interval), number(l.store.burst), number(c.burst), turns)
	if l.known() {
		args = append(args, number(l.seen), number(l.tat), number(l.stop))
	} else {
		args = append(args, "", "", "")
	}
	if l.every > 0 {
		args = append(args, number(l.every))
	} else {
		args = append(args, "")
	}
	pause := time.Duration(0)
	if l.unpublished {
		pause = max(l.pausedUntil.Sub(now), 0)
	}
	refused := l.refused
	if l.store.unlearned {
		refused = -1
	}
	args = append(args, number(micros(pause)), len(c.back), number(trips*l.rtt), refused, number(l.newest))
	l.refused = 0
	for _, w := range c.waiters {
		patience := longest
		if !w.deadline.IsZero() {
			patience = min(max(w.deadline.Sub(now), 0), longest)
		}
		args = append(args, number(micros(patience)))
	}
	l.asked, l.calling, l.looked, l.unpublished = len(c.waiters), true, now, false
	go l.run(c, args)
}

// run makes a call and takes note of the answer. Nobody waits for it: the client
// may take longer than it is given.
//
//nolint:contextcheck,nolintlint // the former hides it from the latter; it is made for many, whose contexts end at different times
func (l *Limiter) run(c *call, args []any) {
	ctx, cancel := context.WithTimeout(context.Background(), l.store.timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		log := l.failed(c, errNoAnswer)
		l.mu.Unlock()
		log()
	})
	defer stop()
	r, err := l.store.ask(ctx, l.key, args)

	l.mu.Lock()
	l.calling = false
	var log func()
	if err == nil {
		log = l.answered(c, r)
	} else {
		log = l.failed(c, err)
	}
	l.mu.Unlock()
	log()
}

// failed takes note that c was not answered, or not in time. It may have been
// carried out all the same. It returns what writes to the log.
func (l *Limiter) failed(c *call, err error) (log func()) {
	now := time.Now()
	log = func() {}
	if !c.over {
		c.over = true
		log = l.store.failed(now, err)
		l.asked = 0
		l.unpublished = l.unpublished || c.pausing
		l.store.count(0, 0, len(c.back))
		l.fallBack(now, err) // before another call: they have waited long enough
	}
	l.serve(now)
	return log
}

// answered takes note of an answer, be it late, and returns as failed does.
func (l *Limiter) answered(c *call, r reply) (log func()) {
	late := c.over
	c.over = true
	now := time.Now()
	back := l.store.answered(now)
	l.asked = 0
	l.localFrom = time.Time{}
	l.drop(func(s slot) bool { return s.local })
	learned := l.learn(now, r)

	if r.back > 0 {
		l.tat -= float64(r.back) * l.interval()
	} else if !late {
		for _, s := range c.back {
			s.kept = true
			l.slots = append(l.slots, s)
		}
		slices.SortFunc(l.slots, func(a, b slot) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) })
	}
	l.count(r)
	n, last := 0, 0.0
	for i, ahead := range r.ahead {
		if ahead > 0 {
			l.grant(now, c, ahead)
			if n++; ahead > c.burst*l.interval() {
				last = l.tat
			}
		} else if w := c.waiters[i]; !late && l.remove(w) {
			w.end(l.refusal(now, duration(-ahead)))
		}
	}
	if n > 0 {
		l.took(c, last, n)
	}
	if rtt := micros(now.Sub(c.began)); !late && l.calls > 0 { // the first one may have to connect
		if l.rtt == 0 || rtt < l.rtt {
			l.rtt = rtt
		}
		l.rtt += (rtt - l.rtt) / 64 // it may have become longer
	}
	l.calls++
	l.refuseLate(now)
	l.serve(now)
	for i, w := range l.line[:min(len(l.line), len(l.slots))] {
		w.tell(l.slots[i].at.Sub(now))
	}
	return func() {
		back()
		learned()
	}
}

// took takes note of n tokens of a call, and of the last one if that has to be
// waited for, else 0.
//
// The window is what covers the lead if the queue is short, and the smaller the
// longer that is. All processes see the same queue and go by the same lead, so
// their windows become alike, and thereby their shares.
func (l *Limiter) took(c *call, last float64, n int) {
	if last > 0 || l.missing() > 0 {
		interval := l.interval()
		queue := l.tat - l.seen - (c.burst+float64(n))*interval
		window := min(share*l.lead/max(queue, interval), 1+l.lead/interval)
		l.window = max(l.window+(window-l.window)/smooth, 1)
	}
	if last > 0 && l.last > 0 {
		turn := (last - l.last) / float64(n)
		if l.turn == 0 {
			l.turn = turn
		}
		l.turn += (turn - l.turn) / smooth
	}
	l.last = last
}

// refuseLate refuses those for whom their turn comes too late after all. Others
// may have moved up since they were asked for, or have come in between.
func (l *Limiter) refuseLate(now time.Time) {
	for i := 0; i < len(l.line); {
		w, at := l.line[i], l.expected(now, i)
		if !w.tooLate(at) {
			i++
			continue
		}
		l.remove(w)
		w.end(l.refusal(now, at.Sub(now)))
	}
}

// known reports whether Redis ever answered.
func (l *Limiter) known() bool { return !l.heard.IsZero() }

// clock returns what Redis's clock shows at a time, early by up to a round trip.
func (l *Limiter) clock(at time.Time) float64 { return l.seen + micros(at.Sub(l.heard)) }

// learn takes over what Redis knows. It returns what writes to the log.
func (l *Limiter) learn(now time.Time, r reply) (log func()) {
	if back := l.seen - r.now; l.known() && back > 0 { // its clock was set back, see the script
		l.tat -= back
		l.stop -= back
	}
	if !l.known() {
		l.tat, l.stop, l.credit, l.counted = r.now, r.now, l.store.burst, r.now
	}
	if r.every < l.store.interval*1.0001 { // it is the interval given, in fewer digits
		r.every = 0
	}
	log = func() {}
	if (r.every > 0) != (l.every > 0) {
		log = func() { l.store.learned(r.every > 0) }
	}
	l.seen, l.heard, l.lead, l.every, l.news = r.now, now, r.lead, r.every, r.known
	if end := r.now + r.pause; r.pause > 0 && end > l.stop+1 { // otherwise it is known
		l.stop = end
		l.hold(now.Add(duration(r.pause)))
	}
	return log
}

// grant adds the slot of a token that was reserved.
func (l *Limiter) grant(now time.Time, c *call, ahead float64) {
	l.tat = l.seen + ahead
	at := now.Add(duration(max(ahead-c.burst*l.interval(), 0)))
	if at.Before(l.pausedUntil) {
		if l.unpublished {
			l.store.count(0, 0, 1)
			return // Redis did not know of the pause; it is asked again
		}
		at = l.pausedUntil // it did, and the two clocks differ
	}
	if n := len(l.slots); n > 0 && at.Before(l.slots[n-1].at) {
		at = l.slots[n-1].at
	}
	l.slots = append(l.slots, slot{at: at, until: at.Add(duration(c.burst*l.interval()) + lateness), tat: l.tat})
}

// hold stops everything until the given instant.
func (l *Limiter) hold(until time.Time) {
	if until.After(l.pausedUntil) {
		l.pausedUntil = until
	}
	l.drop(func(s slot) bool { return s.at.Before(until) })
	l.last = 0 // what comes next is no measure of a turn
}

// fallBack deals with those who have no slot while Redis does not answer.
func (l *Limiter) fallBack(now time.Time, err error) {
	n := l.missing()
	if n <= 0 {
		return
	}
	for _, w := range slices.Clone(l.line[len(l.line)-n:]) {
		if f := l.store.fallback; !f.unlimited && f.processes == 0 {
			l.remove(w)
			l.store.count(0, 1, 0)
			w.end(&UnavailableError{Err: err})
			continue
		}
		at, tat := l.local(now)
		if w.tooLate(at) {
			l.remove(w)
			l.store.count(0, 1, 0)
			w.end(l.refusal(now, at.Sub(now)))
			continue
		}
		l.localTAT = tat
		l.slots = append(l.slots, slot{at: at, until: at.Add(longest), local: true})
	}
	l.letGo(now)
}

// local returns when the next request may go that Redis says nothing about, and
// what localTAT is then. LocalShare is GCRA too. It begins when the slots that
// Redis granted have been used, and with no burst, for the fleet may have just
// used that up.
func (l *Limiter) local(now time.Time) (at time.Time, tat float64) {
	start := now
	if l.pausedUntil.After(start) {
		start = l.pausedUntil
	}
	if n := len(l.slots); n > 0 && l.slots[n-1].at.After(start) {
		start = l.slots[n-1].at
	}
	if l.store.fallback.unlimited {
		return start, 0
	}
	share := float64(l.store.fallback.processes)
	interval, burst := l.interval()*share, max(math.Floor(l.store.burst/share), 1)
	if l.localFrom.IsZero() {
		l.localFrom = start
		l.localTAT = (burst - 1) * interval
	}
	began := micros(start.Sub(l.localFrom))
	if now.Before(l.pausedUntil) {
		began += (burst - 1) * interval
	}
	tat = max(l.localTAT, began) + interval
	at = l.localFrom.Add(duration(max(tat-burst*interval, 0)))
	if at.Before(start) {
		at = start
	}
	return at, tat
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func duration(micros float64) time.Duration {
	return time.Duration(min(micros, float64(longest/time.Microsecond)) * float64(time.Microsecond))
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
