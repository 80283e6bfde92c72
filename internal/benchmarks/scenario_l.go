package main

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// weights is scenario l: requests of different cost, several limits at once, requests
// in flight, and classes.
func weights() scenario {
	return scenario{
		letter: "l",
		title:  "Weights, several limits, requests in flight, classes",
		model: "The column \"limit known\" has the server's limits for its own, and what it guesses that a request costs. Refusals come after 5 ms, without a hint, 4 attempts. " +
			"The optimum is an ideal FIFO queue, which knows all costs and lets each call go in the instant in which the server accepts it. A makespan is compared with the optimum of the calls that were answered; if more than a tenth of them failed, there is none.",
		variants: slices.Concat(weighed(), guessed(), fields(), learned(), several(), mixed(), flying(), priorities(), flows()),
	}
}

// jobParams are the parameters from which the jobs start.
func jobParams(n, workers int, latency time.Duration) params {
	p := defaults()
	p.attempts, p.n, p.workers, p.latency = 4, n, workers, latency
	return p
}

// The costs of most jobs: those of language models, with a mean of 1,330 and a median of
// 1,000, and small ones, with a mean of about 3.
func modelCosts(most float64) func(*rand.Rand) float64 { return logNormal(1000, 0.75, most) }
func smallCosts() func(*rand.Rand) float64             { return logNormal(2.25, 0.75, 50) }

func ofTokens(rate, burst float64) bounds { return bounds{buckets: []bound{{tokens, rate, burst}}} }

const (
	ms = time.Millisecond

	models = "1,000 tokens a second, burst 10,000; a request costs 1,330 (log-normal, 1,000 in the median), 1 s until an answer; 400 calls, 32 workers"
	smalls = "100 tokens a second, burst 50; a request costs 3 (log-normal), 100 ms until an answer; 2,000 calls, 64 workers"
)

func modelParams() params { return jobParams(400, 32, time.Second) }
func smallParams() params { return jobParams(2000, 64, 100*ms) }

// weighed are jobs whose costs are known.
func weighed() []variant {
	w := jobTargets{1.02, 0, 1.1, none()}
	jittery, shaky := modelParams(), modelParams()
	jittery.jitter, shaky.share = 10*ms, 0.05
	return []variant{
		job{bounds: ofTokens(1000, 10_000), cost: modelCosts(10_000)}.variant("l.tokens", models, modelParams(), w),
		job{bounds: ofTokens(100, 50), cost: smallCosts()}.variant("l.tokens-small", smalls, smallParams(), w),
		job{bounds: ofTokens(1000, 2000), cost: modelCosts(10_000)}.variant("l.tokens-over", "as l.tokens, burst 2,000: one that costs more passes when the bucket is full, and leaves it in debt", modelParams(), w),
		job{bounds: ofTokens(1000, 10_000), cost: modelCosts(10_000)}.variant("l.tokens-jitter", "as l.tokens, each way takes up to 10 ms more", jittery, jobTargets{1.02, 8, 1.1, none()}),
		job{bounds: ofTokens(1000, 10_000), cost: modelCosts(10_000)}.variant("l.tokens-chance", "as l.tokens, and 5 % of all requests are refused by chance", shaky, jobTargets{1.05, none(), none(), none()}),
		job{bounds: ofTokens(1000, 10_000), cost: modelCosts(10_000)}.variant("l.tokens-few", "as l.tokens, 10 s until an answer; 16 workers", jobParams(400, 16, 10*time.Second), w),
	}
}

