package otelresilient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/resumed"
	"github.com/resilienthttp/resilient/otelresilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

// points returns the data of a metric, with a line for each combination of
// attributes. The line of a histogram has the count and the sum, and that of another
// metric the value.
func (tel *telemetry) points(t *testing.T, name string) []string {
	t.Helper()
	var lines []string
	add := func(set attribute.Set, value string) {
		var b strings.Builder
		for _, a := range set.ToSlice() {
			switch a.Key {
			case "http.request.method", "server.address", "server.port":
				continue // the same in all, see TestMetricAttributes
			}
			fmt.Fprintf(&b, "%s=%s ", a.Key, a.Value.String())
		}
		lines = append(lines, b.String()+value)
	}
	switch data := tel.metrics(t, name).(type) {
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			add(p.Attributes, fmt.Sprintf("%d in %v", p.Count, p.Sum))
		}
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			add(p.Attributes, strconv.FormatInt(p.Value, 10))
		}
	case metricdata.Gauge[float64]:
		for _, p := range data.DataPoints {
			add(p.Attributes, fmt.Sprint(p.Value))
		}
	case metricdata.Gauge[int64]:
		for _, p := range data.DataPoints {
			add(p.Attributes, strconv.FormatInt(p.Value, 10))
		}
	case nil:
	default:
		t.Fatalf("%s is a %T", name, data)
	}
	slices.Sort(lines)
	return lines
}

func TestMetricsOfCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry()
		script := resilienttest.New(
			resilienttest.Answer{Status: 503, Delay: time.Second},
			resilienttest.Status(429, "Retry-After", "4"),
			resilienttest.Answer{Status: 200, Delay: 250 * time.Millisecond, BodyDelay: 8 * time.Second},
			resilienttest.Answer{Status: 404, Delay: time.Second},
			resilienttest.Answer{Status: 200, Delay: time.Second},
		)
		transport := tel.transport(script, with(withIntervals(500*time.Millisecond)))
		for range 3 {
			get(t, transport, api)
		}
		require.Equal(t, []string{
			"error.type=404 http.response.status_code=404 network.protocol.version=1.1 1 in 1",
			"error.type=429 http.response.status_code=429 network.protocol.version=1.1 1 in 0",
			"error.type=503 http.response.status_code=503 network.protocol.version=1.1 1 in 1",
			"http.response.status_code=200 network.protocol.version=1.1 2 in 9.25",
		}, tel.points(t, "http.client.request.duration"), "the conventions want the duration of the span")
		require.Equal(t, []string{
			"error.type=404 http.response.status_code=404 resilient.outcome=final status 1 in 1",
			"http.response.status_code=200 resilient.outcome=success 2 in 14.75",
		}, tel.points(t, "resilient.call.duration"))
		require.Equal(t, []string{
			"resilient.wait.reason=backoff 1 in 0.5",
			"resilient.wait.reason=retry-after 1 in 4",
		}, tel.points(t, "resilient.wait.duration"))
		require.Equal(t, []string{
			"resilient.retry.reason=rate limited 1",
			"resilient.retry.reason=temporary status 1",
		}, tel.points(t, "resilient.retries"))
	})
}

func TestMetricAttributes(t *testing.T) {
	synctest.Test(t, testMetricAttributes)
}

func testMetricAttributes(t *testing.T) {
	tel := newTelemetry()
	transport := tel.transport(resilienttest.New(resilienttest.Status(503), resilienttest.Status(204)), with(withIntervals(time.Second)),
		otelresilient.WithAttributes(attribute.String("peer", "billing")))
	req, err := http.NewRequestWithContext(t.Context(), "purge", "http://api.example.com:8080/secret?a=b", nil)
	require.NoError(t, err)
	resp, err := transport.RoundTrip(withKey(req)) // the key allows a retry
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())

	units := map[string]string{}
	for _, m := range tel.collect(t).Metrics {
		units[m.Name] = m.Unit
		if strings.HasPrefix(m.Name, "resilient.budget") || strings.HasPrefix(m.Name, "resilient.limit") {
			continue
		}
		for _, set := range attributeSets(t, m.Data) {
			all := map[string]any{}
			for _, a := range set.ToSlice() {
				all[string(a.Key)] = a.Value.AsInterface()
			}
			require.Subset(t, all, map[string]any{
				"peer": "billing", "http.request.method": "_OTHER", "server.address": "api.example.com", "server.port": int64(8080),
			}, m.Name)
			require.NotContains(t, all, "url.full", "each would be a series of its own")
		}
	}
	require.Equal(t, map[string]string{
		"http.client.request.duration": "s",
		"resilient.call.duration":      "s",
		"resilient.retries":            "{retry}",
		"resilient.wait.duration":      "s",
		"resilient.budget":             "{token}",
		"resilient.limit.waiting":      "{attempt}",
	}, units)
}

