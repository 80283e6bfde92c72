package resilient

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/resilienthttp/resilient/internal/idle"
	"github.com/resilienthttp/resilient/internal/resumed"
)

// BodyInfo is how the body of a response ended.
type BodyInfo struct {
	Request    *http.Request // the caller's
	Path       string        // of the URL, as it may be shown, see WithLogPath
	StatusCode int           // of the response
	Bytes      int64         // that the caller has read
	Duration   time.Duration // since RoundTrip returned

	// Complete reports whether the body was read to its end. A caller who needs no
	// more may close it before, which is no error.
	Complete bool

	// Err is the error that ended the body: that of the connection, of
	// [WithIdleTimeout], or of a stream that is cut. If an event of the stream
	// told an error, see [Profile], it is an [*APIError], and the caller has read
	// the event like any other. nil: none.
	Err error

	// Resumed is 0, or which one this is of the requests by which package resume
	// goes on with a body that broke off.
	Resumed int
}

// hasOpenBody reports whether something may still arrive in the body of a response
// of the base. An upgraded connection is the caller's alone.
func hasOpenBody(resp *http.Response) bool {
	if resp == nil || resp.Body == http.NoBody {
		return false
	}
	_, upgraded := resp.Body.(io.Writer)
	return !upgraded
}

// follow wraps the body of the response that the call returns, as far as somebody
// wants to know how it ends. The body takes the slot of the attempt with it.
func (c *call) follow(resp *http.Response) {
	h := c.cfg.hooks
	tell := h != nil && h.Body != nil
	if c.cfg.idleTimeout == 0 && !tell && c.slot == 0 || !hasOpenBody(resp) {
		return
	}
	stream, _ := resp.Body.(*eventBody)
	if d := c.cfg.idleTimeout; d > 0 {
		conn, req, t := c.attempt.conn, c.req, c.t
		resp.Body = idle.New(resp.Body, d, func(since time.Time) { t.suspectSilent(req, conn, since) })
	}
	if !tell && c.slot == 0 {
		return
	}
	b := &followedBody{ReadCloser: resp.Body, slot: c.slot, key: c.key}
	if tell {
		b.story = &bodyStory{
			stream: stream, cfg: c.cfg, began: time.Now(), attempts: c.attempt.Attempt,
			info: BodyInfo{
				Request: c.req, Path: c.path, StatusCode: resp.StatusCode,
				Resumed: resumed.From(c.req.Context()),
			},
		}
	}
	resp.Body, c.slot = b, 0
}

// suspectSilent notes that nothing has come over an HTTP/2 connection since then, for a
// request that waited for it.
func (t *Transport) suspectSilent(req *http.Request, conn net.Conn, since time.Time) {
	if conn != nil {
		t.suspects.TimedOut(suspectHost(req), conn, since)
	}
}

// followedBody notices the end of a body: it gives back the slot of the request, and
// tells the hooks.
type followedBody struct {
	io.ReadCloser
	slot  int // 0: none
	key   *keyState
	story *bodyStory // nil: there are no hooks
	ended atomic.Bool
}

// bodyStory is what the hooks are told.
type bodyStory struct {
	stream   *eventBody // beneath; nil: it is none
	cfg      *config
	began    time.Time
	attempts int
	info     BodyInfo
	bytes    atomic.Int64 // a Close may come during a Read
}

func (b *followedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.story != nil {
		b.story.bytes.Add(int64(n))
	}
	if err != nil {
		b.end(err)
	}
	return n, err
}

func (b *followedBody) Close() error {
	err := b.ReadCloser.Close()
	b.end(nil)
	return err
}

func (b *followedBody) end(err error) {
	if !b.ended.CompareAndSwap(false, true) {
		return
	}
	if b.slot != 0 {
		b.key.gate.Release(b.slot)
	}
	if b.story != nil {
		b.story.end(err)
	}
}

// end calls the hooks.
func (s *bodyStory) end(err error) {
	info := s.info
	info.Bytes, info.Duration = s.bytes.Load(), time.Since(s.began)
	if info.Complete = errors.Is(err, io.EOF); !info.Complete {
		info.Err = err
	}
	if s.stream != nil && info.Err == nil {
		info.Err = s.stream.failure(s.cfg.profile, s.attempts)
	}
	s.cfg.hooks.Body(info)
}
