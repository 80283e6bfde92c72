package faults_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

const (
	// maxPrefix is the largest part of an error body that may be read ahead.
	maxPrefix = 64 << 10

	// maxAllocated is the most that an attempt may allocate in total for any answer,
	// which is some copies of maxPrefix.
	maxAllocated = 2 << 20

	// maxErrorText is the maximum length of the text of an error.
	maxErrorText = 2 << 10
)

// answers is a base that gives every request the same answer.
type answers struct {
	status int
	header http.Header
	body   func() io.Reader
	taken  atomic.Int64 // bytes read from the bodies
	sent   int
	open   int // bodies not closed
}

func (a *answers) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
	a.sent++
	a.open++
	return &http.Response{
		StatusCode: a.status, Header: a.header.Clone(), Request: req, ProtoMajor: 1, ProtoMinor: 1,
		ContentLength: -1, Body: &meteredBody{Reader: a.body(), of: a},
	}, nil
}

// meteredBody counts the bytes that are read.
type meteredBody struct {
	io.Reader
	of     *answers
	closed bool
}

func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.of.taken.Add(int64(n))
	return n, err
}

func (b *meteredBody) Close() error {
	if !b.closed {
		b.closed = true
		b.of.open--
	}
	return nil
}

// repeated is an endless repetition of text.
type repeated struct {
	text string
	off  int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		c := copy(p[n:], r.text[r.off:])
		n += c
		r.off = (r.off + c) % len(r.text)
	}
	return n, nil
}

// then returns head, followed by an endless repetition of text.
func then(head, text string) func() io.Reader {
	return func() io.Reader { return io.MultiReader(strings.NewReader(head), &repeated{text: text}) }
}

// allocated returns the number of bytes that f allocates in total, freed or not.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc) //nolint:gosec // far from its limit
}

// requireTame fails unless text is safe to be shown or logged. It must be one line of
// bounded length, without control characters.
func requireTame(tb testing.TB, text string) {
	tb.Helper()
	require.LessOrEqual(tb, len(text), maxErrorText)
	require.True(tb, utf8.ValidString(text), "%q", text)
	for _, r := range text {
		require.True(tb, unicode.IsPrint(r), "%q in %q", r, text)
	}
}

