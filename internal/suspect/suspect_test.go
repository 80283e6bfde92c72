package suspect_test

import (
	"net"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/suspect"
)

var api = suspect.Host{Scheme: "https", Addr: "api.test"}

func pipe(tb testing.TB) net.Conn {
	tb.Helper()
	c, s := net.Pipe()
	tb.Cleanup(func() { c.Close(); s.Close() })
	return c
}

// value is a connection that cannot be told from another one.
type value struct {
	net.Conn
	_ []int // not comparable
}

func TestSuspect(t *testing.T) {
	for _, tt := range []struct {
		name string
		why  string
		do   func(s *suspect.Set, dead, alive net.Conn, began time.Time)
		want bool
	}{
		{name: "nothing", do: func(*suspect.Set, net.Conn, net.Conn, time.Time) {}},
		{
			name: "a timeout", want: true,
			do: func(s *suspect.Set, dead, _ net.Conn, began time.Time) { s.TimedOut(api, dead, began) },
		},
		{
			name: "answered before the attempt began", want: true,
			do: func(s *suspect.Set, dead, _ net.Conn, _ time.Time) {
				s.Answered(api, dead)
				s.TimedOut(api, dead, time.Now())
			},
		},
		{
			name: "answered during the attempt",
			do: func(s *suspect.Set, dead, _ net.Conn, began time.Time) {
				s.Answered(api, dead)
				s.TimedOut(api, dead, began)
			},
		},
		{
			name: "answered after the attempt",
			do: func(s *suspect.Set, dead, _ net.Conn, began time.Time) {
				s.TimedOut(api, dead, began)
				s.Answered(api, dead)
			},
		},
		{
			name: "answered on another connection", why: "a host may have several", want: true,
			do: func(s *suspect.Set, dead, alive net.Conn, began time.Time) {
				s.Answered(api, alive)
				s.TimedOut(api, dead, began)
				s.Answered(api, alive)
			},
		},
		{
			name: "an attempt of before", why: "it may have been on the connection that was replaced",
			do: func(s *suspect.Set, dead, _ net.Conn, began time.Time) {
				s.TimedOut(api, dead, began)
				s.Take(api)
				s.TimedOut(api, dead, began)
				s.TimedOut(api, dead, time.Now())
			},
		},
		{
			name: "an attempt of after", want: true,
			do: func(s *suspect.Set, dead, alive net.Conn, began time.Time) {
				s.TimedOut(api, dead, began)
				s.Take(api)
				time.Sleep(time.Nanosecond)
				s.TimedOut(api, alive, time.Now())
			},
		},
		{
			name: "a connection that is no pointer",
			do: func(s *suspect.Set, dead, _ net.Conn, began time.Time) {
				s.Answered(api, value{Conn: dead})
				s.TimedOut(api, value{Conn: dead}, began)
			},
		},
		{
			name: "no connection",
			do:   func(s *suspect.Set, _, _ net.Conn, began time.Time) { s.TimedOut(api, nil, began) },
		},
		{
			name: "another host",
			do: func(s *suspect.Set, dead, _ net.Conn, began time.Time) {
				s.TimedOut(suspect.Host{Scheme: "http", Addr: "api.test"}, dead, began)
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s suspect.Set
				began := time.Now()
				time.Sleep(time.Second)
				tt.do(&s, pipe(t), pipe(t), began)
				require.Equal(t, tt.want, s.Take(api))
				require.False(t, s.Take(api), "once")
			})
		})
	}
}

func TestHostsAreBounded(t *testing.T) {
	var s suspect.Set
	conn := pipe(t)
	taken := 0
	host := func(i int) suspect.Host { return suspect.Host{Scheme: "https", Addr: strconv.Itoa(i)} }
	for i := range 3000 {
		s.TimedOut(host(i), conn, time.Now())
	}
	for i := range 3000 {
		if s.Take(host(i)) {
			taken++
		}
	}
	require.Equal(t, 1024, taken)
	require.Zero(t, testing.AllocsPerRun(10, func() { s.Answered(host(1), conn); s.Take(host(1)) }))
}
