package faults_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

// FuzzConversation makes calls to a server that follows a script, and compares each
// attempt, wait and end with a model of the policy. The bytes define the settings,
// the calls and the server's answers.
func FuzzConversation(f *testing.F) {
	for seed := range uint64(300) {
		random := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
		script := make([]byte, 20+seed%80)
		_, _ = random.Read(script)
		f.Add(script)
	}
	f.Add([]byte{}) // one GET, one 200
	f.Fuzz(func(t *testing.T, script []byte) {
		synctest.Test(t, func(t *testing.T) { converse(t, decode(script)) })
	})
}

// TestConversationsDiffer shows that the seeds above, and so the fuzzer, reach every
// reason for the end of a call.
func TestConversationsDiffer(t *testing.T) {
	ends := map[string]int{}
	for seed := range uint64(2000) {
		random := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
		script := make([]byte, 80)
		_, _ = random.Read(script)
		synctest.Test(t, func(t *testing.T) {
			for _, why := range converse(t, decode(script)) {
				ends[why]++
			}
		})
	}
	t.Log(ends)
	for _, why := range []string{
		"success", "final status", "TLS", "unknown host", "base transport canceled", "out of attempts", "not idempotent",
		"body not replayable", "body error", "backoff stopped", "max wait", "deadline", "limited", "canceled",
	} {
		require.NotZero(t, ends[why], why)
	}
}

// conversation is a decoded script. Two events never happen at the same instant by
// chance: deadlines, cancellations and timeouts are a few microseconds off the
// hundredths of a second that all other durations consist of.
type conversation struct {
	maxAttempts        int
	interval           time.Duration // of the backoff, and the maximum jitter; -1 stops it
	maxWait            time.Duration
	timeout            time.Duration // of an attempt, or 0
	replayBuffer       int64
	retryNonIdempotent bool
	statusErrors       bool
	calls              []scriptedCall
}

type scriptedCall struct {
	after    time.Duration // after the end of the last call
	method   string
	key      bool // it has an Idempotency-Key
	body     bodyKind
	deadline time.Duration // or 0
	cancel   time.Duration // unlike a deadline it is not known in advance; 0 for never
	answers  []scripted    // the last one is repeated
}

type bodyKind int

const (
	noBody     bodyKind = iota
	replayable          // with a GetBody
	streamed            // without a GetBody
	unopenable          // with a GetBody that fails
)

const payload = "some bytes"

type scripted struct {
	after  time.Duration
	status int           // 0 if there is err
	err    error         // returned instead of an answer
	hint   time.Duration // -1 for none, -2 for one that cannot be understood
	hangs  bool          // the body does not arrive
}

// answer reports whether there is a response.
func (s scripted) answer() bool { return s.err == nil && s.status != 0 }

var (
	errDial      = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	errNoSuch    = &net.DNSError{Err: "no such host", Name: "api.test", IsNotFound: true}
	errUntrusted = x509.UnknownAuthorityError{}
	errScripted  = errors.New("canceled by the caller")
)

// tape is a script that is being read. After its end it continues with zeros.
type tape []byte

func (t *tape) next() int {
	if len(*t) == 0 {
		return 0
	}
	b := (*t)[0]
	*t = (*t)[1:]
	return int(b)
}

func pick[T any](t *tape, from ...T) T { return from[t.next()%len(from)] }

