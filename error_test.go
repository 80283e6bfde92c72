package resilient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
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
	"github.com/resilienthttp/resilient/internal/cause"
)

// TestErrorObject: an error object that is malformed, cut or of another kind is
// still an error with its status, however long or deep it is. At most 64 KiB of
// it are parsed, and every byte of the body is still there.
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

// TestErrorFromResponseAfterAnSDK: an SDK reads and closes the body, and
// http.Client wraps it if it has a Timeout. The error object was lost then.
func TestErrorFromResponseAfterAnSDK(t *testing.T) {
	for _, tt := range []struct {
		name string
		body string
	}{
		{"body", `{"code":"c"}`},
		{"none", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			paid := resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
				a.Verdict.Kind = resilient.KindPaymentRequired
				return a.Verdict
			})
			base := step(func(req *http.Request) (*http.Response, error) {
				resp, err := answerWith(404, tt.body)(req)
				if tt.body == "" {
					resp.Body = http.NoBody
				}
				return resp, err
			})
			client := &http.Client{Timeout: time.Minute, Transport: resilient.NewTransport(base, paid)}
			resp, err := client.Do(get(t))
			require.NoError(t, err)
			require.Equal(t, tt.body, readAll(t, resp))
			e, ok := resilient.ErrorFromResponse(resp)
			require.True(t, ok)
			require.Equal(t, 1, e.Attempts)
			require.ErrorIs(t, e, resilient.ErrPaymentRequired, "the classifier's kind, as in the other two ways")
			require.Equal(t, tt.body, string(e.Body))
			if tt.body != "" {
				require.Equal(t, "c", e.Code)
			}
		})
	}
}

// TestErrorFromResponseWithoutARead: the record of a response is in its body, and is
// found beneath the bodies of others, whether or not the body was read or closed.
func TestErrorFromResponseWithoutARead(t *testing.T) {
	type body struct{ io.ReadCloser } // as middleware has one
	for _, tt := range []struct {
		name   string
		meddle func(*http.Response)
		code   string
	}{
		{"as it came", func(*http.Response) {}, "c"},
		{"closed", func(resp *http.Response) { _ = resp.Body.Close() }, ""},
		{"wrapped", func(resp *http.Response) { resp.Body = body{resp.Body} }, "c"},
		{"wrapped twice", func(resp *http.Response) { resp.Body = body{body{resp.Body}} }, "c"},
		{"wrapped by one that answers a Read of nothing itself", func(resp *http.Response) { resp.Body = http.MaxBytesReader(nil, resp.Body, 1<<20) }, "c"},
		{"wrapped and closed", func(resp *http.Response) { resp.Body = body{resp.Body}; _ = resp.Body.Close() }, ""},
		{"read and replaced", func(resp *http.Response) {
			text, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			resp.Body = io.NopCloser(bytes.NewReader(text))
		}, "c"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			transport := resilient.NewTransport(newSteps(answerWith(404, `{"code":"c"}`)))
			resp, err := transport.RoundTrip(get(t))
			require.NoError(t, err)
			defer resp.Body.Close()
			tt.meddle(resp)
			for range 2 {
				e, ok := resilient.ErrorFromResponse(resp)
				require.True(t, ok)
				require.Equal(t, 1, e.Attempts)
				require.Equal(t, resilient.ReasonFinalStatus, e.Reason)
				require.Equal(t, tt.code, e.Code)
			}
		})
	}
}

// TestErrorFromACopy: middleware that returns a copy of the response keeps its body, and
// what is known with it.
func TestErrorFromACopy(t *testing.T) {
	resp, err := resilient.NewTransport(newScript(answer(404))).RoundTrip(get(t))
	require.NoError(t, err)
	defer resp.Body.Close()
	other := *resp
	e, ok := resilient.ErrorFromResponse(&other)
	require.True(t, ok)
	require.Equal(t, 1, e.Attempts)
}

