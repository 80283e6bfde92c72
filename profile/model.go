package profile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/resilienthttp/resilient"
)

// This file has what the profiles of models have in common.

// asks returns a Repeatable for POSTs to paths that end in one of the suffixes. A
// proxy or a deployment may have anything in front of them.
func asks(suffixes ...string) func(*http.Request) bool {
	return func(req *http.Request) bool {
		return req.Method == http.MethodPost && slices.ContainsFunc(suffixes, func(suffix string) bool {
			return strings.HasSuffix(req.URL.Path, suffix)
		})
	}
}

// done is the data of the last event of many streams.
func done(data []byte) bool { return string(bytes.TrimSpace(data)) == "[DONE]" }

// has reports whether data has a string, given with its quotation marks, as the name of
// a member or as a value. It is not misled by text that quotes it, because in JSON a
// quotation mark in a string has a backslash in front of it. An event is decoded only
// if it has what is looked for: to decode each would cost ten times as much.
func has(data []byte, s string) bool { return bytes.Contains(data, []byte(s)) }

// nameOf returns the name of an event, or if it has none the member "type" of its data.
// APIs write it first, so that it is found even in data that is cut.
func nameOf(name string, data []byte) string {
	if name != "" && name != "message" || !has(data, `"type"`) {
		return name
	}
	return typeOf(data)
}

func typeOf(data []byte) string {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return ""
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return ""
		}
		var value json.RawMessage
		if dec.Decode(&value) != nil {
			return ""
		}
		if name == "type" {
			var s word
			_ = json.Unmarshal(value, &s) // never fails
			return string(s)
		}
	}
	return ""
}

// word is a JSON string or number, and "" if the value is something else.
type word string

// UnmarshalJSON implements json.Unmarshaler. It never fails, so that a member of an
// unexpected type does not hide the others.
func (w *word) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*w = word(s)
	} else if _, err := strconv.ParseFloat(string(b), 64); err == nil {
		*w = word(b)
	}
	return nil
}

// failure is the error in an event.
type failure struct {
	Type word
	Code word
}

// failureOf returns the error object in the member "error" of an event, and reports
// whether there is one. Data that is no JSON has none.
func failureOf(data []byte) (failure, bool) {
	var e struct {
		Error json.RawMessage
	}
	_ = json.Unmarshal(data, &e) // as much as can be decoded
	var f failure
	if isEmpty(e.Error) {
		return f, false
	}
	_ = json.Unmarshal(e.Error, &f) // a string has neither type nor code
	return f, true
}

// status returns the code if it is the status of an error, or 0.
func (f failure) status() int {
	if status, err := strconv.Atoi(string(f.Code)); err == nil && status >= 400 && status <= 599 {
		return status
	}
	return 0
}

// isEmpty reports whether a JSON value says nothing.
func isEmpty(value json.RawMessage) bool {
	switch string(value) {
	case "", "null", "false", `""`, "[]", "{}":
		return true
	}
	return false
}

// quotas returns the fields that tell the limits of these names. The format has the name
// of the limit and one of Limit, Remaining and Reset.
func quotas(format string, names ...string) map[string]resilient.QuotaFields {
	all := make(map[string]resilient.QuotaFields, len(names))
	for _, name := range names {
		all[name] = resilient.QuotaFields{
			Limit:     fmt.Sprintf(format, name, "Limit"),
			Remaining: fmt.Sprintf(format, name, "Remaining"),
			Reset:     fmt.Sprintf(format, name, "Reset"),
		}
	}
	return all
}
