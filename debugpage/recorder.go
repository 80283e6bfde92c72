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

	// What is remembered is bounded, whatever callers do: some 100 KiB for an
	// ordinary Transport, and a few MiB at the worst.
	maxInFlight = 1024
	maxSteps    = 40  // of a call; those in the middle are left out
	maxText     = 200 // bytes of a path or a host
	maxWord     = 64  // characters of a reason or a code
	maxLines    = 3   // keys whose learned limits are plotted
)

// recorder keeps what the hooks of a Transport see. Instants are durations since
// start, which are cheaper to read and to keep than a time.Time.
type recorder struct {
	t     *resilient.Transport
	start time.Time

	mu       sync.Mutex
	began    int64 // calls, the last one's id
	inFlight map[*http.Request]*call
	oldest   *call // of those in flight, a list by next and prev
	newest   *call
	free     *call // to be used again, a list by next
	last     ring
	failed   ring
	slow     []*call
	slowMin  time.Duration // at most this long: not among the slowest
	slowTill time.Duration // when the first of the slowest has to go

	tally   [seconds]second
	limited time.Duration // when an attempt was last refused or held back for its rate
	sampled int64         // the second the learned limits were last looked at
}

// call is one RoundTrip. Calls are used again, so that a success allocates
// nothing.
type call struct {
	id         int64
	req        *http.Request // while it is in flight
	next, prev *call
	held       int // by how many lists it is kept

	method, host, path []byte
	begin, end         time.Duration
	ended              bool
	attempts           int
	steps              []step
	omitted            int    // steps after the first half of maxSteps
	partial            bool   // its beginning was not seen
	why                string // of DoneInfo
	status             int
	refusal            *resilient.LimitError
}

// step is an attempt or a wait.
type step struct {
	wait    bool
	attempt int
	at      time.Duration
	ended   bool
	end     time.Duration // of an attempt its answer, of a wait whatever came next
	want    time.Duration // of a wait: as foretold; of an attempt: as the server asked
	status  int
	reason  string // of WaitInfo, or of the Verdict
	failure *failure
}

// failure is what is shown of a failed attempt: the codes of the error object,
// as they are logged, and of an error its text.
type failure struct {
	kind                 resilient.Kind
	typ, code, requestID string
	text                 string
	refused              bool // for its rate
}

// second is what was seen in one second.
type second struct {
	at     int64 // since the start
	counts [outcomes]int32
	lines  [maxLines]learned
}

// learned is a limit that was in force, of one key.
type learned struct {
	key   string
	limit float64
}

// The outcomes of an attempt, as plotted.
const (
	accepted = iota // at the first attempt
	retried         // accepted at a later one
	refused         // for the rate
	failed
	outcomes
)

func newRecorder(t *resilient.Transport) *recorder {
	return &recorder{
		t: t, start: time.Now(), limited: -window, sampled: -1,
		inFlight: make(map[*http.Request]*call),
		last:     ring{calls: make([]*call, lastCalls)},
		failed:   ring{calls: make([]*call, failedCalls)},
	}
}

func (r *recorder) trace() *resilient.Trace {
	return &resilient.Trace{
		AttemptStart: r.attemptStart, AttemptDone: r.attemptDone, Wait: r.wait, Done: r.done,
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

// attemptDone notes a failure. A success is left to done, which follows at once.
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
		r.count(now, accepted) // it was answered: what it asked for is wrong
	}
	c := r.inFlight[a.Request]
	if c == nil || len(c.steps) == 0 {
		return // it was pushed out by too many others
	}
	s := &c.steps[len(c.steps)-1]
	s.ended, s.end = true, min(s.at+a.Duration, now) // the error body took the rest
	s.status, s.want, s.reason, s.failure = a.StatusCode, a.Verdict.RetryAfter, word(a.Verdict.Reason), f
}

func (r *recorder) wait(w resilient.WaitInfo) {
	now := time.Since(r.start)
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.find(w.Request, w.Path, w.Attempt, now)
	c.add(step{wait: true, attempt: w.Attempt, at: now, want: w.Duration, reason: word(w.Reason)})
	if w.Reason == "rate limit" || w.Reason == "pause" {
		r.limited = now
	}
}

func (r *recorder) done(d resilient.DoneInfo) {
	now := time.Since(r.start)
	r.mu.Lock()
	c := r.inFlight[d.Request]
	if c == nil {
		c = r.begin(d.Request, d.Path, now-d.Duration)
		c.partial = d.Attempts > 0
	}
	r.leave(c)
	// Other hooks may have held up this one, or the first one.
	c.begin = min(c.begin, now-d.Duration)
	c.ended, c.end = true, now
	c.endWait(now)
	c.attempts, c.status, c.why = d.Attempts, d.StatusCode, word(d.Reason)
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
		if e, ok := errors.AsType[*resilient.LimitError](d.Err); ok {
			c.refusal = &resilient.LimitError{Reason: word(e.Reason), Wait: e.Wait}
		}
		r.release(r.failed.push(c))
	}
	r.keepSlow(c, now)
	r.release(r.last.push(c))
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

