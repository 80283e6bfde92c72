// Sdk shows a generated SDK that calls its API through a resilient.Transport. The
// SDK is unchanged, and the parsed error object is available in addition to the
// SDK's results.
//
//	cd examples/sdk && go run .
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/examples/sdk/people"
)

//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config oapi-codegen.yaml people.yaml

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "sdk:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	srv := newServer()
	defer srv.Close()
	client, err := newClient(srv.URL)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()

	for _, show := range []func(context.Context, *people.ClientWithResponses) error{
		showError, showRetry, showTrace,
	} {
		if err := show(ctx, client); err != nil {
			return err
		}
	}
	return nil
}

// newClient returns the SDK's client. Only the Transport is added to it.
func newClient(url string) (*people.ClientWithResponses, error) {
	httpClient := &http.Client{Transport: resilient.NewTransport(nil)}
	return people.NewClientWithResponses(url, people.WithHTTPClient(httpClient))
}

// showError gets an error in two forms: the SDK's own, and the parsed one.
func showError(ctx context.Context, client *people.ClientWithResponses) error {
	fmt.Println("1. An error status, without an error: the SDK fills in the fields of its spec.")
	rsp, err := client.GetPersonWithResponse(ctx, "nobody")
	if err != nil {
		return err
	}
	if rsp.JSON404 == nil {
		return fmt.Errorf("want a 404, got %s", rsp.Status())
	}
	fmt.Printf("   rsp.JSON404        %s: %s\n", rsp.JSON404.Type, rsp.JSON404.Message)

	// The SDK has already read and closed the body. ErrorFromResponse still works,
	// and it works for every operation, regardless of the statuses in its spec.
	apiErr, ok := resilient.ErrorFromResponse(rsp.HTTPResponse)
	if !ok {
		return fmt.Errorf("want an error response, got %s", rsp.Status())
	}
	fmt.Printf("   ErrorFromResponse  %s: %s (kind %q, attempts %d)\n\n",
		apiErr.Type, apiErr.Message, apiErr.Kind, apiErr.Attempts)
	return nil
}

// showRetry gets a person despite a server error.
func showRetry(ctx context.Context, client *people.ClientWithResponses) error {
	fmt.Println("2. A GET that meets 500, then 200: the SDK sees only the 200.")
	person, err := getPerson(ctx, client, "ada")
	if err != nil {
		return err
	}
	fmt.Printf("   got                %s\n\n", person.Name)
	return nil
}

// getPerson shows how a program may wrap the SDK's method. It returns a person, or
// an error that matches resilient.ErrNotFound or another sentinel.
func getPerson(ctx context.Context, client *people.ClientWithResponses, id string) (*people.Person, error) {
	rsp, err := client.GetPersonWithResponse(ctx, id)
	if err != nil {
		return nil, err // no response, or one that does not match the spec
	}
	if apiErr, ok := resilient.ErrorFromResponse(rsp.HTTPResponse); ok {
		return nil, apiErr
	}
	if rsp.JSON200 == nil {
		return nil, fmt.Errorf("unexpected answer: %s, %s", rsp.Status(), rsp.ContentType())
	}
	return rsp.JSON200, nil
}

// showTrace watches a call through the context, which works even with an SDK that
// hides the response.
func showTrace(ctx context.Context, client *people.ClientWithResponses) error {
	fmt.Println("3. A trace in the context: it sees every attempt, even if the SDK hides them.")
	trace := &resilient.Trace{
		AttemptDone: func(a resilient.AttemptInfo) {
			fmt.Printf("   attempt %d          %d, %s\n", a.Attempt, a.StatusCode, a.Verdict.Reason)
			if a.APIError != nil {
				fmt.Printf("                      %v\n", a.APIError)
			}
		},
		Wait: func(w resilient.WaitInfo) {
			fmt.Printf("   wait               %v, %s\n", w.Duration.Round(time.Millisecond), w.Reason)
		},
		Done: func(d resilient.DoneInfo) {
			fmt.Printf("   end                %s, attempts %d\n", d.Reason, d.Attempts)
		},
	}
	ctx = resilient.ContextWithOptions(ctx, resilient.WithTrace(trace))
	rsp, err := client.CreatePersonWithResponse(ctx, people.NewPerson{Name: "Grace Hopper"})
	if err != nil {
		return err
	}
	if rsp.JSON201 == nil {
		return fmt.Errorf("want a 201, got %s", rsp.Status())
	}
	fmt.Printf("   got                %s\n", rsp.JSON201.Name)
	return nil
}
