package sdktest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/elastic/elastic-transport-go/v8/elastictransport"
	"github.com/elastic/go-elasticsearch/v9"
	"github.com/elastic/go-elasticsearch/v9/typedapi/types"

	"github.com/resilienthttp/resilient/resilienttest"
)

func elasticClient(at endpoint, more ...elastictransport.Option) *elasticsearch.TypedClient {
	client, err := elasticsearch.NewTyped(
		elasticsearch.WithAddresses(at.url),
		elasticsearch.WithTransportOptions(append(more, elastictransport.WithTransport(at.transport))...),
	)
	if err != nil {
		panic(err) // the address of the test's server is valid
	}
	return client
}

func TestElasticsearch(t *testing.T) {
	sdk{
		ok: answer(200, `{"name":"`+value+`","cluster_name":"c","cluster_uuid":"u","tagline":"t","version":{}}`,
			"X-Elastic-Product", "Elasticsearch"),
		fail: func(status int) resilienttest.Answer {
			return answer(status, fmt.Sprintf(`{"error":{"type":"t","reason":%q},"status":%d}`, errorMessage, status))
		},
		call: func(ctx context.Context, at endpoint) result {
			info, err := elasticClient(at, elastictransport.WithDisableRetry()).Info().Do(ctx)
			got := result{err: err}
			if err == nil {
				got.value = info.Name
			}
			if e, ok := errors.AsType[*types.ElasticsearchError](err); ok {
				got.status = e.Status
			}
			return got
		},
	}.check(t)
}
