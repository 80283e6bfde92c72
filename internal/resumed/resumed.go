// Package resumed marks the requests by which package resume goes on with a body, so
// that a Trace can tell them from others.
package resumed

import "context"

type key struct{}

// With returns a context for the request that goes on with a body for the nth time.
func With(ctx context.Context, n int) context.Context {
	return context.WithValue(ctx, key{}, n)
}

// From returns how many times a body has been gone on with, this request included.
func From(ctx context.Context) int {
	n, _ := ctx.Value(key{}).(int)
	return n
}
