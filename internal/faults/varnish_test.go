//go:build linux

package faults_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

// requireVarnish makes a missing varnishd a failure, if set to 1.
const requireVarnish = "RESILIENT_REQUIRE_VARNISH"

// startVarnish runs Debian's Varnish, with the VCL that is built in, in front of
// the origin at addr. It gives the origin half a second for the first byte. The
// test is skipped if there is no varnishd.
func startVarnish(t *testing.T, addr string) (url string) {
	t.Helper()
	path, err := exec.LookPath("varnishd")
	if err != nil {
		if os.Getenv(requireVarnish) == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	vcl := filepath.Join(dir, "default.vcl")
	require.NoError(t, os.WriteFile(vcl, fmt.Appendf(nil,
		"vcl 4.1;\nbackend default { .host = %q; .port = %q; .first_byte_timeout = 0.5s; }\n", host, port), 0o600))

	l := listen(t)
	front := l.Addr().String()
	require.NoError(t, l.Close())
	cmd := exec.CommandContext(t.Context(), path, "-F", "-j", "none", "-n", filepath.Join(dir, "work"), "-f", vcl,
		"-a", front, "-T", "none", "-s", "malloc,16m")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// It has a child that serves. Both die with the test, and with the process.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Cancel()
		<-ended
	})
	eventually(t, func() error {
		select {
		case <-ended:
			t.Fatalf("varnishd has ended: %s", out.Bytes())
		default:
		}
		c, err := net.Dial("tcp", front)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	return "http://" + front
}

// TestVarnish is a cache whose origin took the request and is slow: the cache
// answers 503 with Retry-After, and knows nothing of what the origin has done. A
// POST is not sent again for that.
func TestVarnish(t *testing.T) {
	for _, tt := range []struct {
		method string
		slow   int // requests for which the origin takes too long
		booked int
		status int
	}{
		{http.MethodPost, 99, 1, 503},
		{http.MethodGet, 1, 2, 200},
	} {
		t.Run(tt.method, func(t *testing.T) {
			leaveNothing(t)
			var mu sync.Mutex
			booked := 0
			origin := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				_, _ = io.Copy(io.Discard, req.Body)
				mu.Lock()
				booked++
				n := booked
				mu.Unlock()
				if n <= tt.slow {
					<-time.NewTimer(2 * time.Second).C
				}
				_, _ = io.WriteString(w, "booked")
			}))
			// Varnish itself sends a request again if the connection it kept is dead.
			origin.Config.SetKeepAlivesEnabled(false)
			origin.Start()
			t.Cleanup(origin.Close)
			url := startVarnish(t, origin.Listener.Addr().String())

			client := resilient.NewTransport(newBase(t))
			resp, err := client.RoundTrip(newRequest(t, tt.method, url))
			require.NoError(t, err)
			defer resp.Body.Close()
			require.Equal(t, tt.status, resp.StatusCode)
			if tt.status == 503 {
				require.Equal(t, "5", resp.Header.Get("Retry-After"))
				apiErr, ok := resilient.ErrorFromResponse(resp)
				require.True(t, ok)
				require.ErrorIs(t, apiErr, resilient.ErrServer)
			}
			origin.Close() // waits for the requests that it still has
			mu.Lock()
			defer mu.Unlock()
			require.Equal(t, tt.booked, booked)
		})
	}
}
