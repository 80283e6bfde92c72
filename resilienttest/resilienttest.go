// Package resilienttest is the other side of a conversation, for tests of code
// that calls an API: a [Script] of answers such as 503, then 429 with
// Retry-After: 5, then 200, with connections that are lost and bodies that take
// their time. It notes every attempt that it is sent: when it came, with which
// header and body, and how long the client waited for it.
//
// A Script is a base for a Transport. In a bubble of testing/synctest time is
// virtual, so that a wait of an hour is over at once, and is exact:
//
//	synctest.Test(t, func(t *testing.T) {
//		script := resilienttest.New(
//			resilienttest.Status(429, "Retry-After", "5"),
//			resilienttest.Status(200),
//		)
//		transport := resilient.NewTransport(script, resilient.WithBackOff(resilienttest.NoJitter))
//		err := codeUnderTest(&http.Client{Transport: transport})
//		require.NoError(t, err)
//		require.Equal(t, []time.Duration{5 * time.Second}, script.Waits())
//	})
//
// It is an http.Handler too, for httptest.NewServer: over real connections, and
// in real time, because a bubble cannot hold those.
//
// An [Answer] is a value for the usual cases. Its Err is an error of your own, and
// its Func makes answers that no field can describe:
//
//	resilienttest.New(
//		resilienttest.Answer{Err: io.ErrUnexpectedEOF},
//		resilienttest.Answer{Func: func(req *http.Request) (*http.Response, error) {
//			if req.Header.Get("Authorization") == "" {
//				return resilienttest.Status(401).Response(req)
//			}
//			return resilienttest.Status(200).Response(req)
//		}},
//	)
package resilienttest

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// NoJitter is a policy for resilient.WithBackOff that makes waits exact: as long as the
// server asks for, and otherwise none. The default policy adds a random part to each wait,
// so that clients do not come back together.
func NoJitter() backoff.BackOff { return new(backoff.ZeroBackOff) }

// Answer is the answer to one request. The zero Answer is a 200.
type Answer struct {
	// Status is the status; 0 is 200.
	Status int

	// Header is sent with it. If there is no Content-Type in it, a body has
	// application/json; a Content-Type of nil stands for none at all.
	Header http.Header

	// Body is the body. If it is empty, an error status has the documented
	// error object, {"code","type","message","invalid"}, and others have {}.
	Body string

	// NoBody leaves the body out.
	NoBody bool

	// Delay is how long the answer takes, once the request was read.
	Delay time.Duration

	// BodyDelay is how long the second half of the body takes, once the first
	// was read.
	BodyDelay time.Duration

	// Lost breaks the connection: in place of the answer or, if there is a
	// Status, in place of the second half of its body. If the connection had
	// been used before, net/http may then send the request again by itself.
	Lost bool

	// Err is returned in place of the answer. A server has no way to send an
	// error, and breaks the connection.
	Err error

	// Func makes the response or the error, and all fields but Delay have no
	// effect then. It may be called by several goroutines at once. When a Script
	// calls it, the body of the request has been read and closed: it is the Body
	// of the [Attempt].
	Func func(req *http.Request) (*http.Response, error)
}

// Status returns an Answer with this status and these header fields: names and
// values in turn. It panics if a value is missing.
func Status(code int, header ...string) Answer {
	if len(header)%2 != 0 {
		panic("resilienttest: Status with a header field that has no value")
	}
	h := http.Header{}
	for field := range slices.Chunk(header, 2) {
		h.Add(field[0], field[1])
	}
	return Answer{Status: code, Header: h}
}

// Response makes the answer to a request, once its Delay has passed: the response
// of a base, or the error in its place. It leaves the request's body alone. A Func
// calls it to answer in one way or another.
func (a Answer) Response(req *http.Request) (*http.Response, error) {
	if err := sleep(req.Context(), nil, a.Delay); err != nil {
		return nil, err
	}
	switch {
	case a.Func != nil:
		return a.Func(req)
	case a.Err != nil:
		return nil, a.Err
	case a.Lost && a.Status == 0:
		return nil, errLost
	}
	a = a.complete()
	resp := &http.Response{
		Status:     strconv.Itoa(a.Status) + " " + http.StatusText(a.Status),
		StatusCode: a.Status,
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        a.Header,
		Body:          http.NoBody,
		ContentLength: int64(len(a.Body)),
		Request:       req,
	}
	if req.Method != http.MethodHead && a.Body != "" {
		resp.Body = &body{ctx: req.Context(), answer: a, closed: make(chan struct{})}
	}
	return resp, nil
}

