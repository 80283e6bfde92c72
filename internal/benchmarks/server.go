package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
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
	hint     string
	latency  time.Duration // until a 200 or a 500
	refusal  time.Duration // until a 429 or a 503
	timeout  time.Duration // of the client, until the response headers, or 0
	capacity float64       // answers a second, behind an unbounded FIFO queue, or 0 for no queue
	stall    interval      // the queue is not served
	down     interval      // every request is answered 503
	flaky    interval      // requests fail with a 500 at random
	failRate float64       // the share of requests that fail

	mu    sync.Mutex
	start time.Time
	free  time.Time // when the queue is empty
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
	patience   time.Duration // 0: endless
	attempts   int           // seen by the server
	begin, end time.Time
	ok         bool
}

type callKey struct{}

func newServer(p *params) *server {
	s := &server{
		hint: p.hint, latency: p.latency, refusal: p.refusal,
		start: time.Now(), rng: rand.New(rand.NewPCG(p.seed, 1)),
	}
	if p.rate > 0 {
		s.limit = p.newLimit(s.start)
	}
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
	now := time.Now()
	status, header, after := s.decide(now, c)
	var err error
	if s.timeout > 0 && after > s.timeout {
		after, err = s.timeout, timeoutError{}
	}
	if e := sleepUntil(ctx, align(now.Add(after), c.id)); e != nil {
		return nil, e
	}
	if err != nil {
		return nil, err
	}
	return answer(req, status, header), nil
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
		accepted := s.limit.take(now)
		s.setHint(header, now, accepted)
		if !accepted {
			b.refused++
			return http.StatusTooManyRequests, header, s.refusal
		}
	}
	after = s.latency + s.queue(now)
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
	if s.free.Before(now) {
		s.free = now
	}
	if s.stall.holds(s.free.Sub(s.start)) {
		s.free = s.start.Add(s.stall.to)
	}
	s.free = s.free.Add(time.Duration(float64(time.Second) / s.capacity))
	return s.free.Sub(now)
}

// setHint sets the header fields about the limit.
func (s *server) setHint(h http.Header, now time.Time, accepted bool) {
	remaining, reset := s.limit.state(now)
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

// limit decides which requests a server refuses.
type limit interface {
	take(now time.Time) bool
	state(now time.Time) (remaining int, reset time.Duration)
	quota() (requests, seconds int) // for RateLimit-Policy
	setRate(now time.Time, rate float64)
}

// tokenBucket is refilled continuously, up to burst.
type tokenBucket struct {
	rate, burst float64
	costly      bool // a refusal takes the part of a token that is left
	tokens      float64
	at          time.Time // the time of tokens
}

func (b *tokenBucket) settle(now time.Time) {
	b.tokens = min(b.tokens+now.Sub(b.at).Seconds()*b.rate, b.burst)
	b.at = now
}

func (b *tokenBucket) take(now time.Time) bool {
	b.settle(now)
	if b.tokens >= 1 {
		b.tokens--
		return true
	}
	if b.costly {
		b.tokens = 0
	}
	return false
}

// state returns the time until the next request will be accepted. If one is accepted
// now, it returns the time until the bucket is full.
func (b *tokenBucket) state(now time.Time) (remaining int, reset time.Duration) {
	b.settle(now)
	missing := 1 - b.tokens
	if missing <= 0 {
		missing = b.burst - b.tokens
	}
	return int(b.tokens), time.Duration(missing / b.rate * float64(time.Second))
}

func (b *tokenBucket) quota() (requests, seconds int) {
	seconds = max(int(math.Ceil(1/b.rate)), 1)
	return int(b.rate * float64(seconds)), seconds
}

func (b *tokenBucket) setRate(now time.Time, rate float64) {
	b.settle(now)
	b.rate = rate
}

// fixedWindow accepts size requests in each period, and refuses all others until the
// next one begins.
type fixedWindow struct {
	size   int
	period time.Duration
	costly bool // refusals count too, and the excess is carried over into the next period
	used   int
	begin  time.Time
}

func (w *fixedWindow) settle(now time.Time) {
	for !now.Before(w.begin.Add(w.period)) {
		w.begin = w.begin.Add(w.period)
		w.used = max(w.used-w.size, 0)
		if w.used == 0 {
			w.begin = w.begin.Add(now.Sub(w.begin).Truncate(w.period))
		}
	}
}

func (w *fixedWindow) take(now time.Time) bool {
	w.settle(now)
	if w.used < w.size {
		w.used++
		return true
	}
	if w.costly {
		w.used++
	}
	return false
}

func (w *fixedWindow) state(now time.Time) (remaining int, reset time.Duration) {
	w.settle(now)
	return max(w.size-w.used, 0), w.begin.Add(w.period).Sub(now)
}

func (w *fixedWindow) quota() (requests, seconds int) {
	return w.size, max(int(math.Ceil(w.period.Seconds())), 1)
}

func (w *fixedWindow) setRate(now time.Time, rate float64) {
	w.settle(now)
	w.size = windowSize(rate, w.period)
}

// windowSize returns the number of requests that a window accepts for a given rate.
func windowSize(rate float64, period time.Duration) int {
	return max(int(math.Round(rate*period.Seconds())), 1)
}
