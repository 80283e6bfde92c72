package debugpage

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/redact"
)

const (
	lastCalls   = 100
	slowCalls   = 20
	failedCalls = 20
	window      = 5 * time.Minute // of the plot, and of the slowest calls
	seconds     = int64(window / time.Second)

	// These bound the memory: some 100 KiB for an ordinary Transport, and a few MiB
	// at the worst.
	maxInFlight = 1024
	maxSteps    = 40  // of a call, from its beginning and its end
	maxText     = 200 // bytes of a path or a host
	maxWord     = 64  // characters of a reason or a code
	maxLines    = 3   // limits whose learned rates are plotted

	// What is known of limits is read when an attempt has to wait. If there are many
	// keys that takes a while, so it takes at most one in readPart of the time.
	readPart = 50
)

// recorder keeps the events of the hooks of a Transport. Instants are durations
// since start, which are cheaper to read and to keep than a time.Time.
type recorder struct {
	t     *resilient.Transport
	start time.Time

	mu        sync.Mutex
	lastID    int64 // of the last call that began
	inFlight  map[*http.Request]*call
	oldest    *call // of those in flight, a list by next and prev
	newest    *call
	free      *call                      // to be reused, a list by next
	bodies    map[*http.Request]openBody // at most maxInFlight
	last      ring
	failed    ring
	slow      []*call
	slowMin   time.Duration // a call that is not longer is not among the slowest
	slowUntil time.Duration // when the first of the slowest leaves the window

	tally   [seconds]second
	limited time.Duration // when an attempt was last refused or held back for its rate
	sampled int64         // the second of the last sample

	reading sync.Mutex // held while the beliefs are read, before mu
	beliefs []belief
	until   time.Duration // when they may be read again
}

// call is one RoundTrip. Calls are reused, so that a success allocates nothing.
type call struct {
	id         int64
	req        *http.Request // while it is in flight
	next, prev *call
	refs       int // lists that keep it

	method, host, path []byte
	begin, end         time.Duration
	ended              bool
	attempts           int
	steps              []step
	omitted            int    // steps left out after the first maxSteps/2
	partial            bool   // its beginning was not seen
	reason             string // of DoneInfo
	status             int
	body               bodyState
	bodyEnd            time.Duration
	bodyBytes          int64
	bodyError          string // why it broke off
	refusal            *resilient.LimitError
	refuser            *held // the limit for which it was refused; nil: it is not known
}

// bodyState is how far the body of the response of a call has come.
type bodyState uint8

const (
	bodyNone bodyState = iota // there is none, or it is not known
	bodyOpen
	bodyEnded
)

// openBody is a call that has ended, except for the body of its response. The call is
// another one if it has been reused since.
type openBody struct {
	call *call
	id   int64
}

// step is an attempt or a wait.
type step struct {
	wait    bool
	attempt int
	at      time.Duration
	ended   bool
	end     time.Duration // of an attempt its answer, and of a wait the next event
	want    time.Duration // the announced length of a wait, or the wait that the server asked for
	status  int
	reason  string // of WaitInfo, or of the Verdict
	failure *failure
	held    *held // the limit it waits for; nil: it is not known
}

// failure describes a failed attempt: the codes of the error object, as in logs, or
// the text of the error.
type failure struct {
	kind                 resilient.Kind
	typ, code, requestID string
	text                 string
	refused              bool // for its rate
}

// second holds the counts of one second.
type second struct {
	at     int64 // since the start
	counts [outcomes]int32
	lines  [maxLines]learned
}

// learned is the learned rate of a limit.
type learned struct {
	key   string
	route string // "": the whole key
	limit float64
}

// The outcomes of an attempt in the plot.
const (
	accepted = iota // at the first attempt
	retried         // accepted at a later attempt
	refused         // for the rate
	failed
	outcomes
)

func newRecorder(t *resilient.Transport) *recorder {
	return &recorder{
		t: t, start: time.Now(), limited: -window, sampled: -1,
		inFlight: make(map[*http.Request]*call), bodies: make(map[*http.Request]openBody),
		last:   ring{calls: make([]*call, lastCalls)},
		failed: ring{calls: make([]*call, failedCalls)},
	}
}

