package main

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// The keys that the API knows.
const (
	goodKey   = "demo"
	unpaidKey = "demo-unpaid"
)

// problem is the documented error object, with its status.
type problem struct {
	Code    string    `json:"code"`
	Type    string    `json:"type"`
	Message string    `json:"message"`
	Invalid []invalid `json:"invalid,omitempty"`

	status     int
	retryAfter string
}

type invalid struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

func newProblem(status int, kind, message string) problem {
	return problem{Code: strconv.Itoa(status), Type: kind, Message: message, status: status}
}

func badRequest(name, reason string) problem {
	p := newProblem(http.StatusBadRequest, "INVALID_REQUEST_ERROR", "The request has an invalid parameter.")
	p.Invalid = []invalid{{name, reason}}
	return p
}

func rateLimited(retryAfter string) problem {
	p := newProblem(http.StatusTooManyRequests, "RATE_LIMIT_ERROR", "Too many requests.")
	p.retryAfter = retryAfter
	return p
}

func serverError() problem {
	return newProblem(http.StatusInternalServerError, "SERVER_ERROR", "Something went wrong on our side.")
}

// api counts the visitors of a shop, sensor by sensor.
type api struct {
	mu       sync.Mutex
	visitors map[string]int
	mishaps  map[string][]problem // still to be returned, by method and path

	searches *rate.Limiter
	weather  *rand.Rand
}

const (
	searchLimit    = 10 // a second
	weatherServers = 4  // one of which is broken
)

func newAPI() *api {
	return &api{
		visitors: map[string]int{"door": 42, "garden": 7, "roof": 1},
		mishaps: map[string][]problem{
			"GET /v1/sensors/door/visitors":   {serverError()},
			"GET /v1/sensors/garden/visitors": {rateLimited("1")},
			"GET /v1/sensors/roof/visitors":   {rateLimited(""), rateLimited("")},
			"POST /v1/visits":                 {serverError(), rateLimited("")},
		},
		searches: rate.NewLimiter(searchLimit, 5),
		weather:  rand.New(rand.NewPCG(1, 2)), //nolint:gosec // no secret
	}
}

// startAPI serves the API on a free port of the loopback interface, until stop
// is called.
func startAPI(ctx context.Context) (base string, stop func() error, err error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	srv := &http.Server{Handler: newAPI().handler(), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	stop = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err := srv.Shutdown(ctx)
		if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
			err = errors.Join(err, serveErr)
		}
		return err
	}
	return "http://" + ln.Addr().String(), stop, nil
}

func (a *api) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/sensors/{id}/visitors", a.getVisitors)
	mux.HandleFunc("POST /v1/visits", a.postVisit)
	mux.HandleFunc("GET /v1/search", a.search)
	mux.HandleFunc("GET /v1/weather", a.getWeather)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fail(w, newProblem(http.StatusNotFound, "NOT_FOUND_ERROR", "There is nothing at this path."))
	})
	return authenticated(a.withMishaps(mux))
}

func authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Authorization") {
		case "Bearer " + goodKey:
			next.ServeHTTP(w, r)
		case "Bearer " + unpaidKey:
			fail(w, newProblem(http.StatusPaymentRequired, "PAYMENT_REQUIRED_ERROR", "The account is unpaid."))
		default:
			// This API sends 403, as opposed to the more common 401.
			fail(w, newProblem(http.StatusForbidden, "AUTHENTICATION_ERROR", "The API key is not valid."))
		}
	})
}

// withMishaps first returns the mishaps of a path, in order, and then calls next.
func (a *api) withMishaps(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p, ok := a.mishap(r.Method + " " + r.URL.Path); ok {
			fail(w, p)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (a *api) mishap(path string) (problem, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	left := a.mishaps[path]
	if len(left) == 0 {
		return problem{}, false
	}
	a.mishaps[path] = left[1:]
	return left[0], true
}

func (a *api) getVisitors(w http.ResponseWriter, r *http.Request) {
	if limit := r.FormValue("limit"); limit != "" {
		if n, err := strconv.Atoi(limit); err != nil || n >= 500 {
			fail(w, badRequest("limit", "Limit must be less than 500."))
			return
		}
	}
	id := r.PathValue("id")
	a.mu.Lock()
	n, ok := a.visitors[id]
	a.mu.Unlock()
	if !ok {
		fail(w, newProblem(http.StatusNotFound, "NOT_FOUND_ERROR", "There is no such sensor."))
		return
	}
	reply(w, http.StatusOK, count{id, n})
}

// count is the number of visitors that a sensor has counted.
type count struct {
	Sensor string `json:"sensor"`
	Count  int    `json:"count"`
}

func (a *api) postVisit(w http.ResponseWriter, r *http.Request) {
	var visit count
	if err := json.NewDecoder(r.Body).Decode(&visit); err != nil {
		fail(w, badRequest("body", "Body must be a JSON object."))
		return
	}
	a.mu.Lock()
	a.visitors[visit.Sensor] += visit.Count
	n := a.visitors[visit.Sensor]
	a.mu.Unlock()
	reply(w, http.StatusCreated, count{visit.Sensor, n})
}

// search has a limit of its own.
func (a *api) search(w http.ResponseWriter, _ *http.Request) {
	if !a.searches.Allow() {
		fail(w, rateLimited(""))
		return
	}
	reply(w, http.StatusOK, []count{})
}

// getWeather asks a server at random.
func (a *api) getWeather(w http.ResponseWriter, _ *http.Request) {
	a.mu.Lock()
	server := a.weather.IntN(weatherServers)
	a.mu.Unlock()
	time.Sleep(2 * time.Millisecond)
	if server == 0 {
		fail(w, rateLimited(""))
		return
	}
	reply(w, http.StatusOK, map[string]int{"degrees": 18})
}

func fail(w http.ResponseWriter, p problem) {
	if p.retryAfter != "" {
		w.Header().Set("Retry-After", p.retryAfter)
	}
	reply(w, p.status, p)
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // it fails only if the client has gone
}
