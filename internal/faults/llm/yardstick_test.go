// Package llm_test measures what becomes of the eleven faults that a client of a model's
// API meets with a single provider, with two published SDKs: each alone, with its
// defaults, and over a resilient.Transport with the profile of the API. It prints a
// table:
//
//	go test -run TestYardstick -v .
package llm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/resilienthttp/resilient"
)

// outcome is what a call comes to.
type outcome string

const (
	passed outcome = "pass" // the whole, right answer; or of a permanent error that error, after one attempt
	safe   outcome = "safe" // an error that names the fault
	failed outcome = "FAIL" // a part taken for the whole, a call that hangs, or another error
)

// The limits of the Transport in this test. They are short, but long enough for a
// machine that is busy. The beginning of a stream is held back for a second, so that a
// stall in it leads to a retry only if the idle timeout is shorter, as it is here. With
// a longer one the caller gets an error, as of a stall in the answer.
const (
	attemptTimeout = 500 * time.Millisecond
	idleTimeout    = 300 * time.Millisecond
)

// patience is how long a call may take. One that has no answer by then hangs.
const patience = 4 * time.Second

// result is a cell of the table.
type result struct {
	outcome  outcome
	attempts int32
	err      error
}

func (r result) String() string {
	s := fmt.Sprintf("%s, %d", r.outcome, r.attempts)
	if r.outcome == failed {
		switch {
		case r.err == nil:
			s += " (a part for the whole)"
		case errors.Is(r.err, context.DeadlineExceeded):
			s += " (hangs)"
		}
	}
	return s
}

// TestYardstick runs each fault with each SDK, alone and over a Transport, all at once.
func TestYardstick(t *testing.T) {
	running := goleak.IgnoreCurrent()
	// Each fault has a column for each SDK alone and for each over a Transport.
	table := make([][]result, len(faults))
	var wg sync.WaitGroup
	for i, f := range faults {
		table[i] = make([]result, 2*len(sdks))
		for j, s := range sdks {
			wg.Go(func() { table[i][2*j] = f.run(t.Context(), s, false) })
			wg.Go(func() { table[i][2*j+1] = f.run(t.Context(), s, true) })
		}
	}
	wg.Wait()
	t.Logf("what comes of each fault, and after how many requests:\n%s", format(table))

	for j, s := range sdks {
		passes := 0
		for i, f := range faults {
			ours := table[i][2*j+1]
			require.NotEqual(t, failed, ours.outcome, "%s over ours, %s: %v", s.name, f.name, ours.err)
			if f.counts && ours.outcome == passed {
				passes++
			}
			if f.permanent != nil {
				require.Equal(t, passed, ours.outcome, "%s over ours, %s: %v", s.name, f.name, ours.err)
			}
		}
		require.GreaterOrEqual(t, passes, 9, "%s over ours, of eleven", s.name)
	}
	require.NoError(t, goleak.Find(running))
}

func format(table [][]result) string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "fault")
	for _, s := range sdks {
		fmt.Fprintf(w, "\t%s alone\tover ours", s.name)
	}
	fmt.Fprintln(w)
	passes := make([]int, 2*len(sdks))
	for i, f := range faults {
		name := f.name
		if !f.counts {
			name = "also: " + name
		}
		fmt.Fprint(w, name)
		for j, cell := range table[i] {
			fmt.Fprintf(w, "\t%v", cell)
			if f.counts && cell.outcome == passed {
				passes[j]++
			}
		}
		fmt.Fprintln(w)
	}
	fmt.Fprint(w, "passed of eleven")
	for _, n := range passes {
		fmt.Fprintf(w, "\t%d", n)
	}
	fmt.Fprintln(w)
	_ = w.Flush()
	return b.String()
}

// run makes a call that meets the fault, with an SDK alone or over a Transport.
func (f *fault) run(ctx context.Context, s sdk, ours bool) result {
	var requests atomic.Int32
	srv := httptest.NewServer(f.handler(s.api, &requests))
	defer srv.Close()
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.Proxy = nil // ignores the environment
	defer base.CloseIdleConnections()
	client := &http.Client{Transport: base}
	if ours {
		client.Transport = resilient.NewTransport(base,
			resilient.WithProfile(s.profile),
			resilient.WithAttemptTimeout(attemptTimeout),
			resilient.WithIdleTimeout(idleTimeout),
			resilient.WithBackOff(func() backoff.BackOff { return backoff.NewConstantBackOff(20 * time.Millisecond) }),
		)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	call := s.ask
	if f.stream {
		call = s.stream
	}
	text, err := call(ctx, client, srv.URL, !ours)
	r := result{attempts: requests.Load(), err: err}
	r.outcome = f.judge(text, r)
	return r
}

// judge judges a call that returned text and r.err.
func (f *fault) judge(text string, r result) outcome {
	switch {
	case r.err == nil && text == answer && f.permanent == nil:
		return passed
	case r.err == nil, errors.Is(r.err, context.DeadlineExceeded), !f.named(r.err):
		return failed
	case f.permanent == nil:
		return safe
	case r.attempts == 1:
		return passed
	}
	return failed // a permanent error that was retried
}

// named reports whether an error names the fault.
func (f *fault) named(err error) bool {
	for _, name := range f.names {
		if strings.Contains(err.Error(), name) {
			return true
		}
	}
	return false
}
