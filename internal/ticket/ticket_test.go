package ticket

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	aliceSecret = []byte("12345678901234567890") // that of RFC 6238's test vectors
	bobSecret   = []byte("abcdefghijklmnopqrst")
)

// keysOf returns the keys of alice and bob by their ids.
func keysOf() func(KeyID) *Key {
	alice, bob := NewKey(aliceSecret), NewKey(bobSecret)
	return func(id KeyID) *Key {
		switch id {
		case alice.ID:
			return &alice
		case bob.ID:
			return &bob
		}
		return nil
	}
}

func mustSeal(t testing.TB, secret []byte, ticket Ticket) string {
	t.Helper()
	s, err := Seal(secret, ticket)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAnOpenedTicketEqualsTheSealedOne(t *testing.T) {
	keys := keysOf()
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.StringMatching(`[a-z][a-z0-9_-]{0,31}`)
		want := Ticket{
			Time: time.Unix(rapid.Int64Range(0, maxTime).Draw(t, "time"), 0),
			User: "alice",
			Request: Request{
				TTL:   time.Duration(rapid.Uint32().Draw(t, "ttl")) * time.Second,
				Doors: rapid.SliceOfNDistinct(names, 0, maxDoors, rapid.ID[string]).Draw(t, "doors"),
				Address: rapid.SampledFrom([]netip.Addr{{}, netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7"),
					netip.MustParseAddr("10.0.0.1")}).Draw(t, "address"),
			},
		}
		segment, err := Seal(aliceSecret, want)
		if err != nil {
			t.Fatal(err)
		}
		got, id, _, ok := Open(segment, keys)
		if !ok || id != NewKey(aliceSecret).ID || !got.Equal(want) {
			t.Fatalf("sealed %+v, read %+v, %v", want, got, ok)
		}
		i := rapid.IntRange(0, len(segment)-1).Draw(t, "place")
		c := rapid.Byte().Draw(t, "byte")
		if other := segment[:i] + string([]byte{c}) + segment[i+1:]; other != segment {
			if _, _, _, ok := Open(other, keys); ok {
				t.Fatalf("%q was accepted beside %q", other, segment)
			}
		}
	})
}

func TestEachTicketHasOneSpelling(t *testing.T) {
	keys := keysOf()
	ticket := mustSeal(t, aliceSecret, Ticket{Time: time.Unix(1e9, 0), User: "alice"})
	for what, other := range map[string]string{
		"as it is":          ticket,
		"with padding":      ticket + "=",
		"more padding":      ticket + "==",
		"a line end":        ticket[:20] + "\n" + ticket[20:],
		"line ends":         ticket[:20] + "\r\n\r\n" + ticket[20:],
		"a line end behind": ticket + "\n",
		"a space":           ticket + " ",
		"one more":          ticket + "A",
		"cut":               ticket[:len(ticket)-1],
		"empty":             "",
		"twice":             ticket + ticket,
		"far too long":      strings.Repeat(ticket, 50),
	} {
		if _, _, _, ok := Open(other, keys); ok != (other == ticket) {
			t.Errorf("%s: accepted %v", what, ok)
		}
	}
	// The last character of 71 bytes has two bits too many; they are zero.
	ticket = mustSeal(t, aliceSecret, Ticket{Time: time.Unix(1e9, 0), User: "alice", Request: Request{Doors: []string{"d"}}})
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, ticket[len(ticket)-1])
	for bits := 1; bits < 4; bits++ {
		if _, _, _, ok := Open(ticket[:len(ticket)-1]+alphabet[last+bits:last+bits+1], keys); ok {
			t.Errorf("trailing bits %b: accepted", bits)
		}
	}
}

// payload is a valid payload with one part replaced.
func payload(parts map[string]string) []byte {
	var b bytes.Buffer
	for _, part := range [][2]string{{"time", "\x00\x00\x00\x00\x3b\x9a\xca\x00"}, {"ttl", "\x00\x00\x00\x3c"}, {"user", "\x05alice"}, {"doors", "\x02\x03ssh\x03web"}, {"address", "\x04\xc0\x00\x02\x07"}, {"end", ""}} {
		if other, replaced := parts[part[0]]; replaced {
			b.WriteString(other)
		} else {
			b.WriteString(part[1])
		}
	}
	return b.Bytes()
}

