package resilient

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/resilienthttp/resilient/internal/idle"
	"github.com/resilienthttp/resilient/internal/peek"
)

const (
	// holdFlow is how long the beginning of an event stream may take to arrive
	// before the response is passed on without knowing more. A model that thinks
	// sends its first events at once, and the next ones after many seconds.
	holdFlow = time.Second

	// holdSilence is how long a body of unknown length may be silent before it is
	// taken for a stream. A Kubernetes watch is such a body, and says it is JSON.
	holdSilence = time.Second
)

// holds reports whether a response is held back until more of its body is known.
func (c *call) holds(resp *http.Response) bool {
	return c.cfg.profile.streams(resp) || c.holdsWhole(resp)
}

// holdsWhole reports whether the body of a response is read before it is returned.
func (c *call) holdsWhole(resp *http.Response) bool {
	if c.cfg.wholeBody == 0 || !c.idempotent || method(c.req) == http.MethodHead ||
		!hasContent(resp) || resp.ContentLength > c.cfg.wholeBody {
		return false
	}
	return !isStream(mediaType(resp.Header))
}

// hasContent reports whether a response is a success with a body that may be read ahead.
func hasContent(resp *http.Response) bool {
	return resp.StatusCode >= 200 && resp.StatusCode <= 299 && hasOpenBody(resp)
}

// isStream reports whether a body of a type is read as it arrives.
func isStream(mediaType string) bool {
	switch mediaType {
	case "text/event-stream", "application/x-ndjson", "application/ndjson", "application/jsonl",
		"application/json-seq", "application/stream+json":
		return true
	}
	return strings.HasPrefix(mediaType, "multipart/")
}

func mediaType(h http.Header) string {
	t, _, _ := mime.ParseMediaType(first(h["Content-Type"]))
	return t
}

// hold reads the body of a response as far as it has to be known. A response of which
// too little comes is lost, like one without headers.
func (c *call) hold(a *attempt) {
	body := peek.New(a.resp, a.ended)
	a.resp.Body = body
	if c.cfg.profile.streams(a.resp) {
		c.holdStream(a, body)
	} else {
		c.holdBody(a, body)
	}
}

// holdBody reads a whole body, or passes one on that turns out too long, or silent.
func (c *call) holdBody(a *attempt, body *peek.Body) {
	length := a.resp.ContentLength
	silence := c.cfg.idleTimeout
	mayPass := length < 0 && (silence == 0 || silence > holdSilence)
	if mayPass {
		silence = holdSilence
	}
	got, err := body.Ahead(c.waitContext(), peek.Bounds{Bytes: int(c.cfg.wholeBody) + 1, Silence: silence})
	switch {
	case err == nil || mayPass && errors.Is(err, peek.ErrSilent):
	case errors.Is(err, io.EOF):
		if int64(len(got)) < length {
			c.lose(a, len(got), io.ErrUnexpectedEOF)
		}
	default:
		c.lose(a, len(got), err)
	}
}

// holdStream reads the beginning of an event stream, up to the first event that says
// whether it is an answer or an error.
func (c *call) holdStream(a *attempt, body *peek.Body) {
	ahead, read := c.cfg.profile.watch(), 0
	got, err := body.Ahead(c.waitContext(), peek.Bounds{
		Bytes: peek.Max, Flow: holdFlow, Silence: c.cfg.idleTimeout,
		Enough: func(prefix []byte) bool {
			ahead.parser.Write(prefix[read:])
			read = len(prefix)
			return ahead.first != EventPreamble
		},
	})
	// Reading ahead may still be under way, and with it the use of ahead.
	events := c.cfg.profile.watch()
	events.parser.Write(got)
	if errors.Is(err, io.EOF) {
		events.end()
	}
	switch {
	case events.first == EventError:
		closeBody(body)
		a.resp = events.failed.response(a.resp) //nolint:bodyclose // it is in memory
	case events.first == EventPreamble && errors.Is(err, io.EOF):
		c.lose(a, len(got), io.ErrUnexpectedEOF)
	case events.first == EventPreamble && err != nil:
		c.lose(a, len(got), err)
	default:
		a.resp.Body = &eventBody{ReadCloser: body, events: c.cfg.profile.watch(), resp: a.resp}
	}
}

// lose makes an attempt one without a response, because its body broke off after so
// many bytes.
func (c *call) lose(a *attempt, n int, err error) {
	if errors.Is(err, peek.ErrSilent) {
		err = &idle.Error{Silence: c.cfg.idleTimeout, Bytes: int64(n)}
		c.t.suspectSilent(c.req, a.conn, time.Now().Add(-c.cfg.idleTimeout))
	}
	a.discard()
	a.Err, a.ended = err, time.Now()
}

// failedEvent is an event that says that a stream has failed.
type failedEvent struct {
	status int
	data   []byte
}

// response returns the error response that a stream would have been if its error had
// been known before its headers: that status, and the data as a JSON body.
func (e *failedEvent) response(stream *http.Response) *http.Response {
	resp := *stream
	resp.StatusCode = e.status
	resp.Status = strings.TrimSpace(strconv.Itoa(e.status) + " " + http.StatusText(e.status))
	resp.Header = stream.Header.Clone()
	resp.Header.Set("Content-Type", "application/json")
	resp.Header.Set("Content-Length", strconv.Itoa(len(e.data)))
	resp.ContentLength = int64(len(e.data))
	resp.TransferEncoding, resp.Trailer, resp.Uncompressed = nil, nil, false
	resp.Body = io.NopCloser(bytes.NewReader(e.data))
	return &resp
}
