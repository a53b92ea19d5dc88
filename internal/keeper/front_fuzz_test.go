package keeper

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"webknock/firewall"
	"webknock/internal/event"
	"webknock/internal/onetime"
	"webknock/internal/seam"
	"webknock/internal/seam/seamtest"
	"webknock/internal/seam/wire"
	"webknock/internal/ticket"
)

// takenOver is a front that somebody has taken over: it says what a fuzzer wants, in
// frames of its own making.
type takenOver struct {
	*net.UnixConn
	data []byte // what is left of the fuzzer's
	id   uint64
}

// The forms and kinds of frames, as package wire documents them.
const (
	aRequest, aNotice, anAnswer                                       = 1, 2, 3
	kindCommit                                                        = 2
	kindComplete, kindBan, kindKnocks, kindUsedCodes, kindRecordCodes = 65, 66, 67, 68, 69
)

var encoding, _ = cbor.EncOptions{String: cbor.StringToByteString, Time: cbor.TimeRFC3339Nano}.EncMode()

func (f *takenOver) send(form, kind byte, id uint64, payload []byte) {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
	b = append(b, form, kind, 0, 0)
	b = binary.BigEndian.AppendUint64(b, id)
	b = append(b, make([]byte, 8)...)
	f.SetWriteDeadline(time.Now().Add(10 * time.Second))
	f.Write(append(b, payload...))
}

// value sends a value that can be decoded.
func (f *takenOver) value(form, kind byte, v any) {
	payload, err := encoding.Marshal(v)
	if err != nil {
		panic(err)
	}
	var id uint64
	if form == aRequest {
		f.id++
		id = f.id
	}
	f.send(form, kind, id, payload)
}

func (f *takenOver) byte() byte {
	if len(f.data) == 0 {
		return 0
	}
	b := f.data[0]
	f.data = f.data[1:]
	return b
}

func (f *takenOver) bytes(n int) []byte {
	n = min(n, len(f.data))
	b := f.data[:n]
	f.data = f.data[n:]
	return b
}

func pick[T any](f *takenOver, all ...T) T { return all[int(f.byte())%len(all)] }

func (f *takenOver) text(all ...string) string {
	if f.byte() > 240 {
		return string(f.bytes(int(f.byte())))
	}
	return pick(f, all...)
}

func (f *takenOver) address() netip.Addr {
	switch f.byte() % 8 {
	case 0:
		return netip.AddrFrom4([4]byte{f.byte(), f.byte(), f.byte(), f.byte()})
	case 1:
		a := [16]byte{}
		copy(a[:], f.bytes(16))
		return netip.AddrFrom16(a).WithZone(f.text("", "eth0"))
	}
	return netip.MustParseAddr(pick(f, "192.0.2.7", "198.51.100.9", "2001:db8::7", "0.0.0.0", "::", "127.0.0.1", "224.0.0.1", "::ffff:1.2.3.4", "192.168.1.1", "255.255.255.255"))
}

func (f *takenOver) duration() time.Duration {
	return pick(f, 0, time.Second, time.Minute, time.Hour, -time.Second, 1<<62, -1<<62)*time.Duration(1+f.byte()%3) + time.Duration(f.byte())
}

func (f *takenOver) time() time.Time { return time.Now().Add(f.duration()) }

var fuzzedSecrets = []ticket.KeyID{ticket.NewKey([]byte("12345678901234567890")).ID, ticket.NewKey([]byte("abcdefghijklmnopqrst")).ID, {1}}

func (f *takenOver) counter() int64 {
	return counterOf(time.Now()) + int64(int8(f.byte())/16) + int64(pick(f, 0, 0, 0, 1<<60, -1<<60))
}

// act does one thing that the protocol knows.
func (f *takenOver) act() {
	switch f.byte() % 8 {
	case 0, 1, 2:
		c := seam.Completion{
			Sequence: f.text("plain", "code", "ticket", "anywhere", "other", ""), Client: f.address(), At: f.time(), User: f.text("", "alice", "bob"),
		}
		if f.byte()%4 > 0 {
			c.Code = &seam.Code{Secret: pick(f, fuzzedSecrets...), Counter: pick(f, 0, f.counter()), Ticket: ticket.Nonce{f.byte() % 4}}
		}
		if f.byte()%2 > 0 {
			c.Ticket = &ticket.Request{TTL: f.duration()}
			for range f.byte() % 4 {
				c.Ticket.Doors = append(c.Ticket.Doors, f.text("ssh", "web", "other", "none", ""))
			}
			if f.byte()%2 > 0 {
				c.Ticket.Address = f.address()
			}
		}
		if f.byte()%4 == 0 {
			c.Request = &event.Request{Path: string(f.bytes(20)), Client: f.address()}
		}
		f.value(aNotice, kindComplete, c)
	case 3:
		bits := int(f.byte())
		f.value(aNotice, kindBan, seam.Ban{
			Ban: firewall.Ban{Client: netip.PrefixFrom(f.address(), pick(f, 32, 64, 128, bits)), Until: f.time()}, At: f.time(),
			ViaProxy: f.byte()%2 > 0, Reason: f.text(event.Decoy, event.TooManyKnocks, ""),
		})
	case 4:
		var all []event.Knock
		for range f.byte() {
			all = append(all, event.Knock{
				At: f.time(), Client: f.address(), Listener: f.text("127.0.0.1:1", "x"), Outcome: event.Outcome(f.text("missed", "matched", "")),
				Sequence: f.text("plain", ""), Step: int(int8(f.byte())), Steps: int(int8(f.byte())), Why: f.text("", "w\n"),
			})
		}
		f.value(aNotice, kindKnocks, struct {
			Knocks []event.Knock
			Missed uint64
		}{all, uint64(f.byte())})
	case 5, 6:
		used := onetime.NewUsed()
		used.Mark = pick(f, 0, time.Now().Unix(), 1<<60, -1)
		for range f.byte() % 4 {
			of := used.Of(pick(f, fuzzedSecrets...))
			of.Counter = pick(f, 0, f.counter())
			for range f.byte() % 4 {
				of.Tickets[ticket.Nonce{f.byte() % 4}] = pick(f, time.Now().Unix(), 0, 1<<60, -1<<60)
			}
		}
		f.value(aRequest, kindRecordCodes, used)
	case 7:
		f.id++
		f.send(aRequest, kindUsedCodes, f.id, nil)
	}
}

