package docstest_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/endpoints"
	"github.com/resilienthttp/resilient/hedge"
	"github.com/resilienthttp/resilient/otelresilient"
	"github.com/resilienthttp/resilient/reauth"
	"github.com/resilienthttp/resilient/resilienttest"
	"github.com/resilienthttp/resilient/resume"
)

func TestBackfill(t *testing.T) {
	script := answer(t, resilienttest.Status(429), resilienttest.Status(200))
	synctest.Test(t, func(t *testing.T) {
		client := &http.Client{Transport: resilient.NewTransport(nil,
			resilient.WithRateLimit(10, 2), resilient.WithMaxInFlight(64))}
		var bodies []string
		for i := range 200 {
			bodies = append(bodies, strconv.Itoa(i))
		}
		ctx := t.Context()
		do := func(ctx context.Context, body string) {
			status, _, err := post(ctx, t, client, api, body)
			if err != nil || status != 200 {
				t.Error(body, status, err)
			}
		}
		// docs: recipes backfill
		work := make(chan string)
		var workers sync.WaitGroup
		for range 64 { // as many as WithMaxInFlight; the Transport holds them back
			workers.Go(func() {
				for body := range work {
					do(ctx, body)
				}
			})
		}
		for _, body := range bodies {
			work <- body
		}
		close(work)
		workers.Wait()
		// end
		require.Equal(t, 201, script.Count())
	})
}

// TestDownload: the connection breaks after half of the file.
func TestDownload(t *testing.T) {
	const content = "the first half, and the second half"
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		if asked++; asked == 1 {
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
			_, _ = io.WriteString(w, content[:16])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(w, req, "", time.Time{}, strings.NewReader(content))
	}))
	defer srv.Close()
	name := filepath.Join(t.TempDir(), "file")
	require.NoError(t, download(t.Context(), srv.URL, name))
	got, err := os.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, content, string(got))
	require.Equal(t, 2, asked)
}

func download(ctx context.Context, url, name string) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer file.Close()
	// docs: recipes download
	client := &http.Client{Transport: resume.NewTransport(resilient.NewTransport(nil,
		resilient.WithIdleTimeout(30*time.Second), // a link may also fall silent
	))}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept-Encoding", "identity") // gzip cannot be resumed
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if apiErr, ok := resilient.ErrorFromResponse(resp); ok {
		return apiErr
	}
	_, err = io.Copy(file, resp.Body)
	return err
	// end
}

// docs: recipes signer

// signer signs each request with the time at which it is sent.
type signer struct {
	base   http.RoundTripper
	secret []byte
}

func (s signer) RoundTrip(req *http.Request) (*http.Response, error) {
	date := time.Now().UTC().Format(http.TimeFormat)
	mac := hmac.New(sha256.New, s.secret)
	fmt.Fprintf(mac, "%s\n%s\n%s", req.Method, req.URL.RequestURI(), date)
	signed := req.Clone(req.Context()) // the Transport's request must not be written to
	signed.Header.Set("Date", date)
	signed.Header.Set("Authorization", "HMAC "+hex.EncodeToString(mac.Sum(nil)))
	return s.base.RoundTrip(signed)
}

// end

func TestSigner(t *testing.T) {
	script := answer(t, resilienttest.Status(429, "Retry-After", "60"), resilienttest.Status(200))
	synctest.Test(t, func(t *testing.T) {
		secret := []byte("secret")
		// docs: recipes signed
		client := &http.Client{Transport: resilient.NewTransport(
			signer{base: http.DefaultTransport, secret: secret},
		)}
		// end
		status, _, err := get(t.Context(), t, client, api)
		require.NoError(t, err)
		require.Equal(t, 200, status)
		first, second := script.Attempts()[0].Header, script.Attempts()[1].Header
		require.NotEqual(t, first.Get("Date"), second.Get("Date"))
		require.NotEqual(t, first.Get("Authorization"), second.Get("Authorization"))
	})
}

// tokens is a source of tokens that are good for one use.
type tokens struct{ n int }

func (s *tokens) Token() (*oauth2.Token, error) {
	s.n++
	return &oauth2.Token{AccessToken: fmt.Sprint("token-", s.n)}, nil
}

func TestAuthBelowAndAbove(t *testing.T) {
	script := answer(t, resilienttest.Status(503), resilienttest.Status(200))
	synctest.Test(t, func(t *testing.T) {
		source := new(tokens)
		// docs: recipes auth below
		below := &http.Client{Transport: resilient.NewTransport(&oauth2.Transport{Source: source})}
		// end
		_, _, err := get(t.Context(), t, below, api)
		require.NoError(t, err)
		require.Equal(t, "Bearer token-1", script.Attempts()[0].Header.Get("Authorization"))
		require.Equal(t, "Bearer token-2", script.Attempts()[1].Header.Get("Authorization"))

		script.Reset()
		transport := resilient.NewTransport(nil, resilient.WithRateLimit(100, 1)) // has a key
		// docs: recipes auth above
		above := &http.Client{Transport: &oauth2.Transport{Source: source, Base: transport}}
		// end
		_, _, err = get(t.Context(), t, above, api)
		require.NoError(t, err)
		require.Equal(t, "Bearer token-3", script.Attempts()[0].Header.Get("Authorization"))
		require.Equal(t, "Bearer token-3", script.Attempts()[1].Header.Get("Authorization"))
		require.Contains(t, transport.Snapshot().Keys[0].Key, "https://api.example.com #", "it names the credential")
	})
}

