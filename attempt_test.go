package resilient_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

// slowBody is a request body of n bytes, each of which takes a while to make.
type slowBody struct {
	n     int
	each  time.Duration
	end   error
	close func()
}

func (b *slowBody) Read(p []byte) (int, error) {
	time.Sleep(b.each)
	if b.n == 0 {
		return 0, b.end
	}
	b.n--
	p[0] = 'x'
	return 1, nil
}

func (b *slowBody) Close() error {
	if b.close != nil {
		b.close()
	}
	return nil
}

// sends reads the body of req as a line does that takes a byte every pace, until
// it ends or n bytes are read.
func sends(req *http.Request, n int, pace time.Duration) {
	for range n {
		if _, err := req.Body.Read(make([]byte, 1)); err != nil {
			return
		}
		time.Sleep(pace)
	}
}

// pause reports whether d has passed before the end of ctx.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// TestUploadIsNotTimed is an attempt with a timeout of 300 ms whose body takes
// longer than that. An upload that is cut and begun again takes longer still.
func TestUploadIsNotTimed(t *testing.T) {
	const limit = 300 * time.Millisecond
	for _, tt := range []struct {
		name   string
		why    string
		limit  time.Duration // 0: 300 ms
		body   *slowBody     // nil: none
		base   func(*http.Request)
		silent bool // the base then waits for its context
		took   time.Duration
		says   string
	}{
		{
			name: "slow producer", why: "a Read in progress never counts",
			body: &slowBody{n: 5, each: time.Minute, end: io.EOF},
			base: func(req *http.Request) { sends(req, 9, 0) }, took: 6 * time.Minute,
		},
		{
			name: "slow line", body: &slowBody{n: 20, end: io.EOF},
			base: func(req *http.Request) { sends(req, 99, 5*time.Second) }, took: 100 * time.Second,
		},
		{
			name: "silence after a slow producer", why: "the time starts anew with the end of the body",
			body: &slowBody{n: 5, each: time.Minute, end: io.EOF},
			base: func(req *http.Request) { sends(req, 9, 0) }, silent: true,
			took: 6*time.Minute + limit, says: "no response headers after 300ms",
		},
		{
			name: "silence after a slow line", why: "the last of a body may still be on its way",
			body: &slowBody{n: 20, end: io.EOF},
			base: func(req *http.Request) { sends(req, 99, time.Second) }, silent: true,
			took: 20*time.Second + limit + 20*time.Second, says: "no response headers after 300ms",
		},
		{
			name: "silence after a broken body", body: &slowBody{n: 2, each: time.Second, end: errors.New("disk")},
			base: func(req *http.Request) { sends(req, 9, 0) }, silent: true,
			took: 3*time.Second + limit, says: "no response headers after 300ms",
		},
		{
			name: "silence after Close", why: "net/http closes what the server does not want",
			body: &slowBody{n: 9, each: time.Second, end: io.EOF},
			base: func(req *http.Request) { sends(req, 2, 0); _ = req.Body.Close() }, silent: true,
			took: 2*time.Second + limit, says: "no response headers after 300ms",
		},
		{
			name: "stalled", why: "a line that takes nothing more is dead",
			body: &slowBody{n: 9, each: time.Second, end: io.EOF},
			base: func(req *http.Request) { sends(req, 2, 0) }, silent: true,
			took: 12 * time.Second, says: "the connection took nothing of the request body for 10s",
		},
		{
			name: "stalled, with a long timeout", limit: time.Minute,
			body: &slowBody{n: 9, each: time.Second, end: io.EOF},
			base: func(req *http.Request) { sends(req, 2, 0) }, silent: true,
			took: 62 * time.Second, says: "the connection took nothing of the request body for 1m0s",
		},
		{
			name: "body not read yet", why: "Expect: 100-continue",
			body: &slowBody{n: 9, each: time.Second, end: io.EOF}, base: func(*http.Request) {}, silent: true,
			took: limit, says: "no response headers after 300ms",
		},
		{
			name: "body closed unread", body: &slowBody{n: 9, each: time.Second, end: io.EOF}, silent: true,
			base: func(req *http.Request) { time.Sleep(limit / 2); _ = req.Body.Close() },
			took: limit, says: "no response headers after 300ms",
		},
		{
			name: "no body", base: func(*http.Request) {}, silent: true,
			took: limit, says: "no response headers after 300ms",
		},
		{
			name: "sent again by the base", why: "the time of an endless repetition must end",
			body: &slowBody{n: 2, each: time.Second, end: io.EOF}, silent: true,
			base: func(req *http.Request) {
				sends(req, 9, 0)
				for pause(req.Context(), 200*time.Millisecond) {
					body, err := req.GetBody()
					require.NoError(t, err)
					_, err = io.Copy(io.Discard, body)
					require.NoError(t, err)
					require.NoError(t, body.Close())
				}
			},
			took: 3*time.Second + 200*time.Millisecond + 3*time.Second + 100*time.Millisecond, says: "no response headers after 300ms",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				attempts := 0
				base := step(func(req *http.Request) (*http.Response, error) {
					attempts++
					tt.base(req)
					if tt.silent {
						<-req.Context().Done()
						return nil, req.Context().Err()
					}
					require.NoError(t, req.Context().Err())
					return answer(200)(req)
				})
				req := newRequest(t, http.MethodPut, "http://api.test/v1", "")
				if tt.body != nil {
					first := *tt.body
					req.Body = &first
					req.GetBody = func() (io.ReadCloser, error) { again := *tt.body; return &again, nil }
					req.ContentLength = int64(tt.body.n)
				}
				start := time.Now()
				resp, err := resilient.NewTransport(base, resilient.WithMaxAttempts(1),
					resilient.WithAttemptTimeout(max(tt.limit, limit))).RoundTrip(req)
				require.Equal(t, tt.took, time.Since(start))
				require.Equal(t, 1, attempts)
				if tt.says == "" {
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
					return
				}
				require.EqualError(t, err, "resilient: "+tt.says)
				var timeout net.Error
				require.ErrorAs(t, err, &timeout)
				require.True(t, timeout.Timeout())
			})
		})
	}
}

