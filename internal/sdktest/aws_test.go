package sdktest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/resilienthttp/resilient/resilienttest"
)

func s3Client(at endpoint, retryer aws.Retryer) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: &at.url,
		HTTPClient:   at.client(),
		Retryer:      retryer,
		Region:       "us-east-1",
		Credentials:  credentials.NewStaticCredentialsProvider("id", "secret", ""),
		UsePathStyle: true,
	})
}

// s3Error is an error of S3 and of servers with the same protocol.
func s3Error(status int) resilienttest.Answer {
	code := map[int]string{404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}[status]
	if code == "" {
		code = "Other"
	}
	return answer(status, fmt.Sprintf("<Error><Code>%s</Code><Message>%s</Message></Error>", code, errorMessage),
		"Content-Type", "application/xml")
}

func TestS3(t *testing.T) {
	sdk{
		ok:   answer(200, value),
		fail: s3Error,
		call: func(ctx context.Context, at endpoint) result {
			out, err := s3Client(at, aws.NopRetryer{}).GetObject(ctx, &s3.GetObjectInput{
				Bucket: aws.String("bucket"), Key: aws.String("key"),
			})
			if err == nil {
				b, err := io.ReadAll(out.Body)
				out.Body.Close()
				return result{value: string(b), err: err}
			}
			got := result{err: err}
			e, ok := errors.AsType[*awshttp.ResponseError](err)
			if _, typed := errors.AsType[*types.NoSuchKey](err); ok && typed == (e.HTTPStatusCode() == 404) {
				got.status, got.resp = e.HTTPStatusCode(), e.HTTPResponse().Response
			}
			return got
		},
		// Its PUTs have no GetBody.
		upload: func(ctx context.Context, at endpoint, payload string) error {
			_, err := s3Client(at, aws.NopRetryer{}).PutObject(ctx, &s3.PutObjectInput{
				Bucket: aws.String("bucket"), Key: aws.String("key"), Body: strings.NewReader(payload),
			})
			return err
		},
		response: true,
		opaque:   true,
	}.check(t)
}
