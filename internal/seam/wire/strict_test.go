package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"golang.org/x/sys/unix"

	"webknock/internal/onetime"
	"webknock/internal/seam"
	"webknock/internal/seam/seamtest"
	"webknock/internal/ticket"
)

// A liar is a front that can send anything. It reads what it is asked, and answers that.
type liar struct {
	*net.UnixConn
	client *FrontClient
	keeper *seamtest.Keeper
}

// serving returns a front that may ask, because its keeper has committed it.
func lying(t testing.TB, commits bool) liar {
	t.Helper()
	a, b := seamtest.Pair(t)
	keeper := &seamtest.Keeper{Used: onetime.NewUsed()}
	l := liar{b, NewFrontClient(a, keeper), keeper}
	t.Cleanup(func() { l.client.Close() })
	if !commits {
		return l
	}
	done := make(chan error)
	go func() { done <- l.client.Commit(context.Background()) }()
	var buf []byte
	h, _, err := readFrame(b, &buf)
	if err != nil {
		t.Fatal(err)
	}
	l.Write(frame(header{form: answer, kind: h.kind, id: h.id}, nil))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return l
}

// raw returns a frame as bytes, with a length of its own.
func raw(length int, f form, k kind, files uint16, id, timeout uint64, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(length))
	b = append(b, byte(f), byte(k))
	b = binary.BigEndian.AppendUint16(b, files)
	b = binary.BigEndian.AppendUint64(b, id)
	return append(binary.BigEndian.AppendUint64(b, timeout), payload...)
}

func item(t testing.TB, v any) []byte {
	t.Helper()
	b, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Whatever a front sends that no front of this version sends ends the connection.
func TestAFrontThatBreaksARuleIsEnded(t *testing.T) {
	good, err := encode(completion)
	if err != nil {
		t.Fatal(err)
	}
	whole := func(f form, k kind, id uint64, payload []byte) []byte {
		return raw(len(payload), f, k, 0, id, 0, payload)
	}
	for name, sent := range map[string][]byte{
		"an unknown kind":                 whole(notice, 200, 0, nil),
		"no kind":                         whole(notice, 0, 0, nil),
		"an unknown form":                 whole(9, complete, 0, good),
		"a notice with an id":             whole(notice, complete, 1, good),
		"a notice as a request":           whole(request, complete, 1, good),
		"a request as a notice":           whole(notice, recordCodes, 0, good),
		"a request without an id":         whole(request, usedCodes, 0, nil),
		"what is the keeper's to ask":     whole(request, commit, 1, nil),
		"descriptors":                     raw(0, request, usedCodes, 1, 1, 0, nil),
		"a notice with a time limit":      raw(len(good), notice, complete, 0, 0, 5, good),
		"an endless time limit":           raw(0, request, usedCodes, 0, 1, 1<<63, nil),
		"too long a notice":               raw(methods[complete].argument+1, notice, complete, 0, 0, 0, nil),
		"the longest notice":              raw(1<<32-1, notice, knocks, 0, 0, 0, nil),
		"an answer that nobody waits for": whole(answer, ping, 1000, nil),
		"an answer to another question":   whole(answer, state, 1, nil),
		"an answer as long as it likes":   raw(1, answer, ping, 0, 1, 0, []byte{0}),
		"a cancellation of nothing":       whole(cancel, usedCodes, 7, nil),
		"nothing in a notice":             whole(notice, complete, 0, nil),
		"something in a question":         whole(request, usedCodes, 1, item(t, 1)),
		"half an item":                    whole(notice, complete, 0, good[:len(good)-1]),
		"bytes behind the item":           whole(notice, complete, 0, append(slices.Clone(good), 0)),
		"two items":                       whole(notice, complete, 0, append(slices.Clone(good), good...)),
		"an unknown field":                whole(notice, complete, 0, item(t, map[string]any{"Sequence": "ssh", "Door": "ssh"})),
		"a field in lower case":           whole(notice, complete, 0, item(t, map[string]any{"sequence": "ssh"})),
		"a field that is there twice":     whole(notice, complete, 0, []byte("\xa2\x68Sequence\x61a\x68Sequence\x61b")),
		"an item without length":          whole(notice, complete, 0, []byte("\xbf\x68Sequence\x61a\xff")),
		"a tag":                           whole(notice, complete, 0, append([]byte{0xc1}, good...)),
		"another type":                    whole(notice, complete, 0, item(t, map[string]any{"Sequence": 1})),
		"a list":                          whole(notice, complete, 0, item(t, []any{})),
		"an address that is none":         whole(notice, complete, 0, item(t, map[string]any{"Client": []byte{1, 2, 3}})),
		"a time that is none":             whole(notice, complete, 0, item(t, map[string]any{"At": "yesterday"})),
		"a deep item":                     whole(notice, complete, 0, slices.Concat([]byte("\xa1\x67Request"), []byte(strings.Repeat("\x81", 60)), []byte{0})),
		"a list longer than its bytes":    whole(notice, knocks, 0, []byte("\xa1\x66Knocks\x9b\x00\x00\x00\x00\x7f\xff\xff\xff")),
		"too many knocks":                 whole(notice, knocks, 0, item(t, map[string]any{"Knocks": make([]struct{}, 1025)})),
		"an id that was used":             append(whole(request, usedCodes, 5, nil), whole(request, usedCodes, 5, nil)...),
		"an earlier id":                   append(whole(request, usedCodes, 5, nil), whole(request, usedCodes, 4, nil)...),
		"text":                            []byte("GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			l := lying(t, true)
			l.Write(sent)
			<-l.client.Done()
			if err := l.client.Err(); !errors.Is(err, ErrProtocol) {
				t.Errorf("the connection has ended for %v", err)
			}
			if said := l.keeper.Take(); len(said) > 0 {
				t.Errorf("the keeper was asked %q", said)
			}
			l.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.Copy(io.Discard, l); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the front's end is still open")
			}
		})
	}
}