// TestAttemptsOfATransportBelow: they are found although a body of somebody else's is
// between the two.
func TestAttemptsOfATransportBelow(t *testing.T) {
	type body struct{ io.ReadCloser }
	for _, status := range []int{404, 500} {
		below := resilient.NewTransport(newScript(answer(500), answer(status)), every(0), resilient.WithMaxAttempts(2))
		between := step(func(req *http.Request) (*http.Response, error) {
			resp, err := below.RoundTrip(req)
			resp.Body = body{resp.Body}
			return resp, err
		})
		resp, err := resilient.NewTransport(between, every(0)).RoundTrip(get(t))
		require.NoError(t, err)
		e, ok := resilient.ErrorFromResponse(resp)
		require.True(t, ok)
		require.Equal(t, 2, e.Attempts)
		require.Equal(t, "m", e.Message)
		require.NoError(t, resp.Body.Close())
	}
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

// FuzzErrorFromResponse: whatever a body holds, it still reads as it came, and
// an error status is an error whose text is one short line that can be printed.
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

// TestErrorBodyEndsAsItCame: a body that was cut short is not passed off as
// whole.
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

func TestBodyThatNeverProgresses(t *testing.T) {
	resp, err := resilient.NewTransport(step(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 404, Header: http.Header{}, Body: io.NopCloser(failingReader{})}, nil
	})).RoundTrip(get(t))
	require.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	require.ErrorIs(t, err, io.ErrNoProgress)
	require.NoError(t, resp.Body.Close())
}

// backlink is a body that leads back to its response, as those of HTTP/2 do.
type backlink struct {
	io.Reader
	resp *http.Response
}

func (*backlink) Close() error { return nil }

// TestErrorResponsesAreLetGo: the responses remembered are bounded. The record
// of a response held its body, that held the response, and so none was ever
// freed.
func TestErrorResponsesAreLetGo(t *testing.T) {
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

// TestErrorIsOneShortLineWithoutSecrets: the text of an APIError is one short
// line of valid UTF-8 that can be printed, without a header value or the body.
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

// TestStatusErrors: WithStatusErrors gives an error in place of a response.
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

// TestLastErrorOfSeveral: a RetryError unwraps to the last error and to the
// answer before it.
func TestLastErrorOfSeveral(t *testing.T) {
	base := newScript(answer(503), fails(io.ErrUnexpectedEOF))
	_, err := (&http.Client{Transport: resilient.NewTransport(base, every(0), resilient.WithMaxAttempts(2))}).Do(get(t))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.ErrorIs(t, err, resilient.ErrServer, "the answer before it is not lost")
	var retried *resilient.RetryError
	require.ErrorAs(t, err, &retried)
	require.Equal(t, 2, retried.Attempts)
	require.False(t, retried.Timeout())
	require.Equal(t, []error{io.EOF}, (&resilient.RetryError{Err: io.EOF}).Unwrap())
}

// What ended a call was printed as it was: with the escape sequences a server
// had sent, and with the query of a base that is made of an http.Client.
func TestRetryErrorTextIsTame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("got \x1b[31m\r\nlevel=ERROR \xff\u2028 " + strings.Repeat("x", 1<<20))
		base := newScript(
			fails(&url.Error{Op: "Get", URL: "http://api.test/?token=s3cr3t", Err: io.ErrUnexpectedEOF}),
			fails(&url.Error{Op: "Get", URL: "http://api.test/?token=s3cr3t", Err: cause}),
		)
		_, err := resilient.NewTransport(base, resilient.WithMaxAttempts(2)).RoundTrip(get(t))
		require.ErrorIs(t, err, cause, "the error itself is there, whole")
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		text := err.Error()
		require.True(t, strings.HasPrefix(text, "resilient: gave up after attempt 2: got  [31m"), "%q", text)
		require.True(t, strings.HasSuffix(text, "(before: unexpected EOF)"), "%q", text)
		require.NotContains(t, text, "s3cr3t")
		require.Less(t, len(text), 2<<10)
		for _, r := range text {
			require.True(t, r == unicode.ReplacementChar || unicode.IsPrint(r), "%q", r)
		}
	})
}

