package closed

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"webknock/firewall"
	"webknock/internal/atomicfile"
)

// boot is a machine that was booted.
type boot struct {
	id    string
	began time.Time
}

func (b boot) open(t *testing.T, dir *atomicfile.Dir) *Journal {
	t.Helper()
	return Open(dir, slog.New(slog.DiscardHandler), func() time.Duration { return time.Since(b.began) }, b.id)
}

func run(t *testing.T, j *Journal) {
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { j.Run(ctx) })
	t.Cleanup(func() {
		stop()
		wg.Wait()
	})
}

func grant(id string, ttl time.Duration) []firewall.Grant {
	return []firewall.Grant{{ID: id, Expires: time.Now().Add(ttl)}}
}

func newDir(t *testing.T) *atomicfile.Dir {
	dir := atomicfile.NewDir(t.TempDir())
	t.Cleanup(func() { dir.Close() })
	return dir
}

func TestAClosedGrantIsRememberedAfterAKillUntilItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, b := newDir(t), boot{"11111111", time.Now().Add(-time.Hour)}
		j := b.open(t, dir)
		run(t, j)
		j.Close(grant("a", time.Minute))
		j.Close(grant("b", time.Hour))
		j.Settle(t.Context())
		second := b.open(t, dir) // the first does nothing more
		if second.Known() != nil || !second.Closed("a") || !second.Closed("b") || second.Closed("c") {
			t.Errorf("known %v, closed %v", second.Known(), second.ends)
		}
		run(t, second)
		time.Sleep(2 * time.Minute)
		second.Close(grant("c", time.Hour))
		second.Settle(t.Context())
		if third := b.open(t, dir); third.Closed("a") || !third.Closed("b") || !third.Closed("c") {
			t.Errorf("after a's end closed are %v", third.ends)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if data, err := os.ReadFile(dir.Path(fileName)); err != nil || strings.Contains(string(data), `"b"`) {
			t.Errorf("after all ends the file has %s, %v", data, err)
		}
		other := boot{"22222222", time.Now()}
		second.Close(grant("d", time.Hour))
		second.Settle(t.Context())
		if after := other.open(t, dir); after.Known() != nil || after.Closed("d") {
			t.Errorf("after a reboot closed are %v, %v", after.ends, after.Known())
		}
	})
}

func TestOnlyTheFirstStartIsAnUpgrade(t *testing.T) {
	dir, b := newDir(t), boot{"11111111", time.Now()}
	first := b.open(t, dir)
	for range 2 {
		if !first.Upgrade() {
			t.Error("the first start is no upgrade")
		}
	}
	if b.open(t, dir).Upgrade() {
		t.Error("the second start is an upgrade")
	}
	// Where that cannot be written down, every start would be one.
	blocked := b.open(t, newDir(t))
	blocked.write = func([]byte) error { return errors.New("disk full") }
	if blocked.Upgrade() || blocked.Problem() == nil {
		t.Errorf("an upgrade that is not written down counts; problem %v", blocked.Problem())
	}
}

func TestWhatCannotBeWrittenIsSaidAndTriedUntilItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, b := newDir(t), boot{"11111111", time.Now()}
		j := b.open(t, dir)
		var full atomic.Bool
		full.Store(true)
		write := j.write
		j.write = func(data []byte) error {
			if full.Load() {
				return errors.New("disk full")
			}
			return write(data)
		}
		run(t, j)
		began := time.Now()
		j.Close(grant("a", time.Hour))
		j.Settle(t.Context())
		if waited := time.Since(began); waited > 0 {
			t.Errorf("a full disk held the closing up for %v", waited)
		}
		if err := j.Problem(); err == nil || !strings.Contains(err.Error(), "closed grants (1) are not remembered") || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("problem %v", err)
		}
		if !j.Closed("a") {
			t.Error("this process has forgotten it")
		}
		full.Store(false)
		time.Sleep(maxRetry)
		synctest.Wait()
		if err := j.Problem(); err != nil || !b.open(t, dir).Closed("a") {
			t.Errorf("when there is room: %v", err)
		}
	})
}

func TestADiskThatHangsHoldsNothingUpForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := boot{"11111111", time.Now()}.open(t, newDir(t))
		hang := make(chan struct{})
		j.write = func([]byte) error { <-hang; return nil }
		run(t, j)
		began := time.Now()
		j.Close(grant("a", time.Hour))
		if time.Since(began) > 0 {
			t.Error("Close waits for the disk")
		}
		j.Settle(t.Context())
		time.Sleep(time.Second)
		if err := j.Problem(); err == nil || !strings.Contains(err.Error(), "the disk has not answered") {
			t.Errorf("problem %v", err)
		}
		close(hang)
		synctest.Wait()
		if err := j.Problem(); err != nil {
			t.Error(err)
		}
	})
}

func TestADamagedFileIsNotBelieved(t *testing.T) {
	for _, content := range []string{"", "{", `{"version":2}`, strings.Repeat(" ", maxFile+1)} {
		dir := newDir(t)
		if err := os.WriteFile(dir.Path(fileName), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		j := boot{"11111111", time.Now()}.open(t, dir)
		if j.Known() == nil || j.Problem() == nil || j.Upgrade() {
			t.Errorf("%.10q: known %v, problem %v, upgrade %v", content, j.Known(), j.Problem(), j.Upgrade())
		}
	}
	none := Open(atomicfile.NewDir(filepath.Join("/proc", "none")), slog.New(slog.DiscardHandler), func() time.Duration { return 0 }, "1")
	if none.Known() == nil || none.Upgrade() {
		t.Errorf("a directory that there cannot be: known %v, upgrade %v", none.Known(), none.Upgrade())
	}
}

func TestSoManyAreRememberedAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := boot{"11111111", time.Now()}.open(t, newDir(t))
		var many []firewall.Grant
		for i := range maxClosed {
			many = append(many, grant(string(rune('a'+i%26))+time.Duration(i).String(), time.Hour)...)
		}
		j.Close(many)
		if j.Problem() != nil {
			t.Error(j.Problem())
		}
		j.Close(grant("z", 2*time.Hour))
		if j.Problem() == nil || j.Closed("z") {
			t.Error("one too many is said to be remembered")
		}
		time.Sleep(time.Hour)
		j.Close(grant("y", time.Hour))
		if j.Problem() != nil || !j.Closed("y") || len(j.ends) != 1 {
			t.Errorf("when all have ended: %v, %d are remembered", j.Problem(), len(j.ends))
		}
	})
}
