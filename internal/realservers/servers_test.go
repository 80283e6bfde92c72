package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

var (
	length = flag.Duration("for", time.Second, "how long each client is measured")
	check  = flag.Bool("check", false, "compare the transport with the others too, which needs 10s and an idle machine")
)

// needed are the variables that make a missing program a failure, if set to 1.
var needed = map[string]string{
	"nginx":    "RESILIENT_REQUIRE_NGINX",
	"haproxy":  "RESILIENT_REQUIRE_HAPROXY",
	"varnishd": "RESILIENT_REQUIRE_VARNISH",
}

// requireInstalled ends the test if err says that a program is not installed. That is a
// failure if it is needed.
func requireInstalled(t *testing.T, err error) {
	t.Helper()
	missing, ok := errors.AsType[*exec.Error](err)
	if ok && errors.Is(err, exec.ErrNotFound) && os.Getenv(needed[filepath.Base(missing.Name)]) != "1" {
		t.Skip(err)
	}
	require.NoError(t, err)
}

// patience is the longest time that an expected event may take. Only a test that fails
// waits for so long.
const patience = 20 * time.Second

// TestLimits checks that each server answers, and refuses when it is asked for too much,
// and that calls of the transport succeed after that.
func TestLimits(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			at, err := newSite()
			require.NoError(t, err)
			defer at.stop()
			requireInstalled(t, s.start(t.Context(), at))
			base := newBase()
			defer base.CloseIdleConnections()
			count := newCounter(base)
			limited := s.loads[len(s.loads)-1].path

			// More than any of them lets pass, and without a retry.
			until(t, "the server limits", load{workers: 64, path: limited}, at.url, count.RoundTrip, func() bool {
				n := count.count(limited)
				return n.refused > 0 && n.accepted > 0
			})
			before := count.count(limited).accepted
			until(t, "a call succeeds", load{workers: 1, path: limited}, at.url, resilient.NewTransport(count).RoundTrip, func() bool {
				return count.count(limited).accepted > before
			})
			require.NoError(t, count.check())
		})
	}
}

// until puts a load on a server until done, which is asked after each call.
func until(t *testing.T, what string, l load, url string, do doer, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var yes atomic.Bool
	l.drive(ctx, func(req *http.Request) (*http.Response, error) {
		resp, err := do(req)
		if done() {
			yes.Store(true)
			cancel()
		}
		return resp, err
	}, url, new(tally))
	require.True(t, yes.Load(), "%s: not in %v", what, patience)
}

// Tolerances of -check.
const (
	leastOK    = .9  // of the calls that succeed with the best of the others
	mostFailed = .01 // of the calls, beyond the best of the others
)

// TestServers checks what holds in any timing: what a server does not limit is not
// harmed, and what the transport tells about itself is what it sent.
func TestServers(t *testing.T) {
	if !*check {
		t.Parallel()
	}
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			if !*check {
				t.Parallel()
			}
			var transport *resilient.Transport
			watched := client{oursName, func(base http.RoundTripper) doer {
				transport = resilient.NewTransport(base)
				return transport.RoundTrip
			}}
			all := append([]client{watched}, clients()[1:]...)
			results, err := measureClients(t.Context(), s, all, *length, len(all))
			requireInstalled(t, err)
			for _, rows := range results {
				for i := range rows {
					t.Log(rows[i].String())
					checkResult(t, &rows[i])
				}
			}
			if *check {
				for i := range s.loads {
					compareOurs(t, results[0][i], results[1][i], results[2][i], results[3][i])
				}
			}
			checkSnapshot(t, transport.Snapshot(), results[0])
		})
	}
}

func checkResult(t *testing.T, r *result) {
	t.Helper()
	require.LessOrEqual(t, r.tally.ok, r.attempts.accepted, r.client)
	require.NoError(t, r.broken, r.client)
	calls := r.tally.ok + r.tally.failed + r.tally.cut
	require.LessOrEqual(t, r.attempts.sum(), calls*attempts, r.client)
	if r.load.free {
		require.Zero(t, r.attempts.refused, r.client)
		require.Zero(t, r.tally.failed, r.client)
	}
}

// compareOurs checks that the transport is nowhere far behind the best of the others.
func compareOurs(t *testing.T, ours result, others ...result) {
	t.Helper()
	most := slices.MaxFunc(others, compare((*result).perSecond))
	assert.GreaterOrEqual(t, ours.perSecond(), leastOK*most.perSecond(), "%v", ours.load)
	least := slices.MinFunc(others, compare((*result).failed))
	assert.LessOrEqual(t, ours.failed(), least.failed()+mostFailed, "%v", ours.load)
}

func (c counts) sum() int { return c.accepted + c.refused + c.errors + c.cut }

// checkSnapshot checks what a transport tells when all of its calls have ended.
func checkSnapshot(t *testing.T, got resilient.Snapshot, sent []result) {
	t.Helper()
	calls, attempts := 0, 0
	for _, r := range sent {
		calls += r.tally.ok + r.tally.failed + r.tally.cut
		attempts += r.attempts.sum()
	}
	require.EqualValues(t, calls, got.Totals.Calls)
	require.EqualValues(t, attempts, got.Totals.Attempts)
	require.LessOrEqual(t, len(got.Keys), 1)
	for _, k := range got.Keys {
		require.Zero(t, k.Waiting)
	}
	_, err := json.Marshal(got) // fails if a number is not finite
	require.NoError(t, err)
}
