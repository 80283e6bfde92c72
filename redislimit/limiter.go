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
// a [resilient.LearningLimiter] for [resilient.WithLimiter]. Make it with [New],
// or with [NewKeyed] for many keys. It is safe for concurrent use, needs no Close,
// and runs no goroutine while no request waits.
//
// The waiting requests of a process form one queue, in order of arrival. The
// processes take turns. Each process reserves as little ahead as it can, one
// request if Redis is near. So the first request in the queue of a process waits
// for one turn of each other process, however long their queues are. If the queue
// of a process is empty, part of the burst is kept for its next request, as the
// package documentation explains. Requests that can go at once are asked for
// together.
//
// Redis answers with the instant at which a request may go, so each request is
// asked for once. A request that gives up leaves its instant to the requests
// behind it in the queue. An instant that is left over is handed back if no
// process has reserved a later one. Otherwise it is kept for the next request, and
// is lost if none comes in time. Each lost instant leaves one request of the limit
// unused.
//
// With limits of [WithLimit] no instant is reserved long before, and none is lost. The
// package documentation says what else is different.
type Limiter struct {
	store *store
	key   string

	mu       sync.Mutex
	queue    []*waiter // in order of arrival
	slots    []slot    // in order of time: queue[i] goes at slots[i]
	asked    int       // slots that the call in progress asked for
	calling  bool
	timer    *time.Timer
	calledAt time.Time // the last call to Redis, or the last attempt to make one

	// The turns of this process, in microseconds.
	last   float64 // the tat of the last token that had to be waited for, or 0 if none since the queue was empty
	turn   float64 // from one token of this process to the next, smoothed, or 0 if unknown
	others int     // above 0 if another process took one of the last tokens, see aloneAfter
	window float64 // slots to reserve ahead, at least 1
	lead   float64 // the time that the window should cover
	rtt    float64 // of a call, about the shortest
	calls  int     // answered calls

	// A light process may use all of the burst.
	credit     float64 // tokens that this process may take as a light one
	creditAsOf float64 // the time of credit, on Redis's clock

	// The limit learned by the fleet, and the refusals not reported to Redis yet.
	learnedInterval float64 // in microseconds, or 0 if no limit is learned
	cutoff          float64 // a refusal counts only if its request was sent later, on Redis's clock
	refused         int
	refusedSent     float64   // when the last refused request was sent, on Redis's clock
	hintEnd         time.Time // of the longest wait that a refusal asked for, zero if reported

	trial trial

	saidLower bool      // the log says that a limit is learned
	lowerAt   time.Time // when one was last in force

	// The state from the last answer of Redis, which is sent with each call in case
	// Redis loses it: its clock, the tat of the last token granted to this process,
	// and the end of the pause.
	syncedAt            time.Time // zero until the first answer
	seen, tat, pauseEnd float64

	pausedUntil time.Time
	unpublished bool    // the pause was not sent to Redis yet
	localTAT    float64 // of LocalShare, in microseconds from localFrom
	localFrom   time.Time

	units *units // nil: there is no limit beside that of requests
}

// waiter is a request in the queue. done is closed when the request may go, or,
// with err set, when it is refused.
type waiter struct {
	costs     []float64 // of the limits beside that of requests, or nil: 0
	local     bool      // it went without Redis
	deadline  time.Time // zero: none
	done      chan struct{}
	forecast  chan time.Duration // receives the wait once, when it can be foreseen
	announced bool               // forecast was sent
	err       error
}

// announce sends w the wait until it may go, the first time that it is called.
func (w *waiter) announce(d time.Duration) {
	if !w.announced && d > 0 {
		w.announced = true
		w.forecast <- d
	}
}

func (w *waiter) end(err error) {
	w.err = err
	close(w.done)
}

// slot is an instant at which one request may go.
type slot struct {
	at    time.Time
	until time.Time // if it is used later, the burst would be exceeded
	tat   float64   // of its token, on Redis's clock
	local bool      // not from Redis
	kept  bool      // it cannot be handed back, because others have reserved later ones
}

