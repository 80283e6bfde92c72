package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	smithymiddleware "github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// pollInterval is shorter than the time between two tokens in the scenarios, for
// which AdaptiveMode waits.
const pollInterval = 5 * time.Millisecond

const awsModule = "github.com/aws/aws-sdk-go-v2"

func awsStandard() peer {
	return peer{
		name:   "aws standard",
		module: awsModule,
		cannot: "ignores Retry-After; at least 1 s after a 429; gives up when its quota is used up, even by 429s",
		client: func(base http.RoundTripper, cfg config) doer {
			return awsLoop(base, retry.NewStandard(awsOptions(cfg)))
		},
	}
}

func awsAdaptive() peer {
	return peer{
		name:   "aws adaptive",
		module: awsModule,
		cannot: "as aws standard; waits without bound for its learned rate",
		client: func(base http.RoundTripper, cfg config) doer {
			return awsLoop(base, polling{turn: make(chan struct{}, 1), AdaptiveMode: retry.NewAdaptiveMode(func(o *retry.AdaptiveModeOptions) {
				o.StandardOptions = append(o.StandardOptions, awsOptions(cfg))
				o.FailOnNoAttemptTokens = true // see polling
			})})
		},
	}
}

func awsOptions(cfg config) func(*retry.StandardOptions) {
	return func(o *retry.StandardOptions) {
		o.MaxAttempts = cfg.attempts
		o.BaseDelay = cfg.backoff
		if cfg.noBudget {
			o.RateLimiter = ratelimit.None
		}
	}
}

// polling asks for a token every pollInterval. AdaptiveMode itself cuts its wait to
// whole nanoseconds, in the end to 0, and virtual time does not pass during such a
// wait. One caller polls at a time: in scenario g thousands wait.
type polling struct {
	*retry.AdaptiveMode
	turn chan struct{}
}

func (p polling) GetAttemptToken(ctx context.Context) (func(error) error, error) {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for {
		release, err := p.AdaptiveMode.GetAttemptToken(ctx)
		if err == nil {
			return release, nil
		}
		if err := sleepUntil(ctx, time.Now().Add(pollInterval)); err != nil {
			return nil, err
		}
	}
}

// awsLoop runs the SDK's own attempt middleware over the base. The middleware gets an
// error for each error status.
func awsLoop(base http.RoundTripper, retryer aws.RetryerV2) doer {
	attempts := retry.NewAttemptMiddleware(retryer, func(req any) any { return req })
	return func(req *http.Request) (*http.Response, error) {
		s := &awsSender{base: base, req: req}
		_, _, err := attempts.HandleFinalize(req.Context(), smithymiddleware.FinalizeInput{Request: req}, s)
		if s.resp != nil {
			return s.resp, nil
		}
		return nil, err
	}
}

// awsSender sends the attempts of the middleware.
type awsSender struct {
	base http.RoundTripper
	req  *http.Request
	sent bool
	resp *http.Response // of the last attempt, nil if it had none
}

func (s *awsSender) HandleFinalize(context.Context, smithymiddleware.FinalizeInput) (
	out smithymiddleware.FinalizeOutput, md smithymiddleware.Metadata, err error,
) {
	if s.resp != nil {
		discard(s.resp)
		s.resp = nil
	}
	if s.sent && s.req.GetBody != nil {
		if s.req.Body, err = s.req.GetBody(); err != nil {
			return out, md, err
		}
	}
	s.sent = true
	resp, err := s.base.RoundTrip(s.req) //nolint:bodyclose // the next attempt or the caller closes it
	if err != nil {
		return out, md, &smithyhttp.RequestSendError{Err: err}
	}
	s.resp = resp
	if resp.StatusCode >= 400 {
		return out, md, &smithyhttp.ResponseError{
			Response: &smithyhttp.Response{Response: resp},
			Err:      errors.New(resp.Status),
		}
	}
	return out, md, nil
}
