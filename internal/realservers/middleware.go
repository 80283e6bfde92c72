package main

import (
	"context"
	"net/http"
	"slices"
)

// middlewareScenarios are limits that Go servers have in front of their handlers.
func middlewareScenarios() []scenario {
	return slices.Concat(httprateScenarios(), throttledScenarios(), ululeScenarios(), chiScenarios())
}

// behind serves an upstream behind a middleware that newLimit makes.
func behind(newLimit func() (func(http.Handler) http.Handler, error), takes service) func(context.Context, *site) error {
	return func(ctx context.Context, s *site) error {
		limit, err := newLimit()
		if err != nil {
			return err
		}
		addr, err := s.serve(ctx, limit(upstream(takes)))
		s.url = "http://" + addr
		return err
	}
}
