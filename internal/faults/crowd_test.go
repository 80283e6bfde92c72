package faults_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
)

// FuzzCrowd makes overlapping calls that share a limit key. The outcome of each
// cannot be predicted, as [FuzzConversation] does. But the promises of the
// documentation about all of them together must hold at every instant.
func FuzzCrowd(f *testing.F) {
	for seed := range uint64(200) {
		random := rand.NewChaCha8([32]byte{byte(seed), 2})
		script := make([]byte, 30+seed)
		_, _ = random.Read(script)
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		synctest.Test(t, func(t *testing.T) { decodeCrowd(script).run(t) })
	})
}

// crowd is a decoded script.
type crowd struct {
	limit       rate.Limit // or 0
	burst       int
	maxAttempts int
	maxWait     time.Duration
	calls       []crowdCall
	answers     []scripted // in the order in which requests arrive, repeated
}

type crowdCall struct {
	start  time.Duration // different for each call
	method string
	cancel time.Duration // after the start, or 0 for never
}

const crowdInterval = 100 * time.Millisecond // of the backoff

func decodeCrowd(script []byte) crowd {
	const ms, s = time.Millisecond, time.Second
	t := tape(script)
	c := crowd{
		limit:       pick[rate.Limit](&t, 0, 1, 5, 50),
		burst:       pick(&t, 1, 2, 10),
		maxAttempts: pick(&t, 4, 1, 2, 10),
		maxWait:     pick(&t, time.Minute, time.Minute, 3*s, 500*ms),
	}
	start := time.Duration(0)
	for range 2 + t.next()%30 {
		start += time.Microsecond + pick(&t, 0, 0, ms, 50*ms, 1*s)
		c.calls = append(c.calls, crowdCall{
			start: start, method: pick(&t, "GET", "POST", "PUT"), cancel: pick(&t, 0, 0, 0, 20*ms, 2*s),
		})
	}
	for range 1 + t.next()%10 {
		a := scripted{
			after:  pick(&t, 0, 5*ms, 150*ms, 3*s),
			status: pick(&t, 200, 200, 429, 429, 503, 500, 404, 0),
			hint:   pick[time.Duration](&t, -1, 0, 200*ms, 1*s, 2*s, 10*s),
		}
		if a.status == 0 {
			a.err = io.ErrUnexpectedEOF
		}
		c.answers = append(c.answers, a)
	}
	return c
}

// crowdAttempt is a request that reached the server, and the server's answer.
type crowdAttempt struct {
	call       int
	sent, done time.Time
	answer     scripted // its err may also be the end of the call's context
}

// rejected reports whether the server gave a hint that holds for the whole key.
func (a *crowdAttempt) rejected() bool {
	return a.answer.err == nil && a.answer.hint > 0 && (a.answer.status == 429 || a.answer.status == 503)
}

// processed reports whether the server may have processed the request.
func (a *crowdAttempt) processed() bool {
	return a.answer.status != 429
}

// run makes the calls, and checks the promises.
func (c crowd) run(t *testing.T) {
	t.Helper()
	var mu sync.Mutex
	var log []*crowdAttempt
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		call, _ := strconv.Atoi(req.Header.Get(callHeader))
		if req.Body != nil {
			_ = req.Body.Close()
		}
		mu.Lock()
		a := &crowdAttempt{call: call, sent: time.Now(), answer: c.answers[len(log)%len(c.answers)]}
		log = append(log, a)
		mu.Unlock()
		timer := time.NewTimer(a.answer.after)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-req.Context().Done():
			a.answer = scripted{err: context.Cause(req.Context())}
		}
		a.done = time.Now()
		if a.answer.err != nil {
			return nil, a.answer.err
		}
		header := http.Header{}
		if a.answer.hint >= 0 {
			header.Set("Retry-After-Ms", strconv.FormatInt(a.answer.hint.Milliseconds(), 10))
		}
		return &http.Response{
			StatusCode: a.answer.status, Header: header, Request: req,
			Body: io.NopCloser(strings.NewReader(answerText)), ContentLength: -1,
		}, nil
	})
	opts := []resilient.Option{
		// A learned rate is modelled in internal/pace.
		resilient.WithLearnedRate(false),
		unbounded(), every(crowdInterval), resilient.WithMaxAttempts(c.maxAttempts), resilient.WithMaxWait(c.maxWait),
	}
	if c.limit > 0 {
		opts = append(opts, resilient.WithRateLimit(c.limit, c.burst))
	}
	client := resilient.NewTransport(base, opts...)

	ends := make([]outcome, len(c.calls))
	var wg sync.WaitGroup
	for i, call := range c.calls {
		wg.Go(func() {
			time.Sleep(call.start) // virtual
			ctx, cancel := context.WithCancelCause(context.Background())
			defer cancel(nil)
			if call.cancel > 0 {
				defer time.AfterFunc(call.cancel, func() { cancel(errScripted) }).Stop()
			}
			req, err := http.NewRequestWithContext(ctx, call.method, "http://api.test/", nil)
			if err != nil {
				panic(err)
			}
			req.Header.Set(callHeader, strconv.Itoa(i))
			resp, err := client.RoundTrip(req)
			ends[i].err = err
			if resp != nil {
				ends[i].status = resp.StatusCode
				_ = resp.Body.Close()
			}
		})
	}
	wg.Wait()

	what := fmt.Sprintf("%+v", c)
	c.checkPauses(t, log, what)
	c.checkLimit(t, log, what)
	for i := range c.calls {
		var own []*crowdAttempt
		for _, a := range log {
			if a.call == i {
				own = append(own, a)
			}
		}
		c.checkCall(t, i, own, ends[i], what)
	}
	c.checkOrder(t, log, what)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// checkPauses checks that no request is sent while the server refuses all of them,