// Attempt is a request that a [Script] was sent.
type Attempt struct {
	At     time.Time
	Method string
	URL    string // as it was sent: to a server, without the host
	Header http.Header
	Body   []byte // the part of it that arrived

	// Request is the request itself, to be asked for its context, or which one
	// it is. Its body was read, and whoever sent it may have changed it since.
	Request *http.Request
}

// Script answers requests with its answers in turn, and with the last one ever
// after. It is a base for a Transport and a handler for a server. Make it with
// [New]; it is safe for concurrent use.
type Script struct {
	mu       sync.Mutex
	answers  []Answer
	attempts []*Attempt
	waits    []time.Duration
	open     int       // requests that have no answer yet
	answered time.Time // when the last answer began
}

// New returns a Script of these answers. It panics if there are none.
func New(answers ...Answer) *Script {
	if len(answers) == 0 {
		panic("resilienttest: New without an answer")
	}
	return &Script{answers: slices.Clone(answers)}
}

// Reset forgets the requests so far and begins again with the first answer: of these, or
// if there are none, of those it had. A request that has no answer yet gets the
// one it came for.
func (s *Script) Reset(answers ...Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(answers) > 0 {
		s.answers = slices.Clone(answers)
	}
	s.attempts, s.waits = nil, nil
}

// Attempts returns the requests so far, in the order of arrival.
func (s *Script) Attempts() []Attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Attempt, len(s.attempts))
	for i, a := range s.attempts {
		all[i] = *a
	}
	return all
}

// Count returns how many attempts there were so far.
func (s *Script) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.attempts)
}

// Gaps returns the times from each attempt to the next: one less than there were
// attempts. The time that an answer took is part of a gap, and not of a wait.
func (s *Script) Gaps() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var gaps []time.Duration
	for i := 1; i < len(s.attempts); i++ {
		gaps = append(gaps, s.attempts[i].At.Sub(s.attempts[i-1].At))
	}
	return gaps
}

// Waits returns how long it took from each answer to the next attempt: one wait
// less than there were attempts. One that came while another had no answer yet
// did not wait.
func (s *Script) Waits() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.waits)
}

// RoundTrip implements http.RoundTripper. It returns an error if the answer is
// one, or the connection is to be lost, if the request's context ends, or if its
// body cannot be read.
func (s *Script) RoundTrip(req *http.Request) (*http.Response, error) {
	a, err := s.begin(req)
	defer s.end()
	if req.Body != nil {
		_ = req.Body.Close() // it counts whether it could be read
	}
	if err != nil {
		return nil, err
	}
	return a.Response(req)
}

// ServeHTTP implements http.Handler.
func (s *Script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resp, err := s.serve(r)
	if err != nil {
		panic(http.ErrAbortHandler) // closes the connection
	}
	defer resp.Body.Close()
	maps.Copy(w.Header(), resp.Header)
	if _, ok := w.Header()["Content-Type"]; !ok {
		w.Header()["Content-Type"] = nil // or net/http would guess one
	}
	w.WriteHeader(resp.StatusCode)
	if r.Method == http.MethodHead {
		return
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		_, _ = w.Write(buf[:n]) // fails only if the client has gone
		switch {
		case err == io.EOF:
			return
		case err != nil:
			panic(http.ErrAbortHandler)
		}
		_ = http.NewResponseController(w).Flush()
	}
}

// serve makes the response that ServeHTTP writes.
func (s *Script) serve(r *http.Request) (*http.Response, error) {
	a, err := s.begin(r)
	defer s.end()
	if err != nil {
		return nil, err
	}
	resp, err := a.Response(r)
	if err == nil && resp.Body == nil {
		resp.Body = http.NoBody // of a Func
	}
	return resp, err
}

