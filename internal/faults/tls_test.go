package faults_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

// authority is a certificate authority made for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB) *authority {
	tb.Helper()
	a := &authority{cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	der, key := a.sign(tb, a.cert)
	var err error
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(tb, err)
	a.key = key
	return a
}

// sign returns a certificate of template and its new key. The first certificate that
// an authority signs is its own.
func (a *authority) sign(tb testing.TB, template *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(tb, err)
	signer := a.key
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, signer)
	require.NoError(tb, err)
	return der, key
}

// issue returns a server's certificate for 127.0.0.1, after edit.
func (a *authority) issue(tb testing.TB, edit func(*x509.Certificate)) tls.Certificate {
	tb.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if edit != nil {
		edit(template)
	}
	der, key := a.sign(tb, template)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// trusted returns a base that trusts a.
func (a *authority) trusted(tb testing.TB) *http.Transport {
	tb.Helper()
	base := newBase(tb)
	base.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	base.TLSClientConfig.RootCAs.AddCert(a.cert)
	return base
}

// TestTLSPeerIsNotTrusted tests a server with an invalid certificate. A retry would
// not help, so there is one handshake, and no request.
func TestTLSPeerIsNotTrusted(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*x509.Certificate)
		by   string // the signer, if it is not the trusted authority
		as   any    // the error, which is available to the caller
	}{
		{name: "foreign authority", by: "foreign", as: new(x509.UnknownAuthorityError)},
		{name: "self-signed", by: "self", as: new(x509.UnknownAuthorityError)},
		{name: "expired", as: new(x509.CertificateInvalidError), edit: func(c *x509.Certificate) {
			c.NotAfter = time.Now().Add(-time.Minute)
		}},
		{name: "not yet valid", as: new(x509.CertificateInvalidError), edit: func(c *x509.Certificate) {
			c.NotBefore = time.Now().Add(time.Minute)
		}},
		{name: "of another host", as: new(x509.HostnameError), edit: func(c *x509.Certificate) {
			c.IPAddresses, c.DNSNames = nil, []string{"else.test"}
		}},
		{name: "for clients", as: new(x509.CertificateInvalidError), edit: func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				t.Run(method, func(t *testing.T) {
					leaveNothing(t)
					trusted := newAuthority(t)
					signer := trusted
					switch tt.by {
					case "foreign":
						signer = newAuthority(t)
					case "self":
						signer = &authority{cert: &x509.Certificate{
							SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "server"},
						}}
					}
					var handshakes, requests atomic.Int32
					srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
					srv.Config.ErrorLog = quiet
					srv.TLS = &tls.Config{
						Certificates: []tls.Certificate{signer.issue(t, tt.edit)},
						GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
							handshakes.Add(1)
							return nil, nil // uses this configuration
						},
					}
					srv.StartTLS()
					t.Cleanup(srv.Close)

					got := call(newTransport(trusted.trusted(t)), newRequest(t, method, srv.URL))

					require.ErrorAs(t, got.err, tt.as)
					require.False(t, isRetryError(got.err), "one attempt, the base's own error")
					require.Equal(t, int32(1), handshakes.Load())
					require.Zero(t, requests.Load())
				})
			}
		})
	}
}

// TestTLSHandshake tests a peer with which the handshake fails.
func TestTLSHandshake(t *testing.T) {
	for _, tt := range []struct {
		name   string
		why    string
		answer func(*net.TCPConn)
		dials  int32 // for any method, because no part of the request was written
		as     any
	}{
		{
			name: "plain HTTP", why: "http.Client makes ErrSchemeMismatch of the bare error; it stays plain",
			answer: func(c *net.TCPConn) { _, _ = io.WriteString(c, "HTTP/1.0 400 Bad Request\r\n\r\n") },
			dials:  1, as: new(tls.RecordHeaderError),
		},
		{
			name: "garbage", why: "it is no TLS",
			answer: func(c *net.TCPConn) { _, _ = io.WriteString(c, "\x00\xff\x1b[2J and so on") },
			dials:  1, as: new(tls.RecordHeaderError),
		},
		{
			name: "reset", why: "a server that restarts, provably before the request",
			answer: func(c *net.TCPConn) { _ = c.SetLinger(0) },
			dials:  3, as: new(*net.OpError),
		},
		{
			name: "closed", why: "likewise",
			answer: func(*net.TCPConn) {},
			dials:  3,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				t.Run(method, func(t *testing.T) {
					leaveNothing(t)
					var dials atomic.Int32
					l := listen(t)
					done := make(chan struct{})
					t.Cleanup(func() { _ = l.Close(); <-done })
					go func() {
						defer close(done)
						for c, err := l.Accept(); err == nil; c, err = l.Accept() {
							dials.Add(1)
							_ = c.SetDeadline(time.Now().Add(patience))
							_, _ = c.Read(make([]byte, 4096)) // of the client's hello
							tt.answer(c.(*net.TCPConn))
							_ = c.Close()
						}
					}()

					got := call(newTransport(newAuthority(t).trusted(t)), newRequest(t, method, "https://"+l.Addr().String()))

					require.Error(t, got.err)
					if tt.as != nil {
						require.ErrorAs(t, got.err, tt.as)
					}
					require.Equal(t, tt.dials > 1, isRetryError(got.err))
					require.Equal(t, tt.dials, dials.Load())
				})
			}
		})
	}
}

// TestTLSClientCertificateMissing tests a server that requires a client certificate.
// With TLS 1.3 a client learns of this after it has sent its request.
func TestTLSClientCertificateMissing(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			leaveNothing(t)
			ca := newAuthority(t)
			var requests atomic.Int32
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
			srv.Config.ErrorLog = quiet
			srv.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil)}, ClientAuth: tls.RequireAnyClientCert}
			srv.StartTLS()
			t.Cleanup(srv.Close)

			got := call(newTransport(ca.trusted(t)), newRequest(t, method, srv.URL))

			require.Error(t, got.err)
			require.Less(t, got.took, patience/2)
			require.Zero(t, requests.Load())
		})
	}
}

func isRetryError(err error) bool {
	_, ok := errors.AsType[*resilient.RetryError](err)
	return ok
}
