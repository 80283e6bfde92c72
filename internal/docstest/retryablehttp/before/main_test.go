package main

import (
	"bytes"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/resilienttest"
)

// TestRun: the POST that was answered with 500 is sent twice, and the server cannot
// know that it is the same one.
func TestRun(t *testing.T) {
	shop := resilienttest.New(
		resilienttest.Status(503), resilienttest.Answer{Body: `["1","2","3","4"]`},
		resilienttest.Status(429, "Retry-After", "0"), resilienttest.Status(200),
		resilienttest.Status(500), resilienttest.Status(200),
		resilienttest.Status(423), resilienttest.Status(200),
		resilienttest.Answer{Status: 404, Body: `{"type":"NOT_FOUND","message":"No such order."}`},
	)
	srv := httptest.NewServer(shop)
	defer srv.Close()
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), srv.URL, &out))
	require.Equal(t, `/orders again, 1
/orders/1 again, 1
order 1: confirmed
/orders/2 again, 1
order 2: confirmed
/orders/3 again, 1
order 3: confirmed
order 4: 404 Not Found: No such order.
`, out.String())
	require.Equal(t, 9, shop.Count())
	require.Empty(t, shop.Attempts()[4].Header.Get("Idempotency-Key"))
	require.Equal(t, shop.Attempts()[4].Body, shop.Attempts()[5].Body)
}