func (r *recorder) trace() *resilient.Trace {
	return &resilient.Trace{
		AttemptStart: r.attemptStart, AttemptDone: r.attemptDone, Wait: r.wait, Done: r.done, Body: r.bodyDone,
	}
}

func (r *recorder) attemptStart(a resilient.AttemptInfo) {
	now := time.Since(r.start)
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.find(a.Request, a.Path, a.Attempt, now)
	c.attempts = a.Attempt
	c.add(step{attempt: a.Attempt, at: now})
}

// attemptDone records a failure. A success is left to done, which follows at once.
func (r *recorder) attemptDone(a resilient.AttemptInfo) {
	if a.Err == nil && a.APIError == nil {
		return
	}
	f := newFailure(&a)
	now := time.Since(r.start)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case f.refused:
		r.limited = now
		r.count(now, refused)
	case a.Err != nil || a.Verdict.Retry || a.Verdict.Kind == resilient.KindServer:
		r.count(now, failed)
	case a.Attempt > 1:
		r.count(now, retried)
	default:
		r.count(now, accepted) // the server answered, but the request is wrong
	}
	c := r.inFlight[a.Request]
	if c == nil || len(c.steps) == 0 {
		return // too many newer calls have replaced it
	}
	s := &c.steps[len(c.steps)-1]
	s.ended, s.end = true, min(s.at+a.Duration, now) // reading the error body took the rest
	s.status, s.want, s.reason, s.failure = a.StatusCode, a.Verdict.RetryAfter, word(a.Verdict.Reason), f
}

