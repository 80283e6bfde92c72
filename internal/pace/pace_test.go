package pace_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/pace"
)

// server refuses what is above its limit: a token bucket, or a fixed window.
type server struct {
	rate, burst float64
	window      time.Duration // 0: a bucket, refilled all the time
	ok, refusal time.Duration // until an answer is known
	tokens      float64
	at          time.Time
	costly      bool          // a refusal takes what there is of a token
	strict      bool          // it accepts an attempt if there was enough time since the last one, and keeps no token
	ban         time.Duration // for how long it refuses everything after a refusal
	banned      time.Time     // until then
}

func (s *server) take(now time.Time) bool {
	if now.Before(s.banned) {
		return false
	}
	if s.window > 0 {
		for !now.Before(s.at.Add(s.window)) {
			s.tokens, s.at = s.rate*s.window.Seconds(), s.at.Add(s.window)
		}
	} else if now.After(s.at) { // which of two clients taking turns may not be so
		s.tokens = min(s.tokens+s.rate*now.Sub(s.at).Seconds(), s.burst)
		s.at = now
	}
	if s.tokens >= 1 {
		if s.tokens--; s.strict {
			s.tokens = 0
		}
		return true
	}
	if s.costly {
		s.tokens = 0
	}
	s.banned = now.Add(s.ban)
	return false
}

// answer is one that is under way.
type answer struct {
	at       time.Time
	ticket   pace.Stamp
	accepted bool
	left     float64 // when it was decided
}

// tally is what came of a backlog in a time.
type tally struct{ sent, accepted, refused float64 }

// backlog sends as fast as the pace allows, with workers that each wait for
// their answer, until the time is over. Where the pace is not known it sends
// one attempt after the other, and one more for each that is accepted, as the
// limiter does.
type backlog struct {
	*testing.T
	pace    pace.Pace
	srv     *server
	now     time.Time
	pending []answer
	workers int
	credit  int
	told    bool // the server says what is left
	in      tally
}

func newBacklog(t *testing.T, srv *server, workers int) *backlog {
	t.Helper()
	start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	srv.at, srv.tokens = start, srv.burst
	if srv.window > 0 {
		srv.tokens = srv.rate * srv.window.Seconds()
	}
	return &backlog{T: t, srv: srv, now: start, workers: workers, credit: workers}
}

func (b *backlog) run(d time.Duration) tally {
	b.in = tally{}
	for end := b.now.Add(d); ; {
		next := end
		if len(b.pending) > 0 {
			next = b.pending[0].at
		}
		wait := b.pace.Wait(b.now, 1)
		require.GreaterOrEqual(b, wait, time.Duration(0))
		maySend := len(b.pending) < b.workers && (b.pace.Known() || b.credit > 0)
		if at := b.now.Add(wait); maySend && !at.After(next) && at.Before(end) {
			b.now = at
			b.send()
			continue
		}
		if !next.Before(end) {
			b.now = end
			return b.in
		}
		b.now = next
		a := b.pending[0]
		b.pending = b.pending[1:]
		b.take(a)
	}
}

func (b *backlog) send() {
	a := answer{at: b.now, ticket: b.pace.Sent(b.now, 1), accepted: b.srv.take(b.now)}
	a.left = float64(int(b.srv.tokens))
	b.credit--
	b.in.sent++
	if a.accepted {
		b.in.accepted++
		a.at = a.at.Add(b.srv.ok)
	} else {
		b.in.refused++
		a.at = a.at.Add(b.srv.refusal)
	}
	i, _ := slices.BinarySearchFunc(b.pending, a, func(x, y answer) int { return cmp.Compare(x.at.UnixNano(), y.at.UnixNano()) })
	b.pending = slices.Insert(b.pending, i, a)
}

func (b *backlog) take(a answer) {
	if b.told {
		b.pace.SetQuota(a.ticket, b.now, a.left, b.srv.rate, 0)
	}
	switch {
	case a.accepted:
		b.credit += 2
		b.pace.Accepted(a.ticket, b.now, true)
	case b.pace.Refused(a.ticket, b.now, b.pace.Known() || b.credit <= 1):
		b.credit = 1
	}
}

