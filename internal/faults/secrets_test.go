package faults_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/debugpage"
)

// secrets returns the secrets of a request, by their places. The password contains
// characters that have to be escaped in a URL.
func secrets() map[string]string {
	return map[string]string{
		"header":       "s3cr3t-header",
		"bearer token": "s3cr3t-bearer",
		"cookie":       "s3cr3t-cookie",
		"password":     "s3cr3t/pass word",
		"path":         "s3cr3t-path",
		"query":        "s3cr3t-query",
		"fragment":     "s3cr3t-fragment",
		"body":         "s3cr3t-body",
		"proxy":        "s3cr3t-proxy",
		"answer":       "s3cr3t-answer",
	}
}

// secretRequest returns a request that carries all secrets.
func secretRequest(tb testing.TB, method, target string) *http.Request {
	tb.Helper()
	s := secrets()
	req := newRequest(tb, method, target)
	req.URL = req.URL.JoinPath("key", s["path"])
	req.URL.User = url.UserPassword("user", s["password"])
	req.URL.RawQuery = "api_key=" + s["query"]
	req.URL.Fragment = s["fragment"]
	req.Header.Set("X-Api-Key", s["header"])
	req.Header.Set("Authorization", "Bearer "+s["bearer token"])
	req.Header.Set("Cookie", "session="+s["cookie"])
	if method == http.MethodPost {
		open := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(s["body"])), nil }
		req.Body, _ = open()
		req.GetBody = open
		req.ContentLength = int64(len(s["body"]))
	}
	return req
}

// requireNoSecret fails if text contains a secret, either plain or in the form it
// has in a URL or an Authorization header.
func requireNoSecret(tb testing.TB, text string) {
	tb.Helper()
	for where, secret := range secrets() {
		for _, form := range []string{
			secret, url.QueryEscape(secret), url.PathEscape(secret), url.UserPassword("user", secret).String(),
			base64.StdEncoding.EncodeToString([]byte("user:" + secret)), base64.StdEncoding.EncodeToString([]byte(secret)),
		} {
			require.NotContains(tb, text, form, "the %s", where)
		}
	}
}

// witness is a Trace that records all its arguments.
type witness struct {
	mu    sync.Mutex
	lines []string
	bases bool // includes the errors of the base
}

func (w *witness) write(v any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, fmt.Sprintf("%+v", v))
}

func (w *witness) option() resilient.Option {
	return resilient.WithTrace(&resilient.Trace{
		AttemptStart: func(a resilient.AttemptInfo) { w.write(a) },
		AttemptDone: func(a resilient.AttemptInfo) {
			if !w.bases {
				a.Err = nil
			}
			w.write(a)
			w.write(a.Verdict)
			if a.APIError != nil {
				w.write(a.APIError)
			}
		},
		Wait: func(i resilient.WaitInfo) { w.write(i) },
		Done: func(d resilient.DoneInfo) {
			if !w.bases {
				d.Err = nil
			}
			w.write(d)
		},
	})
}

// setup returns a base with which a request fails. It may change the request so that
// it fails.
type setup func(testing.TB, *http.Request) http.RoundTripper

