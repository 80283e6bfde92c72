package resilient

import (
	"errors"
	"net"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
)

// delivery watches whether anything of a request was written, and on which
// connection, by the hooks of net/http/httptrace. They may be called by other
// goroutines, and after the attempt.
type delivery struct {
	sought, connected, wrote atomic.Bool
	http2                    atomic.Bool
	limit                    *attemptLimit            // nil: the connection does not matter
	conns                    atomic.Int32             // how often the base got one
	conn                     atomic.Pointer[net.Conn] // the last one
}

func (d *delivery) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn: func(string) { d.sought.Store(true) },
		GotConn: func(i httptrace.GotConnInfo) {
			d.connected.Store(true)
			if d.limit != nil {
				conn := i.Conn
				d.conn.Store(&conn)
				d.limit.gotConn(d.conns.Add(1))
			}
		},
		// Called when a field is put into the buffer, so before any of the
		// header can be on the wire.
		WroteHeaderField: func(name string, _ []string) {
			d.wrote.Store(true)
			if strings.HasPrefix(name, ":") { // RFC 9113 section 8.3: a pseudo-header field
				d.http2.Store(true)
			}
		},
		WroteHeaders: func() { d.wrote.Store(true) },
		WroteRequest: func(i httptrace.WroteRequestInfo) {
			if i.Err == nil {
				d.wrote.Store(true)
			}
		},
	}
}

// http2Conn returns the connection if it is known to speak HTTP/2, else nil.
func (d *delivery) http2Conn() net.Conn {
	conn := d.conn.Load()
	if conn == nil || !d.http2.Load() {
		return nil
	}
	return *conn
}

// provesUnsent reports whether it is certain that the server got nothing of an
// attempt that ended with err. A nil delivery knows only the error.
func (d *delivery) provesUnsent(err error) bool {
	if d != nil && d.wrote.Load() {
		return false // perhaps by an earlier connection of the base's
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && (op.Op == "dial" || op.Op == "proxyconnect") {
		return true
	}
	if d == nil || !d.sought.Load() {
		return false // the base does not report to httptrace
	}
	if isType[*attemptTimeoutError](err) {
		return !d.connected.Load() // a writer may just have begun
	}
	return true
}
