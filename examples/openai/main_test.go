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
		"attempt 1  429, rate limited", "retry-after", "attempt 2  200, success", "got        Forty-two.",
		"attempt 1  200, success", "event      Forty-", "event      three.",
		"attempt 1  429, quota used up", "openai-go  429 You exceeded your current quota.",
		`resilient  You exceeded your current quota. (kind "quota", attempts 1)`,
	} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("%q is missing, or not in its place, in\n%s", want, out.String())
		}
		rest = after
	}
}