// TestSecrets makes requests with secrets fail in every way. No secret appears in the
// log, an error, a trace or on the page.
func TestSecrets(t *testing.T) {
	status := func(code int, header ...string) setup {
		return func(testing.TB, *http.Request) http.RoundTripper {
			h := http.Header{"Set-Cookie": {secrets()["answer"]}, "Location": {"http://api.test/?" + secrets()["answer"]}}
			for i := 0; i < len(header); i += 2 {
				h.Set(header[i], header[i+1])
			}
			body := `{"code":"c","type":"T","message":"m","token":"` + secrets()["answer"] + `"}`
			return &answers{status: code, header: h, body: func() io.Reader { return strings.NewReader(body) }}
		}
	}
	// to sends the request to a real server.
	to := func(answer func(*net.TCPConn, int) bool) setup {
		return func(tb testing.TB, req *http.Request) http.RoundTripper {
			tb.Helper()
			req.URL.Host = strings.TrimPrefix(serveRaw(tb, answer).url, "http://")
			return newBase(tb)
		}
	}
	edited := func(edit func(*http.Request)) setup {
		return func(tb testing.TB, req *http.Request) http.RoundTripper {
			tb.Helper()
			edit(req)
			return newBase(tb)
		}
	}
	// through sends the request through a proxy that has a password.
	through := func(scheme, proxy string) setup {
		return func(tb testing.TB, req *http.Request) http.RoundTripper {
			tb.Helper()
			base := newBase(tb)
			if proxy == "" {
				proxy = serveRaw(tb, says("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")).url
			}
			u, err := url.Parse(proxy)
			require.NoError(tb, err)
			u.User = url.UserPassword("user", secrets()["proxy"])
			base.Proxy = http.ProxyURL(u)
			req.URL.Scheme = scheme
			return base
		}
	}
	always := func(err error) setup {
		return func(testing.TB, *http.Request) http.RoundTripper { return fails{err} }
	}
	echo := func(head string) setup {
		return func(tb testing.TB, req *http.Request) http.RoundTripper {
			tb.Helper()
			s := secrets()
			return to(says(head+"GET /?api_key="+s["query"]+" HTTP/1.1\r\nAuthorization Bearer "+s["bearer token"]+"\r\n\r\n"))(tb, req)
		}
	}
	notTLS := func(tb testing.TB, req *http.Request) http.RoundTripper {
		tb.Helper()
		req.URL.Scheme = "https"
		return to(says("HTTP/1.0 400 Bad Request\r\n\r\n"))(tb, req)
	}
	// A base may put the URL into its error in any form.
	spelled := func(tb testing.TB, req *http.Request) http.RoundTripper {
		tb.Helper()
		return fails{fmt.Errorf("%s %s (%s?api_key=%s) went wrong", req.Method, req.URL, req.URL.Path, secrets()["query"])}
	}
	inBase := &url.Error{Op: "Get", URL: "http://api.test/?" + secrets()["query"], Err: io.ErrUnexpectedEOF}

	for name, tt := range map[string]struct {
		base setup
		opts []resilient.Option
		own  bool // the base's error contains a secret, and is passed on unchanged
	}{
		"success":                  {base: status(200)},
		"redirect":                 {base: status(302)},
		"invalid request":          {base: status(400)},
		"payment required":         {base: status(402)},
		"authentication":           {base: status(403)},
		"not found":                {base: status(404)},
		"rate limited":             {base: status(429)},
		"rate limited, with hint":  {base: status(429, "Retry-After-Ms", "5")},
		"rate limited for an hour": {base: status(429, "Retry-After", "3600")},
		"server error":             {base: status(500)},
		"unavailable":              {base: status(503, "Retry-After-Ms", "5")},
		"status errors":            {base: status(500), opts: []resilient.Option{resilient.WithStatusErrors(true)}},
		"budget used up":           {base: status(500), opts: []resilient.Option{resilient.WithRetryBudget(0, 0), resilient.WithMaxAttempts(50)}},
		"rate limit refuses":       {base: status(500), opts: []resilient.Option{resilient.WithRateLimit(0.001, 1)}},
		"rate limit waits":         {base: status(500), opts: []resilient.Option{resilient.WithRateLimit(500, 1)}},
		"limiter refuses":          {base: status(500), opts: []resilient.Option{resilient.WithLimiter(rate.NewLimiter(1, 0))}},
		"classifier":               {base: status(500), opts: []resilient.Option{resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict { return a.Verdict })}},
		"idempotency key":          {base: status(500), opts: []resilient.Option{resilient.WithIdempotencyKey(func(*http.Request) string { return secrets()["header"] })}},
		"limit key":                {base: status(429, "Retry-After", "3600"), opts: []resilient.Option{resilient.WithLimitKey(func(*http.Request) string { return secrets()["header"] })}},
		"no answer":                {base: always(io.EOF)},
		"canceled by the base":     {base: always(context.Canceled)},
		"neither":                  {base: always(nil)},
		"refused":                  {base: edited(func(r *http.Request) { r.URL.Host = "127.0.0.1:1" })},
		"no such port":             {base: edited(func(r *http.Request) { r.URL.Host = "127.0.0.1:99999" })},
		"no host":                  {base: edited(func(r *http.Request) { r.URL.Host = "" })},
		"no URL":                   {base: edited(func(r *http.Request) { r.URL = nil })},
		"no header":                {base: edited(func(r *http.Request) { r.Header = nil })},
		"unknown scheme":           {base: edited(func(r *http.Request) { r.URL.Scheme = "gopher" })},
		"bad method":               {base: edited(func(r *http.Request) { r.Method = "A B" })},
		"bad header value":         {base: edited(func(r *http.Request) { r.Header.Set("X-Api-Key", secrets()["header"]+"\n") })},
		"bad header name":          {base: edited(func(r *http.Request) { r.Header["X Y"] = []string{secrets()["header"]} })},
		"body cannot be opened": {base: edited(func(r *http.Request) {
			r.URL.Host = "127.0.0.1:1"
			r.GetBody = func() (io.ReadCloser, error) { return nil, errors.New(secrets()["body"]) }
		})},
		"context ended": {base: edited(func(r *http.Request) {
			ctx, cancel := context.WithCancelCause(r.Context())
			cancel(errors.New("shutting down"))
			*r = *r.WithContext(ctx)
		})},
		"reset":                    {base: to(resets(""))},
		"closed":                   {base: to(says(""))},
		"cut in the body":          {base: to(says(bad + "Content-Length: 9\r\n\r\n"))},
		"bad chunk":                {base: to(says(bad + "Transfer-Encoding: chunked\r\n\r\nzz"))},
		"not HTTP":                 {base: to(says("SSH-2.0-OpenSSH_9.9\r\n"))},
		"attempt timeout":          {base: to(silent), opts: []resilient.Option{resilient.WithAttemptTimeout(20 * time.Millisecond)}},
		"not TLS":                  {base: notTLS},
		"certificate not trusted":  {base: untrusted},
		"proxy refused":            {base: through("https", "http://127.0.0.1:1")},
		"proxy refused, plain":     {base: through("http", "http://127.0.0.1:1")},
		"proxy wants a password":   {base: through("https", "")},
		"error with a URL":         {base: always(inBase), own: true},
		"error around a URL":       {base: always(fmt.Errorf("fetching a token: %w", inBase)), own: true},
		"error that spells a URL":  {base: spelled, own: true},
		"request echoed":           {base: echo(""), own: true},
		"request echoed as header": {base: echo(ok), own: true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				leaveNothing(t)
				req := secretRequest(t, method, "http://api.test/v1/people")
				base := tt.base(t, req)
				log, trace := &records{}, &witness{bases: !tt.own}
				client := newTransport(base, append(tt.opts, log.option(), trace.option())...)
				page := debugpage.Handler(client)

				resp, err := client.RoundTrip(req)

				require.NotEqual(t, resp == nil, err == nil)
				if resp != nil {
					require.NoError(t, resp.Body.Close())
					if apiErr, ok := resilient.ErrorFromResponse(resp); ok {
						err = apiErr
					}
				}
				requireNoSecret(t, strings.Join(log.values, "\n"))
				requireNoSecret(t, log.text.String())
				requireNoSecret(t, log.json.String())
				requireNoSecret(t, strings.Join(trace.lines, "\n"))
				if name != "limit key" { // limit keys are shown unchanged
					requireNoSecret(t, look(t, page))
				}
				if err != nil && !tt.own {
					requireNoSecret(t, everyText(err))
				}
				if _, ok := errors.AsType[*resilient.RetryError](err); ok && !strings.HasPrefix(name, "request echoed") {
					requireNoSecret(t, err.Error()) // an error of this module, unless it quotes data of a server
				}
				if req.URL != nil && req.Header != nil {
					require.NotEmpty(t, log.values)
					require.NotEmpty(t, trace.lines)
					require.Contains(t, look(t, page), "/key/***", "the path is there, without its secret")
				}
			}
		})
	}
}