// FuzzFront has a front that was taken over say anything, in any order, well formed or
// not. Whatever it says, no door opens that the configuration does not open, for no
// longer than it says, for nobody who can be nobody, and nobody is banned who is exempt.
func FuzzFront(f *testing.F) {
	f.Add(false, []byte{})
	f.Add(true, []byte("\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00"))
	f.Add(true, []byte("record, then complete \x05\x00\x01\x00\x00\x00\x01\x01\x00\x00\x02\x02\x02\x00\x01\x01\x01\x00\x00"))
	f.Add(true, append([]byte{0xff}, "GET / HTTP/1.1\r\n\r\n"...))
	for seed := range byte(16) {
		long := make([]byte, 600)
		for i := range long {
			long[i] = byte(i*i)*seed + byte(i)*31
		}
		f.Add(true, long)
	}
	f.Fuzz(func(t *testing.T, commits bool, data []byte) {
		k := askedKeeper(t, guarded)
		started := time.Now()
		stranger, client := takeOver(t, k, commits)
		stranger.data = data
		for len(stranger.data) > 0 {
			if stranger.byte() == 0xff { // anything
				stranger.SetWriteDeadline(time.Now().Add(10 * time.Second))
				stranger.Write(stranger.bytes(1 + int(stranger.byte())))
				continue
			}
			stranger.act()
		}
		stranger.CloseWrite()
		<-client.Done()
		k.mustHoldWhatIsConfigured(t, started)
		if !commits {
			if grants, err := k.gate.Grants(t.Context()); err != nil || len(grants)+len(k.bans.list.All()) > 0 {
				t.Errorf("before it serves it has opened %v, %v", grants, err)
			}
		}
	})
}

// takeOver returns a front that was taken over, when it has been committed or before.
func takeOver(t *testing.T, k *Keeper, commits bool) (*takenOver, *wire.FrontClient) {
	t.Helper()
	own, taken := seamtest.Pair(t)
	client := wire.NewFrontClient(own, k)
	t.Cleanup(func() {
		client.Close()
		taken.Close()
	})
	f := &takenOver{UnixConn: taken}
	if commits {
		done := make(chan error)
		go func() { done <- client.Commit(context.Background()) }()
		if _, err := io.ReadFull(f, make([]byte, 24)); err != nil {
			t.Fatal(err)
		}
		f.send(anAnswer, kindCommit, 1, nil)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	go io.Copy(io.Discard, f)
	return f, client
}

func (k *Keeper) mustHoldWhatIsConfigured(t *testing.T, started time.Time) {
	t.Helper()
	cfg := k.config.Load()
	grants, err := k.gate.Grants(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, g := range grants {
		count[g.Door]++
		at := slices.IndexFunc(cfg.Doors, func(d firewall.Door) bool { return d.Name == g.Door })
		seq := sequenceOf(cfg, g.Sequence)
		switch {
		case at < 0 || seq == nil || !slices.Contains(seq.Opens, g.Door):
			t.Errorf("%s is open by %q", g.Door, g.Sequence)
		case g.Expires.Sub(g.Opened) > cfg.Doors[at].MaxTTL+time.Second || g.Opened.Before(started.Add(-time.Second)):
			t.Errorf("%s is open from %v to %v", g.Door, g.Opened, g.Expires)
		case count[g.Door] > cfg.Doors[at].MaxGrants:
			t.Errorf("%s has %d grants", g.Door, count[g.Door])
		case !firewall.ValidClient(g.Client.Addr()) && !g.Client.Addr().IsLoopback() || !g.Client.IsSingleIP():
			t.Errorf("%s is open for %v", g.Door, g.Client)
		case (g.User != "") != hasVariable(seq, "{totp}", "{ticket}") || g.User != "" && !seq.Admits(g.User):
			t.Errorf("%s is open for user %q", g.Door, g.User)
		}
	}
	for _, b := range k.bans.list.All() {
		if b.Client != firewall.Offender(b.Client.Addr()) || b.Until.After(time.Now().Add(cfg.Shield.Ban.For)) ||
			slices.ContainsFunc(guardOf(cfg, nil).Allow, b.Client.Overlaps) {
			t.Errorf("%v is banned until %v", b.Client, b.Until)
		}
	}
	used, err := k.codes.store.Load()
	if err != nil {
		t.Fatal(err)
	}
	for id, s := range used.Secrets {
		if id == fuzzedSecrets[2] || s.Counter > counterOf(time.Now().Add(clockSlack)) || s.Counter < 0 || used.Mark > time.Now().Add(clockSlack).Unix() {
			t.Errorf("recorded: %x %d, mark %d", id, s.Counter, used.Mark)
		}
	}
	if n := len(k.codes.tickets) + len(k.codes.spent); n > maxSpent {
		t.Errorf("%d codes are remembered", n)
	}
}
