package sdktest_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

func minioClient(at endpoint, attempts int) *minio.Client {
	client, err := minio.New(strings.TrimPrefix(at.url, "http://"), &minio.Options{
		Transport:  at.transport,
		MaxRetries: attempts, // despite its name, the number of attempts
		Region:     "us-east-1",
		Creds:      credentials.NewStaticV4("id", "secret", ""),
	})
	if err != nil {
		panic(err) // the address of the test's server is valid
	}
	return client
}

func TestMinio(t *testing.T) {
	const buckets = `<ListAllMyBucketsResult><Buckets><Bucket><Name>` + value + `</Name></Bucket></Buckets></ListAllMyBucketsResult>`
	sdk{
		ok:   answer(200, buckets, "Content-Type", "application/xml"),
		fail: s3Error,
		call: func(ctx context.Context, at endpoint) result {
			list, err := minioClient(at, 1).ListBuckets(ctx)
			got := result{err: err}
			if err == nil && len(list) == 1 {
				got.value = list[0].Name
			}
			if e, ok := errors.AsType[minio.ErrorResponse](err); ok && e.Message == errorMessage {
				got.status = e.StatusCode
			}
			return got
		},
		// Its PUTs have no GetBody.
		upload: func(ctx context.Context, at endpoint, payload string) error {
			_, err := minioClient(at, 1).PutObject(ctx, "bucket", "key", strings.NewReader(payload), int64(len(payload)),
				minio.PutObjectOptions{})
			return err
		},
		opaque: true,
	}.check(t)
}
