// Package redirect finds the request with which a chain of redirects began.
package redirect

import "net/http"

// First returns the request that http.Client was given, of which req is the last that
// redirects have made of it; req itself if there was none.
func First(req *http.Request) *http.Request {
	for req.Response != nil && req.Response.Request != nil && req.Response.Request.URL != nil {
		req = req.Response.Request
	}
	return req
}
