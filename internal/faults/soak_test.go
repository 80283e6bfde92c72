package faults_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
)

var soak = flag.Duration("soak", 4*time.Second, "how long TestSoak runs")

const (
	soakRounds  = 8
	soakWorkers = 64
	// soakKeys is a number of credentials that is larger than a Transport remembers.
	// Only one of the clients uses so many, because the tables of all clients would
	// take minutes to fill up.
	soakKeys     = 3000
	soakKeysElse = 100
	// soakSlack is the most by which the heap of a later round may exceed that of
	// the second one, because the tables of keys still fill up. A few thousand timers
	// would be more, and there are ten thousand calls. A key that was refused holds
	// some 3 KB, and a Transport remembers 1,024 of them.
	soakSlack = 4 << 20
)

// soakServer fails in all documented ways, and some others.
type soakServer struct {
	calls   sync.Map     // the name of each call in flight to an *atomic.Int32, how often it was processed
	arrived atomic.Int64 // requests
	mangled atomic.Int64 // requests with a wrong body
}

func (s *soakServer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	s.arrived.Add(1)
	call := req.Header.Get(callHeader)
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the caller has gone
	}
	if len(body) > 0 && string(body) != call {
		s.mangled.Add(1)
	}
	n := rand.IntN(1000)
	if n < 60 { // rejected unprocessed
		status := http.StatusTooManyRequests
		if n < 20 {
			status = http.StatusServiceUnavailable
		}
		if n < 50 {
			w.Header().Set("Retry-After-Ms", strconv.Itoa(1+n%5))
		}
		s.fail(w, status)
		return
	}
	if acted, ok := s.calls.Load(call); ok {
		acted.(*atomic.Int32).Add(1)
	}
	if req.Header.Get("Accept") == eventStream {
		s.stream(w, req, call)
		return
	}
	switch {
	case n < 140:
		s.fail(w, []int{400, 402, 403, 404}[n%4])
	case n < 240:
		s.fail(w, []int{500, 500, 500, 408, 425, 502, 503, 504}[n%8])
	case n < 250:
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write(bytes.Repeat([]byte("["), 100<<10))
	case n < 260:
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, call) // cut short
	case n < 280:
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			s.fail(w, 500)
			return
		}
		if n%2 == 0 {
			_ = conn.(*net.TCPConn).SetLinger(0)
		}
		_ = conn.Close()
	case n < 282: // too late for an attempt timeout
		timer := time.NewTimer(200 * time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-req.Context().Done():
		}
	default:
		_, _ = io.WriteString(w, call)
	}
}

const eventStream = "text/event-stream"

// soakStream returns the whole answer to a call as a stream.
func soakStream(call string) string {
	return "event: start\ndata: {}\n\nevent: text\ndata: " + call + "\n\nevent: end\ndata: {}\n\n"
}

// stream sends an answer as a stream, or fails somewhere in it.
func (s *soakServer) stream(w http.ResponseWriter, req *http.Request, call string) {
	const failed = "event: error\ndata: {\"error\":{\"type\":\"overloaded_error\"}}\n\n"
	w.Header().Set("Content-Type", eventStream)
	all := soakStream(call)
	events := strings.SplitAfter(all, "\n\n")
	switch n := rand.IntN(100); {
	case n < 20:
		_, _ = io.WriteString(w, events[0]+failed)
	case n < 30: // nothing of an answer
		_, _ = io.WriteString(w, events[0])
	case n < 40: // half of it
		_, _ = io.WriteString(w, events[0]+events[1])
	case n < 45:
		_, _ = io.WriteString(w, events[0]+events[1]+failed)
	case n < 50: // silence
		_, _ = io.WriteString(w, strings.Join(events[:n%2+1], ""))
		_ = http.NewResponseController(w).Flush()
		<-req.Context().Done()
	default:
		for _, e := range events {
			_, _ = io.WriteString(w, e)
			_ = http.NewResponseController(w).Flush()
		}
	}
}