// begin notes a request and reads its body. It returns the answer that is its.
func (s *Script) begin(req *http.Request) (Answer, error) {
	attempt, a := s.note(req)
	if req.Body == nil {
		return a, nil
	}
	b, err := io.ReadAll(req.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	attempt.Body = b
	return a, err
}

func (s *Script) note(req *http.Request) (*Attempt, Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	n := len(s.attempts)
	if n > 0 {
		var wait time.Duration
		if s.open == 0 {
			wait = now.Sub(s.answered)
		}
		s.waits = append(s.waits, wait)
	}
	s.open++
	attempt := &Attempt{
		At: now, Method: req.Method, URL: req.URL.String(), Header: req.Header.Clone(), Request: req,
	}
	s.attempts = append(s.attempts, attempt)
	return attempt, s.answers[min(n, len(s.answers)-1)]
}

func (s *Script) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	s.answered = time.Now()
}

// complete returns a with all that has a default filled in.
func (a Answer) complete() Answer {
	if a.Status == 0 {
		a.Status = http.StatusOK
	}
	switch {
	case a.NoBody:
		a.Body = ""
	case a.Body == "":
		a.Body = defaultBody(a.Status)
	}
	h := a.Header.Clone() // each response has its own
	if h == nil {
		h = http.Header{}
	}
	typ, ok := h["Content-Type"]
	switch {
	case ok && typ == nil:
		delete(h, "Content-Type")
	case !ok && a.Body != "":
		h.Set("Content-Type", "application/json")
	}
	if a.Body != "" {
		h.Set("Content-Length", strconv.Itoa(len(a.Body)))
	}
	a.Header = h
	return a
}

// defaultBody is the documented error object of an error status.
func defaultBody(status int) string {
	switch {
	case status == http.StatusNoContent || status == http.StatusNotModified:
		return ""
	case status < 400:
		return "{}"
	}
	type param struct {
		Name   string `json:"name"`
		Reason string `json:"reason"`
	}
	object := struct {
		Code    string  `json:"code"`
		Type    string  `json:"type"`
		Message string  `json:"message"`
		Invalid []param `json:"invalid,omitempty"`
	}{Code: strconv.Itoa(status), Type: errorType(status), Message: http.StatusText(status)}
	if status == http.StatusBadRequest {
		object.Invalid = []param{{"limit", "Limit must be less than 500."}}
	}
	b, err := json.Marshal(object)
	if err != nil {
		panic(err) // strings cannot fail
	}
	return string(b)
}

func errorType(status int) string {
	switch status {
	case http.StatusPaymentRequired:
		return "PAYMENT_REQUIRED_ERROR"
	case http.StatusForbidden:
		return "AUTHENTICATION_ERROR"
	case http.StatusNotFound:
		return "NOT_FOUND_ERROR"
	case http.StatusTooManyRequests:
		return "RATE_LIMIT_ERROR"
	}
	if status >= 500 {
		return "SERVER_ERROR"
	}
	return "INVALID_REQUEST_ERROR"
}

// errLost is the error of http.Transport for a connection that was reset.
var errLost error = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}

// sleep waits for d, or until the context ends or closed is closed.
func sleep(ctx context.Context, closed <-chan struct{}, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-closed:
		return http.ErrBodyReadAfterClose
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// body is the body of a response that came over no connection.
type body struct {
	ctx    context.Context //nolint:containedctx // that of the request bounds the body, as in net/http
	answer Answer
	off    int
	slept  bool
	closed chan struct{}
	once   sync.Once
}

func (b *body) Read(p []byte) (int, error) {
	select {
	case <-b.closed:
		return 0, http.ErrBodyReadAfterClose
	default:
	}
	text, half := b.answer.Body, len(b.answer.Body)/2
	if b.off >= half && !b.slept {
		b.slept = true
		if err := sleep(b.ctx, b.closed, b.answer.BodyDelay); err != nil {
			return 0, err
		}
	}
	switch {
	case b.off < half:
		text = text[:half]
	case b.answer.Lost:
		return 0, io.ErrUnexpectedEOF // as of a body that is shorter than its Content-Length
	case b.off == len(text):
		return 0, io.EOF
	}
	n := copy(p, text[b.off:])
	b.off += n
	return n, nil
}

func (b *body) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}
