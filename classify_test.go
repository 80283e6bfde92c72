package resilient_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/profile"
)

var inf, nan = math.Inf(1), math.NaN()

func TestStatusTable(t *testing.T) {
	const all = 4 // the default attempts
	for _, tt := range []struct {
		status    int
		header    []string
		get, post int
		kind      resilient.Kind
		sentinel  error
		why       string
	}{
		{400, nil, 1, 1, resilient.KindInvalidRequest, resilient.ErrInvalidRequest, "a parameter stays wrong"},
		{402, nil, 1, 1, resilient.KindPaymentRequired, resilient.ErrPaymentRequired, "the account stays unpaid"},
		{403, nil, 1, 1, resilient.KindAuthentication, resilient.ErrAuthentication, "the credentials stay wrong"},
		{404, nil, 1, 1, resilient.KindNotFound, resilient.ErrNotFound, "the URI stays unknown"},
		{429, nil, all, all, resilient.KindRateLimit, resilient.ErrRateLimit, "rejected unprocessed"},
		{500, nil, all, 1, resilient.KindServer, resilient.ErrServer, "a POST may have been processed"},
		{502, nil, all, 1, resilient.KindServer, resilient.ErrServer, "as 500"},
		{503, nil, all, 1, resilient.KindServer, resilient.ErrServer, "as 500"},
		{504, nil, all, 1, resilient.KindServer, resilient.ErrServer, "as 500"},
		{408, nil, all, 1, resilient.KindServer, resilient.ErrServer, "as 500"},
		{425, nil, all, 1, resilient.KindServer, resilient.ErrServer, "as 500"},
		{503, []string{"Retry-After", "1"}, all, 1, resilient.KindServer, resilient.ErrServer, "a cache says so of a request that its origin has taken"},
		{503, []string{"Retry-After", "5", "Via", "1.1 varnish"}, all, 1, resilient.KindServer, resilient.ErrServer, "as Varnish does"},
		{503, []string{"Retry-After", "0"}, all, 1, resilient.KindServer, resilient.ErrServer, "0 is a hint too"},
		{503, []string{"Retry-After", "soon"}, all, 1, resilient.KindServer, resilient.ErrServer, "that is no hint"},
		{500, []string{"Retry-After", "1"}, all, 1, resilient.KindServer, resilient.ErrServer, "a hint proves nothing"},
		{401, nil, 1, 1, resilient.KindAuthentication, resilient.ErrAuthentication, "undocumented: final"},
		{405, nil, 1, 1, resilient.KindInvalidRequest, resilient.ErrInvalidRequest, "undocumented: final"},
		{409, nil, 1, 1, resilient.KindInvalidRequest, resilient.ErrInvalidRequest, "undocumented: final"},
		{410, nil, 1, 1, resilient.KindNotFound, resilient.ErrNotFound, "undocumented: final"},
		{413, []string{"Retry-After", "1"}, 1, 1, resilient.KindInvalidRequest, resilient.ErrInvalidRequest, "a hint does not make it temporary"},
		{422, nil, 1, 1, resilient.KindInvalidRequest, resilient.ErrInvalidRequest, "undocumented: final"},
		{501, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "RFC 9110 section 15.6.2: it cannot do that for any resource"},
		{505, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "RFC 9110 section 15.6.6: the same version is spoken next time"},
		{506, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "RFC 2295 section 8.1: the server is misconfigured"},
		{507, nil, all, 1, resilient.KindServer, resilient.ErrServer, "RFC 4918 section 11.5: considered to be temporary"},
		{508, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "RFC 5842 section 7.2: the loop stays"},
		{509, nil, all, 1, resilient.KindServer, resilient.ErrServer, "bandwidth comes back"},
		{510, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "RFC 2774 section 7: the request lacks an extension"},
		{511, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "RFC 6585 section 6: somebody has to log in"},
		{520, nil, all, 1, resilient.KindServer, resilient.ErrServer, "the CDN got an answer that it does not understand"},
		{521, nil, all, 1, resilient.KindServer, resilient.ErrServer, "the CDN was refused a connection"},
		{522, nil, all, 1, resilient.KindServer, resilient.ErrServer, "the CDN did not get a connection in time"},
		{523, nil, all, 1, resilient.KindServer, resilient.ErrServer, "the CDN has no route"},
		{524, nil, all, 1, resilient.KindServer, resilient.ErrServer, "the CDN did not get an answer in time"},
		{525, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "the TLS handshake behind the CDN fails"},
		{526, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "the certificate behind the CDN is invalid"},
		{527, nil, all, 1, resilient.KindServer, resilient.ErrServer, "the CDN lost its origin"},
		{530, nil, all, 1, resilient.KindServer, resilient.ErrServer, "the CDN does not find its origin"},
		{599, nil, all, 1, resilient.KindServer, resilient.ErrServer, "a proxy lost its connection"},
		{600, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "no class of RFC 9110 section 15"},
		{999, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "net/http lets it through"},
	} {
		t.Run(strconv.Itoa(tt.status)+strings.Join(tt.header, " "), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for method, want := range map[string]int{"GET": tt.get, "POST": tt.post} {
					base := newScript(answer(tt.status, tt.header...))
					resp, err := resilient.NewTransport(base, unbounded()).RoundTrip(newRequest(t, method, "http://api.test/", ""))
					require.NoError(t, err)
					require.Equal(t, want, base.count(), "%s: %s", method, tt.why)
					apiErr, ok := resilient.ErrorFromResponse(resp)
					require.True(t, ok)
					require.Equal(t, tt.status, apiErr.StatusCode)
					require.Equal(t, tt.kind, apiErr.Kind)
					require.ErrorIs(t, apiErr, tt.sentinel)
					require.Equal(t, want, apiErr.Attempts)
					require.NotEqual(t, "none", apiErr.Kind.String())
					for _, other := range []error{
						resilient.ErrInvalidRequest, resilient.ErrPaymentRequired, resilient.ErrAuthentication,
						resilient.ErrNotFound, resilient.ErrRateLimit, resilient.ErrServer,
					} {
						require.Equal(t, errors.Is(tt.sentinel, other), errors.Is(apiErr, other))
					}
					require.NoError(t, resp.Body.Close())
				}
			})
		})
	}
	require.Equal(t, "none", resilient.Kind(0).String())
	require.NotErrorIs(t, &resilient.APIError{}, resilient.ErrServer, "the zero error is of no kind")
}

