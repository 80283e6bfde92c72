module github.com/resilienthttp/resilient/examples/sdk

go 1.26.0

replace github.com/resilienthttp/resilient => ../..

require (
	github.com/oapi-codegen/runtime v1.8.0
	github.com/resilienthttp/resilient v0.1.0
)

require (
	github.com/apapsch/go-jsonmerge/v2 v2.0.0 // indirect
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	golang.org/x/time v0.16.0 // indirect
)
