package usual

import (
	"strings"
	"sync"
	"time"

	"github.com/resilienthttp/resilient/internal/lru"
)

const maxKeys = 1024 // remembered; each takes 3 KiB

// Key names what shares a delay and a budget.
type Key struct{ Scheme, Host string }

// Keys has the Calls of the keys used last. Its zero value is ready, and may be used from
// several goroutines at once.
type Keys struct {
	mu    sync.Mutex
	calls lru.Table[Key, *Calls]
}

// Calls returns what is known of a key. At first that is what New returns.
func (t *Keys) Calls(k Key, share float64, delay time.Duration) *Calls {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.calls.Get(k)
	if !ok {
		c = New(share, delay)
		t.calls.Size, t.calls.Limit, t.calls.Idle = maxKeys, maxKeys, func(*Calls) bool { return true }
		// The strings may be parts of a longer one, a URL with its query.
		t.calls.Add(Key{strings.Clone(k.Scheme), strings.Clone(k.Host)}, c)
	}
	return c
}
