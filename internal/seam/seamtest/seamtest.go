// Package seamtest has the contract of the seam: what front and keeper may rely on,
// whatever carries their questions and answers.
package seamtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"sync"
	"testing"
	"time"

	"webknock/firewall"
	"webknock/internal/event"
	"webknock/internal/onetime"
	"webknock/internal/seam"
	"webknock/internal/ticket"

	"golang.org/x/sys/unix"
)

// A Join joins a front and a keeper. It returns the front as the keeper sees it, and the
// keeper as the front sees it.
type Join func(t *testing.T, front seam.Front, keeper seam.Keeper) (seam.Front, seam.Keeper)

// Contract tests what a Join returns.
func Contract(t *testing.T, join Join) {
	for name, test := range map[string]func(*testing.T, Join){
		"EveryQuestionArrives":                    everyQuestionArrives,
		"ErrorsKeepTheirIdentity":                 errorsKeepTheirIdentity,
		"AContextEndsWhatItIsFor":                 aContextEndsWhatItIsFor,
		"QuestionsDoNotWaitForEachOther":          questionsDoNotWaitForEachOther,
		"CompletionsKeepTheirOrderAndComeBefore":  completionsKeepTheirOrder,
		"TheFrontHasTheSocketsAfterTheyAreClosed": theFrontHasTheSockets,
	} {
		t.Run(name, func(t *testing.T) { test(t, join) })
	}
}

// Front is a front for tests: it notes what it is asked, and answers what it is told to.
type Front struct {
	Record

	Err       error
	Status    seam.State
	All       []seam.Client
	OnPrepare func([]seam.Socket)
	OnStop    func()
	OnPing    func(context.Context) error
}

// Keeper is a keeper for tests.
type Keeper struct {
	Record

	Err      error
	Used     onetime.Used
	OnRecord func()
}

// Record notes what was asked.
type Record struct {
	mu   sync.Mutex
	said []string
}

// Note notes a question.
func (r *Record) Note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, fmt.Sprintf(format, args...))
}

// Do does something that nobody else does meanwhile, such as setting a field.
func (r *Record) Do(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func get[T any](r *Record, field *T) (v T) {
	r.Do(func() { v = *field })
	return v
}

// Take returns what was noted since it was called last.
func (r *Record) Take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	said := r.said
	r.said = nil
	return said
}

var (
	_ seam.Front  = (*Front)(nil)
	_ seam.Keeper = (*Keeper)(nil)
)

func (f *Front) Prepare(_ context.Context, c seam.Configuration, sockets []seam.Socket) error {
	f.Note("prepare %+v", c)
	for _, s := range sockets {
		f.Note("with %s", s.Address)
	}
	if do := get(&f.Record, &f.OnPrepare); do != nil {
		do(sockets)
	}
	return get(&f.Record, &f.Err)
}

func (f *Front) Commit(context.Context) error {
	f.Note("commit")
	return get(&f.Record, &f.Err)
}

func (f *Front) Abort() { f.Note("abort") }

func (f *Front) UseCertificates(_ context.Context, address string, all []seam.Certificate) error {
	f.Note("certificates %s %s", address, all)
	return get(&f.Record, &f.Err)
}

func (f *Front) UseChallenges(_ context.Context, pending []seam.Challenge) error {
	f.Note("challenges %d", len(pending))
	return get(&f.Record, &f.Err)
}

func (f *Front) Stop(context.Context) error {
	f.Note("stop")
	if do := get(&f.Record, &f.OnStop); do != nil {
		do()
	}
	return get(&f.Record, &f.Err)
}

func (f *Front) Ping(ctx context.Context) error {
	if do := get(&f.Record, &f.OnPing); do != nil {
		return do(ctx)
	}
	return get(&f.Record, &f.Err)
}

func (f *Front) State() seam.State   { return get(&f.Record, &f.Status) }
func (f *Front) WatchKnocks(on bool) { f.Note("watch %v", on) }

func (f *Front) Clients(context.Context) ([]seam.Client, error) {
	return get(&f.Record, &f.All), get(&f.Record, &f.Err)
}

// Recent returns a knock of the address.
func (f *Front) Recent(_ context.Context, addr netip.Addr) (seam.Recent, error) {
	return seam.Recent{
		Client: netip.PrefixFrom(addr, addr.BitLen()), Progress: get(&f.Record, &f.All), BannedUntil: time.Unix(9, 0),
		Knocks: []seam.Recalled{{Knock: event.Knock{At: time.Unix(0, 7), Outcome: event.Missed, Why: "w"}, Path: "/\xff", ViaProxy: true, Cause: seam.NoStep}},
	}, get(&f.Record, &f.Err)
}

func (f *Front) AdoptBans(all []firewall.Ban) { f.Note("adopt %v", all) }

func (f *Front) Unban(client netip.Prefix) { f.Note("unban %v", client) }

