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
	"webknock/internal/store"
)

// boot is a machine that was booted.
type boot struct {
	id    string
	began time.Time
}

func (b boot) open(t *testing.T, file File) *Journal {
	t.Helper()
	return Open(file, slog.New(slog.DiscardHandler), func() time.Duration { return time.Since(b.began) }, b.id)
}

func grant(id string, ttl time.Duration) []firewall.Grant {
	return []firewall.Grant{{ID: id, Expires: time.Now().Add(ttl)}}
}

// A disk is the file of a process, on a disk that may fail.
type disk struct {
	*store.Store
	fails atomic.Pointer[func() error] // called before every use of the disk
	*atomicfile.Dir
}

// Own implements store.Dir.
func (d *disk) Own() error {
	if f := d.fails.Load(); f != nil {
		if err := (*f)(); err != nil {
			return err
		}
	}
	return d.Dir.Own()
}

func (d *disk) Path(name string) string { return d.Dir.Path(name) }
func (d *disk) fail(f func() error)     { d.fails.Store(&f) }

func newDisk(t *testing.T) *disk {
	d := &disk{Dir: atomicfile.NewDir(t.TempDir())}
	d.Store = store.New(d)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { d.Run(ctx) })
	t.Cleanup(func() {
		stop()
		wg.Wait()
		d.Store.Close()
		d.Dir.Close()
	})
	return d
}

// kill ends a journal as the end of its process does.
func kill(j *Journal) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.end.Stop()
}

// ids returns which grants are in the file.
func (d *disk) ids(t *testing.T) (ids string) {
	t.Helper()
	err := d.View(func(tx *store.Tx) error {
		b, err := tx.Bucket(bucket)
		return errors.Join(err, b.ForEach(func(id, _ []byte) error { ids += string(id); return nil }))
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestAClosedGrantIsRememberedAfterAKillUntilItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, b := newDisk(t), boot{"11111111", time.Now().Add(-time.Hour)}
		j := b.open(t, dir)
		j.Close(grant("a", time.Minute))
		j.Close(grant("b", time.Hour))
		j.Settle(t.Context())
		kill(j)
		second := b.open(t, dir)
		if second.Known() != nil || !second.Closed("a") || !second.Closed("b") || second.Closed("c") {
			t.Errorf("known %v, closed %v", second.Known(), second.ends)
		}
		time.Sleep(2 * time.Minute)
		second.Close(grant("c", time.Hour))
		second.Settle(t.Context())
		if third := b.open(t, dir); third.Closed("a") || !third.Closed("b") || !third.Closed("c") {
			t.Errorf("after a's end closed are %v", third.ends)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if ids := dir.ids(t); ids != "" {
			t.Errorf("after all ends the file has %s", ids)
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
	dir, b := newDisk(t), boot{"11111111", time.Now()}
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
	full := newDisk(t)
	blocked := b.open(t, full)
	full.fail(func() error { return errors.New("disk full") })
	if blocked.Upgrade() || blocked.Problem() == nil {
		t.Errorf("an upgrade that is not written down counts; problem %v", blocked.Problem())
	}
}

func TestAWriteThatFailsIsLoggedAndRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, b := newDisk(t), boot{"11111111", time.Now()}
		j := b.open(t, dir)
		var full atomic.Bool
		full.Store(true)
		dir.fail(func() error {
			if full.Load() {
				return errors.New("disk full")
			}
			return nil
		})
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
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if err := j.Problem(); err != nil || !b.open(t, dir).Closed("a") {
			t.Errorf("when there is room: %v", err)
		}
	})
}

func TestADiskThatHangsDelaysNoClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := newDisk(t)
		j := boot{"11111111", time.Now()}.open(t, dir)
		hang := make(chan struct{})
		dir.fail(func() error { <-hang; return nil })
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

func TestADamagedFileIsNotTrusted(t *testing.T) {
	for _, content := range []string{"", "{", `{"version":2}`, strings.Repeat(" ", 16<<20+1)} {
		dir := newDisk(t)
		if err := os.WriteFile(dir.Path(oldFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		j := boot{"11111111", time.Now()}.open(t, dir)
		if j.Known() == nil || j.Problem() == nil || j.Upgrade() {
			t.Errorf("%.10q: known %v, problem %v, upgrade %v", content, j.Known(), j.Problem(), j.Upgrade())
		}
	}
	none := Open(store.New(atomicfile.NewDir(filepath.Join("/proc", "none"))), slog.New(slog.DiscardHandler), func() time.Duration { return 0 }, "1")
	if none.Known() == nil || none.Upgrade() {
		t.Errorf("a directory that there cannot be: known %v, upgrade %v", none.Known(), none.Upgrade())
	}
}

func TestClosedGrantsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := boot{"11111111", time.Now()}.open(t, newDisk(t))
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

func TestTheFileOfTheVersionBeforeIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, b := newDisk(t), boot{"11111111", time.Now().Add(-time.Hour)}
		path := dir.Path(oldFile)
		content := `{"version":1,"boot":"11111111","closed":{"gone":3000000,"runs":7200000}}`
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		j := b.open(t, dir)
		if j.Known() != nil || !j.Closed("runs") || j.Upgrade() {
			t.Errorf("known %v, closed %v, upgrade %v", j.Known(), j.ends, j.Upgrade())
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the old file: %v", err)
		}
		if again := b.open(t, dir); !again.Closed("runs") {
			t.Error("the next start has forgotten it")
		}
	})
}

// The damaged file is set aside, and the next write starts with an empty record.
func TestADamagedFileOfTheVersionBeforeIsSetAside(t *testing.T) {
	dir, b := newDisk(t), boot{"11111111", time.Now()}
	path := dir.Path(oldFile)
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	j := b.open(t, dir)
	j.Close(grant("a", time.Hour))
	j.Settle(t.Context())
	kill(j)
	next := b.open(t, dir)
	if next.Known() != nil || !next.Closed("a") {
		t.Errorf("known %v, closed %v", next.Known(), next.ends)
	}
	if aside, err := os.ReadFile(path + ".corrupt"); err != nil || string(aside) != "{" {
		t.Errorf("aside is %q, %v", aside, err)
	}
}

// What another process had closed is known when that has gone.
func TestAFileThatCannotBeReadAtTheStartIsReadLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, b := newDisk(t), boot{"11111111", time.Now()}
		first := b.open(t, dir)
		first.Close(grant("a", time.Hour))
		first.Settle(t.Context())
		kill(first)
		var owned atomic.Bool
		owned.Store(true)
		dir.fail(func() error {
			if owned.Load() {
				return atomicfile.ErrOwned
			}
			return nil
		})
		second := b.open(t, dir)
		synctest.Wait()
		if !errors.Is(second.Known(), atomicfile.ErrOwned) || !errors.Is(second.Problem(), atomicfile.ErrOwned) {
			t.Errorf("known %v, problem %v", second.Known(), second.Problem())
		}
		owned.Store(false)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if err := second.Problem(); err != nil || !second.Closed("a") || dir.ids(t) != "a" {
			t.Errorf("problem %v, closed %v, in the file %s", err, second.ends, dir.ids(t))
		}
	})
}