func (s *soakServer) fail(w http.ResponseWriter, status int) {
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"code":"%d","type":"T","message":"m","invalid":[{"name":"n","reason":"r"}]}`, status)
}

// tally counts calls by their outcome.
type tally struct{ sent, answered, failed, refused, canceled atomic.Int64 }

func (c *tally) count(err error) {
	limit, isLimit := errors.AsType[*resilient.LimitError](err)
	_, isAnswer := err.(*resilient.APIError) //nolint:errorlint // in another error it is the last answer to a failed call
	switch {
	case err == nil || isAnswer:
		c.answered.Add(1)
	case isLimit && limit != nil:
		c.refused.Add(1)
	case errors.Is(err, errSoakCanceled):
		c.canceled.Add(1)
	default:
		c.failed.Add(1)
	}
}

var errSoakCanceled = errors.New("canceled by the caller")

// soakRun is a server, clients of several kinds, and their counts.
type soakRun struct {
	server  soakServer
	url     string
	base    *http.Transport
	clients []*resilient.Transport
	calls   atomic.Int64 // to name them

	callers  tally // counted by the callers
	reported tally // counted by the traces
	attempts struct{ started, done, total, answered atomic.Int64 }
	bodies   struct{ promised, ended, failed atomic.Int64 }
	twice    atomic.Int64 // calls that are not idempotent and were processed more than once
	foreign  atomic.Int64 // answers to another call
}

func newSoakRun(tb testing.TB) *soakRun {
	tb.Helper()
	s := &soakRun{}
	srv := httptest.NewUnstartedServer(&s.server)
	srv.Config.ErrorLog = quiet
	srv.Start()
	tb.Cleanup(srv.Close)
	s.url = srv.URL
	s.base = newBase(tb)
	s.base.MaxIdleConns, s.base.MaxIdleConnsPerHost = 2*soakWorkers, 2*soakWorkers
	common := []resilient.Option{every(time.Millisecond), resilient.WithTrace(&resilient.Trace{
		AttemptStart: func(resilient.AttemptInfo) { s.attempts.started.Add(1) },
		AttemptDone: func(a resilient.AttemptInfo) {
			s.attempts.done.Add(1)
			if a.StatusCode != 0 {
				s.attempts.answered.Add(1)
			}
		},
		Done: func(d resilient.DoneInfo) {
			s.reported.sent.Add(1)
			s.reported.count(d.Err)
			s.attempts.total.Add(int64(d.Attempts))
			if d.Body {
				s.bodies.promised.Add(1)
			}
		},
		Body: func(b resilient.BodyInfo) {
			s.bodies.ended.Add(1)
			if b.Err != nil {
				s.bodies.failed.Add(1)
			}
		},
	})}
	for _, opts := range [][]resilient.Option{
		nil, // with a retry budget
		{unbounded(), resilient.WithLogger(slog.New(slog.DiscardHandler))},
		// The time is an hour so that a leaked timer stays for the whole run.
		{unbounded(), resilient.WithStatusErrors(true), resilient.WithAttemptTimeout(time.Hour), resilient.WithMaxWait(time.Hour)},
		{unbounded(), resilient.WithAttemptTimeout(100 * time.Millisecond), resilient.WithReplayBuffer(1 << 10)},
		{
			unbounded(), resilient.WithRateLimit(300, 30), resilient.WithMaxWait(50 * time.Millisecond),
			resilient.WithLimitKey(func(*http.Request) string { return "all" }),
			resilient.WithLimiter(rate.NewLimiter(20, 5)), // so that some are refused however slow the machine is
		},
		{unbounded(), resilient.WithIdleTimeout(50 * time.Millisecond), resilient.WithWholeBody(1 << 10), resilient.WithProfile(soakProfile())},
	} {
		s.clients = append(s.clients, resilient.NewTransport(s.base, append(common, opts...)...))
	}
	return s
}

// soakProfile reads the streams of the server.
func soakProfile() resilient.Profile {
	return resilient.Profile{Event: func(name string, _ []byte) (resilient.EventKind, int) {
		switch name {
		case "start":
			return resilient.EventPreamble, 0
		case "end":
			return resilient.EventEnd, 0
		case "error":
			return resilient.EventError, 529
		}
		return resilient.EventContent, 0
	}}
}

// round makes calls for d.
func (s *soakRun) round(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	var wg sync.WaitGroup
	for range soakWorkers {
		wg.Go(func() {
			for ctx.Err() == nil {
				s.call(rand.IntN(len(s.clients)))
			}
		})
	}
	wg.Wait()
}

// call makes one call of a random kind.
func (s *soakRun) call(client int) {
	call := strconv.FormatInt(s.calls.Add(1), 10)
	acted := new(atomic.Int32)
	s.server.calls.Store(call, acted)
	defer s.server.calls.Delete(call)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)

	method := []string{http.MethodGet, http.MethodGet, http.MethodGet, http.MethodPut, http.MethodPost, http.MethodPost}[rand.IntN(6)]
	var body io.Reader
	if method != http.MethodGet {
		body = bytes.NewReader([]byte(call))
		if rand.IntN(4) == 0 {
			body = io.MultiReader(body) // without GetBody
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url, body)
	if err != nil {
		panic(err)
	}
	req.Header.Set(callHeader, call)
	want := call
	if client == len(s.clients)-1 && rand.IntN(2) == 0 {
		req.Header.Set("Accept", eventStream)
		want = soakStream(call)
	}
	keys := soakKeys
	if client > 0 {
		keys = soakKeysElse
	}
	req.Header.Set("Authorization", "Bearer "+strconv.Itoa(rand.IntN(keys)))
	onlyOnce := method == http.MethodPost
	if onlyOnce && rand.IntN(4) == 0 {
		req.Header.Set("Idempotency-Key", call)
		onlyOnce = false
	}
	if rand.IntN(50) == 0 {
		defer time.AfterFunc(time.Duration(rand.IntN(5))*time.Millisecond, func() { cancel(errSoakCanceled) }).Stop()
	}

	s.callers.sent.Add(1)
	resp, err := s.clients[client].RoundTrip(req)
	s.callers.count(err)
	if err == nil {
		if rand.IntN(10) > 0 { // sometimes it is not read
			body, err := io.ReadAll(resp.Body)
			if err == nil && resp.StatusCode == 200 && len(body) > 0 && string(body) != want &&
				!bytes.Contains(body, []byte("event: error")) {
				s.foreign.Add(1)
			}
		}
		_ = resp.Body.Close()
	}
	if onlyOnce && acted.Load() > 1 {
		s.twice.Add(1)
	}
}

// footprint is the resources of an idle process.
type footprint struct {
	heap        int64
	goroutines  int
	descriptors int
}

// settle returns the footprint after the connections are closed. It waits for
// goroutines and descriptors to end, because both sides have to close.
func (s *soakRun) settle(tb testing.TB, before footprint) footprint {
	tb.Helper()
	now := func() footprint {
		return footprint{goroutines: runtime.NumGoroutine(), descriptors: len(descriptors(tb))}
	}
	eventually(tb, func() error {
		s.base.CloseIdleConnections()
		if n := now(); n.goroutines > before.goroutines || n.descriptors > before.descriptors {
			return fmt.Errorf("%d goroutines and %d descriptors of %d and %d are left",
				n.goroutines, n.descriptors, before.goroutines, before.descriptors)
		}
		return nil
	})
	for range 3 { // memory released by a finalizer or a cleanup is freed by the next
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	after := now()
	after.heap = int64(m.HeapAlloc) //nolint:gosec // far from its limit
	return after
}

// TestSoak calls a server that fails in all documented ways, thousands of times a
// second. The numbers of goroutines and descriptors and the heap do not grow, and each
// call is accounted for.
func TestSoak(t *testing.T) {
	leaveNothing(t)
	run := newSoakRun(t)
	begin := time.Now()
	before := footprint{goroutines: runtime.NumGoroutine(), descriptors: len(descriptors(t))}
	var first footprint
	for round := range soakRounds {
		run.round(*soak / soakRounds)
		now := run.settle(t, before)
		t.Logf("%v: %d calls, heap %d KiB, %d goroutines, %d descriptors", time.Since(begin).Round(time.Second),
			run.callers.sent.Load(), now.heap>>10, now.goroutines, now.descriptors)
		if round == 1 {
			first = now
		} else if round > 1 {
			require.LessOrEqual(t, now.heap, first.heap+soakSlack, "the heap is flat")
		}
	}

	c, r := &run.callers, &run.reported
	t.Logf("%d calls in %v: %d answered, %d failed, %d refused, %d canceled; %d attempts, %d requests arrived",
		c.sent.Load(), time.Since(begin).Round(time.Second), c.answered.Load(), c.failed.Load(), c.refused.Load(), c.canceled.Load(),
		run.attempts.total.Load(), run.server.arrived.Load())
	for _, n := range []*atomic.Int64{&c.answered, &c.failed, &c.refused, &c.canceled} {
		require.NotZero(t, n.Load(), "every kind of end occurs")
	}
	require.Equal(t, c.sent.Load(), c.answered.Load()+c.failed.Load()+c.refused.Load()+c.canceled.Load())
	require.Equal(t, c.sent.Load(), r.sent.Load(), "one Done for each call")
	require.Equal(t, c.answered.Load(), r.answered.Load())
	require.Equal(t, c.failed.Load(), r.failed.Load())
	require.Equal(t, c.refused.Load(), r.refused.Load())
	require.Equal(t, c.canceled.Load(), r.canceled.Load())
	require.Equal(t, run.attempts.started.Load(), run.attempts.done.Load())
	require.Equal(t, run.bodies.promised.Load(), run.bodies.ended.Load(), "one Body for each body")
	require.NotZero(t, run.bodies.failed.Load())
	require.Equal(t, run.attempts.started.Load(), run.attempts.total.Load())
	require.GreaterOrEqual(t, run.server.arrived.Load(), run.attempts.answered.Load(), "no answer without a request")
	require.Zero(t, run.twice.Load(), "what may have been acted upon is not sent again")
	require.Zero(t, run.foreign.Load(), "nobody gets the answer to another call")
	require.Zero(t, run.server.mangled.Load(), "every attempt sends the whole body")
}
