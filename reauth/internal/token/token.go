// Package token keeps the credentials that a server has refused, and what has replaced
// them.
package token

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
	// refreshTimeout leaves room for a few retries. Callers do not end a refresh, even all
	// of them together: the server may have replaced the refresh token already.
	refreshTimeout = 30 * time.Second

	// holdOff is the time between a refresh that was in vain and the next one. A token
	// server that is down or refuses is then asked six times a minute.
	holdOff = 10 * time.Second

	maxTokens = 1024 // remembered
)

// Token is a credential of any kind. One that was refused leads to the one that has
// replaced it, and the last one is in use. So however many requests come back with an
// old one, they all find the newest, and only that is ever refreshed.
type Token struct {
	header http.Header // the fields that hold it, never written to; nil: the callers set it
	next   *Token      // that has replaced it; nil: none has

	done  chan struct{} // closed when the refresh that is under way is over; nil: none is
	err   error         // why the last one was in vain
	until time.Time     // there is no other one before
}

// last returns the token in use. The way to it is shorter the next time, and those
// between are let go.
func (c *Token) last() *Token {
	if c.next == nil {
		return c
	}
	c.next = c.next.last()
	return c.next
}

func (c *Token) inVain(why error) { c.err, c.until = why, time.Now().Add(holdOff) }

// Request returns req with the token in it: a copy, unless it is there already. The copy
// is shallow, because the caller may be filling in Trailer.
func (c *Token) Request(req *http.Request) *http.Request {
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

// Store holds the tokens that were refused, and those that have replaced them. It may be
// used from several goroutines at once.
type Store struct {
	refresh func(ctx context.Context, stale *http.Request) (http.Header, error)
	fields  []string // beside those that package credential knows
	seeds   [2]maphash.Seed
	known   atomic.Bool // a token is there

	mu     sync.Mutex // for all tokens too, except for their header
	tokens lru.Table[key, *Token]
}

// key names a credential without holding it. It has 128 bits, because a request would get
// the credential of another account if their keys were the same.
type key [2]uint64

// New returns a Store that gets new credentials from refresh. They are in fields that
// usually hold one, or are among those given.
func New(refresh func(context.Context, *http.Request) (http.Header, error), fields []string) *Store {
	s := &Store{refresh: refresh, fields: fields, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
	s.tokens.Size, s.tokens.Limit = maxTokens, maxTokens
	s.tokens.Idle = func(c *Token) bool { return c.done == nil }
	return s
}

// InUse returns a request with the token in use for its credential, and that. If there is
// none it returns req and nil.
func (s *Store) InUse(req *http.Request) (*http.Request, *Token) {
	if !s.known.Load() {
		return req, nil
	}
	k := s.keyOf(req)
	s.mu.Lock()
	c, ok := s.tokens.Get(k)
	if ok {
		c = c.last()
	}
	s.mu.Unlock()
	if !ok {
		return req, nil
	}
	return c.Request(req), c
}

// keyOf returns the key of the credential that a request carries, without allocating.
func (s *Store) keyOf(req *http.Request) (k key) {
	add := func(kind, name, value string) {
		for i, seed := range s.seeds { // in no order, as that of a map is random
			k[i] += maphash.Comparable(seed, [3]string{kind, name, value})
		}
	}
	for name, values := range req.Header {
		if s.isField(name) {
			for _, value := range values {
				add("field", name, value)
			}
		}
	}
	if user := req.URL.User; user != nil {
		password, _ := user.Password()
		add("userinfo", user.Username(), password)
	}
	if k == (key{}) {
		add("host", req.URL.Scheme, strings.ToLower(req.URL.Host))
	}
	return k
}

func (s *Store) isField(name string) bool {
	return credential.IsField(name) || slices.Contains(s.fields, name)
}

// Useless notes that a token that has replaced another one was refused as well.
func (s *Store) Useless(c *Token, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.next == nil && c.done == nil {
		c.inVain(why)
	}
}

// Renewed returns the token that replaces the one with which a request was refused, or why
// there is none. That is used, or if used is nil the caller's own, which another one may
// have replaced meanwhile. Renewed waits for a refresh as long as the context of the
// request lasts, and begins one unless it is too early.
func (s *Store) Renewed(req *http.Request, used *Token) (*Token, error) {
	ctx, c := req.Context(), used
	s.mu.Lock()
	defer s.mu.Unlock()
	if c == nil {
		c = s.findOrAdd(s.keyOf(req))
	}
	for c.next == nil {
		if c.done == nil {
			if time.Now().Before(c.until) {
				return nil, c.err
			}
			c.done = make(chan struct{})
			stale := c.Request(req).Clone(context.WithoutCancel(ctx)) // the caller may be gone before it
			stale.Body, stale.GetBody, stale.ContentLength = nil, nil, 0
			go s.renew(c, stale)
		}
		done := c.done
		s.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
		}
		s.mu.Lock()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return c.last(), nil
}

func (s *Store) findOrAdd(k key) *Token {
	c, ok := s.tokens.Get(k)
	if !ok {
		c = new(Token)
		s.tokens.Add(k, c)
		s.known.Store(true)
	}
	return c
}

// refreshing marks the context that a refresh is given.
type refreshing struct{}

// Refreshing reports whether a context is that of a refresh.
func Refreshing(ctx context.Context) bool { return ctx.Value(refreshing{}) != nil }

// renew gets a token in place of c. A panic becomes an error, because nobody could recover
// from it in a goroutine of its own. The context has no values of a caller's: options of
// resilient.ContextWithOptions would hold for the requests of the refresh.
func (s *Store) renew(c *Token, stale *http.Request) {
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), refreshing{}, true), refreshTimeout)
	defer cancel()
	var header http.Header
	err := errors.New("it did not return")
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it panicked: %v", p)
		}
		s.replace(c, stale, header, err)
	}()
	// A copy of its own, on which the new credential may be tried.
	header, err = s.refresh(ctx, stale.Clone(stale.Context())) //nolint:contextcheck // see above
}

// replace ends a refresh of c.
func (s *Store) replace(c *Token, stale *http.Request, header http.Header, err error) {
	next := new(Token)
	if err == nil {
		next.header, err = s.check(header)
	}
	k := s.keyOf(next.Request(stale))
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

// check returns the header of a refresh with canonical names.
func (s *Store) check(header http.Header) (http.Header, error) {
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
