module github.com/resilienthttp/resilient/examples/github

go 1.26.0

replace github.com/resilienthttp/resilient => ../..

require (
	github.com/google/go-github/v89 v89.0.0
	github.com/resilienthttp/resilient v0.1.0
)

require (
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	github.com/google/go-querystring v1.2.0 // indirect
	golang.org/x/time v0.16.0 // indirect
)
