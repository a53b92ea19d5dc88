package wire

import (
	"context"
	"net"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"webknock/internal/seam"
	"webknock/internal/seam/seamtest"
)

// asChild is set in the environment of a test binary that is to be a front.
const asChild = "WEBKNOCK_TEST_FRONT"

func TestMain(m *testing.M) {
	if os.Getenv(asChild) != "" {
		child()
		return
	}
	os.Exit(m.Run())
}

// completing is a front that completes a sequence whenever it is told to watch.
type completing struct {
	seamtest.Front
	keeper seam.Keeper
}

func (f *completing) WatchKnocks(bool) { f.keeper.Complete(completion) }

func child() {
	conn, err := net.FileConn(os.NewFile(3, "seam"))
	if err != nil {
		panic(err)
	}
	ServeFront(context.Background(), conn.(*net.UnixConn), func(k seam.Keeper) seam.Front { return &completing{keeper: k} })
}

// otherProcess returns a front in a process of its own.
func otherProcess(t testing.TB, keeper seam.Keeper) (*FrontClient, *exec.Cmd) {
	t.Helper()
	a, b := seamtest.Pair(t)
	file, err := b.File()
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asChild+"=1", "GOMAXPROCS=1")
	cmd.ExtraFiles = []*os.File{file}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	file.Close()
	f := NewFrontClient(a, keeper)
	t.Cleanup(func() {
		f.Close()
		cmd.Wait()
	})
	if err := f.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f, cmd
}

func TestAFrontInAProcessOfItsOwn(t *testing.T) {
	k := &counting{completed: make(chan struct{}, 1)}
	f, cmd := otherProcess(t, k)
	f.WatchKnocks(true)
	<-k.completed
	cmd.Process.Kill()
	<-f.Done()
	if err := f.Ping(t.Context()); err == nil {
		t.Error("a process that was killed answers")
	}
}

// report reports percentiles of what f takes.
func report(b *testing.B, f func()) {
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		f()
		took = append(took, time.Since(start))
		time.Sleep(200 * time.Microsecond) // as a knock comes: both processes sleep before
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

func BenchmarkPingToAnotherProcess(b *testing.B) {
	f, _ := otherProcess(b, new(seamtest.Keeper))
	report(b, func() {
		if err := f.Ping(b.Context()); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkCompleteFromAnotherProcess is a notice there and a completion back.
func BenchmarkCompleteFromAnotherProcess(b *testing.B) {
	k := &counting{completed: make(chan struct{}, 1)}
	f, _ := otherProcess(b, k)
	report(b, func() {
		f.WatchKnocks(true)
		<-k.completed
	})
}
