// Package noted keeps what is known of a response although the response has no field for
// it, as long as the response is in use.
package noted

import (
	"net/http"
	"runtime"
	"sync"
	"weak"
)

// Notes holds a note for each response. Its zero value is ready, and may be used from
// several goroutines at once.
type Notes[V any] struct {
	notes sync.Map // of weak.Pointer[http.Response] to V
}

// Set notes v of resp, in place of an earlier note.
func (n *Notes[V]) Set(resp *http.Response, v V) {
	key := weak.Make(resp)
	if _, again := n.notes.Swap(key, v); again {
		return // it has its cleanup already
	}
	runtime.AddCleanup(resp, func(key weak.Pointer[http.Response]) { n.notes.Delete(key) }, key)
}

// Of returns what was noted of resp, or the zero V.
func (n *Notes[V]) Of(resp *http.Response) V {
	note, _ := n.notes.Load(weak.Make(resp))
	v, _ := note.(V)
	return v
}
