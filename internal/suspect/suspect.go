// Package suspect remembers HTTP/2 connections on which an attempt timed out, so
// that the next attempt can see to it that they are not used again.
//
// # Why
//
// A connection can die without a sign: a failover forgets it, and everything
// sent to it is lost. HTTP/1.1 closes the connection of a request that timed out.
// HTTP/2 resets the stream and keeps the connection, which takes every request
// until TCP gives it up after a quarter of an hour. net/http does not use an
// HTTP/2 connection again once it has carried a request with Request.Close, while
// the other streams on it go on. So one request with Close is enough to replace
// the connection.
//
// # Not more than one
//
// An attempt that times out makes its connection the suspect of its host, unless
// the connection answered something else since the attempt began. An answer on it
// clears it. Take hands the suspect out once. Attempts that began before that may
// still time out on the same connection, and are ignored: they say nothing about
// the connection that replaces it.
package suspect

import (
	"net"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
)

// maxHosts bounds the memory. Beyond it some host is forgotten, which
// costs its next calls another timeout.
const maxHosts = 1024

// Host is where a connection leads.
type Host struct{ Scheme, Addr string }

// Set is the suspects of a Transport. The zero value is an empty Set. It is safe
// for concurrent use.
type Set struct {
	suspects atomic.Int32 // hosts that have one: at 0, Take needs no lock

	mu    sync.Mutex
	hosts map[Host]*entry
}

type entry struct {
	answered time.Time // when something was answered last
	by       identity  // the connection that answered
	suspect  identity  // none: there is none
	taken    time.Time // when the last suspect was taken
}

// identity tells a connection from others without keeping it in memory. Another
// connection may get the same one when the first is gone, which does no harm: at
// worst a connection is replaced in vain, or one timeout later.
type identity uintptr

const none identity = 0

func identify(conn net.Conn) identity {
	if v := reflect.ValueOf(conn); v.Kind() == reflect.Pointer {
		return identity(v.Pointer())
	}
	return none // nobody could tell it from others
}

// TimedOut notes that an attempt which began at that time has timed out on conn.
func (s *Set) TimedOut(h Host, conn net.Conn, began time.Time) {
	id := identify(conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entry(h)
	if !began.After(e.taken) || e.by == id && e.answered.After(began) {
		return
	}
	s.accuse(e, id)
}

// Answered notes that something was answered on conn.
func (s *Set) Answered(h Host, conn net.Conn) {
	id := identify(conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entry(h)
	e.answered, e.by = time.Now(), id
	if e.suspect == id {
		s.accuse(e, none)
	}
}

// Take reports whether the host has a suspect, which it has no longer then. The
// request is to be sent with Close.
func (s *Set) Take(h Host) bool {
	if s.suspects.Load() == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.hosts[h]
	if e == nil || e.suspect == none {
		return false
	}
	s.accuse(e, none)
	e.taken = time.Now()
	return true
}

// accuse makes id the suspect of e.
func (s *Set) accuse(e *entry, id identity) {
	if e.suspect != none {
		s.suspects.Add(-1)
	}
	if id != none {
		s.suspects.Add(1)
	}
	e.suspect = id
}

// entry returns the entry of a host, made if there is none.
func (s *Set) entry(h Host) *entry {
	if e := s.hosts[h]; e != nil {
		return e
	}
	if s.hosts == nil {
		s.hosts = make(map[Host]*entry)
	}
	if len(s.hosts) >= maxHosts {
		for other, e := range s.hosts {
			s.accuse(e, none)
			delete(s.hosts, other)
			break
		}
	}
	e := &entry{}
	s.hosts[h] = e
	return e
}
