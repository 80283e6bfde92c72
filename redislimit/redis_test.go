//go:build unix

package redislimit_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient/internal/bucket"
	"github.com/resilienthttp/resilient/redislimit"
	"github.com/resilienthttp/resilient/redislimit/internal/redistest"
)

// requireRedis is an environment variable. If it is 1, a missing redis-server is a
// failure.
const requireRedis = "RESILIENT_REQUIRE_REDIS"

func TestMain(m *testing.M) {
	code := m.Run()
	if len(skipped) > 0 {
		fmt.Fprintf(os.Stderr, "redislimit: SKIPPED, for want of a redis-server on PATH: %s\n", strings.Join(skipped, ", "))
		if os.Getenv(requireRedis) == "1" {
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

var skipped []string // tests in this file do not run in parallel

// startRedis starts a redis-server for a test, which is skipped if there is none.
func startRedis(t *testing.T, args ...string) *redistest.Server {
	t.Helper()
	s, err := redistest.Start(t.TempDir(), args...)
	if errors.Is(err, redistest.ErrNotInstalled) {
		if os.Getenv(requireRedis) == "1" {
			t.Fatal(err)
		}
		skipped = append(skipped, t.Name())
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(s.Stop)
	return s
}

func options(addr string) *redis.Options {
	return &redis.Options{Addr: addr, ContextTimeoutEnabled: true, MaxRetries: -1}
}

func newClient(t *testing.T, o *redis.Options) *redis.Client {
	t.Helper()
	c := redis.NewClient(o)
	t.Cleanup(func() { c.Close() })
	return c
}

// load lets goroutines wait for a limiter, again and again, until stop is called.
// stop returns the times at which they went.
func load(t *testing.T, l *redislimit.Limiter, goroutines int) (stop func() []time.Time) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var went []time.Time
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := l.Wait(ctx); err != nil {
					<-time.NewTimer(10 * time.Millisecond).C
					continue
				}
				mu.Lock()
				went = append(went, time.Now())
				mu.Unlock()
			}
		})
	}
	return func() []time.Time {
		cancel()
		wg.Wait()
		return went
	}
}

// patient is for tests in which Redis must answer, even on a busy machine.
var patient = redislimit.WithTimeout(5 * time.Second)

// promptly checks that a call of f takes less than d. A busy machine may delay it,
// so the best of three calls counts.
func promptly(t *testing.T, d time.Duration, f func()) {
	t.Helper()
	var took time.Duration
	for range 3 {
		start := time.Now()
		f()
		if took = time.Since(start); took < d {
			return
		}
	}
	t.Fatalf("it took %v, three times over %v", took, d)
}

// most returns the largest number that went in one second.
func most(went []time.Time) int {
	slices.SortFunc(went, time.Time.Compare)
	n, first := 0, 0
	for i, at := range went {
		for at.Sub(went[first]) >= time.Second {
			first++
		}
		n = max(n, i-first+1)
	}
	return n
}

// recovers waits until Redis is used again.
func recovers(t *testing.T, l *redislimit.Limiter) {
	t.Helper()
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return l.Wait(ctx) == nil && l.Stats().Err == nil
	}, 20*time.Second, 10*time.Millisecond)
}

func TestRealFleet(t *testing.T) {
	s := startRedis(t)
	var stops []func() []time.Time
	for range 4 {
		stops = append(stops, load(t, redislimit.New(newClient(t, options(s.Addr)), "k", 200, 20, patient), 16))
	}
	<-time.NewTimer(3 * time.Second).C
	var went []time.Time
	for _, stop := range stops {
		went = append(went, stop()...)
	}
	slices.SortFunc(went, time.Time.Compare)
	whole := 20 + 200*went[len(went)-1].Sub(went[0]).Seconds()
	require.LessOrEqual(t, float64(len(went)), whole+20, "never more than the limit, but for a stall")
	require.GreaterOrEqual(t, float64(len(went)), 0.5*whole, "a busy machine may be slower")
	require.LessOrEqual(t, most(went), 200+2*20)
}

func TestRealLearns(t *testing.T) {
	s := startRedis(t)
	api := newLimitedAPI(100, 10)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log, _ := logger()
	var wg sync.WaitGroup
	var fleet []*redislimit.Limiter
	for range 4 {
		l := redislimit.New(newClient(t, options(s.Addr)), "k", 400, 10, patient, redislimit.WithLogger(log))
		fleet = append(fleet, l)
		work(ctx, &wg, api, l, 8)
	}
	<-time.NewTimer(3 * time.Second).C
	start := time.Now()
	<-time.NewTimer(2 * time.Second).C
	accepted, refused := api.between(start, time.Now())
	for _, l := range fleet {
		require.InDelta(t, 100, l.Stats().LearnedLimit, 50)
	}
	cancel()
	wg.Wait()
	require.GreaterOrEqual(t, accepted, 0.5*200, "a busy machine may be slower")
	require.LessOrEqual(t, refused, 0.2*accepted, "of 400 a second, 300 would be")
}

