package endpoints_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/endpoints"
)

// region runs a server that tells its name, or 503 if it is down.
func region(name string, down bool) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "%s with %q from %s", req.URL.Path, req.Header.Get("Authorization"), name)
	}))
}

// Two regions with a credential each, of which the first is down.
func Example() {
	eu, us := region("eu", true), region("us", false)
	defer eu.Close()
	defer us.Close()

	client := &http.Client{Transport: endpoints.New(
		resilient.NewTransport(nil, resilient.WithAttemptTimeout(5*time.Second)),
		[]endpoints.Endpoint{
			{URL: eu.URL, Header: http.Header{"Authorization": {"Bearer eu-key"}}},
			{URL: us.URL, Header: http.Header{"Authorization": {"Bearer us-key"}}},
		})}
	resp, err := client.Get("https://api.example.com/v1/things")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Printf("%s, err: %v\n", body, err)
	// Output:
	// /v1/things with "Bearer us-key" from us, err: <nil>
}

// The hooks of the Transport below say which endpoints were asked, and why.
func Example_trace() {
	eu, us := region("eu", true), region("us", false)
	defer eu.Close()
	defer us.Close()
	names := map[string]string{eu.URL: "eu", us.URL: "us"}

	trace := &resilient.Trace{Done: func(d resilient.DoneInfo) {
		fmt.Printf("%s: %d (%s), sent %d times before: %q\n",
			names["http://"+d.Request.URL.Host], d.StatusCode, d.Reason, d.Resends, d.ResendReason)
	}}
	client := &http.Client{Transport: endpoints.New(
		resilient.NewTransport(nil, resilient.WithTrace(trace)),
		[]endpoints.Endpoint{{URL: eu.URL}, {URL: us.URL}})}
	resp, err := client.Get("https://api.example.com/v1/things")
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	// Output:
	// eu: 503 (next endpoint), sent 0 times before: ""
	// us: 200 (success), sent 1 times before: "next endpoint"
}
