package wire

import (
	"testing"

	"webknock/internal/seam"
	"webknock/internal/seam/seamtest"
)

func BenchmarkPing(b *testing.B) {
	f, _, _ := join(b, new(seamtest.Front), new(seamtest.Keeper))
	for b.Loop() {
		if err := f.Ping(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// counting counts completions.
type counting struct {
	seamtest.Keeper
	completed chan struct{}
}

func (k *counting) Complete(seam.Completion) { k.completed <- struct{}{} }

// BenchmarkComplete has one completion on its way.
func BenchmarkComplete(b *testing.B) {
	k := &counting{completed: make(chan struct{}, 1)}
	f, keeper, _ := join(b, new(seamtest.Front), k)
	f.Commit(b.Context())
	for b.Loop() {
		keeper.Complete(completion)
		<-k.completed
	}
}

// BenchmarkCompletions has as many as there can be.
func BenchmarkCompletions(b *testing.B) {
	k := &counting{completed: make(chan struct{}, 1<<10)}
	f, keeper, _ := join(b, new(seamtest.Front), k)
	f.Commit(b.Context())
	under := make(chan struct{}, 1<<10)
	done := make(chan struct{})
	n := 0
	go func() {
		defer close(done)
		for range under {
			<-k.completed
			n++
		}
	}()
	for b.Loop() {
		under <- struct{}{}
		keeper.Complete(completion)
	}
	close(under)
	<-done
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "completions/s")
}

func BenchmarkCodec(b *testing.B) {
	for b.Loop() {
		payload, err := encode(completion)
		if err != nil {
			b.Fatal(err)
		}
		var c seam.Completion
		if err := decode(few, payload, &c); err != nil {
			b.Fatal(err)
		}
	}
}