func TestAFrontAsksOnlyWhileItServes(t *testing.T) {
	good, err := encode(completion)
	if err != nil {
		t.Fatal(err)
	}
	for name, sent := range map[string][]byte{
		"complete": frame(header{form: notice, kind: complete}, good), "used codes": frame(header{form: request, kind: usedCodes, id: 1}, nil),
	} {
		l := lying(t, false)
		l.Write(sent)
		<-l.client.Done()
		if err := l.client.Err(); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "before") || len(l.keeper.Take()) > 0 {
			t.Errorf("%s before the commit: %v", name, err)
		}
		l = lying(t, true)
		done := make(chan error)
		go func() { done <- l.client.Stop(t.Context()) }()
		var buf []byte
		h, _, err := readFrame(l, &buf)
		if err != nil {
			t.Fatal(err)
		}
		l.Write(frame(header{form: notice, kind: complete}, good)) // while it stops
		l.Write(frame(header{form: answer, kind: h.kind, id: h.id}, nil))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if said := l.keeper.Take(); len(said) != 1 {
			t.Errorf("while it stops: %q", said)
		}
		l.Write(sent)
		<-l.client.Done()
		if err := l.client.Err(); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "after") || len(l.keeper.Take()) > 0 {
			t.Errorf("%s after the stop: %v", name, err)
		}
	}
}

func TestAFrontAsksOnlySoMuchAtOnce(t *testing.T) {
	l := lying(t, true)
	goOn := make(chan struct{})
	defer close(goOn)
	l.keeper.Do(func() { l.keeper.OnRecord = func() { <-goOn } })
	used, err := encode(onetime.NewUsed())
	if err != nil {
		t.Fatal(err)
	}
	l.Write(frame(header{form: request, kind: recordCodes, id: 1}, used))
	l.Write(frame(header{form: request, kind: recordCodes, id: 2}, used))
	<-l.client.Done()
	if err := l.client.Err(); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "at once") {
		t.Errorf("two records at once: %v", err)
	}
}

