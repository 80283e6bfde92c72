package pace_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/pace"
)

// server refuses what is above its limit: a token bucket, or a fixed window.
type server struct {
	rate, burst float64
	window      time.Duration // 0: a bucket, refilled all the time
	ok, refusal time.Duration // until an answer is known
	tokens      float64
	at          time.Time
	costly      bool // a refusal takes what there is of a token
}

func (s *server) take(now time.Time) bool {
	if s.window > 0 {
		if n := now.Sub(s.at) / s.window; n > 0 {
			s.tokens, s.at = s.rate*s.window.Seconds(), s.at.Add(n*s.window)
		}
	} else {
		s.tokens = min(s.tokens+s.rate*now.Sub(s.at).Seconds(), s.burst)
		s.at = now
	}
	if s.tokens >= 1 {
		s.tokens--
		return true
	}
	if s.costly {
		s.tokens = 0
	}
	return false
}

// answer is one that is under way.
type answer struct {
	at       time.Time
	ticket   pace.Ticket
	accepted bool
}

// tally is what came of a backlog in a time.
type tally struct{ sent, accepted, refused float64 }

// backlog sends as fast as the pace allows, with workers that each wait for
// their answer, until the time is over. Where the pace is not known it sends
// one attempt after the other, and one more for each that is accepted, as the
// limiter does.
type backlog struct {
	*testing.T
	pace    pace.Pace
	srv     *server
	now     time.Time
	pending []answer
	workers int
	credit  int
	told    bool // the server says what is left
	in      tally
}

func newBacklog(t *testing.T, srv *server, workers int) *backlog {
	t.Helper()
	start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	srv.at, srv.tokens = start, srv.burst
	if srv.window > 0 {
		srv.tokens = srv.rate * srv.window.Seconds()
	}
	return &backlog{T: t, srv: srv, now: start, workers: workers, credit: workers}
}

func (b *backlog) run(d time.Duration) tally {
	b.in = tally{}
	for end := b.now.Add(d); ; {
		next := end
		if len(b.pending) > 0 {
			next = b.pending[0].at
		}
		wait := b.pace.Wait(b.now)
		require.GreaterOrEqual(b, wait, time.Duration(0))
		maySend := len(b.pending) < b.workers && (b.pace.Known() || b.credit > 0)
		if maySend && !b.now.Add(wait).After(next) {
			if b.now = b.now.Add(wait); !b.now.Before(end) {
				return b.in
			}
			b.send()
			continue
		}
		if b.now = next; !b.now.Before(end) {
			return b.in
		}
		a := b.pending[0]
		b.pending = b.pending[1:]
		b.take(a)
	}
}

func (b *backlog) send() {
	a := answer{at: b.now, ticket: b.pace.Send(b.now), accepted: b.srv.take(b.now)}
	b.credit--
	b.in.sent++
	if a.accepted {
		b.in.accepted++
		a.at = a.at.Add(b.srv.ok)
	} else {
		b.in.refused++
		a.at = a.at.Add(b.srv.refusal)
	}
	i, _ := slices.BinarySearchFunc(b.pending, a, func(x, y answer) int { return cmp.Compare(x.at.UnixNano(), y.at.UnixNano()) })
	b.pending = slices.Insert(b.pending, i, a)
}

func (b *backlog) take(a answer) {
	if b.told {
		b.pace.Tell(a.ticket, b.now, float64(int(b.srv.tokens)), b.srv.rate)
	}
	switch {
	case a.accepted:
		b.credit += 2
		b.pace.Accepted(a.ticket, b.now, true)
	case b.pace.Refused(a.ticket, b.now, b.pace.Known() || b.credit <= 1):
		b.credit = 1
	}
}

// TestSteadyBacklog has a limit that stays the same, far from the figures that
// the constants were chosen with. Learning has a minute, or 400 attempts.
func TestSteadyBacklog(t *testing.T) {
	for _, rate := range []float64{0.2, 1, 20, 100, 1000, 5000} {
		for _, burst := range []float64{1, 10, 1000} {
			for _, latency := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 2 * time.Second} {
				name := fmt.Sprintf("%v a second, burst %v, %v", rate, burst, latency)
				t.Run(name, func(t *testing.T) {
					workers := min(max(64, int(2*rate*latency.Seconds())), 20000)
					b := newBacklog(t, &server{rate: rate, burst: burst, ok: latency, refusal: latency / 4}, workers)
					b.run(max(time.Minute, time.Duration((burst+400)/rate*float64(time.Second))))
					length := max(time.Minute, time.Duration(1000/rate*float64(time.Second)))
					got := b.run(length)
					fmt.Printf("%s: used %.3f refused %.4f\n", name, got.accepted/(rate*length.Seconds()), got.refused/got.accepted)
				})
			}
		}
	}
}