type timeoutOnlyError struct{ error }

func (timeoutOnlyError) Timeout() bool { return true }

// TestTimeoutIsKept: a RetryError keeps Timeout, which *url.Error asks for
// alone. Temporary is deprecated and left out.
func TestTimeoutIsKept(t *testing.T) {
	_, err := (&http.Client{Transport: resilient.NewTransport(newScript(fails(timeoutOnlyError{io.EOF})), every(0))}).Do(get(t))
	var u *url.Error
	require.ErrorAs(t, err, &u)
	require.True(t, u.Timeout())
	require.False(t, (&resilient.RetryError{Err: &resilient.LimitError{Err: timeoutOnlyError{io.EOF}}}).Timeout(), "nothing was sent")
}

// The error of a caller's Limiter may have a URL in it, as that of a store has.
func TestLimitErrorTextHasNoSecrets(t *testing.T) {
	err := &resilient.LimitError{Reason: "limiter", Err: errors.New("dial redis://user:hunter2@redis.test:6379/0?key=hunter2: refused")}
	require.Equal(t, "resilient: not sent: the client-side limiter does not let it go: "+
		"dial redis://redis.test:6379/0: refused", err.Error())
}

// TestErrorMarkers is what SDKs look for on an error, by the interfaces that they
// write down on their side.
func TestErrorMarkers(t *testing.T) {
	apiError := &resilient.APIError{StatusCode: 429, Kind: resilient.KindRateLimit}
	tests := []struct {
		name      string
		err       error
		errorType string
		why       string
	}{
		{"error status", apiError, "429", "what OpenTelemetry's conventions say of HTTP"},
		{
			"error in a success", &resilient.APIError{StatusCode: 200, Kind: resilient.KindRateLimit}, "rate limit",
			"200 is no type of error",
		},
		{"client-side limit", &resilient.LimitError{Reason: "pause"}, "limited", "DoneInfo calls it so"},
		{"limit before a retry", &resilient.RetryError{Err: &resilient.LimitError{}, Last: apiError}, "limited", "what ended the call"},
		{"deadline before a retry", &resilient.RetryError{Err: context.DeadlineExceeded, Last: apiError}, "timeout", "the same"},
		{"canceled", &resilient.RetryError{Err: context.Canceled, Last: apiError}, "canceled", "the same"},
		{"connection", &resilient.RetryError{Err: &net.OpError{Op: "read", Err: io.EOF}}, "*net.OpError", "there is no better name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			above := &url.Error{Op: "Get", URL: "http://api.test/", Err: tt.err} // as http.Client returns it
			azure, ok := errors.AsType[interface {
				error
				NonRetriable()
			}](above)
			require.True(t, ok)
			azure.NonRetriable()
			aws, ok := errors.AsType[interface {
				error
				RetryableError() bool
			}](above)
			require.True(t, ok)
			require.False(t, aws.RetryableError(), "it was retried here, or is final")
			otel, ok := errors.AsType[interface {
				error
				ErrorType() string
			}](above)
			require.True(t, ok)
			require.Equal(t, tt.errorType, otel.ErrorType(), tt.why)
		})
	}
}

// TestNoAPIError: the APIError of an attempt without an error is nil, and hooks ask it
// for its kind all the same.
func TestNoAPIError(t *testing.T) {
	var a resilient.AttemptInfo
	require.NotErrorIs(t, error(a.APIError), resilient.ErrRateLimit)
}

