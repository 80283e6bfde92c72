package debugpage_test

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"html"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/debugpage"
	"github.com/resilienthttp/resilient/profile"
	"github.com/resilienthttp/resilient/resilienttest"
)

const people = "https://api.example.com/v1/people"

// noJitter waits for exactly as long as the server asks for.
func noJitter() resilient.Option {
	return resilient.WithBackOff(func() backoff.BackOff { return new(backoff.ZeroBackOff) })
}

var (
	tags      = regexp.MustCompile(`<[^>]*>`)
	sentences = regexp.MustCompile(`<p class="why">(.*?)</p>`)
)

// text returns the visible text of a part of a page.
func text(s string) string {
	return strings.ReplaceAll(html.UnescapeString(tags.ReplaceAllString(s, "")), "\u00a0", " ")
}

// said returns the sentences of a page.
func said(tb testing.TB, h http.Handler, query string) []string {
	tb.Helper()
	var all []string
	for _, match := range sentences.FindAllStringSubmatch(body(tb, get(tb, h, query)), -1) {
		all = append(all, text(match[1]))
	}
	return all
}

// sleepLimiter lets requests go after d. announce controls whether it announces the
// wait.
type sleepLimiter struct {
	d        time.Duration
	announce bool
}

func (l sleepLimiter) Wait(ctx context.Context) error {
	if l.announce {
		resilient.ReportWait(ctx, l.d)
	}
	timer := time.NewTimer(l.d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A new user can find out from the page alone why a call took five seconds.
func TestWhyACallTookFiveSeconds(t *testing.T) {
	status := resilienttest.Status
	late := func(status int, d time.Duration, header ...string) resilienttest.Answer {
		a := resilienttest.Status(status, header...)
		a.Delay = d
		return a
	}
	const ms = time.Millisecond
	for _, test := range []struct {
		name    string
		method  string // GET
		opts    []resilient.Option
		answers []resilienttest.Answer
		before  int           // calls that go first
		timeout time.Duration // of the caller
		cancel  time.Duration
		want    string
	}{
		{
			name: "the server asked for it", opts: []resilient.Option{noJitter()},
			answers: []resilienttest.Answer{late(503, 12*ms, "Retry-After", "5"), late(200, 20*ms)},
			want: "5.0 s: attempt 1 got 503 (SERVER_ERROR) after 12 ms, waited 5.0 s because the server asked for 5.0 s, " +
				"and jitter (retry-after), attempt 2 got 200 after 20 ms.",
		},
		{
			name: "backoff", opts: []resilient.Option{every(2500 * ms)},
			answers: []resilienttest.Answer{late(500, 10*ms), late(502, 10*ms), late(200, 10*ms)},
			want: "5.0 s: attempt 1 got 500 (SERVER_ERROR) after 10 ms, waited 2.5 s before trying again (backoff), " +
				"attempt 2 got 502 (SERVER_ERROR) after 10 ms, waited 2.5 s before trying again (backoff), attempt 3 got 200 after 10 ms.",
		},
		{
			name: "its own rate limit", opts: []resilient.Option{resilient.WithRateLimit(0.2, 1)},
			answers: []resilienttest.Answer{status(200)}, before: 1,
			want: "5.0 s: waited 5.0 s because WithRateLimit allows 0.2 a second (rate limit), attempt 1 got 200 after 0 ms.",
		},
		{
			name: "others were refused", opts: []resilient.Option{resilient.WithMaxAttempts(1)},
			answers: []resilienttest.Answer{
				status(429, "Retry-After", "8"), status(429, "Retry-After", "8"), status(429, "Retry-After", "8"), late(200, 3*ms),
			}, before: 3,
			want: "2.0 s: waited 2.0 s of 8.0 s because the server refused GET /v1/people and asked to wait for another 8.0 s " +
				"(pause: 2 of 2 attempts were refused), attempt 1 got 200 after 3.0 ms.",
		},
		{
			name: "a limiter that does not announce its waits", opts: []resilient.Option{resilient.WithLimiter(sleepLimiter{5 * time.Second, false})},
			answers: []resilienttest.Answer{late(200, 7*ms)},
			want:    "5.0 s: waited 5.0 s for the limiter of the program (limiter), attempt 1 got 200 after 7.0 ms.",
		},
		{
			name: "a limiter that announces its waits", opts: []resilient.Option{resilient.WithLimiter(sleepLimiter{5 * time.Second, true})},
			answers: []resilienttest.Answer{late(200, 7*ms)},
			want:    "5.0 s: waited 5.0 s for the limiter of the program (limiter), attempt 1 got 200 after 7.0 ms.",
		},
		{
			name: "the server is slow", answers: []resilienttest.Answer{late(200, 5*time.Second)},
			want: "5.0 s: attempt 1 got 200 after 5.0 s.",
		},
		{
			name: "no answer in time", opts: []resilient.Option{resilient.WithAttemptTimeout(5 * time.Second), noJitter()},
			answers: []resilienttest.Answer{late(200, time.Minute), late(200, 2*ms)},
			want: "5.0 s: attempt 1 got no response (resilient: no response headers after 5s) after 5.0 s, " +
				"attempt 2 got 200 after 2.0 ms.",
		},
		{
			name: "an error body that takes its time", opts: []resilient.Option{noJitter()},
			answers: []resilienttest.Answer{{Status: 500, BodyDelay: 900 * ms}, late(200, 2*ms)},
			want: "902 ms: attempt 1 got 500 (SERVER_ERROR) after 0 ms, 900 ms went by in between " +
				"(an error body was read, or a hook or a limiter took its time), attempt 2 got 200 after 2.0 ms.",
		},
		{
			name: "out of attempts", opts: []resilient.Option{every(5 * time.Second), resilient.WithMaxAttempts(2)},
			answers: []resilienttest.Answer{status(500)},
			want: "5.0 s: attempt 1 got 500 (SERVER_ERROR) after 0 ms, waited 5.0 s before trying again (backoff), " +
				"attempt 2 got 500 (SERVER_ERROR) after 0 ms. Not tried again: no attempts were left (out of attempts).",
		},
		{
			name: "a POST that may have been processed", method: http.MethodPost,
			answers: []resilienttest.Answer{late(500, 5*time.Second)},
			want: "5.0 s: attempt 1 got 500 (SERVER_ERROR) after 5.0 s. Not tried again: a POST may have been processed, " +
				"and is not sent twice (not idempotent).",
		},
		{
			name: "a final status", answers: []resilienttest.Answer{late(404, 9*ms)},
			want: "9.0 ms: attempt 1 got 404 (NOT_FOUND_ERROR) after 9.0 ms. Not tried again: another attempt would get the same answer (final status).",
		},
		{
			name: "a wait that is too long", answers: []resilienttest.Answer{late(429, 9*ms, "Retry-After", "7200")},
			want: "9.0 ms: attempt 1 got 429 (RATE_LIMIT_ERROR) after 9.0 ms. Not tried again: the server asked for 2 h, " +
				"which is longer than WithMaxWait allows (max wait).",
		},
		{
			name: "a wait that is longer than the deadline", timeout: time.Minute,
			opts:    []resilient.Option{resilient.WithMaxWait(time.Hour)},
			answers: []resilienttest.Answer{late(429, 9*ms, "Retry-After", "90")},
			want: "9.0 ms: attempt 1 got 429 (RATE_LIMIT_ERROR) after 9.0 ms. Not tried again: the server asked for 1 min 30 s, " +
				"which would outlast the deadline of the caller (deadline).",
		},
		{
			name: "the caller gave up", cancel: time.Second, opts: []resilient.Option{noJitter()},
			answers: []resilienttest.Answer{status(503, "Retry-After", "5")},
			want: "1.0 s: attempt 1 got 503 (SERVER_ERROR) after 0 ms, waited 1.0 s of 5.0 s because the server asked for 5.0 s, " +
				"and jitter (retry-after). The caller gave up: its context ended (canceled).",
		},
		{
			name: "refused by its own limit", opts: []resilient.Option{resilient.WithRateLimit(0.01, 1)},
			answers: []resilienttest.Answer{status(200)}, before: 1, timeout: time.Minute,
			want: "0 ms: no attempt was made. Nothing was sent: it would have had to wait for 1 min 40 s, longer than WithMaxWait " +
				"or its deadline allows, because WithRateLimit allows 0.01 a second (limited).",
		},
		{
			name: "refused by the limiter of the program", opts: []resilient.Option{resilient.WithLimiter(brokenLimiter{})},
			answers: []resilienttest.Answer{status(200)},
			want:    "0 ms: no attempt was made. Nothing was sent: the limiter refused it (limited).",
		},
		{
			name:    "its turn did not come",
			opts:    []resilient.Option{resilient.WithLimiter(sleepLimiter{time.Minute, true}), resilient.WithMaxWait(5 * time.Second)},
			answers: []resilienttest.Answer{status(200)},
			want: "5.0 s: waited 5.0 s of 1 min for the limiter of the program (limiter). Nothing was sent: its turn did not come " +
				"within the longest wait allowed (limited).",
		},
		{
			name: "a policy that stops", opts: []resilient.Option{resilient.WithBackOff(func() backoff.BackOff { return new(backoff.StopBackOff) })},
			answers: []resilienttest.Answer{status(500)},
			want:    "0 ms: attempt 1 got 500 (SERVER_ERROR) after 0 ms. Not tried again: the backoff policy stopped (backoff stopped).",
		},
		{
			name: "the classifier's own words", opts: []resilient.Option{resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
				return resilient.Verdict{Kind: a.Verdict.Kind, Reason: "down <for> hours"}
			})},
			answers: []resilienttest.Answer{status(500)},
			want:    "0 ms: attempt 1 got 500 (SERVER_ERROR) after 0 ms. Not tried again: down <for> hours.",
		},
		{
			name: "an error in a success", opts: []resilient.Option{resilient.WithProfile(profile.Slack())},
			answers: []resilienttest.Answer{{Body: `{"ok":false,"error":"invalid_auth"}`}},
			want: "0 ms: attempt 1 got 200 with an error in it (invalid_auth) after 0 ms. " +
				"Not tried again: another attempt would get the same answer (final status).",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport := resilient.NewTransport(resilienttest.New(test.answers...), test.opts...)
				page := debugpage.Handler(transport)
				for range test.before {
					send(transport, newRequest(t, http.MethodGet, people))
				}
				ctx := t.Context()
				if test.timeout > 0 {
					var stop context.CancelFunc
					ctx, stop = context.WithTimeout(ctx, test.timeout)
					defer stop()
				}
				if test.cancel > 0 {
					var stop context.CancelFunc
					ctx, stop = context.WithCancel(ctx)
					defer stop()
					defer time.AfterFunc(test.cancel, stop).Stop()
				}
				method := test.method
				if method == "" {
					method = http.MethodGet
				}
				send(transport, newRequest(t, method, people).WithContext(ctx))
				require.Equal(t, []string{test.want}, said(t, page, "?call="+strconv.Itoa(test.before+1)))
				require.Contains(t, said(t, page, ""), test.want, "the sentence is on the first page too")
			})
		})
	}
}

