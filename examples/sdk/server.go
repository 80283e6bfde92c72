package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"

	"github.com/resilienthttp/resilient/examples/sdk/people"
)

// newServer serves the API of people.yaml on the loopback interface. Every other GET
// of Ada is answered with a server error, and every other creation of a person with
// a rate limit. So each of them takes two attempts.
func newServer() *httptest.Server {
	var gets, posts atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /people/ada", func(w http.ResponseWriter, _ *http.Request) {
		if gets.Add(1)%2 == 1 {
			fail(w, http.StatusInternalServerError, "SERVER_ERROR", "Something went wrong on our side.")
			return
		}
		reply(w, http.StatusOK, people.Person{Id: "ada", Name: "Ada Lovelace"})
	})
	mux.HandleFunc("GET /people/{id}", func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusNotFound, "NOT_FOUND_ERROR", "There is no such person.")
	})
	mux.HandleFunc("POST /people", func(w http.ResponseWriter, r *http.Request) {
		if posts.Add(1)%2 == 1 {
			fail(w, http.StatusTooManyRequests, "RATE_LIMIT_ERROR", "Too many requests.")
			return
		}
		create(w, r)
	})
	return httptest.NewServer(mux)
}

func create(w http.ResponseWriter, r *http.Request) {
	var person people.NewPerson
	err := json.NewDecoder(r.Body).Decode(&person)
	if err != nil || person.Name == "" {
		fail(w, http.StatusBadRequest, "INVALID_REQUEST_ERROR", "The request has an invalid parameter.",
			people.InvalidParam{Name: "name", Reason: "Name is required."})
		return
	}
	reply(w, http.StatusCreated, people.Person{Id: "new", Name: person.Name})
}

func fail(w http.ResponseWriter, status int, kind, message string, invalid ...people.InvalidParam) {
	e := people.Error{Code: strconv.Itoa(status), Type: kind, Message: message}
	if len(invalid) > 0 {
		e.Invalid = &invalid
	}
	reply(w, status, e)
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json") // the SDK parses only this
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // it fails only if the client has gone
}
