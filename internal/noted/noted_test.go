package noted_test

import (
	"net/http"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/noted"
)

func TestNotes(t *testing.T) {
	var notes noted.Notes[string]
	resp := new(http.Response)
	require.Empty(t, notes.Of(resp))
	require.Zero(t, testing.AllocsPerRun(10, func() { notes.Of(resp) }), "there are no notes to look for")
	notes.Set(resp, "first")
	notes.Set(resp, "second")
	require.Equal(t, "second", notes.Of(resp), "the last one counts")
	require.Empty(t, notes.Of(new(http.Response)))
}

// TestForgotten: a note lives as long as its response.
func TestForgotten(t *testing.T) {
	var notes noted.Notes[*[64]int]
	note := new([64]int)
	gone := weak.Make(note)
	resp := new(http.Response)
	notes.Set(resp, note)
	runtime.GC()
	require.Same(t, note, notes.Of(resp))
	runtime.KeepAlive(resp) // and neither is used from here on
	require.Eventually(t, func() bool {
		runtime.GC()
		return gone.Value() == nil
	}, 10*time.Second, time.Millisecond)
}
