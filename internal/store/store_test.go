package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"webknock/internal/atomicfile"
)

func newStore(t *testing.T, path string) *Store {
	t.Helper()
	dir := atomicfile.NewDir(path)
	s := New(dir)
	t.Cleanup(func() { s.Close(); dir.Close() })
	return s
}

// end ends the use of a store, as the end of its process does.
func end(s *Store) {
	s.Close()
	s.dir.(*atomicfile.Dir).Close()
}

// start runs a store until the test ends or stop is called.
func start(t *testing.T, s *Store) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

func put(key, value string) func(*Tx) error {
	return func(tx *Tx) error {
		b, err := tx.Bucket("test")
		if err != nil {
			return err
		}
		return b.Put([]byte(key), []byte(value))
	}
}

func get(t *testing.T, s *Store, key string) (value string) {
	t.Helper()
	err := s.View(func(tx *Tx) error {
		b, err := tx.Bucket("test")
		value = string(b.Get([]byte(key)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// write submits a write and waits for its outcome.
func write(s *Store, do func(*Tx) error) error {
	result := make(chan error, 1)
	s.Submit(Write{Do: do, Done: func(err error) { result <- err }})
	return <-result
}

func TestAWriteThatIsDoneSurvivesReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "above", "state")
	s := newStore(t, dir)
	start(t, s)
	if err := write(s, put("k", "v")); err != nil {
		t.Fatal(err)
	}
	end(s)
	if got := get(t, newStore(t, dir), "k"); got != "v" {
		t.Errorf("read %q", got)
	}
	for path, mode := range map[string]os.FileMode{dir: os.ModeDir | 0o700, filepath.Join(dir, fileName): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s has mode %v, %v", path, info.Mode(), err)
		}
	}
}

func TestAReadOfABucketThatDoesNotExistIsEmpty(t *testing.T) {
	s := newStore(t, t.TempDir())
	err := s.View(func(tx *Tx) error {
		b, err := tx.Bucket("nothing")
		b.Reverse(nil, func(_, _ []byte) bool { t.Error("a key"); return true })
		if b.Get([]byte("k")) != nil || tx.Exists("nothing") || b.ForEach(func(_, _ []byte) error { return errors.New("a key") }) != nil {
			t.Error("it is not empty")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAWriteThatFailsMakesNoOtherFail(t *testing.T) {
	s := newStore(t, t.TempDir())
	refused := errors.New("refused")
	results := make(chan string, 3)
	submit := func(name string, do func(*Tx) error) {
		s.Submit(Write{Do: do, Done: func(err error) { results <- fmt.Sprint(name, " ", errors.Is(err, refused), " ", err == nil) }})
	}
	submit("first", put("first", "1"))
	submit("bad", func(tx *Tx) error { return errors.Join(put("bad", "1")(tx), refused) })
	submit("last", put("last", "1"))
	start(t, s)
	got := []string{<-results, <-results, <-results}
	if want := "first false true,bad true false,last false true"; strings.Join(got, ",") != want {
		t.Errorf("outcomes %q, want %q", got, want)
	}
	if get(t, s, "first")+get(t, s, "bad")+get(t, s, "last") != "11" {
		t.Errorf("first %q, bad %q, last %q", get(t, s, "first"), get(t, s, "bad"), get(t, s, "last"))
	}
}

func TestASecondProcessIsRefusedAndMayTakeOverLater(t *testing.T) {
	dir := t.TempDir()
	first, second := newStore(t, dir), newStore(t, dir)
	if err := first.Update(put("k", "v")); err != nil {
		t.Fatal(err)
	}
	if err := second.Update(put("k", "v")); !errors.Is(err, atomicfile.ErrOwned) {
		t.Errorf("a second one writes: %v", err)
	}
	if err := second.View(func(*Tx) error { return nil }); !errors.Is(err, atomicfile.ErrOwned) {
		t.Errorf("a second one reads: %v", err)
	}
	end(first)
	if err := second.Update(put("k", "v")); err != nil {
		t.Errorf("the next one writes: %v", err)
	}
	if err := first.Update(put("k", "v")); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed one writes: %v", err)
	}
}

// A disk that takes nothing: the directory is a file.
func TestAWriteToBeKeptIsCarriedOutWhenTheDiskRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s := newStore(t, dir)
		start(t, s)
		kept, dropped := make(chan error, 100), make(chan error, 100)
		s.Submit(Write{Do: put("kept", "v"), Keep: true, Done: func(err error) { kept <- err }})
		s.Submit(Write{Do: put("dropped", "v"), Done: func(err error) { dropped <- err }})
		if err1, err2 := <-kept, <-dropped; err1 == nil || err2 == nil || !strings.Contains(err1.Error(), dir) {
			t.Fatalf("outcomes %v, %v", err1, err2)
		}
		if err := <-kept; err == nil {
			t.Error("a second attempt has succeeded")
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		if err := <-kept; err != nil {
			t.Errorf("the disk is well again: %v", err)
		}
		if got, other := get(t, s, "kept"), get(t, s, "dropped"); got != "v" || other != "" {
			t.Errorf("kept %q, dropped %q", got, other)
		}
	})
}

func TestAStateDirectoryThatIsReplacedIsOpenedAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := newStore(t, dir)
	if err := s.Update(put("k", "old")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(put("k2", "new")); err != nil {
		t.Fatal(err)
	}
	end(s)
	if again := newStore(t, dir); get(t, again, "k2") != "new" || get(t, again, "k") != "" {
		t.Error("the write went into the old file")
	}
}

func TestADamagedFileIsAnErrorAndNoPanic(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"empty pages": func(b []byte) []byte { clear(b); return b },
		"garbage":     func([]byte) []byte { return []byte(strings.Repeat("no database", 2000)) },
		"half a page": func(b []byte) []byte { return b[:len(b)/8] },
		"inner pages": func(b []byte) []byte {
			for i := 2 * os.Getpagesize(); i < len(b); i++ {
				b[i] = 0xff
			}
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := newStore(t, dir)
			for i := range 100 {
				if err := s.Update(put(fmt.Sprint(i), strings.Repeat("v", 500))); err != nil {
					t.Fatal(err)
				}
			}
			end(s)
			data, err := os.ReadFile(s.Path())
			if err == nil {
				err = os.WriteFile(s.Path(), damage(data), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := newStore(t, dir).Update(put("k", "v")); err == nil {
				t.Error("it was written")
			} else if !strings.Contains(err.Error(), s.Path()) {
				t.Errorf("the error does not name the file: %v", err)
			}
		})
	}
}

func TestAFileOfANewerVersionIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir)
	if err := s.Update(func(tx *Tx) error {
		b, err := tx.Bucket("meta")
		return errors.Join(err, b.Put(versionKey, []byte{0, 0, 0, 0, 0, 0, 0, schemaVersion + 1}))
	}); err != nil {
		t.Fatal(err)
	}
	end(s)
	if err := newStore(t, dir).Update(put("k", "v")); err == nil || !strings.Contains(err.Error(), "another version of webknock") {
		t.Errorf("opened: %v", err)
	}
}

func TestReverseGoesFromTheLatestBackwards(t *testing.T) {
	s := newStore(t, t.TempDir())
	for _, k := range []string{"b", "a", "c", "d"} {
		if err := s.Update(put(k, k)); err != nil {
			t.Fatal(err)
		}
	}
	for before, want := range map[string]string{"": "dcba", "c": "ba", "bb": "ba", "z": "dcba", "a": ""} {
		var got string
		s.View(func(tx *Tx) error {
			b, _ := tx.Bucket("test")
			var from []byte
			if before != "" {
				from = []byte(before)
			}
			b.Reverse(from, func(k, _ []byte) bool { got += string(k); return true })
			return nil
		})
		if got != want {
			t.Errorf("before %q: %q, want %q", before, got, want)
		}
	}
}

// A full disk while the file is made leaves no half file behind, and none of the
// writer's other files.
func TestAFileThatCannotBeMadeLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir)
	left := filepath.Join(dir, ".webknock.db-new")
	if err := errors.Join(os.Mkdir(left, 0o700), os.WriteFile(left+"/x", nil, 0o600)); err != nil { // in the way
		t.Fatal(err)
	}
	if err := s.Update(put("k", "v")); err == nil || !strings.Contains(err.Error(), s.Path()) {
		t.Errorf("it is made: %v", err)
	}
	if _, err := os.Stat(s.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := errors.Join(os.RemoveAll(left), os.WriteFile(left, []byte("half a file"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(put("k", "v")); err != nil {
		t.Errorf("what a crash has left is in the way: %v", err)
	}
}

func TestAFileThatNothingUsesIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, t.TempDir())
		isOpen := func() bool {
			s.file.mu.Lock()
			defer s.file.mu.Unlock()
			return s.file.db != nil
		}
		for range 2 {
			if err := s.Update(put("k", "v")); err != nil || !isOpen() {
				t.Errorf("%v, open %v", err, isOpen())
			}
			time.Sleep(idleAfter + time.Millisecond)
			synctest.Wait()
			if isOpen() {
				t.Error("it is open after a second without use")
			}
		}
	})
}

