package debugpage_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/debugpage"
)

var firstLimit = regexp.MustCompile(`(?s)<td class="limits" data-name="limits"><ul><li>(.*?)</li>`)

// shop is a server that refuses the requests that its function does not accept. The
// others take about 20 ms.
type shop func(*http.Request) (accepted bool, release func())

func (s shop) RoundTrip(req *http.Request) (*http.Response, error) {
	accepted, release := s(req)
	took, status := 5*time.Millisecond, http.StatusTooManyRequests
	if accepted {
		took, status = time.Duration(rand.ExpFloat64()*20)*time.Millisecond, http.StatusOK //nolint:gosec // no secret
	}
	defer release()
	timer := time.NewTimer(took)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
	return &http.Response{
		StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Header: http.Header{}, Body: io.NopCloser(strings.NewReader("")),
	}, nil
}

type limitTest struct {
	name  string
	shop  shop
	opts  []resilient.Option
	users int
	think time.Duration // of a worker
	row   string        // of the table of keys
	slow  string        // the sentence of a slow call
}

// A stranger learns from the page which limit held a slow call back, and why it is
// believed to be there.
func TestLimits(t *testing.T) {
	none := func() {}
	search := func() shop {
		bucket := rate.NewLimiter(5, 2)
		return func(req *http.Request) (bool, func()) {
			return req.URL.Path != "/v1/search" || bucket.Allow(), none
		}
	}
	flight := func() shop {
		var mu sync.Mutex
		n := 0
		return func(*http.Request) (bool, func()) {
			mu.Lock()
			defer mu.Unlock()
			if n >= 8 {
				return false, none
			}
			n++
			return true, func() {
				mu.Lock()
				defer mu.Unlock()
				n--
			}
		}
	}
	chance := func() shop {
		var mu sync.Mutex
		random := rand.New(rand.NewPCG(3, 4))
		return func(*http.Request) (bool, func()) {
			mu.Lock()
			defer mu.Unlock()
			return random.IntN(3) > 0, none
		}
	}
	for _, tt := range []limitTest{
		{
			name: "one route", shop: search(), users: 1, think: 10 * time.Millisecond,
			row: `^[45](\.\d+)?/s GET /v1/search \d+ of \d+ refused, confirmed \d.* ago, for \d.*$`,
			slow: `waited \d+\.\d s because the server lets about [45](\.\d+)? a second through to GET /v1/search ` +
				`\(rate limit: \d+ of \d+ attempts were refused, and a trial confirmed the limit \d.* before\), attempt \d got 200`,
		},
		{
			name: "in tokens", shop: search(), users: 1, think: 10 * time.Millisecond,
			opts: []resilient.Option{resilient.WithLimit("tokens", rate.Inf, 0, func(*http.Request) float64 { return 1000 })},
			row:  `^[4-6],\d\d\d tokens/s GET /v1/search `,
			slow: `because the server lets about [4-6],\d\d\d tokens a second through to GET /v1/search \(rate limit: `,
		},
		{
			name: "in flight", shop: flight(), users: 1,
			row:  `^[789] in flight (GET /v1/items )?[\d,]+ of [\d,]+ refused, `,
			slow: `because the server takes \d+ requests at one time( to GET /v1/items)? \(rate limit: [\d,]+ of [\d,]+ attempts were refused`,
		},
		{
			name: "chance", shop: chance(), users: 1, think: 10 * time.Millisecond,
			row: `^no limit, \d+ % refused by chance for \d.*$`,
		},
		{
			name: "two accounts", shop: search(), users: 2, think: 10 * time.Millisecond,
			row:  `^\d(\.\d+)?/s (GET /v1/search )?`,
			slow: `waited \d+\.\d s for its turn at a limit of its key \(rate limit\)`,
		},
		{
			name: "a key of the program", shop: search(), users: 1, think: 10 * time.Millisecond,
			opts: []resilient.Option{resilient.WithLimitKey(func(req *http.Request) string { return req.URL.Path })},
			row:  `^[45](\.\d+)?/s \d+ of \d+ refused`,
			slow: `because the server lets about [45](\.\d+)? a second through \(rate limit: \d+ of \d+ attempts were refused, and`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			row, slow := regexp.MustCompile(tt.row), regexp.MustCompile(tt.slow)
			var shown, why string
			look := func(h http.Handler) bool {
				page := body(t, get(t, h, ""))
				requireWellFormed(t, page)
				if first := firstLimit.FindStringSubmatch(page); first != nil {
					shown = text(first[1])
				}
				why = strings.Join(said(t, h, ""), "\n")
				return row.MatchString(shown) && slow.MatchString(why)
			}
			// This is about the words. How soon a limit is found differs from time to
			// time, and is the matter of other tests.
			for range 5 {
				found := false
				synctest.Test(t, func(t *testing.T) { found = tt.load(t, look) })
				if found {
					return
				}
			}
			require.Fail(t, "not found", "%s\n%s", shown, why)
		})
	}
}

// load sends requests for up to a minute, until look finds what it looks for on the
// page.
func (tt *limitTest) load(t *testing.T, look func(http.Handler) bool) bool {
	t.Helper()
	transport := resilient.NewTransport(tt.shop, tt.opts...)
	h := debugpage.Handler(transport)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	begun := time.Now()
	for i := range 32 {
		wg.Go(func() {
			for ctx.Err() == nil {
				path := "/v1/items"
				if tt.think > 0 && i%2 == 0 && time.Since(begun) > time.Second+time.Duration(i)*20*time.Millisecond {
					path = "/v1/search"
				}
				req := newRequest(t, http.MethodGet, "https://api.example.com"+path).WithContext(ctx)
				req.Header.Set("Authorization", fmt.Sprint("Bearer ", i/2%tt.users))
				send(transport, req)
				time.Sleep(tt.think)
			}
		})
	}
	for range 12 {
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if look(h) {
			return true
		}
	}
	return false
}

// The page says what a call waits for while it waits.
func TestHeldNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := resilient.NewTransport(shop(func(*http.Request) (bool, func()) { return true, func() {} }), resilient.WithRateLimit(0.2, 1))
		h := debugpage.Handler(transport)
		send(transport, newRequest(t, http.MethodGet, people))
		done := make(chan struct{})
		go func() {
			defer close(done)
			send(transport, newRequest(t, "", people))
		}()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		for _, query := range []string{"", "?call=2"} {
			require.Regexp(t, `^So far 3\.0 s: has waited 3\.0 s of [45]\.\d s because WithRateLimit allows 0\.2 a second \(rate limit\)\.$`, said(t, h, query)[0])
		}
		<-done
	})
}
