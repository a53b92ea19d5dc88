package onetime

import (
	"context"
	"encoding/base32"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pquerna/otp/hotp"
	"pgregory.net/rapid"

	"webknock/internal/atomicfile"
	"webknock/internal/store"
	"webknock/sequence"
)

// Whatever the order of knocks, writes, crashes and steps of the clock: nothing
// opens twice. What opens is what Await lets through, and a crash loses all but
// what was written.
func TestNoCodeOpensTwice(t *testing.T) {
	type code struct {
		variable, text string
	}
	rapid.Check(t, func(t *rapid.T) {
		now := start
		disk := NewUsed()
		opened := map[code]int{}
		boot := func() *Verifier {
			v := newVerifier(User{"alice", aliceSecret}, User{"bob", bobSecret})
			v.used = disk.clone()
			return v
		}
		v := boot()
		var writing *batch
		finish := func() {
			if writing != nil {
				v.end(*writing)
				writing = nil
			}
		}
		var made []code
		knock := func(c code) {
			clear(v.wrong)
			p := v.Verify(home, now, []Claim{{Variable: c.variable, Code: c.text, Admits: everybody}}, false)[0]
			if p == nil {
				return
			}
			v.Await(p, func(err error) {
				if err == nil {
					opened[c]++
				}
				if opened[c] > 1 {
					t.Fatalf("%v has opened %d times", c, opened[c])
				}
			})
		}
		secrets := map[string][]byte{"alice": aliceSecret, "bob": bobSecret}
		ticket := func(name string, at time.Time) {
			sealed, err := sealWith(secrets[name], Ticket{Time: at, User: name}, Nonce{byte(len(made) >> 8), byte(len(made))})
			if err != nil {
				t.Fatal(err)
			}
			made = append(made, code{sequence.Ticket, sealed})
			knock(made[len(made)-1])
		}
		t.Repeat(map[string]func(*rapid.T){
			"a new ticket": func(t *rapid.T) {
				at := now.Add(time.Duration(rapid.SampledFrom([]int{0, 0, -60, 60, -61, 61}).Draw(t, "off")) * time.Second)
				ticket(rapid.SampledFrom([]string{"alice", "bob"}).Draw(t, "user"), at)
			},
			"a ticket of later, and the clock set back": func(t *rapid.T) {
				now = now.Add(130 * time.Second)
				ticket("bob", now)
				now = now.Add(-130 * time.Second)
			},
			"a new code": func(t *rapid.T) {
				counter := now.Unix()/30 + rapid.Int64Range(-1, 1).Draw(t, "counter")
				text, err := hotp.GenerateCode(base32.StdEncoding.EncodeToString(aliceSecret), uint64(counter))
				if err != nil {
					t.Fatal(err)
				}
				c := code{sequence.TOTP, text}
				if !slices.Contains(made, c) {
					made = append(made, c)
				}
				knock(c)
			},
			"an old one": func(t *rapid.T) {
				if len(made) == 0 {
					t.Skip("no code yet")
				}
				knock(rapid.SampledFrom(made).Draw(t, "code"))
			},
			"a whole write": func(t *rapid.T) {
				if writing != nil {
					t.Skip("one write at a time")
				}
				b := v.begin()
				if b.used != nil {
					disk.Add(*b.used)
				}
				v.end(b)
			},
			"clock": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.SampledFrom([]int{1, 30, 130, 600, -1, -30, -130, -600}).Draw(t, "step")) * time.Second)
			},
			"begin to write": func(t *rapid.T) {
				if writing != nil {
					t.Skip("one write at a time")
				}
				b := v.begin()
				writing = &b
			},
			"the disk has it": func(t *rapid.T) {
				if writing != nil && writing.used != nil {
					disk.Add(*writing.used)
				}
				finish()
			},
			"the disk is full": func(t *rapid.T) {
				if writing != nil && writing.used != nil {
					writing.err = os.ErrInvalid
				}
				finish()
			},
			"a crash": func(t *rapid.T) {
				if writing != nil && writing.used != nil && rapid.Bool().Draw(t, "written") {
					disk.Add(*writing.used)
				}
				writing = nil
				v = boot()
			},
		})
	})
}

// A process is a verifier of alice with a file in a state directory.
type process struct {
	*Verifier
	file *store.Store
	kill func()
}

func on(t testing.TB, path string) process {
	dir := atomicfile.NewDir(path)
	file := store.New(dir)
	ctx, stop := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { file.Run(ctx) })
	p := process{New(NewDisk(file), slog.New(slog.DiscardHandler)), file, sync.OnceFunc(func() {
		stop()
		run.Wait()
		file.Close()
		dir.Close()
	})}
	t.Cleanup(p.kill)
	p.Configure([]User{{"alice", aliceSecret}})
	return p
}

