package main

import (
	"flag"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"golang.org/x/time/rate"
)

// params are the parameters of a run. Each variant of a scenario has its own, and a
// flag that is set overrides them all.
type params struct {
	server   string  // "bucket", "window", "sliding", "flight", "chance" or "backend"
	status   int     // of a refusal
	share    float64 // of the requests that are refused by chance, or by a bad backend
	rate     float64
	burst    int
	period   time.Duration // of a window
	flight   int           // requests that may be under way
	then     int           // as flight, in the second half of a run whose limit changes
	costly   bool
	hint     string
	latency  time.Duration
	service  string // how the latencies are distributed, see newService
	refusal  time.Duration
	way      time.Duration // through the network, in each direction
	jitter   time.Duration // of the way
	workers  int
	n        int // of requests, nodes, refusals, routes or server workers
	clients  int
	allHeavy bool          // every process of a fleet is busy
	each     float64       // requests a second of each client
	beside   float64       // requests a second to a route without a limit
	length   time.Duration // of a phase
	trouble  time.Duration // how long a server refuses
	patience time.Duration // of a caller; 0: endless
	attempts int
	backoff  time.Duration
	seed     uint64
}

// defaults returns the parameters from which the variants start.
func defaults() params {
	return params{
		server: "bucket", status: http.StatusTooManyRequests, rate: 100, burst: 10, period: time.Minute, flight: 10, hint: "none",
		latency: 20 * time.Millisecond, service: "constant", refusal: 5 * time.Millisecond,
		workers: 64, attempts: 10, backoff: 100 * time.Millisecond, seed: 1,
	}
}

// flags registers a flag for each parameter.
func (p *params) flags(fs *flag.FlagSet) {
	fs.StringVar(&p.server, "server", p.server, "server: bucket, window, sliding, flight, chance or backend")
	fs.IntVar(&p.status, "status", p.status, "of a refusal")
	fs.Float64Var(&p.share, "share", p.share, "part of the requests that is refused (g, l)")
	fs.Float64Var(&p.rate, "rate", p.rate, "limit of the server, requests a `second` (d: the first of three)")
	fs.IntVar(&p.burst, "burst", p.burst, "size of the server's bucket")
	fs.DurationVar(&p.period, "period", p.period, "length of a window, which accepts rate x period")
	fs.IntVar(&p.flight, "flight", p.flight, "requests that may be under way (server flight)")
	fs.IntVar(&p.then, "then", p.then, "requests that may be under way in the second half (j)")
	fs.BoolVar(&p.costly, "costly", p.costly, "refusals cost quota")
	fs.StringVar(&p.hint, "hint", p.hint, "none, retry-after, ratelimit or x-ratelimit")
	fs.DurationVar(&p.latency, "latency", p.latency, "until a 200 or a 500, in the mean")
	fs.StringVar(&p.service, "service", p.service, "how the latencies are distributed: constant, exponential, log-normal or bimodal, with a share that is long (g to k)")
	fs.DurationVar(&p.refusal, "refusal", p.refusal, "until a 429 or a 503")
	fs.DurationVar(&p.way, "way", p.way, "of a request or an answer through the network")
	fs.DurationVar(&p.jitter, "jitter", p.jitter, "a way takes up to this much longer")
	fs.IntVar(&p.workers, "workers", p.workers, "concurrent callers (a, c, d, g to l; e: of a busy process)")
	fs.IntVar(&p.n, "n", p.n, "requests (a, c, l), refusals in a row or nodes (g), routes (i), server workers (j)")
	fs.IntVar(&p.clients, "clients", p.clients, "clients (b, g to k) or processes (e)")
	fs.Float64Var(&p.each, "each", p.each, "requests a `second` of each client (b, g to k) or of a light process (e)")
	fs.Float64Var(&p.beside, "beside", p.beside, "requests a `second` to the route without a limit (i)")
	fs.DurationVar(&p.length, "length", p.length, "length of the outage (b), of the run (a.sustained, e, g to l) or of a phase (d)")
	fs.DurationVar(&p.trouble, "trouble", p.trouble, "how long the server refuses (g, i, k)")
	fs.DurationVar(&p.patience, "patience", p.patience, "of the caller of a stream; 0: endless (g to k)")
	fs.IntVar(&p.attempts, "attempts", p.attempts, "attempts in all, for every peer")
	fs.DurationVar(&p.backoff, "backoff", p.backoff, "first backoff interval, for every peer")
	fs.Uint64Var(&p.seed, "seed", p.seed, "seed of the server, the callers and of math/rand")
}