// TestHostileErrorBody sends error bodies that are meant to exhaust memory, stack or
// time. Parsing reads at most 64 KiB and takes at most a second, however long, slow
// or deep the body is.
func TestHostileErrorBody(t *testing.T) {
	for name, body := range map[string]func() io.Reader{
		"endless blanks":            then("", " "),
		"endless NULs":              then("", "\x00"),
		"endless invalid UTF-8":     then("", "\xff\xfe\xc0"),
		"endless byte order marks":  then("", "\xef\xbb\xbf"),
		"endless HTML":              then("<!doctype html><h1>", "<b>Bad Gateway"),
		"endless arrays":            then("", "["),
		"endless objects":           then("", `{"code":`),
		"endless string":            then(`{"message":"`, "a"),
		"endless escapes":           then(`{"message":"`, `\ud800\n\u001b`),
		"endless key":               then(`{"`, "a"),
		"endless number":            then(`{"code":1`, "9"),
		"endless exponent":          then(`{"code":1e`, "9"),
		"endless invalid parameter": then(`{"invalid":[`, `{"name":"n","reason":"r"},`),
		"arrays in a field":         then(`{"message":`, "["),
		"objects in a field":        then(`{"invalid":`, `{"name":`),
		"endless duplicates":        then(`{"code":"c"`, `,"message":"m","Message":"n","MESSAGE":{}`),
		"endless documents":         then("", `{"code":"c","message":"m"}`),
		"endless closing":           then("", "]}"),
		"1 GiB of message": func() io.Reader {
			return io.MultiReader(strings.NewReader(`{"code":"c","message":"`),
				io.LimitReader(&repeated{text: "a"}, 1<<30), strings.NewReader(`"}`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, statusErrors := range []bool{false, true} {
				leaveNothing(t)
				base := &answers{status: 500, body: body}
				client := newTransport(base, resilient.WithStatusErrors(statusErrors), resilient.WithLogger(slog.New(slog.DiscardHandler)))
				req := newRequest(t, http.MethodGet, "http://api.test/")
				var apiErr *resilient.APIError
				begin := time.Now()
				bytes := allocated(func() {
					resp, err := client.RoundTrip(req)
					if statusErrors {
						require.ErrorAs(t, err, &apiErr)
						return
					}
					require.NoError(t, err)
					var ok bool
					apiErr, ok = resilient.ErrorFromResponse(resp)
					require.True(t, ok)
					require.NoError(t, resp.Body.Close())
				})

				require.Equal(t, 3, base.sent)
				require.Zero(t, base.open, "every body is closed")
				require.LessOrEqual(t, base.taken.Load(), int64(3*maxPrefix))
				require.LessOrEqual(t, bytes, int64(3*maxAllocated))
				require.Less(t, time.Since(begin), patience/2)
				require.LessOrEqual(t, len(apiErr.Body), maxPrefix)
				require.Equal(t, 500, apiErr.StatusCode)
				requireTame(t, apiErr.Error())
			}
		})
	}
}

// TestHostileErrorBodyIsStillWhole reads a body of 1 GiB to its end. It is passed on
// without being kept in memory.
func TestHostileErrorBodyIsStillWhole(t *testing.T) {
	leaveNothing(t)
	const size = 1 << 30
	base := &answers{status: 400, body: func() io.Reader { return io.LimitReader(&repeated{text: strings.Repeat("a", 4096)}, size) }}
	req := newRequest(t, http.MethodGet, "http://api.test/")
	bytes := allocated(func() {
		resp, err := newTransport(base).RoundTrip(req)
		require.NoError(t, err)
		_, ok := resilient.ErrorFromResponse(resp)
		require.True(t, ok)
		n, err := io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.Equal(t, int64(size), n)
		require.NoError(t, resp.Body.Close())
	})
	require.LessOrEqual(t, bytes, int64(maxAllocated))
}

// TestHostileErrorBodyOverTheNetwork sends an endless error body from a real server.
// The server notices that it is no longer read.
func TestHostileErrorBodyOverTheNetwork(t *testing.T) {
	leaveNothing(t)
	srv := serveRaw(t, endless(bad+"Transfer-Encoding: chunked\r\n\r\n", "1\r\n[\r\n"))
	base := newBase(t)
	var got *resilient.APIError
	req := newRequest(t, http.MethodGet, srv.url)
	bytes := allocated(func() {
		resp, err := newTransport(base).RoundTrip(req)
		require.NoError(t, err)
		got, _ = resilient.ErrorFromResponse(resp)
		require.NoError(t, resp.Body.Close())
	})
	requireTame(t, got.Error())
	require.Equal(t, 3, srv.count(http.MethodGet))
	require.LessOrEqual(t, bytes, int64(3*maxAllocated))
}

// TestHostileCompression sends an error body of some KiB that decompresses to a GiB.
// If net/http decompresses it, no more than 64 KiB are read. If the caller asked for
// the encoding, the body is not decompressed.
func TestHostileCompression(t *testing.T) {
	// A gzip file may have several parts, so a GiB is compressed quickly.
	pack := func(data []byte, times int) []byte {
		var part bytes.Buffer
		w := gzip.NewWriter(&part)
		_, _ = w.Write(data)
		_ = w.Close()
		return bytes.Repeat(part.Bytes(), times)
	}
	bomb := pack(make([]byte, 16<<20), 64)
	for _, tt := range []struct {
		name   string
		body   []byte
		accept string
	}{
		{"bomb", bomb, ""},
		{"bomb in JSON", append(pack([]byte(`{"message":"`), 1), bomb...), ""},
		{"bomb in a bomb", pack(bomb, 64), ""},
		{"left packed", bomb, "gzip"},
		{"not packed at all", []byte(strings.Repeat("[", 1<<20)), ""},
		{"cut short", bomb[:1000], ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leaveNothing(t)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				w.WriteHeader(500)
				_, _ = w.Write(tt.body)
			}))
			t.Cleanup(srv.Close)
			base := newBase(t)
			req := newRequest(t, http.MethodGet, srv.URL)
			if tt.accept != "" {
				req.Header.Set("Accept-Encoding", tt.accept)
			}
			var got *resilient.APIError
			bytes := allocated(func() {
				resp, err := newTransport(base).RoundTrip(req)
				require.NoError(t, err)
				got, _ = resilient.ErrorFromResponse(resp)
				require.NoError(t, resp.Body.Close())
			})
			require.Equal(t, 3, got.Attempts)
			require.LessOrEqual(t, len(got.Body), maxPrefix)
			require.LessOrEqual(t, bytes, int64(3*maxAllocated))
			requireTame(t, got.Error())
		})
	}
}

