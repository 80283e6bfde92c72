package peek_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/peek"
)

// body counts how often it is closed, which ends a Read that waits.
type body struct {
	io.Reader
	closed int
	done   chan struct{}
}

func newBody(r io.Reader) *body { return &body{Reader: r, done: make(chan struct{})} }

func (b *body) Close() error {
	if b.closed++; b.closed == 1 {
		close(b.done)
	}
	return nil
}

// ahead reads ahead as far as an error object is read.
func ahead(ctx context.Context, b *peek.Body) []byte {
	prefix, _ := b.Ahead(ctx, peek.Bounds{Bytes: peek.Max, Total: time.Second})
	return prefix
}

func response(r io.ReadCloser, length int64) *http.Response {
	return &http.Response{Body: r, ContentLength: length}
}

func TestBody(t *testing.T) {
	boom := errors.New("boom")
	long := strings.Repeat("x", peek.Max+1000)
	for _, tt := range []struct {
		name   string
		of     io.Reader
		length int64
		ahead  string
		all    string
		err    error
		why    string
	}{
		{"short", strings.NewReader("abc"), 3, "abc", "abc", nil, "all of it"},
		{"of unknown length", strings.NewReader(long[:1000]), -1, long[:1000], long[:1000], nil, "the buffer grows"},
		{"a length that is wrong", strings.NewReader("abc"), 1 << 60, "abc", "abc", nil, "nothing is made of it"},
		{"long", strings.NewReader(long), int64(len(long)), long[:peek.Max], long, nil, "a beginning of it"},
		{"empty", strings.NewReader(""), -1, "", "", nil, "nothing"},
		{"byte by byte", iotest.OneByteReader(strings.NewReader("abc")), -1, "abc", "abc", nil, "all that comes"},
		{"an error behind it", io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(boom)), -1, "abc", "abc", boom, "as it came"},
		{"an error with it", iotest.DataErrReader(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(boom))), -1, "abc", "abc", boom, "as it came"},
		{"a panic", readerFunc(func([]byte) (int, error) { panic("body") }), -1, "", "", errors.New("resilient: reading the response body panicked: body"), "nobody could recover in our goroutine"},
		{"nothing for a while", io.MultiReader(&nothing{99}, strings.NewReader("abc")), -1, "abc", "abc", nil, "a reader may read nothing, if seldom"},
		{"nothing for ever", readerFunc(func([]byte) (int, error) { return 0, nil }), -1, "", "", io.ErrNoProgress, "it ends"},
		{"an impossible length", readerFunc(func(p []byte) (int, error) { return len(p) + 1, nil }), -1, "", "", errors.New("resilient: the response body read an impossible number of bytes"), "it is not believed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src, start := newBody(tt.of), time.Now()
				b := peek.New(response(src, tt.length), start)
				require.Equal(t, tt.ahead, string(ahead(t.Context(), b)), tt.why)
				require.Equal(t, start, b.Received())
				require.Equal(t, tt.ahead, string(b.Prefix()), "again")
				got, err := io.ReadAll(b)
				require.Equal(t, tt.all, string(got))
				require.Equal(t, tt.err, err)
				require.Equal(t, tt.ahead, string(b.Prefix()), "also when it was read")
				require.NoError(t, b.Close())
				require.Equal(t, 1, src.closed)
				require.Equal(t, tt.ahead, string(b.Prefix()), "also when it was closed")
				_, err = b.Read(make([]byte, 1))
				require.ErrorIs(t, err, http.ErrBodyReadAfterClose)
				require.Zero(t, time.Since(start))
			})
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// nothing reads no bytes, so many times.
type nothing struct{ times int }

func (r *nothing) Read([]byte) (int, error) {
	if r.times--; r.times < 0 {
		return 0, io.EOF
	}
	return 0, nil
}

// hanging is a body whose Read and Close wait for the server, as those of a gzip
// body do, until it is released.
type hanging struct {
	released chan struct{}
	aborted  int
}

func (h *hanging) Read([]byte) (int, error) { <-h.released; return 0, io.ErrUnexpectedEOF }
func (h *hanging) Close() error             { <-h.released; return nil }
func (h *hanging) Abort()                   { h.aborted++ }

