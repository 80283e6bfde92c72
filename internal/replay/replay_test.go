package replay_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/replay"
)

// source is a body that counts how often it is closed, and reads at most step
// bytes at once.
type source struct {
	io.Reader
	step   int
	closed int
}

func (s *source) Read(p []byte) (int, error) {
	if s.step > 0 && len(p) > s.step {
		p = p[:s.step]
	}
	return s.Reader.Read(p)
}

func (s *source) Close() error { s.closed++; return nil }

func newSource(text string) *source { return &source{Reader: strings.NewReader(text)} }

func open(t *testing.T, b *replay.Body) io.ReadCloser {
	t.Helper()
	r, err := b.Open()
	require.NoError(t, err)
	return r
}

func read(t *testing.T, r io.Reader, n int) string {
	t.Helper()
	p := make([]byte, n)
	n, err := io.ReadFull(r, p)
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		require.NoError(t, err)
	}
	return string(p[:n])
}

func TestBody(t *testing.T) {
	const text = "0123456789"
	boom := errors.New("boom")
	for _, tt := range []struct {
		name  string
		limit int64
		src   io.Reader
		run   func(t *testing.T, b *replay.Body)
		why   string
	}{
		{"again", 10, strings.NewReader(text), func(t *testing.T, b *replay.Body) {
			t.Helper()
			for range 3 {
				require.Equal(t, text, read(t, open(t, b), 20))
			}
			require.False(t, b.Overflown())
			require.NoError(t, b.Err(), "io.EOF is no failure")
		}, "as long as the limit"},
		{"too long", 9, strings.NewReader(text), func(t *testing.T, b *replay.Body) {
			t.Helper()
			r := open(t, b)
			require.Equal(t, text, read(t, r, len(text)), "it is never cut short")
			require.True(t, b.Overflown(), "known before the end of the source is")
			require.Empty(t, read(t, r, 1))
			_, err := b.Open()
			require.ErrorIs(t, err, replay.ErrLost)
		}, "it is sent once"},
		{"abandoned half-way", 10, strings.NewReader(text), func(t *testing.T, b *replay.Body) {
			t.Helper()
			old := open(t, b)
			require.Equal(t, "0123", read(t, old, 4))
			require.Equal(t, text, read(t, open(t, b), 20))
			require.Equal(t, "456789", read(t, old, 6), "what was recorded is anybody's")
		}, "the next one gets it all"},
		{"abandoned before the end", 10, strings.NewReader(text), func(t *testing.T, b *replay.Body) {
			t.Helper()
			old := open(t, b)
			require.Equal(t, "0123", read(t, old, 4))
			r := open(t, b)
			require.Equal(t, "01", read(t, r, 2))
			_, err := io.ReadAll(old)
			require.ErrorIs(t, err, replay.ErrLost, "the source is the newest one's")
			require.Equal(t, "23456789", read(t, r, 20))
		}, "it does not take bytes away"},
		{"a failure", 10, io.MultiReader(strings.NewReader("01"), iotest.ErrReader(boom)), func(t *testing.T, b *replay.Body) {
			t.Helper()
			for range 2 {
				got, err := io.ReadAll(open(t, b))
				require.Equal(t, "01", string(got))
				require.ErrorIs(t, err, boom)
			}
			require.ErrorIs(t, b.Err(), boom)
		}, "is told to every reader"},
		{"after Close", 10, strings.NewReader(text), func(t *testing.T, b *replay.Body) {
			t.Helper()
			r := open(t, b)
			require.NoError(t, r.Close())
			require.NoError(t, r.Close())
			_, err := r.Read(make([]byte, 1))
			require.ErrorIs(t, err, http.ErrBodyReadAfterClose)
		}, "as net/http has it"},
		{"nothing", 0, strings.NewReader(""), func(t *testing.T, b *replay.Body) {
			t.Helper()
			require.Empty(t, read(t, open(t, b), 1))
			require.Empty(t, read(t, open(t, b), 1))
		}, "an empty body can be sent again with any limit"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := &source{Reader: tt.src}
			b := replay.New(src, tt.limit)
			tt.run(t, b)
			require.Zero(t, src.closed, tt.why)
		})
	}
}

func TestTheSourceIsClosedOnce(t *testing.T) {
	src := newSource("0123")
	replay.New(src, 10).End()
	require.Equal(t, 1, src.closed, "no reader was ever opened")

	src = newSource("0123")
	b := replay.New(src, 10)
	first, second := open(t, b), open(t, b)
	require.NoError(t, first.Close())
	b.End()
	require.Zero(t, src.closed, "a reader is left")
	require.NoError(t, second.Close())
	require.NoError(t, second.Close())
	require.Equal(t, 1, src.closed)

	src = newSource("0123")
	b = replay.New(src, 10)
	first = open(t, b)
	require.NoError(t, first.Close())
	require.Zero(t, src.closed, "another one may be opened")
	b.End()
	require.Equal(t, 1, src.closed)
}

// TestReadersAtOnce: an abandoned reader that is in the middle of a read takes no
// byte away from the newest one.
func TestReadersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		b := replay.New(pr, 100)
		old := open(t, b)
		go func() { _, _ = io.ReadAll(old) }()
		synctest.Wait()
		r := open(t, b)
		var got []byte
		var reading sync.WaitGroup
		reading.Go(func() { got, _ = io.ReadAll(r) })
		synctest.Wait()
		for _, part := range []string{"abc", "def", "ghi"} {
			_, err := io.WriteString(pw, part)
			require.NoError(t, err)
			synctest.Wait()
		}
		require.NoError(t, pw.Close())
		reading.Wait()
		require.Equal(t, "abcdefghi", string(got))
	})
}

// FuzzBody: every byte is delivered once and in order to whoever reads to the end,
// and the source is closed once.
func FuzzBody(f *testing.F) {
	f.Add([]byte("0123456789"), []byte{0, 1, 5, 0, 9, 2, 3, 0, 99}, int64(10), byte(3))
	f.Fuzz(func(t *testing.T, text, ops []byte, limit int64, step byte) {
		if limit < 0 {
			t.Skip("WithReplayBuffer panics")
		}
		src := &source{Reader: bytes.NewReader(text), step: int(step)}
		b := replay.New(src, limit)
		type state struct {
			io.ReadCloser
			got []byte
			end error
		}
		var readers []*state
		for _, op := range ops {
			if op%8 == 0 {
				r, err := b.Open()
				require.Equal(t, b.Overflown(), err != nil)
				if err == nil {
					readers = append(readers, &state{ReadCloser: r})
				}
				continue
			}
			if len(readers) == 0 {
				continue
			}
			r := readers[int(op>>3)%len(readers)]
			if op%8 == 1 {
				require.NoError(t, r.Close())
				continue
			}
			p := make([]byte, op%8)
			n, err := r.Read(p)
			r.got = append(r.got, p[:n]...)
			r.end = err
			require.True(t, bytes.HasPrefix(text, r.got), "in order, and nothing twice")
			if err == io.EOF { //nolint:errorlint // bare
				require.Equal(t, text, append([]byte{}, r.got...), "an end is the end of all of it")
			}
		}
		if len(readers) > 0 && !b.Overflown() {
			if r, err := b.Open(); err == nil {
				got, err := io.ReadAll(r)
				require.NoError(t, err)
				require.Equal(t, text, append([]byte{}, got...), "a new reader gets all of it")
				readers = append(readers, &state{ReadCloser: r})
			}
		}
		b.End()
		for _, r := range readers {
			require.NoError(t, r.Close())
		}
		require.Equal(t, 1, src.closed)
	})
}