func TestErrorObject(t *testing.T) {
	limit := []resilient.InvalidParam{{Name: "limit", Reason: "too big"}}
	for _, tt := range []struct {
		name, body string
		want       resilient.APIError
	}{
		{
			"documented", `{"code":"400","type":"T","message":"m","invalid":[{"name":"limit","reason":"too big"}]}`,
			resilient.APIError{Code: "400", Type: "T", Message: "m", Invalid: limit},
		},
		{"code as number", `{"code":12345678901234567890}`, resilient.APIError{Code: "12345678901234567890"}},
		{"code as an absurd number", `{"code":1e400,"message":"m"}`, resilient.APIError{Code: "1e400", Message: "m"}},
		{"code of another type", `{"code":{"x":1},"message":"m"}`, resilient.APIError{Message: "m"}},
		{"message of another type", `{"code":"c","message":7}`, resilient.APIError{Code: "c"}},
		{"invalid null", `{"code":"c","invalid":null}`, resilient.APIError{Code: "c"}},
		{"invalid empty", `{"code":"c","invalid":[]}`, resilient.APIError{Code: "c"}},
		{"invalid one object", `{"invalid":{"name":"limit","reason":"too big"}}`, resilient.APIError{Invalid: limit}},
		{"invalid of another type", `{"code":"c","invalid":7}`, resilient.APIError{Code: "c"}},
		{"BOM", "\xef\xbb\xbf" + `{"code":"c"}`, resilient.APIError{Code: "c"}},
		{"trailing garbage", `{"code":"c"} <!-- proxy -->`, resilient.APIError{Code: "c"}},
		{"truncated", `{"code":"c","mess`, resilient.APIError{}},
		{"HTML", `<html>502</html>`, resilient.APIError{}},
		{"array", `[1]`, resilient.APIError{}},
		{"null", `null`, resilient.APIError{}},
		{"empty", ``, resilient.APIError{}},
		{"deep", strings.Repeat("[", 100_000), resilient.APIError{}},
		{"huge", `{"message":"` + strings.Repeat("x", 1<<20) + `"}`, resilient.APIError{}},
		{"not UTF-8", "{\"code\":\"c\",\"message\":\"caf\xe9\"}", resilient.APIError{Code: "c", Message: "caf\ufffd"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := resilient.NewTransport(newScript(answerWith(400, tt.body))).RoundTrip(get(t))
			require.NoError(t, err)
			apiErr, ok := resilient.ErrorFromResponse(resp)
			require.True(t, ok)
			require.Equal(t, 400, apiErr.StatusCode)
			require.Equal(t, tt.want.Code, apiErr.Code)
			require.Equal(t, tt.want.Type, apiErr.Type)
			require.Equal(t, tt.want.Message, apiErr.Message)
			require.Equal(t, tt.want.Invalid, apiErr.Invalid)
			require.Equal(t, tt.body[:min(len(tt.body), 64<<10)], string(apiErr.Body))
			require.Equal(t, tt.body, readAll(t, resp), "every byte is still there")

			again, ok := resilient.ErrorFromResponse(resp)
			require.True(t, ok, "an SDK has read and closed the body by now")
			require.Equal(t, apiErr, again)
		})
	}
}

// corpusCase is an error response as APIs send it, and what is to be made of it.
type corpusCase struct {
	Name, Profile, Method, Body string
	Now                         time.Time // on the caller's clock; the beginning of 2026 if zero
	Status                      int
	Headers                     map[string][]string
	Want                        struct {
		Type, Code, Message string
		Invalid             []resilient.InvalidParam
		Retryable           bool   // the failure, whatever the method
		RetryAfterMS        *int64 `json:"retry_after_ms"` // null: no hint
		Class               string
	}
}