// call is one call to Redis.
type call struct {
	waiters  []*waiter // the waiters for which slots are asked
	back     []slot    // the slots that are handed back
	burst    float64   // the part of the burst that the waiters may use
	began    time.Time
	pausing  bool      // it publishes a pause
	owed     []float64 // the corrections that it makes, see units
	hintEnd  time.Time // that it reports
	finished bool      // answered, failed or timed out
}

const (
	// pollEvery is the longest time between calls to Redis while requests wait. A
	// process learns of a pause of another process from these calls.
	pollEvery = time.Second

	// maxBatch bounds the work of one call, because Redis serves no other client
	// meanwhile.
	maxBatch = 1024

	// leadTrips is the number of round trips for which a process reserves ahead. It
	// asks again when it has enough for one, so a call brings enough for two.
	leadTrips = 3

	// lateness is the most that a timer may be late on a busy machine.
	lateness = 50 * time.Millisecond

	// A process that takes less than lightShare of the limit need not wait for the
	// tokens that others have reserved, because these use no more than busyBurst of
	// the burst.
	lightShare = 1.0 / 32
	busyBurst  = 1.0 / 4

	// aloneAfter is the number of consecutive tokens after which a process assumes
	// that there are no others.
	aloneAfter = 256

	// targetWindow is the window of a process when the backlog of the fleet is as
	// long as the lead. A larger one makes calls rarer, and waits longer.
	targetWindow = 4

	// samples is the number of measurements in a smoothed average.
	samples = 4

	// forgetAfter is how long the limit given is in force until that is logged.
	forgetAfter = time.Minute

	// maxDuration, a year, stands for no deadline.
	maxDuration = 365 * 24 * time.Hour
)

// Wait returns nil when a request may be sent. If that will be after the deadline
// of ctx, Wait returns a [*resilient.LimitError] as soon as this can be foreseen
// from the turns so far, which is often at once. The request then uses nothing of
// the limit. When ctx ends, Wait returns its cause. While Redis does not answer,
// [WithFallback] decides.
//
// The request takes nothing of the limits of [WithLimit], see [Limiter.For].
func (l *Limiter) Wait(ctx context.Context) error { return l.wait(ctx, new(waiter)) }

func (l *Limiter) wait(ctx context.Context, w *waiter) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	w.done, w.forecast = make(chan struct{}), make(chan time.Duration, 1)
	w.deadline, _ = ctx.Deadline()
	l.join(w)
	select {
	case <-w.done:
		return w.err
	case d := <-w.forecast:
		defer l.giveUp(w) // if a hook panics
		resilient.ReportWait(ctx, d)
	case <-ctx.Done():
	}
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
	}
	if l.giveUp(w) {
		return context.Cause(ctx)
	}
	return w.err // its turn came at the same instant
}

// Pause holds back the requests of all processes for d, limited by [WithMaxPause].
// The requests of this process stop at once. Those of another process stop when it
// next calls Redis, which it does at least once a second while requests wait.
// Reservations for the time of the pause are made again. After the pause, requests
// go at the pace of the limit, without a burst.
//
// Pause does not wait for Redis. If Redis does not answer, the pause holds in this
// process, and is sent with the next call.
func (l *Limiter) Pause(d time.Duration) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pause(now, d) {
		l.serve(now)
	}
}

