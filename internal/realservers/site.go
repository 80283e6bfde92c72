package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"time"
)

// site is a server that runs, with a directory for its files and all that is behind
// it.
type site struct {
	url   string
	dir   string
	stops []func()
}

func newSite() (*site, error) {
	dir, err := os.MkdirTemp("", "realservers")
	if err != nil {
		return nil, err
	}
	return &site{dir: dir, stops: []func(){func() { _ = os.RemoveAll(dir) }}}, nil
}

// stop ends all that was started, the last one first.
func (s *site) stop() {
	for _, stop := range slices.Backward(s.stops) {
		stop()
	}
}

// serve runs a handler on a loopback port, and returns its address.
func (s *site) serve(ctx context.Context, h http.Handler) (addr string, err error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	ended := make(chan struct{})
	go func() {
		_ = srv.Serve(l)
		close(ended)
	}()
	s.stops = append(s.stops, func() {
		_ = srv.Close()
		<-ended
	})
	return l.Addr().String(), nil
}

// freeAddress returns a loopback address at which nothing listens, for a program that
// wants to be told one. Its port is below those that the kernel gives to others. To
// listen there, to see whether it is free, would not do: a process that is just being
// started would have the listener too, and for a moment longer.
func freeAddress(ctx context.Context) (string, error) {
	for range 20 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000))
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			_ = c.Close()
			continue
		}
		return addr, context.Cause(ctx)
	}
	return "", errors.New("no port is free")
}
