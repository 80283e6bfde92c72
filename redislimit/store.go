package redislimit

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/time/rate"
)

//go:embed reserve.lua
var reserveScript string

// store is the view of Redis that all limiters of a Keyed share: the limit, the
// script, and whether Redis answers.
type store struct {
	config

	client   redis.UniversalClient
	script   *redis.Script
	interval float64 // between two tokens, in microseconds
	burst    float64

	mu             sync.Mutex
	downSince      time.Time // zero if Redis answers
	retryAt        time.Time
	retryEvery     time.Duration // from a failed call to the next, while Redis is down
	fallbackBefore uint64        // stats.Fallback when Redis went down
	stats          Stats

	warned   bool      // the log says that Redis does not answer
	warnedAt time.Time // when that was last written
}

// A Redis that answers only now and then is logged once in quietFor. An outage that
// lasts for warnAfter is always logged.
const (
	quietFor  = time.Minute
	warnAfter = time.Second
)

// After a first failure Redis is called again at once, because the failure may be
// that of one connection, and then at growing intervals.
const (
	minRetryEvery = 100 * time.Millisecond
	maxRetryEvery = time.Second
)

func newStore(client redis.UniversalClient, limit rate.Limit, burst int, cfg config) *store {
	if problem := check(client); problem != "" {
		cfg.logger.Warn("redislimit: a call to Redis may outlast its time", slog.String("problem", problem))
	}
	return &store{
		config:   cfg,
		client:   client,
		script:   redis.NewScript(reserveScript),
		interval: 1e6 / float64(limit),
		burst:    float64(burst),
	}
}

// check returns the problem with the settings of a client of go-redis, or "". The
// settings of other clients are not known.
func check(client redis.UniversalClient) string {
	var heeds bool
	var retries int // in the client, where 0 stands for a setting of -1
	switch c := client.(type) {
	case *redis.Client:
		heeds, retries = c.Options().ContextTimeoutEnabled, c.Options().MaxRetries
	case *redis.ClusterClient:
		heeds, retries = c.Options().ContextTimeoutEnabled, 0 // a cluster client needs its retries for redirects
	case *redis.Ring:
		heeds, retries = c.Options().ContextTimeoutEnabled, c.Options().MaxRetries
	default:
		return ""
	}
	switch {
	case !heeds:
		return "the client's ContextTimeoutEnabled is false"
	case retries > 0:
		return "the client's MaxRetries is not -1: a repeated call may reserve twice"
	}
	return ""
}

// reply is the answer of the script. Durations are in microseconds.
type reply struct {
	now      float64
	pause    float64   // the rest of the pause, or 0 if there is none
	back     int       // tokens taken back
	lead     float64   // how far ahead to reserve
	interval float64   // the interval in force
	cutoff   float64   // refusals of requests sent until then are ignored
	chance   float64   // the part that is refused by chance, or 0 if none is known
	volley   int       // requests that go at once, in a volley
	ahead    []float64 // how far the tat of each waiter is ahead, or minus a wait that would be too long

	// With limits beside that of requests, see units.
	next float64   // the wait until the first one without a value in ahead may ask again, or 0
	tats []float64 // how far the tat of requests is ahead, and those of the other limits
}

var errNoAnswer = errors.New("no answer in time")

// ask calls the script.
func (s *store) ask(ctx context.Context, key string, args []any) (reply, error) {
	s.mu.Lock()
	s.stats.Calls++
	s.mu.Unlock()
	texts, err := s.script.Run(ctx, s.client, []string{s.prefix + key}, args...).StringSlice()
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		err = errNoAnswer // the call's time, not the caller's deadline
	}
	if err != nil {
		return reply{}, err
	}
	units := len(s.limits)
	if units == 0 {
		return parse(texts, len(args)-fixedArgs, 0)
	}
	return parse(texts, (len(args)-fixedArgs-unitFixedArgs-units*unitArgs)/(1+units), units)
}

