// Package cause keeps the errors that belong to a response although the server did
// not send them, such as that of a refresh that failed after a 401. It is how a
// package above a Transport adds to the error of a response that is the base's own.
package cause

import (
	"net/http"

	"github.com/resilienthttp/resilient/internal/noted"
)

var causes noted.Notes[error] //nolint:gochecknoglobals // a response has no field for it

// Attach makes err the cause of resp, in place of another one.
func Attach(resp *http.Response, err error) { causes.Set(resp, err) }

// Of returns the cause of resp, or nil.
func Of(resp *http.Response) error { return causes.Of(resp) }
