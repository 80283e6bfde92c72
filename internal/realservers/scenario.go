package main

import (
	"context"
	"math"
	"slices"
	"time"
)

// scenario is a server that limits, and the load it is under.
type scenario struct {
	name  string // the server's kind, a dot, its limit, and what else tells it from others
	about string // for the table
	loads []load

	// rate and burst are what the server could give in the best case: rate calls a
	// second, and burst more in all. A rate of 0 says that this is not known.
	rate, burst float64

	start func(ctx context.Context, s *site) error
}

// scenarios returns all of them. A name may be the beginning of another one.
func scenarios() []scenario {
	return slices.Concat(nginxScenarios(), haproxyScenarios(), varnishScenarios(), middlewareScenarios())
}

// possible returns how many calls a second a load could have had answered, or NaN.
func (s scenario) possible(l load, length time.Duration) float64 {
	rate := s.rate + s.burst/length.Seconds()
	switch {
	case l.free:
		return l.perSecond
	case s.rate == 0 && l.workers > 0:
		return math.NaN()
	case s.rate == 0:
		return l.perSecond
	case l.workers > 0:
		return rate
	}
	return min(rate, l.perSecond)
}
