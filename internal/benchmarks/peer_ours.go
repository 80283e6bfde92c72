package main

import (
	"math"
	"net/http"

	"github.com/cenkalti/backoff/v4"

	"github.com/resilienthttp/resilient"
)

const oursModule = "github.com/resilienthttp/resilient"

func ours() peer {
	return peer{
		name:   "resilient",
		module: oursModule,
		client: func(base http.RoundTripper, cfg config) doer {
			return resilient.NewTransport(base, oursOptions(cfg)...).RoundTrip
		},
	}
}

func oursLimitKnown() peer {
	return peer{
		name:   "resilient, limit known",
		module: oursModule,
		cannot: "WithRateLimit is set to the server's limit (for a window, with its size as burst)",
		only:   "af",
		client: func(base http.RoundTripper, cfg config) doer {
			opts := append(oursOptions(cfg), resilient.WithRateLimit(cfg.limit, cfg.burst))
			return resilient.NewTransport(base, opts...).RoundTrip
		},
	}
}

func oursOptions(cfg config) []resilient.Option {
	opts := []resilient.Option{
		resilient.WithMaxAttempts(cfg.attempts),
		resilient.WithBackOff(func() backoff.BackOff {
			return backoff.NewExponentialBackOff(
				backoff.WithInitialInterval(cfg.backoff),
				backoff.WithMultiplier(2),
				backoff.WithMaxInterval(maxBackoff),
				backoff.WithMaxElapsedTime(0),
			)
		}),
	}
	if cfg.noBudget {
		opts = append(opts, resilient.WithRetryBudget(math.Inf(1), 0))
	}
	return opts
}
