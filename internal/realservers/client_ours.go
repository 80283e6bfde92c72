package main

import (
	"net/http"

	"github.com/resilienthttp/resilient"
)

// oursName begins the rows that are compared with the others.
const oursName = "resilient"

func ours() client {
	return client{oursName, func(base http.RoundTripper) doer {
		return resilient.NewTransport(base).RoundTrip
	}}
}