// TestCloseOfABodyThatHangs: neither Close nor anybody who waits for the body is
// held up by a Read that does not end.
func TestCloseOfABodyThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &hanging{released: make(chan struct{})}
		b := peek.New(response(src, -1), time.Now())
		require.Nil(t, ahead(t.Context(), b))
		start := time.Now()
		type end struct {
			at  time.Duration
			err error
		}
		read, prefix := make(chan end, 1), make(chan end, 1)
		go func() {
			_, err := b.Read(make([]byte, 1))
			read <- end{time.Since(start), err}
		}()
		go func() {
			if got := b.Prefix(); got != nil {
				t.Errorf("got %q", got)
			}
			prefix <- end{time.Since(start), nil}
		}()
		synctest.Wait()
		require.NoError(t, b.Close())
		require.Equal(t, 20*time.Millisecond, time.Since(start))
		require.Equal(t, 1, src.aborted)
		require.Equal(t, end{0, http.ErrBodyReadAfterClose}, <-read)
		require.Equal(t, end{0, nil}, <-prefix)
		close(src.released)
	})
	synctest.Test(t, func(t *testing.T) {
		src := &hanging{released: make(chan struct{})}
		b := peek.New(response(src, -1), time.Now())
		require.Nil(t, ahead(t.Context(), b))
		require.NoError(t, b.Close())
		start := time.Now()
		require.Nil(t, b.Prefix(), "nor is anybody who comes later")
		require.Zero(t, time.Since(start))
		close(src.released)
	})
	synctest.Test(t, func(t *testing.T) {
		var src *body
		src = newBody(readerFunc(func([]byte) (int, error) { <-src.done; return 0, io.EOF }))
		b := peek.New(&http.Response{Body: panicking{src}}, time.Now())
		require.Nil(t, ahead(t.Context(), b))
		require.EqualError(t, b.Close(), "resilient: closing the response body panicked: close", "nobody could recover in our goroutine")
	})
}

// panicking is a body whose Close panics.
type panicking struct{ io.ReadCloser }

func (p panicking) Close() error {
	_ = p.ReadCloser.Close()
	panic("close")
}

// TestSlowBody: a body that drips holds nobody for longer than a second.
func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var src *body
		text := "abcdefghij"
		src = newBody(readerFunc(func(p []byte) (int, error) {
			if text == "" {
				<-src.done
				return 0, io.ErrClosedPipe
			}
			time.Sleep(300 * time.Millisecond)
			n := copy(p[:1], text)
			text = text[n:]
			return n, nil
		}))
		start := time.Now()
		b := peek.New(response(src, -1), start)
		require.Equal(t, "abc", string(ahead(t.Context(), b)))
		require.Equal(t, time.Second, time.Since(start))
		p := make([]byte, 10)
		n, err := io.ReadFull(b, p)
		require.NoError(t, err)
		require.Equal(t, "abcdefghij", string(p[:n]), "nothing is lost")
		go func() { time.Sleep(time.Second); _ = b.Close() }()
		_, err = b.Read(p)
		require.Error(t, err, "Close ends a Read that waits")
	})
	synctest.Test(t, func(t *testing.T) {
		var src *body
		src = newBody(readerFunc(func([]byte) (int, error) { <-src.done; return 0, io.EOF }))
		b := peek.New(response(src, -1), time.Now())
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		require.Nil(t, ahead(ctx, b))
		require.Equal(t, 100*time.Millisecond, time.Since(start), "nor longer than the context lasts")
		require.NoError(t, b.Close(), "which ends the goroutine")
	})
}

// TestAheadOfABodyThatIsThere: to read a short body takes the Body, a buffer, which has
// room for the end, and a goroutine. There is nothing to wait for, and so no timer.
func TestAheadOfABodyThatIsThere(t *testing.T) {
	text, src := []byte(`{"code":"c"}`), new(bytes.Reader)
	resp := response(io.NopCloser(src), int64(len(text)))
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		src.Reset(text)
		b := peek.New(resp, time.Time{})
		if got := ahead(t.Context(), b); len(got) != len(text) {
			t.Errorf("got %q", got)
		}
	}), 3.0)
}

// FuzzBody: every byte is delivered once, whatever is read ahead and when, and the
// body is closed once.
func FuzzBody(f *testing.F) {
	f.Add([]byte("0123456789"), []byte{3, 0, 9}, true)
	f.Add(bytes.Repeat([]byte("x"), peek.Max+3), []byte{255, 0, 255}, false)
	f.Fuzz(func(t *testing.T, text, ops []byte, first bool) {
		src := newBody(iotest.HalfReader(bytes.NewReader(text)))
		b := peek.New(response(src, int64(len(text))), time.Now())
		prefix := text[:min(len(text), peek.Max)]
		if first {
			require.Equal(t, string(prefix), string(ahead(t.Context(), b)))
		}
		var got []byte
		for _, op := range ops {
			if op == 0 {
				require.Equal(t, string(prefix), string(b.Prefix()))
				continue
			}
			p := make([]byte, op)
			n, _ := b.Read(p)
			got = append(got, p[:n]...)
		}
		rest, err := io.ReadAll(b)
		require.NoError(t, err)
		require.Equal(t, string(text), string(got)+string(rest))
		require.Equal(t, string(prefix), string(b.Prefix()))
		require.NoError(t, b.Close())
		require.Equal(t, 1, src.closed)
	})
}