// TestOAuth2: a POST waits for a token server that fails, then hangs, then answers.
func TestOAuth2(t *testing.T) {
	script := answer(t,
		resilienttest.Status(500), resilienttest.Answer{Delay: time.Hour}, // the token server
		resilienttest.Answer{Body: `{"access_token":"a","token_type":"Bearer","expires_in":3600}`},
		resilienttest.Status(200), // the API
	)
	config := clientcredentials.Config{
		ClientID: "id", ClientSecret: "s", TokenURL: "https://auth.example.com/token", AuthStyle: oauth2.AuthStyleInParams,
	}
	newClient := func(ctx context.Context) *http.Client {
		// docs: recipes oauth2
		tokenClient := &http.Client{Transport: resilient.NewTransport(nil,
			resilient.WithRetryNonIdempotent(true),       // a token that is made twice does no harm
			resilient.WithAttemptTimeout(10*time.Second), // oauth2 does not pass on the request's context
			resilient.WithStatusErrors(true),             // so that the other Transport sees what was retried
		)}
		source := config.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, tokenClient))
		client := &http.Client{Transport: resilient.NewTransport(&oauth2.Transport{Source: source})}
		// end
		return client
	}
	synctest.Test(t, func(t *testing.T) {
		status, _, err := post(t.Context(), t, newClient(t.Context()), api, "{}")
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, 4, script.Count())
		require.Equal(t, "Bearer a", script.Attempts()[3].Header.Get("Authorization"))

		for status, attempts := range map[int]int{400: 1, 401: 1, 500: 4} {
			script.Reset(resilienttest.Status(status))
			_, _, err = get(t.Context(), t, newClient(t.Context()), api)
			require.ErrorContains(t, err, strconv.Itoa(status))
			require.Equal(t, attempts, script.Count(), status)
		}
	})
}

func TestProxy(t *testing.T) {
	proxy := resilienttest.New(resilienttest.Status(502), resilienttest.Status(200))
	srv := httptest.NewServer(proxy)
	defer srv.Close()
	proxyURL, err := url.Parse(srv.URL)
	require.NoError(t, err)
	// docs: recipes proxy
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.Proxy = http.ProxyURL(proxyURL) // without it, the environment says: HTTPS_PROXY
	client := &http.Client{Transport: resilient.NewTransport(base)}
	// end
	defer client.CloseIdleConnections()
	status, _, err := get(t.Context(), t, client, "http://api.example.com/v1/people")
	require.NoError(t, err)
	require.Equal(t, 200, status)
	require.Equal(t, 2, proxy.Count())
}

func TestOpenTelemetry(t *testing.T) {
	answer(t, resilienttest.Status(503), resilienttest.Status(200))
	exporter := tracetest.NewInMemoryExporter()
	otel.SetTracerProvider(trace.NewTracerProvider(trace.WithSyncer(exporter)))
	synctest.Test(t, func(t *testing.T) {
		// docs: recipes otel
		client := &http.Client{Transport: otelresilient.NewTransport(nil,
			otelresilient.WithTransportOptions(resilient.WithMaxAttempts(3)),
		)}
		// end
		_, _, err := get(t.Context(), t, client, api)
		require.NoError(t, err)
		var names []string
		for _, span := range exporter.GetSpans() {
			names = append(names, span.Name)
		}
		require.ElementsMatch(t, []string{"GET", "GET", "resilient GET"}, names)
	})
}

func TestLogging(t *testing.T) {
	answer(t, resilienttest.Status(503, "X-Request-Id", "r-1"), resilienttest.Status(200))
	synctest.Test(t, func(t *testing.T) {
		out := new(bytes.Buffer)
		// docs: recipes slog
		logger := slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: slog.LevelInfo}))
		client := &http.Client{Transport: resilient.NewTransport(nil,
			resilient.WithLogger(logger.With("api", "people")),
		)}
		// end
		_, _, err := get(t.Context(), t, client, api)
		require.NoError(t, err)
		for _, text := range []string{
			`"level":"INFO","msg":"attempt done"`, `"msg":"waiting"`, `"msg":"call done"`, `"api":"people"`, `"request_id":"r-1"`,
		} {
			require.Contains(t, out.String(), text)
		}
	})
}

func TestDeadlines(t *testing.T) {
	script := answer(t, resilienttest.Answer{Delay: time.Minute}, resilienttest.Answer{Delay: time.Minute})
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := func(ctx context.Context) error {
			// docs: recipes deadline
			client := &http.Client{Transport: resilient.NewTransport(nil,
				resilient.WithAttemptTimeout(3*time.Second), // of each attempt, until its headers
			)}
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // of all attempts, waits and the body
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.example.com/v1/people", nil)
			if err != nil {
				return err
			}
			resp, err := client.Do(req)
			// end
			if err == nil {
				resp.Body.Close()
			}
			return err
		}(t.Context())
		require.Error(t, err)
		require.Greater(t, script.Count(), 1)
		require.LessOrEqual(t, time.Since(began), 10*time.Second)
	})
}

