module github.com/resilienthttp/resilient/internal/benchmarks

go 1.26.0

// So that the global source of math/rand, from which most of the peers draw
// their jitter, can be seeded and a run repeats.
godebug randseednop=0

require (
	github.com/cenkalti/backoff/v4 v4.3.0
	github.com/hashicorp/go-retryablehttp v0.7.8
	github.com/resilienthttp/resilient v0.0.0
	golang.org/x/time v0.16.0
)

require github.com/hashicorp/go-cleanhttp v0.5.2 // indirect

replace github.com/resilienthttp/resilient => ../..
