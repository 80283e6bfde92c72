package main

import (
	"slices"
	"strconv"
	"strings"
)

// otherSets are three sets of parameters for each of the variants, as flags.
type otherSets struct {
	variants []string
	flags    [3]string
}

// other returns the variant with a set of its parameters, if it has that set. Set 0 is the
// usual one.
func (v variant) other(set string) (variant, bool) {
	if set == "0" {
		return v, true
	}
	k, err := strconv.Atoi(set)
	if err != nil || k < 1 || k > 3 {
		return v, false
	}
	for _, o := range others() {
		if slices.Contains(o.variants, v.name) {
			flags := strings.TrimSpace(o.flags[k-1])
			v.model = "as " + v.name + ", with " + flags
			v.name, v.picture, v.duel = v.name+"/"+set, nil, nil
			return v.with(v.params.with(flags)), true
		}
	}
	return v, false
}

// others returns parameters with which the targets have to be reached as well. They were
// chosen before anything was measured with them, and no constant of the library is set
// with them.
//
// The servers of j are near, because each round trip takes from the server's time that
// they measure. Their latency varies instead. The chances of g and the lengths are such
// that bad luck alone misses no target.
func others() []otherSets {
	const (
		near = " -way 1ms -latency 1ms -refusal 1ms "   // 3 ms
		mid  = " -way 10ms -latency 5ms -refusal 2ms "  // 25 ms
		far  = " -way 80ms -latency 20ms -refusal 5ms " // 180 ms
	)
	only := func(names ...string) []string { return names }
	return []otherSets{
		{only("a.sustained"), [3]string{mid + "-rate 7 -burst 4 -workers 6", far + "-rate 35 -burst 8 -workers 24", near + "-rate 230 -burst 20 -workers 90"}},

		{only("e.fleet"), [3]string{mid + "-rate 35 -burst 5 -each 0.7 -clients 6 -workers 24", far + "-rate 60 -burst 12 -each 1 -workers 24", near + "-rate 230 -burst 30 -each 4 -clients 14 -workers 90"}},
		{only("e.2-heavy"), [3]string{mid + "-rate 35 -burst 5 -workers 6", far + "-rate 60 -burst 12 -clients 3 -workers 24", near + "-rate 230 -burst 30 -clients 4 -workers 90"}},
		{only("e.10-heavy", "e.10-heavy-retry-after"), [3]string{mid + "-rate 35 -burst 5 -clients 6 -workers 6", far + "-rate 60 -burst 12 -workers 24", near + "-rate 230 -burst 30 -clients 14 -workers 24"}},

		{only("g.chance1"), [3]string{mid + "-share 0.007 -each 7 -length 36m", far + "-share 0.02 -each 35 -length 7m10s", near + "-share 0.015 -each 230 -length 66s"}},
		{only("g.chance5"), [3]string{mid + "-share 0.04 -each 7 -length 72m", far + "-share 0.06 -each 35 -length 15m", near + "-share 0.03 -each 230 -length 132s"}},
		{only("g.chance5-hint"), [3]string{mid + "-share 0.03 -each 7 -length 72m", far + "-share 0.06 -each 35 -length 15m", near + "-share 0.045 -each 230 -length 132s"}},
		{only("g.chance20", "g.chance20-10"), [3]string{mid + "-share 0.14 -each 7 -length 36m", far + "-share 0.18 -each 35 -length 7m10s", near + "-share 0.22 -each 230 -length 66s"}},
		{only("g.chance30"), [3]string{mid + "-share 0.27 -each 7 -length 36m", far + "-share 0.33 -each 35 -length 7m10s", near + "-share 0.3 -each 230 -length 66s"}},
		{only("g.chance40"), [3]string{mid + "-share 0.37 -each 7 -length 36m", far + "-share 0.45 -each 35 -length 7m10s", near + "-share 0.4 -each 230 -length 66s"}},
		{only("g.chance60"), [3]string{mid + "-share 0.55 -each 7 -length 36m", far + "-share 0.65 -each 35 -length 7m10s", near + "-share 0.6 -each 230 -length 66s"}},
		{
			only("g.backend", "g.backend-10", "g.backend-hint", "g.backend-503", "g.backend-503-hint"),
			[3]string{mid + "-share 0.2 -each 7 -length 10m", far + "-share 0.125 -each 35 -length 3m", near + "-share 0.25 -each 230"},
		},
		{only("g.third-503"), [3]string{mid + "-each 7 -length 10m", far + "-each 35 -length 3m", near + "-each 500"}},
		{only("g.nodes"), [3]string{mid + "-n 8 -rate 9 -burst 3 -each 40", far + "-n 50 -rate 6 -burst 2 -each 180", near + "-n 5 -rate 20 -burst 4 -each 60"}},
		{only("g.blip20"), [3]string{mid + "-share 0.2 -trouble 8s -each 7 -length 20m", far + "-share 0.15 -trouble 20s -each 35 -length 4m", near + "-share 0.25 -trouble 6s -each 230"}},
		{only("g.blip100"), [3]string{mid + "-trouble 2s -each 7 -length 20m", far + "-trouble 5s -each 35 -length 4m", near + "-trouble 4s -each 230"}},
		{only("g.blip50"), [3]string{mid + "-share 0.5 -trouble 2s -each 7 -length 20m", far + "-share 0.45 -trouble 2s -each 35 -length 8m", near + "-share 0.5 -trouble 3s -each 230"}},
		{only("g.chance-then-limit"), [3]string{mid + "-share 0.05 -rate 7 -burst 4 -workers 6", far + "-share 0.04 -rate 35 -burst 8 -workers 24", near + "-latency 100ms -share 0.02 -rate 230 -burst 20 -workers 90"}},
		{only("g.two-1"), [3]string{mid + "-n 7 -workers 1", far + "-n 3 -workers 6", near + "-n 4 -workers 5"}},
		{only("g.five-4"), [3]string{mid + "-n 8 -workers 2", far + "-n 6 -workers 8", near + "-n 2 -workers 7"}},

		{only("h.bucket"), [3]string{mid + "-rate 7 -burst 3 -workers 6", far + "-rate 35 -burst 12 -workers 24", near + "-rate 230 -burst 40 -workers 90"}},
		{only("h.bucket-503"), [3]string{mid + "-rate 7 -burst 3 -workers 6 -length 15m", far + "-rate 35 -burst 12 -workers 24 -length 5m", near + "-rate 230 -burst 40 -workers 90"}},
		{only("h.bucket5"), [3]string{mid + "-rate 7 -burst 7 -workers 90", far + "-rate 2 -burst 4 -workers 6 -length 5m", near + "-rate 3 -burst 10 -workers 24"}},
		{only("h.bucket1000"), [3]string{mid + "-rate 600 -burst 60 -workers 90", far + "-rate 1500 -burst 150 -workers 500", near + "-rate 3000 -burst 300 -workers 90 -length 30s"}},
		{only("h.leaky-503"), [3]string{mid + "-rate 7 -burst 11 -workers 24 -length 3m", far + "-rate 35 -burst 31 -workers 90", near + "-rate 3 -burst 6 -workers 16 -length 5m"}},
		{only("h.strict100", "h.strict100-503"), [3]string{mid + "-rate 60 -workers 24", far + "-rate 140 -workers 90", near + "-rate 230 -workers 90"}},
		{only("h.strict20"), [3]string{mid + "-rate 25 -workers 90", far + "-rate 14 -workers 6", near + "-rate 35 -workers 24"}},
		{only("h.strict5"), [3]string{mid + "-rate 7 -workers 6", far + "-rate 4 -workers 24", near + "-rate 3 -workers 6"}},
		{only("h.strict2"), [3]string{mid + "-rate 1 -workers 6 -length 5m", far + "-rate 1.5 -workers 24 -length 5m", near + "-rate 2.5 -workers 6"}},
		{only("h.window600"), [3]string{mid + "-rate 7 -workers 24", far + "-rate 20 -workers 90", near + "-rate 3 -workers 16"}},
		{only("h.window50"), [3]string{mid + "-rate 7 -period 5s -workers 24", far + "-rate 10 -period 20s -workers 24", near + "-rate 3 -workers 90"}},
		{only("h.sliding100"), [3]string{mid + "-rate 7 -period 20s -workers 24", far + "-rate 35 -period 5s -workers 90", near + "-rate 20 -workers 24"}},
		{only("h.sliding600"), [3]string{mid + "-rate 7 -workers 24", far + "-rate 15 -workers 24", near + "-rate 5 -workers 90"}},
		{only("h.both"), [3]string{mid + "-rate 14 -burst 14 -workers 24", far + "-rate 40 -burst 20 -workers 90", near + "-rate 9 -burst 5 -workers 16"}},
		{only("h.20-by-1"), [3]string{mid + "-rate 7 -burst 3", far + "-rate 3 -burst 4", near + "-rate 35 -burst 8"}},
		{only("h.20-by-4"), [3]string{mid + "-rate 12 -burst 2 -workers 3", far + "-rate 14 -burst 10 -workers 6", near + "-rate 50 -burst 5 -workers 5"}},
		{only("h.minute-by-1"), [3]string{mid + "-rate 0.5", far + "-rate 2 -period 30s -workers 2", near + "-rate 1.5 -workers 3"}},
		{only("h.minute-by-8"), [3]string{mid + "-rate 0.5 -workers 6", far + "-rate 2 -workers 6", near + "-rate 3 -period 20s -workers 7"}},
		{only("h.jitter"), [3]string{mid + "-rate 35 -burst 5 -jitter 10ms -workers 24", far + "-rate 100 -burst 20 -jitter 40ms -workers 90", near + "-rate 230 -burst 30 -jitter 4ms -workers 90"}},
		{only("h.jitter-strict"), [3]string{mid + "-rate 35 -jitter 10ms -workers 24", far + "-rate 7 -jitter 60ms -workers 6", near + "-rate 230 -jitter 4ms -workers 90"}},
		{only("h.tokens"), [3]string{"-rate 4000 -burst 45000 -workers 24 -latency 500ms", "-rate 25000 -burst 60000 -workers 90 -latency 2s -way 40ms", "-rate 10000 -burst 100000 -workers 90 -latency 200ms"}},

		{only("i.search"), [3]string{mid + "-rate 7 -burst 7 -each 30 -beside 35", far + "-rate 3 -burst 6 -each 10 -beside 100 -length 2m", near + "-rate 35 -burst 20 -each 100 -beside 230"}},
		{only("i.three"), [3]string{mid + "-rate 7 -burst 7 -each 40 -beside 20", far + "-rate 3 -burst 5 -each 15 -beside 60", near + "-rate 20 -burst 10 -each 90 -beside 230"}},
		{only("i.later"), [3]string{mid + "-rate 7 -burst 7 -each 30 -beside 35", far + "-rate 3 -burst 6 -each 10 -beside 100 -length 2m", near + "-rate 35 -burst 20 -each 100 -beside 230"}},
		{only("i.graphql"), [3]string{mid + "-trouble 8m -length 7m -beside 3", far + "-trouble 20m -length 19m -each 0.2 -beside 2", near + "-trouble 90m -length 80m -each 0.05 -beside 0.5"}},
		{only("i.key-2"), [3]string{mid + "-n 3 -rate 35 -burst 5 -workers 24", far + "-n 5 -rate 50 -burst 20 -workers 24", near + "-n 8 -rate 230 -burst 30 -workers 90"}},
		{only("i.key-200"), [3]string{mid + "-n 60 -rate 35 -burst 5 -workers 24", far + "-n 120 -rate 100 -burst 12 -workers 90", near + "-n 400 -rate 230 -burst 30 -workers 90"}},

		{only("j.open100"), [3]string{"-flight 4 -latency 25ms -each 80", "-flight 24 -latency 180ms -each 60", "-flight 3 -latency 1s -each 1.5 -length 5m"}},
		{only("j.open180"), [3]string{"-flight 4 -latency 25ms -each 120", "-flight 24 -latency 180ms -each 115", "-flight 60 -latency 300ms -each 180"}},
		{only("j.8", "j.8-503"), [3]string{"-flight 3 -latency 25ms -workers 12", "-flight 16 -latency 180ms -workers 90", "-flight 6 -latency 400ms -workers 24 -service log-normal"}},
		{only("j.8-constant"), [3]string{"-flight 3 -latency 25ms -workers 12", "-flight 24 -latency 180ms -workers 90", "-flight 12 -latency 1s -workers 50"}},
		{only("j.8-jitter"), [3]string{"-flight 5 -latency 25ms -jitter 3ms -workers 20", "-flight 12 -latency 180ms -jitter 20ms -workers 48", "-flight 24 -latency 400ms -jitter 40ms -workers 90"}},
		{only("j.4-bimodal"), [3]string{"-flight 3 -latency 100ms -share 0.1 -workers 12", "-flight 8 -latency 180ms -share 0.03 -workers 32", "-flight 16 -latency 250ms -share 0.05 -workers 90"}},
		{only("j.16-hint"), [3]string{"-flight 6 -latency 100ms -workers 24", "-flight 24 -latency 400ms -workers 90", "-flight 40 -latency 180ms -workers 160 -service log-normal"}},
		{only("j.1"), [3]string{"-flight 2 -latency 25ms -workers 6", "-flight 1 -latency 300ms -workers 6", "-flight 2 -latency 1s -workers 24"}},
		{only("j.100"), [3]string{"-flight 60 -latency 25ms -workers 240 -length 30s", "-flight 150 -latency 400ms -workers 600", "-flight 200 -latency 180ms -workers 500"}},
		{only("j.3"), [3]string{"-flight 5 -latency 2s -workers 20", "-flight 2 -latency 600ms -workers 8", "-flight 8 -latency 1s -workers 32 -service log-normal"}},
		{only("j.20"), [3]string{"-flight 6 -latency 3ms -workers 24", "-flight 40 -latency 25ms -workers 160", "-flight 12 -latency 10ms -workers 90"}},
		{only("j.10-to-30"), [3]string{"-flight 4 -then 12 -latency 25ms -workers 24", "-flight 24 -then 60 -latency 180ms -workers 180", "-flight 6 -then 10 -latency 400ms -workers 40"}},
		{only("j.30-to-10"), [3]string{"-flight 12 -then 4 -latency 25ms -workers 24", "-flight 60 -then 24 -latency 180ms -workers 180", "-flight 10 -then 6 -latency 400ms -workers 40"}},
		{only("j.shared"), [3]string{"-flight 6 -latency 25ms -workers 12", "-flight 24 -latency 180ms -clients 3 -workers 45", "-flight 16 -latency 300ms -workers 32"}},
		{only("j.shed"), [3]string{"-n 2 -flight 12 -latency 10ms -workers 90", "-n 8 -flight 40 -latency 60ms -workers 200", "-n 6 -flight 20 -latency 150ms -workers 90"}},
		{only("j.shed-open"), [3]string{"-n 2 -flight 12 -latency 10ms -each 240", "-n 8 -flight 40 -latency 60ms -each 160", "-n 6 -flight 20 -latency 150ms -each 48"}},

		{only("k.outage-10"), [3]string{mid + "-clients 24 -each 7 -trouble 20s -length 70s", far + "-clients 40 -each 15 -trouble 45s -length 95s", near + "-clients 90 -each 10"}},
		{only("k.outage-1"), [3]string{mid + "-clients 90 -each 0.5 -trouble 60s -length 110s", far + "-clients 40 -each 2 -trouble 20s -length 70s", near + "-clients 24 -trouble 45s -length 95s"}},
		{only("k.outage-one"), [3]string{mid + "-each 35 -trouble 20s -length 70s", far + "-each 230 -trouble 45s -length 95s", near + "-each 7 -trouble 60s -length 110s"}},
		{only("k.ban", "k.ban-prolonged"), [3]string{mid + "-rate 7 -burst 15 -workers 6 -trouble 30s", far + "-rate 35 -burst 60 -workers 24 -trouble 2m -length 18m", near + "-rate 50 -burst 100 -workers 24"}},
		{only("k.hint"), [3]string{mid + "-trouble 5s -workers 6 -each 35 -length 12s", far + "-trouble 20s -workers 24 -each 7 -length 30s", near + "-trouble 3s -workers 90 -each 50"}},
	}
}