// TestErrorsExplainThemselves: a report of failures needs no hook. The error itself says
// why there was no further attempt, and whether the request may have been processed.
func TestErrorsExplainThemselves(t *testing.T) {
	for _, tt := range []struct {
		why         string
		req         func(testing.TB) *http.Request
		steps       []step
		reason      string
		unprocessed bool
	}{
		{"a final status", get, []step{answer(404)}, resilient.ReasonFinalStatus, false},
		{"no more attempts", get, []step{answer(500)}, resilient.ReasonOutOfAttempts, false},
		{"a POST", post, []step{answer(500)}, resilient.ReasonNotIdempotent, false},
		{"refused each time", post, []step{answer(429)}, resilient.ReasonOutOfAttempts, true},
		{"refused in the end, after it may have been processed", get, []step{answer(500), answer(429)}, resilient.ReasonOutOfAttempts, false},
		{"a wait that is too long", post, []step{answer(429, "Retry-After", "7200")}, resilient.ReasonMaxWait, true},
	} {
		for _, asErrors := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				var kept *resilient.APIError
				transport := resilient.NewTransport(newScript(tt.steps...), every(0), resilient.WithStatusErrors(asErrors), resilient.WithTrace(&resilient.Trace{
					AttemptDone: func(a resilient.AttemptInfo) { kept = a.APIError },
				}))
				resp, err := transport.RoundTrip(tt.req(t))
				var e *resilient.APIError
				if asErrors {
					require.ErrorAs(t, err, &e)
				} else {
					require.NoError(t, err)
					e, _ = resilient.ErrorFromResponse(resp)
					require.NoError(t, resp.Body.Close())
				}
				require.Equal(t, tt.reason, e.Reason, tt.why)
				require.Equal(t, tt.unprocessed, e.Unprocessed, tt.why)
				require.Empty(t, kept.Reason, "what a hook has kept is not written to")
			})
		}
	}
	e, ok := resilient.ErrorFromResponse(&http.Response{StatusCode: 404, Header: http.Header{}, Body: http.NoBody})
	require.True(t, ok)
	require.Empty(t, e.Reason, "it came from elsewhere")
}

// TestPrefixOnce: an error within an error says once where it comes from.
func TestPrefixOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(500), fails(io.ErrUnexpectedEOF))
		_, err := resilient.NewTransport(base, every(0)).RoundTrip(get(t))
		require.EqualError(t, err, "resilient: gave up after attempt 4: unexpected EOF")
		base = newScript(fails(io.ErrUnexpectedEOF), answer(500))
		_, err = resilient.NewTransport(base, every(0), resilient.WithStatusErrors(true)).RoundTrip(get(t))
		require.EqualError(t, err, "resilient: status 500 T (Internal Server Error): m")
		retry := &resilient.RetryError{Attempts: 2, Err: &resilient.LimitError{Reason: "pause", Bound: "WithMaxWait"}, Last: &resilient.APIError{StatusCode: 429}}
		require.EqualError(t, retry, "resilient: gave up after attempt 2: not sent: the client-side pause would hold it longer than WithMaxWait allows (before: status 429)")
	})
}

// TestCause: what a package above a Transport has added to a response is in its error, in
// one line and without secrets.
func TestCause(t *testing.T) {
	added := fmt.Errorf("reauth: refresh failed: %w", errors.New("resilient: status 400\nat https://id.test/token?secret=s3cret"))
	for _, base := range []http.RoundTripper{newScript(answer(401)), resilient.NewTransport(newScript(answer(401)))} {
		resp, err := base.RoundTrip(get(t))
		require.NoError(t, err)
		cause.Attach(resp, added)
		for range 2 {
			apiErr, ok := resilient.ErrorFromResponse(resp)
			require.True(t, ok)
			require.ErrorIs(t, apiErr, added)
			require.ErrorIs(t, apiErr, resilient.ErrAuthentication)
			require.EqualError(t, apiErr, "resilient: status 401 T (Unauthorized): m; reauth: refresh failed: resilient: status 400 at https://id.test/token")
		}
		require.NoError(t, resp.Body.Close())
	}
	var none *resilient.APIError
	require.NotErrorIs(t, none, added, "that of an AttemptInfo may be nil")
}