// with returns p with some flags set, such as "-rate 7 -burst 3".
func (p params) with(flags string) params {
	fs := flag.NewFlagSet("params", flag.PanicOnError)
	p.flags(fs)
	_ = fs.Parse(strings.Fields(flags))
	return p
}

// override returns p with the flags that are set on the command line.
func (p params) override(cmd *flag.FlagSet) params {
	fs := flag.NewFlagSet("params", flag.PanicOnError)
	p.flags(fs)
	cmd.Visit(func(f *flag.Flag) {
		if fs.Lookup(f.Name) != nil {
			_ = fs.Set(f.Name, f.Value.String()) // it was parsed before
		}
	})
	return p
}

func (p *params) config() config {
	cfg := config{attempts: p.attempts, backoff: p.backoff, limit: rate.Limit(p.rate), burst: p.burst}
	if p.server == "window" || p.server == "sliding" {
		cfg.burst = windowSize(p.rate, p.period)
	}
	return cfg
}

// newLimit returns the limit of a server that starts now, or nil if there is none.
func (p *params) newLimit(now time.Time) limit {
	if p.rate == 0 {
		return nil
	}
	switch p.server {
	case "bucket":
		return newBucket(p.rate, p.burst, p.costly, now)
	case "chance":
		return newChance(p)
	case "backend":
		return &chance{every: int(1 / p.share)}
	case "window":
		return &fixedWindow{size: windowSize(p.rate, p.period), period: p.period, costly: p.costly, begin: now}
	case "sliding":
		return &slidingWindow{size: windowSize(p.rate, p.period), period: p.period}
	case "flight":
		return &inFlight{most: p.flight}
	}
	panic("unknown server " + p.server)
}

// optimum returns the shortest time in which n requests can be accepted.
func (p *params) optimum(n int) time.Duration {
	byLimit := time.Duration(float64(n-p.burst) / p.rate * float64(time.Second))
	if p.server == "window" {
		byLimit = time.Duration((n-1)/windowSize(p.rate, p.period)) * p.period
	}
	byWorkers := time.Duration((n+p.workers-1)/p.workers) * p.latency
	return max(byLimit, byWorkers)
}

// quota returns the number of requests that can be accepted in d, limited by the
// number that workers can make. It does not include the burst, which is available
// only once.
func (p *params) quota(d time.Duration, workers int) float64 {
	byLimit := p.rate * d.Seconds()
	if p.server == "window" || p.server == "sliding" {
		byLimit = math.Ceil(d.Seconds()/p.period.Seconds()) * float64(windowSize(p.rate, p.period))
	}
	return min(byLimit, d.Seconds()*p.demand(workers))
}

// demand returns the number of requests a second that workers can make if they only
// wait for the answers.
func (p *params) demand(workers int) float64 {
	return float64(workers) / p.trip().Seconds()
}

// trip is the time until the answer to a request that is accepted.
func (p *params) trip() time.Duration { return p.latency + 2*p.way + p.jitter }

// onceRefused returns the time until the answer to a request that is refused, sent again
// after the pause, and accepted, in seconds.
func (p *params) onceRefused(pause time.Duration) float64 {
	return (p.refusal + 2*p.way + p.jitter + pause + p.trip()).Seconds()
}

// newService returns a function that draws latencies, or nil if they do not vary. Their
// mean is p.latency.
func (p *params) newService() func(*rand.Rand) time.Duration {
	mean := float64(p.latency)
	switch p.service {
	case "constant":
		return nil
	case "exponential":
		return func(rng *rand.Rand) time.Duration { return time.Duration(rng.ExpFloat64() * mean) }
	case "log-normal": // with a sigma of 1
		return func(rng *rand.Rand) time.Duration {
			return time.Duration(math.Exp(rng.NormFloat64()-0.5) * mean)
		}
	case "bimodal": // a share is long, and the others take a quarter of the mean
		short := mean / 4
		long := (mean - (1-p.share)*short) / p.share
		return func(rng *rand.Rand) time.Duration {
			if rng.Float64() < p.share {
				return time.Duration(long)
			}
			return time.Duration(short)
		}
	}
	panic("unknown service " + p.service)
}