func TestRealRefusalsByChance(t *testing.T) {
	s := startRedis(t)
	api := newLimitedAPI(rate.Inf, 1)
	api.refuseByChance(0.05, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log, logged := logger()
	var wg sync.WaitGroup
	start := time.Now()
	for range 4 {
		l := redislimit.New(newClient(t, options(s.Addr)), "k", 400, 10, patient, redislimit.WithLogger(log))
		work(ctx, &wg, api, l, 8)
	}
	<-time.NewTimer(3 * time.Second).C
	accepted, refused := api.between(start, time.Now())
	cancel()
	wg.Wait()
	require.GreaterOrEqual(t, accepted+refused, 0.5*3*400, "a busy machine may be slower")
	require.Empty(t, logged(), "no lower limit is learned")
}

func TestRealOutage(t *testing.T) {
	for _, outage := range []struct {
		name       string
		begin, end func(*redistest.Server) error
	}{
		{"frozen", (*redistest.Server).Freeze, (*redistest.Server).Thaw},
		{"killed", func(s *redistest.Server) error { s.Stop(); return nil }, (*redistest.Server).Restart},
	} {
		for _, client := range []string{"tuned", "default"} {
			t.Run(outage.name+", "+client+" client", func(t *testing.T) {
				s := startRedis(t)
				o := options(s.Addr)
				if client == "default" {
					o = &redis.Options{Addr: s.Addr}
				}
				log, _ := logger()
				l := redislimit.New(newClient(t, o), "k", 1000, 100, redislimit.WithLogger(log))
				share := redislimit.New(newClient(t, o), "k", 100, 4, redislimit.WithLogger(log),
					redislimit.WithFallback(redislimit.LocalShare(4)))
				free := redislimit.New(newClient(t, o), "k", 1000, 100, redislimit.WithLogger(log),
					redislimit.WithFallback(redislimit.Unlimited()))
				for _, l := range []*redislimit.Limiter{l, share, free} {
					recovers(t, l) // connects
				}
				require.NoError(t, outage.begin(s))

				// The first request that notices waits longest, but not beyond its deadline.
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				require.Error(t, l.Wait(ctx))
				require.Less(t, time.Since(start), time.Second, "the client's own time is 5 s")
				promptly(t, 150*time.Millisecond, func() {
					ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
					defer cancel()
					require.Error(t, l.Wait(ctx))
				})
				// Without a deadline, the timeout of 100 ms counts.
				for range 5 {
					promptly(t, 200*time.Millisecond, func() {
						var unavailable *redislimit.UnavailableError
						require.ErrorAs(t, l.Wait(t.Context()), &unavailable)
					})
				}
				for range 500 {
					require.NoError(t, free.Wait(t.Context()))
				}
				require.Error(t, free.Stats().Err)
				require.NoError(t, share.Wait(t.Context()))
				stop := load(t, share, 8)
				<-time.NewTimer(time.Second).C
				went := stop()
				require.LessOrEqual(t, most(went), 25+2, "a quarter of 100/s, and what a slow end adds")
				require.GreaterOrEqual(t, len(went), 3, "a busy machine may be slower")

				require.NoError(t, outage.end(s))
				for _, l := range []*redislimit.Limiter{l, share, free} {
					recovers(t, l)
				}
			})
		}
	}
}

func TestRealRestartEmptyKeepsTheRate(t *testing.T) {
	s := startRedis(t)
	log, _ := logger()
	// A call to a server that is being restarted fails at once. The local share
	// keeps the load going.
	l := redislimit.New(newClient(t, options(s.Addr)), "k", 100, 5, redislimit.WithLogger(log), redislimit.WithTimeout(time.Second),
		redislimit.WithFallback(redislimit.LocalShare(2)))
	stop := load(t, l, 16)
	<-time.NewTimer(500 * time.Millisecond).C
	s.Stop()
	require.NoError(t, s.Restart())
	<-time.NewTimer(time.Second).C
	recovers(t, l) // the script is loaded again
	went := stop()
	require.LessOrEqual(t, most(went), 100+5+10, "the burst, and what a stall lets go together")
}

func TestRealScriptFlushed(t *testing.T) {
	s := startRedis(t)
	c := newClient(t, options(s.Addr))
	l := redislimit.New(c, "k", 1000, 100, patient)
	require.NoError(t, l.Wait(t.Context()))
	require.NoError(t, c.ScriptFlush(t.Context()).Err())
	require.NoError(t, l.Wait(t.Context()))
}

func TestRealFailover(t *testing.T) {
	master, replica := startRedis(t, "--repl-diskless-sync-delay", "0"), startRedis(t)
	direct := newClient(t, options(replica.Addr))
	host, port, err := net.SplitHostPort(master.Addr)
	require.NoError(t, err)
	first := redislimit.New(newClient(t, options(master.Addr)), "k", 10, 1, patient)
	require.NoError(t, first.Wait(t.Context()))
	require.NoError(t, direct.ReplicaOf(t.Context(), host, port).Err())
	require.Eventually(t, func() bool {
		return strings.Contains(direct.Info(t.Context(), "replication").Val(), "master_link_status:up")
	}, 10*time.Second, 10*time.Millisecond)

	log, logged := logger()
	l := redislimit.New(newClient(t, options(replica.Addr)), "k", 10, 1, redislimit.WithLogger(log), patient)
	var unavailable *redislimit.UnavailableError
	require.ErrorAs(t, l.Wait(t.Context()), &unavailable, "a replica cannot reserve")
	require.Eventually(t, func() bool { return strings.Contains(logged(), "READONLY") }, time.Second, time.Millisecond)
	first.Pause(2 * time.Second)
	require.Eventually(t, func() bool { return first.Stats().Calls == 2 }, time.Second, time.Millisecond)
	require.Eventually(t, func() bool {
		return strings.HasSuffix(direct.Get(t.Context(), "resilient:limit:k").Val(), "00000")
	}, time.Second, time.Millisecond, "the pause is replicated")
	master.Stop()
	require.NoError(t, direct.ReplicaOf(t.Context(), "NO", "ONE").Err())
	start := time.Now()
	recovers(t, l)
	require.Greater(t, time.Since(start), time.Second, "the new master knows of the pause")
}

func TestRealAnotherServerAnswers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer server.Cmd
	}{
		{"a command unknown", func(c *server.Peer, _ string, _ []string) { c.WriteError("ERR unknown command") }},
		{"not a list", func(c *server.Peer, _ string, _ []string) { c.WriteBulk("1") }},
		{"a list too short", func(c *server.Peer, _ string, _ []string) { c.WriteStrings([]string{"1", "0", "0"}) }},
		{"not numbers", func(c *server.Peer, _ string, _ []string) { c.WriteStrings([]string{"1", "0", "0", "soon"}) }},
		{"numbers out of bounds", func(c *server.Peer, _ string, _ []string) { c.WriteStrings([]string{"1", "NaN", "0", "Inf"}) }},
		{"a lost connection", func(c *server.Peer, _ string, _ []string) { c.Close() }},
		{"nonsense", func(c *server.Peer, _ string, _ []string) { c.WriteRaw("HTTP/1.1 400 Bad Request\r\n\r\n") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := server.NewServer("127.0.0.1:0")
			require.NoError(t, err)
			defer s.Close()
			require.NoError(t, s.Register("EVALSHA", tt.answer))
			log, _ := logger()
			o := options(s.Addr().String())
			l := redislimit.New(newClient(t, o), "k", 10, 1, redislimit.WithLogger(log), patient)
			var unavailable *redislimit.UnavailableError
			start := time.Now()
			require.ErrorAs(t, l.Wait(t.Context()), &unavailable)
			require.Less(t, time.Since(start), 5*time.Second, "not for want of an answer")
		})
	}
}

