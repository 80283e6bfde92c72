package idle_test

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/idle"
	"github.com/resilienthttp/resilient/internal/kit"
)

const limit = 16 * time.Second // so that the timer is first set to a second

// step is a Read that returns after some time.
type step struct {
	after time.Duration
	n     int
	err   error
}

var errClosed = errors.New("closed during the Read")

// script is a body of these steps, and then of silence until it is closed.
type script struct {
	steps []step
	done  chan struct{}

	mu     sync.Mutex
	closed int
}

func newScript(steps ...step) *script { return &script{steps: steps, done: make(chan struct{})} }

func (s *script) Read([]byte) (int, error) {
	if len(s.steps) == 0 {
		<-s.done
		return 0, errClosed
	}
	next := s.steps[0]
	s.steps = s.steps[1:]
	timer := time.NewTimer(next.after)
	defer timer.Stop()
	select {
	case <-timer.C:
		return next.n, next.err
	case <-s.done:
		return 0, errClosed
	}
}

func (s *script) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed++; s.closed == 1 {
		close(s.done)
	}
	return nil
}

func (s *script) closes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// expiry notes that a body expired.
type expiry struct {
	mu    sync.Mutex
	times int
	since time.Time
}

func (e *expiry) expire(since time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.times++
	e.since = since
}

func (e *expiry) get() (int, time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.times, e.since
}

// readAll reads the body to its end, with a pause before each Read.
func readAll(b io.Reader, pause time.Duration) (int64, error) {
	p, sum := make([]byte, 64), int64(0)
	for {
		time.Sleep(pause)
		n, err := b.Read(p)
		if sum += int64(n); err != nil {
			return sum, err
		}
	}
}

func TestSilence(t *testing.T) {
	const s, ms, us = time.Second, time.Millisecond, time.Microsecond
	repeat := func(times int, one step) []step {
		steps := make([]step, times)
		for i := range steps {
			steps[i] = one
		}
		return steps
	}
	for _, tt := range []struct {
		name  string
		steps []step
		pause time.Duration
		since time.Duration // what the callback is told
		ends  time.Duration
		why   string
	}{
		{"no byte at all", nil, 0, 0, limit, "the first Read sets the timer, so it is exact"},
		{"a byte at once", []step{{0, 1, nil}}, 0, s, s + limit, "the second Read is found a second later"},
		{"a byte soon", []step{{999 * ms, 1, nil}}, 0, s, s + limit, "the second Read began just before it is found"},
		{"a byte after a second", []step{{1001 * ms, 1, nil}}, 0, 1001 * ms, 1001*ms + limit, "the second Read sets the timer, so it is exact"},
		{"a late byte", []step{{limit - 1, 1, nil}}, 0, limit - 1, 2*limit - 1, "just in time"},
		{"late bytes", repeat(3, step{limit - 1, 1, nil}), 0, 3 * (limit - 1), 3*(limit-1) + limit, "each of them just in time"},
		{"no byte in time", []step{{limit + 1, 1, nil}}, 0, 0, limit, "the byte is lost"},
		{"many bytes", repeat(1500, step{700 * us, 1, nil}), 0, 2000*ms + 300*us, 2000*ms + 300*us + limit, "the timer fires after a second, is set by the next Read, and finds the last one"},
		{"a slow reader", repeat(3, step{0, 1, nil}), time.Hour, 4 * time.Hour, 4*time.Hour + limit, "the timer had nothing to find, so that the Read sets it"},
		{"a reader that comes while the timer is set", []step{{0, 1, nil}}, 300 * ms, 1300 * ms, 1300*ms + limit, "the Read at 600 ms is found at 1.3 s"},
		{"empty Reads", repeat(10, step{9 * s, 0, nil}), 0, 90 * s, 90*s + limit, "each of them ends its wait"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var e expiry
				src, start := newScript(tt.steps...), time.Now()
				b := idle.New(src, limit, e.expire)
				n, err := readAll(b, tt.pause)
				require.Equal(t, &idle.Error{Silence: limit, Bytes: n}, err, tt.why)
				require.Equal(t, tt.ends, time.Since(start), tt.why)
				times, since := e.get()
				require.Equal(t, 1, times)
				require.Equal(t, tt.since, since.Sub(start), tt.why)
				require.Equal(t, 1, src.closes())

				_, again := b.Read(make([]byte, 1))
				require.Same(t, err, again, "all Reads after it return the same")
				require.NoError(t, b.Close())
				require.Equal(t, 1, src.closes(), "it was closed already")
				_, err = b.Read(make([]byte, 1))
				require.ErrorIs(t, err, http.ErrBodyReadAfterClose)
				time.Sleep(time.Hour)
				times, _ = e.get()
				require.Equal(t, 1, times)
			})
		})
	}
}