// guessed are jobs whose costs are known when a request is answered.
func guessed() []variant {
	settled := func(b bounds, c counting) bounds {
		b.settles, b.counts = true, c
		return b
	}
	model, few := ofTokens(1000, 10_000), ofTokens(100, 50)
	large := func(c counting, guess func(*rand.Rand) float64, most float64) job {
		return job{bounds: settled(model, c), cost: modelCosts(most), guess: guess}
	}
	small := func(c counting, guess func(*rand.Rand) float64) job {
		return job{bounds: settled(few, c), cost: smallCosts(), guess: guess}
	}
	slow := jobParams(400, 32, 2*time.Second)
	over := jobTargets{1.05, none(), none(), none()}
	under := func(calls float64) jobTargets { return jobTargets{1.05, 0.02 * calls, none(), none()} }
	three, half, random := times(3), times(0.5), logNormal(1, 0.5, math.Inf(1))
	const (
		after  = "; the server counts what a request has cost when it has answered, and accepts while there is anything"
		strict = "; the server knows before what a request will cost"
		guess  = "; the server counts what was guessed, and corrects that when it has answered"
	)
	return []variant{
		large(inAdvance, three, 10_000).variant("l.guess3", "as l.tokens, the guess is threefold, and settled", modelParams(), over),
		large(inAdvance, three, 3333).variant("l.guess3-within", "as l.guess3, but no request costs more than 3,333: no guess is more than the burst", modelParams(), over),
		large(inAdvance, three, 10_000).variant("l.guess3-slow", "as l.guess3, 2 s until an answer", slow, over),
		small(inAdvance, three).variant("l.guess3-small", "as l.tokens-small, the guess is threefold, and settled", smallParams(), over),
		large(byGuess, half, 10_000).variant("l.half", "as l.tokens, the guess is half, and settled"+guess, modelParams(), under(400)),
		large(byGuess, half, 10_000).variant("l.half-slow", "as l.half, 2 s until an answer", slow, under(400)),
		small(byGuess, half).variant("l.half-small", "as l.tokens-small, the guess is half, and settled"+guess, smallParams(), under(2000)),
		large(afterward, half, 10_000).variant("l.half-after", "as l.half"+after, modelParams(), under(400)),
		small(afterward, half).variant("l.half-after-small", "as l.half-small"+after, smallParams(), under(2000)),
		large(inAdvance, half, 10_000).variant("l.half-strict", "as l.half"+strict, modelParams(), under(400)),
		small(inAdvance, half).variant("l.half-strict-small", "as l.half-small"+strict, smallParams(), under(2000)),
		large(byGuess, random, 10_000).variant("l.guess", "as l.half, the guess is wrong by a random factor (log-normal, sigma 0.5)", modelParams(), under(400)),
		large(inAdvance, random, 10_000).variant("l.guess-strict", "as l.guess"+strict, modelParams(), under(400)),
	}
}

// fields are jobs of which the peers know nothing but the cost, and the server says the
// rest.
func fields() (all []variant) {
	w := jobTargets{1.05, 1, none(), none()}
	for _, v := range []struct {
		name, model string
		rate, burst float64
	}{
		{"l.told", "1,000 tokens a second, burst 10,000", 1000, 10_000},
		{"l.told-5000", "1,000 tokens a second, burst 5,000", 1000, 5000},
		{"l.told-30000", "500 tokens a second, burst 30,000", 500, 30_000},
	} {
		b := bounds{buckets: []bound{{tokens, v.rate, v.burst}, {requests, 500.0 / 60, 500}}, told: true}
		all = append(all, job{bounds: b, cost: modelCosts(v.burst)}.variant(v.name,
			v.model+", and 500 requests a minute: every answer says so in the fields of OpenAI, and nothing but the cost is configured; otherwise as l.tokens", modelParams(), w))
	}
	few := bounds{buckets: []bound{{tokens, 100, 50}}, told: true}
	all = append(all, job{bounds: few, cost: smallCosts()}.variant("l.told-small", "as l.tokens-small, told as in l.told", smallParams(), w))
	guess := bounds{buckets: []bound{{tokens, 1000, 10_000}}, told: true}
	settled := guess
	settled.settles = true
	return append(all,
		job{bounds: guess, cost: modelCosts(10_000), guess: times(3)}.variant("l.told-guess3", "as l.told, the guess is threefold, and not settled", modelParams(), jobTargets{none(), 1, none(), none()}),
		job{bounds: settled, cost: modelCosts(10_000), guess: times(3)}.variant("l.told-settled", "as l.told-guess3, and settled", modelParams(), w),
		job{bounds: settled, cost: modelCosts(10_000), guess: times(0.5)}.variant("l.told-half", "as l.told-settled, the guess is half", modelParams(), jobTargets{none(), none(), none(), none()}))
}

// learned are jobs of which the peers know nothing but the cost, and the server says
// nothing.
func learned() []variant {
	const unsaid = "; nothing but the cost is known, and the server says nothing"
	w := jobTargets{1.05, none(), none(), none()}
	of := func(rate, burst float64) bounds {
		b := ofTokens(rate, burst)
		b.learned = true
		return b
	}
	large := func(rng *rand.Rand) float64 {
		if rng.IntN(20) == 0 {
			return 10_000
		}
		return 500
	}
	settled, jittery := of(1000, 10_000), smallParams()
	settled.settles, jittery.jitter = true, 10*ms
	shaky := smallParams()
	shaky.share = 0.05
	return []variant{
		job{bounds: of(1000, 10_000), cost: modelCosts(10_000)}.variant("l.learned", "as l.tokens"+unsaid, modelParams(), w),
		job{bounds: of(10_000, 50_000), cost: modelCosts(10_000)}.variant("l.learned-fast", "as l.learned, 10,000 tokens a second, burst 50,000; 4,000 calls, 64 workers", jobParams(4000, 64, time.Second), w),
		job{bounds: of(100, 50), cost: smallCosts()}.variant("l.learned-small", "as l.tokens-small"+unsaid, smallParams(), w),
		job{bounds: of(100, 50), cost: smallCosts()}.variant("l.learned-jitter", "as l.learned-small, each way takes up to 10 ms more", jittery, w),
		job{bounds: of(100, 50), cost: smallCosts()}.variant("l.learned-chance", "as l.learned-small, and 5 % of all requests are refused by chance", shaky, w),
		job{bounds: of(1e9, 1e9), cost: smallCosts()}.variant("l.learned-free", "as l.learned-chance, without a limit", shaky, w),
		job{bounds: of(10_000, 20_000), cost: large}.variant("l.learned-mixed", "10,000 tokens a second, burst 20,000; one of 20 requests costs 10,000, the others 500, 1 s until an answer; 4,000 calls, 64 workers"+unsaid, jobParams(4000, 64, time.Second), w),
		job{bounds: settled, cost: modelCosts(10_000), guess: times(0.5)}.variant("l.learned-half", "as l.learned, the guess is half, and settled", modelParams(), w),
	}
}

