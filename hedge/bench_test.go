package hedge_test

import (
	"net/http"
	"testing"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/hedge"
	"github.com/resilienthttp/resilient/internal/kit"
)

// BenchmarkHedge measures a call that is not hedged, over a base that answers at once.
// "cold" knows too little for a delay, "warm" is ready for a hedge, and "no token" could
// not pay for one.
func BenchmarkHedge(b *testing.B) {
	resp := &http.Response{StatusCode: 200, Body: http.NoBody}
	base := roundTripper(func(*http.Request) (*http.Response, error) { return resp, nil })
	failing := roundTripper(func(*http.Request) (*http.Response, error) { return nil, errCut }) // which is no sample
	for _, bb := range []struct {
		name      string
		transport http.RoundTripper
		warm      int
	}{
		{"base", base, 0},
		{"resilient", resilient.NewTransport(base), 0},
		{"cold", hedge.New(failing), 0},
		{"warm", hedge.New(base), 100},
		{"warm, parallel", hedge.New(base), 100},
		{"no token", hedge.New(failing, hedge.WithDelay(1)), 100},
	} {
		b.Run(bb.name, func(b *testing.B) {
			calls(b, bb.transport, bb.warm)
			req := kit.Get(b)
			b.ReportAllocs()
			if bb.name == "warm, parallel" {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						_, _ = bb.transport.RoundTrip(req)
					}
				})
				return
			}
			for b.Loop() {
				_, _ = bb.transport.RoundTrip(req)
			}
		})
	}
}
