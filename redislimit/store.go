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

// store is Redis as all limiters of a Keyed see it: one limit, one way to ask,
// and one opinion on whether it answers.
type store struct {
	config

	client   redis.UniversalClient
	script   *redis.Script
	interval float64 // between two tokens, in microseconds
	burst    float64

	mu       sync.Mutex
	downFrom time.Time // zero: Redis answers
	retryAt  time.Time
	pace     time.Duration // from a failed call to the next, while down
	missed   uint64        // stats.Fallback when it went down
	stats    Stats
}

// Redis is called again at once after a first failure, which may be of one
// connection only, and then at growing intervals.
const (
	minPace = 100 * time.Millisecond
	maxPace = time.Second
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

// check returns what is wrong with the settings of a client of go-redis; of
// another one nothing is known.
func check(client redis.UniversalClient) string {
	var heeds bool
	var retries int // as the client keeps it: 0 for a setting of -1
	switch c := client.(type) {
	case *redis.Client:
		heeds, retries = c.Options().ContextTimeoutEnabled, c.Options().MaxRetries
	case *redis.ClusterClient:
		heeds, retries = c.Options().ContextTimeoutEnabled, 0 // it needs its redirects
	case *redis.Ring:
		heeds, retries = c.Options().ContextTimeoutEnabled, c.Options().MaxRetries
	default:
		return ""
	}
	switch {
	case !heeds:
		return "the client's ContextTimeoutEnabled is false"
	case retries > 0:
		return "the client's MaxRetries is not -1: what it repeats may be reserved twice"
	}
	return ""
}

// reply is what the script returns. Durations are in microseconds.
type reply struct {
	now   float64
	pause float64 // how long it has to go; 0: none
	back  int
	lead  float64   // how far ahead to reserve
	every float64   // the interval in force
	known float64   // since when refusals are news
	ahead []float64 // for each waiter whose turn it is; negative: minus the wait that is too long
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
	return parse(texts, len(args)-fixedArgs)
}

// fixedArgs is how many arguments of the script come before the waits.
const fixedArgs = 13

// fixedTexts is how many values the script returns before those of the waits.
const fixedTexts = 6

func parse(texts []string, waits int) (reply, error) {
	if least, most := fixedTexts+min(waits, 1), fixedTexts+waits; len(texts) < least || len(texts) > most {
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
	return reply{
		now: numbers[0], pause: numbers[1], back: int(numbers[2]),
		lead: numbers[3], every: numbers[4], known: numbers[5], ahead: numbers[fixedTexts:],
	}, nil
}

// mayCall reports whether Redis is worth a call. While it does not answer, one
// caller in a while is let through, to find out.
func (s *store) mayCall(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.downFrom.IsZero() {
		return true
	}
	if now.Before(s.retryAt) {
		return false
	}
	s.retryAt = now.Add(s.timeout + s.pace)
	return true
}

// failed takes note that a call was not answered. It returns what writes that to
// the log, for when nobody waits for a lock.
func (s *store) failed(now time.Time, err error) (log func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Err = err
	if s.downFrom.IsZero() {
		s.downFrom, s.retryAt, s.pace, s.missed = now, now, minPace, s.stats.Fallback
		return func() {
			s.logger.Warn("redislimit: Redis does not answer",
				slog.String("error", err.Error()), slog.String("fallback", s.fallback.String()))
		}
	}
	s.retryAt = now.Add(s.pace)
	s.pace = min(2*s.pace, maxPace)
	return func() {}
}

// answered takes note that a call was answered, and returns as failed does.
func (s *store) answered(now time.Time) (log func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.downFrom.IsZero() {
		return func() {}
	}
	after, requests := now.Sub(s.downFrom), s.stats.Fallback-s.missed
	s.downFrom, s.stats.Err = time.Time{}, nil
	return func() {
		s.logger.Info("redislimit: Redis answers again", slog.Duration("after", after),
			slog.Uint64("requests", requests), slog.String("fallback", s.fallback.String()))
	}
}

// learned writes to the log that a lower limit is being learned, or that none is
// in force any more. What it is takes some refusals to find out: see Stats.
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
