package resilient_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

// TestTransportErrors: an error that is permanent is told by its type and sent
// once. An error that proves that nothing was sent is retried for any method,
// and every other one if the request is idempotent.
func TestTransportErrors(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for _, tt := range []struct {
		name      string
		err       error
		edit      func(*http.Request)
		get, post int
	}{
		{"connection refused", refused, nil, 4, 4},
		{"proxy refused", &net.OpError{Op: "proxyconnect", Err: refused}, nil, 4, 4},
		{"reset", &net.OpError{Op: "read", Err: syscall.ECONNRESET}, nil, 4, 1},
		{"EOF", io.EOF, nil, 4, 1},
		{"unknown", errors.New("http2: client connection lost"), nil, 4, 1},
		{"DNS out of order", &net.OpError{Op: "dial", Err: &net.DNSError{IsTemporary: true}}, nil, 4, 4},
		{"no such host", &net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, nil, 1, 1},
		{"bad address", &net.OpError{Op: "dial", Err: &net.AddrError{}}, nil, 1, 1},
		{"unknown authority", &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, nil, 1, 1},
		{"bare unknown authority", x509.UnknownAuthorityError{}, nil, 1, 1},
		{"wrong host name", x509.HostnameError{Certificate: &x509.Certificate{}}, nil, 1, 1},
		{"expired", x509.CertificateInvalidError{}, nil, 1, 1},
		{"not TLS", tls.RecordHeaderError{}, nil, 1, 1},
		{"skip", http.ErrSkipAltProtocol, nil, 1, 1},
		{"canceled by the base", context.Canceled, nil, 1, 1},
		{"wrapped", &url.Error{Err: refused}, nil, 4, 4},
		{"unknown scheme", io.EOF, func(r *http.Request) { r.URL.Scheme = "ftp" }, 1, 1},
		{"no host", io.EOF, func(r *http.Request) { r.URL.Host = "" }, 1, 1},
		{"a length without a body", io.EOF, func(r *http.Request) { r.ContentLength = 1 }, 1, 1},
		{"bad method", io.EOF, func(r *http.Request) { r.Method = "B D" }, 1, 1},
		{"bad header name", io.EOF, func(r *http.Request) { r.Header["a b"] = nil }, 1, 1},
		{"bad header value", io.EOF, func(r *http.Request) { r.Header.Set("A", "b\nc") }, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, way := range []struct {
					method string
					want   int
				}{{"GET", tt.get}, {"POST", tt.post}} {
					base := newScript(fails(tt.err))
					req := newRequest(t, way.method, "http://api.test/", "")
					if tt.edit != nil {
						tt.edit(req)
					}
					resp, err := resilient.NewTransport(base, unbounded()).RoundTrip(req)
					require.Nil(t, resp)
					require.ErrorIs(t, err, tt.err)
					require.Equal(t, way.want, base.Count(), way.method)
					var retried *resilient.RetryError
					require.Equal(t, way.want > 1, errors.As(err, &retried), "wrapped only after more than one attempt")
				}
			})
		})
	}
}

// TestRealCertificateIsNotRetried: a peer retried an untrusted certificate
// three times when it was used as a RoundTripper, where the error is not inside
// a *url.Error.
func TestRealCertificateIsNotRetried(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	defer srv.Close()
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	var r recorder
	_, err := resilient.NewTransport(base, resilient.WithTrace(r.trace())).
		RoundTrip(newRequest(t, http.MethodGet, srv.URL, ""))
	require.Error(t, err)
	require.Len(t, r.attempts, 1)
	require.Equal(t, "TLS", r.why(t))
}

// statusError is an error that tells the status of an answer.
type statusError int

func (e statusError) Error() string { return "refused" }

func (e statusError) StatusCode() int { return int(e) }

type httpStatusError struct{ status int }

func (e *httpStatusError) Error() string { return "refused" }

func (e *httpStatusError) HTTPStatusCode() int { return e.status }