// write has the uses recorded, and waits for it.
func (p process) write() {
	for p.flush() {
		runtime.Gosched()
	}
	answered := make(chan struct{}) // those that wait are, in the order of writes
	p.file.Submit(store.Write{Do: func(*store.Tx) error { return nil }, Done: func(error) { close(answered) }})
	<-answered
}

func TestAwaitIsAnsweredWhenTheUseIsRecorded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	var done []error
	wait := func(err error) { done = append(done, err) }
	v := on(t, dir)
	p := v.Verify(home, start, []Claim{{Variable: sequence.TOTP, Code: totpAt(t, aliceSecret, start), Admits: everybody}}, false)[0]
	v.Await(p, wait)
	if len(done) != 0 {
		t.Fatal("answered before it was written")
	}
	v.write()
	if len(done) != 1 || done[0] != nil || v.Problem() != nil {
		t.Fatalf("answers %v, problem %v", done, v.Problem())
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if v.Await(p, wait); len(done) != 2 || done[1] != nil {
		t.Errorf("a later one: %v", done)
	}
	if other := on(t, dir); other.totp(totpAt(t, aliceSecret, start.Add(period)), start) != "" || other.Problem() == nil {
		t.Errorf("another process uses the same file: %v", other.Problem())
	}
	v.kill()
	next := on(t, dir)
	if got := next.totp(totpAt(t, aliceSecret, start), start); got != "" || next.Problem() != nil {
		t.Errorf("after a restart it is a code of %q", got)
	}
	v.Configure([]User{{"alice", bobSecret}})
	if v.Await(p, wait); len(done) != 3 || done[2] == nil {
		t.Errorf("with another secret: %v", done)
	}
}

func TestCodesOpenNothingUntilTheirUseCanBeRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		state := filepath.Join(dir, "state")
		v := on(t, state)
		if err := errors.Join(os.Remove(state), os.WriteFile(state, nil, 0o600)); err != nil { // no directory can be made here
			t.Fatal(err)
		}
		ended := make(chan struct{})
		ctx, stop := context.WithCancel(t.Context())
		defer func() { stop(); <-ended }()
		go func() { v.Run(ctx); close(ended) }()
		code := func(off time.Duration) error {
			p := v.Verify(home, start, []Claim{{Variable: sequence.TOTP, Code: totpAt(t, aliceSecret, start.Add(off)), Admits: everybody}}, false)[0]
			if p == nil {
				return os.ErrInvalid
			}
			answer := make(chan error)
			v.Await(p, func(err error) { answer <- err })
			return <-answer
		}
		if err := code(-period); err == nil || !strings.Contains(err.Error(), state) {
			t.Errorf("a code while nothing can be recorded: %v", err)
		}
		if err := v.Problem(); err == nil || !strings.Contains(err.Error(), state) {
			t.Errorf("problem %v", err)
		}
		if err := os.Remove(state); err != nil {
			t.Fatal(err)
		}
		time.Sleep(retry + time.Millisecond) // in the bubble
		synctest.Wait()
		if err := v.Problem(); err != nil {
			t.Errorf("it is not mended: %v", err)
		}
		if err := code(-period); err != os.ErrInvalid {
			t.Errorf("a used code: %v", err)
		}
		if err := code(0); err != nil {
			t.Errorf("a new code: %v", err)
		}
	})
}

func TestAwaitDuringTheWriteIsAnsweredWithIt(t *testing.T) {
	for _, failure := range []error{nil, os.ErrInvalid} {
		v := on(t, t.TempDir())
		p := v.Verify(home, start, []Claim{{Variable: sequence.TOTP, Code: totpAt(t, aliceSecret, start), Admits: everybody}}, false)[0]
		b := v.begin()
		answers := 0
		v.Await(p, func(err error) {
			if answers++; !errors.Is(err, failure) {
				t.Errorf("answer %v, want %v", err, failure)
			}
		})
		b.err = failure
		v.end(b)
		if answers != 1 {
			t.Errorf("%d answers", answers)
		}
	}
}

