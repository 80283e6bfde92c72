package kit_test

import (
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/kit"
)

// TestContract: a RoundTripper that does nothing but what a Transport does keeps it.
func TestContract(t *testing.T) {
	kit.Contract(t, []kit.Way{{Name: "resilient", New: func(base http.RoundTripper) http.RoundTripper {
		return resilient.NewTransport(kit.Base{RoundTripper: base}, resilient.WithMaxAttempts(1))
	}}})
}

// TestServeHTTP: each version of HTTP is spoken, and connections are counted.
func TestServeHTTP(t *testing.T) {
	for version := 1; version <= 2; version++ {
		synctest.Test(t, func(t *testing.T) {
			base, dials := kit.ServeHTTP(t, version, func(w http.ResponseWriter, req *http.Request) {
				_, _ = w.Write([]byte(kit.Take(req)))
			})
			for range 2 {
				resp, err := base.RoundTrip(kit.Request(t, http.MethodPut, "http://api.test/", "payload", "X", "1"))
				require.NoError(t, err)
				require.Equal(t, version, resp.ProtoMajor)
				require.Equal(t, "payload", kit.ReadAll(t, resp))
			}
			require.Equal(t, 1, dials())
		})
	}
}

// TestBodies: what is noted is looked at when the test ends.
func TestBodies(t *testing.T) {
	bodies := kit.NewBodies(t)
	resp := kit.Response(200, "body", "X-Other", "1")
	bodies.Note(resp)
	require.Equal(t, "1", resp.Header.Get("X-Other"))
	require.Equal(t, "body", kit.ReadAll(t, resp))
	bodies.Note(&http.Response{Body: http.NoBody})
	require.Empty(t, kit.Take(kit.Get(t)))
}
