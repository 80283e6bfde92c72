package resilient_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

func TestProfileRules(t *testing.T) {
	const (
		limited = resilient.KindRateLimit
		server  = resilient.KindServer
		invalid = resilient.KindInvalidRequest
		final   = time.Duration(-1)
	)
	teapot := answerWith(418, `{"code":"c","type":"t","message":"The Message","error":{"details":[{"reason":"inner"}]}}`)
	for _, tt := range []struct {
		why    string
		rules  []resilient.Rule
		answer step
		kind   resilient.Kind
		hint   time.Duration // final: not retried
	}{
		{"no rule", nil, teapot, invalid, final},
		{"a status", []resilient.Rule{{Status: 418, Kind: server}}, teapot, server, 0},
		{"another status", []resilient.Rule{{Status: 400, Kind: server}}, teapot, invalid, final},
		{"a code", []resilient.Rule{{Code: "c", Kind: server}}, teapot, server, 0},
		{"a type", []resilient.Rule{{Code: "t", Kind: server}}, teapot, server, 0},
		{"a code within", []resilient.Rule{{Code: "inner", Kind: server}}, teapot, server, 0},
		{"a part of a code is none", []resilient.Rule{{Code: "inn", Kind: server}}, teapot, invalid, final},
		{"a part of the message", []resilient.Rule{{Message: "mESS", Kind: server}}, teapot, server, 0},
		{"another message", []resilient.Rule{{Message: "other", Kind: server}}, teapot, invalid, final},
		{"all conditions hold", []resilient.Rule{{Status: 418, Code: "c", Message: "message", Kind: server}}, teapot, server, 0},
		{"one does not", []resilient.Rule{{Status: 418, Code: "x", Message: "message", Kind: server}}, teapot, invalid, final},
		{"the first that matches", []resilient.Rule{{Code: "x", Kind: limited}, {Code: "c"}, {Code: "t", Kind: server}}, teapot, invalid, final},
		{"a wait", []resilient.Rule{{Code: "c", Kind: limited, Wait: 9 * time.Second}}, teapot, limited, 9 * time.Second},
		{"a wait for nothing", []resilient.Rule{{Code: "c", Wait: 9 * time.Second}}, teapot, invalid, final},
		{
			"the server's hint is better",
			[]resilient.Rule{{Status: 429, Wait: 9 * time.Second}},
			answer(429, "Retry-After", "2"), limited, 2 * time.Second,
		},
		{
			"a reset too, once the rule says that it is a limit",
			[]resilient.Rule{{Status: 418, Kind: limited, Wait: 9 * time.Second}},
			answer(418, "X-RateLimit-Reset", "2"), limited, 2 * time.Second,
		},
		{"final where the default retries", []resilient.Rule{{Status: 500, Kind: invalid}}, answer(500), invalid, final},
		{"with a hint too", []resilient.Rule{{Status: 503, Kind: invalid}}, answer(503, "Retry-After", "2"), invalid, final},
		{"retried where the default does not", []resilient.Rule{{Status: 520, Kind: server}}, answer(520), server, 0},
		{
			"a rule beats a word of the body",
			[]resilient.Rule{{Code: "insufficient_quota", Kind: limited}},
			answerWith(429, `{"code":"insufficient_quota"}`), limited, 0,
		},
		{
			"the server's own word beats a rule",
			[]resilient.Rule{{Status: 429, Kind: limited}},
			answer(429, "X-Should-Retry", "false"), limited, final,
		},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(tt.answer, answer(200))
				var rec recorder
				tr := resilient.NewTransport(base, resilient.WithProfile(resilient.Profile{Rules: tt.rules}), resilient.WithTrace(rec.trace()))
				resp, err := tr.RoundTrip(get(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				e := rec.attempts[0].APIError
				require.Equal(t, tt.kind, e.Kind)
				if tt.hint == final {
					require.Equal(t, 1, base.Count())
					return
				}
				require.Equal(t, 2, base.Count())
				require.Equal(t, tt.hint, e.RetryAfter)
			})
		})
	}
}

func TestProfileWaitHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := resilient.NewTransport(newScript(answer(429, "X-RateLimit-Reset", "1500"), answer(500, "x-wait", "2"), answer(200)),
			resilient.WithTrace((&recorder{}).trace()),
			resilient.WithProfile(resilient.Profile{WaitHeaders: map[string]time.Duration{
				"x-ratelimit-reset": time.Millisecond, "X-Wait": 0, // names in any spelling
			}}))
		start := time.Now()
		resp, err := tr.RoundTrip(get(t))
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode)
		require.GreaterOrEqual(t, time.Since(start), 3500*time.Millisecond)
		require.Less(t, time.Since(start), 7*time.Second, "1500 s without the unit")
	})
}

func TestProfileNonsense(t *testing.T) {
	require.PanicsWithValue(t, "resilient: WithProfile must be with waits of 0 or more, got -1s", func() {
		resilient.WithProfile(resilient.Profile{Rules: []resilient.Rule{{Wait: -time.Second}}})
	})
	require.PanicsWithValue(t, "resilient: WithProfile must be with units of 0 or more, got -1s", func() {
		resilient.WithProfile(resilient.Profile{WaitHeaders: map[string]time.Duration{"X": -time.Second}})
	})
}

