package reauth_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/reauth"
)

// A client that sets no credential itself. The first request gets one.
func Example() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		fmt.Printf("%s with %q\n", req.URL.Path, req.Header.Get("Authorization"))
		if req.Header.Get("Authorization") != "Bearer secret" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer server.Close()

	refresh := func(context.Context, *http.Request) (http.Header, error) {
		return http.Header{"Authorization": {"Bearer secret"}}, nil
	}
	client := &http.Client{Transport: reauth.New(resilient.NewTransport(nil), refresh)}
	for _, path := range []string{"/first", "/second"} {
		resp, err := client.Get(server.URL + path)
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
		fmt.Println(resp.Status)
	}
	// Output:
	// /first with ""
	// /first with "Bearer secret"
	// 200 OK
	// /second with "Bearer secret"
	// 200 OK
}

// The error of a refresh that failed is in that of the response.
func Example_error() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer server.Close()

	errRevoked := errors.New("the refresh token was revoked")
	refresh := func(context.Context, *http.Request) (http.Header, error) { return nil, errRevoked }
	client := &http.Client{Transport: reauth.New(resilient.NewTransport(nil), refresh)}
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	if apiErr, ok := resilient.ErrorFromResponse(resp); ok {
		fmt.Println(apiErr)
		fmt.Println(errors.Is(apiErr, errRevoked), errors.Is(apiErr, resilient.ErrAuthentication))
	}
	// Output:
	// resilient: status 401; reauth: refresh failed: the refresh token was revoked
	// true true
}

// now is the clock of Example_signer.
var now = time.Date(2026, time.November, 30, 12, 0, 0, 0, time.UTC)

// signing signs every attempt with the date.
type signing struct{ base http.RoundTripper }

func (s signing) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("X-Amz-Date", now.Format(time.TimeOnly))
	return s.base.RoundTrip(req)
}

// A transport that signs stands below the one that retries, so the signature of an attempt
// that had to wait is fresh.
func Example_signer() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		fmt.Println("signed at", req.Header.Get("X-Amz-Date"))
		if now.Second() == 0 {
			now = now.Add(30 * time.Second) // in place of the wait
			w.Header().Set("Retry-After-Ms", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()

	refresh := func(context.Context, *http.Request) (http.Header, error) {
		return nil, errors.New("the key was revoked")
	}
	client := &http.Client{Transport: reauth.New(resilient.NewTransport(signing{http.DefaultTransport}), refresh)}
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	fmt.Println(resp.Status)
	// Output:
	// signed at 12:00:00
	// signed at 12:00:30
	// 200 OK
}
