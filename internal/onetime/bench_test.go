package onetime

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"webknock/sequence"
)

// From a good ticket to the answer that its use is recorded.
func BenchmarkUsedToDone(b *testing.B) {
	for _, at := range []int{1, 64} {
		b.Run(fmt.Sprint(at, " at a time"), func(b *testing.B) {
			v := on(b, b.TempDir())
			ctx, stop := context.WithCancel(context.Background())
			var run sync.WaitGroup
			run.Go(func() { v.Run(ctx) })
			b.Cleanup(func() { stop(); run.Wait() })
			slots := make(chan struct{}, at)
			var mu sync.Mutex
			var took []time.Duration
			var all sync.WaitGroup
			sealed := make([]string, b.N)
			for i := range sealed { // 100 tickets of a second
				var n Nonce
				rand.Read(n[:])
				sealed[i], _ = sealWith(aliceSecret, Ticket{Time: start.Add(time.Duration(i) * 100 * time.Millisecond), User: "alice"}, n)
			}
			b.ResetTimer()
			for i := range b.N {
				slots <- struct{}{}
				all.Add(1)
				began := time.Now()
				p := v.Verify(home, start.Add(time.Duration(i)*100*time.Millisecond), []Claim{{Variable: sequence.Ticket, Code: sealed[i], Admits: everybody}}, false)[0]
				if p == nil {
					b.Fatal("refused", i)
				}
				v.Await(p, func(err error) {
					if err != nil {
						b.Error(err)
					}
					mu.Lock()
					took = append(took, time.Since(began))
					mu.Unlock()
					<-slots
					all.Done()
				})
			}
			all.Wait()
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "codes/s")
		})
	}
}