func TestMalformedPayloadsAreRefused(t *testing.T) {
	if _, err := parsePayload(payload(nil)); err != nil {
		t.Fatalf("the valid one: %v", err)
	}
	for what, parts := range map[string]map[string]string{
		"trailing bytes":           {"end": "\x00"},
		"no address":               {"address": ""},
		"a cut address":            {"address": "\x04\xc0\x00\x02"},
		"an address of 5 bytes":    {"address": "\x05\xc0\x00\x02\x07\x00"},
		"unspecified":              {"address": "\x04\x00\x00\x00\x00"},
		"loopback":                 {"address": "\x04\x7f\x00\x00\x01"},
		"multicast":                {"address": "\x04\xe0\x00\x00\x01"},
		"unspecified IPv6":         {"address": "\x10" + strings.Repeat("\x00", 16)},
		"loopback IPv6":            {"address": "\x10" + strings.Repeat("\x00", 15) + "\x01"},
		"multicast IPv6":           {"address": "\x10\xff\x02" + strings.Repeat("\x00", 13) + "\x01"},
		"IPv4-mapped":              {"address": "\x10" + strings.Repeat("\x00", 10) + "\xff\xff\xc0\x00\x02\x07"},
		"a door twice":             {"doors": "\x02\x03ssh\x03ssh"},
		"a door without a name":    {"doors": "\x01\x00"},
		"a door in capitals":       {"doors": "\x01\x03SSH"},
		"a name that is too long":  {"doors": "\x01\x21" + strings.Repeat("a", 33)},
		"a door with a line end":   {"doors": "\x01\x04ssh\n"},
		"fewer doors than counted": {"doors": "\x03\x03ssh\x03web"},
		"33 doors":                 {"doors": "\x21" + strings.Repeat("\x01a", 33)},
		"no user":                  {"user": "\x00"},
		"a user in capitals":       {"user": "\x05Alice"},
		"the end of time":          {"time": "\xff\xff\xff\xff\xff\xff\xff\xff"},
		"nothing":                  {"time": "", "ttl": "", "user": "", "doors": "", "address": ""},
	} {
		if ticket, err := parsePayload(payload(parts)); err == nil {
			t.Errorf("%s: read as %+v", what, ticket)
		}
	}
	for _, refused := range []Ticket{
		{Time: time.Unix(-1, 0), User: "alice"},
		{Time: time.Unix(1, 0), User: "alice", Request: Request{TTL: time.Millisecond}},
		{Time: time.Unix(1, 0), User: "alice", Request: Request{TTL: 1 << 62}},
		{Time: time.Unix(1, 0), User: strings.Repeat("a", 300)},
	} {
		if _, err := Seal(aliceSecret, refused); err == nil {
			t.Errorf("%+v was sealed", refused)
		}
	}
}

func TestTicketOfAnUnknownKeyIsRefused(t *testing.T) {
	if _, _, _, ok := Open(mustSeal(t, []byte("another secret, nobody's"), Ticket{Time: time.Unix(1e9, 0), User: "alice"}), keysOf()); ok {
		t.Error("a ticket of nobody was accepted")
	}
}

// The vectors in the document are what the code makes.
func TestVectorsOfTheProtocolDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	field := func(block, name string) string {
		m := regexp.MustCompile(`(?m)^` + name + ` +(\S*)$`).FindStringSubmatch(block)
		if m == nil {
			t.Fatalf("no %s in %q", name, block)
		}
		return m[1]
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	blocks := regexp.MustCompile("(?s)```vector\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 3 {
		t.Fatalf("%d vectors", len(blocks))
	}
	for _, m := range blocks {
		block := m[1]
		at, err := time.Parse(time.RFC3339, field(block, "time"))
		if err != nil {
			t.Fatal(err)
		}
		ttl, err := time.ParseDuration(field(block, "ttl"))
		if err != nil {
			t.Fatal(err)
		}
		ticket := Ticket{Time: at, User: field(block, "user"), Request: Request{TTL: ttl}}
		if doors := field(block, "doors"); doors != "-" {
			ticket.Doors = strings.Split(doors, ",")
		}
		if address := field(block, "address"); address != "-" {
			ticket.Address = netip.MustParseAddr(address)
		}
		secret := unhex(field(block, "secret"))
		if id := NewKey(secret).ID; !bytes.Equal(id[:], unhex(field(block, "keyid"))) {
			t.Errorf("key id %x, the document has %s", id, field(block, "keyid"))
		}
		got, err := SealWith(secret, ticket, Nonce(unhex(field(block, "nonce"))))
		if err != nil || got != field(block, "ticket") {
			t.Errorf("%+v: %s, %v; the document has %s", ticket, got, err, field(block, "ticket"))
		}
	}
}

// FuzzTicket feeds the parser of payloads, which only who knows a secret
// reaches, and that of segments, which everybody does.
func FuzzTicket(f *testing.F) {
	keys := keysOf()
	f.Add(payload(nil), "x")
	f.Add(payload(map[string]string{"address": "\x00", "doors": "\x00"}), mustSeal(f, aliceSecret, Ticket{Time: time.Unix(1, 0), User: "alice"}))
	f.Fuzz(func(t *testing.T, data []byte, segment string) {
		if ticket, err := parsePayload(data); err == nil {
			again, err := Seal(aliceSecret, ticket)
			if err != nil {
				t.Fatalf("%+v was read, and cannot be written: %v", ticket, err)
			}
			if back, _, _, ok := Open(again, keys); ticket.User == "alice" && (!ok || !back.Equal(ticket)) {
				t.Fatalf("%+v comes back as %+v", ticket, back)
			}
			if len(data) > maxPayload {
				t.Fatalf("%d bytes were read", len(data))
			}
		}
		if _, id, n, ok := Open(segment, keys); ok {
			raw, err := base64.RawURLEncoding.DecodeString(segment)
			if err != nil || base64.RawURLEncoding.EncodeToString(raw) != segment || !bytes.Contains(raw, n[:]) || keys(id) == nil {
				t.Fatalf("%q was accepted", segment)
			}
		}
	})
}