// A file that is put away while codes come gets a successor that knows all that
// was used.
func TestAReplacedFileHasAllEarlierUsedCodes(t *testing.T) {
	dir := t.TempDir()
	v := on(t, dir)
	used := v.Verify(home, start, []Claim{{Variable: sequence.TOTP, Code: totpAt(t, aliceSecret, start), Admits: everybody}}, false)[0]
	v.write()
	if err := os.Remove(filepath.Join(dir, "webknock.db")); err != nil {
		t.Fatal(err)
	}
	ticket := mustSeal(t, aliceSecret, Ticket{Time: start, User: "alice"})
	p := v.Verify(home, start, []Claim{{Variable: sequence.Ticket, Code: ticket, Admits: everybody}}, false)[0]
	answers := 0
	v.Await(p, func(err error) {
		if answers++; err != nil {
			t.Error(err)
		}
	})
	v.write()
	v.write() // the first has found out
	v.kill()
	if answers != 1 {
		t.Errorf("%d answers", answers)
	}
	next := on(t, dir)
	if used == nil || next.totp(totpAt(t, aliceSecret, start), start)+next.ticket(ticket, start) != "" {
		t.Error("a code that was used before the file was replaced is good again")
	}
}

func TestADiskThatHangsIsAProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := on(t, t.TempDir())
		p := v.Verify(home, start, []Claim{{Variable: sequence.TOTP, Code: totpAt(t, aliceSecret, start), Admits: everybody}}, false)[0]
		var answer error
		v.Await(p, func(err error) { answer = err })
		b := v.begin()
		time.Sleep(maxWait) // in the bubble
		if err := v.Problem(); err != nil {
			t.Errorf("too early: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if v.Problem() == nil {
			t.Error("nobody is told")
		}
		v.end(b)
		if answer == nil || v.Problem() != nil {
			t.Errorf("when it is done: answer %v, problem %v", answer, v.Problem())
		}
	})
}

func TestAFileThatCannotBeReadIsNotForgotten(t *testing.T) {
	const valid = `{"version":1,"mark":0,"secrets":{}}` + "\n"
	for _, content := range []string{"", "{}", "null", valid + "x", valid[:len(valid)-3], strings.Replace(valid, ":1,", ":2,", 1),
		`{"version":1,"mark":-1,"secrets":{}}`, `{"version":1,"mark":1,"secrets":{"0102":{"counter":1,"tickets":{}}}}`,
		`{"version":1,"mark":1,"secrets":{"0102030405060708":null}}`, `{"version":1,"mark":1,"secrets":{"0102030405060708":{"counter":1,"tickets":{"00":1}}}}`} {
		dir := t.TempDir()
		path := filepath.Join(dir, "onetime.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		v := on(t, dir)
		if got := v.totp(totpAt(t, aliceSecret, start), start); got != "" {
			t.Errorf("%q: a code of %q counts", content, got)
		}
		if err := v.Problem(); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%q: problem %v", content, err)
		}
		v.write()
		if data, err := os.ReadFile(path); err != nil || string(data) != content {
			t.Errorf("%q was replaced by %q, %v", content, data, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		v.write()
		if got := v.totp(totpAt(t, aliceSecret, start), start); got != "" || v.Problem() != nil {
			t.Errorf("%q moved away: a code that came before is one of %q, %v", content, got, v.Problem())
		}
		if got := v.totp(totpAt(t, aliceSecret, start.Add(period)), start); got != "alice" {
			t.Errorf("%q moved away: a new code is one of %q", content, got)
		}
	}
}

// What comes while another process has the file is used up, and so is what that
// process has noted meanwhile.
func TestCodesVerifiedBeforeTheRecordIsLoadedAreUsed(t *testing.T) {
	dir := t.TempDir()
	first, second := on(t, dir), on(t, dir)
	ticket := func() string { return mustSeal(t, aliceSecret, Ticket{Time: start, User: "alice"}) }
	seen, used := ticket(), ticket()
	if got := second.totp(totpAt(t, aliceSecret, start), start) + second.ticket(seen, start); got != "" {
		t.Errorf("without the file: codes of %q", got)
	}
	if got := first.ticket(used, start); got != "alice" {
		t.Fatalf("a ticket of %q", got)
	}
	first.write()
	first.kill()
	second.write()
	if err := second.Problem(); err != nil {
		t.Fatal(err)
	}
	if got := second.totp(totpAt(t, aliceSecret, start), start) + second.ticket(seen, start) + second.ticket(used, start); got != "" {
		t.Errorf("used codes of %q", got)
	}
	if got := second.ticket(ticket(), start); got != "alice" {
		t.Errorf("a new ticket of %q", got)
	}
	second.write()
	second.kill()
	if third := on(t, dir); third.ticket(seen, start)+third.ticket(used, start) != "" || third.Problem() != nil {
		t.Errorf("after a restart they are good again, %v", third.Problem())
	}
}