// TestNoSilence is a body that lives as long as it likes.
func TestNoSilence(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		name string
		ping time.Duration
		read time.Duration // between the Reads
		why  string
	}{
		{"a ping in time", limit - 1, 0, "the time starts anew with each byte"},
		{"a ping every second", time.Second, 0, "also if it comes when the timer fires"},
		{"a slow reader", 0, 10 * time.Minute, "nothing waits for the body"},
		{"a slow reader of a slow body", 9 * time.Second, 15 * time.Second, "only the Reads count, not the pauses"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var e expiry
				src := newScript()
				for range day / (tt.ping + tt.read) {
					src.steps = append(src.steps, step{tt.ping, 1, nil})
				}
				src.steps = append(src.steps, step{0, 0, io.EOF})
				n, err := readAll(idle.New(src, limit, e.expire), tt.read)
				require.Equal(t, io.EOF, err, tt.why)
				require.EqualValues(t, day/(tt.ping+tt.read), n)
				time.Sleep(time.Hour)
				times, _ := e.get()
				require.Zero(t, times)
				require.Zero(t, src.closes(), "that is for the caller to do")
			})
		})
	}
}

func TestError(t *testing.T) {
	err := &idle.Error{Silence: 10 * time.Second, Bytes: 1234}
	require.EqualError(t, err, "resilient: no byte of the response body for 10s, after 1234 bytes")
	var timeout net.Error = err
	require.True(t, timeout.Timeout())
	//lint:ignore SA1019 deprecated, and part of the interface
	require.True(t, timeout.Temporary()) //nolint:staticcheck // as above
}

// TestEnd is a body that ends before it expires. It never does later, even if it
// is read again.
func TestEnd(t *testing.T) {
	boom := errors.New("boom")
	for _, tt := range []struct {
		name string
		last step
		why  string
	}{
		{"the end", step{time.Second / 2, 0, io.EOF}, "as it came"},
		{"the end with bytes", step{time.Second / 2, 3, io.EOF}, "as it came"},
		{"the end of a long wait", step{limit - 1, 3, io.EOF}, "as it came"},
		{"an error", step{time.Second / 2, 0, boom}, "as it came"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var e expiry
				src := newScript(step{0, 1, nil}, tt.last, step{time.Hour, 0, tt.last.err})
				b := idle.New(src, limit, e.expire)
				n, err := readAll(b, 0)
				require.Equal(t, tt.last.err, err, tt.why)
				require.EqualValues(t, 1+tt.last.n, n)
				n, err = readAll(b, 0)
				require.Equal(t, tt.last.err, err, "an hour after the end")
				require.Zero(t, n)
				require.NoError(t, b.Close())
				times, _ := e.get()
				require.Zero(t, times)
				require.Equal(t, 1, src.closes())
			})
		})
	}
}

func TestCloseDuringRead(t *testing.T) {
	for _, after := range []time.Duration{0, time.Second / 2, 2 * time.Second, limit - 1} {
		synctest.Test(t, func(t *testing.T) {
			var e expiry
			src := newScript(step{0, 1, nil})
			b := idle.New(src, limit, e.expire)
			go func() {
				time.Sleep(after)
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			}()
			start := time.Now()
			_, err := readAll(b, 0)
			require.Equal(t, errClosed, err, "what the body returns then")
			require.Equal(t, after, time.Since(start))
			_, err = b.Read(make([]byte, 1))
			require.Equal(t, errClosed, err)
			time.Sleep(time.Hour)
			times, _ := e.get()
			require.Zero(t, times, "closed after %v", after)
			require.Equal(t, 1, src.closes())
		})
	}
}