// TestHostileErrorBodyNeverComes sends an error whose body never arrives or never
// ends. Reading ahead ends after a second, whether or not the call continues.
func TestHostileErrorBodyNeverComes(t *testing.T) {
	for name, pause := range map[string]time.Duration{"a byte now and then": 100 * time.Millisecond, "nothing": 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := &answers{status: 500, body: func() io.Reader { return dripping(pause) }}
				begin := time.Now()
				resp, err := newTransport(base).RoundTrip(newRequest(t, http.MethodGet, "http://api.test/"))
				require.NoError(t, err)
				require.Equal(t, 3, base.sent)
				require.LessOrEqual(t, time.Since(begin), 4*time.Second)
				require.NoError(t, resp.Body.Close())
				time.Sleep(2 * pause) // virtual, until a Read in progress ends
			})
		})
	}
}

// dripping returns a byte after each pause.
type dripping time.Duration

func (d dripping) Read(p []byte) (int, error) {
	time.Sleep(time.Duration(d)) // virtual
	return copy(p[:1], "["), nil
}

// TestHostileHeaders sends an error with header values of 1 MiB, or with very many
// of them. If there are many hints, the first one counts or none. The work of reading
// them is bounded.
func TestHostileHeaders(t *testing.T) {
	const size = 1 << 20
	many := func(line string) string { return strings.Repeat(line, size/len(line)) }
	for name, header := range map[string]string{
		"request id":              "X-Request-Id: " + many("i"),
		"Retry-After in digits":   "Retry-After: " + many("9"),
		"Retry-After in zeros":    "Retry-After: " + many("0"),
		"Retry-After of nines":    "Retry-After: 0." + many("9"),
		"Retry-After with blanks": "Retry-After: 1" + many(" ") + "1",
		"Retry-After with commas": "Retry-After: " + many("1,"),
		"Retry-After often":       strings.TrimSuffix(many("Retry-After: 1\r\n"), "\r\n"),
		"milliseconds":            "Retry-After-Ms: " + many("9"),
		"Date":                    "Retry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\nDate: " + many("Wed, 21 Oct 2026 07:28:00 GMT "),
		"limits":                  "RateLimit: " + many(`"a";r=0;t=1, `),
		"limits, the older way":   "X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: " + many("9"),
		"content type":            "Content-Type: " + many("application/"),
	} {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t)
			body := `{"code":"c","type":"T","message":"m"}`
			srv := serveRaw(t, func(c *net.TCPConn, _ int) bool {
				_, err := fmt.Fprintf(c, "HTTP/1.1 429 No\r\n%s\r\nContent-Length: %d\r\n\r\n%s", header, len(body), body)
				return err == nil
			})
			var log bytes.Buffer
			client := newTransport(newBase(t), resilient.WithMaxWait(10*time.Millisecond),
				resilient.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
			begin := time.Now()
			resp, err := client.RoundTrip(newRequest(t, http.MethodGet, srv.url))
			require.NoError(t, err)
			apiErr, ok := resilient.ErrorFromResponse(resp)
			require.True(t, ok)
			require.NoError(t, resp.Body.Close())

			require.Less(t, time.Since(begin), patience/2)
			require.LessOrEqual(t, srv.count(http.MethodGet), 3)
			require.LessOrEqual(t, log.Len(), 10*maxErrorText)
			requireTame(t, apiErr.Error())
		})
	}
}

