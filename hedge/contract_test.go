package hedge_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/hedge"
	"github.com/resilienthttp/resilient/internal/kit"
)

// late holds requests back. It tells those of a call by the field N.
type late struct {
	kit.Base

	first, second time.Duration // that the requests of a call are held back; -1: for ever
	seen          sync.Map
}

func (l *late) RoundTrip(req *http.Request) (*http.Response, error) {
	n := req.Header.Get("N")
	d := l.first
	if _, again := l.seen.LoadOrStore(n, true); again && l.first != 0 {
		l.seen.Delete(n)
		d = l.second
	}
	if d != 0 {
		if err := (answer{after: d, nothing: d > 0}).wait(req.Context()); err != nil {
			kit.Take(req)
			return nil, err
		}
	}
	return l.RoundTripper.RoundTrip(req)
}

// TestContract is the contract that a RoundTripper owes its caller: for a call that is not
// hedged, and for one that either request wins. A hedge is sent after 100 ms, but of 64
// calls at once there are tokens only for 20.
func TestContract(t *testing.T) {
	var ways []kit.Way
	for _, tt := range []struct {
		name          string
		first, second time.Duration
		nested        bool // a resilient.Transport is in between
	}{
		{"not hedged", 0, 0, false},
		{"the first wins", 150 * ms, -1, false},
		{"the second wins", time.Hour, 20 * ms, false},
		{"both at once", 150 * ms, 50 * ms, false},
		{"the second wins over resilient", time.Hour, 20 * ms, true},
	} {
		ways = append(ways, kit.Way{Name: tt.name, Longest: tt.first, New: func(base http.RoundTripper) http.RoundTripper {
			if tt.nested {
				base = resilient.NewTransport(base, resilient.WithMaxAttempts(1))
			}
			return hedge.New(&late{Base: kit.Base{RoundTripper: base}, first: tt.first, second: tt.second},
				hedge.WithDelay(100*ms), hedge.WithIdempotencyKeys(true))
		}})
	}
	kit.Contract(t, ways)
}