func withKey(req *http.Request) *http.Request {
	req.Header.Set("Idempotency-Key", "1")
	return req
}

// TestMetricsOfSetLimits: the limits that the program has set have names, and those who
// wait have priorities.
func TestMetricsOfSetLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry()
		cost := func(*http.Request) float64 { return 60 }
		transport := tel.transport(resilienttest.New(resilienttest.Answer{Body: "body"}), with(resilient.WithRateLimit(1, 5),
			resilient.WithLimit("tokens", 1, 100, cost), resilient.WithLimit("words", rate.Inf, 0, cost), resilient.WithMaxInFlight(2),
			resilient.WithClass(func(*http.Request) resilient.Class { return resilient.Class{Priority: 2} })))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, api, nil)
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			resp, err := transport.RoundTrip(req)
			if err == nil {
				_ = resp.Body.Close()
			}
		}()
		synctest.Wait()
		const key = "resilient.limit.key=https://api.example.com "
		require.ElementsMatch(t, []string{key + "resilient.limit.name=requests 4", key + "resilient.limit.name=tokens 40"},
			tel.points(t, "resilient.limit.tokens"))
		require.Equal(t, []string{key + "1"}, tel.points(t, "resilient.requests.in_flight"))
		require.Equal(t, []string{key + "resilient.limit.priority=2 1"}, tel.points(t, "resilient.limit.waiting"))
		require.NoError(t, resp.Body.Close())
		require.Equal(t, []string{key + "0"}, tel.points(t, "resilient.requests.in_flight"))
		<-done
	})
}

// TestBodyFails: a call whose body breaks off has failed, although its outcome is that of
// the response.
func TestBodyFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry()
		transport := tel.transport(resilienttest.New(resilienttest.Answer{Status: 200, Body: "body", BodyDelay: time.Hour}),
			with(resilient.WithIdleTimeout(8*time.Second)))
		req, err := http.NewRequestWithContext(resumed.With(t.Context(), 2), http.MethodGet, api, nil)
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		require.ErrorContains(t, err, "no byte of the response body for 8s")
		require.NoError(t, resp.Body.Close())
		call := tel.call(t)
		code, _ := failure(call)
		require.Equal(t, codes.Error, code)
		require.Equal(t, "timeout", value(call, "error.type").AsString())
		require.Equal(t, "success", value(call, "resilient.outcome").AsString())
		require.Equal(t, int64(2), value(call, "resilient.resumed").AsInt64())
		require.Len(t, tel.points(t, "resilient.call.duration"), 1)
		require.Contains(t, tel.points(t, "resilient.call.duration")[0], "error.type=timeout")
	})
}

func attributeSets(t *testing.T, data metricdata.Aggregation) []attribute.Set {
	t.Helper()
	var sets []attribute.Set
	switch data := data.(type) {
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			sets = append(sets, p.Attributes)
		}
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			sets = append(sets, p.Attributes)
		}
	default:
		t.Fatalf("%T", data)
	}
	require.NotEmpty(t, sets)
	return sets
}

func TestMetricsOfKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry()
		script := resilienttest.New(
			resilienttest.Status(503), resilienttest.Status(503),
			resilienttest.Status(204),
		)
		transport := tel.transport(script, with(withIntervals(), resilient.WithMaxAttempts(2), resilient.WithRateLimit(0.125, 2)),
			otelresilient.WithAttributes(attribute.String("peer", "billing")))
		require.Empty(t, tel.points(t, "resilient.budget"), "no key is known yet")
		get(t, transport, api)
		const key = "peer=billing resilient.limit.key=https://api.example.com "
		require.Equal(t, []string{key + fmt.Sprint(transport.Snapshot().Keys[0].Budget)}, tel.points(t, "resilient.budget"))
		require.Equal(t, []string{key + "0"}, tel.points(t, "resilient.limit.waiting"))
		require.Empty(t, tel.points(t, "resilient.limit.learned"), "nothing was learned")

		begun := time.Now()
		go func() {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, api, nil)
			_, _ = transport.RoundTrip(req)
		}()
		synctest.Wait()
		require.Equal(t, []string{key + "1"}, tel.points(t, "resilient.limit.waiting"), "it waits for a token")
		get(t, transport, api)
		require.Equal(t, 16*time.Second, time.Since(begun))
		require.Equal(t, []string{key + "0"}, tel.points(t, "resilient.limit.waiting"))
	})
}

func TestLearnedLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry()
		script := resilienttest.New(resilienttest.Status(204, "RateLimit-Policy", `"a";q=100;w=10`, "RateLimit", `"a";r=20;t=2`))
		transport := tel.transport(script)
		for range 20 { // until it is clear that no other client uses the quota
			get(t, transport, api)
			time.Sleep(100 * time.Millisecond)
		}
		limits := transport.Snapshot().Keys[0].Limits
		require.Len(t, limits, 1)
		require.InDelta(t, 10, limits[0].Rate, 5, "what the server says it is")
		require.Equal(t, []string{fmt.Sprintf("resilient.limit.key=https://api.example.com %v", limits[0].Rate)},
			tel.points(t, "resilient.limit.learned"))
		require.Empty(t, tel.points(t, "resilient.limit.in_flight"))
	})
}

// A rate that is learned in units of a cost has the name of the limit that counts them.
func TestLearnedInTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry()
		var mu sync.Mutex
		limiter := rate.NewLimiter(5, 2)
		transport := tel.transport(roundTripper(func(req *http.Request) (*http.Response, error) {
			time.Sleep(10 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			if !limiter.Allow() {
				return resilienttest.Status(http.StatusTooManyRequests).Response(req)
			}
			return resilienttest.Status(http.StatusOK).Response(req)
		}), with(resilient.WithLimit("tokens", rate.Inf, 0, func(*http.Request) float64 { return 1000 })))
		ctx, cancel := context.WithCancel(t.Context()) // with a deadline, calls that wait too long end at once
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for ctx.Err() == nil {
					req, _ := http.NewRequestWithContext(ctx, http.MethodGet, api, nil)
					if resp, err := transport.RoundTrip(req); err == nil {
						_ = resp.Body.Close()
					}
				}
			})
		}
		time.Sleep(30 * time.Second)
		require.Regexp(t, `^resilient\.limit\.key=https://api\.example\.com resilient\.limit\.name=tokens resilient\.limit\.route=GET \S* [4-6]\d\d\d\.`,
			strings.Join(tel.points(t, "resilient.limit.learned"), "\n"))
		cancel()
		wg.Wait()
	})
}