// nasty returns texts that would affect a terminal, a log viewer or a parser of
// lines.
func nasty() []string {
	return []string{
		"\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b31m", "a\nlevel=ERROR msg=forged", "a\r\nb", "\rover", "\x00", "\x08\x7f",
		"\u0085next", "\u2028line", "\u2029paragraph", "\u202eright to left", "\u200bzero width", "\ufeffmark", "\u009b31m",
		"\xff\xfe", "\xc0\xaf", "\xed\xa0\x80", "\U000e0041tag", strings.Repeat("x", 1<<20),
	}
}

// TestHostileText puts such texts wherever a server can. Errors and log records must
// be one short line that can be printed.
func TestHostileText(t *testing.T) {
	for _, text := range nasty() {
		name := text[:min(len(text), 12)]
		quoted, err := json.Marshal(text)
		require.NoError(t, err)
		for field, body := range map[string]string{
			"marshaled": fmt.Sprintf(`{"code":%[1]s,"type":%[1]s,"message":%[1]s,"invalid":[{"name":%[1]s,"reason":%[1]s}]}`, quoted),
			"raw":       fmt.Sprintf(`{"code":"%[1]s","type":"%[1]s","message":"%[1]s"}`, text),
			"not JSON":  text,
		} {
			t.Run(fmt.Sprintf("%q %s", name, field), func(t *testing.T) {
				rec := &records{}
				base := &answers{status: 500, body: func() io.Reader { return strings.NewReader(body) }, header: http.Header{
					"X-Request-Id": {text}, "Content-Type": {text}, "Retry-After": {text}, "Server": {text},
				}}
				client := newTransport(base, resilient.WithStatusErrors(true), rec.option())
				_, err := client.RoundTrip(newRequest(t, http.MethodGet, "http://api.test/"))
				require.Error(t, err)
				requireTame(t, err.Error())
				require.NotZero(t, rec.check(t))
			})
		}
		t.Run(fmt.Sprintf("%q error of the base", name), func(t *testing.T) {
			rec := &records{}
			client := newTransport(fails{errors.New(text)}, rec.option())
			_, err := client.RoundTrip(newRequest(t, http.MethodGet, "http://api.test/"))
			require.Error(t, err)
			requireTame(t, err.Error())
			require.NotZero(t, rec.check(t))
		})
	}
}

// fails is a base that always returns an error.
type fails struct{ err error }

func (f fails) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
	return nil, f.err
}

// records is a log that keeps the values of its records, and the output of the two
// handlers of log/slog.
type records struct {
	mu     sync.Mutex
	values []string
	text   bytes.Buffer
	json   bytes.Buffer
	count  int
}

func (r *records) option() resilient.Option { return resilient.WithLogger(slog.New(r)) }

func (r *records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *records) WithGroup(string) slog.Handler            { return r }

func (r *records) Handle(ctx context.Context, rec slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	r.values = append(r.values, rec.Message)
	rec.Attrs(func(a slog.Attr) bool {
		r.values = append(r.values, a.Key, fmt.Sprintf("%+v", a.Value.Any()))
		return true
	})
	all := &slog.HandlerOptions{Level: slog.LevelDebug}
	return errors.Join(slog.NewTextHandler(&r.text, all).Handle(ctx, rec), slog.NewJSONHandler(&r.json, all).Handle(ctx, rec))
}

// check fails if a record is not tame, and returns the number of records.
func (r *records) check(tb testing.TB) int {
	tb.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range r.values {
		requireTame(tb, v)
	}
	require.Equal(tb, r.count, strings.Count(r.text.String(), "\n"), "a line for each record")
	require.Equal(tb, r.count, strings.Count(r.json.String(), "\n"), "a line for each record")
	return r.count
}