// corpusKinds are the kinds for the classes of the corpus, which are finer.
var corpusKinds = map[string]struct {
	kind     resilient.Kind
	sentinel error
}{
	"invalid_request": {resilient.KindInvalidRequest, resilient.ErrInvalidRequest},
	"conflict":        {resilient.KindInvalidRequest, resilient.ErrInvalidRequest},
	"payment":         {resilient.KindPaymentRequired, resilient.ErrPaymentRequired},
	"auth":            {resilient.KindAuthentication, resilient.ErrAuthentication},
	"not_found":       {resilient.KindNotFound, resilient.ErrNotFound},
	"rate_limit":      {resilient.KindRateLimit, resilient.ErrRateLimit},
	"quota":           {resilient.KindQuota, resilient.ErrRateLimit},
	"server":          {resilient.KindServer, resilient.ErrServer},
	"overloaded":      {resilient.KindServer, resilient.ErrServer},
	"timeout":         {resilient.KindServer, resilient.ErrServer},
}

var profiles = map[string]resilient.Profile{
	"":                {},
	"airtable":        profile.Airtable(),
	"github":          profile.GitHub(),
	"hubspot":         profile.HubSpot(),
	"salesforce":      profile.Salesforce(),
	"shopify-graphql": profile.ShopifyGraphQL(),
	"slack":           profile.Slack(),
}

// TestCorpus sends each case over HTTP, and looks at all that comes of it: the
// parsed error in all three ways, the attempts, and the waits between them.
func TestCorpus(t *testing.T) {
	for _, file := range []string{"corpus.json", "more.json"} {
		b, err := os.ReadFile(filepath.Join("internal", "errorobject", "testdata", file))
		require.NoError(t, err)
		var cases []corpusCase
		require.NoError(t, json.Unmarshal(b, &cases))
		require.GreaterOrEqual(t, len(cases), 96)
		for _, tt := range cases {
			t.Run(tt.Name, func(t *testing.T) { synctest.Test(t, tt.run) })
		}
	}
}

func (tt corpusCase) run(t *testing.T) {
	now := tt.Now
	if now.IsZero() {
		now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	time.Sleep(time.Until(now))
	hits := 0
	base := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		hits++
		w.Header()["Date"] = nil // the server's own would hide that there is none
		w.Header()["Content-Type"] = nil
		for name, values := range tt.Headers {
			w.Header().Del(name)
			for _, v := range values {
				w.Header().Add(name, v)
			}
		}
		w.WriteHeader(tt.Status)
		_, _ = io.WriteString(w, tt.Body)
	})
	var last resilient.AttemptInfo
	trace := &resilient.Trace{AttemptDone: func(a resilient.AttemptInfo) {
		last = a
		if a.Attempt == 1 {
			tt.check(t, a.APIError, a.Verdict) // at once: points in time come nearer while we wait
		}
	}}
	opts := []resilient.Option{resilient.WithTrace(trace)}
	if tt.Profile != "" {
		opts = append(opts, resilient.WithProfile(profiles[tt.Profile]))
	}
	client := &http.Client{Transport: resilient.NewTransport(base, opts...), Timeout: 24 * time.Hour}
	start := time.Now()
	resp, err := client.Do(get(t))
	require.NoError(t, err)
	require.Equal(t, tt.Status, resp.StatusCode)

	hint := time.Duration(0)
	if ms := tt.Want.RetryAfterMS; ms != nil {
		hint = time.Duration(*ms) * time.Millisecond
	}
	if tt.Want.Retryable && hint <= time.Minute {
		require.Equal(t, 4, hits)
		require.GreaterOrEqual(t, time.Since(start), hint)
	} else {
		require.Equal(t, 1, hits)
	}

	body, err := io.ReadAll(resp.Body)
	if err != nil {
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
	require.Equal(t, tt.Body, string(body), "every byte, whatever was made of it")
	require.NoError(t, resp.Body.Close())
	e, ok := resilient.ErrorFromResponse(resp)
	require.Equal(t, tt.Want.Class != "ok", ok)
	require.Equal(t, last.APIError, e)
}

func (tt corpusCase) check(t *testing.T, e *resilient.APIError, v resilient.Verdict) {
	t.Helper()
	want := tt.Want
	require.Equal(t, want.Retryable, v.Retry)
	if want.Class == "ok" {
		require.Nil(t, e)
		return
	}
	require.NotNil(t, e)
	require.Equal(t, want.Type, e.Type)
	require.Equal(t, want.Code, e.Code)
	require.Equal(t, want.Message, e.Message)
	require.ElementsMatch(t, want.Invalid, e.Invalid)
	require.Equal(t, corpusKinds[want.Class].kind, e.Kind)
	require.ErrorIs(t, e, corpusKinds[want.Class].sentinel)
	require.Equal(t, e.Kind, v.Kind)
	require.Equal(t, e.RetryAfter, v.RetryAfter)
	if want.RetryAfterMS == nil {
		require.Zero(t, e.RetryAfter)
	} else {
		require.Equal(t, *want.RetryAfterMS, e.RetryAfter.Milliseconds())
	}
}

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
					require.Equal(t, 1, base.count())
					return
				}
				require.Equal(t, 2, base.count())
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
		with := func(method string, opts ...resilient.Option) (*script, *http.Response, error) {
			base := newScript(answerWith(202, busy, "Content-Type", "application/json"))
			resp, err := resilient.NewTransport(base, append(opts, failing(&asked))...).RoundTrip(newRequest(t, method, "http://api.test/", ""))
			return base, resp, err
		}
		base, resp, err := with("GET")
		require.NoError(t, err)
		require.Equal(t, 4, base.count(), "temporary by its rule")
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
		require.Equal(t, 1, base.count(), "it may have been processed")

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
		for name, tt := range map[string]struct {
			chunk string
			held  time.Duration
		}{
			"long":  {strings.Repeat("x", 64<<10), 0},
			"drips": {`{"failed":`, time.Second},
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
			require.Equal(t, tt.held, time.Since(start), name)
			require.Equal(t, tt.chunk+"true}", readAll(t, resp), "whole")
			_, failed := resilient.ErrorFromResponse(resp)
			require.False(t, failed, "what was not known in time is a success")
		}
		require.Equal(t, 2, asked)
	})
}