// TestBodies: what became of the body explains a call as well, and a call whose body broke
// off has failed.
func TestBodies(t *testing.T) {
	const got = "0 ms: attempt 1 got 200 after 0 ms."
	for _, tt := range []struct {
		why    string
		answer resilienttest.Answer
		read   func(io.ReadCloser)
		want   string
		failed bool
	}{
		{"quick", resilienttest.Answer{Body: "body"}, func(b io.ReadCloser) { _, _ = io.ReadAll(b) }, got, false},
		{"nobody closes it", resilienttest.Answer{Body: "body"}, func(io.ReadCloser) {}, got + " Its body is still open.", false},
		{
			"slow",
			resilienttest.Answer{Body: "body", BodyDelay: 3 * time.Second},
			func(b io.ReadCloser) { _, _ = io.ReadAll(b) },
			got + " Its body took 3.0 s more, for 4 bytes.", false,
		},
		{
			"it breaks off",
			resilienttest.Answer{Status: 200, Body: "body", BodyDelay: 3 * time.Second, Lost: true},
			func(b io.ReadCloser) { _, _ = io.ReadAll(b) },
			got + " Its body broke off after 3.0 s and 2 bytes: unexpected EOF.", true,
		},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport := resilient.NewTransport(resilienttest.New(tt.answer, resilienttest.Answer{Delay: 10 * time.Millisecond}))
				page := debugpage.Handler(transport)
				resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, people))
				require.NoError(t, err)
				tt.read(resp.Body)
				require.Equal(t, []string{tt.want}, said(t, page, "?call=1"))
				for range 200 {
					send(transport, newRequest(t, http.MethodPost, people))
				}
				require.Equal(t, tt.failed, get(t, page, "?call=1").StatusCode == http.StatusOK, "failed calls are kept longer")
				require.NoError(t, resp.Body.Close())
			})
		})
	}
}

