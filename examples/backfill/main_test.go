package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// writeInput writes n made-up requests to a file.
func writeInput(t *testing.T, n int) string {
	t.Helper()
	var text bytes.Buffer
	for _, r := range madeUp(n) {
		line, err := json.Marshal(r)
		require.NoError(t, err)
		text.Write(append(line, '\n'))
	}
	name := filepath.Join(t.TempDir(), "requests.jsonl")
	require.NoError(t, os.WriteFile(name, text.Bytes(), 0o600))
	return name
}

// ids returns the ids of a file of results, in their order.
func ids(t *testing.T, name string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		var r result
		require.NoError(t, json.Unmarshal([]byte(line), &r), line)
		require.Equal(t, 200, r.Status)
		all = append(all, r.ID)
	}
	return all
}

// TestStartedAgain: it is stopped in the middle, the last line of the results is torn,
// and the second run does what is left, and nothing twice.
func TestStartedAgain(t *testing.T) {
	c := config{in: writeInput(t, 120), requests: 6000, tokens: 6_000_000, workers: 8}
	c.out = filepath.Join(t.TempDir(), "results.jsonl")
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	var said bytes.Buffer
	require.ErrorContains(t, run(ctx, c, &said, io.Discard), "requests are left: start it again to go on")
	before := ids(t, c.out)
	require.NotEmpty(t, before)
	require.Less(t, len(before), 120)

	f, err := os.OpenFile(c.out, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(`{"id":"request-01`)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	said.Reset()
	require.NoError(t, run(t.Context(), c, &said, io.Discard), said.String())
	all := ids(t, c.out)
	require.Equal(t, before, all[:len(before)])
	var want []string
	for _, r := range madeUp(120) {
		want = append(want, r.ID)
	}
	require.ElementsMatch(t, want, all)
	for _, row := range []string{"time", "optimum", "answered", "refused", "failed     0 requests"} {
		require.Contains(t, said.String(), row)
	}
	require.NoError(t, run(t.Context(), c, io.Discard, io.Discard), "there is nothing left to do")
}

// TestBadInput: what cannot be read is not sent, and the line is named.
func TestBadInput(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{`{"id":"a","body":{}}` + "\nno JSON\n", ":2: "},
		{`{"body":{}}`, ":1: a line needs an id of its own"},
		{`{"id":"a"}`, ":1: a line needs an id of its own, and a body"},
		{`{"id":"a","body":{}}` + "\n" + `{"id":"a","body":{}}`, ":2: a line needs an id of its own"},
	} {
		name := filepath.Join(t.TempDir(), "requests.jsonl")
		require.NoError(t, os.WriteFile(name, []byte(tt.text), 0o600))
		c := config{in: name, out: filepath.Join(t.TempDir(), "results.jsonl"), requests: 1, tokens: 1, workers: 1}
		require.ErrorContains(t, run(t.Context(), c, io.Discard, io.Discard), tt.want)
	}
	require.Error(t, run(t.Context(), config{}, io.Discard, io.Discard), "limits of nothing")
}
