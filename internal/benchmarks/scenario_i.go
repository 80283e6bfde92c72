package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// The routes of scenarios i and k.
const (
	search  = "http://api.example/search"
	items   = "http://api.example/items"
	alpha   = "http://api.example/a"
	beta    = "http://api.example/b"
	graphql = "http://api.example/graphql"
	repos   = "http://api.example/repos"
)

// routeLimits is scenario i: limits that bind some routes of a host.
func routeLimits() scenario {
	return scenario{
		letter: "i",
		title:  "Limits of a route",
		model: "Calls to several routes of a host come at a steady rate for a minute, unless it says workers. 12 ms until an answer, 5 ms until a 429, no hint, 4 attempts. " +
			"Good is the part of the requests that the limits could accept.",
		variants: slices.Concat(limitedRoutes(), keyWide()),
	}
}

func routeParams(more ...func(*params)) params {
	p := defaults()
	p.latency, p.attempts, p.length = 12*time.Millisecond, 4, time.Minute
	for _, f := range more {
		f(&p)
	}
	return p
}

// A route without a limit should be served as if it were alone: within a millisecond
// and a round trip.
const untouched = 0.025

// free are the figures of a route without a limit.
func free(name, url string) []figure {
	return []figure{
		quantileAt(0.5, name+" p50", url, untouched),
		quantileAt(0.99, name+" p99", url, untouched),
		failedAt(name, url, 0),
	}
}

func limitedRoutes() []variant {
	bucket := func(r *run, rate float64) limit { return newBucket(rate, int(rate), false, r.start) }
	searchOnly := func(r *run) { r.srv.limit = routes{search: bucket(r, 5)} }
	chanceToo := func(r *run) { r.srv.limit = every{newChance(&r.params), routes{search: bucket(r, 5)}} }
	three := func(r *run) { r.srv.limit = routes{alpha: bucket(r, 5), beta: bucket(r, 10)} }
	wait := func(r *run) { r.srv.limit = routes{graphql: &closed{from: r.start, to: r.at(41 * time.Minute)}} }
	refused := refusedAt("/search", search, 0.02)
	return []variant{
		setup{
			prepare: searchOnly, load: streams(traffic{search, 20, 0}, traffic{items, 80, 0}),
			optimum: func(p *params) float64 { return 85*p.length.Seconds() + 5 },
			more:    append(free("/items", items), refused),
		}.variant("i.search", "/search: 5/s, asked 20/s; /items: no limit, asked 80/s", routeParams(), noTargets()),
		setup{
			prepare: three, load: streams(traffic{alpha, 30, 0}, traffic{beta, 30, 0}, traffic{repos, 30, 0}),
			optimum: func(p *params) float64 { return 45*p.length.Seconds() + 15 },
			more:    free("free route", repos),
		}.variant("i.three", "5/s, 10/s and no limit; 30/s each", routeParams(), want(0.97, none(), none())),
		setup{
			prepare: searchOnly, load: streams(traffic{search, 20, 0}, traffic{items, 20, 30 * time.Second}),
			optimum: func(p *params) float64 { return 5*p.length.Seconds() + 5 + 20*(p.length/2).Seconds() },
			more:    append(free("/items", items), refused),
		}.variant("i.later", "/search: 5/s, asked 20/s; /items: no limit, asked 20/s from 30 s on", routeParams(), want(0.97, none(), none())),
		setup{
			prepare: chanceToo, load: streams(traffic{search, 20, 0}, traffic{items, 80, 0}),
			optimum: func(p *params) float64 { return 85*p.length.Seconds() + 5 },
			more: []figure{
				quantileAt(0.5, "/items p50", items, untouched),
				quantileAt(0.99, "/items p99", items, 0.4),
				failedAt("/items", items, 0.0001),
				refusedAt("/search", search, none()),
			},
		}.variant("i.chance", "/search: 5/s, asked 20/s; /items: no limit, asked 80/s; 5 % of all refused by chance", routeParams(func(p *params) { p.share = 0.05 }), noTargets()),
		setup{
			prepare: wait, load: streams(traffic{graphql, 0.1, 0}, traffic{repos, 1, 0}),
			more: append(free("/repos", repos), attemptsAt("/graphql", graphql, 4)),
		}.variant("i.graphql", "/graphql refuses for 41 min, and says so with Retry-After, asked 0.1/s; /repos: no limit, asked 1/s; 40 min",
			routeParams(func(p *params) { p.hint, p.length = "retry-after", 40*time.Minute }), noTargets()),
	}
}

// keyWide are limits that bind all routes together.
func keyWide() (all []variant) {
	p := rateParams(100, 10, 64)
	for _, n := range []int{2, 200} {
		s := setup{
			load: func(r *run, all *tally) {
				rng := rand.New(rand.NewPCG(r.params.seed, 8))
				all.prepare = func(c *call) { c.url = page(rng.IntN(n)) }
				closedLoad(r, all)
			},
			optimum: byRate,
		}
		all = append(all, s.variant(fmt.Sprintf("i.key-%d", n), fmt.Sprintf("100/s, burst 10 for all of %d routes; 64 workers, 20 ms until an answer, 2 min", n), p, want(0.98, 0.02, 0)))
	}
	nested := setup{
		prepare: func(r *run) {
			r.srv.limit = every{
				newBucket(22, 22, false, r.start),
				routes{search: newBucket(5, 5, false, r.start), items: newBucket(20, 20, false, r.start)},
			}
		},
		load: func(r *run, all *tally) {
			n := 0
			all.prepare = func(c *call) {
				if n++; n%5 == 0 {
					c.url = search
				} else {
					c.url = items
				}
			}
			closedLoad(r, all)
		},
		optimum: func(p *params) float64 { return 22*p.length.Seconds() + 22 },
	}
	return append(all, nested.variant("i.nested", "/search: 5/s; /items: 20/s; both: 22/s; 64 workers, one of five calls to /search, 20 ms until an answer, 2 min", p, noTargets()))
}

// page returns the URL of a route. Its name is two letters, because a number could be
// taken for an id.
func page(n int) string {
	return "http://api.example/" + string([]byte{byte('a' + n/26), byte('a' + n%26)})
}