// TestSetLimits: the limits that the program has set, by name, and who waits for them.
func TestSetLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		words := func(*http.Request) float64 { return 40 }
		transport := resilient.NewTransport(resilienttest.New(resilienttest.Answer{Body: "body"}), resilient.WithRateLimit(1, 5),
			resilient.WithLimit("tokens", 1, 100, words), resilient.WithLimit("words", rate.Inf, 0, words), resilient.WithMaxInFlight(2),
			resilient.WithClass(func(req *http.Request) resilient.Class {
				return resilient.Class{Priority: len(req.Method), Flow: req.Method}
			}))
		page := debugpage.Handler(transport)
		var open []io.Closer
		for range 2 {
			resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, people))
			require.NoError(t, err)
			open = append(open, resp.Body)
		}
		for _, method := range []string{"GET", "PUT", "POST"} {
			go send(transport, newRequest(t, method, people))
			synctest.Wait()
		}
		text := body(t, get(t, page, ""))
		require.Contains(t, text, "1/s, burst 5; 3 left; tokens: 1/s, burst 100; 20 left; words: no limit; 2 of 2 in flight, the oldest for 0\u00a0ms")
		require.Contains(t, text, "3 (priority 4: 1, priority 3: 2 in 2 flows)")
		require.Contains(t, said(t, page, "?call=3")[0], "has waited 0 ms of 20.0 s because the limit tokens allows 1 a second (rate limit).")
		for _, body := range open {
			require.NoError(t, body.Close())
		}
		time.Sleep(time.Hour)

		transport = resilient.NewTransport(resilienttest.New(resilienttest.Answer{Body: "body"}), resilient.WithMaxInFlight(1))
		page = debugpage.Handler(transport)
		resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, people))
		require.NoError(t, err)
		go send(transport, newRequest(t, http.MethodGet, people))
		synctest.Wait()
		require.Contains(t, said(t, page, "?call=2")[0], "has waited 0 ms until others had ended, because only so many may be in flight (in flight)")
		require.NoError(t, resp.Body.Close())
	})
}

type brokenLimiter struct{}