func TestShouldRetry(t *testing.T) {
	for _, tt := range []struct {
		answer    step
		get, post int
		why       string
	}{
		{answer(500, "X-Should-Retry", "false"), 1, 1, "no beats the status"},
		{answer(429, "Stripe-Should-Retry", "FALSE"), 1, 1, "in either field, however spelt"},
		{answer(409, "X-Should-Retry", "true"), 4, 4, "yes is the server's word about this very request"},
		{answer(500, "Stripe-Should-Retry", "true"), 4, 4, "also after a failure"},
		{answer(429, "X-Should-Retry", "true"), 4, 4, "which was turned away"},
		{answer(409, "X-Should-Retry", "maybe"), 1, 1, "neither"},
		{answer(500, "X-Should-Retry", "maybe", "Stripe-Should-Retry", "false"), 1, 1, "the first that can be understood"},
	} {
		synctest.Test(t, func(t *testing.T) {
			for method, want := range map[string]int{"GET": tt.get, "POST": tt.post} {
				base := newScript(tt.answer)
				resp, err := resilient.NewTransport(base).RoundTrip(newRequest(t, method, "http://api.test/", ""))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, want, base.count(), "%s: %s", method, tt.why)
			}
		})
	}
}

func TestLimitsByTheirCodes(t *testing.T) {
	const (
		limit = resilient.KindRateLimit
		quota = resilient.KindQuota
	)
	for _, tt := range []struct {
		status int
		body   string
		header []string
		kind   resilient.Kind
		why    string
	}{
		{429, `{}`, nil, limit, "the status says it"},
		{400, `{"code":"ThrottlingException"}`, nil, limit, "throttling with another status"},
		{403, `{"error":{"errors":[{"reason":"userRateLimitExceeded"}]}}`, nil, limit, "in a list of reasons"},
		{503, `{"type":"https://api.test/errors/rate-limit-exceeded"}`, nil, limit, "at the end of a URI"},
		{500, `{"code":"TOO_MANY_REQUESTS"}`, nil, limit, "in capitals"},
		{400, `{"code":"Throttling.User"}`, nil, limit, "qualified"},
		{404, `{"code":"rate_limit_exceeded"}`, nil, resilient.KindNotFound, "the limit that is not there"},
		{413, `{"code":"rate_limit_exceeded"}`, nil, resilient.KindInvalidRequest, "a request larger than the limit"},
		{402, `{"code":"insufficient_quota"}`, nil, resilient.KindPaymentRequired, "the status is more exact"},
		{400, `{"code":"invalid_rate_limit"}`, nil, resilient.KindInvalidRequest, "a parameter"},
		{400, `{"error":"slow_down"}`, nil, resilient.KindInvalidRequest, "RFC 8628: for the poller to obey"},
		{403, `{"message":"rate limit exceeded"}`, nil, resilient.KindAuthentication, "a message is not matched"},
		{429, `{"error":{"code":"insufficient_quota"}}`, nil, quota, "no money comes by waiting"},
		{429, `{"error":{"code":"insufficient_quota"}}`, []string{"Retry-After", "1"}, quota, "whatever the header says"},
		{403, `{"error":{"errors":[{"reason":"dailyLimitExceeded"}]}}`, nil, quota, "used up for the day"},
		{403, `{"error":{"errors":[{"reason":"quotaExceeded"}]}}`, []string{"Retry-After", "30"}, limit, "back at a stated time"},
		{429, `{"code":"quota_exceeded"}`, []string{"X-RateLimit-Reset", "30"}, limit, "which a reset states too"},
		{429, `{"code":"rate_limit_exceeded","type":"insufficient_quota"}`, nil, quota, "the worst of several"},
		{403, ``, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "9"}, limit, "nothing remains"},
		{403, `{"code":"403"}`, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "9"}, limit, "the status as a code is none"},
		{403, `{"code":"forbidden"}`, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "9"}, resilient.KindAuthentication, "a code says why"},
		{403, ``, []string{"X-RateLimit-Remaining", "5", "X-RateLimit-Reset", "9"}, resilient.KindAuthentication, "something remains"},
		{403, ``, []string{"Retry-After", "9"}, resilient.KindAuthentication, "not a limit's"},
		{401, ``, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "9"}, resilient.KindAuthentication, "another status"},
	} {
		resp, err := resilient.NewTransport(newScript(answerWith(tt.status, tt.body, tt.header...)), resilient.WithMaxAttempts(1)).RoundTrip(get(t))
		require.NoError(t, err)
		e, ok := resilient.ErrorFromResponse(resp)
		require.True(t, ok)
		require.Equal(t, tt.kind, e.Kind, tt.why)
	}
	require.Equal(t, "quota", quota.String())
}