// used is what was accepted of what the server would have, in a time.
func (b *backlog) used(d time.Duration) float64 { return b.in.accepted / (b.srv.rate * d.Seconds()) }

func (b *backlog) refusedPerSuccess() float64 { return b.in.refused / max(b.in.accepted, 1) }

// TestSteadyBacklog has limits that stay the same, far from the figures that the
// constants were chosen with. Learning has a minute, or as long as 400 attempts
// and the burst take.
func TestSteadyBacklog(t *testing.T) {
	for _, rate := range []float64{0.2, 1, 20, 100, 1000} {
		for _, burst := range []float64{1, 10, 1000} {
			for _, latency := range []time.Duration{time.Millisecond, 20 * time.Millisecond} {
				t.Run(fmt.Sprintf("%v a second, burst %v, %v", rate, burst, latency), func(t *testing.T) {
					b := newBacklog(t, &server{rate: rate, burst: burst, ok: latency, refusal: latency / 4}, 64)
					b.run(max(time.Minute, time.Duration((burst+400)/rate*float64(time.Second))))
					length := max(20*time.Second, time.Duration(1000/rate*float64(time.Second)))
					b.run(length)
					if burst == 1 {
						// There is nowhere to keep a token, so each that is not
						// asked for in its instant is lost.
						require.Greater(t, b.used(length), 0.7)
						return
					}
					require.Greater(t, b.used(length), 0.9)
					require.Less(t, b.refusedPerSuccess(), 0.016)
				})
			}
		}
	}
}

// TestLongWay is a server that takes its time: so many are under way that a
// refusal is known too late for hundreds of others.
func TestLongWay(t *testing.T) {
	b := newBacklog(t, &server{rate: 1000, burst: 100, ok: 2 * time.Second, refusal: 500 * time.Millisecond}, 4000)
	b.run(2 * time.Minute)
	b.run(time.Minute)
	require.Greater(t, b.used(time.Minute), 0.9)
	require.Less(t, b.refusedPerSuccess(), 0.05)
}

func TestLimitThatChanges(t *testing.T) {
	b := newBacklog(t, &server{rate: 100, burst: 10, ok: 20 * time.Millisecond, refusal: 5 * time.Millisecond}, 256)
	b.run(time.Minute)
	for _, tt := range []struct {
		rate  float64
		found time.Duration // the time it takes
	}{{20, 2 * time.Second}, {200, 10 * time.Second}, {100, 2 * time.Second}, {120, 20 * time.Second}, {5, 20 * time.Second}} {
		b.srv.rate = tt.rate
		b.run(tt.found)
		require.Less(t, b.refusedPerSuccess(), 0.4, "%v", tt.rate)
		b.run(20 * time.Second)
		require.Greater(t, b.used(20*time.Second), 0.9, "%v a second", tt.rate)
		require.Less(t, b.refusedPerSuccess(), 0.04, "%v a second", tt.rate)
	}
}

// TestALimitThatFallsWithoutABacklog: where nobody waits, nothing can be measured,
// but a pace that the server refuses two times in three must not stay.
func TestALimitThatFallsWithoutABacklog(t *testing.T) {
	b := newBacklog(t, &server{rate: 100, burst: 10, ok: 20 * time.Millisecond, refusal: 5 * time.Millisecond}, 64)
	b.run(time.Minute)
	b.srv.rate = 2
	b.srv.burst = 1
	b.srv.tokens = 0
	refused := 0
	for range 600 { // six a second come for a hundred seconds
		b.now = b.now.Add(time.Second / 6)
		if b.pace.Wait(b.now, 1) > 0 {
			continue // held back
		}
		at := b.pace.Sent(b.now, 1)
		if b.srv.take(b.now) {
			b.pace.Accepted(at, b.now.Add(20*time.Millisecond), false)
		} else {
			refused++
			b.pace.Refused(at, b.now.Add(5*time.Millisecond), true)
		}
	}
	require.Less(t, refused, 100, "of 400 that are too many")
	require.Less(t, b.pace.Rate(b.now), 6.0)
}

