package main

import (
	"bytes"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/resilienttest"
)

func TestRun(t *testing.T) {
	api := resilienttest.New(
		resilienttest.Status(503), resilienttest.Answer{Body: `["Ada","Grace"]`},
		resilienttest.Answer{Lost: true, Status: 200, Body: `["Barbara","Radia"]`},
		resilienttest.Answer{Body: `["Barbara","Radia"]`},
		resilienttest.Status(429, "Retry-After", "1"), resilienttest.Answer{Body: `[]`},
		resilienttest.Answer{Status: 403, Body: `{"type":"FORBIDDEN","message":"Not yours."}`},
	)
	srv := httptest.NewServer(api)
	defer srv.Close()
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), srv.URL, &out))
	require.Equal(t, "Ada\nGrace\nBarbara\nRadia\n", out.String())
	require.Equal(t, 6, api.Count())

	require.ErrorContains(t, run(t.Context(), srv.URL, &out), "status 403 FORBIDDEN: Not yours.")
	require.Equal(t, 7, api.Count(), "it is final")
}