// Observe records the server's answer to a request that has waited for this
// limiter. A [resilient.Transport] calls it. A rejection that says how long to wait
// causes a [Limiter.Pause]. Refusals for the rate (429) lower the limit of all
// processes to that of the server, see [WithLearnedRate]. They do neither if they are
// by chance.
func (l *Limiter) Observe(a resilient.AttemptInfo) {
	limited := a.StatusCode != 0 && a.Verdict.Kind == resilient.KindRateLimit && !l.store.unlearned
	hint := time.Duration(0)
	if a.StatusCode != 0 && a.Verdict.Pause {
		hint = min(a.Verdict.RetryAfter, l.store.maxPause)
	}
	if !limited && hint <= 0 && !l.trial.watches.Load() {
		return
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	sent := now.Add(-a.Duration)
	volley := l.trial.take(sent, a.StatusCode != 0, limited)
	switch {
	case volley:
	case limited:
		if !l.refuse(sent) && (hint == 0 || l.trial.chance > 0) {
			return
		}
	case hint <= 0:
		if a.StatusCode != 0 {
			l.trial.note(false)
		}
		return
	}
	switch {
	case hint <= 0:
	case limited && (volley || len(l.queue) > 0) && l.synced() && l.store.down() == nil:
		if end := now.Add(hint); end.After(l.hintEnd) {
			l.hintEnd = end // Redis decides, perhaps after a trial
		}
	default:
		l.pause(now, hint)
	}
	l.serve(now)
}

// refuse records the refusal of a request that was sent at the given time, and
// reports whether Redis needs to know of it.
func (l *Limiter) refuse(sent time.Time) bool {
	more := l.trial.note(true)
	at := l.clock(sent)
	if !l.synced() || l.cutoff != 0 && at <= l.cutoff && !more {
		return false
	}
	if l.refused == 0 || at > l.refusedSent {
		l.refusedSent = at
	}
	l.refused++
	return true
}

// pause begins a pause, and reports whether it ends later than the current one.
func (l *Limiter) pause(now time.Time, d time.Duration) bool {
	until := now.Add(min(d, l.store.maxPause))
	if !until.After(now) || !until.After(l.pausedUntil) {
		return false
	}
	l.unpublished = true
	l.hold(until)
	return true
}

// Stats returns the counts so far. A limiter of a [Keyed] returns the counts over
// all keys, and the learned limit of its own key.
func (l *Limiter) Stats() Stats {
	s := l.store.snapshot()
	s.LearnedLimit = l.learned()
	return s
}

// learned returns the learned limit, in requests a second, or 0.
func (l *Limiter) learned() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.learnedInterval > 0 {
		return 1e6 / l.learnedInterval
	}
	return 0
}

// join appends w to the queue, or refuses it if its turn would come too late.
func (l *Limiter) join(w *waiter) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release(now)
	l.expire(now)
	at := l.expected(now, w)
	if w.tooLate(at) {
		w.end(l.refusal(now, at.Sub(now)))
		return
	}
	l.queue = append(l.queue, w)
	if l.units != nil {
		l.units.joined(w)
	}
	w.announce(at.Sub(now))
	l.serve(now)
}

// giveUp removes w from the queue, and reports whether it was still there.
func (l *Limiter) giveUp(w *waiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.remove(w) {
		return false
	}
	l.serve(time.Now())
	return true
}

func (l *Limiter) remove(w *waiter) bool {
	i := slices.Index(l.queue, w)
	if i < 0 {
		return false
	}
	l.queue = slices.Delete(l.queue, i, i+1)
	if l.units != nil {
		if i < len(l.slots) { // the next one has another cost
			if !l.slots[i].local {
				l.giveBack(w)
			}
			l.slots = slices.Delete(l.slots, i, i+1)
		}
		l.units.left(len(l.queue) == 0, w)
	}
	return true
}

func (l *Limiter) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue) == 0 && !l.calling && (l.units == nil || l.units.settleAt.IsZero())
}

func (w *waiter) tooLate(at time.Time) bool {
	return !w.deadline.IsZero() && !at.Before(w.deadline)
}

// expected returns an estimate of when w goes, which joins the queue now.
func (l *Limiter) expected(now time.Time, w *waiter) time.Time {
	if l.units != nil {
		return l.newcomer(now, w)
	}
	return l.expectedAt(now, len(l.queue))
}