// and that not all are sent at once after that. Until an attempt sent after the pause
// is accepted, one may go, one more each second, and one for each that got no
// answer.
func (c crowd) checkPauses(tb testing.TB, log []*crowdAttempt, what string) {
	tb.Helper()
	for _, a := range log {
		var opened time.Time // the last end of a pause before a
		for _, r := range log {
			if r.rejected() && r.done.Before(a.sent) {
				end := r.done.Add(min(r.answer.hint, c.maxWait))
				require.False(tb, a.sent.Before(end), "sent at %v in a pause up to %v, in %s", a.sent, end, what)
				if end.After(opened) {
					opened = end
				}
			}
		}
		if opened.IsZero() {
			continue
		}
		sent, may, accepted := 0, 1+int(a.sent.Sub(opened)/time.Second), false
		for _, b := range log {
			if b.sent.Before(opened) || b.sent.After(a.sent) {
				continue
			}
			sent++
			if !b.done.After(a.sent) {
				switch {
				case b.answer.err != nil:
					may++
				case b.answer.status != 429 && !b.rejected():
					accepted = true
				}
			}
		}
		require.True(tb, accepted || sent <= may, "%d sent by %v and not %d, after a pause up to %v, in %s", sent, a.sent, may, opened, what)
	}
}

// checkLimit checks that no more requests are sent in any period than the bucket
// allows.
func (c crowd) checkLimit(tb testing.TB, log []*crowdAttempt, what string) {
	tb.Helper()
	if c.limit == 0 {
		return
	}
	for i := range log {
		for j := i; j < len(log); j++ {
			most := float64(c.burst) + float64(c.limit)*log[j].sent.Sub(log[i].sent).Seconds() + 1e-6
			require.LessOrEqual(tb, float64(j-i+1), most, "from %v to %v, in %s", log[i].sent, log[j].sent, what)
		}
	}
}

// checkOrder checks that first attempts are sent in the order of the calls.
func (c crowd) checkOrder(tb testing.TB, log []*crowdAttempt, what string) {
	tb.Helper()
	var first []*crowdAttempt
	for _, a := range log {
		if !slices.ContainsFunc(first, func(b *crowdAttempt) bool { return a.call == b.call }) {
			first = append(first, a)
		}
	}
	for _, a := range first {
		for _, b := range first {
			require.False(tb, a.call < b.call && a.sent.After(b.sent), "call %d before call %d, in %s", b.call, a.call, what)
		}
	}
}

// checkCall checks the promises about a single call.
func (c crowd) checkCall(tb testing.TB, i int, own []*crowdAttempt, end outcome, what string) {
	tb.Helper()
	what = fmt.Sprintf("call %d of %s", i, what)
	require.LessOrEqual(tb, len(own), c.maxAttempts, what)
	processed := 0
	for n, a := range own {
		if a.processed() {
			processed++
		}
		if n > 0 {
			least := min(crowdInterval, c.maxWait)
			if before := own[n-1].answer; before.err == nil && before.hint > 0 {
				least = before.hint
			}
			require.GreaterOrEqual(tb, a.sent.Sub(own[n-1].done), least, "the wait before attempt %d of %s", n+1, what)
		}
	}
	if c.calls[i].method == http.MethodPost {
		require.LessOrEqual(tb, processed, 1, "a POST is not sent again once it may have been processed: %s", what)
	}
	var last scripted
	if len(own) > 0 {
		last = own[len(own)-1].answer
	}
	_, limited := errors.AsType[*resilient.LimitError](end.err)
	_, answered := errors.AsType[*resilient.APIError](end.err)
	switch {
	case end.err == nil:
		require.Equal(tb, last.status, end.status, what)
	case errors.Is(end.err, errScripted):
		require.NotZero(tb, c.calls[i].cancel, what)
	case limited:
		require.Equal(tb, last.status >= 400, answered, "the answer before is not lost: %s", what)
	default:
		require.ErrorIs(tb, end.err, last.err, what)
		require.Error(tb, last.err, what)
	}
}
