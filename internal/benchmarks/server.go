package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// server is the API, as a RoundTripper in the virtual time of a synctest bubble. It
// has no queue unless capacity is set, so that each answer takes latency and each
// refusal takes refusal.
type server struct {
	limit    limit // nil: none
	status   int   // of a refusal
	hint     string
	tells    func(http.Header, time.Time)   // more than the hint; may be nil
	latency  time.Duration                  // until a 200 or a 500
	service  func(*rand.Rand) time.Duration // draws the latency of each request, or nil
	refusal  time.Duration                  // until a refusal
	way      time.Duration                  // of a request or an answer through the network
	jitter   time.Duration                  // a way takes up to this much longer
	timeout  time.Duration                  // of the client, until the response headers, or 0
	capacity float64                        // answers a second, behind an unbounded FIFO queue, or 0 for no queue
	workers  int                            // that serve the queue, or 0 for one
	stall    interval                       // the queue is not served
	down     interval                       // every request is answered 503
	flaky    interval                       // requests fail with a 500 at random
	failRate float64                        // the share of requests that fail

	mu    sync.Mutex
	start time.Time
	free  []time.Time // when each worker has served the requests it was given
	rng   *rand.Rand
	bins  []bin
}

// interval is a period, counted from the start of the run, without its end.
type interval struct{ from, to time.Duration }

func (i interval) holds(d time.Duration) bool { return i.from <= d && d < i.to }

// bin counts the server's answers in a tenth of a second.
type bin struct{ accepted, refused, failed int }

const binWidth = 100 * time.Millisecond

// call is one request of a caller, with all attempts made for it. The server finds
// it in the context, which every client passes on.
type call struct {
	id         int // of the goroutine, see align
	process    int
	url        string        // "": things
	cost       float64       // in tokens; 0: one
	guess      float64       // what the caller takes for the cost
	takes      time.Duration // until the answer; 0: the server says
	priority   int
	flow       string
	patience   time.Duration // 0: endless
	attempts   int           // seen by the server
	refused    int           // of the attempts
	accepted   time.Time     // when the last attempt was
	service    time.Duration // of the last accepted attempt
	begin, end time.Time
	ok         bool
}

// things is the URL of the calls, unless they are told another.
const things = "http://api.example/v1/things"

type callKey struct{}

func newServer(p *params) *server {
	s := &server{
		status: p.status, hint: p.hint, latency: p.latency, service: p.newService(), refusal: p.refusal,
		way: p.way, jitter: p.jitter,
		start: time.Now(), rng: rand.New(rand.NewPCG(p.seed, 1)),
	}
	s.limit = p.newLimit(s.start)
	return s
}

// lattice is the number of goroutines with a nanosecond of their own, see align.
const lattice = 1 << 13

// align returns the first instant from t on that belongs to goroutine id. In every
// 8.192 us each goroutine has one nanosecond at which its requests arrive and are
// answered. So no two of these events share an instant, and a run repeats.
func align(t time.Time, id int) time.Time {
	d := (int64(id) - t.UnixNano()) % lattice
	if d < 0 {
		d += lattice
	}
	return t.Add(time.Duration(d))
}