func TestErrorFromResponseOfAnyOrigin(t *testing.T) {
	_, ok := resilient.ErrorFromResponse(nil)
	require.False(t, ok)
	_, ok = resilient.ErrorFromResponse(&http.Response{StatusCode: 302})
	require.False(t, ok)

	apiErr, ok := resilient.ErrorFromResponse(&http.Response{StatusCode: 404, Header: http.Header{"Request-Id": {"r1"}}})
	require.True(t, ok, "no body at all")
	require.ErrorIs(t, apiErr, resilient.ErrNotFound)
	require.Equal(t, "r1", apiErr.RequestID)

	body := `{"code":"c"}` + strings.Repeat(" ", 100_000) + "end"
	resp := &http.Response{StatusCode: 500, Body: io.NopCloser(strings.NewReader(body))}
	apiErr, ok = resilient.ErrorFromResponse(resp)
	require.True(t, ok)
	require.Equal(t, "c", apiErr.Code)
	require.Zero(t, apiErr.Attempts, "not known")
	require.Len(t, apiErr.Body, 64<<10)
	require.Equal(t, body, readAll(t, resp))
	_, err := resp.Body.Read(make([]byte, 1))
	require.ErrorIs(t, err, http.ErrBodyReadAfterClose)
	require.NoError(t, resp.Body.Close(), "a second Close is harmless")
}

func TestErrorFromResponseAfterAnSDK(t *testing.T) {
	// An SDK reads and closes the body, and http.Client wraps it if it has a
	// Timeout: the error object was lost then.
	for name, body := range map[string]string{"body": `{"code":"c"}`, "none": ""} {
		t.Run(name, func(t *testing.T) {
			paid := resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
				a.Verdict.Kind = resilient.KindPaymentRequired
				return a.Verdict
			})
			base := step(func(req *http.Request) (*http.Response, error) {
				resp, err := answerWith(404, body)(req)
				if body == "" {
					resp.Body = http.NoBody
				}
				return resp, err
			})
			client := &http.Client{Timeout: time.Minute, Transport: resilient.NewTransport(base, paid)}
			resp, err := client.Do(get(t))
			require.NoError(t, err)
			require.Equal(t, body, readAll(t, resp))
			e, ok := resilient.ErrorFromResponse(resp)
			require.True(t, ok)
			require.Equal(t, 1, e.Attempts)
			require.ErrorIs(t, e, resilient.ErrPaymentRequired, "the classifier's kind, as in the other two ways")
			require.Equal(t, body, string(e.Body))
			if body != "" {
				require.Equal(t, "c", e.Code)
			}
		})
	}
}

func TestErrorBodyEndsAsItCame(t *testing.T) {
	cut := func(*http.Request) (*http.Response, error) {
		body := io.MultiReader(strings.NewReader(`{"code":"c"}`), failingReader{io.ErrUnexpectedEOF})
		return &http.Response{StatusCode: 404, Header: http.Header{}, Body: io.NopCloser(body)}, nil
	}
	resp, err := resilient.NewTransport(step(cut)).RoundTrip(get(t))
	require.NoError(t, err)
	b, err := io.ReadAll(resp.Body)
	require.JSONEq(t, `{"code":"c"}`, string(b))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF, "a short body is not passed off as whole")
	require.NoError(t, resp.Body.Close())
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

func TestBodyThatNeverProgresses(t *testing.T) {
	resp, err := resilient.NewTransport(step(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 404, Header: http.Header{}, Body: io.NopCloser(failingReader{})}, nil
	})).RoundTrip(get(t))
	require.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	require.ErrorIs(t, err, io.ErrNoProgress)
	require.NoError(t, resp.Body.Close())
}

func TestErrorIsOneShortLineWithoutSecrets(t *testing.T) {
	e := &resilient.APIError{
		StatusCode: 400, Type: "T\r\n\x1b[31m", Code: "c\u202e\u2028", Message: strings.Repeat("long\x00", 1000),
		Header: http.Header{"Set-Cookie": {"secret"}}, Body: []byte("secret"),
	}
	for range 10 {
		e.Invalid = append(e.Invalid, resilient.InvalidParam{Name: "n", Reason: "caf\xe9\n"})
	}
	require.True(t, utf8.ValidString(e.Error()))
	require.NotContains(t, e.Error(), "secret")
	require.Less(t, len(e.Error()), 1000)
	require.False(t, strings.ContainsFunc(e.Error(), func(r rune) bool { return !unicode.IsPrint(r) }), e.Error())
	require.Contains(t, e.Error(), "and 7 more")
	require.Equal(t, "resilient: status 404 NOT_FOUND_ERROR: Not found.",
		(&resilient.APIError{StatusCode: 404, Code: "404", Type: "NOT_FOUND_ERROR", Message: "Not found."}).Error())
	require.Equal(t, "resilient: status 400 (bad_limit); limit: too big", (&resilient.APIError{
		StatusCode: 400, Code: "bad_limit", Invalid: []resilient.InvalidParam{{Name: "limit", Reason: "too big"}},
	}).Error())
}

func TestStatusErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(429))
		resp, err := resilient.NewTransport(base, resilient.WithStatusErrors(true)).RoundTrip(get(t))
		require.Nil(t, resp)
		var apiErr *resilient.APIError
		require.ErrorAs(t, err, &apiErr)
		require.Equal(t, 429, apiErr.StatusCode)
		require.Equal(t, 4, apiErr.Attempts)
		require.Equal(t, "m", apiErr.Message)

		client := http.Client{Transport: resilient.NewTransport(newScript(answer(404)), resilient.WithStatusErrors(true))}
		_, err = client.Do(get(t))
		require.ErrorIs(t, err, resilient.ErrNotFound, "through *url.Error")
	})
}

const year = 365 * 24 * time.Hour

func TestRetryAfter(t *testing.T) {
	const date = "Thu, 01 Jan 2026 00:00:00 GMT"
	for _, tt := range []struct {
		name   string
		header []string
		want   time.Duration
		hinted bool
	}{
		{"seconds", []string{"Retry-After", "17"}, 17 * time.Second, true},
		{"zero", []string{"Retry-After", "0"}, 0, true},
		{"white space", []string{"Retry-After", " \t42 "}, 42 * time.Second, true},
		{"fraction", []string{"Retry-After", "1.5"}, 1500 * time.Millisecond, true},
		{"a fraction that floats cannot hold", []string{"Retry-After", "0.729"}, 729 * time.Millisecond, true},
		{"rounded up", []string{"Retry-After", "34.074824224"}, 34075 * time.Millisecond, true},
		{"negative", []string{"Retry-After", "-5"}, 0, false},
		{"plus", []string{"Retry-After", "+1"}, 0, false},
		{"exponent", []string{"Retry-After", "1e3"}, 0, false},
		{"hex", []string{"Retry-After", "0x10"}, 0, false},
		{"infinite", []string{"Retry-After", "Inf"}, 0, false},
		{"NaN", []string{"Retry-After", "NaN"}, 0, false},
		{"superscript", []string{"Retry-After", "²"}, 0, false},
		{"arabic digits", []string{"Retry-After", "١٢"}, 0, false},
		{"underscore", []string{"Retry-After", "1_000"}, 0, false},
		{"no digits after the dot", []string{"Retry-After", "1."}, 0, false},
		{"list", []string{"Retry-After", "120, 240"}, 0, false},
		{"word", []string{"Retry-After", "soon"}, 0, false},
		{"empty", []string{"Retry-After", ""}, 0, false},
		{"the first of two", []string{"Retry-After", "3", "Retry-After", "4"}, 3 * time.Second, true},
		{"overflow of int64 nanoseconds", []string{"Retry-After", "9223372037"}, year, true},
		{"20 digits", []string{"Retry-After", "99999999999999999999"}, year, true},
		{"64 KiB", []string{"Retry-After", strings.Repeat("9", 64<<10)}, 0, false},
		{"milliseconds first", []string{"Retry-After", "9", "Retry-After-Ms", "250"}, 250 * time.Millisecond, true},
		{"Azure's milliseconds", []string{"X-Ms-Retry-After-Ms", "40"}, 40 * time.Millisecond, true},
		{"bad milliseconds fall through", []string{"Retry-After-Ms", "x", "Retry-After", "2"}, 2 * time.Second, true},
		{"IMF date", []string{"Date", date, "Retry-After", "Thu, 01 Jan 2026 00:02:00 GMT"}, 2 * time.Minute, true},
		{"RFC 850 date", []string{"Date", date, "Retry-After", "Thursday, 01-Jan-26 00:02:00 GMT"}, 2 * time.Minute, true},
		{"asctime", []string{"Date", date, "Retry-After", "Thu Jan  1 00:02:00 2026"}, 2 * time.Minute, true},
		{"past date", []string{"Date", date, "Retry-After", "Wed, 31 Dec 2025 00:00:00 GMT"}, 0, true},
		{"year 9999", []string{"Date", date, "Retry-After", "Fri, 31 Dec 9999 00:00:00 GMT"}, year, true},
		{"no Date: our clock", []string{"Retry-After", "Sat, 01 Jan 2000 00:00:30 GMT"}, 30 * time.Second, true},
		{"a cached Date is old", []string{"Date", "Fri, 31 Dec 1999 00:00:00 GMT", "Age", "86400", "Retry-After", "Sat, 01 Jan 2000 00:00:30 GMT"}, 30 * time.Second, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // the clock starts at 2000-01-01
				base := newScript(answer(503, tt.header...))
				resp, err := resilient.NewTransport(base, resilient.WithMaxWait(0)).RoundTrip(post(t))
				require.NoError(t, err)
				apiErr, _ := resilient.ErrorFromResponse(resp)
				require.Equal(t, tt.want, apiErr.RetryAfter)
				require.NoError(t, resp.Body.Close())

				var r recorder
				resp, err = resilient.NewTransport(base, resilient.WithTrace(r.trace())).RoundTrip(post(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, tt.hinted, r.attempts[0].Verdict.Pause, "a 503 with a hint holds the key")
			})
		})
	}
}

