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
	rest := out.String()
	for _, want := range []string{
		"attempt 1  502, temporary status", ", backoff", "attempt 2  200, success", "got        The Octocat",
		"attempt 1  403, rate limited", "wait       1", "attempt 2  201, success", "got        issue 42",
		"attempt 1  404, final status", "go-github  Not Found", `resilient  Not Found (kind "not found", attempts 1)`,
	} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("%q is missing, or not in its place, in\n%s", want, out.String())
		}
		rest = after
	}
}