func (brokenLimiter) Wait(context.Context) error {
	return errors.New("redis://user:hunter2@db: refused")
}

// The reason of a wait is shown while the call waits.
func TestInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := resilienttest.New(resilienttest.Status(503, "Retry-After", "5"), resilienttest.Answer{Delay: time.Second})
		transport := resilient.NewTransport(script, noJitter())
		page := debugpage.Handler(transport)
		done := make(chan struct{})
		go func() {
			defer close(done)
			send(transport, newRequest(t, http.MethodGet, people))
		}()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"So far 3.0 s: attempt 1 got 503 (SERVER_ERROR) after 0 ms, " +
			"has waited 3.0 s of 5.0 s because the server asked for 5.0 s, and jitter (retry-after)."}, said(t, page, "?call=1"))
		require.Contains(t, body(t, get(t, page, "?call=1")), `http-equiv="refresh"`, "it is loaded again until the call has ended")
		time.Sleep(2500 * time.Millisecond)
		synctest.Wait()
		require.Equal(t, []string{"So far 5.5 s: attempt 1 got 503 (SERVER_ERROR) after 0 ms, waited 5.0 s because the server asked " +
			"for 5.0 s, and jitter (retry-after), attempt 2 is under way for 500 ms."}, said(t, page, ""))
		<-done
		require.NotContains(t, body(t, get(t, page, "?call=1")), `http-equiv="refresh"`, "it stays as it is")
		require.Regexp(t, `In flight</span><span class="value">0<`, body(t, get(t, page, "")))
	})
}

// The Wait hook for a limiter that does not announce its waits is called when the
// wait is over.
func TestInFlightAfterLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := resilient.NewTransport(resilienttest.New(resilienttest.Answer{Delay: 5 * time.Second}),
			resilient.WithLimiter(sleepLimiter{4 * time.Second, false}))
		page := debugpage.Handler(transport)
		done := make(chan struct{})
		go func() {
			defer close(done)
			send(transport, newRequest(t, http.MethodGet, people))
		}()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"So far 5.0 s: waited 4.0 s for the limiter of the program (limiter), " +
			"attempt 1 is under way for 1.0 s."}, said(t, page, "?call=1"))
		<-done
	})
}

// Neither a slow call nor a failed one is lost among quick calls.
func TestWhatIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := resilient.NewTransport(resilienttest.New(
			resilienttest.Answer{Delay: 5 * time.Second}, resilienttest.Status(404), resilienttest.Answer{Delay: time.Millisecond}))
		page := debugpage.Handler(transport)
		call := func(n int) {
			for range n {
				send(transport, newRequest(t, http.MethodGet, people))
			}
		}
		remembered := func(id int) bool { return get(t, page, "?call="+strconv.Itoa(id)).StatusCode == http.StatusOK }
		call(3)
		for range 5 {
			call(100)
			time.Sleep(50 * time.Second)
		}
		require.True(t, remembered(1), "the slowest of five minutes")
		require.True(t, remembered(2), "the last that failed")
		require.False(t, remembered(104), "one like all others")
		require.True(t, remembered(503), "the last one")
		require.Contains(t, said(t, page, "")[0], "5.0 s: attempt 1 got 200", "the slowest comes first")
		time.Sleep(time.Minute)
		require.False(t, remembered(1), "five minutes are over")
		require.True(t, remembered(2))
		require.True(t, remembered(503))
	})
}

// TestKeyChurn: a stranger sees on the page that each request has a key of its own.
func TestKeyChurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		nonce := resilient.WithLimitKey(func(*http.Request) string { n++; return strconv.Itoa(n) })
		transport := resilient.NewTransport(resilienttest.New(resilienttest.Status(200)), nonce, resilient.WithRateLimit(1, 1))
		h := debugpage.Handler(transport)
		for _, want := range []bool{false, true} {
			require.Equal(t, want, strings.Contains(body(t, get(t, h, "")), "no limit is shared"))
			for range 1025 {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://api.test/", nil)
				require.NoError(t, err)
				resp, err := transport.RoundTrip(req)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
			}
		}
		require.Contains(t, body(t, get(t, h, "")), "2,050 keys were made, and 0 of them used by a second call: see WithLimitKey.")
	})
}

