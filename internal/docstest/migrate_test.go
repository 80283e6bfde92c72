package docstest_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/PuerkitoBio/rehttp"
	"github.com/cenkalti/backoff/v4"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/failsafe-go/failsafe-go/ratelimiter"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	"github.com/failsafe-go/failsafe-go/timeout"
	"github.com/hashicorp/go-retryablehttp"
	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

// failsafeClients returns the clients before and after, of the page.
func failsafeClients() (before, after *http.Client) {
	{
		// docs: migrate failsafe before
		retries := failsafehttp.NewRetryPolicyBuilder().
			WithMaxRetries(3).
			WithBackoff(500*time.Millisecond, 10*time.Second).
			WithJitterFactor(.5).
			ReturnLastFailure().
			Build()
		client := &http.Client{Transport: failsafehttp.NewRoundTripper(nil,
			retries, timeout.New[*http.Response](30*time.Second))} // the inner one, of each attempt
		// end
		before = client
	}
	{
		// docs: migrate failsafe after
		client := &http.Client{Transport: resilient.NewTransport(nil,
			resilient.WithMaxAttempts(4), // the default
			resilient.WithBackOff(func() backoff.BackOff {
				return backoff.NewExponentialBackOff(
					backoff.WithMultiplier(2), backoff.WithMaxInterval(10*time.Second))
			}),
			resilient.WithAttemptTimeout(30*time.Second),
		)}
		// end
		after = client
	}
	return before, after
}

// rehttpClients returns the clients before and after, of the page.
func rehttpClients() (before, after *http.Client) {
	{
		// docs: migrate rehttp before
		transport := rehttp.NewTransport(nil,
			rehttp.RetryAll(
				rehttp.RetryMaxRetries(3),
				rehttp.RetryHTTPMethods(http.MethodGet, http.MethodPut, http.MethodDelete),
				rehttp.RetryAny(rehttp.RetryStatuses(429, 502, 503, 504), rehttp.RetryTimeoutErr()),
			),
			rehttp.ExpJitterDelay(500*time.Millisecond, 10*time.Second),
		)
		transport.PerAttemptTimeout = 30 * time.Second
		client := &http.Client{Transport: transport}
		// end
		before = client
	}
	{
		// docs: migrate rehttp after
		client := &http.Client{Transport: resilient.NewTransport(nil,
			resilient.WithMaxAttempts(4), // the default
			resilient.WithAttemptTimeout(30*time.Second),
		)}
		// end
		after = client
	}
	return before, after
}

func TestBeforeAndAfter(t *testing.T) {
	script := answer(t, resilienttest.Status(503), resilienttest.Status(429, "Retry-After", "1"), resilienttest.Status(200))
	synctest.Test(t, func(t *testing.T) {
		for _, clients := range []func() (before, after *http.Client){failsafeClients, rehttpClients} {
			before, after := clients()
			for _, client := range []*http.Client{before, after} {
				script.Reset()
				status, _, err := get(t.Context(), t, client, api)
				require.NoError(t, err)
				require.Equal(t, 200, status)
				require.Equal(t, 3, script.Count())
			}
		}
	})
}

// TestTheOthers: what the page says of the other packages.
func TestTheOthers(t *testing.T) {
	failsafe := func(b retrypolicy.Builder[*http.Response]) *http.Client {
		return &http.Client{Transport: failsafehttp.NewRoundTripper(nil, b.Build())}
	}
	retryable := func() *retryablehttp.Client {
		c := retryablehttp.NewClient()
		c.HTTPClient, c.Logger = &http.Client{}, nil
		return c
	}
	rehttpClient := func() *http.Client {
		return &http.Client{Transport: rehttp.NewTransport(nil,
			rehttp.RetryAll(rehttp.RetryMaxRetries(2), rehttp.RetryStatusInterval(429, 600)), rehttp.ConstDelay(time.Second))}
	}
	script := answer(t, resilienttest.Status(500), resilienttest.Status(200))
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		all := map[string]*http.Client{
			"go-retryablehttp": retryable().StandardClient(), "rehttp": rehttpClient(),
			"failsafe-go": failsafe(failsafehttp.NewRetryPolicyBuilder()),
		}
		for name, client := range all {
			script.Reset(resilienttest.Status(500), resilienttest.Status(200))
			_, _, err := post(ctx, t, client, api, "{}")
			require.NoError(t, err)
			require.Equal(t, 2, script.Count(), "%s sends a POST again", name)

			script.Reset(resilienttest.Status(429, "Retry-After", "7200"), resilienttest.Status(200))
			began := time.Now()
			_, _, err = get(ctx, t, client, api)
			require.NoError(t, err)
			if name == "rehttp" {
				require.Equal(t, time.Second, time.Since(began), "rehttp does not read Retry-After")
			} else {
				require.Equal(t, 2*time.Hour, time.Since(began), "%s waits for any time", name)
			}
		}

		script.Reset(resilienttest.Status(500))
		_, _, err := get(ctx, t, retryable().StandardClient(), api)
		require.ErrorContains(t, err, "giving up after 5 attempt(s)")
		began := time.Now()
		_, _, err = get(ctx, t, failsafe(failsafehttp.NewRetryPolicyBuilder()), api)
		require.ErrorIs(t, err, retrypolicy.ErrExceeded)
		require.Zero(t, time.Since(began), "failsafe-go does not wait by default")
		status, _, err := get(ctx, t, rehttpClient(), api)
		require.NoError(t, err)
		require.Equal(t, 500, status)

		// failsafe-go does not close the body of a response that is discarded.
		first := &closeNoticer{Reader: strings.NewReader("{}")}
		script.Reset(resilienttest.Answer{Func: func(req *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 500, Header: http.Header{}, Body: first, Request: req}, nil
		}}, resilienttest.Status(200))
		_, _, err = get(ctx, t, failsafe(failsafehttp.NewRetryPolicyBuilder()), api)
		require.NoError(t, err)
		require.False(t, first.closed)

		// The context ends while rehttp waits.
		script.Reset(resilienttest.Status(500))
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		_, err = rehttpClient().Transport.RoundTrip(httptest.NewRequestWithContext(short, http.MethodGet, api, http.NoBody))
		require.EqualError(t, err, "net/http: request canceled")

		// A limiter of failsafe-go refuses, and ours waits.
		script.Reset(resilienttest.Status(200))
		limited := &http.Client{Transport: failsafehttp.NewRoundTripper(nil, ratelimiter.NewSmooth[*http.Response](1, time.Second))}
		_, _, err = get(ctx, t, limited, api)
		require.NoError(t, err)
		_, _, err = get(ctx, t, limited, api)
		require.ErrorIs(t, err, ratelimiter.ErrExceeded)

		// The timeout of the client inside go-retryablehttp is that of an attempt.
		script.Reset(resilienttest.Answer{Delay: time.Minute}, resilienttest.Answer{Delay: time.Second})
		c := retryable()
		c.HTTPClient.Timeout = 30 * time.Second
		_, _, err = get(ctx, t, c.StandardClient(), api)
		require.NoError(t, err)
		require.Equal(t, 2, script.Count())
		// Over a Transport it is that of the call.
		script.Reset()
		ours := &http.Client{Transport: resilient.NewTransport(nil), Timeout: 30 * time.Second}
		_, _, err = get(ctx, t, ours, api)
		require.Error(t, err)
		require.Equal(t, 1, script.Count())
	})
}