func (r *recorder) wait(w resilient.WaitInfo) {
	now := time.Since(r.start)
	limited := isLimit(w.Reason)
	if limited {
		r.refresh(now)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.find(w.Request, w.Path, w.Attempt, now)
	s := step{wait: true, attempt: w.Attempt, at: now, want: w.Duration, reason: word(w.Reason)}
	if limited {
		r.limited = now
		s.held = newWaiter(w.Request).find(r.beliefs, w.Reason)
	}
	c.add(s)
}

// isLimit reports whether a wait for this reason is for a limit.
func isLimit(reason string) bool {
	return reason == resilient.ReasonRateLimit || reason == resilient.ReasonPause
}

// refresh reads what is known of limits at the time now or later, unless that would
// take too much time. Of several that wait at once, one reads for all.
func (r *recorder) refresh(now time.Duration) {
	r.reading.Lock()
	defer r.reading.Unlock()
	r.mu.Lock()
	old := now >= r.until
	r.mu.Unlock()
	if old {
		r.sample()
	}
}

func (r *recorder) done(d resilient.DoneInfo) {
	now := time.Since(r.start)
	refusal, _ := errors.AsType[*resilient.LimitError](d.Err)
	if refusal != nil && isLimit(refusal.Reason) {
		r.refresh(now)
	}
	r.mu.Lock()
	c := r.inFlight[d.Request]
	if c == nil {
		c = r.begin(d.Request, d.Path, now-d.Duration)
		c.partial = d.Attempts > 0
	}
	r.remove(c)
	// Other hooks may have delayed this one, or the first one.
	c.begin = min(c.begin, now-d.Duration)
	c.ended, c.end = true, now
	c.endWait(now)
	c.attempts, c.status, c.reason = d.Attempts, d.StatusCode, word(d.Reason)
	if d.Reason == "success" {
		outcome := accepted
		if d.Attempts > 1 {
			outcome = retried
		}
		r.count(now, outcome)
		if n := len(c.steps); n > 0 && !c.steps[n-1].wait {
			s := &c.steps[n-1]
			s.ended, s.end, s.status, s.reason = true, now, d.StatusCode, "success"
		}
	} else {
		if refusal != nil {
			c.refusal = &resilient.LimitError{Reason: word(refusal.Reason), Wait: refusal.Wait}
			c.refuser = newWaiter(d.Request).find(r.beliefs, refusal.Reason)
		}
		r.release(r.failed.push(c))
	}
	r.keepSlow(c, now)
	r.release(r.last.push(c))
	if d.Body {
		r.keepOpen(d.Request, c)
	}
	at := int64(now / time.Second)
	sample := now-r.limited < window && at != r.sampled
	if sample {
		r.sampled = at
	}
	r.mu.Unlock()
	if sample {
		r.sample()
	}
}

// keepOpen remembers that the body of the response of c has not ended. If nobody closes
// bodies there are too many, and another one is forgotten.
func (r *recorder) keepOpen(req *http.Request, c *call) {
	if len(r.bodies) >= maxInFlight {
		for other := range r.bodies {
			delete(r.bodies, other)
			break
		}
	}
	c.body = bodyOpen
	r.bodies[req] = openBody{c, c.id}
}

// bodyDone records the end of a body. A call whose body broke off has failed.
func (r *recorder) bodyDone(b resilient.BodyInfo) {
	now := time.Since(r.start)
	r.mu.Lock()
	defer r.mu.Unlock()
	open, ok := r.bodies[b.Request]
	delete(r.bodies, b.Request)
	c := open.call
	if !ok || c.id != open.id || c.refs == 0 {
		return
	}
	c.body, c.bodyEnd, c.bodyBytes = bodyEnded, now, b.Bytes
	if b.Err == nil {
		return
	}
	c.bodyError = redact.Unquoted(b.Err)
	if c.reason == resilient.ReasonSuccess {
		r.release(r.failed.push(c))
	}
}

// sample records what is known of limits now. Hooks call it seldom, and only while
// rates matter, because it reads every key. It never takes the locks of the Transport
// while it holds that of the recorder.
func (r *recorder) sample() resilient.Snapshot {
	began := time.Now()
	snapshot := r.t.Snapshot()
	now := time.Now()
	beliefs := newBeliefs(&snapshot, now)
	at := now.Sub(r.start)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.beliefs, r.until = beliefs, at+readPart*now.Sub(began)
	s := r.second(at)
	s.lines = [maxLines]learned{}
	n := 0
	for i := range snapshot.Keys {
		k := &snapshot.Keys[i]
		for _, l := range k.Limits {
			if l.Rate > 0 && n < maxLines {
				s.lines[n] = learned{key: redact.Line(k.Key, maxText), route: redact.Line(l.Route, maxText), limit: l.Rate}
				n++
			}
		}
	}
	return snapshot
}

// find returns the call in flight to which an event of attempt n belongs.
func (r *recorder) find(req *http.Request, path string, n int, now time.Duration) *call {
	c := r.inFlight[req]
	if c != nil && n <= 1 && c.attempts > 0 {
		// A new call with the same Request. The last one has no end, because the base
		// panicked.
		r.remove(c)
		r.release(c)
		c = nil
	}
	if c == nil {
		c = r.begin(req, path, now)
		c.partial = n > 1
	}
	return c
}

func (r *recorder) begin(req *http.Request, path string, now time.Duration) *call {
	if len(r.inFlight) >= maxInFlight {
		old := r.oldest
		r.remove(old)
		r.release(old)
	}
	c := r.free
	if c == nil {
		c = new(call)
	} else {
		r.free = c.next
	}
	r.lastID++
	clear(c.steps) // frees their texts
	method := req.Method
	if method == "" {
		method = http.MethodGet
	}
	*c = call{
		id: r.lastID, req: req, prev: r.newest, begin: now,
		// They are copied because they may be parts of longer strings, such as a URL
		// with its query.
		method: append(c.method[:0], clip(method)...),
		host:   append(c.host[:0], clip(req.URL.Host)...),
		path:   append(c.path[:0], clip(path)...),
		steps:  c.steps[:0],
	}
	if r.newest == nil {
		r.oldest = c
	} else {
		r.newest.next = c
	}
	r.newest = c
	r.inFlight[req] = c
	return c
}

// remove removes c from the calls in flight.
func (r *recorder) remove(c *call) {
	delete(r.inFlight, c.req)
	if c.prev == nil {
		r.oldest = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		r.newest = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.req, c.prev, c.next = nil, nil, nil
}

// release makes c available for reuse if no list keeps it. c may be nil.
func (r *recorder) release(c *call) {
	if c != nil && c.refs == 0 {
		c.next, r.free = r.free, c
	}
}

// keepSlow keeps c if it is among the slowest of the window. A call that is not
// usually costs two comparisons.
func (r *recorder) keepSlow(c *call, now time.Duration) {
	if len(r.slow) == slowCalls && c.end-c.begin <= r.slowMin && now < r.slowUntil {
		return
	}
	r.dropSlow(now)
	if len(r.slow) == slowCalls {
		quickest := r.slow[slowCalls-1]
		if quickest.end-quickest.begin >= c.end-c.begin {
			return
		}
		r.slow = r.slow[:slowCalls-1]
		quickest.refs--
		r.release(quickest)
	}
	c.refs++
	i, _ := slices.BinarySearchFunc(r.slow, c, func(a, b *call) int {
		return cmp.Compare(b.end-b.begin, a.end-a.begin) // the slowest first
	})
	r.slow = slices.Insert(r.slow, i, c)
	quickest := r.slow[len(r.slow)-1]
	r.slowMin, r.slowUntil = quickest.end-quickest.begin, c.end+window
	for _, s := range r.slow {
		r.slowUntil = min(r.slowUntil, s.end+window)
	}
}

// dropSlow drops the calls that ended before the window.
func (r *recorder) dropSlow(now time.Duration) {
	r.slow = slices.DeleteFunc(r.slow, func(c *call) bool {
		old := now-c.end >= window
		if old {
			c.refs--
			r.release(c)
		}
		return old
	})
}

func (r *recorder) count(now time.Duration, outcome int) { r.second(now).counts[outcome]++ }

// second returns the entry of the current second.
func (r *recorder) second(now time.Duration) *second {
	at := int64(now / time.Second)
	s := &r.tally[at%seconds]
	if s.at != at {
		*s = second{at: at}
	}
	return s
}

func (c *call) add(s step) {
	c.endWait(s.at)
	if len(c.steps) == maxSteps {
		c.steps = slices.Delete(c.steps, maxSteps/2, maxSteps/2+1)
		c.omitted++
	}
	c.steps = append(c.steps, s)
}

// endWait ends the current wait, if there is one.
func (c *call) endWait(at time.Duration) {
	if n := len(c.steps); n > 0 && c.steps[n-1].wait {
		c.steps[n-1].ended, c.steps[n-1].end = true, at
	}
}

// clone returns a copy that can be read without the lock.
func (c *call) clone() *call {
	d := *c
	d.method, d.host, d.path = slices.Clone(c.method), slices.Clone(c.host), slices.Clone(c.path)
	d.steps = slices.Clone(c.steps)
	return &d
}

// ring keeps the last calls.
type ring struct {
	calls []*call
	n     int // calls added so far
}

// push adds c, and returns the call that it replaces, or nil.
func (r *ring) push(c *call) *call {
	i := r.n % len(r.calls)
	old := r.calls[i]
	r.calls[i] = c
	r.n++
	c.refs++
	if old != nil {
		old.refs--
	}
	return old
}

// all returns the calls, the last one first.
func (r *ring) all() []*call {
	n := min(r.n, len(r.calls))
	calls := make([]*call, 0, n)
	for i := range n {
		calls = append(calls, r.calls[(r.n-1-i)%len(r.calls)])
	}
	return calls
}

func newFailure(a *resilient.AttemptInfo) *failure {
	f := &failure{kind: a.Verdict.Kind}
	if e := a.APIError; e != nil {
		f.typ, f.code = redact.Line(e.Type, maxWord), redact.Line(e.Code, maxWord)
		f.requestID = redact.Line(e.RequestID, 2*maxWord)
	}
	if a.Err != nil {
		f.text = redact.Unquoted(a.Err)
	}
	f.refused = f.kind == resilient.KindRateLimit || f.kind == resilient.KindQuota ||
		a.Verdict.Pause && a.Verdict.RetryAfter > 0
	return f
}

// word returns a reason, limited to maxWord. A reason is a constant unless a
// Classifier or a Limiter has reasons of its own.
func word(s string) string {
	if len(s) <= maxWord {
		return s
	}
	return redact.Line(s, maxWord)
}

// clip limits the length of s. It may cut a character in two, which redact.Line
// repairs.
func clip(s string) string {
	if len(s) > maxText {
		return s[:maxText] + "..."
	}
	return s
}
