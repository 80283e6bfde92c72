package sdktest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/resilienthttp/resilient/resilienttest"
)

func coreClient(at endpoint) *corev1.CoreV1Client {
	client, err := corev1.NewForConfig(&rest.Config{
		Host:          at.url,
		WrapTransport: func(http.RoundTripper) http.RoundTripper { return at.transport },
		QPS:           -1,
	})
	if err != nil {
		panic(err) // the address of the test's server is valid
	}
	return client
}

// kubernetesError is a Status object of an API server.
func kubernetesError(status int, header ...string) resilienttest.Answer {
	reason := map[int]metav1.StatusReason{404: metav1.StatusReasonNotFound, 429: metav1.StatusReasonTooManyRequests}[status]
	return answer(status, fmt.Sprintf(
		`{"kind":"Status","apiVersion":"v1","status":"Failure","message":%q,"reason":%q,"code":%d}`, errorMessage, reason, status),
		header...)
}

func TestKubernetes(t *testing.T) {
	sdk{
		ok:   answer(200, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"`+value+`"}}`),
		fail: func(status int) resilienttest.Answer { return kubernetesError(status) },
		call: func(ctx context.Context, at endpoint) result {
			pod, err := coreClient(at).Pods("default").Get(ctx, "pod", metav1.GetOptions{})
			got := result{err: err}
			if err == nil {
				got.value = pod.Name
			}
			e, ok := errors.AsType[*apierrors.StatusError](err)
			if ok && apierrors.IsNotFound(err) == (e.Status().Code == 404) {
				got.status = int(e.Status().Code)
			}
			return got
		},
	}.check(t)
}
