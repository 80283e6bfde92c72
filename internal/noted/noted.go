// Package noted keeps what is known of a response although the response has no field for
// it, as long as the response is in use.
package noted

import (
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"weak"
)

// Notes holds a note for each response. Its zero value is ready, and may be used from
// several goroutines at once.
type Notes[V any] struct {
	n     atomic.Int64 // of notes: at 0, Of need not look
	notes sync.Map     // of weak.Pointer[http.Response] to V
}

// Set notes v of resp, in place of an earlier note.
func (n *Notes[V]) Set(resp *http.Response, v V) {
	key := weak.Make(resp)
	n.n.Add(1)
	if _, again := n.notes.Swap(key, v); again {
		n.n.Add(-1)
		return // it has its cleanup already
	}
	runtime.AddCleanup(resp, func(key weak.Pointer[http.Response]) {
		n.notes.Delete(key)
		n.n.Add(-1)
	}, key)
}

// Of returns what was noted of resp, or the zero V.
func (n *Notes[V]) Of(resp *http.Response) V {
	if n.n.Load() == 0 {
		var none V
		return none
	}
	note, _ := n.notes.Load(weak.Make(resp))
	v, _ := note.(V)
	return v
}
