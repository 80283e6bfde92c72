package deadline_test

import (
	"bytes"
	"io"
	"math"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/deadline"
)

// expiry notes when a Timer says that the time is up.
type expiry struct {
	mu   sync.Mutex
	errs []error
	at   time.Time
}

func (e *expiry) expire(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.errs, e.at = append(e.errs, err), time.Now()
}

func (e *expiry) all() []error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.errs
}

func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e expiry
		timer := deadline.Start(time.Second, e.expire)
		time.Sleep(time.Second - 1)
		require.Nil(t, timer.Stop())
		time.Sleep(time.Hour)
		require.Empty(t, e.all())
		require.Nil(t, timer.Stop())

		timer = deadline.Start(time.Second, e.expire)
		time.Sleep(time.Hour)
		require.Equal(t, []error{&deadline.Error{After: time.Second}}, e.all())
		require.Equal(t, &deadline.Error{After: time.Second}, timer.Stop())
	})
}

func TestError(t *testing.T) {
	for _, tt := range []struct {
		err  *deadline.Error
		want string
	}{
		{&deadline.Error{After: time.Second}, "resilient: no response headers after 1s"},
		{&deadline.Error{After: time.Minute, Stalled: true}, "resilient: the connection took nothing of the request body for 1m0s"},
	} {
		require.EqualError(t, tt.err, tt.want)
		var timeout net.Error = tt.err
		require.True(t, timeout.Timeout())
		//lint:ignore SA1019 deprecated, and part of the interface
		require.True(t, timeout.Temporary()) //nolint:staticcheck // as above
	}
}

// TestReadBeginsWhenTheTimeIsUp: in that instant either of them is first, but not
// both.
func TestReadBeginsWhenTheTimeIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 200 {
			var e expiry
			timer := deadline.Start(time.Second, e.expire)
			body := timer.Body(io.NopCloser(reader(func() (int, error) {
				time.Sleep(time.Hour)
				return 0, io.EOF
			})))
			time.Sleep(time.Second)
			_, _ = body.Read(make([]byte, 1))
			up := len(e.all())
			require.LessOrEqual(t, up, 1)
			require.Equal(t, up == 1, timer.Stop() != nil)
		}
	})
}

// TestBodyAfterStop is a base that reads on when it has returned.
func TestBodyAfterStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e expiry
		timer := deadline.Start(time.Second, e.expire)
		body := timer.Body(io.NopCloser(bytes.NewReader([]byte("payload"))))
		_, err := body.Read(make([]byte, 1))
		require.NoError(t, err)
		require.Nil(t, timer.Stop())
		b, err := io.ReadAll(body)
		require.NoError(t, err)
		require.Equal(t, "ayload", string(b))
		require.NoError(t, body.Close())
		time.Sleep(time.Hour)
		require.Empty(t, e.all())
	})
}

// TestTail is how long the last of a body may need: as long as the line took for
// as much before, however long the body.
func TestTail(t *testing.T) {
	for _, tt := range []struct {
		mib  int
		tail time.Duration
	}{{1, time.Second}, {8, 8 * time.Second}, {16, 16 * time.Second}, {24, 12 * time.Second}, {808, 8080 * time.Millisecond}} {
		synctest.Test(t, func(t *testing.T) {
			var e expiry
			deadline := deadline.Start(time.Second, e.expire)
			body := deadline.Body(io.NopCloser(io.LimitReader(zeros{}, int64(tt.mib)<<20)))
			buf := make([]byte, 1<<20)
			for {
				if _, err := io.ReadFull(body, buf); err != nil {
					break
				}
				time.Sleep(time.Second) // 1 MiB a second
			}
			end := time.Now()
			time.Sleep(time.Hour)
			require.Len(t, e.all(), 1)
			require.Equal(t, time.Second+tt.tail, e.at.Sub(end), "%d MiB", tt.mib)
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestHugeLimit(t *testing.T) {
	// The time that the last of a body may need made it negative.
	synctest.Test(t, func(t *testing.T) {
		var e expiry
		timer := deadline.Start(math.MaxInt64, e.expire)
		body := timer.Body(io.NopCloser(io.LimitReader(zeros{}, 2)))
		for range 3 {
			_, _ = body.Read(make([]byte, 1))
			time.Sleep(time.Second)
		}
		time.Sleep(time.Hour)
		require.Empty(t, e.all())
		require.Nil(t, timer.Stop())
	})
}

// panicking is a body whose Read panics.
type panicking struct{ io.ReadCloser }

func (panicking) Read([]byte) (int, error) { panic("body") }

func TestPanickingBodyDoesNotStopTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e expiry
		timer := deadline.Start(time.Second, e.expire)
		body := timer.Body(panicking{})
		require.PanicsWithValue(t, "body", func() { _, _ = body.Read(nil) })
		time.Sleep(time.Hour)
		require.Len(t, e.all(), 1)
		require.NotNil(t, timer.Stop())
	})
}

// FuzzTimer reads, closes and replaces bodies in any order. The time is up once,
// at the latest an hour after the last event, and never while a Read is in
// progress or after Stop.
func FuzzTimer(f *testing.F) {
	f.Add([]byte("rrrrc"))
	f.Add([]byte("rbrrcbr"))
	f.Add([]byte("rRrcrs"))
	f.Fuzz(func(t *testing.T, events []byte) {
		if len(events) > 100 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			var e expiry
			timer := deadline.Start(time.Minute, e.expire)
			closed := false
			read := func() (int, error) {
				before := len(e.all())
				time.Sleep(time.Hour)
				if !closed && len(e.all()) != before {
					t.Error("the time was up while a Read was in progress")
				}
				return 1, nil
			}
			body := timer.Body(io.NopCloser(reader(read)))
			stopped := false
			for _, event := range events {
				switch event {
				case 'r':
					_, _ = body.Read(make([]byte, 1))
				case 'c':
					_ = body.Close()
					closed = true
				case 'b':
					body = timer.Body(io.NopCloser(reader(read)))
					closed = false
				case 's':
					stopped = stopped || timer.Stop() == nil
				default:
					time.Sleep(time.Duration(event) * time.Second)
				}
			}
			time.Sleep(time.Duration(1+len(events)) * time.Hour)
			if !stopped && len(e.all()) != 1 {
				t.Errorf("the time was up %d times", len(e.all()))
			}
			if err := timer.Stop(); stopped && (err != nil || len(e.all()) != 0) {
				t.Error("the time was up after Stop")
			}
		})
	})
}

type reader func() (int, error)

func (r reader) Read([]byte) (int, error) { return r() }
