package sdktest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"
	"google.golang.org/api/storage/v1"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

func storageService(ctx context.Context, at endpoint) *storage.Service {
	service, err := storage.NewService(ctx, option.WithHTTPClient(at.client()), option.WithEndpoint(at.url))
	if err != nil {
		panic(err) // the URL of the test's server is valid
	}
	return service
}

// stream returns a reader that can be read once, like a file.
func stream(s string) io.Reader { return io.MultiReader(strings.NewReader(s)) }

// storageUpload prepares an upload of which the SDK retries nothing. By default it would
// retry the parts of one in chunks.
func storageUpload(ctx context.Context, at endpoint, media io.Reader, opts ...googleapi.MediaOption) *storage.ObjectsInsertCall {
	opts = append(opts, googleapi.ContentType("text/plain"))
	return storageService(ctx, at).Objects.Insert("bucket", &storage.Object{Name: "key"}).Context(ctx).
		Media(media, opts...).WithRetry(nil, func(error) bool { return false })
}

func TestGoogleAPI(t *testing.T) {
	got := func(bucket *storage.Bucket, err error) result {
		if err == nil {
			return result{value: bucket.Name}
		}
		got := result{err: err}
		if e, ok := errors.AsType[*googleapi.Error](err); ok && e.Message == errorMessage {
			got.status = e.Code
		}
		return got
	}
	get := sdk{
		ok:   answer(200, `{"name":"`+value+`"}`),
		fail: googleError,
		call: func(ctx context.Context, at endpoint) result {
			return got(storageService(ctx, at).Buckets.Get("bucket").Context(ctx).Do())
		},
		// Media that are not in memory have no GetBody without a chunk size.
		upload: func(ctx context.Context, at endpoint, payload string) error {
			_, err := storageUpload(again(ctx), at, stream(payload), googleapi.ChunkSize(0)).Do()
			return err
		},
		code: "S",
	}
	post := get
	post.post, post.upload = true, nil
	post.call = func(ctx context.Context, at endpoint) result {
		return got(storageService(ctx, at).Buckets.Insert("project", &storage.Bucket{Name: "b"}).Context(ctx).Do())
	}
	t.Run("GET", get.check)
	t.Run("POST", post.check)
}

// TestGoogleAPIUploads tests which bodies can be sent again after a 429.
func TestGoogleAPIUploads(t *testing.T) {
	media := func(opts ...googleapi.MediaOption) func(context.Context, endpoint) error {
		return func(ctx context.Context, at endpoint) error {
			_, err := storageUpload(ctx, at, stream(value), opts...).Do()
			return err
		}
	}
	tests := []struct {
		name     string
		call     func(context.Context, endpoint) error
		without  int // attempts
		buffered int // with WithReplayBuffer
		why      string
	}{
		{"in chunks", media(), 4, 4, "the SDK keeps a chunk, and sets GetBody"},
		{"not in chunks", media(googleapi.ChunkSize(0)), 1, 4, "the SDK clears GetBody, because it reads the media once"},
		{"no media", func(ctx context.Context, at endpoint) error {
			_, err := storageService(ctx, at).Objects.Insert("bucket", &storage.Object{Name: "key"}).Context(ctx).Do()
			return err
		}, 1, 4, "the SDK clears GetBody of a method that may have media, even if there are none"},
		{"another method", func(ctx context.Context, at endpoint) error {
			_, err := storageService(ctx, at).Buckets.Insert("project", &storage.Bucket{Name: "b"}).Context(ctx).Do()
			return err
		}, 4, 4, "http.NewRequest sets GetBody"},
	}
	for _, tt := range tests {
		for buffer, want := range map[int64]int{0: tt.without, 1 << 20: tt.buffered} {
			script := resilienttest.New(googleError(http.StatusTooManyRequests))
			virtual(t, fmt.Sprintf("%s, buffer %d", tt.name, buffer), script, func(t bubble) {
				require.Error(t, tt.call(t.Context(), t.endpoint))
				sent := script.Attempts()
				require.Equal(t, want, len(sent), tt.why) //nolint:testifylint // Len would print the bodies
				require.NotEmpty(t, sent[0].Body)
				require.Equal(t, sent[0].Body, sent[want-1].Body)
			}, resilient.WithMaxAttempts(4), resilient.WithReplayBuffer(buffer))
		}
	}
}

// TestGoogleAPIChunks tests the parts of a resumable upload. By default the SDK sends a
// part again for 32 seconds, and WithRetry switches that off. A part says where in the
// object it belongs, so that it may be sent twice.
func TestGoogleAPIChunks(t *testing.T) {
	upload := func(ctx context.Context, at endpoint, own bool) error {
		call := storageUpload(ctx, at, strings.NewReader(strings.Repeat("a", 300_000)), googleapi.ChunkSize(256<<10))
		if own {
			call = call.WithRetry(nil, nil)
		}
		_, err := call.Do()
		return err
	}
	started := answer(200, "", "Location", "http://api.test/session")
	tests := []struct {
		name  string
		base  func(http.RoundTripper) http.RoundTripper
		own   bool
		parts int // attempts at the first part, of the SDK alone at least
	}{
		{"the SDK alone", func(base http.RoundTripper) http.RoundTripper { return base }, true, 9}, // eight waits are at most 25.5 s
		{"over a Transport", func(base http.RoundTripper) http.RoundTripper { return resilient.NewTransport(base) }, false, 1},
		{"over a Transport that may send it twice", func(base http.RoundTripper) http.RoundTripper {
			return resilient.NewTransport(base, resilient.WithRetryNonIdempotent(true), resilient.WithMaxAttempts(10))
		}, false, 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := resilienttest.New(started, googleError(http.StatusServiceUnavailable))
				require.Error(t, upload(t.Context(), endpoint{"http://api.test", tt.base(script)}, tt.own))
				parts := script.Count() - 1 // the first request begins the upload
				if tt.own {
					require.GreaterOrEqual(t, parts, tt.parts)
				} else {
					require.Equal(t, tt.parts, parts)
				}
			})
		})
	}
}