// look returns the page, and the page of the first call.
func look(tb testing.TB, page http.Handler) string {
	tb.Helper()
	var text strings.Builder
	for _, query := range []string{"/", "/?call=1"} {
		w := httptest.NewRecorder()
		page.ServeHTTP(w, httptest.NewRequestWithContext(tb.Context(), http.MethodGet, query, nil))
		text.WriteString(html.UnescapeString(w.Body.String()))
	}
	return text.String()
}

// untrusted sends the request to a server of another authority.
func untrusted(tb testing.TB, req *http.Request) http.RoundTripper {
	tb.Helper()
	l := tls.NewListener(listen(tb), &tls.Config{Certificates: []tls.Certificate{newAuthority(tb).issue(tb, nil)}})
	srv := &http.Server{ReadHeaderTimeout: patience, ErrorLog: quiet}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	tb.Cleanup(func() { _ = srv.Close(); wg.Wait() })
	req.URL.Scheme, req.URL.Host = "https", l.Addr().String()
	return newAuthority(tb).trusted(tb)
}

// everyText returns the text of err and of every error in it.
func everyText(err error) string {
	if err == nil {
		return ""
	}
	text := []string{fmt.Sprintf("%v\n%+v\n%q", err, err, err)}
	switch err := err.(type) { //nolint:errorlint // it unwraps the errors itself
	case interface{ Unwrap() error }:
		text = append(text, everyText(err.Unwrap()))
	case interface{ Unwrap() []error }:
		for _, inner := range err.Unwrap() {
			text = append(text, everyText(inner))
		}
	}
	return strings.Join(text, "\n")
}