// A file on a read-only file system can be read, and is written when that changes.
func TestAFileOnAReadOnlyFileSystemIsReadAndWrittenLater(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("mounting needs root (in a user namespace will do)")
	}
	dir := t.TempDir()
	mount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", flags, "size=1m"); err != nil {
			t.Fatal(err)
		}
	}
	mount(0)
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	s := newStore(t, dir)
	if err := s.Update(put("k", "v")); err != nil {
		t.Fatal(err)
	}
	end(s)
	mount(syscall.MS_REMOUNT | syscall.MS_RDONLY)
	s = newStore(t, dir)
	if got := get(t, s, "k"); got != "v" {
		t.Errorf("read %q", got)
	}
	if err := s.Update(put("k", "w")); !errors.Is(err, syscall.EROFS) {
		t.Errorf("written: %v", err)
	}
	if got := get(t, s, "k"); got != "v" {
		t.Errorf("read %q", got)
	}
	mount(syscall.MS_REMOUNT)
	if err := s.Update(put("k", "w")); err != nil || get(t, s, "k") != "w" {
		t.Errorf("writable again: %v", err)
	}
}

// Another id tells that a file is not the one from before.
func TestAFileThatIsReplacedHasAnotherID(t *testing.T) {
	s := newStore(t, t.TempDir())
	id := func() (id string) {
		if err := s.Update(func(tx *Tx) error { id = tx.ID(); return nil }); err != nil {
			t.Fatal(err)
		}
		return id
	}
	first := id()
	if first == "" || id() != first {
		t.Errorf("ids %q, then another", first)
	}
	if err := os.Remove(s.Path()); err != nil {
		t.Fatal(err)
	}
	if id() == first {
		t.Error("a new file has the id of the old one")
	}
}

