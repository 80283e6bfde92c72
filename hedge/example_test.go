package hedge_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/hedge"
)

// A server of which one answer never comes. The caller does not notice. The delay is given
// here, because it takes some calls to learn one.
func Example() {
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		n := requests.Add(1)
		if n == 1 {
			<-req.Context().Done() // until the request is canceled
			return
		}
		fmt.Fprintf(w, "answer to request %d", n)
	}))
	defer server.Close()
	transport := hedge.New(resilient.NewTransport(nil), hedge.WithDelay(20*time.Millisecond))
	client := &http.Client{Transport: transport}

	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(string(body))
	fmt.Printf("%+v\n", transport.Stats())
	// Output:
	// answer to request 2
	// {Hedged:1 Won:1}
}