// TestSecretsSearchFinds shows that the search above finds secrets, because a test
// that cannot fail shows nothing.
func TestSecretsSearchFinds(t *testing.T) {
	rec := &records{}
	logger := slog.New(rec)
	for where, secret := range secrets() {
		logger.Info("m", "k", secret)
		require.Contains(t, strings.Join(rec.values, "\n"), secret, where)
		require.Contains(t, rec.text.String(), secret, where)
		require.Contains(t, everyText(fmt.Errorf("outer: %w", errors.Join(io.EOF, errors.New(secret)))), secret, where)
	}
	req := secretRequest(t, http.MethodPost, "http://api.test/")
	all := req.URL.String() + fmt.Sprint(req.Header)
	body, err := io.ReadAll(req.Body)
	require.NoError(t, err)
	for _, where := range slices.Collect(maps.Keys(secrets())) {
		secret := secrets()[where]
		if where == "proxy" || where == "answer" {
			continue // not in the request
		}
		if where == "password" {
			secret = url.UserPassword("user", secret).String()
		}
		require.Contains(t, all+string(body), secret, "the request carries the %s", where)
	}
}

// TestSecretsInTheClientsError shows the only exception, which is in the package
// documentation: http.Client wraps each error in a *url.Error, which contains the
// path and the query.
func TestSecretsInTheClientsError(t *testing.T) {
	leaveNothing(t)
	client := &http.Client{Transport: newTransport(fails{io.EOF})}
	_, err := client.Do(secretRequest(t, http.MethodPost, "http://api.test/"))
	var outer *url.Error
	require.ErrorAs(t, err, &outer)
	require.Contains(t, outer.Error(), secrets()["query"], "if it is gone, the package doc should not say so")
	requireNoSecret(t, everyText(outer.Err))
	for where, secret := range secrets() {
		if where != "query" && where != "fragment" && where != "path" {
			require.NotContains(t, outer.Error(), secret, where)
			require.NotContains(t, outer.Error(), url.PathEscape(secret), where)
		}
	}
}