func TestAFileOfTheVersionBeforeIsTakenOverOnce(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "old.json")
	s := newStore(t, dir)
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(old, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	calls := 0
	takeOver := func() error {
		return s.TakeOver("old.json", func(tx *Tx, content []byte) error {
			calls++
			if string(content) == "damaged" {
				return errors.New("it is damaged")
			}
			return put("old", string(content))(tx)
		})
	}
	if err := takeOver(); err != nil || calls != 0 {
		t.Errorf("without a file: %v", err)
	}
	if _, err := os.Stat(s.Path()); err == nil {
		t.Error("without a file to take over one is made")
	}
	write("damaged")
	if err := takeOver(); err == nil {
		t.Error("a damaged file is taken over")
	}
	if _, err := os.Stat(old); err != nil {
		t.Errorf("a damaged file is gone: %v", err)
	}
	write("first")
	if err := takeOver(); err != nil || get(t, s, "old") != "first" {
		t.Errorf("taken over is %q, %v", get(t, s, "old"), err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	// A crash before the file was removed, and changes meanwhile.
	write("first")
	calls = 0
	if err := errors.Join(s.Update(put("old", "changed")), takeOver()); err != nil || calls != 0 || get(t, s, "old") != "changed" {
		t.Errorf("taken over again: %d calls, %q, %v", calls, get(t, s, "old"), err)
	}
	// The old version has run once more.
	write("second")
	if err := takeOver(); err != nil || get(t, s, "old") != "second" {
		t.Errorf("taken over is %q, %v", get(t, s, "old"), err)
	}
}

// writerDir has a copy of the test program write until it is killed.
const writerDir = "WEBKNOCK_STORE_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		s := New(atomicfile.NewDir(dir))
		go s.Run(context.Background())
		for i := 0; ; i++ {
			if err := write(s, put(fmt.Sprintf("%06d", i), "v")); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			fmt.Println(i)
		}
	}
	os.Exit(m.Run())
}

func TestAKillLosesNothingThatWasDone(t *testing.T) {
	for range 10 {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		done := -1
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if _, err := fmt.Sscan(lines.Text(), &done); err != nil {
				t.Fatalf("the writer says %q", lines.Text())
			}
			if done == 20 {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		s := newStore(t, dir)
		for i := range done + 1 {
			if get(t, s, fmt.Sprintf("%06d", i)) != "v" {
				t.Fatalf("write %d of %d is lost", i, done)
			}
		}
	}
}

func BenchmarkSubmit(b *testing.B) {
	for _, at := range []int{1, 64} {
		b.Run(fmt.Sprint(at, " at a time"), func(b *testing.B) {
			s := New(atomicfile.NewDir(b.TempDir()))
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() { s.Run(ctx); close(done) }()
			b.Cleanup(func() { cancel(); <-done; s.Close() })
			b.SetParallelism(at)
			var wg sync.WaitGroup
			slots := make(chan struct{}, at)
			for i := range b.N {
				slots <- struct{}{}
				wg.Add(1)
				s.Submit(Write{Do: put(fmt.Sprint(i), "v"), Done: func(error) { <-slots; wg.Done() }})
			}
			wg.Wait()
		})
	}
}
