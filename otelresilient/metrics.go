package otelresilient

import (
	"context"
	"runtime"
	"slices"
	"weak"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/semconv/v1.43.0/httpconv"

	"github.com/resilienthttp/resilient"
)

// maxObservedKeys is the maximum number of limit keys for which gauges are reported.
// A Transport remembers 1,024 or more, but only the first of them are in regular
// use.
const maxObservedKeys = 100

// instruments are the metrics. By the contract of a meter, an instrument that is
// returned with an error can be used nevertheless.
type instruments struct {
	meter           metric.Meter
	requestDuration metric.Float64Histogram
	callDuration    metric.Float64Histogram
	waitDuration    metric.Float64Histogram
	retries         metric.Int64Counter
}

func newInstruments(meter metric.Meter) instruments {
	// The conventions' buckets end at 10 s. A call may wait for minutes.
	buckets := metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25,
		0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 30, 60, 120, 300)
	i := instruments{meter: meter}
	duration, err := httpconv.NewClientRequestDuration(meter)
	handle(err)
	i.requestDuration = duration.Inst()
	i.callDuration, err = meter.Float64Histogram("resilient.call.duration", metric.WithUnit("s"), buckets,
		metric.WithDescription("Duration of calls, all attempts and waits included."))
	handle(err)
	i.waitDuration, err = meter.Float64Histogram("resilient.wait.duration", metric.WithUnit("s"), buckets,
		metric.WithDescription("Duration of waits before attempts."))
	handle(err)
	i.retries, err = meter.Int64Counter("resilient.retries", metric.WithUnit("{retry}"),
		metric.WithDescription("Number of attempts that were not the first of their call."))
	handle(err)
	return i
}

// observe reports the limit keys of t whenever metrics are collected, until t is
// garbage collected. The meter does not keep it alive.
func (tel *telemetry) observe(t *resilient.Transport) {
	budget, err := tel.meter.Float64ObservableGauge("resilient.budget", metric.WithUnit("{token}"),
		metric.WithDescription("Tokens left in the retry budget."))
	handle(err)
	learned, err := tel.meter.Float64ObservableGauge("resilient.limit.learned", metric.WithUnit("{attempt}/s"),
		metric.WithDescription("Rate of a limit that was learned from the server."))
	handle(err)
	together, err := tel.meter.Int64ObservableGauge("resilient.limit.in_flight", metric.WithUnit("{attempt}"),
		metric.WithDescription("Number of attempts that a limit learned from the server allows at one time."))
	handle(err)
	waiting, err := tel.meter.Int64ObservableUpDownCounter("resilient.limit.waiting", metric.WithUnit("{attempt}"),
		metric.WithDescription("Number of attempts that wait in a queue."))
	handle(err)

	tokens, err := tel.meter.Float64ObservableGauge("resilient.limit.tokens", metric.WithUnit("{token}"),
		metric.WithDescription("Tokens in the bucket of a limit that the program has set; below 0, so many are owed."))
	handle(err)
	flying, err := tel.meter.Int64ObservableUpDownCounter("resilient.requests.in_flight", metric.WithUnit("{request}"),
		metric.WithDescription("Number of requests in flight, where the program has set a limit."))
	handle(err)

	source, name, constant := weak.Make(t), tel.keyName, tel.attributes
	registration, err := tel.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		t := source.Value()
		if t == nil {
			return nil
		}
		keys := t.Snapshot().Keys
		for _, k := range keys[:min(len(keys), maxObservedKeys)] {
			named := name(k.Key)
			if named == "" {
				continue
			}
			common := append(slices.Clone(constant), limitKeyKey.String(named))
			attrs := metric.WithAttributeSet(attribute.NewSet(slices.Clone(common)...)) // which sorts its arguments
			for _, q := range queues(&k) {
				class := slices.Clone(common)
				if q.Priority != 0 {
					class = append(class, limitPriorityKey.Int(q.Priority))
				}
				o.ObserveInt64(waiting, int64(q.Waiting), metric.WithAttributeSet(attribute.NewSet(class...)))
			}
			if k.MaxInFlight > 0 {
				o.ObserveInt64(flying, int64(k.InFlight), attrs)
			}
			for _, b := range buckets(&k) {
				o.ObserveFloat64(tokens, b.Tokens, metric.WithAttributeSet(attribute.NewSet(
					append(slices.Clone(common), limitNameKey.String(b.Name))...)))
			}
			if k.Budget >= 0 { // below 0, the budget is switched off
				o.ObserveFloat64(budget, k.Budget, attrs)
			}
			for _, l := range k.Limits {
				if l.Rate <= 0 && l.InFlight <= 0 {
					continue
				}
				bound := slices.Clone(common)
				if l.Route != "" {
					bound = append(bound, limitRouteKey.String(l.Route))
				}
				attrs := metric.WithAttributeSet(attribute.NewSet(bound...))
				switch {
				case l.Rate > 0 && l.Unit != "":
					of := metric.WithAttributes(limitNameKey.String(l.Unit))
					o.ObserveFloat64(learned, l.Rate, attrs, of)
				case l.Rate > 0:
					o.ObserveFloat64(learned, l.Rate, attrs)
				}
				if l.InFlight > 0 {
					o.ObserveInt64(together, int64(l.InFlight), attrs)
				}
			}
		}
		return nil
	}, budget, learned, together, waiting, tokens, flying)
	if err != nil {
		otel.Handle(err)
		return
	}
	runtime.AddCleanup(t, func(r metric.Registration) { handle(r.Unregister()) }, registration)
}

// queues returns who waits by priority, with that of everybody if nobody does.
func queues(k *resilient.KeySnapshot) []resilient.QueueSnapshot {
	if len(k.Queues) == 0 {
		return []resilient.QueueSnapshot{{}}
	}
	return k.Queues
}

// buckets returns the limits that the program has set.
func buckets(k *resilient.KeySnapshot) []resilient.BucketSnapshot {
	all := append(k.Buckets, resilient.BucketSnapshot{Name: "requests", Limit: k.Limit, Tokens: k.Tokens}) //nolint:gocritic // the Snapshot is ours
	return slices.DeleteFunc(all, func(b resilient.BucketSnapshot) bool { return b.Limit == 0 })
}

// handle passes an error of the meter to the error handler of OpenTelemetry.
func handle(err error) {
	if err != nil {
		otel.Handle(err)
	}
}