// TestFixedWindow is a server that counts in windows: most of the time after the
// first of them is a drought, and yet the rate of the long run is found.
func TestFixedWindow(t *testing.T) {
	b := newBacklog(t, &server{rate: 100, window: time.Second, ok: 20 * time.Millisecond, refusal: 5 * time.Millisecond}, 64)
	b.run(time.Minute)
	b.run(time.Minute)
	require.Greater(t, b.used(time.Minute), 0.8)
	require.Less(t, b.refusedPerSuccess(), 0.06)
}

// TestFixedWindowThatChanges: the pace was taken for what a window holds at the
// refusal that ended its growth. So it was too fast by half, was forgotten at once,
// and grew again from a few a second: of 2,000 a second a fifth was used.
func TestFixedWindowThatChanges(t *testing.T) {
	b := newBacklog(t, &server{rate: 1000, window: time.Second, ok: 20 * time.Millisecond, refusal: 5 * time.Millisecond}, 256)
	b.run(30 * time.Second)
	for _, rate := range []float64{1000, 200, 2000} {
		b.srv.rate = rate
		b.run(30 * time.Second)
		b.run(30 * time.Second)
		require.Greater(t, b.used(30*time.Second), 0.88, "%v a second", rate)
		require.Less(t, b.refusedPerSuccess(), 0.03, "%v a second", rate)
	}
}

// TestRefusalsThatCost are no livelock: the pace falls until an attempt is accepted. After
// a refusal the server has no token, as one that keeps none, and refuses everything until
// the pace has fallen far below the limit. Then a pace of which little is known grew to
// four times the limit, and what had been accepted meanwhile was taken for out of date: of
// nine attempts up to four were refused, and so on for ever.
func TestRefusalsThatCost(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		rate, burst float64
		ok          time.Duration
	}{
		{50, 5, 5 * ms},
		{100, 10, 5 * ms},
		{100, 20, 5 * ms},
		{100, 10, 20 * ms},
		{200, 5, 5 * ms},
		{200, 5, 10 * ms},
		{200, 10, 10 * ms},
		{200, 10, 20 * ms},
		{200, 20, 10 * ms},
		{200, 20, 50 * ms},
	} {
		b := newBacklog(t, &server{rate: tt.rate, burst: tt.burst, costly: true, ok: tt.ok, refusal: 5 * ms}, 64)
		b.run(10 * time.Second)
		b.run(time.Minute)
		require.Greater(t, b.used(time.Minute), 0.9, "%v", tt)
		require.Less(t, b.refusedPerSuccess(), 0.12, "%v", tt)
	}
}

// TestTold is a server that says what is left: then next to nothing is refused,
// also when its limit changes.
func TestTold(t *testing.T) {
	for _, rate := range []float64{10, 100, 1000} {
		b := newBacklog(t, &server{rate: rate, burst: 10, ok: 20 * time.Millisecond, refusal: 5 * time.Millisecond}, 64)
		b.told, b.credit = true, 1
		for range 2 {
			b.run(time.Second)
			b.run(time.Minute)
			require.Less(t, b.refusedPerSuccess(), 0.002)
			require.Greater(t, b.used(time.Minute), 0.98)
			b.srv.rate /= 5
		}
	}
}

// TestToldOfAWindow is an hourly quota that is used up: it does not come back
// bit by bit, and at its reset one attempt finds out what there is.
func TestToldOfAWindow(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	var p pace.Pace
	for left := 100.0; left >= 0; left-- {
		at := p.Sent(now, 1)
		now = now.Add(100 * time.Millisecond)
		p.SetQuota(at, now, left, 3600.0/3600, 10*time.Second)
	}
	require.InDelta(t, 10, p.Wait(now, 1).Seconds(), 0.1, "the reset, and not what would have come of it in a bucket")
	now = now.Add(10 * time.Second)
	require.Zero(t, p.Wait(now, 1))
	at := p.Sent(now, 1)
	require.NotZero(t, p.Wait(now, 1), "one")
	p.SetQuota(at, now, 99, 1, time.Hour)
	require.Zero(t, p.Wait(now, 1))
}

