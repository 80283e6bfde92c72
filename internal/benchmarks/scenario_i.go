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
	p.rate, p.burst, p.each, p.beside = 5, 5, 20, 80
	p.latency, p.attempts, p.length = 12*time.Millisecond, 4, time.Minute
	for _, f := range more {
		f(&p)
	}
	return p
}

// A route without a limit should be served as if it were alone: within a millisecond
// and a round trip.
func untouched(p *params) float64 { return (2*p.trip() + time.Millisecond).Seconds() }

// free are the figures of a route without a limit.
func free(name, url string) []figure {
	return []figure{
		quantileAt(0.5, name+" p50", url, untouched),
		quantileAt(0.99, name+" p99", url, untouched),
		failedAt(name, url, 0),
	}
}

func limitedRoutes() []variant {
	bucket := func(r *run, times int) limit {
		return newBucket(float64(times)*r.params.rate, times*r.params.burst, false, r.start)
	}
	searchOnly := func(r *run) { r.srv.limit = routes{search: bucket(r, 1)} }
	chanceToo := func(r *run) { r.srv.limit = every{newChance(&r.params), routes{search: bucket(r, 1)}} }
	three := func(r *run) { r.srv.limit = routes{alpha: bucket(r, 1), beta: bucket(r, 2)} }
	wait := func(r *run) { r.srv.limit = routes{graphql: &closed{from: r.start, to: r.at(r.params.trouble)}} }
	both := streams(func(p *params) []traffic { return []traffic{{search, p.each, 0}, {items, p.beside, 0}} })
	// accept is what the limits can accept beside the calls to the route without one,
	// which come from then on.
	accept := func(times int, from func(*params) time.Duration) func(*params) float64 {
		return func(p *params) float64 {
			return float64(times)*(p.rate*p.length.Seconds()+float64(p.burst)) + p.beside*(p.length-from(p)).Seconds()
		}
	}
	atOnce := func(*params) time.Duration { return 0 }
	half := func(p *params) time.Duration { return p.length / 2 }
	refused := refusedAt("/search", search, 0.02)
	return []variant{
		setup{
			prepare: searchOnly, load: both, optimum: accept(1, atOnce),
			more: append(free("/items", items), refused),
		}.variant("i.search", "/search: 5/s, asked 20/s; /items: no limit, asked 80/s", routeParams(), noTargets()),
		setup{
			prepare: three,
			load: streams(func(p *params) []traffic {
				return []traffic{{alpha, p.each, 0}, {beta, p.each, 0}, {repos, p.beside, 0}}
			}),
			optimum: accept(3, atOnce),
			more:    free("free route", repos),
		}.variant("i.three", "5/s, 10/s and no limit; 30/s each", routeParams(func(p *params) { p.each, p.beside = 30, 30 }), want(0.97, none(), none())),
		setup{
			prepare: searchOnly,
			load: streams(func(p *params) []traffic {
				return []traffic{{search, p.each, 0}, {items, p.beside, half(p)}}
			}),
			optimum: accept(1, half),
			more:    append(free("/items", items), refused),
		}.variant("i.later", "/search: 5/s, asked 20/s; /items: no limit, asked 20/s from 30 s on", routeParams(func(p *params) { p.beside = 20 }), want(0.97, none(), none())),
		setup{
			prepare: chanceToo, load: both, optimum: accept(1, atOnce),
			more: []figure{
				quantileAt(0.5, "/items p50", items, untouched),
				quantileAt(0.99, "/items p99", items, func(p *params) float64 { return p.onceRefused(383 * time.Millisecond) }),
				failedAt("/items", items, 0.0001),
				refusedAt("/search", search, none()),
			},
		}.variant("i.chance", "/search: 5/s, asked 20/s; /items: no limit, asked 80/s; 5 % of all refused by chance", routeParams(func(p *params) { p.share = 0.05 }), noTargets()),
		setup{
			prepare: wait,
			load: streams(func(p *params) []traffic {
				return []traffic{{graphql, p.each, 0}, {repos, p.beside, 0}}
			}),
			more: append(free("/repos", repos), attemptsAt("/graphql", graphql, 4)),
		}.variant("i.graphql", "/graphql refuses for 41 min, and says so with Retry-After, asked 0.1/s; /repos: no limit, asked 1/s; 40 min",
			routeParams(func(p *params) {
				p.hint, p.trouble, p.length, p.each, p.beside = "retry-after", 41*time.Minute, 40*time.Minute, 0.1, 1
			}), noTargets()),
	}
}

// keyWide are limits that bind all routes together.
func keyWide() (all []variant) {
	for _, n := range []int{2, 200} {
		s := setup{
			load: func(r *run, all *tally) {
				rng := rand.New(rand.NewPCG(r.params.seed, 8))
				all.prepare = func(c *call) { c.url = page(rng.IntN(r.params.n)) }
				closedLoad(r, all)
			},
			optimum: byRate,
		}
		all = append(all, s.variant(fmt.Sprintf("i.key-%d", n), fmt.Sprintf("100/s, burst 10 for all of %d routes; 64 workers, 20 ms until an answer, 2 min", n), rateParams(100, 10, 64, func(p *params) { p.n = n }), want(0.98, 0.02, 0)))
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
	return append(all, nested.variant("i.nested", "/search: 5/s; /items: 20/s; both: 22/s; 64 workers, one of five calls to /search, 20 ms until an answer, 2 min", rateParams(100, 10, 64), noTargets()))
}

// page returns the URL of a route. Its name is two letters, because a number could be
// taken for an id.
func page(n int) string {
	return "http://api.example/" + string([]byte{byte('a' + n/26), byte('a' + n%26)})
}
