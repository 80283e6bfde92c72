package otelresilient

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// attemptTransport is the base of the resilient.Transport. It sends each attempt
// through the base of the Transport.
type attemptTransport struct {
	base http.RoundTripper // nil: http.DefaultTransport
	tel  *telemetry
}

func (t *attemptTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	c := callOf(req.Context())
	if c == nil {
		return t.roundTripper().RoundTrip(req)
	}
	a, out := c.startAttempt(req)
	returned := false
	defer func() {
		if !returned { // it panicked
			a.end(nil)
		}
	}()
	resp, err := t.roundTripper().RoundTrip(out)
	returned = true
	if err != nil || resp == nil { // resilient turns a nil response into an error
		a.end(err)
		return resp, err
	}
	a.answered(resp)
	return resp, nil
}

func (t *attemptTransport) CloseIdleConnections() {
	if c, ok := t.roundTripper().(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (t *attemptTransport) roundTripper() http.RoundTripper {
	if t.base == nil {
		return http.DefaultTransport
	}
	return t.base
}

// attempt is one attempt to send a request. It is also the body of the response.
type attempt struct {
	call   *call
	ctx    context.Context //nolint:containedctx // of the request, and so of the body, as in net/http
	span   trace.Span      // nil if attempts are left to the base
	begun  time.Time
	status int
	attrs  []attribute.KeyValue // of the response
	body   io.ReadCloser
	once   sync.Once
}

// startAttempt returns an attempt and the request to send for it.
func (c *call) startAttempt(req *http.Request) (*attempt, *http.Request) {
	c.open.Add(1)
	a := &attempt{call: c, ctx: req.Context()}
	if !c.tel.attempts {
		return a, req
	}
	attrs := c.req.forSpan(req.URL, c.path, c.tel.url)
	if c.sent > 0 {
		attrs = append(attrs, semconv.HTTPRequestResendCount(c.sent))
	}
	c.sent++
	a.begun = time.Now()
	ctx, span := c.tel.tracer.Start(req.Context(), c.req.name,
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attrs...))
	a.ctx, a.span = ctx, span
	out := req.WithContext(ctx)
	fields := carrier{HeaderCarrier: propagation.HeaderCarrier(req.Header)}
	c.tel.propagators.Inject(ctx, &fields)
	out.Header = http.Header(fields.HeaderCarrier)
	return a, out
}

// carrier is the header of a request. It is shared with other requests until a field
// is set.
type carrier struct {
	propagation.HeaderCarrier
	own bool
}

func (c *carrier) Set(name, value string) {
	if !c.own {
		c.HeaderCarrier, c.own = propagation.HeaderCarrier(http.Header(c.HeaderCarrier).Clone()), true
	}
	c.HeaderCarrier.Set(name, value)
}

// answered records the response. The attempt lasts until the body ends.
func (a *attempt) answered(resp *http.Response) {
	a.status = resp.StatusCode
	a.attrs = append(make([]attribute.KeyValue, 0, 3), semconv.HTTPResponseStatusCode(resp.StatusCode))
	if v := protocolVersion(resp); v != "" {
		a.attrs = append(a.attrs, semconv.NetworkProtocolVersion(v))
	}
	if _, upgraded := resp.Body.(io.Writer); upgraded || resp.Body == nil || resp.Body == http.NoBody {
		// There is no body to wait for, or the connection was upgraded to another
		// protocol and belongs to the caller.
		a.end(nil)
		return
	}
	a.body, resp.Body = resp.Body, a
}

func (a *attempt) Read(p []byte) (int, error) {
	n, err := a.body.Read(p)
	if err == io.EOF {
		a.end(nil)
	} else if err != nil {
		a.end(err)
	}
	return n, err
}

// Close ends the attempt before it closes the body, because that may take a while.
func (a *attempt) Close() error {
	a.end(nil)
	return a.body.Close()
}

// end ends the attempt, once. err is the reason why there is no response, or why
// its body ends early.
func (a *attempt) end(err error) {
	a.once.Do(func() {
		if a.span != nil {
			a.report(err)
		}
		a.call.release()
	})
}

func (a *attempt) report(err error) {
	failure := ""
	switch {
	case a.status >= 400:
		failure = strconv.Itoa(a.status)
	case err != nil:
		failure = errorType(a.ctx, err)
	case a.status == 0:
		failure = semconv.ErrorTypeOther.Value.AsString()
	}
	if failure != "" {
		a.attrs = append(a.attrs, semconv.ErrorTypeKey.String(failure))
		a.span.SetStatus(codes.Error, "")
	}
	a.span.SetAttributes(a.attrs...)
	a.span.End()
	if h := a.call.tel.requestDuration; h.Enabled(a.ctx) {
		h.Record(a.ctx, time.Since(a.begun).Seconds(), a.call.with(a.attrs...))
	}
}

// protocolVersion returns "1.1", "2" or "3", or "" if the base does not set it.
func protocolVersion(resp *http.Response) string {
	switch major, minor := resp.ProtoMajor, resp.ProtoMinor; {
	case major == 0:
		return ""
	case major == 1 && minor == 1:
		return "1.1" // nearly always
	case major == 1:
		return "1." + strconv.Itoa(minor)
	default:
		return strconv.Itoa(major)
	}
}

// errorType returns error.type, a word for the kind of an error. It never returns
// the text of the error.
func errorType(ctx context.Context, err error) string {
	type timeout interface {
		error
		Timeout() bool
	}
	if typed, ok := errors.AsType[interface {
		error
		ErrorType() string
	}](err); ok && typed.ErrorType() != "" {
		return typed.ErrorType()
	}
	// A transport returns the bare context.Canceled when an attempt has timed out.
	// The cause of the context says that it was a timeout.
	for _, e := range []error{err, context.Cause(ctx)} {
		if t, ok := errors.AsType[timeout](e); ok && t.Timeout() {
			return "timeout"
		}
	}
	if ctx.Err() != nil || errors.Is(err, context.Canceled) {
		return "canceled"
	}
	return semconv.ErrorType(err).Value.AsString()
}