// told is a pace of somebody who is alone with a server that says what is left.
func told(t *testing.T) (p *pace.Pace, now time.Time) {
	t.Helper()
	now = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	p = new(pace.Pace)
	for range 20 {
		at := p.Sent(now, 1)
		now = now.Add(20 * time.Millisecond)
		p.SetQuota(at, now, 7, 100, 0)
	}
	require.True(t, p.Advertised())
	return p, now
}

func TestNilPace(t *testing.T) {
	var p *pace.Pace
	now := time.Now()
	require.False(t, p.Known())
	require.False(t, p.Advertised())
	require.Zero(t, p.Rate(now))
	require.Zero(t, p.Wait(now, 1))
	require.Zero(t, p.Behind(now, 3, 3))
	require.Zero(t, p.Sent(now, 1))
	d, blocked := p.BlockedFor(now)
	require.Zero(t, d)
	require.False(t, blocked)
	require.Zero(t, p.BlockedUntil())
}

// TestBlocked has refusals in a row, from the third of which on chance does not
// explain them.
func TestBlocked(t *testing.T) {
	p, now := new(pace.Pace), time.Now()
	require.True(t, p.Blank())
	require.Zero(t, p.BlockedUntil())
	start := now
	for n := 1; n <= 5; n++ {
		now = now.Add(time.Second)
		p.Refused(p.Sent(now, 1), now, true)
		_, blocked := p.BlockedFor(now)
		require.Equal(t, n >= 3, blocked, n)
	}
	require.False(t, p.Blank())
	now = now.Add(time.Second)
	d, _ := p.BlockedFor(now)
	require.Equal(t, 5*time.Second, d, "since the first of them")
	require.Equal(t, start.Add(5*time.Second), p.BlockedUntil(), "the last of them")
	require.Zero(t, p.Behind(now, 100, 100), "nobody knows how long it will be")
	p.Accepted(p.Sent(now, 1), now, true)
	now = now.Add(time.Second)
	_, blocked := p.BlockedFor(now)
	require.False(t, blocked)
	require.Equal(t, start.Add(6*time.Second), p.BlockedUntil(), "when it was over")
}

// TestToldOfOthers is a server whose word is not about us alone: it is not
// believed for a while, and each time for longer.
func TestToldOfOthers(t *testing.T) {
	for name, doubt := range map[string]func(p *pace.Pace, now time.Time) time.Time{
		"six refusals in a row": func(p *pace.Pace, now time.Time) time.Time {
			for range 6 {
				now = now.Add(100 * time.Millisecond)
				at := p.Sent(now, 1)
				now = now.Add(10 * time.Millisecond)
				p.Refused(at, now, true)
			}
			return now
		},
		"less comes in than the policy says": func(p *pace.Pace, now time.Time) time.Time {
			for left := 7.0; left >= 0; left -= 0.25 {
				at := p.Sent(now, 1)
				now = now.Add(20 * time.Millisecond)
				p.SetQuota(at, now, float64(int(left)), 100, 0)
			}
			return now
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, now := told(t)
			for _, patience := range []time.Duration{time.Minute, 2 * time.Minute} {
				now = doubt(p, now)
				require.False(t, p.Advertised())
				for until := now.Add(patience - time.Second); now.Before(until); {
					at := p.Sent(now, 1)
					now = now.Add(20 * time.Millisecond)
					p.SetQuota(at, now, 7, 100, 0)
					require.False(t, p.Advertised(), "not yet")
				}
				now = now.Add(time.Second)
				for range 20 {
					at := p.Sent(now, 1)
					now = now.Add(20 * time.Millisecond)
					p.SetQuota(at, now, 7, 100, 0)
				}
				require.True(t, p.Advertised())
			}
		})
	}
}

