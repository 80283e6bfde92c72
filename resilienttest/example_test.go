package resilienttest_test

import (
	"fmt"
	"net/http"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

// An API that is down, then asks for patience, then answers. The waits are kept
// short, as an example cannot run in a bubble of testing/synctest; a test can,
// and takes no time whatever they are.
func Example() {
	script := resilienttest.New(
		resilienttest.Status(503),
		resilienttest.Status(429, "Retry-After-Ms", "20"),
		resilienttest.Answer{Body: `{"count":42}`},
	)
	transport := resilient.NewTransport(script, resilient.WithBackOff(resilienttest.NoJitter))

	resp, err := (&http.Client{Transport: transport}).Get("http://api.test/v1/people")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println("status", resp.StatusCode)
	for _, attempt := range script.Attempts() {
		fmt.Println(attempt.Method, attempt.URL)
	}
	fmt.Println("waited as asked:", script.Waits()[1] >= 20*time.Millisecond)
	// Output:
	// status 200
	// GET http://api.test/v1/people
	// GET http://api.test/v1/people
	// GET http://api.test/v1/people
	// waited as asked: true
}
