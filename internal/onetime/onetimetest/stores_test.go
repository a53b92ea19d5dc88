package onetimetest

import (
	"context"
	"sync"
	"testing"

	"webknock/internal/atomicfile"
	"webknock/internal/onetime"
	"webknock/internal/store"
)

func TestTheMemoryStoreKeepsTheContract(t *testing.T) {
	TestStore(t, func(*testing.T) (onetime.Store, func() onetime.Store) {
		m := NewMemory()
		return m, func() onetime.Store { return m }
	})
}

func TestTheDiskStoreKeepsTheContract(t *testing.T) {
	TestStore(t, func(t *testing.T) (onetime.Store, func() onetime.Store) {
		path := t.TempDir()
		var end func()
		open := func() onetime.Store {
			dir := atomicfile.NewDir(path)
			file := store.New(dir)
			ctx, stop := context.WithCancel(context.Background())
			var run sync.WaitGroup
			run.Go(func() { file.Run(ctx) })
			end = func() {
				stop()
				run.Wait()
				file.Close()
				dir.Close()
			}
			return onetime.NewDisk(file)
		}
		t.Cleanup(func() { end() })
		return open(), func() onetime.Store { end(); return open() }
	})
}
