package resilient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/resumed"
	"github.com/resilienthttp/resilient/resilienttest"
)

// TestTrace: the hooks are told of every attempt, wait and call, once each.
func TestTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		base := newScript(answer(503), answer(429, "Retry-After", "7", "X-Request-Id", "r2"), fails(io.EOF), answer(200))
		transport := resilient.NewTransport(base, every(0), resilient.WithTrace(r.trace()))
		req := get(t)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())

		require.Equal(t, 4, r.starts)
		require.Len(t, r.attempts, 4)
		for i, a := range r.attempts {
			require.Equal(t, i+1, a.Attempt)
			require.Same(t, req, a.Request)
		}
		require.Equal(t, 503, r.attempts[0].StatusCode)
		require.Equal(t, "temporary status", r.attempts[0].Verdict.Reason)
		require.Equal(t, "r2", r.attempts[1].APIError.RequestID)
		require.Equal(t, 2, r.attempts[1].APIError.Attempts)
		require.True(t, r.attempts[1].Verdict.Unprocessed)
		require.Equal(t, io.EOF, r.attempts[2].Err)
		require.Equal(t, 200, r.attempts[3].StatusCode)
		require.Equal(t, []resilient.WaitInfo{{Request: req, Path: req.URL.Path, Attempt: 3, Reason: "retry-after", Duration: 7 * time.Second}}, r.waits)
		require.Equal(t, []resilient.DoneInfo{{
			Request: req, Path: req.URL.Path, Attempts: 4, StatusCode: 200, Reason: "success", Duration: 7 * time.Second, Body: true,
		}}, r.done)
		require.Equal(t, []resilient.BodyInfo{{Request: req, Path: req.URL.Path, StatusCode: 200}}, r.bodies, "it was closed unread")
	})
}

func TestAddTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var own, first, second, one recorder
		transport := resilient.NewTransport(newScript(answer(200)), resilient.WithTrace(own.trace()))
		callers(t, transport, 1)
		transport.AddTrace(first.trace())
		callers(t, transport, 1)
		transport.AddTrace(second.trace())
		ctx := resilient.ContextWithOptions(t.Context(), resilient.WithTrace(one.trace()))
		resp, err := transport.RoundTrip(get(t).WithContext(ctx))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Len(t, own.done, 3)
		require.Len(t, first.done, 2, "from then on")
		require.Len(t, second.done, 1)
		require.Len(t, one.done, 1, "the request's own hooks are called too")
	})
}

// TestLogger: the records of a call, word for word. No header value, userinfo,
// query or body is in them.
func TestLogger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
			Level: slog.LevelDebug,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			},
		}))
		base := newScript(
			answerWith(429, `{"code":"c\u001b[31m","type":"RATE","message":"secret-message"}`, "Retry-After", "2", "Set-Cookie", "secret-cookie"),
			fails(&url.Error{Op: "Get", URL: "http://api.test/?k=secret-query", Err: fmt.Errorf("oauth2: %w", &url.Error{URL: "http://secret-query", Err: errors.New("reset")})}),
			answer(200))
		transport := resilient.NewTransport(base, every(0), resilient.WithLogger(slog.Default()), resilient.WithLogger(logger))
		req := newRequest(t, http.MethodGet, "http://user:secret-pass@api.test/v1?key=secret-query", "")
		req.Header.Set("Authorization", "Bearer secret-token")
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())

		const where = ` method=GET host=api.test path=/v1`
		require.Equal(t, strings.Join([]string{
			`level=DEBUG msg="attempt started"` + where + ` attempt=1`,
			`level=INFO msg="attempt done"` + where + ` attempt=1 status=429 duration=0s why="rate limited" kind="rate limit" type=RATE code="c [31m" request_id=""`,
			`level=INFO msg=waiting` + where + ` attempt=2 reason=retry-after duration=2s`,
			`level=DEBUG msg="attempt started"` + where + ` attempt=2`,
			`level=INFO msg="attempt done"` + where + ` attempt=2 status=0 duration=0s why="no response" error=reset`,
			`level=DEBUG msg="attempt started"` + where + ` attempt=3`,
			`level=DEBUG msg="attempt done"` + where + ` attempt=3 status=200 duration=0s why=success`,
			`level=INFO msg="call done"` + where + ` attempts=3 status=200 duration=2s why=success`,
			`level=DEBUG msg="body done"` + where + ` status=200 bytes=0 duration=0s`,
			``,
		}, "\n"), out.String())
		require.NotContains(t, out.String(), "secret")
	})
}

