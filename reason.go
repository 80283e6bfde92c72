package resilient

// Reason says in a word or two why an attempt failed and is or is not retried
// ([Verdict]), why a call ended ([DoneInfo]), or why a request waits ([WaitInfo]). It is an alias of string, because a [Classifier] may give
// reasons of its own; the ones that this package gives are constants, and their
// values do not change.
type Reason = string

// The reasons of a [Verdict].
const (
	ReasonSuccess         Reason = "success"                          // the attempt did not fail
	ReasonRateLimited     Reason = "rate limited"                     // refused for its rate, see KindRateLimit
	ReasonQuota           Reason = "quota used up"                    // refused for good, see KindQuota
	ReasonFinalStatus     Reason = "final status"                     // the same request would be answered alike
	ReasonTemporaryStatus Reason = "temporary status"                 // such as 500
	ReasonUnavailable     Reason = "unavailable until a stated time"  // such as 503 with Retry-After
	ReasonProfile         Reason = "temporary by the profile"         // a Rule says so
	ReasonServerSaid      Reason = "the server said whether to retry" // X-Should-Retry or Stripe-Should-Retry
	ReasonInProgress      Reason = "earlier attempt in progress"      // the idempotency key is that of an earlier attempt
	ReasonExpectation     Reason = "expectation failed"               // 417, sent again without Expect: 100-continue
	ReasonClassifier      Reason = "classifier"                       // a Classifier gave no reason
	ReasonRetriedBelow    Reason = "retried below"                    // another Transport has given up already
	ReasonNeverSent       Reason = "never sent"                       // proven: the server got nothing of it
	ReasonAttemptTimeout  Reason = "attempt timed out"                // WithAttemptTimeout
	ReasonNoResponse      Reason = "no response"                      // the connection was lost, or the like
	ReasonRequestBody     Reason = "request body"                     // reading it failed
	ReasonTLS             Reason = "TLS"                              // the certificate does not verify, or the server speaks no TLS
	ReasonUnknownHost     Reason = "unknown host"                     // DNS does not know it
	ReasonBadAddress      Reason = "bad address"                      // it can be nobody's
	ReasonBase            Reason = "base transport"                   // the base broke its contract, or declined
	ReasonBaseCanceled    Reason = "base transport canceled"          // the base gave up, and the caller did not
	ReasonMalformed       Reason = "malformed request"                // net/http refuses to send it
	ReasonCanceled        Reason = "canceled"                         // the caller's context ended; also of a DoneInfo
)

// The reasons of a [DoneInfo], beside [ReasonSuccess], [ReasonCanceled] and those
// of a Verdict that is final.
const (
	ReasonOutOfAttempts     Reason = "out of attempts"     // WithMaxAttempts is reached
	ReasonNotIdempotent     Reason = "not idempotent"      // the method, and it may have been processed
	ReasonBodyNotReplayable Reason = "body not replayable" // no GetBody, and no WithReplayBuffer or a larger body
	ReasonBodyError         Reason = "body error"          // GetBody returned an error
	ReasonBudget            Reason = "budget"              // the retry budget is used up
	ReasonBackOffStopped    Reason = "backoff stopped"     // the backoff policy returned backoff.Stop
	ReasonMaxWait           Reason = "max wait"            // the wait is longer than WithMaxWait
	ReasonDeadline          Reason = "deadline"            // the wait is longer than the context lasts
	ReasonLimited           Reason = "limited"             // a limiter refused; the error is or wraps a LimitError
)

// The reasons of a [WaitInfo] and of a [LimitError].
const (
	ReasonBackOff    Reason = "backoff"     // the interval of the backoff policy
	ReasonRetryAfter Reason = "retry-after" // the server's hint for this request, and jitter
	ReasonRateLimit  Reason = "rate limit"  // for a token of WithRateLimit, or the pace of WithLearnedRate
	ReasonPause      Reason = "pause"       // the server asked to stay away, or it is being found out what it limits
	ReasonInFlight   Reason = "in flight"   // as many requests are in flight as WithMaxInFlight allows
	ReasonLimiter    Reason = "limiter"     // for the Limiter of WithLimiter
)

// reasonOther counts the reasons of a Classifier for which Totals has no room.
const reasonOther Reason = "other"
