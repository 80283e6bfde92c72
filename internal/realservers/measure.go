package main

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// result is what a client got from a server, for one load.
type result struct {
	server   scenario
	client   string
	load     load
	length   time.Duration
	attempts counts
	broken   error // of an attempt of any load: nothing here breaks connections
	tally    *tally
}

// startTime bounds the start of a server. Varnish compiles its configuration.
const startTime = 30 * time.Second

// measure starts a server, makes a client, and puts the server's loads on it for the
// given time. A client never knows of that time: calls are cut off at its end, without
// a deadline, which some clients would take into account.
func measure(ctx context.Context, s scenario, c client, length time.Duration) ([]result, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime+length)
	defer cancel()
	at, err := newSite()
	if err != nil {
		return nil, err
	}
	defer at.stop()
	if err := s.start(ctx, at); err != nil {
		return nil, err
	}
	base := newBase()
	defer base.CloseIdleConnections()
	count := newCounter(base)
	do := c.make(count)

	run, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	timer := time.AfterFunc(length, end)
	defer timer.Stop()
	defer context.AfterFunc(ctx, end)()
	results := make([]result, len(s.loads))
	var wg sync.WaitGroup
	for i, l := range s.loads {
		t := new(tally)
		results[i] = result{server: s, client: c.name, load: l, length: length, tally: t}
		wg.Go(func() { l.drive(run, do, at.url, t) })
	}
	wg.Wait()
	for i, l := range s.loads {
		results[i].attempts, results[i].broken = count.count(l.path), count.check()
	}
	return results, ctx.Err()
}

// newBase returns a transport that keeps its connections. With the two that are the
// default, most of a run would be handshakes.
func newBase() *http.Transport {
	return &http.Transport{MaxIdleConns: 0, MaxIdleConnsPerHost: 512, IdleConnTimeout: 10 * time.Second}
}