// TestHostileRetryAfter sends a Retry-After in many forms. A wait is never negative
// or longer than WithMaxWait, and a value that is understood is obeyed.
func TestHostileRetryAfter(t *testing.T) {
	const (
		interval = 100 * time.Millisecond // of the backoff, and the maximum jitter
		maxWait  = time.Minute
		none     = -1 // not understood, so the backoff applies
		either   = -2 // may be understood or not
	)
	date := func(d time.Duration, layout string) string {
		return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(d).Format(layout) // synctest begins there
	}
	for _, tt := range []struct {
		value string
		hint  time.Duration
	}{
		{"0", 0},
		{"1", time.Second},
		{" 7 ", 7 * time.Second},
		{"\t42\t", 42 * time.Second},
		{"007", 7 * time.Second},
		{"1.5", 1500 * time.Millisecond},
		{"60", time.Minute},
		{"61", 61 * time.Second},
		{"3600", time.Hour},
		{"9223372036", 365 * 24 * time.Hour}, // the largest that fits a Duration
		{"9223372037", 365 * 24 * time.Hour},
		{"9223372036854775807", 365 * 24 * time.Hour},
		{"9223372036854775808", 365 * 24 * time.Hour},
		{"99999999999999999999", 365 * 24 * time.Hour},
		{"30s", 30 * time.Second}, // in no RFC, but servers send it
		{"1m30s", 90 * time.Second},
		{date(30*time.Second, http.TimeFormat), 30 * time.Second},
		{date(30*time.Second, "Monday, 02-Jan-06 15:04:05 GMT"), 30 * time.Second},
		{date(30*time.Second, time.ANSIC), 30 * time.Second},
		{date(-time.Hour, http.TimeFormat), 0},
		{date(0, http.TimeFormat), 0},
		{"Fri, 31 Dec 9999 23:59:59 GMT", 365 * 24 * time.Hour},
		{"Mon, 01 Jan 0001 00:00:00 GMT", 0},
		{"", none},
		{" ", none},
		{"-1", none},
		{"-1s", none},
		{"+1", none},
		{"1e3", none},
		{"1e400", none},
		{"0x10", none},
		{"0b1", none},
		{"1_000", none},
		{"Inf", none},
		{"-Inf", none},
		{"NaN", none},
		{"null", none},
		{"soon", none},
		{"²", none},
		{"١٢", none},
		{"5 minutes", none},
		{"\x00", none},
		{"\xff", none},
		{"1.5.5", none},
		{"2026-10-21T07:28:00Z", none},
		{"Sat, 32 Jan 2000 00:00:00 GMT", none},
		{"120, 240", either},
		{".5", either},
		{"1.", either},
		{"1;q=1", either},
		{strings.Repeat("9", 1<<16), either},
		{strings.Repeat(" ", 1<<16) + "1", either},
		{"0." + strings.Repeat("0", 1<<16) + "1", either},
	} {
		for _, status := range []int{429, 503, 500, 404, 200} {
			t.Run(fmt.Sprintf("%d %.40q", status, tt.value), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					base := &answers{
						status: status, body: func() io.Reader { return strings.NewReader("") },
						header: http.Header{"Retry-After": {tt.value}, "Date": {date(0, http.TimeFormat)}},
					}
					client := newTransport(base, resilient.WithMaxAttempts(2), every(interval), resilient.WithMaxWait(maxWait))
					req := newRequest(t, http.MethodGet, "http://api.test/").WithContext(t.Context()) // no deadline
					begin := time.Now()
					resp, err := client.RoundTrip(req)
					took := time.Since(begin)

					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
					require.Equal(t, status, resp.StatusCode)
					apiErr, isErr := resilient.ErrorFromResponse(resp)
					if isErr {
						require.GreaterOrEqual(t, apiErr.RetryAfter, time.Duration(0))
						require.LessOrEqual(t, apiErr.RetryAfter, 365*24*time.Hour)
					}
					switch {
					case status == 404 || status == 200:
						require.Equal(t, 1, base.sent)
						require.Zero(t, took, "a final answer is not waited after")
					case tt.hint == either:
						require.LessOrEqual(t, took, maxWait)
					case tt.hint == none, tt.hint == 0:
						require.Equal(t, 2, base.sent)
						require.Equal(t, interval, took)
						require.Zero(t, apiErr.RetryAfter)
					case tt.hint > maxWait:
						require.Equal(t, 1, base.sent)
						require.Zero(t, took, "no shortened sleep")
						require.Equal(t, tt.hint, apiErr.RetryAfter, "the whole hint")
					default:
						require.Equal(t, 2, base.sent)
						require.GreaterOrEqual(t, took, tt.hint)
						require.LessOrEqual(t, took, min(tt.hint+interval, maxWait))
						require.Equal(t, tt.hint, apiErr.RetryAfter)
					}
				})
			})
		}
	}
}
