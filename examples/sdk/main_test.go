package main

import (
	"errors"
	"net/http"
	"testing"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/examples/sdk/people"
)

func TestErrorReachesCallerTwice(t *testing.T) {
	client := startClient(t)
	rsp, err := client.GetPersonWithResponse(t.Context(), "nobody")
	if err != nil {
		t.Fatal(err)
	}

	const kind, message = "NOT_FOUND_ERROR", "There is no such person."
	if e := rsp.JSON404; e == nil || e.Code != "404" || e.Type != kind || e.Message != message {
		t.Errorf("JSON404 = %+v", e)
	}
	apiErr, ok := resilient.ErrorFromResponse(rsp.HTTPResponse)
	if !ok {
		t.Fatal("ErrorFromResponse found no error")
	}
	if apiErr.StatusCode != http.StatusNotFound || apiErr.Code != "404" || apiErr.Type != kind || apiErr.Message != message {
		t.Errorf("ErrorFromResponse = %+v", apiErr)
	}
	if apiErr.Attempts != 1 {
		t.Errorf("Attempts = %d, want 1", apiErr.Attempts)
	}
	if !errors.Is(apiErr, resilient.ErrNotFound) {
		t.Errorf("%v does not match ErrNotFound", apiErr)
	}
}

func TestInvalidParamsReachCaller(t *testing.T) {
	client := startClient(t)
	rsp, err := client.CreatePersonWithResponse(t.Context(), people.NewPerson{})
	if err != nil {
		t.Fatal(err)
	}
	if rsp.JSON400 == nil || rsp.JSON400.Invalid == nil {
		t.Fatalf("JSON400 = %+v", rsp.JSON400)
	}
	apiErr, _ := resilient.ErrorFromResponse(rsp.HTTPResponse)
	want := resilient.InvalidParam{Name: "name", Reason: "Name is required."}
	if apiErr == nil || len(apiErr.Invalid) != 1 || apiErr.Invalid[0] != want {
		t.Fatalf("ErrorFromResponse = %+v", apiErr)
	}
	if apiErr.Attempts != 2 {
		t.Errorf("Attempts = %d, want 2: the first was rate limited", apiErr.Attempts)
	}
}

func TestRetryIsInvisibleToSDK(t *testing.T) {
	client := startClient(t)
	var done resilient.DoneInfo
	var first *resilient.APIError
	ctx := resilient.ContextWithOptions(t.Context(), resilient.WithTrace(&resilient.Trace{
		AttemptDone: func(a resilient.AttemptInfo) {
			if a.Attempt == 1 {
				first = a.APIError
			}
		},
		Done: func(d resilient.DoneInfo) { done = d },
	}))

	person, err := getPerson(ctx, client, "ada")
	if err != nil {
		t.Fatal(err)
	}
	if person.Name != "Ada Lovelace" {
		t.Errorf("Name = %q", person.Name)
	}
	if done.Attempts != 2 || done.StatusCode != http.StatusOK || done.Reason != "success" {
		t.Errorf("Done = %+v, want success after 2 attempts", done)
	}
	if first == nil || first.Type != "SERVER_ERROR" || !errors.Is(first, resilient.ErrServer) {
		t.Errorf("first attempt = %+v, want a SERVER_ERROR", first)
	}
}

func TestGetPersonReturnsAPIError(t *testing.T) {
	_, err := getPerson(t.Context(), startClient(t), "nobody")
	if !errors.Is(err, resilient.ErrNotFound) {
		t.Errorf("err = %v, want ErrNotFound", err)
	}
}

func TestRun(t *testing.T) {
	if err := run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func startClient(t *testing.T) *people.ClientWithResponses {
	t.Helper()
	srv := newServer()
	t.Cleanup(srv.Close)
	client, err := newClient(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return client
}
