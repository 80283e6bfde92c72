package main

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestStop checks that nothing is left of a program that was stopped, or that has not
// started.
func TestStop(t *testing.T) {
	for _, name := range []string{"nginx", "haproxy", "varnish"} {
		t.Run(name, func(t *testing.T) {
			s := choose(scenarios(), name, func(s scenario) string { return s.name })[0]
			at, err := newSite()
			require.NoError(t, err)
			defer at.stop()
			requireInstalled(t, s.start(t.Context(), at))
			at.stop()
			require.NoDirExists(t, at.dir)
			// Its children are killed, and not waited for.
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for {
				c, err := net.Dial("tcp", strings.TrimPrefix(at.url, "http://"))
				if err != nil {
					break
				}
				_ = c.Close()
				<-tick.C
			}
		})
	}
}

func TestNoStart(t *testing.T) {
	at, err := newSite()
	require.NoError(t, err)
	defer at.stop()
	args := func(string) ([]string, error) { return []string{"nothing"}, nil }
	require.ErrorContains(t, at.run(t.Context(), "false", args), "ended")

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	args = func(string) ([]string, error) { return []string{"60"}, nil }
	require.ErrorIs(t, at.run(ctx, "sleep", args), context.DeadlineExceeded)
}