// sleepUntil returns early, with an error, only if the context ends. It makes no
// timer that has already expired. Receiving from many of those, in one bubble and
// with -race, sometimes crashes the runtime of Go 1.26.
func sleepUntil(ctx context.Context, t time.Time) error {
	d := time.Until(t)
	if d <= 0 {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// timeoutError is like the error of http.Transport after ResponseHeaderTimeout.
type timeoutError struct{}

func (timeoutError) Error() string   { return "timeout awaiting response headers" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

// RoundTrip implements http.RoundTripper.
func (s *server) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if req.Body != nil {
		_, _ = io.Copy(io.Discard, req.Body)
		_ = req.Body.Close()
	}
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		return nil, errors.New("the client did not pass the context on")
	}
	if err := sleepUntil(ctx, align(time.Now(), c.id)); err != nil {
		return nil, err
	}
	if err := s.travel(ctx, c); err != nil {
		return nil, err
	}
	now := time.Now()
	status, header, after := s.decide(now, c)
	var err error
	if s.timeout > 0 && after > s.timeout {
		after, err = s.timeout, timeoutError{}
	}
	e := sleepUntil(ctx, align(now.Add(after), c.id))
	if status == http.StatusOK || status == http.StatusInternalServerError {
		s.done(c) // the limit accepted it
	}
	if e != nil {
		return nil, e
	}
	if err != nil {
		return nil, err
	}
	if err := s.travel(ctx, c); err != nil {
		return nil, err
	}
	return answer(req, status, header), nil
}

// travel takes a request to the server, or its answer back.
func (s *server) travel(ctx context.Context, c *call) error {
	if s.way == 0 && s.jitter == 0 {
		return nil
	}
	d := s.way
	if s.jitter > 0 {
		s.mu.Lock()
		d += time.Duration(s.rng.Int64N(int64(s.jitter)))
		s.mu.Unlock()
	}
	return sleepUntil(ctx, align(time.Now().Add(d), c.id))
}

// done tells the limit that an accepted request is not under way any more.
func (s *server) done(c *call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limit != nil {
		s.limit.done(c)
	}
}

// decide handles the arrival of a request. It returns the answer, and the time until
// it comes.
func (s *server) decide(now time.Time, c *call) (status int, header http.Header, after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.attempts++
	at := now.Sub(s.start)
	for len(s.bins) <= int(at/binWidth) {
		s.bins = append(s.bins, bin{})
	}
	b := &s.bins[at/binWidth]
	header = http.Header{"Content-Type": {"application/json"}}
	if s.down.holds(at) {
		b.failed++
		return http.StatusServiceUnavailable, header, s.refusal
	}
	if s.limit != nil {
		accepted := accepts(s.limit, now, c)
		s.setHint(header, now, c, accepted)
		if s.tells != nil {
			s.tells(header, now)
		}
		if !accepted {
			c.refused++
			b.refused++
			return s.status, header, s.refusal
		}
	}
	c.accepted, c.service = now, s.latency
	switch {
	case c.takes > 0:
		c.service = c.takes
	case s.service != nil:
		c.service = s.service(s.rng)
	}
	after = c.service + s.queue(now)
	if s.flaky.holds(at) && s.rng.Float64() < s.failRate {
		b.failed++
		return http.StatusInternalServerError, header, after
	}
	if s.timeout > 0 && after > s.timeout {
		b.failed++ // the client has given up by then
	} else {
		b.accepted++
	}
	return http.StatusOK, header, after
}

// queue returns how long a request that arrives now waits in the queue. It is served
// even if the client has given up meanwhile, because the server does not notice.
func (s *server) queue(now time.Time) time.Duration {
	if s.capacity == 0 {
		return 0
	}
	if s.free == nil {
		s.free = make([]time.Time, max(s.workers, 1))
	}
	next := slices.MinFunc(s.free, time.Time.Compare)
	k := slices.Index(s.free, next)
	if next.Before(now) {
		next = now
	}
	if s.stall.holds(next.Sub(s.start)) {
		next = s.start.Add(s.stall.to)
	}
	s.free[k] = next.Add(time.Duration(float64(time.Second) * float64(len(s.free)) / s.capacity))
	return s.free[k].Sub(now)
}

// setHint sets the header fields about the limit.
func (s *server) setHint(h http.Header, now time.Time, c *call, accepted bool) {
	remaining, reset := s.limit.state(now, c)
	seconds := strconv.Itoa(int(math.Ceil(reset.Seconds())))
	quota, window := s.limit.quota()
	left := strconv.Itoa(remaining)
	switch s.hint {
	case "none":
	case "retry-after":
		if !accepted {
			h.Set("Retry-After", seconds)
		}
	case "ratelimit":
		h.Set("RateLimit-Policy", fmt.Sprintf(`"default";q=%d;w=%d`, quota, window))
		h.Set("RateLimit", fmt.Sprintf(`"default";r=%s;t=%s`, left, seconds))
	case "x-ratelimit":
		h.Set("X-RateLimit-Limit", strconv.Itoa(quota))
		h.Set("X-RateLimit-Remaining", left)
		h.Set("X-RateLimit-Reset", seconds)
	default:
		panic("unknown hint " + s.hint)
	}
}

// setRate changes the limit of a server that has one.
func (s *server) setRate(rate float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit.setRate(time.Now(), rate)
}

// count adds up the bins of an interval.
func (s *server) count(i interval) (sum bin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, b := range s.bins {
		if i.holds(time.Duration(k) * binWidth) {
			sum.accepted += b.accepted
			sum.refused += b.refused
			sum.failed += b.failed
		}
	}
	return sum
}

func answer(req *http.Request, status int, header http.Header) *http.Response {
	body := `{"ok":true}`
	switch status {
	case http.StatusTooManyRequests:
		body = `{"code":"429","type":"RATE_LIMIT_ERROR","message":"Too many requests."}`
	case http.StatusInternalServerError, http.StatusServiceUnavailable:
		body = `{"code":"500","type":"SERVER_ERROR","message":"An unexpected error occurred."}`
	}
	return &http.Response{
		Status:     fmt.Sprintf("%d %s", status, http.StatusText(status)),
		StatusCode: status,
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        header,
		Body:          io.NopCloser(strings.NewReader(body)),
		ContentLength: int64(len(body)),
		Request:       req,
	}
}
