package resilient

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/resilienthttp/resilient/internal/errorobject"
	"github.com/resilienthttp/resilient/internal/eventstream"
)

// EventKind is the meaning of an event of a stream to the answer that it carries, see
// [Profile].
type EventKind uint8

// The kinds of events.
const (
	EventPreamble EventKind = iota // nothing of the answer yet: a ping, the name of a model
	EventContent                   // a part of the answer, and everything unknown
	EventEnd                       // the answer is complete
	EventError                     // there is no answer, or no more of it
)

// events follows a stream, event by event.
type events struct {
	parser *eventstream.Parser
	first  EventKind // of the first event that is not part of the preamble
	ended  bool      // there was an EventEnd
	failed *failedEvent
}

// watch returns what follows a stream by the profile.
func (p *Profile) watch() *events {
	e := &events{}
	e.parser = eventstream.NewParser(func(name string, data []byte) {
		kind, status := p.Event(name, data)
		if e.first == EventPreamble {
			e.first = kind
		}
		e.ended = e.ended || kind == EventEnd
		if kind == EventError && e.failed == nil {
			if status < 400 || status > 599 {
				status = http.StatusInternalServerError
			}
			e.failed = &failedEvent{status, bytes.Clone(data)}
		}
	})
	return e
}

// end notes that the stream has ended. A last event without an empty line behind it is
// none by the standard, but some servers end with one.
func (e *events) end() { e.parser.Write([]byte("\n\n")) }

// streams reports whether a response is an event stream that the profile can read.
func (p *Profile) streams(resp *http.Response) bool {
	if p == nil || p.Event == nil || !hasContent(resp) {
		return false
	}
	encoding := first(resp.Header["Content-Encoding"])
	return (encoding == "" || encoding == "identity") && mediaType(resp.Header) == "text/event-stream"
}

// errStreamCut is the end of a stream that is not the end of its answer.
var errStreamCut = fmt.Errorf("resilient: the event stream ended before its last event: %w", io.ErrUnexpectedEOF)

// eventBody is the body of an event stream. It passes every byte on, and notices how
// the stream ends.
type eventBody struct {
	io.ReadCloser
	resp *http.Response

	mu     sync.Mutex // a Close may come during a Read
	events *events
}

func (b *eventBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > 0 {
		b.events.parser.Write(p[:n])
	}
	if errors.Is(err, io.EOF) {
		b.events.end()
		if !b.events.ended && b.events.failed == nil {
			err = errStreamCut
		}
	}
	return n, err
}

// failure returns the error that an event of the stream has told, or nil.
func (b *eventBody) failure(p *Profile, attempts int) error {
	b.mu.Lock()
	e := b.events.failed
	b.mu.Unlock()
	if e == nil {
		return nil
	}
	resp := e.response(b.resp) //nolint:bodyclose // it is in memory
	apiErr, _ := p.read(resp.StatusCode, resp.Header, e.data, errorobject.Decode(resp.Header, e.data), time.Now())
	apiErr.Attempts = attempts
	return apiErr
}
