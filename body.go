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
// that is returned. An upgraded connection is the caller's alone.
func hasOpenBody(resp *http.Response) bool {
	if resp == nil || resp.Body == http.NoBody {
		return false
	}
	_, upgraded := resp.Body.(io.Writer)
	return !upgraded
}

// follow wraps the body of the response that the call returns, as far as somebody
// wants to know how it ends.
func (c *call) follow(resp *http.Response) {
	h := c.cfg.hooks
	tell := h != nil && h.Body != nil
	if c.cfg.idleTimeout == 0 && !tell || !hasOpenBody(resp) {
		return
	}
	stream, _ := resp.Body.(*eventBody)
	if d := c.cfg.idleTimeout; d > 0 {
		conn, req, t := c.attempt.conn, c.req, c.t
		resp.Body = idle.New(resp.Body, d, func(since time.Time) { t.suspectSilent(req, conn, since) })
	}
	if tell {
		resp.Body = &followedBody{
			ReadCloser: resp.Body, stream: stream, cfg: c.cfg, began: time.Now(), attempts: c.attempt.Attempt,
			info: BodyInfo{
				Request: c.req, Path: c.path, StatusCode: resp.StatusCode,
				Resumed: resumed.From(c.req.Context()),
			},
		}
	}
}

// suspectSilent notes that nothing has come over an HTTP/2 connection since then, for a
// request that waited for it.
func (t *Transport) suspectSilent(req *http.Request, conn net.Conn, since time.Time) {
	if conn != nil {
		t.suspects.TimedOut(suspectHost(req), conn, since)
	}
}

// followedBody tells the hooks how the body ends.
type followedBody struct {
	io.ReadCloser
	stream   *eventBody // beneath; nil: it is none
	cfg      *config
	began    time.Time
	attempts int
	info     BodyInfo
	told     atomic.Bool
	bytes    atomic.Int64 // a Close may come during a Read
}

func (b *followedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.bytes.Add(int64(n))
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

// end calls the hooks, once.
func (b *followedBody) end(err error) {
	if !b.told.CompareAndSwap(false, true) {
		return
	}
	info := b.info
	info.Bytes, info.Duration = b.bytes.Load(), time.Since(b.began)
	if info.Complete = errors.Is(err, io.EOF); !info.Complete {
		info.Err = err
	}
	if b.stream != nil && info.Err == nil {
		info.Err = b.stream.failure(b.cfg.profile, b.attempts)
	}
	b.cfg.hooks.Body(info)
}
