package resilient_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

// secretPaths are paths that are credentials, as bots and webhooks have them,
// each with the part that must not be shown.
func secretPaths() map[string]string {
	return map[string]string{
		"/bot110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/getUpdates": "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw",
		"/services/T00/B00/XXXX":                             "XXXX",
		"/api/webhooks/223704706495545344/dQw4w9WgXcQ":       "dQw4w9WgXcQ",
		"/hooks/catch/123456/abc123x/":                       "abc123x",
		"/trigger/door/with/key/hunter2":                     "hunter2",
		"/password/reset/hunter2":                            "hunter2",
		"/v1/sk-proj-Ab3dEf6hIj9kLm2nOp5q/x":                 "Ab3dEf6hIj9kLm2nOp5q",
		"/f81d4fae-7dec-11d0-a765-00a0c91e6bf6":              "f81d4fae",
		"/integration/0123456789abcdef0123456789abcdef/test": "0123456789abcdef",
	}
}

// everything returns what a Transport with these options writes to a log and
// tells hooks in a call that has a refusal, a wait, an error and a success, and
// the texts of its errors.
func everything(t *testing.T, target string, opts ...resilient.Option) string {
	t.Helper()
	var out bytes.Buffer
	show := func(path, kind string) { fmt.Fprintln(&out, kind, path) }
	opts = append([]resilient.Option{
		every(time.Second),
		resilient.WithLogger(slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))),
		resilient.WithTrace(&resilient.Trace{
			AttemptStart: func(a resilient.AttemptInfo) { show(a.Path, "start") },
			AttemptDone:  func(a resilient.AttemptInfo) { show(a.Path, "attempt") },
			Wait:         func(w resilient.WaitInfo) { show(w.Path, "wait") },
			Done:         func(d resilient.DoneInfo) { show(d.Path, "done") },
		}),
	}, opts...)
	inBase := func(u string) error {
		return fmt.Errorf("custom base: GET %s: %w", u, &url.Error{Op: "Get", URL: u, Err: fmt.Errorf("lost %q and %s", u, u)})
	}
	for _, steps := range [][]step{
		{answer(429), answer(200)},
		{answer(503), fails(inBase(target)), answer(200)},
		{fails(errors.New("no answer to " + target))},
		{fails(io.EOF)},
	} {
		resp, err := resilient.NewTransport(newScript(steps...), opts...).RoundTrip(newRequest(t, http.MethodGet, target, ""))
		if err != nil {
			_, ok := errors.AsType[*resilient.RetryError](err)
			require.True(t, ok)
			fmt.Fprintln(&out, "error", err)
			continue
		}
		require.NoError(t, resp.Body.Close())
	}
	return out.String()
}

// The path of a request may be a credential. No secret in one is in the log, in
// what hooks are told, or in the texts of errors.
func TestNoSecretsInPaths(t *testing.T) {
	for path, secret := range secretPaths() {
		synctest.Test(t, func(t *testing.T) {
			target := "https://user:hunter2@api.test" + path + "?key=hunter2"
			shown := everything(t, target)
			require.NotContains(t, shown, secret)
			require.NotContains(t, shown, "hunter2")
			require.Contains(t, shown, "***")
			for _, kind := range []string{"start ", "attempt ", "wait ", "done "} {
				require.Contains(t, shown, kind+"/")
			}
			require.Contains(t, shown, "error resilient: gave up")

			search := everything(t, target, resilient.WithLogPath(func(req *http.Request) string { return req.URL.Path }))
			require.Contains(t, search, secret, "the search would find it")
		})
	}
}

func TestLogPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const target = "https://api.test/v1/users/507f1f77bcf86cd799439011/orders"
		require.Contains(t, everything(t, target), `"path":"/v1/users/***/orders"`, "the default")

		calls := 0
		template := resilient.WithLogPath(func(req *http.Request) string {
			calls++
			require.Equal(t, target, req.URL.String())
			return "/v1/users/{id}/orders"
		})
		shown := everything(t, target, template)
		require.Equal(t, 4, calls, "once for each call")
		require.Contains(t, shown, `"path":"/v1/users/{id}/orders"`)
		require.NotContains(t, shown, `"path":"/v1/users/***`)
		require.Equal(t, strings.Count(shown, "\nstart "), strings.Count(shown, "\nstart /v1/users/{id}/orders"))

		// For one request, and without a hook of its own.
		var out bytes.Buffer
		transport := resilient.NewTransport(newScript(answer(200), answer(200)), resilient.WithLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))))
		req := newRequest(t, http.MethodGet, target, "")
		for _, ctx := range []*http.Request{req, req.WithContext(resilient.ContextWithOptions(t.Context(), template))} {
			resp, err := transport.RoundTrip(ctx)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		require.Contains(t, out.String(), "path=/v1/users/***/orders")
		require.Contains(t, out.String(), "path=/v1/users/{id}/orders")
	})
	require.PanicsWithValue(t, "resilient: WithLogPath must be not nil, got nil", func() { resilient.WithLogPath(nil) })
}

// Nobody is told the path of a request without hooks, so it is not looked at.
func TestLogPathWithoutHooks(t *testing.T) {
	asked := false
	f := resilient.WithLogPath(func(*http.Request) string {
		asked = true
		return "/x"
	})
	resp, err := resilient.NewTransport(newScript(answer(404)), f).RoundTrip(get(t))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.False(t, asked)

	resp, err = resilient.NewTransport(newScript(answer(404)), f, resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
		require.Equal(t, "/x", a.Path, "a Classifier may write a log too")
		return a.Verdict
	})).RoundTrip(get(t))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.True(t, asked)

	// The hooks of AddTrace see the path also if the Transport is its zero value.
	transport := &resilient.Transport{}
	var r recorder
	transport.AddTrace(r.trace())
	req := newRequest(t, http.MethodGet, "gopher://api.test/key/hunter2", "")
	_, err = transport.RoundTrip(req)
	require.Error(t, err)
	require.Len(t, r.done, 1)
	require.Equal(t, "/key/***", r.done[0].Path)
}

// The error of a caller's Limiter may have a URL in it, as that of a store has.
func TestLimitErrorTextHasNoSecrets(t *testing.T) {
	err := &resilient.LimitError{Reason: "limiter", Err: errors.New("dial redis://user:hunter2@redis.test:6379/0?key=hunter2: refused")}
	require.Equal(t, "resilient: not sent: the client-side limiter does not let the request go in time: "+
		"dial redis://redis.test:6379/0: refused", err.Error())
}

// A path without a secret is told to hooks without an allocation.
func TestLogPathAllocatesNothing(t *testing.T) {
	allocs := func(target string, opts ...resilient.Option) float64 {
		req := newRequest(t, http.MethodGet, target, "")
		transport := resilient.NewTransport(noAnswer{}, append(opts, resilient.WithMaxAttempts(1))...)
		return testing.AllocsPerRun(100, func() { _, _ = transport.RoundTrip(req) })
	}
	hooks := resilient.WithTrace(&resilient.Trace{AttemptDone: func(resilient.AttemptInfo) {}})
	require.InDelta(t, allocs("https://api.test/v1/people/550e8400-e29b-41d4-a716-446655440000", hooks),
		allocs("https://api.test/", hooks), 0.5)
}

// noAnswer is a base that allocates nothing.
type noAnswer struct{}

func (noAnswer) RoundTrip(*http.Request) (*http.Response, error) { return nil, io.EOF }