func TestRealCluster(t *testing.T) {
	s := startRedis(t, "--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1")
	direct := newClient(t, options(s.Addr))
	require.NoError(t, direct.ClusterAddSlotsRange(t.Context(), 0, 16383).Err())
	require.Eventually(t, func() bool {
		return strings.Contains(direct.ClusterInfo(t.Context()).Val(), "cluster_state:ok")
	}, 10*time.Second, 10*time.Millisecond)
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{s.Addr}, ContextTimeoutEnabled: true})
	defer c.Close()
	keyed := redislimit.NewKeyed(c, 1000, 10, patient)
	for i := range 20 { // keys in many slots
		require.NoError(t, keyed.Limiter(fmt.Sprint("account ", i)).Wait(t.Context()))
	}
	require.NoError(t, keyed.Limiter("{same}account").Wait(t.Context()))
}

// permissions are the rights of a user in the package documentation.
const permissions = "resetkeys ~resilient:limit:* -@all +evalsha +eval +time +get +set"

func TestRealACL(t *testing.T) {
	s := startRedis(t)
	admin := newClient(t, options(s.Addr))
	rules := append([]string{"on", ">secret", "resetchannels"}, strings.Fields(permissions)...)
	require.NoError(t, admin.ACLSetUser(t.Context(), "limits", rules...).Err())
	o := options(s.Addr)
	o.Username, o.Password = "limits", "secret"
	log, logged := logger()
	l := redislimit.New(newClient(t, o), "k", 1000, 10, redislimit.WithLogger(log), patient)
	require.NoError(t, l.Wait(t.Context()))

	require.NoError(t, admin.ACLSetUser(t.Context(), "limits", "-set").Err())
	err := l.Wait(t.Context())
	var unavailable *redislimit.UnavailableError
	require.ErrorAs(t, err, &unavailable)
	require.Contains(t, err.Error(), "can't run this command")
	require.NotContains(t, err.Error()+logged(), "secret")
	require.NoError(t, admin.ACLSetUser(t.Context(), "limits", "+set").Err())
	recovers(t, l)
}