// failing is a profile whose API has errors in 2xx responses, by which the
// bodies can be told that were looked at.
func failing(asked *int) resilient.Option {
	return resilient.WithProfile(resilient.Profile{
		Rules: []resilient.Rule{{Code: "busy", Kind: resilient.KindServer}},
		Failed: func(body []byte) bool {
			*asked++
			return bytes.Contains(body, []byte(`"failed":true`))
		},
	})
}

func TestErrorIn2xx(t *testing.T) {
	const busy = `{"failed":true,"code":"busy"}`
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		with := func(method string, opts ...resilient.Option) (*resilienttest.Script, *http.Response, error) {
			base := newScript(answerWith(202, busy, "Content-Type", "application/json"))
			resp, err := resilient.NewTransport(base, append(opts, failing(&asked))...).RoundTrip(newRequest(t, method, "http://api.test/", ""))
			return base, resp, err
		}
		base, resp, err := with("GET")
		require.NoError(t, err)
		require.Equal(t, 4, base.Count(), "temporary by its rule")
		require.JSONEq(t, busy, readAll(t, resp))
		e, ok := resilient.ErrorFromResponse(resp)
		require.True(t, ok)
		require.Equal(t, 202, e.StatusCode)
		require.Equal(t, 4, e.Attempts)
		require.Equal(t, "busy", e.Code)
		require.ErrorIs(t, e, resilient.ErrServer)
		require.Equal(t, "resilient: status 202 (busy)", e.Error())

		base, resp, err = with("POST")
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 1, base.Count(), "it may have been processed")

		_, resp, err = with("POST", resilient.WithStatusErrors(true))
		require.Nil(t, resp)
		require.ErrorIs(t, err, resilient.ErrServer)
	})
	_, ok := resilient.ErrorFromResponse(&http.Response{StatusCode: 202, Body: io.NopCloser(strings.NewReader(busy))})
	require.False(t, ok, "of another origin nobody knows the profile")
}

func TestWhich2xxBodiesAreLookedAt(t *testing.T) {
	const body = `{"failed":true}`
	for _, tt := range []struct {
		why         string
		status      int
		contentType string
		length      int64
		looked      bool
	}{
		{"JSON", 200, "application/json", -1, true},
		{"JSON with a charset", 201, "application/json; charset=utf-8", 15, true},
		{"a kind of JSON", 299, "application/vnd.api+json", 15, true},
		{"as long as a prefix", 200, "application/json", 64 << 10, true},
		{"longer: an error is not", 200, "application/json", 64<<10 + 1, false},
		{"server-sent events", 200, "text/event-stream", -1, false},
		{"a JSON stream", 200, "application/x-ndjson", -1, false},
		{"text", 200, "text/plain", 15, false},
		{"no type", 200, "", 15, false},
		{"a redirect", 302, "application/json", 15, false},
		{"not modified", 304, "application/json", 15, false},
	} {
		asked := 0
		resp, err := resilient.NewTransport(step(func(req *http.Request) (*http.Response, error) {
			resp, err := answerWith(tt.status, body, "Content-Type", tt.contentType)(req)
			resp.ContentLength = tt.length
			return resp, err
		}), failing(&asked)).RoundTrip(get(t))
		require.NoError(t, err)
		require.Equal(t, tt.looked, asked == 1, tt.why)
		_, failed := resilient.ErrorFromResponse(resp)
		require.Equal(t, tt.looked, failed, tt.why)
		require.Equal(t, body, readAll(t, resp))
	}
}

// TestStreamsAreNotHeldBack shows what a profile costs a JSON body that keeps
// coming: nothing once it is too long to be an error, a second if it drips.
func TestStreamsAreNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		for _, tt := range []struct {
			name  string
			chunk string
			held  time.Duration
			why   string
		}{
			{"long", strings.Repeat("x", 64<<10), 0, "an error object is not so long"},
			{"drips", `{"failed":`, time.Second, "it may be one, and a second is the most it is given"},
		} {
			r, w := io.Pipe()
			base := step(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: r, ContentLength: -1}, nil
			})
			go func() {
				_, _ = io.WriteString(w, tt.chunk)
				time.Sleep(time.Hour)
				_, _ = io.WriteString(w, "true}")
				_ = w.Close()
			}()
			start := time.Now()
			resp, err := resilient.NewTransport(base, failing(&asked)).RoundTrip(get(t))
			require.NoError(t, err)
			require.Equal(t, tt.held, time.Since(start), "%s: %s", tt.name, tt.why)
			require.Equal(t, tt.chunk+"true}", readAll(t, resp), "whole")
			_, failed := resilient.ErrorFromResponse(resp)
			require.False(t, failed, "what was not known in time is a success")
		}
		require.Equal(t, 2, asked)
	})
}
