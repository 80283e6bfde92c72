package main

import (
	"net/http"
	"sync"
)

// counter is a base that counts the attempts by path. All clients send through one.
type counter struct {
	base http.RoundTripper

	mu    sync.Mutex
	paths map[string]counts
	err   error // the first one, for which no server has a reason here
}

// counts are of attempts. Those of calls that were cut off have no outcome.
type counts struct{ accepted, refused, errors, cut int }

func newCounter(base http.RoundTripper) *counter {
	return &counter{base: base, paths: make(map[string]counts)}
}

// RoundTrip implements http.RoundTripper.
func (c *counter) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.base.RoundTrip(req)
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.paths[req.URL.Path]
	switch {
	case err != nil && req.Context().Err() != nil:
		n.cut++
	case err != nil:
		n.errors++
		if c.err == nil {
			c.err = err
		}
	case resp.StatusCode == http.StatusOK:
		n.accepted++
	default:
		n.refused++
	}
	c.paths[req.URL.Path] = n
	return resp, err
}

// check returns an error if an attempt got no answer.
func (c *counter) check() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *counter) count(path string) counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paths[path]
}
