package resilienttest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

func newRequest(tb testing.TB, method, url, body string) *http.Request {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, url, strings.NewReader(body))
	require.NoError(tb, err)
	return req
}

// side is a test of one of the two things that a Script is.
type side struct {
	*testing.T
	start func(...resilienttest.Answer) (script *resilienttest.Script, base http.RoundTripper, url string)
}

// both runs test over a Script as it is, in virtual time, and over one behind a
// real server.
func both(t *testing.T, test func(side)) {
	t.Helper()
	t.Run("base", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			test(side{t, func(answers ...resilienttest.Answer) (*resilienttest.Script, http.RoundTripper, string) {
				s := resilienttest.New(answers...)
				return s, s, "http://api.test"
			}})
		})
	})
	t.Run("server", func(t *testing.T) {
		test(side{t, func(answers ...resilienttest.Answer) (*resilienttest.Script, http.RoundTripper, string) {
			s := resilienttest.New(answers...)
			srv := httptest.NewServer(s)
			t.Cleanup(srv.Close)
			base := &http.Transport{DisableKeepAlives: true} // else net/http may send again by itself
			t.Cleanup(base.CloseIdleConnections)
			return s, base, srv.URL
		}})
	})
}

func TestAnswersInTurn(t *testing.T) {
	both(t, func(t side) {
		s, base, url := t.start(
			resilienttest.Status(503),
			resilienttest.Status(429, "Retry-After-Ms", "5", "X-Two", "1", "X-Two", "2"),
			resilienttest.Answer{Lost: true},
			resilienttest.Answer{Body: "text", Header: http.Header{"Content-Type": {"text/plain"}}},
			resilienttest.Answer{},
		)
		transport := resilient.NewTransport(base, resilient.WithBackOff(resilienttest.NoJitter))
		resp, err := transport.RoundTrip(newRequest(t, http.MethodPut, url+"/v1?q=1", "payload"))
		require.NoError(t, err)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, "text", string(b))
		require.Equal(t, "text/plain", resp.Header.Get("Content-Type"))

		attempts := s.Attempts()
		require.Len(t, attempts, 4)
		require.Equal(t, 4, s.Count())
		for _, a := range attempts {
			require.Equal(t, http.MethodPut, a.Method)
			require.True(t, strings.HasSuffix(a.URL, "/v1?q=1"), a.URL)
			require.Equal(t, "payload", string(a.Body), "whole at each attempt")
			require.Equal(t, http.MethodPut, a.Request.Method)
		}
		waits := s.Waits()
		require.Len(t, waits, 3)
		require.GreaterOrEqual(t, waits[1], 5*time.Millisecond)

		for range 2 { // the last answer, ever after
			resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, url, ""))
			require.NoError(t, err)
			b, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, "{}", string(b))
			require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
		}
	})
}

// TestFunc has an answer that depends on the request, and one that no field can
// say.
func TestFunc(t *testing.T) {
	both(t, func(t side) {
		s, base, url := t.start(resilienttest.Answer{Delay: 20 * time.Millisecond, Func: func(req *http.Request) (*http.Response, error) {
			switch req.URL.Path {
			case "/ok":
				return resilienttest.Answer{Body: "by a field"}.Response(req)
			case "/own":
				return &http.Response{StatusCode: 599, Header: http.Header{"X-Own": {"1"}}, Body: io.NopCloser(strings.NewReader("of its own"))}, nil
			case "/bare":
				return &http.Response{StatusCode: 200}, nil
			}
			return nil, io.ErrUnexpectedEOF
		}})
		for _, tt := range []struct {
			path   string
			status int
			body   string
			typ    string
			why    string
		}{
			{"/ok", 200, "by a field", "application/json", "another Answer may make it"},
			{"/own", 599, "of its own", "", "nothing is added to what the function made"},
			{"/bare", 200, "", "", "a response without a body has none"},
			{"/lost", 0, "", "", "an error in place of a response"},
		} {
			begin := time.Now()
			resp, err := base.RoundTrip(newRequest(t, http.MethodPost, url+tt.path, "payload"))
			require.GreaterOrEqual(t, time.Since(begin), 20*time.Millisecond, "the delay is the script's")
			if tt.status == 0 {
				require.Error(t, err, tt.why)
				continue
			}
			require.NoError(t, err)
			require.Equal(t, tt.status, resp.StatusCode)
			require.Equal(t, tt.typ, resp.Header.Get("Content-Type"), tt.why)
			if resp.Body != nil {
				b, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, tt.body, string(b), tt.why)
			}
		}
		require.Equal(t, 4, s.Count())
		require.Equal(t, "payload", string(s.Attempts()[3].Body), "the script has read it")
	})
}

func TestErr(t *testing.T) {
	gone := errors.New("gone")
	both(t, func(t side) {
		s, base, url := t.start(resilienttest.Answer{Status: 200, Err: gone}, resilienttest.Answer{})
		_, err := base.RoundTrip(newRequest(t, http.MethodGet, url, ""))
		require.Error(t, err)
		if base == http.RoundTripper(s) {
			require.Equal(t, gone, err, "the error itself, wrapped in nothing")
		} else {
			require.ErrorIs(t, err, io.EOF, "a server can only break the connection")
		}
		resp, err := base.RoundTrip(newRequest(t, http.MethodGet, url, ""))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	})
}