func decode(script []byte) conversation {
	const ms, s = time.Millisecond, time.Second
	t := tape(script)
	c := conversation{
		maxAttempts:        pick(&t, 4, 1, 2, 3, 6),
		interval:           pick(&t, 500*ms, 0, 10*ms, 2*s, -1),
		maxWait:            pick(&t, time.Minute, 0, 1*s, 3*s, time.Hour),
		timeout:            pick(&t, 0, 0, 100*ms+3*time.Microsecond),
		replayBuffer:       pick[int64](&t, 0, int64(len(payload)), int64(len(payload))-1, 1<<20),
		retryNonIdempotent: pick(&t, false, false, false, true),
		statusErrors:       pick(&t, false, false, true),
	}
	for range 1 + t.next()%4 {
		call := scriptedCall{
			after:    pick(&t, 0, 10*ms, 700*ms, 1*s, 10*s),
			method:   pick(&t, "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "POST"),
			key:      pick(&t, false, false, true),
			body:     pick(&t, noBody, replayable, streamed, streamed, unopenable),
			deadline: pick(&t, 0, 0, 50*ms, 1*s, 5*s, 100*s),
			cancel:   pick(&t, 0, 0, 0, 0, 30*ms, 900*ms, 3*s),
		}
		if call.deadline > 0 {
			call.deadline += 37 * time.Microsecond
		}
		if call.cancel > 0 {
			call.cancel += 11 * time.Microsecond
		}
		for range 1 + t.next()%6 {
			a := scripted{
				after:  pick(&t, 0, 0, 0, 10*ms, 200*ms, 2*s),
				status: pick(&t, 200, 429, 500, 503, 429, 500, 503, 0, 0, 400, 402, 403, 404, 408, 425, 502, 504, 501, 409, 301, 304, 599),
				hint:   pick[time.Duration](&t, -1, -1, 0, 10*ms, 1*s, 2*s, 5*s, 90*s, -2),
				hangs:  pick(&t, false, false, false, true),
			}
			if a.status == 0 {
				a.err = pick[error](&t, io.ErrUnexpectedEOF, errDial, errNoSuch, errUntrusted, context.Canceled)
			}
			call.answers = append(call.answers, a)
		}
		c.calls = append(c.calls, call)
	}
	return c
}

// server is a base that follows a script, and records the requests.
type server struct {
	answers []scripted
	sent    []time.Time
	bodies  []string // of the attempts whose body was read
	keys    []string
	given   []*scriptedBody
}

func (s *server) RoundTrip(req *http.Request) (*http.Response, error) {
	a := s.answers[min(len(s.sent), len(s.answers)-1)]
	s.sent = append(s.sent, time.Now())
	s.keys = append(s.keys, req.Header.Get("Idempotency-Key"))
	if req.Body != nil {
		if a.err != errDial { //nolint:errorlint // it is never wrapped
			b, _ := io.ReadAll(req.Body)
			s.bodies = append(s.bodies, string(b))
		}
		_ = req.Body.Close()
	}
	timer := time.NewTimer(a.after)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
	if a.err != nil {
		return nil, a.err
	}
	header := http.Header{}
	switch {
	case a.hint >= 0:
		header.Set("Retry-After-Ms", strconv.FormatInt(a.hint.Milliseconds(), 10))
	case a.hint == -2:
		header.Set("Retry-After", "soon")
	}
	body := &scriptedBody{Reader: strings.NewReader(answerText), closed: make(chan struct{})}
	if a.hangs {
		body.Reader = nil
	}
	s.given = append(s.given, body)
	return &http.Response{StatusCode: a.status, Header: header, Body: body, ContentLength: -1, Request: req}, nil
}

const answerText = `{"code":"c","type":"T","message":"m"}`

// scriptedBody is the body of an answer. It hangs if Reader is nil.
type scriptedBody struct {
	io.Reader
	closed chan struct{}
	closes int
}

func (b *scriptedBody) Read(p []byte) (int, error) {
	if b.Reader != nil {
		return b.Reader.Read(p)
	}
	<-b.closed
	return 0, http.ErrBodyReadAfterClose
}

func (b *scriptedBody) Close() error {
	if b.closes++; b.closes == 1 {
		close(b.closed)
	}
	return nil
}

// converse makes the calls of c, compares them with the model, and returns the
// reasons for their ends.
func converse(t *testing.T, c conversation) []string {
	t.Helper()
	var waits []resilient.WaitInfo
	var done []resilient.DoneInfo
	srv := &server{}
	client := resilient.NewTransport(srv, unbounded(),
		resilient.WithLearnedRate(false), // it is modelled in internal/pace
		resilient.WithMaxAttempts(c.maxAttempts), every(c.interval), resilient.WithMaxWait(c.maxWait),
		resilient.WithAttemptTimeout(c.timeout), resilient.WithReplayBuffer(c.replayBuffer),
		resilient.WithRetryNonIdempotent(c.retryNonIdempotent), resilient.WithStatusErrors(c.statusErrors),
		resilient.WithTrace(&resilient.Trace{
			Wait: func(w resilient.WaitInfo) { waits = append(waits, w) },
			Done: func(d resilient.DoneInfo) { done = append(done, d) },
		}))
	gate := &gateModel{}
	var ends []string
	for i, call := range c.calls {
		time.Sleep(call.after) // virtual
		*srv, waits, done = server{answers: call.answers}, nil, nil
		begin := time.Now()
		req, bodies, release := call.request(t)

		resp, err := client.RoundTrip(req)

		took := time.Since(begin)
		what := fmt.Sprintf("call %d of %+v", i+1, c)
		m := &model{conversation: c, scriptedCall: call, gate: gate, begin: begin, now: begin, waits: waits}
		m.run()
		ends = append(ends, m.why)
		require.Empty(t, m.wrong, what)
		require.Equal(t, m.sent, srv.sent, "the attempts of %s", what)
		require.Empty(t, m.waits, "waits that the model does not know, of %s", what)
		require.Len(t, done, 1, what)
		require.Equal(t, m.why, done[0].Reason, what)
		require.Equal(t, len(m.sent), done[0].Attempts, what)
		require.Equal(t, m.now.Sub(begin), took, what)
		require.NotEqual(t, resp == nil, err == nil, what)
		m.checkEnd(t, resp, err, what)

		for _, body := range srv.bodies {
			require.Equal(t, payload, body, "every attempt sends the whole body, in %s", what)
		}
		for _, key := range srv.keys {
			require.Equal(t, req.Header.Get("Idempotency-Key"), key, what)
		}
		for n, b := range srv.given {
			if resp != nil && n == len(srv.given)-1 {
				require.Zero(t, b.closes, "the last answer is the caller's, in %s", what)
				if !call.answers[min(len(srv.sent), len(call.answers))-1].hangs {
					got, err := io.ReadAll(resp.Body)
					require.NoError(t, err)
					require.JSONEq(t, answerText, string(got), what)
				}
				require.NoError(t, resp.Body.Close())
			}
			require.NotZero(t, b.closes, "every answer is let go of, in %s", what)
		}
		for _, b := range *bodies {
			require.Equal(t, 1, b.closes, "every body is closed once, in %s", what)
		}
		release()
	}
	return ends
}

// countedBody is a request body that counts how often it is closed.
type countedBody struct {
	io.Reader
	closes int
}

func (b *countedBody) Close() error { b.closes++; return nil }

// request returns the request of the call, the bodies that its GetBody has returned,
// and a function that releases its context.
func (s scriptedCall) request(tb testing.TB) (req *http.Request, bodies *[]*countedBody, release func()) {
	tb.Helper()
	ctx := tb.Context()
	var ends []func()
	if s.deadline > 0 {
		c, cancel := context.WithTimeout(ctx, s.deadline)
		ctx, ends = c, append(ends, cancel)
	}
	if s.cancel > 0 {
		c, cancel := context.WithCancelCause(ctx)
		timer := time.AfterFunc(s.cancel, func() { cancel(errScripted) })
		ctx, ends = c, append(ends, func() { timer.Stop(); cancel(nil) })
	}
	req, err := http.NewRequestWithContext(ctx, s.method, "http://api.test/v1", nil)
	require.NoError(tb, err)
	if s.key {
		req.Header.Set("Idempotency-Key", "key")
	}
	bodies = new([]*countedBody)
	open := func() (io.ReadCloser, error) {
		b := &countedBody{Reader: strings.NewReader(payload)}
		*bodies = append(*bodies, b)
		return b, nil
	}
	if s.body != noBody {
		req.Body, _ = open()
		req.ContentLength = int64(len(payload))
	}
	switch s.body {
	case replayable:
		req.GetBody = open
	case unopenable:
		req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
	case noBody, streamed:
	}
	return req, bodies, func() {
		for _, end := range ends {
			end()
		}
	}
}

// gateModel is the state of a limit key if calls do not overlap. A rejection with a
// wait closes the gate. After the wait one attempt may go, and another one a second
// after the last one, until one of them is not rejected.
type gateModel struct {
	closedTill  time.Time // at most WithMaxWait away
	refusedTill time.Time // by the hint of the server
	reopening   bool
	mayGo       int
	since       time.Time // when the last one went
}

func (g *gateModel) reject(now time.Time, d, maxWait time.Duration) {
	if maxWait == 0 || d <= 0 {
		return
	}
	if !now.Before(g.closedTill) {
		g.refusedTill = time.Time{}
	}
	if till := now.Add(d); till.After(g.refusedTill) {
		g.refusedTill = till
	}
	if till := now.Add(min(d, maxWait)); till.After(g.closedTill) {
		*g = gateModel{closedTill: till, refusedTill: g.refusedTill, reopening: true, mayGo: 1, since: till}
	}
}

func (g *gateModel) ended(sent time.Time, answered bool) {
	if !g.reopening || sent.Before(g.closedTill) {
		return
	}
	g.mayGo++ // replaces the one that was sent
	if answered {
		g.reopening = false
	}
}

// opens returns how long an attempt is held back, and the wait that is announced to
// it. The server's hint is announced. If that is longer than WithMaxWait, the gate
// opens earlier, so that an attempt finds out whether the server accepts requests.
func (g *gateModel) opens(now time.Time) (held, told time.Duration) {
	if now.Before(g.closedTill) {
		return g.closedTill.Sub(now), g.refusedTill.Sub(now)
	}
	if g.reopening && g.mayGo == 0 {
		held = max(g.since.Add(time.Second).Sub(now), 0)
	}
	return held, 0 // how long it takes is up to the server
}

// model computes the course of a call by the documentation. If a wait has jitter, it
// uses the actual wait, provided that this is within its bounds.
type model struct {
	conversation
	scriptedCall
	gate  *gateModel
	begin time.Time
	now   time.Time
	waits []resilient.WaitInfo // not compared yet

	sent    []time.Time
	why     string
	last    scripted // the last attempt
	prior   scripted // the one before it
	err     error    // of a call that ended without an answer
	waiting bool     // the call ended between attempts
	read    bool     // the body has been read by the base
	wrong   string   // the description of an unexpected wait

	inProgress bool // the server may still process an attempt with the same key
}

// run follows the call to its end, and sets why to the reason.
func (m *model) run() {
	for m.why == "" {
		if m.admit(); m.why != "" {
			m.waiting = true
			return
		}
		m.sent = append(m.sent, m.now)
		m.attempt()
	}
}

// ending returns when the context ends and its cause, or the zero Time if it does not
// end.
func (m *model) ending() (time.Time, error) {
	switch {
	case m.cancel > 0 && (m.deadline == 0 || m.cancel < m.deadline):
		return m.begin.Add(m.cancel), errScripted
	case m.deadline > 0:
		return m.begin.Add(m.deadline), context.DeadlineExceeded
	}
	return time.Time{}, nil
}

// pass advances the time by d, and reports whether the context lasts that long.
func (m *model) pass(d time.Duration) bool {
	till := m.now.Add(d)
	if end, err := m.ending(); err != nil && till.After(end) {
		m.now, m.err = end, err
		return false
	}
	m.now = till
	return true
}

// tooLate reports whether a wait of d from the given time would outlast the
// deadline.
func (m *model) tooLate(from time.Time, d time.Duration) bool {
	return m.deadline > 0 && !from.Add(d).Before(m.begin.Add(m.deadline))
}

// waited takes the next actual wait, and checks its bounds.
func (m *model) waited(reason string, least, most time.Duration) time.Duration {
	seen := len(m.waits) > 0 && m.waits[0].Reason == reason && m.waits[0].Attempt == len(m.sent)+1
	switch {
	case !seen && least <= 0:
		return 0 // the jitter may have been 0
	case len(m.waits) == 0:
		m.wrong = fmt.Sprintf("no wait for %q of %v", reason, least)
		return least
	}
	w := m.waits[0]
	m.waits = m.waits[1:]
	if !seen || w.Duration < least || w.Duration > most {
		m.wrong = fmt.Sprintf("%q of %v before attempt %d, not %q of %v to %v before %d",
			w.Reason, w.Duration, w.Attempt, reason, least, most, len(m.sent)+1)
	}
	return w.Duration
}

// admit waits at the gate.
func (m *model) admit() {
	held, told := m.gate.opens(m.now)
	if held > 0 && (told > m.maxWait || m.maxWait == 0 || m.tooLate(m.now, told)) {
		limited := &resilient.LimitError{Reason: "pause", Wait: told, Bound: "WithMaxWait"}
		if m.tooLate(m.now, told) {
			limited.Bound = "deadline"
		}
		m.why, m.err = "limited", limited
		return
	}
	m.waited("pause", told, told)
	if !m.pass(held) {
		m.why = "canceled"
		return
	}
	m.gate.opens(m.now)
	if m.gate.reopening {
		m.gate.mayGo, m.gate.since = max(m.gate.mayGo-1, 0), m.now
	}
}

// attempt sends the request, decides whether there is another attempt, and waits for
// it.
func (m *model) attempt() {
	sent := m.now
	a := m.answers[min(len(m.sent), len(m.answers))-1]
	m.err, m.read = nil, m.read || a.err != errDial //nolint:errorlint // it is never wrapped
	timedOut := m.timeout > 0 && m.timeout < a.after
	lasts := a.after
	if timedOut {
		lasts = m.timeout
	}
	if !m.pass(lasts) {
		a = scripted{err: m.err}
	} else if timedOut {
		a = scripted{err: errTimedOut}
	}
	m.prior, m.last = m.last, a
	answered := m.now
	retry, unprocessed, why := m.verdict(a)
	if a.err == nil && a.status < 400 {
		m.gate.ended(sent, true)
		m.why = why
		return
	}
	if a.err == nil && a.hangs {
		m.pass(time.Second) // the longest wait for its body
	}
	hint := max(a.hint, 0)
	if a.err != nil {
		hint = 0
	}
	switch {
	case a.err == nil && hint > 0 && staysAway(a.status):
		m.gate.reject(m.now, hint-m.now.Sub(answered), m.maxWait)
	case a.status != http.StatusTooManyRequests:
		m.gate.ended(sent, a.err == nil)
	}
	m.next(retry, unprocessed, why, hint, answered)
	m.inProgress = m.inProgress || m.key && !unprocessed
}

// staysAway reports whether a hint with this status holds for the whole key.
func staysAway(status int) bool {
	return slices.Contains([]int{418, 420, 429, 430, 503, 509, 529}, status)
}

// errTimedOut stands for the error of an attempt timeout, which is not exported.
var errTimedOut = errors.New("attempt timed out")

// verdict implements the table of retried failures in the README.
func (m *model) verdict(a scripted) (retry, unprocessed bool, why string) {
	if end, err := m.ending(); err != nil && !m.now.Before(end) && a.err != nil {
		return false, false, "canceled"
	}
	switch {
	case a.err == nil:
	case errors.Is(a.err, errDial):
		return true, true, "never sent"
	case errors.Is(a.err, errNoSuch):
		return false, false, "unknown host"
	case errors.Is(a.err, errUntrusted):
		return false, false, "TLS"
	case errors.Is(a.err, context.Canceled):
		return false, false, "base transport canceled"
	default:
		return true, false, "no response"
	}
	switch a.status {
	case 429:
		return true, true, "rate limited"
	case 408, 425:
		return true, false, "temporary status"
	case 409, 423:
		if m.inProgress {
			return true, false, "earlier attempt in progress"
		}
	case 501, 505, 506, 508, 510, 511, 525, 526:
		return false, false, "final status"
	}
	switch {
	case a.status < 400:
		return false, false, "success"
	case a.status >= 500 && a.status <= 599:
		return true, false, "temporary status"
	}
	return false, false, "final status"
}

// next decides why there is no further attempt, or waits for it.
func (m *model) next(retry, unprocessed bool, why string, hint time.Duration, answered time.Time) {
	idempotent := m.retryNonIdempotent || m.key || m.method != "POST" && m.method != "PATCH"
	recorded := m.replayBuffer > 0 && (!m.read || m.replayBuffer >= int64(len(payload)))
	end, ctxErr := m.ending()
	switch {
	case ctxErr != nil && !m.now.Before(end):
		m.why = "canceled"
	case !retry:
		m.why = why
	case len(m.sent) >= m.maxAttempts:
		m.why = "out of attempts"
	case !unprocessed && !idempotent:
		m.why = "not idempotent"
	case m.body == streamed && !recorded:
		m.why = "body not replayable"
	case m.interval < 0:
		m.why = "backoff stopped"
	case hint > m.maxWait || m.interval > 0 && m.maxWait == 0:
		m.why = "max wait"
	}
	if m.why != "" {
		return
	}
	reason, least, most := "backoff", min(m.interval, m.maxWait), min(m.interval, m.maxWait)
	if hint > 0 {
		reason, least, most = "retry-after", hint, min(hint+m.interval, m.maxWait)
	}
	_, held := m.gate.opens(m.now)
	switch {
	case m.tooLate(answered, least):
		m.why = "deadline"
	case held-most > m.maxWait:
		m.why = "max wait"
	case m.tooLate(m.now, held):
		m.why = "deadline"
	case m.body == unopenable:
		m.why = "body error"
	}
	if m.why != "" {
		return
	}
	spent := m.now.Sub(answered) // on reading the body: the wait begins at the answer
	if !m.pass(m.waited(reason, least-spent, most-spent)) {
		m.why, m.waiting = "canceled", true
	}
}

// checkEnd compares the caller's result with the end of the model.
func (m *model) checkEnd(tb testing.TB, resp *http.Response, err error, what string) {
	tb.Helper()
	if resp != nil {
		require.Equal(tb, m.last.status, resp.StatusCode, what)
	}
	ended := m.last // the answer to be reported
	if !ended.answer() {
		require.Error(tb, err, what)
		if !m.waiting {
			ended = m.prior
		}
	}
	apiErr, isAPIError := errors.AsType[*resilient.APIError](err)
	require.Equal(tb, err != nil && ended.answer(), isAPIError, "an answer is never lost: %v, in %s", err, what)
	if isAPIError {
		require.Equal(tb, ended.status, apiErr.StatusCode, what)
		require.Equal(tb, max(ended.hint, 0), apiErr.RetryAfter, what)
	}
	if limit, ok := m.err.(*resilient.LimitError); ok { //nolint:errorlint // the model's own
		got, isLimit := errors.AsType[*resilient.LimitError](err)
		require.True(tb, isLimit, what)
		require.Equal(tb, limit, got, what)
	}
	for _, known := range []error{errDial, errNoSuch, errScripted, io.ErrUnexpectedEOF} {
		if m.last.err == known { //nolint:errorlint // it is never wrapped
			require.ErrorIs(tb, err, known, what)
		}
	}
	if retry, ok := errors.AsType[*resilient.RetryError](err); ok {
		require.Equal(tb, len(m.sent), retry.Attempts, what)
	}
}
