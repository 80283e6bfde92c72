package reauth

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/resilienthttp/resilient/internal/credential"
	"github.com/resilienthttp/resilient/internal/lru"
)

const (
	// refreshTimeout bounds a refresh in place of the callers' contexts. It leaves room
	// for a few retries. Callers do not end a refresh, even all of them together: the
	// server may have replaced the refresh token already.
	refreshTimeout = 30 * time.Second

	// holdOff is the time between a refresh that was in vain and the next one. A token
	// server that is down or refuses is then asked six times a minute.
	holdOff = 10 * time.Second

	// maxTokens bounds the credentials that are remembered.
	maxTokens = 1024
)

// token is a credential of any kind. One that was refused leads to the one that has
// replaced it, and the last one is in use. So however many requests come back with an
// old one, they all find the newest, and only that is ever refreshed.
type token struct {
	header http.Header // the fields that hold it; nil: the callers set it
	next   *token      // that has replaced it; nil: none has

	done  chan struct{} // closed when the refresh that is under way is over; nil: none is
	err   error         // why the last one was in vain
	until time.Time     // there is no other one before
}

// request returns req with the token in it: a copy, unless it is there already. The copy
// is shallow, because the caller may be filling in Trailer.
func (c *token) request(req *http.Request) *http.Request {
	out := req
	for name, values := range c.header {
		if slices.Equal(req.Header[name], values) {
			continue
		}
		if out == req {
			out = req.WithContext(req.Context())
			out.Header = req.Header.Clone()
		}
		out.Header[name] = values
	}
	return out
}

// last returns the token in use. The way to it is shorter the next time, and those
// between are let go.
func (c *token) last() *token {
	last := c
	for last.next != nil {
		last = last.next
	}
	if last != c {
		c.next = last
	}
	return last
}

func (c *token) inVain(why error) { c.err, c.until = why, time.Now().Add(holdOff) }

// key names a credential without holding it. It has 128 bits, because a request would get
// the credential of another account if their keys were the same.
type key [2]uint64

// store holds the tokens that were refused, and those that have replaced them.
type store struct {
	fields []string // beside those that package credential knows
	seeds  [2]maphash.Seed
	known  atomic.Bool // false: no token is there yet, so none need be looked up

	mu     sync.Mutex // for all tokens too, except for their header
	tokens lru.Table[key, *token]
}

func (s *store) init() {
	s.seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	s.tokens.Size, s.tokens.Limit = maxTokens, maxTokens
	s.tokens.Idle = func(c *token) bool { return c.done == nil }
}

func (s *store) isField(name string) bool {
	return credential.IsField(name) || slices.Contains(s.fields, name)
}

// keyOf returns the key of the credential that a request carries, without allocating.
func (s *store) keyOf(req *http.Request) (k key) {
	add := func(name, value string) {
		for i, seed := range s.seeds { // in no order, as that of a map is random
			k[i] += maphash.Comparable(seed, [2]string{name, value})
		}
	}
	for name, values := range req.Header {
		if s.isField(name) {
			for _, value := range values {
				add(name, value)
			}
		}
	}
	if user := req.URL.User; user != nil {
		password, _ := user.Password()
		add(user.Username(), password)
	}
	if k == (key{}) {
		add(req.URL.Scheme, strings.ToLower(req.URL.Host))
	}
	return k
}

// find returns the token in use for the credential of a request, or nil.
func (s *store) find(req *http.Request) *token {
	k := s.keyOf(req)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.tokens.Get(k); ok {
		return c.last()
	}
	return nil
}

// findOrAdd returns the token of the credential of a request, even if another one has
// replaced it: that was not sent.
func (s *store) findOrAdd(req *http.Request) *token {
	k := s.keyOf(req)
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.tokens.Get(k)
	if !ok {
		c = new(token)
		s.tokens.Add(k, c)
		s.known.Store(true)
	}
	return c
}

// useless notes that a new token was refused.
func (s *store) useless(c *token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.next == nil && c.done == nil {
		c.inVain(errStill)
	}
}

// refreshing marks the context that a Refresh is given.
type refreshing struct{}

// renewed returns the token that replaces c, with which out was refused, or why there is
// none. It waits for it as long as the caller does.
func (t *Transport) renewed(out *http.Request, c *token) (*token, error) {
	for {
		next, done, err := t.step(out, c)
		if done == nil {
			return next, err
		}
		select {
		case <-done:
		case <-out.Context().Done():
			return nil, context.Cause(out.Context())
		}
	}
}

// step returns the token that replaces c, or why there is none. While a refresh is under
// way it returns a channel instead, and begins one unless it is too early.
func (t *Transport) step(out *http.Request, c *token) (next *token, done <-chan struct{}, err error) {
	s := &t.store
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case c.next != nil:
		return c.last(), nil, nil
	case c.done != nil:
	case time.Now().Before(c.until):
		return nil, nil, c.err
	default:
		c.done = make(chan struct{})
		stale := out.Clone(context.WithoutCancel(out.Context())) // the caller may be gone before it
		stale.Body, stale.GetBody = nil, nil
		go t.renew(c, stale)
	}
	return nil, c.done, nil
}

// renew gets a token in place of c. A panic becomes an error, because nobody could recover
// from it in a goroutine of its own. The context has no values of a caller's: options of
// resilient.ContextWithOptions would hold for the requests of the refresh.
func (t *Transport) renew(c *token, stale *http.Request) {
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), refreshing{}, true), refreshTimeout)
	defer cancel()
	var header http.Header
	err := errors.New("it did not return")
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it panicked: %v", p)
		}
		t.store.replace(c, stale, header, err)
	}()
	header, err = t.refresh(ctx, stale) //nolint:contextcheck // see above
}

// replace ends a refresh of c.
func (s *store) replace(c *token, stale *http.Request, header http.Header, err error) {
	next := &token{}
	if err == nil {
		next.header, err = s.check(header)
	}
	k := s.keyOf(next.request(stale))
	if len(next.header) > 0 && k == s.keyOf(stale) {
		err = errors.New("it returned the credential that was refused")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	close(c.done)
	c.done = nil
	if err != nil {
		c.inVain(fmt.Errorf("reauth: refresh failed: %w", err))
		return
	}
	c.next = next
	known, ok := s.tokens.Get(k)
	if !ok {
		s.tokens.Add(k, next)
	} else if known = known.last(); known != next && known.header != nil {
		c.next = known // another one was replaced by the same, and they share it
	}
}

// check returns the header of a Refresh with canonical names.
func (s *store) check(header http.Header) (http.Header, error) {
	checked := make(http.Header, len(header))
	for name, values := range header {
		name = http.CanonicalHeaderKey(name)
		if !s.isField(name) {
			return nil, fmt.Errorf("it returned the field %q, which must be given to New", name)
		}
		for _, value := range values {
			if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
				return nil, fmt.Errorf("it returned a control character in %s", name)
			}
		}
		checked[name] = slices.Clone(values)
	}
	return checked, nil
}
