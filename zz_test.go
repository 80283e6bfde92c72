package resilient_test
import ("testing";"testing/synctest";"time";"net/http";"sync";"github.com/resilienthttp/resilient")
func TestZZ(t *testing.T){
 for _, workers := range []int{1,2,3,4,8} { for _, refusals := range []int{2,5} {
  synctest.Test(t, func(t *testing.T){
	n:=0
	var mu sync.Mutex
	base := step(func(req *http.Request)(*http.Response,error){
		mu.Lock(); n++; k:=n; mu.Unlock()
		if k>100 && k<=100+refusals { time.Sleep(5*time.Millisecond); return answer(429)(req) }
		time.Sleep(10*time.Millisecond+time.Duration(k%7)*time.Microsecond); return answer(200)(req)
	})
	tr := resilient.NewTransport(base, resilient.WithMaxAttempts(10))
	start:=time.Now()
	ok := make([]int, 120)
	var wg sync.WaitGroup
	for range workers { wg.Go(func(){ for time.Since(start)<60*time.Second { resp,err:=tr.RoundTrip(get(t)); if err==nil { resp.Body.Close(); mu.Lock(); ok[int(time.Since(start)/time.Second)]++; mu.Unlock()} } }) }
	wg.Wait()
	t.Log(workers, refusals, ok[:12], ok[30], ok[55])
  })
 }}
}