// Each limit of a key has points of its own, those of one route with its name.
func TestLimitsOfRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry()
		var mu sync.Mutex
		searches, exports := rate.NewLimiter(5, 2), 0
		transport := tel.transport(roundTripper(func(req *http.Request) (*http.Response, error) {
			status := http.StatusOK
			mu.Lock()
			switch req.URL.Path {
			case "/search":
				if !searches.Allow() {
					status = http.StatusTooManyRequests
				}
			case "/export":
				if exports >= 4 {
					status = http.StatusTooManyRequests
				} else {
					exports++
					defer func() {
						mu.Lock()
						defer mu.Unlock()
						exports--
					}()
				}
			}
			mu.Unlock()
			if status == http.StatusOK {
				time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond) //nolint:gosec // no secret
			}
			return resilienttest.Status(status).Response(req)
		}))
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		begun := time.Now()
		for i := range 48 {
			wg.Go(func() {
				for ctx.Err() == nil {
					path := "/items"
					if time.Since(begun) > time.Second+time.Duration(i)*20*time.Millisecond {
						path = [...]string{"/items", "/search", "/export"}[i%3]
					}
					req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.example.com"+path, nil)
					if resp, err := transport.RoundTrip(req); err == nil {
						_ = resp.Body.Close()
					}
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
		const key = "resilient.limit.key=https://api.example.com resilient.limit.route=GET "
		for learned, inFlight := "", ""; !strings.Contains(learned, key+"/search ") || !strings.Contains(inFlight, key+"/export "); {
			require.Less(t, time.Since(begun), 10*time.Minute, "%s %s", learned, inFlight)
			time.Sleep(time.Second)
			learned = strings.Join(tel.points(t, "resilient.limit.learned"), "\n")
			inFlight = strings.Join(tel.points(t, "resilient.limit.in_flight"), "\n")
		}
	})
}

func TestBudgetSwitchedOff(t *testing.T) {
	tel := newTelemetry()
	inf := resilient.WithRetryBudget(inf(), 0)
	get(t, tel.transport(resilienttest.New(resilienttest.Status(503)), with(inf, resilient.WithMaxAttempts(1))), api)
	require.NotEmpty(t, tel.points(t, "resilient.limit.waiting"))
	require.Empty(t, tel.points(t, "resilient.budget"), "there is no balance to show")
}

func TestKeyNames(t *testing.T) {
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	none := func(*http.Request) {}
	keyed := func(key string) otelresilient.Option {
		return with(resilient.WithLimitKey(func(*http.Request) string { return key }))
	}
	for _, tt := range []struct {
		name    string
		request func(*http.Request)
		opts    []otelresilient.Option
		want    string // a pattern, or "" if the key is not reported
		why     string
	}{
		{name: "host", request: none, want: "^https://api.example.com$"},
		{
			name: "credential", request: header("Authorization", "Bearer s3cret"), want: "^https://api.example.com #[0-9a-f]{8}$",
			why: "keys are told apart, and the credential is not",
		},
		{
			name: "userinfo", request: func(r *http.Request) { r.URL.User = url.UserPassword("user", "s3cret") },
			want: "^https://api.example.com #[0-9a-f]{8}$",
		},
		{name: "own", request: none, opts: []otelresilient.Option{keyed("s3cret")}, why: "it may be a credential"},
		{name: "own, with userinfo", request: none, opts: []otelresilient.Option{keyed("https://user:s3cret@api.example.com")}},
		{name: "own, with a path", request: none, opts: []otelresilient.Option{keyed("https://api.example.com/s3cret")}},
		{name: "own, with a query", request: none, opts: []otelresilient.Option{keyed("https://api.example.com?s3cret")}},
		{name: "own, with a mark", request: none, opts: []otelresilient.Option{keyed("https://api.example.com #s3cret")}},
		{name: "own, with another mark", request: none, opts: []otelresilient.Option{keyed("https://api.example.com #c0ffee")}},
		{name: "own, empty", request: none, opts: []otelresilient.Option{keyed("")}},
		{
			name: "named", request: none,
			opts: []otelresilient.Option{
				keyed("account-42"),
				otelresilient.WithKeyName(strings.ToUpper),
			},
			want: "^ACCOUNT-42$", why: "the program knows what its keys are",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tel := newTelemetry()
			transport := tel.transport(resilienttest.New(resilienttest.Status(204)), append(tt.opts, with(resilient.WithRateLimit(100, 1)))...)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, api, nil)
			require.NoError(t, err)
			tt.request(req)
			_, err = transport.RoundTrip(req)
			require.NoError(t, err)
			require.Len(t, transport.Snapshot().Keys, 1)

			data, _ := tel.metrics(t, "resilient.budget").(metricdata.Gauge[float64])
			if tt.want == "" {
				require.Empty(t, data.DataPoints, tt.why)
				return
			}
			require.Len(t, data.DataPoints, 1, tt.why)
			name, _ := data.DataPoints[0].Attributes.Value("resilient.limit.key")
			require.Regexp(t, tt.want, name.AsString(), tt.why)
		})
	}
}

func TestObservedKeysAreBounded(t *testing.T) {
	tel := newTelemetry()
	transport := tel.transport(resilienttest.New(resilienttest.Status(204)), with(resilient.WithRateLimit(100, 1)))
	for i := range 150 {
		get(t, transport, fmt.Sprintf("https://%d.example.com", i))
	}
	lines := tel.points(t, "resilient.budget")
	require.Len(t, lines, 100)
	all := strings.Join(lines, "\n")
	require.Contains(t, all, "resilient.limit.key=https://149.example.com ", "the last ones are reported")
	require.NotContains(t, all, "resilient.limit.key=https://0.example.com ")
}

// The gauges of a Transport must not keep it alive.
func TestGaugesEndWithTransport(t *testing.T) {
	tel := newTelemetry()
	func() {
		transport := tel.transport(resilienttest.New(resilienttest.Status(204)), with(resilient.WithRateLimit(100, 1)))
		get(t, transport, api)
		require.Len(t, tel.points(t, "resilient.budget"), 1)
		runtime.KeepAlive(transport)
	}()
	tel.spans.Reset()
	require.Eventually(t, func() bool {
		runtime.GC()
		return len(tel.points(t, "resilient.budget")) == 0
	}, 10*time.Second, time.Millisecond)
}

// counting is a meter that counts the registered callbacks.
type counting struct {
	noop.Meter
	registered atomic.Int32
}