// sample notes the learned limits of now. Hooks do so once a second at most,
// and only while rates matter, since it looks at every key. The Transport's
// locks are never taken under the recorder's.
func (r *recorder) sample() resilient.Snapshot {
	snapshot := r.t.Snapshot()
	now := time.Since(r.start)
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.second(now)
	s.lines = [maxLines]learned{}
	n := 0
	for i := range snapshot.Keys {
		k := &snapshot.Keys[i]
		if k.LearnedLimit > 0 && n < maxLines {
			s.lines[n] = learned{key: redact.Line(k.Key, maxText), limit: k.LearnedLimit}
			n++
		}
	}
	return snapshot
}

// find returns the call in flight that an event of attempt n belongs to.
func (r *recorder) find(req *http.Request, path string, n int, now time.Duration) *call {
	c := r.inFlight[req]
	if c != nil && n <= 1 && c.attempts > 0 {
		// A new call of a Request whose last one had no end: the base panicked.
		r.leave(c)
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
		r.leave(old)
		r.release(old)
	}
	c := r.free
	if c == nil {
		c = new(call)
	} else {
		r.free = c.next
	}
	r.began++
	clear(c.steps) // the texts in them
	method := req.Method
	if method == "" {
		method = http.MethodGet
	}
	*c = call{
		id: r.began, req: req, prev: r.newest, begin: now,
		// Copied, as they may be parts of longer strings: a URL with its query.
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

// leave takes c out of those in flight.
func (r *recorder) leave(c *call) {
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

// release lets c be used again once no list keeps it; c may be nil.
func (r *recorder) release(c *call) {
	if c != nil && c.held == 0 {
		c.next, r.free = r.free, c
	}
}

// keepSlow keeps c if it is among the slowest of the window. What is not, mostly
// costs two comparisons.
func (r *recorder) keepSlow(c *call, now time.Duration) {
	if len(r.slow) == slowCalls && c.end-c.begin <= r.slowMin && now < r.slowTill {
		return
	}
	r.dropSlow(now)
	if len(r.slow) == slowCalls {
		quickest := r.slow[slowCalls-1]
		if quickest.end-quickest.begin >= c.end-c.begin {
			return
		}
		r.slow = r.slow[:slowCalls-1]
		quickest.held--
		r.release(quickest)
	}
	c.held++
	i, _ := slices.BinarySearchFunc(r.slow, c, func(a, b *call) int {
		return cmp.Compare(b.end-b.begin, a.end-a.begin) // the slowest first
	})
	r.slow = slices.Insert(r.slow, i, c)
	quickest := r.slow[len(r.slow)-1]
	r.slowMin, r.slowTill = quickest.end-quickest.begin, c.end+window
	for _, s := range r.slow {
		r.slowTill = min(r.slowTill, s.end+window)
	}
}

// dropSlow lets go of those that ended before the window.
func (r *recorder) dropSlow(now time.Duration) {
	r.slow = slices.DeleteFunc(r.slow, func(c *call) bool {
		old := now-c.end >= window
		if old {
			c.held--
			r.release(c)
		}
		return old
	})
}

func (r *recorder) count(now time.Duration, outcome int) { r.second(now).counts[outcome]++ }

// second returns the entry of the second that now is in.
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

// endWait ends the wait under way, if there is one.
func (c *call) endWait(at time.Duration) {
	if n := len(c.steps); n > 0 && c.steps[n-1].wait {
		c.steps[n-1].ended, c.steps[n-1].end = true, at
	}
}

// clone returns a copy to be looked at without the lock.
func (c *call) clone() *call {
	d := *c
	d.method, d.host, d.path = slices.Clone(c.method), slices.Clone(c.host), slices.Clone(c.path)
	d.steps = slices.Clone(c.steps)
	return &d
}

// ring keeps the calls that came last.
type ring struct {
	calls []*call
	n     int // that ever came
}

// push adds c, and returns the call that had its place, or nil.
func (r *ring) push(c *call) *call {
	i := r.n % len(r.calls)
	old := r.calls[i]
	r.calls[i] = c
	r.n++
	c.held++
	if old != nil {
		old.held--
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

// word returns a reason, which is a constant unless a Classifier or a Limiter
// makes them up.
func word(s string) string {
	if len(s) <= maxWord {
		return s
	}
	return redact.Line(s, maxWord)
}

// clip bounds what is copied of s; it may cut a character, see redact.Line.
func clip(s string) string {
	if len(s) > maxText {
		return s[:maxText] + "..."
	}
	return s
}