// TestByteWhenTheTimeIsUp: in that instant either of them is first, but not both.
func TestByteWhenTheTimeIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 500 {
			var e expiry
			src := newScript(step{limit, 1, nil})
			b := idle.New(src, limit, e.expire)
			_, err := b.Read(make([]byte, 1))
			synctest.Wait()
			times, _ := e.get()
			if err == nil {
				require.Zero(t, times)
				require.Zero(t, src.closes())
			} else {
				require.ErrorAs(t, err, new(*idle.Error))
				require.Equal(t, 1, times)
				require.Equal(t, 1, src.closes())
			}
			require.NoError(t, b.Close())
			require.Equal(t, 1, src.closes())
		}
	})
}

// TestByteWhileItExpires: the Read returns the byte and the error, but not before
// the callback has returned, which may take its time and close the body.
func TestByteWhileItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, start := newScript(step{limit + time.Second, 1, nil}), time.Now()
		var b *idle.Body
		b = idle.New(src, limit, func(time.Time) {
			time.Sleep(2 * time.Second)
			_ = b.Close()
		})
		n, err := b.Read(make([]byte, 1))
		require.Equal(t, 1, n)
		require.Equal(t, &idle.Error{Silence: limit, Bytes: 1}, err)
		require.Equal(t, limit+2*time.Second, time.Since(start))
		synctest.Wait()
		require.Equal(t, 1, src.closes())
	})
}

// TestCloseWhenTheTimeIsUp: the body is closed once.
func TestCloseWhenTheTimeIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 500 {
			var e expiry
			src := newScript()
			b := idle.New(src, limit, e.expire)
			go func() {
				time.Sleep(limit)
				_ = b.Close()
			}()
			_, err := b.Read(make([]byte, 1))
			synctest.Wait()
			times, _ := e.get()
			if times == 0 {
				require.Equal(t, errClosed, err)
			} else {
				require.ErrorAs(t, err, new(*idle.Error))
			}
			require.Equal(t, 1, src.closes())
		}
	})
}

// TestManyBodies runs on the real clock, with a limit that is as long as a Read:
// it is for the race detector.
func TestManyBodies(t *testing.T) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 50 {
				var expired atomic.Int32
				src := newScript()
				for j := range 20 {
					src.steps = append(src.steps, step{time.Duration(i*j) * time.Microsecond, 1, nil})
				}
				src.steps = append(src.steps, step{0, 0, io.EOF})
				b := idle.New(src, time.Millisecond, func(time.Time) { expired.Add(1) })
				if i%3 == 0 {
					wg.Go(func() {
						time.Sleep(time.Millisecond)
						_ = b.Close()
					})
				}
				_, err := readAll(b, 0)
				_ = b.Close()
				var silence *idle.Error
				if errors.As(err, &silence) != (expired.Load() == 1) {
					t.Errorf("expired %d times, and the Read ended with %v", expired.Load(), err)
				}
			}
		})
	}
	wg.Wait()
}

// TestNoTimerIsLeft: a timer would keep its body in memory.
func TestNoTimerIsLeft(t *testing.T) {
	const long = 24 * time.Hour
	read := func(b *idle.Body) { _, _ = b.Read(make([]byte, 1)) }
	for _, tt := range []struct {
		name  string
		limit time.Duration
		use   func(*idle.Body)
		why   string
	}{
		{"never read", long, func(*idle.Body) {}, "it has no timer yet"},
		{"closed", long, func(b *idle.Body) { read(b); _ = b.Close() }, "Close stops it"},
		{"read to the end", long, func(b *idle.Body) { read(b); read(b) }, "the end stops it"},
		{"left alone", time.Second, read, "the timer fires once and is not set again"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := idle.New(newScript(step{0, 1, nil}, step{0, 0, io.EOF}), tt.limit, func(time.Time) {})
			tt.use(b)
			left := weak.Make(b)
			require.Eventually(t, func() bool {
				runtime.GC()
				return left.Value() == nil
			}, 10*time.Second, 5*time.Millisecond, tt.why)
		})
	}
}