type closeNoticer struct {
	io.Reader
	closed bool
}

func (c *closeNoticer) Close() error {
	c.closed = true
	return nil
}

// TestRedirects: go-retryablehttp follows redirects in an attempt, and each hop of a
// client over a Transport is a call.
func TestRedirects(t *testing.T) {
	hops := resilienttest.New(
		resilienttest.Status(302, "Location", "/b"), resilienttest.Status(503), resilienttest.Status(200))
	srv := httptest.NewServer(hops)
	defer srv.Close()
	paths := func() (all []string) {
		for _, attempt := range hops.Attempts() {
			all = append(all, attempt.URL)
		}
		return all
	}
	_, _, err := get(t.Context(), t, &http.Client{Transport: resilient.NewTransport(nil)}, srv.URL+"/a")
	require.NoError(t, err)
	require.Equal(t, []string{"/a", "/b", "/b"}, paths())

	hops.Reset()
	c := retryablehttp.NewClient()
	c.Logger, c.RetryWaitMin = nil, time.Millisecond
	_, _, err = get(t.Context(), t, c.StandardClient(), srv.URL+"/a")
	require.NoError(t, err)
	require.Equal(t, []string{"/a", "/b", "/a"}, paths())
}

func TestMigrationOptions(t *testing.T) {
	script := answer(t, resilienttest.Status(409), resilienttest.Status(200))
	synctest.Test(t, func(t *testing.T) {
		// docs: migrate classifier
		conflicts := resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
			v := a.Verdict // the default
			if a.StatusCode == http.StatusConflict {
				v.Retry, v.Unprocessed, v.Reason = true, true, "conflict" // sent again whatever the method
			}
			return v
		})
		// end
		client := &http.Client{Transport: resilient.NewTransport(nil, conflicts)}
		_, _, err := post(t.Context(), t, client, api, "{}")
		require.NoError(t, err)
		require.Equal(t, 2, script.Count())

		script.Reset(resilienttest.Status(500))
		// docs: migrate as before
		transport := resilient.NewTransport(nil,
			resilient.WithRetryNonIdempotent(true),    // POSTs are sent again after any failure
			resilient.WithRetryBudget(math.Inf(1), 0), // however many calls fail
			resilient.WithMaxWait(time.Hour),          // for a long Retry-After
			resilient.WithLearnedRate(false),          // a refusal holds back no other request
			resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
				a.Verdict.Pause = false // nor does a Retry-After
				return a.Verdict
			}),
		)
		// end
		client = &http.Client{Transport: transport}
		for range 20 {
			_, _, err = post(t.Context(), t, client, api, "{}")
			require.NoError(t, err)
		}
		require.Equal(t, 80, script.Count())

		// One request waits for half an hour, and the others do not.
		script.Reset(resilienttest.Status(429, "Retry-After", "1800"), resilienttest.Status(200))
		began := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { _, _, _ = get(t.Context(), t, client, api) })
		synctest.Wait()
		for range 9 {
			_, _, err = get(t.Context(), t, client, api)
			require.NoError(t, err)
		}
		require.Less(t, time.Since(began), time.Second)
		wg.Wait()
		require.Equal(t, 11, script.Count())

		script.Reset(resilienttest.Status(503))
		client = &http.Client{Transport: resilient.NewTransport(nil, resilient.WithStatusErrors(true))}
		_, _, err = get(t.Context(), t, client, api)
		var message string
		// docs: migrate errors
		apiErr, ok := errors.AsType[*resilient.APIError](err)
		if ok {
			message = apiErr.Message // of the last answer, after apiErr.Attempts attempts
		}
		// end
		require.Equal(t, 4, apiErr.Attempts)
		require.NotEmpty(t, message)
	})
}