// The keeper takes no descriptors: the kernel closes them.
func TestTheKeeperTakesNoDescriptors(t *testing.T) {
	l := lying(t, true)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	good, err := encode(completion)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.WriteMsgUnix(frame(header{form: notice, kind: complete}, good), unix.UnixRights(int(w.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if n, err := r.Read(make([]byte, 1)); err != io.EOF { // nobody has the other end any more
		t.Errorf("%d, %v", n, err)
	}
}

func TestAFrontThatDoesNotReadHoldsNobodyUp(t *testing.T) {
	a, b := seamtest.Pair(t)
	defer b.Close()
	f := NewFrontClient(a, new(seamtest.Keeper))
	defer f.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	big := seam.Configuration{Users: []seam.User{{Secret: make([]byte, 1<<20)}}}
	if err := f.Prepare(ctx, big, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("prepare: %v", err)
	}
	if err := f.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ping: %v", err)
	}
}

// What the keeper does not read is lost at a bound, and counted.
func TestAKeeperThatDoesNotReadCostsNoMemory(t *testing.T) {
	a, b := seamtest.Pair(t)
	defer a.Close()
	c := newConn(b, "the keeper", nil)
	c.start()
	defer c.close()
	k := &KeeperClient{c}
	long := completion
	request := *completion.Request
	request.Path = strings.Repeat("x", 8<<10)
	long.Request = &request
	for range 4 * maxWaiting / (8 << 10) {
		k.Complete(long)
	}
	if lost := k.Lost(); lost == 0 {
		t.Error("none is lost")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.notices > maxWaiting {
		t.Errorf("%d bytes wait", c.notices)
	}
}

// FuzzPayload decodes what a front may send. What it takes comes out the same when it is
// sent once more.
func FuzzPayload(f *testing.F) {
	kinds := []kind{complete, ban, knocks, recordCodes, state, clients, recent}
	for i, v := range []any{completion, seam.Ban{At: at}, knocksArgs{Missed: 1}, onetime.NewUsed(), seam.State{Clients: 1}, []seam.Client{{Step: 1}}, seam.Recent{}} {
		payload, err := encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), payload)
	}
	f.Fuzz(func(t *testing.T, which uint8, payload []byte) {
		switch kinds[int(which)%len(kinds)] {
		case complete:
			again[seam.Completion](t, payload)
		case ban:
			again[seam.Ban](t, payload)
		case knocks:
			again[knocksArgs](t, payload)
		case recordCodes:
			again[onetime.Used](t, payload)
		case state:
			again[seam.State](t, payload)
		case clients:
			again[[]seam.Client](t, payload)
		case recent:
			again[seam.Recent](t, payload)
		}
	})
}

func again[T any](t *testing.T, payload []byte) {
	t.Helper()
	v, err := decodeTo[T](payload, true)
	if err != nil {
		return
	}
	once, err := encode(v)
	if err != nil {
		return // a year beyond 9999, for example
	}
	w, err := decodeTo[T](once, true)
	if err != nil {
		t.Fatalf("%+v is not decoded again: %v", v, err)
	}
	if twice, err := encode(w); err != nil || len(twice) != len(once) {
		t.Errorf("%+v has become %+v, %v", v, w, err)
	}
}

// A front that asks and asks, and reads no answer, takes no memory without end.
func TestAFrontThatReadsNoAnswersIsEnded(t *testing.T) {
	l := lying(t, true)
	l.SetWriteDeadline(time.Now().Add(time.Minute))
	spent := l.keeper.Used.Of(ticket.KeyID{1})
	for n := range 1000 {
		spent.Tickets[ticket.Nonce{byte(n), byte(n >> 8)}] = 1
	}
	for id := uint64(1); id < 1<<12; id++ {
		for !l.client.conn.idleSince(id - 1) {
			time.Sleep(time.Millisecond)
		}
		if _, err := l.Write(frame(header{form: request, kind: usedCodes, id: id}, nil)); err != nil {
			break
		}
	}
	select {
	case <-l.client.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on")
	}
	if err := l.client.Err(); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "does not read") {
		t.Errorf("it is ended: %v", err)
	}
}

// idleSince reports whether everything that was asked up to a request is done.
func (c *conn) idleSince(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed != nil || c.latest >= id && len(c.running) == 0
}
