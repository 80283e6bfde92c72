package otelresilient

import (
	"context"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/resilienthttp/resilient"
)

const (
	attemptsKey      = attribute.Key("resilient.attempts")
	outcomeKey       = attribute.Key("resilient.outcome")
	retryReasonKey   = attribute.Key("resilient.retry.reason")
	waitReasonKey    = attribute.Key("resilient.wait.reason")
	waitDurationKey  = attribute.Key("resilient.wait.duration")
	limitKeyKey      = attribute.Key("resilient.limit.key")
	limitRouteKey    = attribute.Key("resilient.limit.route")
	limitNameKey     = attribute.Key("resilient.limit.name")
	limitPriorityKey = attribute.Key("resilient.limit.priority")
	resumedKey       = attribute.Key("resilient.resumed")
)

// call is one RoundTrip. Its attempts and hooks find it in the context.
type call struct {
	tel  *telemetry
	ctx  context.Context //nolint:containedctx // with the span and the call, and the context of the request that is sent
	span trace.Span
	req  request

	path    string // the Path in the hooks
	begun   time.Time
	sent    int    // how often the request was sent, including redirects and earlier calls
	failure string // error.type of the last error response
	reason  string // of the verdict on the last attempt

	waitReason string // of the current wait, or "" if there is none
	waitBegun  time.Time

	failed  bool                 // as its outcome says
	outcome []attribute.KeyValue // the attributes of metrics for the outcome

	// open counts the parts that have not ended yet: RoundTrip, and each attempt
	// whose body is not at its end. The span ends with the last of them.
	open atomic.Int32
}

func (t *telemetry) newCall(req *http.Request) *call {
	c := &call{tel: t, req: newRequest(req, t.attributes), sent: redirects(req), begun: time.Now()}
	c.open.Store(1)
	c.ctx, c.span = t.tracer.Start(req.Context(), "resilient "+c.req.name, trace.WithAttributes(c.req.common...))
	c.ctx = context.WithValue(c.ctx, callKey{}, c)
	return c
}

// redirects returns the number of redirects of http.Client that led to req. It
// counts at most 20, twice as many as http.Client follows by default, in case
// the responses form a cycle.
func redirects(req *http.Request) int {
	n := 0
	for n < 20 && req != nil && req.Response != nil {
		req = req.Response.Request
		n++
	}
	return n
}

// release ends one part of the call, and the span with the last one.
func (c *call) release() {
	if c.open.Add(-1) > 0 {
		return
	}
	c.span.End()
	if h := c.tel.callDuration; h.Enabled(c.ctx) {
		h.Record(c.ctx, time.Since(c.begun).Seconds(), c.with(c.outcome...))
	}
}

// with returns the attributes of a measurement: the common ones and more.
func (c *call) with(more ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(slices.Concat(c.req.common, more)...))
}

// hooks returns the hooks for the resilient.Transport. They do nothing for a request
// that did not come through the RoundTrip of a Transport of this package.
func hooks() *resilient.Trace {
	return &resilient.Trace{
		AttemptStart: func(a resilient.AttemptInfo) {
			if c := callOf(a.Request.Context()); c != nil {
				c.attemptStart(a)
			}
		},
		AttemptDone: func(a resilient.AttemptInfo) {
			if c := callOf(a.Request.Context()); c != nil {
				c.attemptDone(a)
			}
		},
		Wait: func(w resilient.WaitInfo) {
			if c := callOf(w.Request.Context()); c != nil {
				c.wait(w)
			}
		},
		Done: func(d resilient.DoneInfo) {
			if c := callOf(d.Request.Context()); c != nil {
				c.done(d)
			}
		},
		Body: func(b resilient.BodyInfo) {
			if c := callOf(b.Request.Context()); c != nil {
				c.bodyDone(b)
			}
		},
	}
}

func (c *call) attemptStart(a resilient.AttemptInfo) {
	c.endWait()
	c.path = a.Path
	c.sent = max(c.sent, a.Resends)
	if h := c.tel.retries; a.Attempt > 1 && h.Enabled(c.ctx) {
		h.Add(c.ctx, 1, c.with(retryReasonKey.String(c.reason)))
	}
}

func (c *call) attemptDone(a resilient.AttemptInfo) {
	c.reason = a.Verdict.Reason
	if a.APIError != nil {
		c.failure = a.APIError.ErrorType()
	}
}

// wait begins a wait, which lasts until the next event of the call. For a limiter,
// the hook is called at the beginning or at the end of the wait, and these cannot
// be distinguished. So the duration in the hook is used.
func (c *call) wait(w resilient.WaitInfo) {
	c.endWait()
	if w.Reason == "limiter" {
		c.addWait(w.Reason, time.Now(), w.Duration)
		return
	}
	c.waitReason, c.waitBegun = w.Reason, time.Now()
}

// endWait ends the current wait, if there is one.
func (c *call) endWait() {
	if c.waitReason != "" {
		c.addWait(c.waitReason, c.waitBegun, time.Since(c.waitBegun))
		c.waitReason = ""
	}
}

func (c *call) addWait(reason string, begun time.Time, d time.Duration) {
	if c.span.IsRecording() {
		c.span.AddEvent("resilient.wait", trace.WithTimestamp(begun), trace.WithAttributes(
			waitReasonKey.String(reason), waitDurationKey.Float64(d.Seconds())))
	}
	if h := c.tel.waitDuration; h.Enabled(c.ctx) {
		h.Record(c.ctx, d.Seconds(), c.with(waitReasonKey.String(reason)))
	}
}

// bodyDone records how the body ended. A call whose body broke off has failed, although
// its outcome is that of the response.
func (c *call) bodyDone(b resilient.BodyInfo) {
	defer c.release()
	if b.Resumed > 0 {
		c.span.SetAttributes(resumedKey.Int(b.Resumed))
	}
	if b.Err == nil || c.failed {
		return
	}
	failure := semconv.ErrorTypeKey.String(errorType(c.ctx, b.Err))
	c.outcome = append(c.outcome, failure)
	c.span.SetAttributes(failure)
	c.span.SetStatus(codes.Error, "")
}

func (c *call) done(d resilient.DoneInfo) {
	c.endWait()
	if d.Body {
		c.open.Add(1)
	}
	c.outcome = append(make([]attribute.KeyValue, 0, 3), outcomeKey.String(d.Reason))
	if d.StatusCode != 0 {
		c.outcome = append(c.outcome, semconv.HTTPResponseStatusCode(d.StatusCode))
	}
	if c.failed = d.Reason != "success"; c.failed {
		failure := c.failure
		if d.Err != nil {
			failure = errorType(c.ctx, d.Err)
		}
		c.outcome = append(c.outcome, semconv.ErrorTypeKey.String(failure))
		c.span.SetStatus(codes.Error, "")
	}
	if c.span.IsRecording() {
		c.span.SetAttributes(c.outcome...)
		c.span.SetAttributes(attemptsKey.Int(d.Attempts))
	}
}
