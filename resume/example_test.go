package resume_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resume"
)

// A download whose connection breaks in the middle. The caller does not notice.
func Example() {
	content := strings.Repeat("0123456789", 10_000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		fmt.Printf("asked for %q if %q\n", req.Header.Get("Range"), req.Header.Get("If-Range"))
		if req.Header.Get("Range") == "" {
			w = &cutting{w, 60_000} // breaks the connection after 60,000 bytes
		}
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(w, req, "data.bin", time.Time{}, strings.NewReader(content))
	}))
	defer server.Close()
	client := &http.Client{Transport: resume.NewTransport(resilient.NewTransport(nil))}

	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	fmt.Println(len(got), "bytes, equal:", string(got) == content, err)
	// Output:
	// asked for "" if ""
	// asked for "bytes=60000-99999" if "\"v1\""
	// 100000 bytes, equal: true <nil>
}