// TestToldRunsUpNoDebt: a pace that had been learned before was charged with
// every attempt that went by the server's word, so when that was not believed any
// more, the next one had to wait for minutes.
func TestToldRunsUpNoDebt(t *testing.T) {
	p, now := told(t)
	for range 2 { // a tenth of a second apart, with none accepted between them
		at := p.Sent(now, 1)
		now = now.Add(100 * time.Millisecond)
		p.Refused(at, now, true)
	}
	require.True(t, p.Advertised())
	for range 1000 { // ten times as fast as the pace that was learned of it
		at := p.Sent(now, 1)
		now = now.Add(10 * time.Millisecond)
		p.SetQuota(at, now, 7, 100, 0)
	}
	for left := 7.0; left >= 0; left -= 0.25 { // others have come
		at := p.Sent(now, 1)
		now = now.Add(20 * time.Millisecond)
		p.SetQuota(at, now, float64(int(left)), 100, 0)
	}
	require.False(t, p.Advertised())
	require.LessOrEqual(t, p.Wait(now, 1), 2*time.Second)
}

// TestToldAndShared is a fleet on a quota of which everybody is told what
// remains. Who went by that alone took what came in before the others saw it.
func TestToldAndShared(t *testing.T) {
	srv := &server{rate: 100, burst: 10, ok: 20 * time.Millisecond, refusal: 5 * time.Millisecond}
	var fleet []*backlog
	for range 4 {
		b := newBacklog(t, srv, 16)
		b.told = true
		fleet = append(fleet, b)
	}
	total, jain := share(fleet)
	require.Greater(t, total.accepted/(100*100), 0.9)
	require.Less(t, total.refused/total.accepted, 0.04)
	require.Greater(t, jain, 0.85)
}

// TestClosedServer is a server that gives out all it has for a minute at once, and
// then refuses everything until the minute is over. It is asked now and then, and
// when it opens, all that waited goes as fast as it can. Only when that was in vain twice
// is the pace less, and less again, until what it has lasts. That was never so: each minute
// refused as many as it took to find its end.
func TestClosedServer(t *testing.T) {
	b := newBacklog(t, &server{rate: 10, window: time.Minute, ok: 20 * time.Millisecond, refusal: 5 * time.Millisecond}, 64)
	b.run(59 * time.Second)
	for _, least := range []float64{595, 595, 200, 30, 30} {
		b.run(7 * time.Second)
		require.Greater(t, b.in.accepted, least, "it opened six seconds ago")
		b.run(53 * time.Second)
		require.Less(t, b.in.refused, 100.0)
	}
	require.Zero(t, b.srv.tokens, "and it is used up")
	b.run(10 * time.Minute)
	require.Greater(t, b.used(10*time.Minute), 0.97)
	require.Less(t, b.refusedPerSuccess(), 0.02)
}

// TestBan is a server that refuses everything for a minute when there was more than it
// allows. After each of these minutes everybody went at once, and so to the next one: of what
// it would have taken, it took about a twenty-fifth.
func TestBan(t *testing.T) {
	for _, rate := range []float64{5, 20, 100} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			b := newBacklog(t, &server{rate: rate, burst: 2 * rate, ban: time.Minute, ok: 50 * time.Millisecond, refusal: 5 * time.Millisecond}, 32)
			b.run(5 * time.Minute)
			b.run(25 * time.Minute)
			require.Greater(t, b.used(25*time.Minute), 0.12)
			require.Less(t, b.refusedPerSuccess(), 0.05)
		})
	}
}

// TestOldRefusalsAreNoNews has a burst that was under way when its first refusal
// was known: it is one refusal, not sixty.
func TestOldRefusalsAreNoNews(t *testing.T) {
	start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	now := start
	var p pace.Pace
	require.True(t, p.Refused(pace.Stamp{}, now, false), "the first one begins it all")
	require.False(t, p.Refused(pace.Stamp{}, now, true), "sent before anything was known")
	require.False(t, p.Known(), "one refusal tells no rate")
	var burst []pace.Stamp
	for range 60 {
		burst = append(burst, p.Sent(now, 1))
	}
	now = now.Add(100 * time.Millisecond)
	for _, at := range burst[:10] {
		p.Accepted(at, now, true)
	}
	require.True(t, p.Refused(burst[10], now, true))
	require.True(t, p.Known())
	wait := p.Wait(now, 1)
	for _, at := range burst[11:] {
		require.False(t, p.Refused(at, now, true))
	}
	require.Equal(t, wait, p.Wait(now, 1))
}

