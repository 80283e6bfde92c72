package main

import (
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// limit decides which requests a server accepts.
type limit interface {
	// admits reports whether the limit lets a request of c pass. It is asked once for
	// each request.
	admits(now time.Time, c *call) bool

	// take counts a request that every limit of the server admitted, and done is told
	// when it is answered.
	take(now time.Time, c *call)
	done(c *call)

	// state returns what hints tell about the limit of c.
	state(now time.Time, c *call) (remaining int, reset time.Duration)
	quota() (requests, seconds int) // for RateLimit-Policy
	setRate(now time.Time, rate float64)
}

// accepts reports whether a limit accepts a request, and counts it if so.
func accepts(l limit, now time.Time, c *call) bool {
	if !l.admits(now, c) {
		return false
	}
	l.take(now, c)
	return true
}

// stateless is embedded by limits that count nothing or have nothing to tell.
type stateless struct{}

func (stateless) take(time.Time, *call)                                       {}
func (stateless) done(*call)                                                  {}
func (stateless) state(time.Time, *call) (remaining int, reset time.Duration) { return 1, time.Second }
func (stateless) quota() (requests, seconds int)                              { return 0, 0 }
func (stateless) setRate(time.Time, float64)                                  {}

// tokenBucket is refilled continuously, up to burst. A bucket of one token is what
// nginx calls a limit without burst: it accepts requests that keep their distance.
type tokenBucket struct {
	stateless
	rate, burst float64
	costly      bool // a refusal takes the part of a token that is left
	tokens      float64
	at          time.Time // the time of tokens
}

func newBucket(rate float64, burst int, costly bool, now time.Time) *tokenBucket {
	return &tokenBucket{rate: rate, burst: float64(burst), costly: costly, tokens: float64(burst), at: now}
}

func (b *tokenBucket) settle(now time.Time) {
	b.tokens = min(b.tokens+now.Sub(b.at).Seconds()*b.rate, b.burst)
	b.at = now
}

// tokensFor returns the tokens that a request takes.
func (*tokenBucket) tokensFor(c *call) float64 {
	if c.cost > 0 {
		return c.cost
	}
	return 1
}

func (b *tokenBucket) admits(now time.Time, c *call) bool {
	b.settle(now)
	if b.tokens >= b.tokensFor(c) {
		return true
	}
	if b.costly {
		b.tokens = 0
	}
	return false
}

// take leaves the bucket empty where it did not have enough, see during.
func (b *tokenBucket) take(now time.Time, c *call) {
	b.settle(now)
	b.tokens = max(b.tokens-b.tokensFor(c), 0)
}

// state returns the time until the next request will be accepted. If one is accepted
// now, it returns the time until the bucket is full.
func (b *tokenBucket) state(now time.Time, c *call) (remaining int, reset time.Duration) {
	b.settle(now)
	missing := b.tokensFor(c) - b.tokens
	if missing <= 0 {
		missing = b.burst - b.tokens
	}
	return int(b.tokens), time.Duration(missing / b.rate * float64(time.Second))
}

func (b *tokenBucket) quota() (requests, seconds int) {
	seconds = max(int(math.Ceil(1/b.rate)), 1)
	return int(b.rate * float64(seconds)), seconds
}

func (b *tokenBucket) setRate(now time.Time, rate float64) {
	b.settle(now)
	b.rate = rate
}

// fixedWindow accepts size requests in each period, and refuses all others until the
// next one begins.
type fixedWindow struct {
	stateless
	size   int
	period time.Duration
	costly bool // refusals count too, and the excess is carried over into the next period
	used   int
	begin  time.Time
}

func (w *fixedWindow) settle(now time.Time) {
	for !now.Before(w.begin.Add(w.period)) {
		w.begin = w.begin.Add(w.period)
		w.used = max(w.used-w.size, 0)
		if w.used == 0 {
			w.begin = w.begin.Add(now.Sub(w.begin).Truncate(w.period))
		}
	}
}

func (w *fixedWindow) admits(now time.Time, _ *call) bool {
	w.settle(now)
	if w.used < w.size {
		return true
	}
	if w.costly {
		w.used++
	}
	return false
}

func (w *fixedWindow) take(time.Time, *call) { w.used++ }

func (w *fixedWindow) state(now time.Time, _ *call) (remaining int, reset time.Duration) {
	w.settle(now)
	return max(w.size-w.used, 0), w.begin.Add(w.period).Sub(now)
}

func (w *fixedWindow) quota() (requests, seconds int) {
	return w.size, max(int(math.Ceil(w.period.Seconds())), 1)
}

func (w *fixedWindow) setRate(now time.Time, rate float64) {
	w.settle(now)
	w.size = windowSize(rate, w.period)
}

// windowSize returns the number of requests that a window accepts for a given rate.
func windowSize(rate float64, period time.Duration) int {
	return max(int(math.Round(rate*period.Seconds())), 1)
}

// slidingWindow accepts size requests in any stretch of a period.
type slidingWindow struct {
	stateless
	size   int
	period time.Duration
	log    []time.Time // of the requests accepted in the last period
}

func (w *slidingWindow) settle(now time.Time) {
	for len(w.log) > 0 && !now.Before(w.log[0].Add(w.period)) {
		w.log = w.log[1:]
	}
}

func (w *slidingWindow) admits(now time.Time, _ *call) bool {
	w.settle(now)
	return len(w.log) < w.size
}

func (w *slidingWindow) take(now time.Time, _ *call) { w.log = append(w.log, now) }

func (w *slidingWindow) state(now time.Time, _ *call) (remaining int, reset time.Duration) {
	w.settle(now)
	if len(w.log) == 0 {
		return w.size, w.period
	}
	return w.size - len(w.log), w.log[0].Add(w.period).Sub(now)
}

func (w *slidingWindow) quota() (requests, seconds int) {
	return w.size, max(int(math.Ceil(w.period.Seconds())), 1)
}

func (w *slidingWindow) setRate(_ time.Time, rate float64) { w.size = windowSize(rate, w.period) }

// inFlight accepts requests while fewer than most are under way.
type inFlight struct {
	stateless
	most, now int
}

func (f *inFlight) admits(time.Time, *call) bool      { return f.now < f.most }
func (f *inFlight) take(time.Time, *call)             { f.now++ }
func (f *inFlight) done(*call)                        { f.now-- }
func (f *inFlight) setRate(_ time.Time, most float64) { f.most = int(most) }

// chance refuses requests that no limit explains: at random, or every one that a
// load balancer hands to a bad backend.
type chance struct {
	stateless
	share float64
	rng   *rand.Rand
	every int // 0: at random
	n     int
}

func newChance(p *params) *chance {
	return &chance{share: p.share, rng: rand.New(rand.NewPCG(p.seed, 5))}
}

func (c *chance) admits(time.Time, *call) bool {
	if c.every > 0 {
		c.n++
		return c.n%c.every != 0
	}
	return c.rng.Float64() >= c.share
}

// few refuses n requests in a row, whoever makes them.
type few struct {
	stateless
	from time.Time
	n    int
	last time.Time // of the refusals
}

func (f *few) admits(now time.Time, _ *call) bool {
	if f.n == 0 || now.Before(f.from) {
		return true
	}
	f.n--
	f.last = now
	return false
}

// closed refuses everything for some time, and says so in hints.
type closed struct {
	stateless
	from, to time.Time
}

func (c *closed) admits(now time.Time, _ *call) bool { return now.Before(c.from) || !now.Before(c.to) }

func (c *closed) state(now time.Time, by *call) (remaining int, reset time.Duration) {
	if c.admits(now, by) {
		return unlimited{}.state(now, by)
	}
	return 0, c.to.Sub(now)
}

// during is a limit that refuses only for some time. It counts what is accepted
// before and after as well.
type during struct {
	limit
	from, to time.Time
}

func (d *during) holds(now time.Time) bool { return !now.Before(d.from) && now.Before(d.to) }

func (d *during) admits(now time.Time, c *call) bool { return !d.holds(now) || d.limit.admits(now, c) }

func (d *during) state(now time.Time, c *call) (remaining int, reset time.Duration) {
	if !d.holds(now) {
		return unlimited{}.state(now, c)
	}
	return d.limit.state(now, c)
}

// every accepts what each of its limits admits. Refusals cost nothing.
type every []limit

func (e every) admits(now time.Time, c *call) bool {
	for _, l := range e {
		if !l.admits(now, c) {
			return false
		}
	}
	return true
}

func (e every) take(now time.Time, c *call) {
	for _, l := range e {
		l.take(now, c)
	}
}

func (e every) done(c *call) {
	for _, l := range e {
		l.done(c)
	}
}

// state returns that of the limit with the fewest requests left.
func (e every) state(now time.Time, c *call) (remaining int, reset time.Duration) {
	remaining = math.MaxInt
	for _, l := range e {
		n, d := l.state(now, c)
		if n < remaining || n == remaining && d > reset {
			remaining, reset = n, d
		}
	}
	return remaining, reset
}

func (e every) quota() (requests, seconds int) { return e[0].quota() }

func (e every) setRate(now time.Time, rate float64) {
	for _, l := range e {
		l.setRate(now, rate)
	}
}

// routes has a limit for some URLs, and none for others.
type routes map[string]limit

func (r routes) of(c *call) limit {
	if l := r[c.url]; l != nil {
		return l
	}
	return unlimited{}
}

func (r routes) admits(now time.Time, c *call) bool { return r.of(c).admits(now, c) }
func (r routes) take(now time.Time, c *call)        { r.of(c).take(now, c) }
func (r routes) done(c *call)                       { r.of(c).done(c) }

func (r routes) state(now time.Time, c *call) (remaining int, reset time.Duration) {
	return r.of(c).state(now, c)
}

func (routes) quota() (requests, seconds int) { return 0, 0 }
func (routes) setRate(time.Time, float64)     {}

// unlimited accepts everything.
type unlimited struct{ stateless }

func (unlimited) admits(time.Time, *call) bool { return true }

func (unlimited) state(time.Time, *call) (remaining int, reset time.Duration) {
	return math.MaxInt, 0
}

// nodes are servers behind a load balancer that picks one at random, each with a
// limit of its own.
type nodes struct {
	stateless
	each   []limit
	rng    *rand.Rand
	picked limit // for the request that is being decided
}

func (n *nodes) admits(now time.Time, c *call) bool {
	n.picked = n.each[n.rng.IntN(len(n.each))]
	return n.picked.admits(now, c)
}

func (n *nodes) take(now time.Time, c *call) { n.picked.take(now, c) }

// ban refuses everything for a time when its limit is exceeded.
type ban struct {
	stateless
	limit     limit
	length    time.Duration
	prolonged bool // a request during the ban begins it anew
	until     time.Time
	bans      int
}

func (b *ban) admits(now time.Time, c *call) bool {
	switch {
	case now.Before(b.until):
		if b.prolonged {
			b.until = now.Add(b.length)
		}
		return false
	case b.limit.admits(now, c):
		return true
	}
	b.bans++
	b.until = now.Add(b.length)
	return false
}

func (b *ban) take(now time.Time, c *call) { b.limit.take(now, c) }

func (b *ban) state(now time.Time, c *call) (remaining int, reset time.Duration) {
	if now.Before(b.until) {
		return 0, b.until.Sub(now)
	}
	return b.limit.state(now, c)
}

// meter is the token bucket of scenario l: for requests of different cost, or for
// requests that it only counts. A request that costs more than there is room for passes
// when the bucket is full, and those after it when what is owed has come in.
type meter struct {
	stateless
	name        string
	rate, burst float64
	tokens      bool // it counts tokens
	counts      counting
	level       float64
	at          time.Time // the time of level
}

// counting is when a server counts the tokens of a request.
type counting uint8

const (
	inAdvance counting = iota // all of them, before it accepts the request
	byGuess                   // those of the caller's guess, which it corrects when it has answered
	afterward                 // when it has answered; it accepts requests while there are tokens
)

// slack is how much align may shorten the time between two requests. A meter has room
// for as many tokens more as come in by then, or a client that counts exactly as it does
// would be refused.
const slack = lattice * time.Nanosecond

func newMeter(name string, rate, burst float64, tokens bool, now time.Time) *meter {
	m := &meter{name: name, rate: rate, burst: burst, tokens: tokens, at: now}
	m.level = m.room()
	return m
}

func (m *meter) room() float64 { return m.burst + m.rate*slack.Seconds() }

func (m *meter) settle(now time.Time) {
	m.level = min(m.level+now.Sub(m.at).Seconds()*m.rate, m.room())
	m.at = now
}

// costs returns what is taken when a request is accepted, and what when it is answered.
func (m *meter) costs(c *call) (before, after float64) {
	switch {
	case !m.tokens:
		return 1, 0
	case m.counts == byGuess:
		return c.guess, c.cost - c.guess
	case m.counts == afterward:
		return 0, c.cost
	}
	return c.cost, 0
}

func (m *meter) admits(now time.Time, c *call) bool {
	m.settle(now)
	before, _ := m.costs(c)
	return m.level > 0 && m.level >= min(before, m.burst)
}

func (m *meter) take(now time.Time, c *call) {
	m.settle(now)
	before, _ := m.costs(c)
	m.level -= before
}

func (m *meter) done(c *call) {
	m.settle(time.Now())
	_, after := m.costs(c)
	m.level = min(m.level-after, m.room())
}

// tell sets the header fields of OpenAI: what there is room for, how much is left, and
// how long until all of it is.
func (m *meter) tell(h http.Header, now time.Time) {
	m.settle(now)
	reset := time.Duration((m.burst - m.level) / m.rate * float64(time.Second))
	h.Set("X-Ratelimit-Limit-"+m.name, strconv.Itoa(int(m.burst)))
	h.Set("X-Ratelimit-Remaining-"+m.name, strconv.Itoa(max(int(m.level), 0)))
	h.Set("X-Ratelimit-Reset-"+m.name, reset.Round(time.Millisecond).String())
}