// docs: recipes test

// newClient makes the client of the program. In production base is nil.
func newClient(base http.RoundTripper, opts ...resilient.Option) *http.Client {
	return &http.Client{Transport: resilient.NewTransport(base, append([]resilient.Option{resilient.WithMaxAttempts(3)}, opts...)...)}
}

func TestWaitsAsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // its time is virtual: the hour takes no time
		api := resilienttest.New(
			resilienttest.Status(503),
			resilienttest.Status(429, "Retry-After", "3600"),
			resilienttest.Status(200),
		)
		client := newClient(api,
			resilient.WithMaxWait(2*time.Hour),
			resilient.WithBackOff(func() backoff.BackOff { return new(backoff.ZeroBackOff) }), // no jitter
		)
		resp, err := client.Get("https://api.example.com/v1/people")
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, []time.Duration{0, time.Hour}, api.Waits())
	})
}

// end

func TestIdempotencyKeys(t *testing.T) {
	script := answer(t, resilienttest.Status(500), resilienttest.Status(200))
	synctest.Test(t, func(t *testing.T) {
		// docs: recipes key
		client := &http.Client{Transport: resilient.NewTransport(nil,
			resilient.WithIdempotencyKey(func(*http.Request) string { return rand.Text() }),
		)}
		// end
		for range 2 {
			_, _, err := post(t.Context(), t, client, api, "{}")
			require.NoError(t, err)
		}
		var keys []string
		for _, attempt := range script.Attempts() {
			keys = append(keys, attempt.Header.Get("Idempotency-Key"))
		}
		require.Len(t, keys, 3)
		require.Equal(t, keys[0], keys[1])
		require.NotEqual(t, keys[1], keys[2])
	})
}

// sdk is an SDK that tells of an error nothing but the status.
type sdk struct{ client *http.Client }

func (s sdk) People(ctx context.Context) ([]string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	var people []string
	err = json.NewDecoder(resp.Body).Decode(&people)
	return people, err
}

func TestErrorThroughSDK(t *testing.T) {
	answer(t, resilienttest.Answer{
		Status: 400, Body: `{"code":"400","message":"Invalid.","invalid":[{"name":"limit","reason":"Less than 500."}]}`,
	})
	sdk := sdk{&http.Client{Transport: resilient.NewTransport(nil)}}
	ctx := t.Context()
	// docs: recipes sdk
	var apiErr *resilient.APIError // of the last attempt
	ctx = resilient.ContextWithOptions(ctx, resilient.WithTrace(&resilient.Trace{
		AttemptDone: func(a resilient.AttemptInfo) { apiErr = a.APIError },
	}))
	people, err := sdk.People(ctx) // any SDK that passes the context on
	if err != nil && apiErr != nil {
		err = apiErr // says more
	}
	// end
	require.Empty(t, people)
	require.ErrorIs(t, err, resilient.ErrInvalidRequest)
	require.Equal(t, []resilient.InvalidParam{{Name: "limit", Reason: "Less than 500."}}, apiErr.Invalid)
}

func TestHedge(t *testing.T) {
	answer(t, resilienttest.Status(200))
	// docs: recipes hedge
	transport := hedge.New(resilient.NewTransport(nil))
	client := &http.Client{Transport: transport}
	// end
	status, _, err := get(t.Context(), t, client, api)
	require.NoError(t, err)
	require.Equal(t, 200, status)
	require.Zero(t, transport.Stats())
}

func TestReauth(t *testing.T) {
	script := answer(t, resilienttest.Status(401), resilienttest.Status(200))
	fetchToken := func(context.Context) (string, error) { return "new", nil }
	// docs: recipes reauth
	refresh := func(ctx context.Context, _ *http.Request) (http.Header, error) {
		token, err := fetchToken(ctx)
		return http.Header{"Authorization": {"Bearer " + token}}, err
	}
	client := &http.Client{Transport: reauth.New(resilient.NewTransport(nil), refresh)}
	// end
	status, _, err := get(t.Context(), t, client, api)
	require.NoError(t, err)
	require.Equal(t, 200, status)
	require.Equal(t, "Bearer new", script.Attempts()[1].Header.Get("Authorization"))
}

func TestEndpoints(t *testing.T) {
	script := answer(t, resilienttest.Status(503), resilienttest.Status(200))
	// docs: recipes endpoints
	client := &http.Client{Transport: endpoints.New(
		resilient.NewTransport(nil, resilient.WithAttemptTimeout(5*time.Second)),
		[]endpoints.Endpoint{{URL: "https://eu.example.com"}, {URL: "https://us.example.com"}},
	)}
	resp, err := client.Get("https://api.example.com/v1/things") // from eu, or from us
	// end
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "us.example.com", script.Attempts()[1].Request.URL.Host)
}
