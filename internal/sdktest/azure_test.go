package sdktest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"

	"github.com/resilienthttp/resilient/resilienttest"
)

func blobClient(at endpoint, retry policy.RetryOptions) *azblob.Client {
	client, err := azblob.NewClientWithNoCredential(at.url, &azblob.ClientOptions{
		ClientOptions: azcore.ClientOptions{Transport: at.client(), Retry: retry},
	})
	if err != nil {
		panic(err) // the URL of the test's server is valid
	}
	return client
}

func TestAzureBlob(t *testing.T) {
	noRetry := policy.RetryOptions{MaxRetries: -1}
	sdk{
		ok:     answer(200, value, "Etag", `"1"`),
		stored: resilienttest.Status(201),
		fail: func(status int) resilienttest.Answer {
			return answer(status, fmt.Sprintf("<Error><Code>c</Code><Message>%s</Message></Error>", errorMessage),
				"Content-Type", "application/xml", "X-Ms-Error-Code", "c")
		},
		call: func(ctx context.Context, at endpoint) result {
			out, err := blobClient(at, noRetry).DownloadStream(ctx, "container", "blob", nil)
			if err == nil {
				b, err := io.ReadAll(out.Body)
				out.Body.Close()
				return result{value: string(b), err: err}
			}
			got := result{err: err}
			if e, ok := errors.AsType[*azcore.ResponseError](err); ok && e.ErrorCode == "c" {
				got.status, got.resp = e.StatusCode, e.RawResponse
			}
			return got
		},
		upload: func(ctx context.Context, at endpoint, payload string) error {
			_, err := blobClient(at, noRetry).UploadBuffer(ctx, "container", "blob", []byte(payload), nil)
			return err
		},
		response: true,
		opaque:   true,
	}.check(t)
}