// The numbers on the page are those of the Transport, and the plot follows the limit.
func TestNumbers(t *testing.T) {
	var page string
	busy(t, func(h http.Handler) { page = body(t, get(t, h, "")) })
	for _, part := range []string{
		`<th scope="row">https://api.example.com #[0-9a-f]+</th>`,
		`<span class="pill ok">[0-9.]+/s</span> (<b>GET /v1/sensors/\*/visitors</b> )?<span class="because">\d+ of [0-9,]+ refused, confirmed [^<]+ ago, for [^<]+</span>`,
		`<li>retry-after <b>1 × 5\.\d.s</b></li>`,
		`<li>temporary status <b>2</b></li>`,
		`failed <b>3</b>`, // 500, 502 and the lost connection
		`learned limit (for GET /v1/sensors/\*/visitors )?of https://api\.example\.com #`, // there are two keys
		`class="line line1" d="M\d`,
	} {
		require.Regexp(t, part, page)
	}
	learned := regexp.MustCompile(`<span class="pill ok">([0-9.]+)/s</span>`).FindStringSubmatch(page)
	require.NotNil(t, learned)
	limit, err := strconv.ParseFloat(learned[1], 64)
	require.NoError(t, err)
	require.InDelta(t, 60, limit, 12, "the limit of the API by then")

	number := func(pattern string) int {
		match := regexp.MustCompile(pattern).FindStringSubmatch(page)
		require.NotNil(t, match, pattern)
		n, err := strconv.Atoi(strings.ReplaceAll(match[1], ",", ""))
		require.NoError(t, err)
		return n
	}
	attempts := number(`Attempts</span><span class="value">([0-9,]+)`)
	plotted := number(`accepted <b>([0-9,]+)`) + number(`accepted on a retry <b>([0-9,]+)`) +
		number(`refused <b>([0-9,]+)`) + number(`failed <b>([0-9,]+)`)
	require.Equal(t, attempts, plotted, "every attempt that ended is in the plot once")
}

func TestPlotForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := resilient.NewTransport(resilienttest.New(resilienttest.Answer{}))
		page := debugpage.Handler(transport)
		path := func() string {
			return regexp.MustCompile(`area ok" d="([^"]*)"`).FindStringSubmatch(body(t, get(t, page, "")))[1]
		}
		require.Empty(t, path())
		send(transport, newRequest(t, http.MethodGet, people))
		require.Equal(t, "M299 75.00h1v25.00h-1z", path(), "one of at least four, in the last second")
		time.Sleep(time.Minute)
		require.Equal(t, "M239 75.00h1v25.00h-1z", path())
		send(transport, newRequest(t, http.MethodGet, people))
		time.Sleep(239 * time.Second)
		require.Equal(t, "M0 75.00h1v25.00h-1zM60 75.00h1v25.00h-1z", path())
		time.Sleep(time.Second)
		require.Equal(t, "M59 75.00h1v25.00h-1z", path())
	})
}

// Untrusted input is shown as text. The page stays well formed, and contains no
// control characters and no characters that change the direction of the text.
func TestEscapes(t *testing.T) {
	const nasty = "<script>alert(1)</script>\"'`&{{.}}\x00\x1b[31m\u202e\r\n\xff--></style></title>"
	synctest.Test(t, func(t *testing.T) {
		b, err := json.Marshal(nasty)
		require.NoError(t, err)
		quoted := string(b)
		script := resilienttest.New(
			resilienttest.Answer{Status: 429, Body: `{"code":` + quoted + `,"type":` + quoted + `,"message":` + quoted + `}`, Header: http.Header{"X-Request-Id": {nasty}}},
			resilienttest.Answer{Lost: true},
			resilienttest.Answer{Status: 500},
			resilienttest.Answer{},
		)
		transport := resilient.NewTransport(script,
			resilient.WithLimitKey(func(*http.Request) string { return nasty }),
			resilient.WithMaxAttempts(9),
			resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
				a.Verdict.Reason += nasty
				return a.Verdict
			}), noJitter())
		page := debugpage.Handler(transport)
		send(transport, &http.Request{
			Method: nasty, URL: &url.URL{Scheme: "https", Host: nasty, Path: nasty}, Header: http.Header{"Idempotency-Key": {"1"}},
		})
		for _, query := range []string{"", "?call=1", "?refresh=0", "?call=%3Cscript%3E", "?refresh=%22%3E%3Cscript%3E"} {
			b := body(t, get(t, page, query))
			require.NotContains(t, b, "<script")
			require.True(t, utf8.ValidString(b))
			require.NotRegexp(t, `[\x00-\x09\x0b-\x1f\x7f\x{202e}]`, b)
			requireWellFormed(t, b)
		}
		shown := text(body(t, get(t, page, "?call=1")))
		require.Contains(t, shown, "<script>alert(1)</script>\"'`&{{.}}", "it is shown, as text")
	})
}

// requireWellFormed reads a page as XML, which is stricter than HTML, because all
// tags must be closed.
func requireWellFormed(tb testing.TB, page string) {
	tb.Helper()
	d := xml.NewDecoder(strings.NewReader(page))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(tb, err)
	}
}

func TestNoSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := resilienttest.New(
			resilienttest.Answer{Status: 429, Body: `{"code":"busy","message":"hunter2 in the message"}`, Header: http.Header{"X-Debug": {"hunter2"}}},
			resilienttest.Answer{Body: "hunter2"},
		)
		failing := roundTripper(func(req *http.Request) (*http.Response, error) {
			if strings.HasPrefix(req.URL.Path, "/fails") {
				return nil, &url.Error{Op: "Get", URL: req.URL.String(), Err: errors.New(`malformed HTTP response "GET /?key=hunter2 \" hunter2"`)}
			}
			return script.RoundTrip(req)
		})
		transport := resilient.NewTransport(failing, noJitter())
		page := debugpage.Handler(transport)
		for _, path := range []string{"/works", "/fails"} {
			req := newRequest(t, http.MethodPost, "https://user:hunter2@api.example.com"+path+"?key=hunter2#hunter2")
			req.Body, req.ContentLength = io.NopCloser(strings.NewReader("hunter2")), 7
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("hunter2")), nil }
			req.Header.Set("Authorization", "Bearer hunter2")
			req.Header.Set("X-Api-Key", "hunter2")
			req.Header.Set("Cookie", "session=hunter2")
			send(transport, req)
		}
		limited := resilient.ContextWithOptions(t.Context(), resilient.WithLimiter(brokenLimiter{}))
		send(transport, newRequest(t, http.MethodGet, people).WithContext(limited))
		for _, query := range []string{"", "?call=1", "?call=2", "?call=3"} {
			resp := get(t, page, query)
			require.Equal(t, http.StatusOK, resp.StatusCode)
			b := body(t, resp)
			require.NotContains(t, b, "hunter2")
			if query == "?call=2" {
				require.Contains(t, text(b), `malformed HTTP response ""`, "the rest of the error is there")
			}
		}
	})
}

// A path may contain a credential. It is hidden while the call is in flight, when it
// has ended, in the title and in the text of an error.
func TestNoSecretsInPaths(t *testing.T) {
	const token = "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
	for _, test := range []struct {
		name, path, shown string
		opts              []resilient.Option
	}{
		{"Telegram", "/bot110201543:" + token + "/getUpdates", "/***/getUpdates", nil},
		{"a file", "/file/bot1%3A" + token + "/documents/x", "/file/***/documents/x", nil},
		{"announced", "/with/key/" + token[:4], "/with/key/***", nil},
		{"a long path", "/" + strings.Repeat("directory/", 20) + "key/" + token, "/directory/", nil},
		{"by the program", "/" + token[:4], "/{token}", []resilient.Option{
			resilient.WithLogPath(func(*http.Request) string { return "/{token}" }),
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := roundTripper(func(*http.Request) (*http.Response, error) {
					time.Sleep(time.Second)
					return nil, errors.New("lost https://user:" + token + "@api.example.com/bot1:" + token + "/x?key=" + token)
				})
				transport := resilient.NewTransport(base, append(test.opts, noJitter(), resilient.WithRateLimit(1, 1))...)
				page := debugpage.Handler(transport)
				look := func() {
					for _, query := range []string{"", "?call=1"} {
						b := text(body(t, get(t, page, query)))
						require.Contains(t, b, test.shown)
						require.NotContains(t, b, token[:4])
					}
				}
				go send(transport, newRequest(t, http.MethodGet, "https://user:"+token+"@api.example.com"+test.path+"?key="+token))
				time.Sleep(time.Millisecond)
				look()
				time.Sleep(time.Minute)
				look()
				require.Contains(t, text(body(t, get(t, page, "?call=1"))), "lost https://api.example.com/***/x")
			})
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestHTTP(t *testing.T) {
	transport := resilient.NewTransport(resilienttest.New(resilienttest.Answer{}))
	page := debugpage.Handler(transport)
	send(transport, newRequest(t, http.MethodGet, people))
	serve := func(method, target string) *http.Response {
		w := httptest.NewRecorder()
		page.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, target, nil))
		return w.Result()
	}
	for _, test := range []struct {
		method, target string
		status         int
		refresh        string
		why            string
	}{
		{"GET", "/", 200, "2", "the default"},
		{"HEAD", "/", 200, "", "as GET, without a body"},
		{"GET", "/any/where/", 200, "2", "it may be mounted anywhere"},
		{"GET", "/?refresh=10", 200, "10", "as asked"},
		{"GET", "/?refresh=0", 200, "", "0 stops it"},
		{"GET", "/?refresh=-1", 200, "2", "nonsense is the default"},
		{"GET", "/?refresh=3601", 200, "2", "nonsense is the default"},
		{"GET", "/?refresh=fast", 200, "2", "nonsense is the default"},
		{"GET", "/?call=1", 200, "", "a call that ended stays as it is"},
		{"GET", "/?call=2", 404, "", "no such call"},
		{"GET", "/?call=0", 404, "", "no such call"},
		{"GET", "/?call=x", 404, "", "no such call"},
		{"POST", "/", 405, "", "nothing can be done with it"},
		{"DELETE", "/", 405, "", "nothing can be done with it"},
		{"OPTIONS", "/", 405, "", "nothing can be done with it"},
	} {
		t.Run(test.method+" "+test.target, func(t *testing.T) {
			resp := serve(test.method, test.target)
			require.Equal(t, test.status, resp.StatusCode, test.why)
			require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
			require.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
			require.Equal(t, "no-referrer", resp.Header.Get("Referrer-Policy"))
			require.Regexp(t, `^default-src 'none'; style-src 'sha256-[A-Za-z0-9+/]{43}='; `, resp.Header.Get("Content-Security-Policy"))
			b := body(t, resp)
			switch {
			case test.method == http.MethodHead:
				require.Empty(t, b)
				require.NotEmpty(t, resp.Header.Get("Content-Length"))
			case test.status == http.StatusMethodNotAllowed:
				require.Equal(t, "GET, HEAD", resp.Header.Get("Allow"))
			default:
				require.Equal(t, "text/html; charset=utf-8", resp.Header.Get("Content-Type"))
				require.Equal(t, strconv.Itoa(len(b)), resp.Header.Get("Content-Length"))
				requireWellFormed(t, b)
				refresh := regexp.MustCompile(`http-equiv="refresh" content="(.*?)"`).FindStringSubmatch(b)
				require.Equal(t, test.refresh != "", refresh != nil)
				if refresh != nil {
					require.Equal(t, test.refresh, refresh[1], test.why)
				}
				require.NotRegexp(t, `<(script|link|img|iframe|form)|\ssrc=|@import|url\((?:[^#]|$)|https?://(?:[^a]|$)`, b, "nothing from elsewhere")
				for _, link := range regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(b, -1) {
					require.True(t, strings.HasPrefix(link[1], "?"), "%s: links hold under any path", link[1])
				}
			}
		})
	}
	require.Panics(t, func() { debugpage.Handler(nil) })
}

