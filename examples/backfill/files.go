package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// request is a line of the input.
type request struct {
	ID   string          `json:"id"`
	Body json.RawMessage `json:"body"`
}

// result is a line of the results.
type result struct {
	ID     string          `json:"id"`
	Status int             `json:"status"`
	Body   json.RawMessage `json:"body"`
}

// readInput reads the requests of a file, or makes some up.
func readInput(name string) ([]request, error) {
	if name == "" {
		return madeUp(2000), nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var all []request
	seen := make(map[string]bool)
	for i, line := range bytes.Split(text, []byte("\n")) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var r request
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, i+1, err)
		}
		if r.ID == "" || len(r.Body) == 0 || seen[r.ID] {
			return nil, fmt.Errorf("%s:%d: a line needs an id of its own, and a body", name, i+1)
		}
		seen[r.ID] = true
		all = append(all, r)
	}
	return all, nil
}

// madeUp returns requests of different lengths, the same ones each time.
func madeUp(n int) []request {
	all := make([]request, n)
	for i := range all {
		words := strings.Repeat("word ", 10+i*i%400)
		body := fmt.Sprintf(`{"messages":[{"role":"user","content":%q}],"max_tokens":%d}`, words, 20+i%80)
		all[i] = request{ID: fmt.Sprintf("request-%04d", i), Body: json.RawMessage(body)}
	}
	return all
}

// results is the file of results. Each is a line of its own that is written at once, so
// when the program is killed at most the last line is incomplete.
type results struct {
	mu   sync.Mutex
	file *os.File
	done map[string]bool
}

// openResults opens a file of results, and reads what is in it. An incomplete last line
// is cut off.
func openResults(name string) (_ *results, err error) {
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = file.Close()
		}
	}()
	r := &results{file: file, done: make(map[string]bool)}
	var whole int64
	lines := bufio.NewReader(file)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		var one result
		if err := json.Unmarshal(line, &one); err != nil {
			return nil, fmt.Errorf("%s:%d is no result: %w", name, n, err)
		}
		r.done[one.ID] = true
		whole += int64(len(line))
	}
	if err := file.Truncate(whole); err != nil {
		return nil, err
	}
	_, err = file.Seek(whole, io.SeekStart)
	return r, err
}

// missing returns the requests without a result.
func (r *results) missing(all []request) []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var missing []request
	for _, req := range all {
		if !r.done[req.ID] {
			missing = append(missing, req)
		}
	}
	return missing
}

func (r *results) add(one result) error {
	if !json.Valid(one.Body) {
		text, err := json.Marshal(string(one.Body))
		if err != nil {
			return err
		}
		one.Body = text
	}
	line, err := json.Marshal(one)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.file.Write(append(line, '\n')); err != nil {
		return err
	}
	r.done[one.ID] = true
	return nil
}

func (r *results) Close() error { return r.file.Close() }
