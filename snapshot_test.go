package resilient_test

import (
	"encoding/json"
	"expvar"
	"fmt"
	"math"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
)

func TestSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(200), answer(500), answer(429, "Retry-After", "3"), answer(200), answer(404))
		transport := resilient.NewTransport(base, every(time.Second), resilient.WithRateLimit(10, 5))
		require.Zero(t, transport.Snapshot().Totals.Calls, "nothing yet")
		require.NotNil(t, transport.Snapshot().Keys, "in JSON it is [], not null")
		for range 3 {
			callers(t, transport, 1)
		}
		s := transport.Snapshot()
		hinted := s.Totals.Waits["retry-after"].Time
		require.True(t, hinted >= 3*time.Second && hinted <= 4*time.Second, "%v, with jitter", hinted)
		require.Equal(t, resilient.Totals{
			Calls: 3, Attempts: 5, Retries: 2,
			Ended:    map[string]int64{"success": 2, "final status": 1},
			Failures: map[string]int64{"temporary status": 1, "rate limited": 1, "final status": 1},
			Waits:    map[string]resilient.WaitTotal{"backoff": {1, time.Second}, "retry-after": {1, hinted}},
		}, s.Totals)
		require.Len(t, s.Keys, 1)
		k := s.Keys[0]
		require.Equal(t, s.Totals, k.Totals, "with a rate limit, the key is known from the first request on")
		require.InDelta(t, 3, k.Tokens, 1e-6, "two of them went in this instant")
		require.InDelta(t, 4.05, k.Budget, 1e-6, "the last call was answered at once")
		k.Tokens, k.Budget, k.Totals = 0, 0, resilient.Totals{}
		require.Equal(t, resilient.KeySnapshot{Key: "http://api.test", Limit: 10, Burst: 5}, k)
	})
}

func TestSnapshotOfAKeyInTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuses := answer(429, "Retry-After", "5")
		base := newScript(answer(200), refuses, refuses, refuses, answer(200))
		transport := resilient.NewTransport(base)
		callers(t, transport, 1)
		require.Empty(t, transport.Snapshot().Keys, "nothing is remembered of a key that never failed")
		start := time.Now()
		during, said := make(chan resilient.Snapshot, 1), make(chan string, 1)
		time.AfterFunc(time.Second, func() {
			s := transport.Snapshot()
			said <- s.Keys[0].Limits[0].String()
			during <- s
		})
		callers(t, transport, 8)
		s := <-during
		require.Len(t, s.Keys, 1)
		require.Len(t, s.Keys[0].Limits, 1)
		limit := s.Keys[0].Limits[0]
		require.Equal(t, resilient.LimitPaused, limit.State)
		require.WithinDuration(t, start.Add(5*time.Second), limit.PausedUntil, 20*ms)
		require.Equal(t, "paused for 4s, as the server asked, for GET /v1", <-said)
		require.Equal(t, 5, s.Keys[0].Waiting, "all but those that were refused, which wait for themselves")
		require.Equal(t, int64(1), s.Totals.Calls, "those who wait have not ended")
		require.Equal(t, map[string]int64{"rate limited": 3}, s.Keys[0].Totals.Failures)
		s = transport.Snapshot()
		require.Equal(t, int64(9), s.Totals.Calls)
		require.Equal(t, int64(8), s.Keys[0].Totals.Calls, "the first was before the key was known")
		require.Empty(t, s.Keys[0].Limits)
		require.Zero(t, s.Keys[0].Waiting)
		pause := s.Totals.Waits["pause"]
		require.GreaterOrEqual(t, pause.Count, int64(5))
		require.GreaterOrEqual(t, pause.Time, 5*time.Second, "the time that was really waited")
	})
}

func TestSnapshotOfALearnedRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := rate.NewLimiter(20, 5)
		base := step(func(req *http.Request) (*http.Response, error) {
			time.Sleep(10 * time.Millisecond)
			if !server.Allow() {
				return answer(429)(req)
			}
			return answer(200)(req)
		})
		transport := resilient.NewTransport(base, resilient.WithMaxAttempts(10))
		callers(t, transport, 400)
		limits := transport.Snapshot().Keys[0].Limits
		require.Len(t, limits, 1)
		require.Equal(t, resilient.LimitRate, limits[0].State)
		require.InEpsilon(t, 20, limits[0].Rate, 0.3, "it may be trying more")
		require.NotZero(t, limits[0].Confirmed)
		require.Regexp(t, `^(1[4-9]|2[0-6])(\.\d)?/s for GET /v1, confirmed [0-9.]+s ago$`, limits[0].String())
		time.Sleep(2 * time.Minute)
		require.Empty(t, transport.Snapshot().Keys[0].Limits, "it is forgotten where nobody has to wait")
	})
}

func TestSnapshotNamesItsKeys(t *testing.T) {
	for _, tt := range []struct {
		name   string
		opts   []resilient.Option
		url    string
		header string
		want   string
	}{
		{name: "host", url: "http://api.test/v1?q=secret", want: `^http://api\.test$`},
		{name: "port", url: "https://API.test:8443/", want: `^https://api\.test:8443$`},
		{name: "credential", url: "http://api.test/", header: "Bearer secret", want: `^http://api\.test #[0-9a-f]{8}$`},
		{name: "userinfo", url: "http://secret:secret@api.test/", want: `^http://api\.test #[0-9a-f]{8}$`},
		{
			name: "own key",
			opts: []resilient.Option{resilient.WithLimitKey(func(*http.Request) string { return "account 42" })},
			url:  "http://api.test/", want: `^account 42$`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			transport := resilient.NewTransport(newScript(answer(200)), append(tt.opts, resilient.WithRateLimit(1, 1))...)
			req := newRequest(t, http.MethodGet, tt.url, "")
			if tt.header != "" {
				req.Header.Set("Authorization", tt.header)
			}
			resp, err := transport.RoundTrip(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			s := transport.Snapshot()
			require.Regexp(t, tt.want, s.Keys[0].Key)
			text, err := json.Marshal(s)
			require.NoError(t, err)
			require.NotContains(t, string(text), "secret")
		})
	}
}

// A Classifier that put a request's id into its reason would have grown the
// counters without end.
func TestSnapshotIsBounded(t *testing.T) {
	n := 0
	transport := resilient.NewTransport(newScript(answer(404)), resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
		n++
		v := a.Verdict
		v.Reason = fmt.Sprint("reason ", n)
		return v
	}))
	for range 1000 {
		resp, err := transport.RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	s := transport.Snapshot()
	require.Len(t, s.Totals.Failures, 64)
	require.Equal(t, int64(1000-63), s.Totals.Failures["other"])
	require.Equal(t, int64(1000-63), s.Totals.Ended["other"])
	require.Equal(t, int64(1000), s.Totals.Attempts)
}

func TestSnapshotAsJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := resilient.NewTransport(newScript(answer(500), answer(200)), every(time.Second),
			resilient.WithRetryBudget(inf, 0))
		callers(t, transport, 1)
		text, err := json.Marshal(expvar.Func(func() any { return transport.Snapshot() }).Value())
		require.NoError(t, err)
		const totals = `{"calls":1,"attempts":2,"retries":1,"ended":{"success":1},"failures":{"temporary status":1},` +
			`"waits":{"backoff":{"count":1,"time_ns":1000000000}}}`
		require.JSONEq(t, `{"totals":`+totals+`,
			"keys":[{"key":"http://api.test","tokens":0,"waiting":0,"budget":-1,"totals":`+totals+`}]}`, string(text))
	})
}

// TestHugeBudgetIsJSON: a balance of infinity cannot be encoded.
func TestHugeBudgetIsJSON(t *testing.T) {
	for _, ratio := range []float64{math.MaxFloat64, inf} {
		transport := resilient.NewTransport(newScript(answer(500), answer(200)), resilient.WithRetryBudget(ratio, 0), every(0))
		for range 3 {
			resp, err := transport.RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		_, err := json.Marshal(transport.Snapshot())
		require.NoError(t, err)
	}
}