// several are jobs with limits that all have to accept a request.
func several() []variant {
	w := jobTargets{1.005, 0, none(), none()}
	both := func(rate, burst, perMinute float64) job {
		return job{bounds: bounds{buckets: []bound{{requests, rate, burst}, {"minute", perMinute / 60, perMinute}}}}
	}
	three := bounds{buckets: []bound{{tokens, 1000, 10_000}, {requests, 1, 5}, {"minute", 0.8, 48}}}
	return []variant{
		both(10, 10, 300).variant("l.both", "10 requests a second with burst 10, and 300 a minute (5/s, burst 300); 1,000 calls, 32 workers", jobParams(1000, 32, 20*ms), w),
		both(100, 1, 1200).variant("l.both-strict", "100/s without burst, and 1,200 a minute; 3,000 calls, 64 workers", jobParams(3000, 64, 20*ms), w),
		both(2, 4, 60).variant("l.both-small", "2/s with burst 4, and 60 a minute; 200 calls, 8 workers", jobParams(200, 8, 20*ms), w),
		job{bounds: three, cost: modelCosts(10_000)}.variant("l.three", "as l.tokens, and 1 request a second with burst 5, and 48 a minute", modelParams(), jobTargets{1.02, 0, 1.1, none()}),
	}
}

// mixed are jobs of few large requests and many small ones.
func mixed() []variant {
	w := jobTargets{1.02, none(), none(), 2}
	of := func(b bounds, every int, large, small float64) job {
		return job{bounds: b, cost: func(rng *rand.Rand) float64 {
			if rng.IntN(every) == 0 {
				return large
			}
			return small
		}}
	}
	return []variant{
		of(ofTokens(1000, 10_000), 20, 10_000, 100).variant("l.mixed", "1,000 tokens a second, burst 10,000; one of 20 requests costs 10,000, the others 100, 1 s until an answer; 400 calls, 32 workers", modelParams(), w),
		of(ofTokens(1000, 10_000), 100, 10_000, 100).variant("l.mixed-rare", "as l.mixed, one of 100; 2,000 calls, 64 workers", jobParams(2000, 64, time.Second), w),
		of(ofTokens(1000, 4000), 20, 10_000, 100).variant("l.mixed-over", "as l.mixed, burst 4,000", modelParams(), w),
		of(ofTokens(100, 20), 30, 20, 1).variant("l.mixed-small", "100 tokens a second, burst 20; one of 30 costs 20, the others 1, 20 ms until an answer; 2,000 calls, 64 workers", jobParams(2000, 64, 20*ms), w),
	}
}

// flying are jobs with a number of requests in flight.
func flying() []variant {
	w := jobTargets{1.02, 0, 1.1, none()}
	// Its mean and its standard deviation are 1 s.
	long := func(rng *rand.Rand, _ float64) time.Duration {
		return time.Duration(logNormal(math.Sqrt2/2, math.Sqrt(math.Ln2), math.Inf(1))(rng) * float64(time.Second))
	}
	phases := func(_ *rand.Rand, part float64) time.Duration {
		if 1./3 <= part && part < 2./3 {
			return 2 * time.Second
		}
		return 100 * ms
	}
	room := func(n int) bounds { return bounds{inFlight: n} }
	with := ofTokens(1000, 10_000)
	with.inFlight = 2
	return []variant{
		job{bounds: room(10)}.variant("l.flight10", "10 requests in flight, always 100 ms; 3,000 calls, 64 workers", jobParams(3000, 64, 100*ms), w),
		job{bounds: room(10), takes: long}.variant("l.flight10-long", "10, log-normal (mean and standard deviation 1 s); 2,000 calls, 64 workers", jobParams(2000, 64, 0), w),
		job{bounds: room(10), takes: phases}.variant("l.flight10-phases", "10, 100 ms, then 2 s, then 100 ms; 3,000 calls, 64 workers", jobParams(3000, 64, 0), w),
		job{bounds: room(5), takes: long}.variant("l.flight5", "5, log-normal (mean and standard deviation 1 s); 1,000 calls, 16 workers", jobParams(1000, 16, 0), w),
		job{bounds: room(1)}.variant("l.flight1", "1, always 100 ms; 500 calls, 8 workers", jobParams(500, 8, 100*ms), w),
		job{bounds: with, cost: modelCosts(10_000), takes: long}.variant("l.flight-tokens", "as l.tokens, 2 in flight, log-normal (mean and standard deviation 1 s)", modelParams(), w),
	}
}