// fixedArgs is the number of arguments of the script before the waits. If there are
// units, some for all of them and some for each follow.
const (
	fixedArgs     = 19
	unitFixedArgs = 2
	unitArgs      = 5
)

// fixedTexts is the number of values that the script returns before the waits.
const fixedTexts = 8

func parse(texts []string, waits, units int) (reply, error) {
	fixed, least := fixedTexts, fixedTexts+min(waits, 1)
	if units > 0 {
		fixed += 2 + units
		least = fixed // the first waiter may have to ask again
	}
	if most := fixed + waits; len(texts) < least || len(texts) > most {
		return reply{}, fmt.Errorf("the script returned %d values, not %d to %d", len(texts), least, most)
	}
	numbers := make([]float64, len(texts))
	for i, text := range texts {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || n != n || n-n != 0 { // NaN, infinite
			return reply{}, fmt.Errorf("the script returned %.20q, not a number", text)
		}
		numbers[i] = n
	}
	r := reply{
		now: numbers[0], pause: numbers[1], back: int(numbers[2]),
		lead: numbers[3], interval: numbers[4], cutoff: numbers[5], chance: numbers[6], volley: int(numbers[7]),
		ahead: numbers[fixed:],
	}
	if units > 0 {
		r.next, r.tats = numbers[fixedTexts], numbers[fixedTexts+1:fixed]
	}
	return r, nil
}

// mayCall reports whether Redis may be called now. While Redis does not answer, a
// call is allowed from time to time to find out whether it is back.
func (s *store) mayCall(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.downSince.IsZero() {
		return true
	}
	if now.Before(s.retryAt) {
		return false
	}
	s.retryAt = now.Add(s.timeout + s.retryEvery)
	return true
}

// failed records that a call was not answered. It returns a function that writes
// this to the log, to be called without a lock.
func (s *store) failed(now time.Time, err error) (log func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Err = err
	if s.downSince.IsZero() {
		s.downSince, s.retryAt, s.retryEvery, s.fallbackBefore = now, now, minRetryEvery, s.stats.Fallback
	} else {
		s.retryAt = now.Add(s.retryEvery)
		s.retryEvery = min(2*s.retryEvery, maxRetryEvery)
	}
	if s.warned || now.Sub(s.warnedAt) < quietFor && now.Sub(s.downSince) < warnAfter {
		return func() {}
	}
	s.warned, s.warnedAt = true, now
	return func() {
		s.logger.Warn("redislimit: Redis does not answer",
			slog.String("error", err.Error()), slog.String("fallback", s.fallback.String()))
	}
}

// answered records that a call was answered. Like failed, it returns a function
// that writes to the log.
func (s *store) answered(now time.Time) (log func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.downSince.IsZero() {
		return func() {}
	}
	after, requests, warned := now.Sub(s.downSince), s.stats.Fallback-s.fallbackBefore, s.warned
	s.downSince, s.stats.Err, s.warned = time.Time{}, nil, false
	if !warned {
		return func() {}
	}
	return func() {
		s.logger.Info("redislimit: Redis answers again", slog.Duration("after", after),
			slog.Uint64("requests", requests), slog.String("fallback", s.fallback.String()))
	}
}

// learned logs that a lower limit is being learned, or that none is in force any
// more. The limit itself is known only after some more refusals, see Stats.
func (s *store) learned(on bool) {
	msg := "redislimit: the limit given is in force again"
	if on {
		msg = "redislimit: the server lets through less than the limit given"
	}
	s.logger.Info(msg, slog.Float64("limit", 1e6/s.interval))
}

// down returns why Redis does not answer, or nil if it does.
func (s *store) down() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats.Err
}

func (s *store) count(granted, fallback, lost int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Granted += uint64(granted)
	s.stats.Fallback += uint64(fallback)
	s.stats.Lost += uint64(lost)
}

func (s *store) snapshot() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}