// expectedAt returns an estimate of when the i-th in the queue goes.
func (l *Limiter) expectedAt(now time.Time, i int) time.Time {
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

// serve releases the requests whose time has come, calls Redis if there is a
// reason to, and sets the timer for the next event. It is called with l.mu held
// after each change.
func (l *Limiter) serve(now time.Time) {
	l.release(now)
	poll := len(l.queue) > 0 && now.Sub(l.calledAt) >= pollEvery
	if poll {
		l.calledAt = now
	}
	if !l.calling && (poll || l.unpublished || l.refused > 0 || !l.hintEnd.IsZero() || l.trial.ended() || l.due(now)) && l.store.mayCall(now) {
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
	next := l.unitsNext()
	if len(l.queue) == 0 {
		l.last, l.turn = 0, 0
		if next.IsZero() {
			return
		}
	} else if at := l.calledAt.Add(pollEvery); next.IsZero() || at.Before(next) {
		next = at
	}
	if len(l.slots) > 0 && l.slots[0].at.Before(next) {
		next = l.slots[0].at
	}
	l.timer = time.AfterFunc(next.Sub(now), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.serve(time.Now())
	})
}

// due reports whether there are slots to ask for or to hand back.
func (l *Limiter) due(now time.Time) bool {
	if l.units != nil {
		return l.unitsDue(now)
	}
	return l.wanted() > 0 || l.surplus() > 0
}

// release lets the requests go whose time has come. After a stall of this process
// many would go together. Slots that the burst does not cover are dropped, and new
// ones are asked for.
func (l *Limiter) release(now time.Time) {
	if len(l.slots) > 0 && l.slots[0].until.Before(now) {
		l.drop(func(s slot) bool { return s.until.Before(now) })
	}
	n, granted := 0, 0
	for n < len(l.queue) && n < len(l.slots) && !l.slots[n].at.After(now) {
		if !l.slots[n].local {
			granted++
		}
		n++
	}
	if n == 0 {
		return
	}
	l.store.count(granted, n-granted, 0)
	for i, w := range l.queue[:n] {
		w.local = l.slots[i].local
		w.end(nil)
		l.trial.sent(now, false)
	}
	if l.units != nil {
		l.units.left(n == len(l.queue), l.queue[:n]...)
	}
	l.queue, l.slots = slices.Delete(l.queue, 0, n), slices.Delete(l.slots, 0, n)
}

// expire drops the slots whose time has passed without a request to use them. If
// they were used later, they would add up to a burst.
func (l *Limiter) expire(now time.Time) {
	l.drop(func(s slot) bool { return !s.at.After(now) })
}

// drop drops the selected slots, and counts those that are lost to the fleet.
func (l *Limiter) drop(which func(slot) bool) {
	if l.units != nil {
		l.dropUnits(which)
		return
	}
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

// missing returns the number of requests in the queue without a slot, not counting
// the slots that are being asked for.
func (l *Limiter) missing() int { return len(l.queue) - len(l.slots) - l.asked }

// turns returns the time from one token of this process to the next, in
// microseconds. A process that is alone gets all tokens.
func (l *Limiter) turns() float64 { return max(l.turn, l.interval()) }

// interval returns the interval between two tokens of the fleet, in
// microseconds.
func (l *Limiter) interval() float64 { return max(l.learnedInterval, l.store.interval) }

// maxSlots returns the most slots to have, apart from those that can be used at
// once.
func (l *Limiter) maxSlots() int { return max(int(l.window), 1) }

// wanted returns the number of slots to ask for.
func (l *Limiter) wanted() int {
	n := l.missing()
	switch {
	case n <= 0 || l.last == 0: // perhaps all can go at once
	case len(l.slots) > (l.maxSlots()+1)/leadTrips:
		return 0 // there are enough for now
	default:
		n = min(n, l.maxSlots()-len(l.slots))
	}
	return min(n, maxBatch)
}

// creditAt returns the number of tokens that this process may take as a light one,
// at a time of Redis's clock.
func (l *Limiter) creditAt(clock float64) float64 {
	return min(l.credit+lightShare*max(clock-l.creditAsOf, 0)/l.interval(), l.store.burst)
}

// count counts the tokens of an answer, and detects whether other processes took
// tokens since the last one.
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
	l.credit, l.creditAsOf = max(l.creditAt(l.seen)-float64(n), 0), l.seen
	l.others = max(l.others-n, 0)
	before := r.ahead[0] - l.interval()
	if r.pause == 0 && before > 0 && l.seen+before > l.tat+l.interval()/2 {
		l.others = aloneAfter
	}
}

// surplus returns the number of slots at the end that no request needs and that
// Redis might take back.
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

// call makes one call to Redis for everything that is due: slots to ask for or to
// hand back, a pause, and refusals.
func (l *Limiter) call(now time.Time) {
	c := &call{began: now, pausing: l.unpublished}
	turns := 0
	if l.units != nil {
		c.waiters = slices.Clone(l.queue[len(l.slots):][:l.unitsWanted()])
		turns, c.burst = l.maxSlots(), l.store.burst
	} else if n := l.wanted(); n > 0 {
		c.waiters = slices.Clone(l.queue[len(l.slots):][:n])
		turns = max(l.maxSlots()-len(l.slots), 1)
		c.burst = l.store.burst
		if credit := l.creditAt(l.clock(now)); l.others > 0 && credit < 1 {
			c.burst = math.Ceil(l.store.burst * busyBurst)
		} else if l.others > 0 {
			c.waiters = c.waiters[:min(n, int(credit))]
		}
	} else if n := l.surplus(); n > 0 {
		c.back = slices.Clone(l.slots[len(l.slots)-n:])
		l.slots = l.slots[:len(l.slots)-n]
	}
	args := append(make([]any, 0, fixedArgs+len(c.waiters)), number(l.store.interval), number(l.store.burst), number(c.burst), turns)
	if l.synced() {
		args = append(args, number(l.seen), number(l.tat), number(l.pauseEnd))
	} else {
		args = append(args, "", "", "")
	}
	if l.learnedInterval > 0 {
		args = append(args, number(l.learnedInterval))
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
	c.hintEnd, l.hintEnd = l.hintEnd, time.Time{}
	ended, waiting := l.trial.end(now), len(l.queue)
	if ended.size > 0 {
		l.refusedSent = l.clock(l.trial.at)
	}
	if l.trial.size > 0 {
		waiting = 0 // one volley at a time
	}
	args = append(args, number(micros(pause)), len(c.back), number(leadTrips*l.rtt), refused, number(l.refusedSent),
		number(max(micros(c.hintEnd.Sub(now)), 0)), waiting, ended.size, ended.known, ended.bad, len(l.store.limits))
	if l.units != nil {
		args = l.unitArgs(args, c)
	}
	l.refused = 0
	for _, w := range c.waiters {
		patience := maxDuration
		if !w.deadline.IsZero() {
			patience = min(max(w.deadline.Sub(now), 0), maxDuration)
		}
		args = append(args, number(micros(patience)))
		for i := range l.store.limits {
			args = append(args, number(w.cost(i)))
		}
	}
	l.asked, l.calling, l.calledAt, l.unpublished = len(c.waiters), true, now, false
	go l.run(c, args)
}

// run makes a call and handles the answer. No request waits for run itself,
// because the client may ignore the timeout.
//
//nolint:contextcheck,nolintlint // a call is for many waiters whose contexts end at different times, and nolintlint does not see the finding
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

// failed handles a call that was not answered, or not in time. Redis may have
// executed it nevertheless. It returns a function that writes to the log.
func (l *Limiter) failed(c *call, err error) (log func()) {
	now := time.Now()
	log = func() {}
	if !c.finished {
		c.finished = true
		log = l.store.failed(now, err)
		l.asked = 0
		l.unpublished = l.unpublished || c.pausing
		l.pause(now, c.hintEnd.Sub(now))
		l.store.count(0, 0, len(c.back))
		if l.units != nil {
			l.units.unitsFailed(c)
		}
		l.fallBack(now, err) // before another call, because the waiters have waited long enough
	}
	l.serve(now)
	return log
}

// answered handles an answer, even if it is late. It returns a function that writes
// to the log.
func (l *Limiter) answered(c *call, r reply) (log func()) {
	late := c.finished
	c.finished = true
	now := time.Now()
	back := l.store.answered(now)
	l.asked = 0
	l.localFrom = time.Time{}
	l.drop(func(s slot) bool { return s.local })
	learned := l.learn(now, r)

	if l.units != nil {
		l.takeUnits(now, c, r, late)
	} else {
		l.takeSlots(now, c, r, late)
	}
	if rtt := micros(now.Sub(c.began)); !late && l.calls > 0 { // the first one may have to connect
		if l.rtt == 0 || rtt < l.rtt {
			l.rtt = rtt
		}
		l.rtt += (rtt - l.rtt) / 64 // the way may have become longer
	}
	l.calls++
	l.volley(now, r.volley, !c.hintEnd.IsZero())
	if l.units != nil {
		l.refuseLateUnits(now)
	} else {
		l.refuseLate(now)
	}
	l.serve(now)
	for i, w := range l.queue[:min(len(l.queue), len(l.slots))] {
		w.announce(l.slots[i].at.Sub(now))
	}
	return func() {
		back()
		learned()
	}
}

// takeSlots takes over the slots in an answer.
func (l *Limiter) takeSlots(now time.Time, c *call, r reply, late bool) {
	if r.back > 0 {
		l.tat -= float64(r.back) * l.interval()
	} else if !late {
		for _, s := range c.back {
			s.kept = true
			l.slots = append(l.slots, s)
		}
		slices.SortFunc(l.slots, func(a, b slot) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) })
	}
	if r.volley > 0 {
		l.tat = max(l.tat, l.seen) + float64(r.volley)*l.interval()
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
}

// volley lets n requests go at once.
func (l *Limiter) volley(now time.Time, n int, hinted bool) {
	if n == 0 {
		return
	}
	l.trial.begin(now, n, hinted)
	n = min(n, len(l.queue))
	if l.units != nil {
		l.volleyUnits(n)
	}
	for _, w := range l.queue[:n] {
		w.end(nil)
		l.trial.sent(now, true)
	}
	l.queue = slices.Delete(l.queue, 0, n)
	l.store.count(n, 0, 0)
}

// took records n tokens of a call. last is the tat of the last one if it has to be
// waited for, and 0 otherwise.
//
// If the backlog of the fleet is short, the window covers the lead. The longer the
// backlog is, the smaller the window becomes. All processes see the same backlog
// and use the same lead, so that their windows become alike, and with them their
// shares.
func (l *Limiter) took(c *call, last float64, n int) {
	if last > 0 || l.missing() > 0 {
		interval := l.interval()
		backlog := l.tat - l.seen - (c.burst+float64(n))*interval
		window := min(targetWindow*l.lead/max(backlog, interval), 1+l.lead/interval)
		l.window = max(l.window+(window-l.window)/samples, 1)
	}
	if last > 0 && l.last > 0 {
		turn := (last - l.last) / float64(n)
		if l.turn == 0 {
			l.turn = turn
		}
		l.turn += (turn - l.turn) / samples
	}
	l.last = last
}

// refuseLate refuses the requests in the queue whose turn comes too late after all.
// The forecast may have changed since they joined, because requests moved up in the
// queue or other processes took tokens in between.
func (l *Limiter) refuseLate(now time.Time) {
	for i := 0; i < len(l.queue); {
		w, at := l.queue[i], l.expectedAt(now, i)
		if !w.tooLate(at) {
			i++
			continue
		}
		l.remove(w)
		w.end(l.refusal(now, at.Sub(now)))
	}
}

// synced reports whether Redis ever answered.
func (l *Limiter) synced() bool { return !l.syncedAt.IsZero() }

// clock returns the time on Redis's clock at a local time. It is early by up to a
// round trip.
func (l *Limiter) clock(at time.Time) float64 { return l.seen + micros(at.Sub(l.syncedAt)) }

// learn takes over the state in an answer. It returns a function that writes to the
// log.
func (l *Limiter) learn(now time.Time, r reply) (log func()) {
	if back := l.seen - r.now; l.synced() && back > 0 { // Redis's clock was set back, see the script
		l.tat -= back
		l.pauseEnd -= back
	}
	if !l.synced() {
		l.tat, l.pauseEnd, l.credit, l.creditAsOf = r.now, r.now, l.store.burst, r.now
	}
	if r.interval < l.store.interval*1.0001 { // it is the configured interval, with fewer digits
		r.interval = 0
	}
	log = func() {}
	if lower := r.interval > 0; lower != l.saidLower && (lower || now.Sub(l.lowerAt) >= forgetAfter) {
		l.saidLower = lower
		log = func() { l.store.learned(lower) }
	}
	if r.interval > 0 {
		l.lowerAt = now
	}
	l.trial.found(r.chance)
	l.seen, l.syncedAt, l.lead, l.learnedInterval, l.cutoff = r.now, now, r.lead, r.interval, r.cutoff
	if end := r.now + r.pause; r.pause > 0 && end > l.pauseEnd+1 { // otherwise the pause is known
		l.pauseEnd = end
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
			return // Redis did not know of the pause, so it is asked again
		}
		at = l.pausedUntil // Redis knew of the pause, and the two clocks differ
	}
	if n := len(l.slots); n > 0 && at.Before(l.slots[n-1].at) {
		at = l.slots[n-1].at
	}
	l.slots = append(l.slots, slot{at: at, until: at.Add(duration(c.burst*l.interval()) + lateness), tat: l.tat})
}

