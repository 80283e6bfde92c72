package main

import (
	"math"
	"net/http"

	"github.com/cenkalti/backoff/v4"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/profile"
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

// oursDefaults is a client as its users begin: there is no option at all. So it has 4
// attempts and a first interval of 500 ms, where the other columns have those of the
// parameters.
func oursDefaults() peer {
	return peer{
		name:   "resilient, defaults",
		module: oursModule,
		cannot: "no option: 4 attempts, and a first interval of 500 ms, whatever the others have",
		only:   "abcde",
		client: func(base http.RoundTripper, _ config) doer { return resilient.NewTransport(base).RoundTrip },
	}
}

func oursLimitKnown() peer {
	return peer{
		name:   "resilient, limit known",
		module: oursModule,
		cannot: "WithRateLimit is set to the server's limit (for a window, with its size as burst); in l, with WithLimit, WithMaxInFlight and WithClass",
		only:   "afl",
		client: func(base http.RoundTripper, cfg config) doer {
			opts := append(oursOptions(cfg), resilient.WithRateLimit(cfg.limit, cfg.burst))
			t := resilient.NewTransport(base, append(opts, knownOptions(cfg.known)...)...)
			if !cfg.known.settles {
				return t.RoundTrip
			}
			return func(req *http.Request) (*http.Response, error) {
				ctx := resilient.ContextWithOptions(req.Context())
				resp, err := t.RoundTrip(req.WithContext(ctx))
				if err == nil && resp.StatusCode == http.StatusOK {
					resilient.Settle(ctx, tokens, callOf(req).cost)
				}
				return resp, err
			}
		},
	}
}

// knownOptions returns the options that tell a Transport what is known in scenario l.
func knownOptions(k known) []resilient.Option {
	opts := []resilient.Option{resilient.WithMaxInFlight(k.inFlight)}
	for _, l := range k.limits {
		cost := guessOf
		if !l.tokens {
			cost = nil
		}
		opts = append(opts, resilient.WithLimit(l.name, l.limit, l.burst, cost))
	}
	if k.fields {
		opts = append(opts, resilient.WithProfile(profile.OpenAI()))
	}
	return append(opts, resilient.WithClass(func(req *http.Request) resilient.Class {
		c := callOf(req)
		return resilient.Class{Priority: c.priority, Flow: c.flow}
	}))
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