// TestResponse shows an Answer at work without a Script.
func TestResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req := newRequest(t, http.MethodPut, "http://api.test", "payload")
		begin := time.Now()
		resp, err := resilienttest.Answer{Status: 201, Delay: time.Hour}.Response(req)
		require.NoError(t, err)
		require.Equal(t, "201 Created", resp.Status)
		require.Same(t, req, resp.Request)
		require.Equal(t, time.Hour, time.Since(begin))
		b, err := io.ReadAll(req.Body)
		require.NoError(t, err)
		require.Equal(t, "payload", string(b), "the request's body is left alone")
		_, err = resilienttest.Answer{Lost: true}.Response(req)
		require.Error(t, err)
	})
}

func TestReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := resilienttest.New(resilienttest.Status(201), resilienttest.Status(202))
		statuses := func() (all [2]int) {
			for i := range all {
				resp, err := script.RoundTrip(newRequest(t, http.MethodGet, "http://api.test", ""))
				require.NoError(t, err)
				all[i] = resp.StatusCode
				time.Sleep(time.Second)
			}
			return all
		}
		require.Equal(t, [2]int{201, 202}, statuses())
		script.Reset()
		require.Zero(t, script.Count())
		require.Empty(t, script.Attempts())
		require.Empty(t, script.Waits())
		require.Empty(t, script.Gaps())
		require.Equal(t, [2]int{201, 202}, statuses(), "the same answers from the first on")
		script.Reset(resilienttest.Status(203))
		require.Equal(t, [2]int{203, 203}, statuses(), "others in their place")
		require.Equal(t, []time.Duration{time.Second}, script.Waits(), "none was waited for from before")
	})
}

func TestResetWhileARequestIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := resilienttest.New(resilienttest.Answer{Status: 201, Delay: time.Minute})
		time.AfterFunc(time.Second, func() { script.Reset(resilienttest.Status(202)) })
		resp, err := script.RoundTrip(newRequest(t, http.MethodGet, "http://api.test", ""))
		require.NoError(t, err)
		require.Equal(t, 201, resp.StatusCode, "the answer that it came for")
		require.Zero(t, script.Count())
	})
}

func TestErrorObjects(t *testing.T) {
	both(t, func(t side) {
		tests := []struct {
			status int
			kind   error
			typ    string
		}{
			{400, resilient.ErrInvalidRequest, "INVALID_REQUEST_ERROR"},
			{402, resilient.ErrPaymentRequired, "PAYMENT_REQUIRED_ERROR"},
			{403, resilient.ErrAuthentication, "AUTHENTICATION_ERROR"},
			{404, resilient.ErrNotFound, "NOT_FOUND_ERROR"},
			{422, resilient.ErrInvalidRequest, "INVALID_REQUEST_ERROR"},
			{429, resilient.ErrRateLimit, "RATE_LIMIT_ERROR"},
			{500, resilient.ErrServer, "SERVER_ERROR"},
			{503, resilient.ErrServer, "SERVER_ERROR"},
		}
		for _, tt := range tests {
			_, base, url := t.start(resilienttest.Status(tt.status))
			transport := resilient.NewTransport(base, resilient.WithMaxAttempts(1), resilient.WithStatusErrors(true))
			_, err := transport.RoundTrip(newRequest(t, http.MethodGet, url, ""))
			require.ErrorIs(t, err, tt.kind)
			apiErr, ok := errors.AsType[*resilient.APIError](err)
			require.True(t, ok)
			require.Equal(t, tt.typ, apiErr.Type)
			require.Equal(t, http.StatusText(tt.status), apiErr.Message)
			require.Equal(t, tt.status == 400, len(apiErr.Invalid) == 1)
		}
	})
}

func TestLostAndSlowBodies(t *testing.T) {
	both(t, func(t side) {
		_, base, url := t.start(
			resilienttest.Answer{Status: 200, Body: "whole", Lost: true},
			resilienttest.Answer{Status: 200, Body: "whole", BodyDelay: 20 * time.Millisecond},
		)
		get := func() (string, time.Duration, error) {
			resp, err := base.RoundTrip(newRequest(t, http.MethodGet, url, ""))
			require.NoError(t, err, "the header arrives")
			defer resp.Body.Close()
			begin := time.Now()
			b, err := io.ReadAll(resp.Body)
			return string(b), time.Since(begin), err
		}
		got, _, err := get()
		require.Equal(t, "wh", got)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		got, took, err := get()
		require.NoError(t, err)
		require.Equal(t, "whole", got)
		require.Greater(t, took, 10*time.Millisecond) // a server's clock starts a little earlier
	})
}