func TestTransportErrors(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for _, tt := range []struct {
		name      string
		err       error
		edit      func(*http.Request)
		get, post int
	}{
		{"connection refused", refused, nil, 4, 4},
		{"proxy refused", &net.OpError{Op: "proxyconnect", Err: refused}, nil, 4, 4},
		{"reset", &net.OpError{Op: "read", Err: syscall.ECONNRESET}, nil, 4, 1},
		{"EOF", io.EOF, nil, 4, 1},
		{"unknown", errors.New("http2: client connection lost"), nil, 4, 1},
		{"DNS out of order", &net.OpError{Op: "dial", Err: &net.DNSError{IsTemporary: true}}, nil, 4, 4},
		{"no such host", &net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, nil, 1, 1},
		{"bad address", &net.OpError{Op: "dial", Err: &net.AddrError{}}, nil, 1, 1},
		{"unknown authority", &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, nil, 1, 1},
		{"bare unknown authority", x509.UnknownAuthorityError{}, nil, 1, 1},
		{"wrong host name", x509.HostnameError{Certificate: &x509.Certificate{}}, nil, 1, 1},
		{"expired", x509.CertificateInvalidError{}, nil, 1, 1},
		{"not TLS", tls.RecordHeaderError{}, nil, 1, 1},
		{"skip", http.ErrSkipAltProtocol, nil, 1, 1},
		{"canceled by the base", context.Canceled, nil, 1, 1},
		{"wrapped", &url.Error{Err: refused}, nil, 4, 4},
		{"unknown scheme", io.EOF, func(r *http.Request) { r.URL.Scheme = "ftp" }, 1, 1},
		{"no host", io.EOF, func(r *http.Request) { r.URL.Host = "" }, 1, 1},
		{"a length without a body", io.EOF, func(r *http.Request) { r.ContentLength = 1 }, 1, 1},
		{"bad method", io.EOF, func(r *http.Request) { r.Method = "B D" }, 1, 1},
		{"bad header name", io.EOF, func(r *http.Request) { r.Header["a b"] = nil }, 1, 1},
		{"bad header value", io.EOF, func(r *http.Request) { r.Header.Set("A", "b\nc") }, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for method, want := range map[string]int{"GET": tt.get, "POST": tt.post} {
					base := newScript(fails(tt.err))
					req := newRequest(t, method, "http://api.test/", "")
					if tt.edit != nil {
						tt.edit(req)
					}
					resp, err := resilient.NewTransport(base, unbounded()).RoundTrip(req)
					require.Nil(t, resp)
					require.ErrorIs(t, err, tt.err)
					require.Equal(t, want, base.count(), method)
					var retried *resilient.RetryError
					require.Equal(t, want > 1, errors.As(err, &retried), "wrapped only after more than one attempt")
				}
			})
		})
	}
}

func TestRealCertificateIsNotRetried(t *testing.T) {
	// A peer retried an untrusted certificate three times when used as a
	// RoundTripper, where the error is not inside a *url.Error.
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	defer srv.Close()
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	var r recorder
	_, err := resilient.NewTransport(base, resilient.WithTrace(r.trace())).
		RoundTrip(newRequest(t, http.MethodGet, srv.URL, ""))
	require.Error(t, err)
	require.Len(t, r.attempts, 1)
	require.Equal(t, "TLS", r.why(t))
}

func TestClassifier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The quota is used up for good, says the code, whatever the status.
		final := resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
			v := a.Verdict
			if a.APIError != nil && a.APIError.Code == "insufficient_quota" {
				v.Kind, v.Retry, v.Reason = resilient.KindPaymentRequired, false, "quota"
			}
			return v
		})
		base := newScript(answerWith(429, `{"code":"insufficient_quota"}`))
		var r recorder
		resp, err := resilient.NewTransport(base, final, resilient.WithTrace(r.trace()), resilient.WithStatusErrors(true)).RoundTrip(get(t))
		require.Nil(t, resp)
		require.ErrorIs(t, err, resilient.ErrPaymentRequired)
		require.Equal(t, 1, base.count())
		require.Equal(t, "quota", r.why(t))

		// It may also find a failure temporary, but not what succeeded.
		asked := 0
		conflict := resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
			asked++
			return resilient.Verdict{Kind: a.Verdict.Kind, Retry: true, RetryAfter: 3 * time.Second, Reason: "conflict"}
		})
		base = newScript(answer(409), answer(200))
		start := time.Now()
		resp, err = resilient.NewTransport(base, conflict, every(0)).RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 3*time.Second, time.Since(start))
		require.Equal(t, 1, asked)

		base = newScript(answer(409))
		resp, err = resilient.NewTransport(base, conflict, every(0)).RoundTrip(post(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 1, base.count(), "the method still counts, unless the verdict says Unprocessed")
	})
}

