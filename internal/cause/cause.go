// Package cause keeps the errors that belong to a response although the server did
// not send them, such as that of a refresh that failed after a 401. It is how a
// package above a Transport adds to the error of a response that is the base's own.
package cause

import (
	"net/http"
	"runtime"
	"sync"
	"weak"
)

// causes holds the errors as long as their responses are in use.
var causes sync.Map //nolint:gochecknoglobals // a response has no field for it; of weak.Pointer[http.Response] to error

// Attach makes err the cause of resp, in place of another one.
func Attach(resp *http.Response, err error) {
	key := weak.Make(resp)
	if _, again := causes.Swap(key, err); again {
		return // it has its cleanup already
	}
	runtime.AddCleanup(resp, func(key weak.Pointer[http.Response]) { causes.Delete(key) }, key)
}

// Of returns the cause of resp, or nil.
func Of(resp *http.Response) error {
	err, _ := causes.Load(weak.Make(resp))
	cause, _ := err.(error)
	return cause
}