func TestForgetting(t *testing.T) {
	b := newBacklog(t, &server{rate: 10, burst: 1, ok: 20 * time.Millisecond, refusal: 5 * time.Millisecond}, 64)
	b.run(time.Minute)
	require.True(t, b.pace.Known())
	b.pace.Wait(b.now.Add(59*time.Second), 1)
	require.True(t, b.pace.Known())
	b.pace.Wait(b.now.Add(2*time.Minute), 1)
	require.False(t, b.pace.Known(), "nobody had to wait for a minute")
	require.Zero(t, b.pace.Behind(b.now, 1000, 1000))
}

func TestBehind(t *testing.T) {
	b := newBacklog(t, &server{rate: 10, burst: 10, ok: 20 * time.Millisecond, refusal: 5 * time.Millisecond}, 64)
	b.run(time.Minute)
	require.InDelta(t, 10, b.pace.Behind(b.now, 100, 100).Seconds(), 0.5)

	// Others may use the quota too.
	for _, accepted := range []bool{true, false, true, false} {
		b.now = b.now.Add(b.pace.Wait(b.now, 1))
		at := b.pace.Sent(b.now, 1)
		b.now = b.now.Add(20 * time.Millisecond)
		if accepted {
			b.pace.Accepted(at, b.now, true)
		} else {
			b.pace.Refused(at, b.now, true)
		}
	}
	require.Zero(t, b.pace.Behind(b.now, 100, 100))
	require.True(t, b.pace.Known())
}

// TestShared has clients that know nothing of each other on one quota. In the
// long run they have about the same, as long as they began at about the same
// time: to one that comes later, a quota that is in use looks like a small one.
func TestShared(t *testing.T) {
	for _, tt := range []struct {
		name string
		srv  server
		jain float64
	}{
		// It takes minutes until a share that is small has grown.
		{"bucket", server{rate: 100, burst: 10}, 0.9},
		// Here each finds by itself how much of a window is left for it.
		{"window", server{rate: 400, window: time.Second}, 0.95},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const runs = 6 // one alone is chance
			var mean float64
			for i := range runs {
				srv := tt.srv
				srv.rate += float64(i)
				srv.ok, srv.refusal = 20*time.Millisecond, 5*time.Millisecond
				var fleet []*backlog
				for range 4 {
					fleet = append(fleet, newBacklog(t, &srv, 16))
				}
				total, jain := share(fleet)
				require.Greater(t, total.accepted/(srv.rate*100), 0.93)
				require.Less(t, total.refused/total.accepted, 0.03)
				mean += jain / runs
			}
			require.Greater(t, mean, tt.jain)
		})
	}
}

// TestAPaceThatBeginsLow: among others who use up the quota, a small pace is refused about as
// often as one that is right, if only because that is chance. It was kept for minutes.
func TestAPaceThatBeginsLow(t *testing.T) {
	require.Greater(t, jainAfter(t, 1, 30, 30, 30), 0.85)
	require.Greater(t, jainAfter(t, 1, 1, 45, 45), 0.9)
}

// TestALargePaceAndASmallOne: whenever the large one has used up the quota, the small one is
// refused as well, because nothing is left for some time. If it grew more slowly too, the two
// would stay as they are.
func TestALargePaceAndASmallOne(t *testing.T) {
	require.Greater(t, jainAfter(t, 92, 8), 0.94)
}

// jainAfter returns how a quota of 100 a second is shared by clients that come to it with
// these paces, in the mean.
func jainAfter(t *testing.T, paces ...float64) (mean float64) {
	t.Helper()
	const runs = 4 // one alone is chance
	for i := range runs {
		answers := server{rate: 100 + float64(i), burst: 10, ok: 20 * time.Millisecond, refusal: 5 * time.Millisecond}
		var fleet []*backlog
		for _, rate := range paces {
			own := answers
			own.rate = rate
			b := newBacklog(t, &own, 16)
			b.run(2 * time.Minute)
			fleet = append(fleet, b)
		}
		all := answers
		all.at = fleet[0].now
		for _, b := range fleet {
			b.srv = &all
		}
		_, jain := share(fleet)
		mean += jain / runs
	}
	return mean
}