type panicking struct{ *script }

func (p panicking) Read(b []byte) (int, error) {
	if len(p.steps) > 0 && p.steps[0].n < 0 {
		p.steps = p.steps[1:]
		panic("read")
	}
	return p.script.Read(b)
}

func (p panicking) Close() error {
	_ = p.script.Close()
	panic("close")
}

func TestPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e expiry
		src := panicking{newScript(step{0, -1, nil})}
		b := idle.New(src, limit, e.expire)
		require.PanicsWithValue(t, "read", func() { _, _ = b.Read(nil) })
		time.Sleep(time.Hour)
		times, _ := e.get()
		require.Zero(t, times, "the Read has ended")

		src.steps = nil
		start := time.Now()
		_, err := b.Read(nil)
		require.Equal(t, &idle.Error{Silence: limit}, err, "the next one is watched as ever")
		require.Equal(t, limit, time.Since(start))
		synctest.Wait()
		require.EqualError(t, b.Close(), "resilient: closing the response body panicked: close", "nobody could recover in the timer's goroutine")
	})
}

// hanging is a body whose Close waits for the Read, which waits for Abort.
type hanging struct {
	mu      sync.Mutex
	aborted chan struct{}
}

func (h *hanging) Read([]byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	<-h.aborted
	return 0, io.ErrUnexpectedEOF
}

func (h *hanging) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return nil
}

func (h *hanging) Abort() { close(h.aborted) }

func TestAbort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e expiry
		start := time.Now()
		b := idle.New(&hanging{aborted: make(chan struct{})}, limit, e.expire)
		_, err := b.Read(nil)
		require.Equal(t, &idle.Error{Silence: limit}, err)
		require.Equal(t, limit, time.Since(start))
		require.NoError(t, b.Close())
	})
}

// TestServer is a server that sends a greeting, then another one just in time, and
// then nothing.
func TestServer(t *testing.T) {
	hello := strings.Repeat("hello ", 100)
	plain := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, hello)
		_ = http.NewResponseController(w).Flush()
		time.Sleep(limit - 1)
		_, _ = io.WriteString(w, hello)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	zipped := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		zw := gzip.NewWriter(w)
		plain(flushed{w, zw}, r)
	}
	silent := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_ = http.NewResponseController(w).Flush()
		time.Sleep(limit - 1)
		_, _ = w.Write([]byte{0x1f}) // not a whole gzip header
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		version int // of HTTP
		bytes   int64
		ends    time.Duration
		dials   int // of two requests
		why     string
	}{
		{"plain", plain, 1, 1200, 2*limit - 1 + limit/16, 2, "the rest could still come on that connection"},
		{"gzip", zipped, 1, 1200, 2*limit - 1 + limit/16, 2, "the limit is for the bytes that are decompressed"},
		{"gzip without a beginning", silent, 1, 0, limit, 2, "so a part of the header counts for nothing"},
		{"HTTP/2", plain, 2, 1200, 2*limit - 1 + limit/16, 1, "the stream ends and the connection goes on"},
		{"HTTP/2 gzip", zipped, 2, 1200, 2*limit - 1 + limit/16, 1, "as above"},
		{"HTTP/2 gzip without a beginning", silent, 2, 0, limit, 1, "as above"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gone := make(chan time.Time, 1)
				tr, dials := kit.ServeHTTP(t, tt.version, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/stream" {
						tt.handler(w, r)
						gone <- time.Now()
					}
				})
				get := func(path string) io.ReadCloser {
					ctx, cancel := context.WithCancel(t.Context())
					req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://example.com"+path, nil)
					require.NoError(t, err)
					resp, err := tr.RoundTrip(req)
					require.NoError(t, err)
					return cancelling{resp.Body, cancel}
				}
				var e expiry
				b := idle.New(get("/stream"), limit, e.expire)
				start := time.Now()
				n, err := readAll(b, 0)
				require.Equal(t, &idle.Error{Silence: limit, Bytes: tt.bytes}, err)
				require.Equal(t, tt.bytes, n)
				require.Equal(t, tt.ends, time.Since(start), tt.why)
				require.Equal(t, tt.ends, (<-gone).Sub(start), "the server learns of it at once")
				require.NoError(t, b.Close())

				rest := get("/")
				_, err = io.ReadAll(rest)
				require.NoError(t, err)
				require.NoError(t, rest.Close())
				require.Equal(t, tt.dials, dials(), tt.why)
			})
		})
	}
}

