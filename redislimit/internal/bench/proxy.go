//go:build unix

package main

import (
	"io"
	"net"
	"time"
)

// proxy starts a proxy in front of addr that adds a round-trip time of rtt, and
// returns its address. It runs until the process ends.
func proxy(addr string, rtt time.Duration) (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // for as long as the process runs
	if err != nil {
		return "", err
	}
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", addr) //nolint:noctx // a loopback address answers at once
			if err != nil {
				in.Close()
				continue
			}
			go delay(out, in, rtt/2)
			go delay(in, out, rtt/2)
		}
	}()
	return ln.Addr().String(), nil
}

// delay copies from src to dst with a delay of d, and closes both.
func delay(dst, src net.Conn, d time.Duration) {
	type piece struct {
		data []byte
		due  time.Time
	}
	pieces := make(chan piece, 4096)
	go func() {
		defer close(pieces)
		for {
			buf := make([]byte, 16<<10)
			n, err := src.Read(buf)
			if n > 0 {
				pieces <- piece{buf[:n], time.Now().Add(d)}
			}
			if err != nil {
				return
			}
		}
	}()
	defer dst.Close()
	defer src.Close()
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		if _, err := dst.Write(p.data); err != nil {
			_, _ = io.Copy(io.Discard, src)
			return
		}
	}
}