func (k *Keeper) Complete(c seam.Completion) { k.Note("complete %s", c.Sequence) }
func (k *Keeper) Ban(b seam.Ban)             { k.Note("ban %v", b) }

func (k *Keeper) Knocks(all []event.Knock, missed uint64) { k.Note("knocks %v and %d", all, missed) }

func (k *Keeper) UsedCodes() (onetime.Used, error) {
	return get(&k.Record, &k.Used), get(&k.Record, &k.Err)
}

func (k *Keeper) RecordCodes(used onetime.Used) error {
	if do := get(&k.Record, &k.OnRecord); do != nil {
		do()
	}
	k.Note("record %d", used.Mark)
	return get(&k.Record, &k.Err)
}

// joined returns a front and a keeper that are joined and serve.
func joined(t *testing.T, join Join) (f *Front, k *Keeper, front seam.Front, keeper seam.Keeper) {
	t.Helper()
	f, k = new(Front), &Keeper{Used: onetime.NewUsed()}
	front, keeper = join(t, f, k)
	if err := front.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Take()
	return f, k, front, keeper
}

// settle returns when what was told without waiting has arrived.
func settle(t *testing.T, keeper seam.Keeper) {
	t.Helper()
	if _, err := keeper.UsedCodes(); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, r *Record, want ...string) {
	t.Helper()
	if got := r.Take(); !reflect.DeepEqual(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
}

func everyQuestionArrives(t *testing.T, join Join) {
	f, k, front, keeper := joined(t, join)
	ctx := t.Context()
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	c := seam.Configuration{
		Sequences: []seam.Sequence{{Name: "ssh", Steps: []seam.Step{{Kind: "exact", Trigger: "/\xff"}}}},
		Users:     []seam.User{{Name: "alice", Secret: []byte{0, 1}}},
	}
	certificate := seam.Certificate{Chain: []byte("c"), Key: []byte("k")}
	if err := errors.Join(front.Prepare(ctx, c, nil), front.Commit(ctx), front.UseCertificates(ctx, ":1", []seam.Certificate{certificate}),
		front.UseChallenges(ctx, make([]seam.Challenge, 3)), front.Ping(ctx)); err != nil {
		t.Error(err)
	}
	front.Abort()
	front.WatchKnocks(true)
	ban := firewall.Ban{Client: netip.MustParsePrefix("192.0.2.1/32"), Until: at}
	front.AdoptBans([]firewall.Ban{ban})
	front.Unban(ban.Client)
	must(t, &f.Record, fmt.Sprintf("prepare %+v", c), "commit", fmt.Sprintf("certificates :1 %s", []seam.Certificate{certificate}), "challenges 3",
		"abort", "watch true", fmt.Sprintf("adopt %v", []firewall.Ban{ban}), "unban 192.0.2.1/32")

	f.Do(func() {
		f.Status = seam.State{Clients: 7, Problems: []string{"p"}, Knocks: []seam.KnockCount{{Listener: ":1", Outcome: event.Missed, Count: 9}}}
		f.All = []seam.Client{{Client: ban.Client, Sequence: "ssh", Step: 1, Steps: 2, Last: at, Expires: at}}
	})
	if got := front.State(); got.Clients != 7 || len(got.Problems) != 1 || !reflect.DeepEqual(got.Knocks, f.Status.Knocks) {
		t.Errorf("state %+v", got)
	}
	if got, err := front.Clients(ctx); err != nil || !reflect.DeepEqual(got, f.All) {
		t.Errorf("clients %+v, %v", got, err)
	}
	want, _ := f.Recent(ctx, ban.Client.Addr())
	if got, err := front.Recent(ctx, ban.Client.Addr()); err != nil || len(got.Knocks) != 1 || got.Knocks[0].Path != want.Knocks[0].Path ||
		!got.Knocks[0].Knock.At.Equal(want.Knocks[0].Knock.At) || !got.BannedUntil.Equal(want.BannedUntil) || got.Client != want.Client || len(got.Progress) != len(want.Progress) {
		t.Errorf("recent %+v, %v", got, err)
	}

	used := onetime.NewUsed()
	used.Of(ticket.KeyID{1}).Counter = 5
	k.Do(func() { k.Used = used })
	if got, err := keeper.UsedCodes(); err != nil || !reflect.DeepEqual(got, used) {
		t.Errorf("used %+v, %v", got, err)
	}
	used.Mark = 3
	if err := keeper.RecordCodes(used); err != nil {
		t.Error(err)
	}
	keeper.Complete(seam.Completion{Sequence: "ssh", Request: &event.Request{Path: "/\xff"}})
	told := seam.Ban{Ban: ban, At: at, ViaProxy: true, Reason: "r"}
	keeper.Ban(told)
	knocks := []event.Knock{{At: at, Client: ban.Client.Addr(), Outcome: event.Matched}}
	keeper.Knocks(knocks, 4)
	settle(t, keeper)
	must(t, &k.Record, "record 3", "complete ssh", fmt.Sprintf("ban %v", told), fmt.Sprintf("knocks %v and 4", knocks))
}

func errorsKeepTheirIdentity(t *testing.T, join Join) {
	f, k, front, keeper := joined(t, join)
	for _, sentinel := range []error{seam.ErrStopped, context.Canceled, context.DeadlineExceeded} {
		f.Do(func() { f.Err = fmt.Errorf("what for: %w", sentinel) })
		for name, err := range map[string]error{
			"prepare": front.Prepare(t.Context(), seam.Configuration{}, nil), "commit": front.Commit(t.Context()), "ping": front.Ping(t.Context()),
			"certificates": front.UseCertificates(t.Context(), "", nil),
		} {
			if !errors.Is(err, sentinel) || err.Error() != get(&f.Record, &f.Err).Error() {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	k.Do(func() { k.Err = onetime.ErrForgotten })
	if err := keeper.RecordCodes(onetime.NewUsed()); !errors.Is(err, onetime.ErrForgotten) {
		t.Errorf("record: %v", err)
	}
	k.Do(func() { k.Err = errors.New("the disk \xff is full") })
	if _, err := keeper.UsedCodes(); err == nil || err.Error() != get(&k.Record, &k.Err).Error() || errors.Is(err, onetime.ErrForgotten) {
		t.Errorf("used: %v", err)
	}
}

func aContextEndsWhatItIsFor(t *testing.T, join Join) {
	f, _, front, _ := joined(t, join)
	asked, ended := make(chan struct{}, 2), make(chan struct{}, 2)
	f.Do(func() {
		f.OnPing = func(ctx context.Context) error {
			asked <- struct{}{}
			<-ctx.Done()
			ended <- struct{}{}
			return ctx.Err()
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan error)
	go func() { answered <- front.Ping(ctx) }()
	<-asked
	cancel()
	if err := <-answered; !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	<-ended
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := front.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("too slow: %v", err)
	}
	f.Do(func() { f.OnPing = nil })
	if err := front.Ping(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func questionsDoNotWaitForEachOther(t *testing.T, join Join) {
	f, k, front, keeper := joined(t, join)
	const many = 32
	here, goOn := make(chan struct{}, many+1), make(chan struct{})
	wait := func() {
		here <- struct{}{}
		<-goOn
	}
	f.Do(func() {
		f.OnPing = func(context.Context) error {
			wait()
			return nil
		}
	})
	k.Do(func() { k.OnRecord = wait })
	var all sync.WaitGroup
	for range many {
		all.Go(func() {
			if err := front.Ping(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Go(func() {
		if err := keeper.RecordCodes(onetime.NewUsed()); err != nil {
			t.Error(err)
		}
	})
	for range many + 1 {
		<-here
	}
	settle(t, keeper)
	front.WatchKnocks(true)
	close(goOn)
	all.Wait()
}

// What the front tells before it answers has arrived when the answer comes.
func completionsKeepTheirOrder(t *testing.T, join Join) {
	f, k, front, keeper := joined(t, join)
	var want []string
	for i := range 1000 {
		want = append(want, fmt.Sprint("complete s", i))
	}
	f.Do(func() {
		f.OnStop = func() {
			for i := range 1000 {
				keeper.Complete(seam.Completion{Sequence: fmt.Sprint("s", i)})
			}
		}
	})
	if err := front.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	must(t, &k.Record, want...)
}

func theFrontHasTheSockets(t *testing.T, join Join) {
	f, _, front, _ := joined(t, join)
	const many = 300 // more than go in one message
	var sockets []seam.Socket
	for i := range many {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		file, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		sockets = append(sockets, seam.Socket{Address: fmt.Sprint(i, " ", l.Addr()), File: file})
	}
	taken := make(chan net.Listener, many)
	f.Do(func() {
		f.OnPrepare = func(sockets []seam.Socket) {
			for i, s := range sockets {
				l, err := net.FileListener(s.File)
				if err != nil {
					t.Error(err)
					return
				}
				if want := fmt.Sprint(i, " ", l.Addr()); s.Address != want {
					t.Errorf("%s has the socket %s", s.Address, want)
				}
				taken <- l
			}
		}
	})
	err := front.Prepare(t.Context(), seam.Configuration{}, sockets)
	for _, s := range sockets {
		s.File.Close()
	}
	var got []net.Listener
	for len(taken) > 0 {
		got = append(got, <-taken)
	}
	if err != nil || len(got) != many {
		t.Fatalf("%d sockets, %v", len(got), err)
	}
	conn, err := net.Dial("tcp", got[many-1].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if conn, err = got[many-1].Accept(); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	for _, l := range got {
		l.Close()
	}
}

// Pair returns two connected sockets, as those between front and keeper. They are closed
// at the end of the test.
func Pair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "seam")
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = conn.(*net.UnixConn)
		t.Cleanup(func() { conn.Close() })
	}
	return conns[0], conns[1]
}