func FuzzErrorFromResponse(f *testing.F) {
	for _, seed := range []string{
		`{"code":"400","type":"INVALID_REQUEST_ERROR","message":"m","invalid":[{"name":"limit","reason":"r"}]}`,
		`{"code":12345678901234567890,"invalid":{"name":"a"}}`, `{"invalid":["x"]}`, `[[[[`, "\xef\xbb\xbf{}", `{"code":"c"} x`,
		`"s"`, `null`, `{"message":"\ud800\u0000\u202e"}`, `<html>`, ``, `{"CODE":1e400,"code":-0}`,
	} {
		f.Add(400, []byte(seed))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body))}
		e, ok := resilient.ErrorFromResponse(resp)
		require.Equal(t, status >= 400, ok)
		rest, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.True(t, bytes.Equal(body, rest), "every byte is still there")
		if !ok {
			return
		}
		require.Equal(t, status, e.StatusCode)
		require.NotZero(t, e.Kind)
		require.True(t, bytes.HasPrefix(body, e.Body))
		require.True(t, utf8.ValidString(e.Error()))
		require.Less(t, len(e.Error()), 4096)
		require.False(t, strings.ContainsFunc(e.Error(), func(r rune) bool { return !unicode.IsPrint(r) }))
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{
		"", "0", "1.5", "-1", "1e9", "NaN", "Inf", "0x1p4", "9223372037", "99999999999999999999", " 7 ", "1_0", "120, 240",
		"Thu, 01 Jan 2026 00:02:00 GMT", "Thursday, 01-Jan-26 00:02:00 GMT", "Thu Jan  1 00:02:00 2026", "Fri, 31 Dec 9999 23:59:59 GMT",
	} {
		f.Add(seed, seed, "Thu, 01 Jan 2026 00:00:00 GMT")
	}
	f.Fuzz(func(t *testing.T, value, ms, date string) {
		h := http.Header{"Retry-After": {value}, "Retry-After-Ms": {ms}, "Date": {date}}
		e, ok := resilient.ErrorFromResponse(&http.Response{StatusCode: 429, Header: h})
		require.True(t, ok)
		require.GreaterOrEqual(t, e.RetryAfter, time.Duration(0))
		require.LessOrEqual(t, e.RetryAfter, year)
		require.Zero(t, e.RetryAfter%time.Millisecond)
		if n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 31); err == nil && n < 946684800 && strings.Trim(ms, "0123456789. \t\r\n\v\f") != "" {
			require.Equal(t, min(time.Duration(n)*time.Second, year), e.RetryAfter)
		}
	})
}

func TestVerdictWithoutAReason(t *testing.T) {
	// An empty reason was taken for "go on": the call never ended.
	var r recorder
	base := newScript(answer(500))
	zero := resilient.WithClassifier(func(resilient.AttemptInfo) resilient.Verdict { return resilient.Verdict{} })
	resp, err := resilient.NewTransport(base, zero, resilient.WithTrace(r.trace())).RoundTrip(post(t))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 1, base.count())
	require.Equal(t, "classifier", r.why(t))
}

// backlink is a body that leads back to its response, as those of HTTP/2 do.
type backlink struct {
	io.Reader
	resp *http.Response
}

func (*backlink) Close() error { return nil }

func TestErrorResponsesAreLetGo(t *testing.T) {
	// What is known of a response held its body, that held the response, and so
	// none was ever freed.
	var alive atomic.Int32
	base := step(func(*http.Request) (*http.Response, error) {
		resp := &http.Response{StatusCode: 404, Header: http.Header{}}
		resp.Body = &backlink{strings.NewReader(`{"code":"c"}`), resp}
		alive.Add(1)
		runtime.AddCleanup(resp, func(n *atomic.Int32) { n.Add(-1) }, &alive)
		return resp, nil
	})
	transport := resilient.NewTransport(base)
	for range 100 {
		resp, err := transport.RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	require.Eventually(t, func() bool { runtime.GC(); return alive.Load() <= 5 }, 10*time.Second, time.Millisecond)
}

// TestOneResponseForAllCalls: a base that returns the same response again and
// again left a cleanup of the runtime's behind for each call.
func TestOneResponseForAllCalls(t *testing.T) {
	resp := &http.Response{StatusCode: 404, Header: http.Header{}, Body: http.NoBody}
	transport := resilient.NewTransport(stub{resp})
	req := get(t)
	objects := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapObjects
	}
	const calls = 20_000
	before := objects()
	for range calls {
		_, err := transport.RoundTrip(req)
		require.NoError(t, err)
	}
	require.Less(t, objects(), before+calls/2)
	apiErr, ok := resilient.ErrorFromResponse(resp)
	require.True(t, ok)
	require.Equal(t, 1, apiErr.Attempts)
}

func TestErrorFromResponseConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		base := step(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 404, Header: http.Header{}, Body: r, ContentLength: -1}, nil
		})
		resp, err := resilient.NewTransport(base).RoundTrip(get(t))
		require.NoError(t, err)
		go func() {
			for range 1000 {
				_, _ = w.Write([]byte(" "))
			}
			_, _ = w.Write([]byte(`{"code":"c"}`))
			_ = w.Close()
		}()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if e, ok := resilient.ErrorFromResponse(resp); !ok || e.Code != "c" {
					t.Errorf("got %+v, %v", e, ok)
				}
			})
		}
		wg.Wait()
		require.Len(t, readAll(t, resp), 1012)
	})
}

func TestErrorFromAResponseMadeOver(t *testing.T) {
	resp, err := resilient.NewTransport(newScript(answerWith(404, `{"code":"old"}`))).RoundTrip(get(t))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	resp.StatusCode, resp.Body = 402, io.NopCloser(strings.NewReader(`{"code":"new"}`))
	e, ok := resilient.ErrorFromResponse(resp)
	require.True(t, ok)
	require.Equal(t, "new", e.Code)
	require.ErrorIs(t, e, resilient.ErrPaymentRequired)
}