// hold holds back all requests of this process until the given instant.
func (l *Limiter) hold(until time.Time) {
	if until.After(l.pausedUntil) {
		l.pausedUntil = until
	}
	l.drop(func(s slot) bool { return s.at.Before(until) })
	l.last = 0 // the time to the next token is not that of a turn
}

// fallBack applies WithFallback to the requests without a slot while Redis does not
// answer.
func (l *Limiter) fallBack(now time.Time, err error) {
	n := l.missing()
	if n <= 0 {
		return
	}
	for _, w := range slices.Clone(l.queue[len(l.queue)-n:]) {
		if f := l.store.fallback; !f.unlimited && f.processes == 0 {
			l.remove(w)
			l.store.count(0, 1, 0)
			w.end(&UnavailableError{Err: err})
			continue
		}
		at, tat := l.local(now)
		if l.units != nil && !l.store.fallback.unlimited {
			at = l.localUnits(at, w)
			tat = max(tat, micros(at.Sub(l.localFrom)))
		}
		if w.tooLate(at) {
			l.remove(w)
			l.store.count(0, 1, 0)
			w.end(l.refusal(now, at.Sub(now)))
			continue
		}
		if l.localTAT = tat; l.units != nil {
			l.takeLocalUnits(at, w)
		}
		l.slots = append(l.slots, slot{at: at, until: at.Add(maxDuration), local: true})
	}
	l.release(now)
}

// local returns when the next request may go without an answer of Redis, and the
// value of localTAT then. LocalShare uses GCRA too. It begins when the slots that
// Redis granted have been used, and without a burst, because the fleet may have
// just used that up.
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
	return time.Duration(min(micros, float64(maxDuration/time.Microsecond)) * float64(time.Microsecond))
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