// TestUploadGoesOnAfterTheResponse is a server that answers early and reads on,
// which HTTP/2 allows: no timeout cuts the upload or the response.
func TestUploadGoesOnAfterTheResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var uploaded sync.WaitGroup
		base := step(func(req *http.Request) (*http.Response, error) {
			uploaded.Go(func() {
				sends(req, 99, 15*time.Second)
				require.NoError(t, req.Context().Err())
				require.NoError(t, req.Body.Close())
			})
			time.Sleep(time.Second)
			return answer(200)(req)
		})
		closed := 0
		req := post(t)
		req.Body, req.GetBody = &slowBody{n: 5, each: time.Second, end: io.EOF, close: func() { closed++ }}, nil
		start := time.Now()
		resp, err := resilient.NewTransport(base, resilient.WithAttemptTimeout(2*time.Second)).RoundTrip(req)
		require.NoError(t, err)
		require.Equal(t, time.Second, time.Since(start))
		uploaded.Wait()
		require.Equal(t, 81*time.Second, time.Since(start))
		require.Equal(t, 1, closed)
		require.Equal(t, `{"ok":true}`, readAll(t, resp))
	})
}

// TestUploadToASlowServer is net/http's own client and server. Each of four
// attempts would be cut.
func TestUploadToASlowServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hits, body := 0, strings.Repeat("x", 1<<20)
		base := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			hits++
			buf := make([]byte, 64<<10)
			got := 0
			for {
				n, err := io.ReadFull(r.Body, buf)
				got += n
				if err != nil {
					break
				}
				time.Sleep(time.Second)
			}
			if got != len(body) || r.ContentLength != int64(got) {
				t.Errorf("got %d bytes of %d", got, r.ContentLength)
			}
		})
		start := time.Now()
		resp, err := resilient.NewTransport(base, resilient.WithAttemptTimeout(2*time.Second)).
			RoundTrip(newRequest(t, http.MethodPut, "http://api.test/", body))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 16*time.Second, time.Since(start))
		require.Equal(t, 1, hits)
	})
}