// cancelling is a body as this library gives it to package idle.
type cancelling struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c cancelling) Abort() { c.cancel() }

func (c cancelling) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}

// flushed is a ResponseWriter that compresses.
type flushed struct {
	http.ResponseWriter
	zw *gzip.Writer
}

func (f flushed) Write(b []byte) (int, error) { return f.zw.Write(b) }

func (f flushed) FlushError() error {
	_ = f.zw.Flush()
	return http.NewResponseController(f.ResponseWriter).Flush()
}

// FuzzBody: for bytes and readers that come at any time, a body does not expire
// before its limit, and not later than a 16th after it.
func FuzzBody(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 15, 200, 0, 0, 16, 0})
	f.Add([]byte{0, 3, 1, 3, 15, 3, 17, 0, 18, 0})
	f.Fuzz(func(t *testing.T, times []byte) {
		if len(times) > 200 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			var e expiry
			src := newScript()
			b := idle.New(src, limit, e.expire)
			p := make([]byte, 1)
			var err error
			for ; err == nil && len(times) > 1; times = times[2:] {
				after := time.Duration(times[0]) * time.Second / 10
				time.Sleep(time.Duration(times[1]) * time.Second / 10)
				src.steps = []step{{after, 1, nil}}
				start := time.Now()
				_, err = b.Read(p)
				took := time.Since(start)
				switch {
				case err == nil && took > limit+limit/16:
					t.Errorf("a silence of %v", took)
				case err == nil && took != after:
					t.Errorf("a Read of %v took %v", after, took)
				case err != nil && (took < limit || took > limit+limit/16):
					t.Errorf("expired after %v", took)
				}
			}
			if err == nil {
				_ = b.Close()
			}
			time.Sleep(time.Hour)
			if expired, _ := e.get(); (expired == 1) != (err != nil) || src.closes() != 1 {
				t.Errorf("expired %d times, closed %d times, and the last Read ended with %v", expired, src.closes(), err)
			}
		})
	})
}

type ready struct{}

func (ready) Read(p []byte) (int, error) { return len(p), nil }
func (ready) Close() error               { return nil }

func TestReadDoesNotAllocate(t *testing.T) {
	b, p := idle.New(ready{}, time.Second, func(time.Time) {}), make([]byte, 1)
	require.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = b.Read(p) }))
	require.NoError(t, b.Close())
}

func BenchmarkRead(b *testing.B) {
	watched := idle.New(ready{}, 10*time.Second, func(time.Time) {})
	defer watched.Close()
	for _, bb := range []struct {
		name string
		body io.Reader
	}{{"bare", ready{}}, {"idle", watched}} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			p := make([]byte, 1)
			for b.Loop() {
				_, _ = bb.body.Read(p)
			}
		})
	}
}

// BenchmarkBody is a body of one Read and the end, all in all.
func BenchmarkBody(b *testing.B) {
	p := make([]byte, 1)
	b.ReportAllocs()
	for b.Loop() {
		body := idle.New(&once{}, 10*time.Second, func(time.Time) {})
		_, _ = body.Read(p)
		_, _ = body.Read(p)
		_ = body.Close()
	}
}

type once struct{ read bool }

func (o *once) Read([]byte) (int, error) {
	if o.read {
		return 0, io.EOF
	}
	o.read = true
	return 1, nil
}

func (*once) Close() error { return nil }
