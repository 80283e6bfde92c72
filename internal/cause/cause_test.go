package cause_test

import (
	"errors"
	"net/http"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/cause"
)

func TestCause(t *testing.T) {
	first, second := errors.New("first"), errors.New("second")
	resp, other := new(http.Response), new(http.Response)
	require.NoError(t, cause.Of(resp))
	cause.Attach(resp, first)
	require.Equal(t, first, cause.Of(resp))
	cause.Attach(resp, second)
	require.Equal(t, second, cause.Of(resp), "the last one counts")
	require.NoError(t, cause.Of(other))
}

// TestForgotten: an error lives as long as its response.
func TestForgotten(t *testing.T) {
	err := &struct{ error }{errors.New("large")}
	gone := weak.Make(err)
	resp := new(http.Response)
	cause.Attach(resp, err)
	runtime.GC()
	require.Equal(t, err, cause.Of(resp))
	runtime.KeepAlive(resp) // and neither is used from here on
	require.Eventually(t, func() bool {
		runtime.GC()
		return gone.Value() == nil
	}, 10*time.Second, time.Millisecond)
}
