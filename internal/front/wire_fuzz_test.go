package front

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"webknock/internal/seam"
	"webknock/internal/seam/seamtest"
	"webknock/internal/seam/wire"
)

var encoding, _ = cbor.EncOptions{String: cbor.StringToByteString, Time: cbor.TimeRFC3339Nano}.EncMode()

// FuzzServeFront has a front serve a keeper that says anything, well formed or not: a
// configuration in any order with what else there is to ask. It must not panic, and must
// end when the keeper has gone.
func FuzzServeFront(f *testing.F) {
	f.Add([]byte("\x01\x02\x08\x07\x09\x0a\x0b\x06"))
	f.Add([]byte("\x02\x03\x01\x03\x02\x0c\x0d\x04\x05"))
	f.Add([]byte("\x01\x02\xffGET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte("\x01\x11\x22\x33\x44\x02\x06\x02"))
	f.Fuzz(func(t *testing.T, data []byte) {
		keeper, own := seamtest.Pair(t)
		var front *Front
		ended := make(chan error)
		made := make(chan struct{})
		go func() {
			ended <- wire.ServeFront(context.Background(), own, func(k seam.Keeper) seam.Front {
				front = New(Options{Keeper: k, Log: slog.New(slog.DiscardHandler)})
				close(made)
				return front
			})
		}()
		<-made
		go io.Copy(io.Discard, keeper)
		k := saying{conn: keeper, data: data}
		for len(k.data) > 0 {
			k.say()
		}
		keeper.CloseWrite()
		<-ended
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		front.Stop(ctx)
		if ctx.Err() != nil {
			t.Error("the front does not stop")
		}
	})
}

// saying is a keeper that says what a fuzzer wants.
type saying struct {
	conn *net.UnixConn
	data []byte
	id   uint64
}

func (k *saying) bytes(n int) []byte {
	n = min(n, len(k.data))
	b := k.data[:n]
	k.data = k.data[n:]
	return b
}

func (k *saying) number() int {
	if b := k.bytes(1); len(b) > 0 {
		return int(b[0])
	}
	return 0
}

func (k *saying) text() string { return string(k.bytes(k.number() % 32)) }

// say sends one frame: its first byte is the kind, as package wire documents them; 0xff
// stands for anything else.
func (k *saying) say() {
	k.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	kind := k.number()
	if kind == 0xff {
		k.conn.Write(k.bytes(k.number()))
		return
	}
	const request, notice = 1, 2
	form := byte(request)
	var payload []byte
	value := func(v any) { payload, _ = encoding.Marshal(v) }
	switch kind {
	case 1:
		c := seam.Configuration{Clients: seam.Clients{Max: k.number(), IPv4Prefix: k.number(), IPv6Prefix: k.number()}}
		for range k.number() % 4 {
			s := seam.Sequence{Name: k.text(), Strict: k.number()%2 > 0}
			for range k.number() % 4 {
				kinds := []string{"exact", "hash", "regex", "template", k.text()}
				s.Steps = append(s.Steps, seam.Step{Kind: kinds[k.number()%len(kinds)], Trigger: "/" + k.text(), Within: time.Duration(len(s.Steps)) * time.Second})
			}
			c.Sequences = append(c.Sequences, s)
			c.Users = append(c.Users, seam.User{Name: k.text(), Secret: k.bytes(20)})
		}
		if k.number()%4 == 0 {
			c.Listeners = append(c.Listeners, seam.ListenerOptions{Address: k.text(), TLS: &seam.TLS{Certificates: []seam.Certificate{{Chain: k.bytes(20)}}}})
		}
		value(map[string]any{"Configuration": c, "Addresses": []string{}})
	case 4:
		value(map[string]any{"Address": k.text(), "All": []seam.Certificate{{Chain: k.bytes(20)}}})
	case 5:
		value([]seam.Challenge{{Domain: k.text(), Path: k.text(), Certificate: &seam.Certificate{}}})
	case 9:
		form = notice
		value(k.number()%2 > 0)
	case 11, 12, 13:
		payload = k.bytes(k.number())
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
	b = append(b, form, byte(kind), 0, 0)
	var id uint64
	if form == request {
		k.id++
		id = k.id
	}
	b = binary.BigEndian.AppendUint64(b, id)
	b = binary.BigEndian.AppendUint64(b, uint64(time.Second)*uint64(2-form))
	k.conn.Write(append(b, payload...))
}