// share runs a fleet for 150 s and returns what came of the last 100 of them, and
// Jain's index of how it was shared.
func share(fleet []*backlog) (total tally, jain float64) {
	got := make([]tally, len(fleet))
	for i := range 150_000 { // each millisecond in turns
		for k := range fleet {
			k = (k + i) % len(fleet)
			in := fleet[k].run(time.Millisecond)
			if i >= 50_000 {
				got[k].accepted += in.accepted
				got[k].refused += in.refused
			}
		}
	}
	var squares float64
	for _, g := range got {
		total.accepted, total.refused = total.accepted+g.accepted, total.refused+g.refused
		squares += g.accepted * g.accepted
	}
	return total, total.accepted * total.accepted / (float64(len(fleet)) * squares)
}

// TestSpacing tells a server that keeps no token from a bucket: its pace is one in the
// smallest gap that it accepts, and lateness is never made up for.
func TestSpacing(t *testing.T) {
	for _, tt := range []struct {
		name   string
		srv    server
		spaced bool
		used   float64
	}{
		{"5 a second", server{rate: 5, burst: 1}, true, 0.85},
		{"100 a second", server{rate: 100, burst: 1}, true, 0.85},
		{"a bucket of 2", server{rate: 100, burst: 2}, false, 0.9},
		{"a bucket of 10", server{rate: 20, burst: 10}, false, 0.9},
		{"a bucket of 1,000", server{rate: 100, burst: 1000}, false, 0.9},
		{"a window", server{rate: 100, window: time.Second}, false, 0.8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := tt.srv
			srv.strict = srv.burst == 1
			srv.ok, srv.refusal = 20*time.Millisecond, 5*time.Millisecond
			b := newBacklog(t, &srv, 64)
			spaced := false
			for range 6000 {
				if b.run(10 * time.Millisecond); b.pace.Spaced() && !spaced {
					spaced = true
					late(t, b)
				}
			}
			if tt.spaced {
				require.True(t, spaced)
			} else {
				require.False(t, b.pace.Spaced(), "it may look like that for a moment")
			}
			b.run(time.Minute)
			require.Greater(t, b.used(time.Minute), tt.used)
			require.Less(t, b.refusedPerSuccess(), 0.1)
		})
	}
}

// TestGapsThatAreTooSmall: a way that takes now more and now less time makes gaps smaller. The
// refusals after these came too early for a pace that was right, and were taken for the work
// of other clients.
func TestGapsThatAreTooSmall(t *testing.T) {
	for gap, shared := range map[time.Duration]bool{9 * time.Millisecond: false, 10 * time.Millisecond: true} {
		var p pace.Pace
		now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
		send := func(after time.Duration) pace.Stamp {
			now = now.Add(after)
			return p.Sent(now, 1)
		}
		for range 10 {
			for range 20 {
				s := send(10 * time.Millisecond)
				p.Accepted(s, now.Add(time.Millisecond), true)
			}
			s := send(gap)
			p.Refused(s, now.Add(time.Millisecond), true)
		}
		require.Equal(t, shared, p.Shared(), "refused after %v", gap)
	}
}

// late lets nothing go for a second, of a copy. Then one goes, and the next one a gap
// later.
func late(t *testing.T, b *backlog) {
	t.Helper()
	p, now := b.pace, b.now.Add(time.Second)
	require.Zero(t, p.Wait(now, 1))
	p.Sent(now, 1)
	require.InEpsilon(t, 1/p.Rate(now), p.Wait(now, 1).Seconds(), 1e-3)
}

// TestALimitWithoutABurstThatBecomesABucket: a pace that was one in a gap grows again.
func TestALimitWithoutABurstThatBecomesABucket(t *testing.T) {
	b := newBacklog(t, &server{rate: 20, burst: 1, strict: true, ok: 20 * time.Millisecond, refusal: 5 * time.Millisecond}, 64)
	b.run(time.Minute)
	b.srv.rate, b.srv.burst, b.srv.strict = 200, 10, false
	b.run(30 * time.Second)
	b.run(30 * time.Second)
	require.False(t, b.pace.Spaced())
	require.Greater(t, b.used(30*time.Second), 0.85)
}