func sharingParams(latency time.Duration, more ...func(*params)) params {
	p := defaults()
	p.attempts, p.latency, p.length = 4, latency, time.Minute
	for _, f := range more {
		f(&p)
	}
	return p
}

// crowd is workers that others overtake. In a FIFO queue each would wait for all the
// others, and nobody should wait for much longer than that.
func crowd(workers int, perSecond float64) party {
	return party{name: "background", workers: workers, p99: none(), longest: 1.25 * float64(workers) / perSecond}
}

func priorities() []variant {
	hundred := bounds{buckets: []bound{{requests, 100, 10}}}
	ten := bounds{inFlight: 10}
	w := want(1/1.02, 0, 0)
	one := func(perSecond, p99 float64) []party {
		rest := 100 - perSecond
		return []party{crowd(200, rest), {"interactive", 1, 0, perSecond, p99, none()}}
	}
	three := []party{crowd(200, 88), {"normal", 1, 0, 10, 0.08, none()}, {"interactive", 2, 0, 2, 0.03, none()}}
	full := []party{{"background", 0, 64, 0, none(), 1.25 * 64 / (100. / 9)}, {"interactive", 1, 64, 0, none(), 1.25 * 64 / (800. / 9)}}
	starved := sharing(hundred, full, false)
	starved.more = append(starved.more, share(full, 0, 0.1))
	room := sharing(ten, one(2, 0.1), false)
	return []variant{
		sharing(hundred, one(2, 0.03), false).variant("l.interactive", "100/s, burst 10, 20 ms until an answer; 200 workers, and at random 2 calls a second of priority 1 (30 ms, to be answered after 50); a minute", sharingParams(20*ms), w),
		sharing(hundred, one(30, 0.08), false).variant("l.interactive30", "as l.interactive, 30 calls a second", sharingParams(20*ms), w),
		sharing(hundred, three, false).variant("l.levels", "as l.interactive, three levels: 200 workers, 10 and 2 calls a second", sharingParams(20*ms), w),
		room.variant("l.interactive-flight", "10 in flight, exponential 100 ms, otherwise as l.interactive", sharingParams(100*ms, exponential), w),
		starved.variant("l.starved", "as l.interactive, but 64 workers of priority 0, and 64 of priority 1, who could use up everything", sharingParams(20*ms), w),
	}
}

func flows() []variant {
	hundred := bounds{buckets: []bound{{requests, 100, 10}}}
	w := want(1/1.02, 0, 0)
	flow := func(name string, workers int, p99 float64) party {
		return party{name: name, workers: workers, p99: p99, longest: none()}
	}
	two := []party{flow("many", 200, none()), flow("one", 1, 0.03)}
	places := []party{flow("many", 200, none()), flow("one", 1, 0.1)}
	five := []party{flow("many", 200, none()), flow("more", 100, none()), flow("one", 1, 0.06), flow("another", 1, 0.06), flow("third", 1, 0.06)}
	half := []party{flow("many", 200, none()), flow("six", 6, none())}
	halves := sharing(hundred, half, true)
	halves.more = append(halves.more, share(half, 1, 0.48))
	return []variant{
		sharing(hundred, two, true).variant("l.flows", "100/s, burst 10, 20 ms until an answer; two flows, with 200 workers and with 1 (30 ms, to be answered after 50); a minute", sharingParams(20*ms), w),
		sharing(hundred, five, true).variant("l.flows5", "as l.flows, with 200, 100, 1, 1 and 1", sharingParams(20*ms), w),
		halves.variant("l.flows-half", "as l.flows, with 200 and 6, which could use half", sharingParams(20*ms), w),
		sharing(bounds{inFlight: 10}, places, true).variant("l.flows-flight", "10 in flight, exponential 100 ms, otherwise as l.flows", sharingParams(100*ms, exponential), w),
	}
}