func TestNoBody(t *testing.T) {
	both(t, func(t side) {
		for _, tt := range []struct {
			name   string
			method string
			answer resilienttest.Answer
			length int64
		}{
			{"the answer to a HEAD", http.MethodHead, resilienttest.Answer{Status: 404, Body: "12345"}, 5},
			{"a status without content", http.MethodGet, resilienttest.Status(204), 0},
			{"not modified", http.MethodGet, resilienttest.Status(304), 0},
			{"left out", http.MethodGet, resilienttest.Answer{Status: 404, NoBody: true}, 0},
			{"left out, of text", http.MethodGet, resilienttest.Answer{Body: "text", NoBody: true}, 0},
		} {
			_, base, url := t.start(tt.answer)
			resp, err := base.RoundTrip(newRequest(t, tt.method, url, ""))
			require.NoError(t, err)
			b, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Empty(t, b, tt.name)
			require.Equal(t, tt.length, resp.ContentLength, tt.name)
			require.Equal(t, tt.length > 0, resp.Header.Get("Content-Type") != "", "%s: the type is that of a body", tt.name)
		}
	})
}

func TestContentType(t *testing.T) {
	both(t, func(t side) {
		for _, tt := range []struct {
			name   string
			header http.Header
			want   []string
		}{
			{"not given", nil, []string{"application/json"}},
			{"given", http.Header{"Content-Type": {"text/plain"}}, []string{"text/plain"}},
			{"nil", http.Header{"Content-Type": nil}, nil},
		} {
			_, base, url := t.start(resilienttest.Answer{Header: tt.header, Body: "<html>"})
			resp, err := base.RoundTrip(newRequest(t, http.MethodGet, url, ""))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, tt.want, resp.Header["Content-Type"], tt.name)
		}
	})
}

func TestExactWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := resilienttest.New(
			resilienttest.Answer{Status: 503, Delay: time.Hour},
			resilienttest.Status(429, "Retry-After", "5"),
			resilienttest.Status(200),
		)
		transport := resilient.NewTransport(script, resilient.WithBackOff(resilienttest.NoJitter))
		begin := time.Now()
		resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://api.test", ""))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, []time.Duration{0, 5 * time.Second}, script.Waits(), "an answer's delay is no wait")
		require.Equal(t, []time.Duration{time.Hour, 5 * time.Second}, script.Gaps(), "it is part of a gap")
		attempts := script.Attempts()
		require.Equal(t, begin, attempts[0].At)
		require.Equal(t, time.Hour+5*time.Second, attempts[2].At.Sub(begin))
	})
}

func TestOverlappingAttemptsDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := resilienttest.New(resilienttest.Answer{Delay: time.Second})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				_, err := script.RoundTrip(newRequest(t, http.MethodGet, "http://api.test", ""))
				require.NoError(t, err)
			})
		}
		wg.Wait()
		time.Sleep(time.Minute)
		_, err := script.RoundTrip(newRequest(t, http.MethodGet, "http://api.test", ""))
		require.NoError(t, err)
		require.Equal(t, []time.Duration{0, time.Minute}, script.Waits())
	})
}

func TestContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := errors.New("ended")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, ended)
		defer cancel()
		script := resilienttest.New(resilienttest.Answer{BodyDelay: time.Hour}, resilienttest.Answer{Delay: time.Hour})
		req := newRequest(t, http.MethodGet, "http://api.test", "").WithContext(ctx)
		resp, err := script.RoundTrip(req)
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		require.ErrorIs(t, err, ended)
		_, err = script.RoundTrip(req)
		require.ErrorIs(t, err, ended)
	})
}

// TestCloseEndsASlowRead is what net/http does, and what ends a goroutine that
// reads ahead.
func TestCloseEndsASlowRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := resilienttest.New(resilienttest.Answer{BodyDelay: time.Hour})
		resp, err := script.RoundTrip(newRequest(t, http.MethodGet, "http://api.test", ""))
		require.NoError(t, err)
		read := make(chan error)
		go func() {
			_, err := io.ReadAll(resp.Body)
			read <- err
		}()
		synctest.Wait()
		require.NoError(t, resp.Body.Close())
		require.ErrorIs(t, <-read, http.ErrBodyReadAfterClose)
		require.NoError(t, resp.Body.Close())
		_, err = resp.Body.Read(make([]byte, 1))
		require.ErrorIs(t, err, http.ErrBodyReadAfterClose)
	})
}

func TestRequestBodyFails(t *testing.T) {
	broken := errors.New("broken")
	script := resilienttest.New(resilienttest.Answer{})
	req := newRequest(t, http.MethodPut, "http://api.test", "")
	req.Body = io.NopCloser(io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken)))
	_, err := script.RoundTrip(req)
	require.ErrorIs(t, err, broken)
	require.Equal(t, "half", string(script.Attempts()[0].Body), "what arrived of it")
}

func TestNonsensePanics(t *testing.T) {
	require.Panics(t, func() { resilienttest.New() })
	require.Panics(t, func() { resilienttest.Status(200, strings.Fields("Retry-After")...) })
}
