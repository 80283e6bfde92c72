package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	// The jitter above the hint may be too little to be seen.
	rest := strings.Replace(out.String(), "wait       1s", "wait       1.0s", 1)
	for _, want := range []string{
		"attempt 1  502, temporary status", ", backoff", "attempt 2  200, success", "got        The Octocat",
		"attempt 1  403, rate limited", "wait       1.", "attempt 2  201, success", "got        issue 42",
		"attempt 1  404, final status", "go-github  Not Found", `resilient  Not Found (kind "not found", attempts 1)`,
	} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("%q is missing, or not in its place, in\n%s", want, out.String())
		}
		rest = after
	}
}