// A paused page stays paused on the way to a call and back.
func TestPausedLinks(t *testing.T) {
	transport := resilient.NewTransport(resilienttest.New(resilienttest.Status(404)))
	page := debugpage.Handler(transport)
	send(transport, newRequest(t, http.MethodGet, people))
	require.Contains(t, body(t, get(t, page, "")), `href="?call=1"`)
	require.Contains(t, body(t, get(t, page, "?refresh=0")), `href="?call=1&amp;refresh=0"`)
	require.Contains(t, body(t, get(t, page, "?call=1&refresh=0")), `href="?refresh=0"`)
}

// A request may be sent again when its call is over, even if the base panicked.
func TestRequestReused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := true
		script := resilienttest.New(resilienttest.Answer{Delay: time.Second})
		transport := resilient.NewTransport(roundTripper(func(req *http.Request) (*http.Response, error) {
			if broken {
				panic("base")
			}
			return script.RoundTrip(req)
		}))
		page := debugpage.Handler(transport)
		req := newRequest(t, http.MethodGet, people)
		require.PanicsWithValue(t, "base", func() { send(transport, req) })
		broken = false
		time.Sleep(time.Minute)
		for range 2 {
			send(transport, req)
		}
		require.Equal(t, http.StatusNotFound, get(t, page, "?call=1").StatusCode, "its end was never seen")
		for _, query := range []string{"?call=2", "?call=3"} {
			require.Equal(t, []string{"1.0 s: attempt 1 got 200 after 1.0 s."}, said(t, page, query))
		}
	})
}

// Without a Handler, calls are not recorded. With one, a success costs no
// allocation.
func TestNothingBeforeHandler(t *testing.T) {
	base := &quick{}
	req := newRequest(t, http.MethodGet, people)
	transport := resilient.NewTransport(base)
	call := func() { send(transport, req) }
	call()
	before := testing.AllocsPerRun(1000, call)
	page := debugpage.Handler(transport)
	require.Contains(t, text(body(t, get(t, page, ""))), "No call has ended yet.")
	for range 300 {
		call() // until records are reused
	}
	require.InDelta(t, before, testing.AllocsPerRun(1000, call), 0.5)
}

// quick is a base that costs little.
type quick struct{ resp http.Response }

func (q *quick) RoundTrip(*http.Request) (*http.Response, error) {
	q.resp.StatusCode, q.resp.Body = http.StatusOK, http.NoBody
	return &q.resp, nil
}

// The memory and the page are bounded for all callers.
func TestBounds(t *testing.T) {
	t.Run("attempts", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			transport := resilient.NewTransport(resilienttest.New(resilienttest.Status(500)), every(time.Second),
				resilient.WithMaxAttempts(500), resilient.WithRetryBudget(math.Inf(1), 0))
			page := debugpage.Handler(transport)
			send(transport, newRequest(t, http.MethodGet, people))
			why := said(t, page, "?call=1")[0]
			require.Contains(t, why, "8 min 19 s: attempt 1 got 500")
			require.Regexp(t, `\d min \d+ s went by in 959 more attempts and waits`, why, "of 500 attempts and 499 waits, 40 are kept")
			require.Contains(t, why, "attempt 500 got 500")
		})
	})
	t.Run("in flight", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			transport := resilient.NewTransport(resilienttest.New(resilienttest.Answer{Delay: time.Hour}))
			page := debugpage.Handler(transport)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for range 3000 {
				wg.Go(func() { send(transport, newRequest(t, http.MethodGet, people).WithContext(ctx)) })
			}
			time.Sleep(time.Second)
			synctest.Wait()
			b := body(t, get(t, page, ""))
			require.Regexp(t, `In flight</span><span class="value">1,024<`, b)
			require.Contains(t, b, "and 1019 more")
			cancel()
			wg.Wait()
			b = text(body(t, get(t, page, "")))
			require.Contains(t, b, "canceled 3,000")
			require.Contains(t, b, "In flight0none", "those that were pushed out leave nothing behind")
		})
	})
	t.Run("memory", func(t *testing.T) {
		transport := resilient.NewTransport(&quick{})
		page := debugpage.Handler(transport)
		long := strings.Repeat("x", 100_000)
		call := func(n int) {
			for i := range n {
				send(transport, newRequest(t, http.MethodGet, people+strconv.Itoa(i)+"?"+long))
				send(transport, newRequest(t, http.MethodGet, people+"/"+long))
			}
		}
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		call(500)
		require.Less(t, heap(), before+4<<20, "it keeps no part of a long URL")
		require.Less(t, len(body(t, get(t, page, ""))), 1<<20)
	})
}

