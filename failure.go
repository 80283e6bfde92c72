package resilient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"reflect"
	"strings"
)

// classifyError is the default verdict on an attempt without a response. Permanent
// errors are listed, by type and, except for one that net/http gives no type, never
// by text. The rest of the network's many errors is taken for temporary, because
// allow-lists of them grow for years and are never complete.
func classifyError(req *http.Request, err error, s sentState) Verdict {
	if s == bodyFailed {
		return Verdict{Reason: ReasonRequestBody}
	}
	if why := permanent(req, err); why != "" {
		return Verdict{Reason: why}
	}
	if s == neverSent {
		return Verdict{Retry: true, Unprocessed: true, Reason: ReasonNeverSent}
	}
	if isType[*attemptTimeoutError](err) {
		return Verdict{Retry: true, Reason: ReasonAttemptTimeout}
	}
	return Verdict{Retry: true, Reason: ReasonNoResponse}
}

// permanent returns why err would come again, or "".
func permanent(req *http.Request, err error) string {
	if isType[*tls.CertificateVerificationError](err) || isType[x509.UnknownAuthorityError](err) ||
		isType[x509.HostnameError](err) || isType[x509.CertificateInvalidError](err) ||
		isType[tls.RecordHeaderError](err) {
		return ReasonTLS
	}
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return ReasonUnknownHost
	}
	if isType[*net.AddrError](err) {
		return ReasonBadAddress
	}
	if errors.Is(err, http.ErrSkipAltProtocol) || errors.Is(err, errNoAnswer) {
		return ReasonBase
	}
	// The context of the attempt is the caller's, which has not ended, so the
	// base is giving up for a reason of its own. (Not so for DeadlineExceeded:
	// a token fetched by a base of oauth2 may have a deadline of its own.)
	if errors.Is(err, context.Canceled) {
		return ReasonBaseCanceled
	}
	if status := statusOf(err); status >= 400 && !classifyStatus(status, kindOf(status)).Retry {
		return ReasonFinalStatus
	}
	// net/http says these with errors that have no type.
	if malformed(req) {
		return ReasonMalformed
	}
	return ""
}

// sentState says how much of a request without a response may have reached the
// server.
type sentState int

const (
	unknown    sentState = iota
	neverSent            // proven: the server got nothing of it
	bodyFailed           // reading its body failed
)

func isType[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// errNoAnswer is a base that returns neither a response nor an error.
var errNoAnswer = errors.New("resilient: the base RoundTripper returned neither a response nor an error")

// statusOf returns the status of the answer that an error of the base tells of,
// such as that of a token server (golang.org/x/oauth2's RetrieveError) or of a
// proxy; 0: it tells of none.
func statusOf(err error) int {
	v := reflect.ValueOf(err)
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return 0 // its methods may panic
		}
		v = v.Elem()
	}
	status := 0
	switch e := err.(type) { //nolint:errorlint // each error of the tree is looked at
	case interface{ StatusCode() int }:
		status = e.StatusCode()
	case interface{ HTTPStatusCode() int }: // github.com/aws/smithy-go
		status = e.HTTPStatusCode()
	}
	if status == 0 && v.Kind() == reflect.Struct {
		status = fieldStatus(v)
	}
	if status != 0 {
		return status
	}
	switch e := err.(type) { //nolint:errorlint // as above
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			return statusOf(inner)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			if status = statusOf(inner); status != 0 {
				return status
			}
		}
	}
	return connectStatus(err)
}

// fieldStatus returns the status of the first exported field of an error that is
// a *http.Response.
func fieldStatus(v reflect.Value) int {
	for field, value := range v.Fields() {
		if !field.IsExported() {
			continue
		}
		if resp, ok := reflect.TypeAssert[*http.Response](value); ok && resp != nil { //nolint:bodyclose // it is not ours to close
			return resp.StatusCode
		}
	}
	return 0
}

// connectStatus returns the status with which a proxy refused a CONNECT. All
// that net/http tells of it is an error without a type, whose text is the
// reason phrase. A phrase that is the proxy's own is not known, so the refusal is
// then taken for temporary like any failure to connect.
func connectStatus(err error) int {
	if reflect.TypeOf(err) != reflect.TypeOf(errNoAnswer) { // both from errors.New
		return 0
	}
	text := err.Error()
	for status := 400; status <= 599; status++ {
		if phrase := http.StatusText(status); phrase != "" && strings.EqualFold(phrase, text) {
			return status
		}
	}
	return 0
}