func (c *counting) RegisterCallback(metric.Callback, ...metric.Observable) (metric.Registration, error) {
	c.registered.Add(1)
	return registration{meter: c}, nil
}

type registration struct {
	noop.Registration
	meter *counting
}

func (r registration) Unregister() error {
	r.meter.registered.Add(-1)
	return nil
}

type countingProvider struct {
	noop.MeterProvider
	meter *counting
}

func (p countingProvider) Meter(string, ...metric.MeterOption) metric.Meter { return p.meter }

func TestCallbackIsUnregistered(t *testing.T) {
	meter := &counting{}
	transport := otelresilient.NewTransport(nil, otelresilient.WithMeterProvider(countingProvider{meter: meter}))
	require.Equal(t, int32(1), meter.registered.Load())
	runtime.KeepAlive(transport)
	require.Eventually(t, func() bool {
		runtime.GC()
		return meter.registered.Load() == 0
	}, 10*time.Second, time.Millisecond)
}

// The exemplar of a value in a histogram refers to the span.
func TestExemplars(t *testing.T) {
	tel := newTelemetry()
	get(t, tel.transport(resilienttest.New(resilienttest.Status(204))), api)
	for _, tt := range []struct {
		name string
		span tracetest.SpanStub
	}{
		{"http.client.request.duration", tel.attempts()[0]},
		{"resilient.call.duration", tel.call(t)},
	} {
		data, ok := tel.metrics(t, tt.name).(metricdata.Histogram[float64])
		require.True(t, ok, tt.name)
		require.Len(t, data.DataPoints, 1)
		require.Len(t, data.DataPoints[0].Exemplars, 1, tt.name)
		id := tt.span.SpanContext.SpanID()
		require.Equal(t, id[:], data.DataPoints[0].Exemplars[0].SpanID, tt.name)
	}
}

// broken is a provider of meters that fail.
type broken struct{ noop.MeterProvider }

func (broken) Meter(string, ...metric.MeterOption) metric.Meter { return brokenMeter{} }

type brokenMeter struct{ noop.Meter }

var errBroken = errors.New("broken")

func (brokenMeter) Int64Counter(string, ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	return noop.Int64Counter{}, errBroken
}

func (brokenMeter) RegisterCallback(metric.Callback, ...metric.Observable) (metric.Registration, error) {
	return nil, errBroken
}

func TestMeterErrors(t *testing.T) {
	var handled []error
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { handled = append(handled, err) }))
	transport := otelresilient.NewTransport(resilienttest.New(resilienttest.Status(204)), otelresilient.WithMeterProvider(broken{}))
	require.Equal(t, []error{errBroken, errBroken}, handled)
	get(t, transport, api) // works all the same
}

// Spans and metrics contain no secrets from any part of the request and the
// response.
func TestSecrets(t *testing.T) {
	const secret = "s3cret"
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry()
		script := resilienttest.New(
			resilienttest.Answer{Status: 429, Header: http.Header{"Retry-After": {"1"}, "X-Echo": {secret}}, Body: `{"message":"` + secret + `"}`},
			resilienttest.Status(302, "Location", "https://"+secret+"@api.example.com/?"+secret),
		)
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := script.RoundTrip(req)
			if resp != nil && resp.StatusCode == 302 {
				return nil, fmt.Errorf("cannot send %s with %v", req.URL, req.Header)
			}
			return resp, err
		})
		transport := tel.transport(base, otelresilient.WithPropagators(propagation.TraceContext{}),
			with(resilient.WithMaxAttempts(2), resilient.WithLimitKey(func(r *http.Request) string { return r.Header.Get("Authorization") })))
		ctx := context.WithValue(t.Context(), secretKey{}, secret)
		req, err := http.NewRequestWithContext(ctx, http.MethodPut,
			"https://user:"+secret+"@api.example.com/people/key/"+secret+"?access_token="+secret+"&"+secret+"&sig="+secret+"#"+secret, strings.NewReader(secret))
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+secret)
		_, err = transport.RoundTrip(req)
		require.ErrorContains(t, err, secret, "the caller gets the error as it is")

		reported := fmt.Sprintf("%+v %+v", tel.spans.GetSpans(), tel.collect(t))
		require.Contains(t, reported, "https://REDACTED:REDACTED@api.example.com/people/key/***?access_token=REDACTED&REDACTED&sig=REDACTED")
		require.NotContains(t, reported, secret)
	})
}

type secretKey struct{}