func TestRealTLS(t *testing.T) {
	dir := t.TempDir()
	pool := writeCertificate(t, dir)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().String()
	ln.Close()
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	startRedis(t, "--tls-port", port, "--tls-auth-clients", "no",
		"--tls-cert-file", filepath.Join(dir, "cert.pem"), "--tls-key-file", filepath.Join(dir, "key.pem"),
		"--tls-ca-cert-file", filepath.Join(dir, "cert.pem"))
	o := options(addr)
	o.TLSConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	l := redislimit.New(newClient(t, o), "k", 1000, 10, patient)
	require.NoError(t, l.Wait(t.Context()))
}

// writeCertificate writes a certificate and its key to dir.
func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cert.pem"), certPEM, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key.pem"),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(certPEM))
	return pool
}

func TestRealKey(t *testing.T) {
	s := startRedis(t)
	c := newClient(t, options(s.Addr))
	l := redislimit.New(c, "0123456789", 100, 10, patient)
	for range 20 {
		require.NoError(t, l.Wait(t.Context()))
	}
	const key = "resilient:limit:0123456789"
	require.Equal(t, []string{key}, c.Keys(t.Context(), "*").Val())
	used, err := c.MemoryUsage(t.Context(), key).Result()
	require.NoError(t, err)
	t.Logf("a key of 10 letters takes %d bytes", used)
	require.LessOrEqual(t, used, int64(200), "what the package doc says")
	require.Eventually(t, func() bool { return c.DBSize(t.Context()).Val() == 0 }, 10*time.Second, 50*time.Millisecond)
}

// TestRealUnits: real Redis executes the script as miniredis does. A fleet keeps both
// limits, and what it leaves in memory is what the package doc says.
func TestRealUnits(t *testing.T) {
	s := startRedis(t)
	admin := newClient(t, options(s.Addr))
	var mu sync.Mutex
	server := bucket.New(2000, 300) // of tokens
	accepted, refused, used := 0, 0, 0.0
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	start := time.Now()
	for range 4 {
		l := redislimit.New(newClient(t, options(s.Addr)), "0123456789", 1000, 100, patient, redislimit.WithLimit("tokens", 2000, 200, tokens))
		for i := range 8 {
			cost := float64(5 + 2*i)
			wg.Go(func() {
				for {
					r := l.For(costing(ctx, fmt.Sprint(3*cost)))
					if r.Wait(ctx) != nil {
						return
					}
					mu.Lock()
					now := time.Now()
					if server.Delay(now, cost, 0) > 0 {
						refused++
					}
					server.Take(now, cost)
					accepted++
					used += cost
					mu.Unlock()
					r.(settler).Settle("tokens", cost)
				}
			})
		}
	}
	<-time.NewTimer(2 * time.Second).C
	const key = "resilient:limit:0123456789"
	bytes, err := admin.MemoryUsage(t.Context(), key).Result()
	require.NoError(t, err)
	value := admin.Get(t.Context(), key).Val()
	cancel()
	wg.Wait()
	took := time.Since(start).Seconds()
	t.Logf("%d requests, %d refused, %.0f tokens of %.0f; %d bytes: %s", accepted, refused, used, 200+2000*took, bytes, value)
	require.LessOrEqual(t, used, 300+2000*took)
	require.GreaterOrEqual(t, used, 0.5*2000*took, "a busy machine may be slower")
	require.LessOrEqual(t, float64(refused), 0.02*float64(accepted), "a stall may let some go together")
	require.LessOrEqual(t, bytes, int64(120+60+4*45+100), "a limit, four places, and some more")
	require.Eventually(t, func() bool { return admin.DBSize(t.Context()).Val() == 0 }, 10*time.Second, 50*time.Millisecond)
}