// The table in the documentation of WithLogger is what people write their
// queries and alerts from.
func TestLoggerWritesWhatIsDocumented(t *testing.T) {
	source, err := parser.ParseFile(token.NewFileSet(), "option.go", nil, parser.ParseComments)
	require.NoError(t, err)
	var documented []string
	for _, decl := range source.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Name.Name != "WithLogger" {
			continue
		}
		for line := range strings.Lines(f.Doc.Text()) {
			if row, ok := strings.CutPrefix(line, "\t"); ok && !strings.HasPrefix(row, "message") {
				column := regexp.MustCompile(` {2,}`).Split(strings.TrimSpace(row), -1)
				require.Len(t, column, 3, row)
				documented = append(documented, column[0]+" | "+column[1]+" | method, host, path, "+column[2])
			}
		}
	}

	var mu sync.Mutex
	written := map[string]bool{}
	logger := slog.New(recordHandler(func(r slog.Record) {
		mu.Lock()
		defer mu.Unlock()
		var attrs []string
		r.Attrs(func(a slog.Attr) bool {
			attrs = append(attrs, a.Key)
			return true
		})
		written[r.Message+" | "+strings.ToLower(r.Level.String())+" | "+strings.Join(attrs, ", ")] = true
	}))
	synctest.Test(t, func(t *testing.T) {
		for _, base := range []*resilienttest.Script{
			newScript(answer(200)),
			newScript(answer(500), fails(io.EOF), answer(200)),
			newScript(answer(404)),
			newScript(fails(errors.New("no"))),
			newScript(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Body: io.NopCloser(failingReader{errors.New("no")})}, nil
			}),
		} {
			for _, ctx := range []context.Context{t.Context(), resumed.With(t.Context(), 1)} {
				resp, err := resilient.NewTransport(base, resilient.WithLogger(logger)).RoundTrip(get(t).WithContext(ctx))
				if err == nil {
					_, _ = io.ReadAll(resp.Body)
					_ = resp.Body.Close()
				}
			}
		}
		refuses := answer(429, "Retry-After", "1")
		limited := newScript(refuses, refuses, refuses, answer(200))
		callers(t, resilient.NewTransport(limited, resilient.WithLogger(logger)), 4)
	})
	require.ElementsMatch(t, documented, slices.Collect(maps.Keys(written)))
}