// retrieveError has the shape of golang.org/x/oauth2's RetrieveError.
type retrieveError struct {
	Response *http.Response
	Body     []byte
}

func (e *retrieveError) Error() string { return "oauth2: cannot fetch token" }

type valueError struct{ Response *http.Response }

func (e valueError) Error() string { return "refused" }

// TestFinalAnswersBelow: a token server's 400 was asked for four times.
func TestFinalAnswersBelow(t *testing.T) {
	response := func(status int) *http.Response { return &http.Response{StatusCode: status} }
	var none *httpStatusError
	for _, tt := range []struct {
		name string
		err  error
		want int
	}{
		{"oauth2, invalid_grant", &retrieveError{Response: response(400)}, 1},
		{"oauth2, wrapped", fmt.Errorf("token: %w", &retrieveError{Response: response(401)}), 1},
		{"in a url.Error", &url.Error{Op: "Post", URL: "http://sts.test", Err: &retrieveError{Response: response(403)}}, 1},
		{"one of several", errors.Join(errors.New("token"), statusError(404)), 1},
		{"a method", statusError(422), 1},
		{"the AWS SDK's method", &httpStatusError{status: 403}, 1},
		{"a value with a response", valueError{response(410)}, 1},
		{"what a server cannot do", statusError(501), 1},
		{"temporary", statusError(503), 4},
		{"temporary, oauth2", &retrieveError{Response: response(500)}, 4},
		{"a token server's limit", &retrieveError{Response: response(429)}, 4},
		{"no error status", statusError(200), 4},
		{"no response", &retrieveError{}, 4},
		{"a nil pointer inside", fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, none), 4},
		{"no status at all", io.EOF, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(fails(tt.err))
				_, err := resilient.NewTransport(base, unbounded()).RoundTrip(get(t))
				require.ErrorIs(t, err, tt.err)
				require.Equal(t, tt.want, base.Count())
				if tt.want == 1 {
					require.Equal(t, tt.err, err, "the base's own error")
				}
			})
		})
	}
}

// TestAProxyThatRefuses: a CONNECT that was answered with 407 was sent four
// times. net/http tells of it with an error that has no type.
func TestAProxyThatRefuses(t *testing.T) {
	for _, tt := range []struct {
		status string
		want   int
		why    string
	}{
		{"407 Proxy Authentication Required", 1, "the credentials for the proxy stay wrong"},
		{"407 proxy authentication required", 1, "a phrase is spelt as the proxy likes"},
		{"403 Forbidden", 1, "the proxy does not allow that host"},
		{"405 Method Not Allowed", 1, "it is no proxy"},
		{"502 Bad Gateway", 4, "the host may be reached later"},
		{"503 Service Unavailable", 4, "as above"},
		{"504 Gateway Timeout", 4, "as above"},
		{"429 Too Many Requests", 4, "the proxy's limit passes"},
		{"499 Our Own Words", 4, "a phrase that nobody knows is a failure to connect, which passes"},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(method+" "+tt.status, func(t *testing.T) {
				asked := 0
				proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					asked++
					if r.Method != http.MethodConnect {
						t.Errorf("%s reached the proxy", r.Method)
					}
					conn, _, err := w.(http.Hijacker).Hijack()
					if err == nil {
						_, _ = io.WriteString(conn, "HTTP/1.1 "+tt.status+"\r\nContent-Length: 0\r\n\r\n")
						_ = conn.Close()
					}
				}))
				defer proxy.Close()
				at, err := url.Parse(proxy.URL)
				require.NoError(t, err)
				base := &http.Transport{Proxy: http.ProxyURL(at)}
				_, want := base.RoundTrip(newRequest(t, method, "https://api.test/", ""))
				require.Error(t, want)
				asked = 0
				_, err = resilient.NewTransport(base, every(0), unbounded()).RoundTrip(newRequest(t, method, "https://api.test/", ""))
				require.Equal(t, tt.want, asked, tt.why)
				if tt.want == 1 {
					require.Equal(t, want, err, "the base's own error")
				}
			})
		}
	}
}