func TestConcurrent(t *testing.T) {
	transport := resilient.NewTransport(roundTripper(func(req *http.Request) (*http.Response, error) {
		status := http.StatusOK
		if req.Header.Get("Fail") != "" {
			status = http.StatusNotFound
		}
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
	}))
	page := debugpage.Handler(transport)
	const workers, calls = 8, 400
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for n := range calls {
				req := newRequest(t, http.MethodGet, people)
				if (i+n)%3 == 0 {
					req.Header.Set("Fail", "1")
				}
				send(transport, req)
			}
		})
	}
	for range 3 {
		wg.Go(func() {
			for n := range 30 {
				_ = get(t, page, "")
				_ = get(t, page, "?call="+strconv.Itoa(n*50))
			}
		})
	}
	wg.Wait()
	b := text(body(t, get(t, page, "")))
	require.Contains(t, b, "Calls3,200")
	require.Contains(t, b, "accepted 3,200", "a 404 is an answer")
}

// Text has the contrast of 4.5 that WCAG 2 requires, in the light and in the dark
// scheme.
func TestContrast(t *testing.T) {
	css, err := os.ReadFile("style.css")
	require.NoError(t, err)
	light, dark, found := strings.Cut(string(css), "@media (prefers-color-scheme: dark)")
	require.True(t, found)
	for _, tt := range []struct {
		scheme string
		rules  string
	}{
		{"light", light},
		{"dark", dark},
	} {
		colour := map[string]string{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6});`).FindAllStringSubmatch(tt.rules, -1) {
			colour[m[1]] = m[2]
		}
		for _, name := range []string{"text", "muted", "link", "ok", "retried", "refused", "failed", "wait"} {
			for _, back := range []string{"page", "card"} {
				require.GreaterOrEqual(t, contrast(t, colour[name], colour[back]), 4.5, "%s: %s on %s", tt.scheme, name, back)
			}
		}
		for _, name := range []string{"failed-fill", "retried-fill", "line"} {
			require.GreaterOrEqual(t, contrast(t, colour[name], colour["card"]), 3.0, "%s: %s on card", tt.scheme, name)
		}
	}
}

func contrast(tb testing.TB, a, b string) float64 {
	tb.Helper()
	luminance := func(hex string) float64 {
		rgb, err := strconv.ParseUint(hex, 16, 32)
		require.NoError(tb, err, "%q", hex)
		sum := 0.0
		for i, weight := range [...]float64{0.2126, 0.7152, 0.0722} {
			c := float64(rgb>>(16-8*i)&0xff) / 255
			if c <= 0.04045 {
				c /= 12.92
			} else {
				c = math.Pow((c+0.055)/1.055, 2.4)
			}
			sum += weight * c
		}
		return sum
	}
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// BenchmarkCall measures a call that succeeds at once. The cost of the page is the
// difference to hooks that do nothing, because any hooks make the Transport read
// the clock four times.
func BenchmarkCall(b *testing.B) {
	nothing := &resilient.Trace{
		AttemptStart: func(resilient.AttemptInfo) {}, AttemptDone: func(resilient.AttemptInfo) {},
		Wait: func(resilient.WaitInfo) {}, Done: func(resilient.DoneInfo) {},
	}
	for _, tt := range []struct {
		name    string
		prepare func(*resilient.Transport)
	}{
		{"no hooks", func(*resilient.Transport) {}},
		{"empty hooks", func(t *resilient.Transport) { t.AddTrace(nothing) }},
		{"page", func(t *resilient.Transport) { debugpage.Handler(t) }},
	} {
		transport := resilient.NewTransport(&quick{})
		tt.prepare(transport)
		b.Run(tt.name, func(b *testing.B) {
			req := newRequest(b, http.MethodGet, people)
			b.ReportAllocs()
			for b.Loop() {
				_, _ = transport.RoundTrip(req)
			}
		})
		b.Run(tt.name+", parallel", func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				req := newRequest(b, http.MethodGet, people)
				for pb.Next() {
					_, _ = transport.RoundTrip(req)
				}
			})
		})
	}
}

// ExampleHandler mounts the page of a Transport on a port of its own, on the
// loopback address.
func ExampleHandler() {
	transport := resilient.NewTransport(nil)
	mux := http.NewServeMux()
	mux.Handle("/debug/resilient", debugpage.Handler(transport))
	server := &http.Server{Addr: "127.0.0.1:6060", Handler: mux, ReadHeaderTimeout: time.Second}
	_ = server // go server.ListenAndServe()
}