// A port that echoes made net/http put the request line, query and all, into
// its error, and so into the log.
func TestLoggerLeavesOutWhatIsQuoted(t *testing.T) {
	for _, tt := range []struct {
		text, want string
		why        string
	}{
		{`malformed HTTP status code "/?key=secret"`, `malformed HTTP status code ""`, "what was sent is quoted"},
		{`bad "secret \" secret" and "secret\\", closed`, `bad "" and "", closed`, "an escaped quote ends nothing"},
		{`cut "secret`, `cut "`, "a quotation may be cut short"},
		{`ends in "\`, `ends in "`, "in the middle of an escape too"},
		{`no quote \`, `no quote \`, "a backslash means nothing outside"},
	} {
		var log struct {
			Error string `json:"error"`
		}
		var out bytes.Buffer
		logger := slog.New(slog.NewJSONHandler(&out, nil))
		_, err := resilient.NewTransport(newScript(fails(errors.New(tt.text))),
			resilient.WithMaxAttempts(1), resilient.WithLogger(logger)).RoundTrip(get(t))
		require.EqualError(t, err, tt.text, "the error itself is the base's own")
		require.NoError(t, json.NewDecoder(&out).Decode(&log))
		require.Equal(t, tt.want, log.Error, tt.why)
	}
}

// A final 404 was two warnings, one of the attempt and one of the call.
func TestLogLevelIsThatOfTheConsequence(t *testing.T) {
	quiet := resilient.WithLogLevel(func(d resilient.DoneInfo) slog.Level {
		if d.StatusCode == http.StatusNotFound {
			return slog.LevelInfo
		}
		return slog.LevelError
	})
	for _, tt := range []struct {
		base  *resilienttest.Script
		opt   resilient.Option
		level slog.Level
		want  []string
		why   string
	}{
		{newScript(answer(200)), nil, slog.LevelInfo, nil, "nothing happened"},
		{newScript(answerWith(404, `{"code":"gone"}`)), nil, slog.LevelWarn, []string{"WARN call done 404 gone"}, "one failure is one warning, which says all"},
		{newScript(answer(500), answer(200)), nil, slog.LevelWarn, nil, "the retry has mended it"},
		{newScript(answer(404)), quiet, slog.LevelWarn, nil, "the level is the caller's to choose"},
		{newScript(answer(400)), quiet, slog.LevelWarn, []string{"ERROR call done 400 Bad Request"}, "for each outcome"},
		{newScript(func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		}), nil, slog.LevelWarn, nil, "a caller who gives up knows it"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var got []string
			logger := slog.New(recordHandler(func(r slog.Record) {
				if r.Level < tt.level {
					return
				}
				line := r.Level.String() + " " + r.Message
				r.Attrs(func(a slog.Attr) bool {
					if a.Key == "status" || a.Key == "code" {
						line += " " + a.Value.String()
					}
					return true
				})
				got = append(got, line)
			}))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			time.AfterFunc(time.Minute, cancel)
			resp, err := resilient.NewTransport(tt.base, every(0), tt.opt, resilient.WithLogger(logger)).RoundTrip(get(t).WithContext(ctx))
			if err == nil {
				require.NoError(t, resp.Body.Close())
			}
			require.Equal(t, tt.want, got, tt.why)
		})
	}
}

// A package above that sends a request twice says so in the context: hooks and the log
// tell the second call from one that is new.
func TestResendsAreSeen(t *testing.T) {
	var attempts []resilient.AttemptInfo
	var done resilient.DoneInfo
	var out bytes.Buffer
	ctx := resilient.ContextWithOptions(t.Context(), resilient.WithResend(2, "new token"))
	ctx = resilient.ContextWithOptions(ctx, resilient.WithResend(1, "hedge"), resilient.WithTrace(&resilient.Trace{
		AttemptStart: func(a resilient.AttemptInfo) { attempts = append(attempts, a) },
		AttemptDone:  func(a resilient.AttemptInfo) { attempts = append(attempts, a) },
		Done:         func(d resilient.DoneInfo) { done = d },
	}))
	resp, err := resilient.NewTransport(newScript(answer(503), answer(200)), every(0),
		resilient.WithLogger(slog.New(slog.NewTextHandler(&out, nil)))).RoundTrip(get(t).WithContext(ctx))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Len(t, attempts, 4)
	for _, a := range attempts {
		require.Equal(t, 3, a.Resends, "the numbers of several packages add up")
		require.Equal(t, "hedge", a.ResendReason)
	}
	require.Equal(t, 3, done.Resends)
	require.Equal(t, "hedge", done.ResendReason)
	require.Contains(t, out.String(), "resends=3 resend_reason=hedge")
}

// secretPath is a path that is a credential, as bots and webhooks have them, and
// the part of it that must not be shown.
type secretPath struct{ path, secret string }

func secretPaths() []secretPath {
	return []secretPath{
		{"/bot110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/getUpdates", "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"},
		{"/services/T00/B00/XXXX", "XXXX"},
		{"/api/webhooks/223704706495545344/dQw4w9WgXcQ", "dQw4w9WgXcQ"},
		{"/hooks/catch/123456/abc123x/", "abc123x"},
		{"/trigger/door/with/key/hunter2", "hunter2"},
		{"/password/reset/hunter2", "hunter2"},
		{"/v1/sk-proj-Ab3dEf6hIj9kLm2nOp5q/x", "Ab3dEf6hIj9kLm2nOp5q"},
		{"/f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "f81d4fae"},
		{"/integration/0123456789abcdef0123456789abcdef/test", "0123456789abcdef"},
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

// TestNoSecretsInPaths: the path of a request may be a credential. No secret in
// one is in the log, in the infos of hooks, or in the texts of errors.
func TestNoSecretsInPaths(t *testing.T) {
	for _, tt := range secretPaths() {
		synctest.Test(t, func(t *testing.T) {
			target := "https://user:hunter2@api.test" + tt.path + "?key=hunter2"
			shown := everything(t, target)
			require.NotContains(t, shown, tt.secret)
			require.NotContains(t, shown, "hunter2")
			require.Contains(t, shown, "***")
			for _, kind := range []string{"start ", "attempt ", "wait ", "done "} {
				require.Contains(t, shown, kind+"/")
			}
			require.Contains(t, shown, "error resilient: gave up")

			search := everything(t, target, resilient.WithLogPath(func(req *http.Request) string { return req.URL.Path }))
			require.Contains(t, search, tt.secret, "the search would find it")
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
