package sdktest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/ogen-go/ogen/validate"

	"github.com/resilienthttp/resilient/examples/sdk/people"
	"github.com/resilienthttp/resilient/internal/sdktest/ogenpeople"
)

// Both clients are generated from the same specification, which does not list
// 503.
const person = `{"id":"ada","name":"` + value + `"}`

func TestOapiCodegen(t *testing.T) {
	connect := func(at endpoint) *people.ClientWithResponses {
		c, err := people.NewClientWithResponses(at.url, people.WithHTTPClient(at.client()))
		if err != nil {
			panic(err) // the URL of the test's server is valid
		}
		return c
	}
	sdk{
		ok: answer(200, person),
		call: func(ctx context.Context, at endpoint) result {
			rsp, err := connect(at).GetPersonWithResponse(ctx, "ada")
			if err != nil {
				return result{err: err}
			}
			if rsp.JSON200 != nil {
				return result{value: rsp.JSON200.Name}
			}
			got := result{resp: rsp.HTTPResponse}
			for status, object := range map[int]*people.Error{
				400: rsp.JSON400, 404: rsp.JSON404, 429: rsp.JSON429, 500: rsp.JSON500,
			} {
				if object != nil && object.Message == errorMessage {
					got.status = status
				}
			}
			if rsp.StatusCode() == 503 {
				got.status = 503 // the SDK has only the status
			}
			return got
		},
		response: true,
	}.check(t)
}

func TestOgen(t *testing.T) {
	connect := func(at endpoint) *ogenpeople.Client {
		c, err := ogenpeople.NewClient(at.url, ogenpeople.WithClient(at.client()))
		if err != nil {
			panic(err) // the URL of the test's server is valid
		}
		return c
	}
	sdk{
		ok: answer(200, person),
		call: func(ctx context.Context, at endpoint) result {
			res, err := connect(at).GetPerson(ctx, ogenpeople.GetPersonParams{ID: "ada"})
			got := result{err: err}
			switch res := res.(type) {
			case *ogenpeople.Person:
				got.value = res.Name
			case *ogenpeople.GetPersonBadRequest:
				got.status = 400
			case *ogenpeople.GetPersonNotFound:
				got.status = 404
			case *ogenpeople.GetPersonTooManyRequests:
				got.status = 429
			case *ogenpeople.GetPersonInternalServerError:
				got.status = 500
			}
			if e, ok := errors.AsType[*validate.UnexpectedStatusCodeError](err); ok {
				got.status = e.StatusCode // it has the response, but only for statuses that are not in the specification
			}
			return got
		},
	}.check(t)
}
