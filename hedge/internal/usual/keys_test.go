package usual_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/hedge/internal/usual"
)

// TestKeys: the keys used last are remembered.
func TestKeys(t *testing.T) {
	var keys usual.Keys
	get := func(host string) *usual.Calls {
		return keys.Calls(usual.Key{Scheme: "https", Host: host}, 0.05, time.Second)
	}
	first := get("first")
	delay, affordable := first.Delay()
	require.Equal(t, time.Second, delay)
	require.True(t, affordable)
	require.NotSame(t, first, get("second"))
	require.NotSame(t, first, keys.Calls(usual.Key{Scheme: "http", Host: "first"}, 0.05, time.Second))
	for i := range 1022 {
		get(strconv.Itoa(i))
	}
	require.NotSame(t, first, get("first"), "it was the one of 1,025 that was not used for longest")
}