// TestWeights: an attempt waits until the server has what it takes. If the one before it
// made it wait, a large one after a small one would be refused.
func TestWeights(t *testing.T) {
	b := newBacklog(t, &server{rate: 20, burst: 5, ok: 20 * time.Millisecond, refusal: 5 * time.Millisecond}, 64)
	b.run(time.Minute)
	now := b.now.Add(b.pace.Wait(b.now, 1))
	for _, tt := range []struct {
		why            string
		do             func(p *pace.Pace)
		weight, waited float64 // the latter in those of weight 1
	}{
		{"as heavy as usual", func(p *pace.Pace) { p.Sent(now, 1) }, 1, 1},
		{"a heavy one waits for longer", func(p *pace.Pace) { p.Sent(now, 1) }, 7, 7},
		{"and a light one does not", func(p *pace.Pace) { p.Sent(now, 1) }, 0.25, 0.25},
		{"one that was heavier than there was time for", func(p *pace.Pace) { p.Sent(now, 3) }, 1, 3},
		{"one that was lighter", func(p *pace.Pace) { p.Sent(now, 0.9) }, 1, 0.9},
		{"more was taken than it seemed", func(p *pace.Pace) { p.Sent(now, 1); p.Settle(4) }, 1, 5},
		{"less was", func(p *pace.Pace) { p.Sent(now, 3); p.Settle(-2.5) }, 1, 0.5},
		{"nothing was, and it may go at once", func(p *pace.Pace) { p.Sent(now, 3); p.Settle(-3) }, 1, 0},
		{"it came to nothing", func(p *pace.Pace) { p.Repeat(p.Sent(now, 3)) }, 2, 1},
		{"a refusal of a test takes nothing", func(p *pace.Pace) { p.Tested(p.Sent(now, 3)) }, 2, 1},
	} {
		t.Run(tt.why, func(t *testing.T) {
			p := b.pace
			tt.do(&p)
			require.InDelta(t, tt.waited/p.Rate(now), p.Wait(now, tt.weight).Seconds(), 1e-6)
			require.InDelta(t, 9/p.Rate(now), p.Behind(now, 3, 9).Seconds(), 1e-6)
		})
	}
}

// FuzzPace has answers in any order, of any kind, at any time: waits are never
// negative nor endless, and in the end attempts go.
func FuzzPace(f *testing.F) {
	f.Add([]byte("saasrrsartsssarrrrrrrrstttaaaassssrrrrr"))
	f.Add([]byte("rsrsrsrsrsrsrsrsrsrsrsrs"))
	f.Add([]byte("tssstrstrstrstrstra"))
	f.Fuzz(func(t *testing.T, events []byte) {
		now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
		var p pace.Pace
		tickets := []pace.Stamp{{}}
		for _, e := range events {
			now = now.Add(time.Duration(e) * time.Millisecond)
			ticket := tickets[int(e)%len(tickets)]
			switch e % 5 {
			case 0, 1:
				weight := [...]float64{1, 1. / 64, 2.5, 1000}[e/5%4]
				tickets = append(tickets, p.Sent(now, weight))
				if e > 200 {
					p.Settle(weight * (float64(e%16)/8 - 1))
				}
			case 2:
				p.Accepted(ticket, now, e > 128)
			case 3:
				p.Refused(ticket, now, p.Known())
			case 4:
				p.SetQuota(ticket, now, float64(e%16), float64(e), time.Duration(e)*time.Second)
			}
			wait := p.Wait(now, [...]float64{1, 1. / 64, 1024}[e%3])
			require.GreaterOrEqual(t, wait, time.Duration(0))
			require.LessOrEqual(t, wait, 366*24*time.Hour)
			require.GreaterOrEqual(t, p.Behind(now, 10, 10), time.Duration(0))
		}
	})
}
