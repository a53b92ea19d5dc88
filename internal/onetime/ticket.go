package onetime

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"webknock/sequence"
)

// The format of a ticket, byte for byte, is in docs/protocol.md.
const (
	ticketVersion = 1
	ticketLabel   = "webknock ticket v1" // info of HKDF
	maxDoors      = 32                   // in a ticket
	maxTicketTime = 1 << 40              // seconds since 1970
	clearLen      = 1 + len(keyID{})     // version and key id, the associated data
	minPayload    = 8 + 4 + 1 + 1 + 1
	maxPayload    = minPayload + 32 + maxDoors*33 + 16
	minTicket     = clearLen + len(nonce{}) + minPayload + chacha20poly1305.Overhead
	maxTicket     = clearLen + len(nonce{}) + maxPayload + chacha20poly1305.Overhead
)

// keyID tells a secret from others without a hint of what it is.
type keyID [8]byte

// nonce is what makes each ticket another; none is accepted twice.
type nonce [chacha20poly1305.NonceSizeX]byte

// MarshalText writes hexadecimal.
func (k keyID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, k[:]), nil }

// UnmarshalText reads what MarshalText writes.
func (k *keyID) UnmarshalText(text []byte) error { return unhex(k[:], text) }

// MarshalText writes hexadecimal.
func (n nonce) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, n[:]), nil }

// UnmarshalText reads what MarshalText writes.
func (n *nonce) UnmarshalText(text []byte) error { return unhex(n[:], text) }

func unhex(to, text []byte) error {
	if len(text) != hex.EncodedLen(len(to)) {
		return fmt.Errorf("%d hexadecimal digits, not %d", len(text), hex.EncodedLen(len(to)))
	}
	_, err := hex.Decode(to, text)
	return err
}

// A Ticket is a request that its user has sealed.
type Ticket struct {
	Time time.Time // when it was made, in whole seconds
	User string
	Request
}

// A Request is what a ticket asks for.
type Request struct {
	TTL     time.Duration // of the grants, in whole seconds; 0: each door's own
	Doors   []string      // none: all that the sequence opens
	Address netip.Addr    // to open for; zero: the client's own
}

// Permitted reports whether a sequence that opens the given doors, and allows
// an address or does not, may do what is asked for. Nil asks for nothing.
func (r *Request) Permitted(opens []string, allowAddress bool) bool {
	return r == nil || (allowAddress || !r.Address.IsValid()) &&
		!slices.ContainsFunc(r.Doors, func(door string) bool { return !slices.Contains(opens, door) })
}

// deriveKey returns the key of a user's tickets, and its id.
func deriveKey(secret []byte) (cipher.AEAD, keyID) {
	okm, err := hkdf.Key(sha256.New, secret, nil, ticketLabel, chacha20poly1305.KeySize+len(keyID{}))
	if err != nil {
		panic(err) // more than 255 hashes were asked for
	}
	aead, err := chacha20poly1305.NewX(okm[:chacha20poly1305.KeySize])
	if err != nil {
		panic(err) // the key is of another length
	}
	return aead, keyID(okm[chacha20poly1305.KeySize:])
}

// Seal returns a ticket as the one path segment that {ticket} stands for.
func Seal(secret []byte, t Ticket) (string, error) {
	var n nonce
	rand.Read(n[:])
	return seal(secret, t, n)
}

func seal(secret []byte, t Ticket, n nonce) (string, error) {
	payload := binary.BigEndian.AppendUint64(nil, uint64(t.Time.Unix()))
	payload = binary.BigEndian.AppendUint32(payload, uint32(t.TTL/time.Second))
	payload = append(append(payload, byte(len(t.User))), t.User...)
	payload = append(payload, byte(len(t.Doors)))
	for _, door := range t.Doors {
		payload = append(append(payload, byte(len(door))), door...)
	}
	address := t.Address.AsSlice()
	payload = append(append(payload, byte(len(address))), address...)
	if back, err := parsePayload(payload); err != nil || !back.equal(t) {
		return "", errors.New("such a ticket would be refused")
	}
	aead, id := deriveKey(secret)
	ticket := append(append([]byte{ticketVersion}, id[:]...), n[:]...)
	return base64.RawURLEncoding.EncodeToString(aead.Seal(ticket, n[:], payload, ticket[:clearLen])), nil
}

func (t Ticket) equal(o Ticket) bool {
	return t.Time.Unix() == o.Time.Unix() && t.User == o.User && t.TTL == o.TTL && slices.Equal(t.Doors, o.Doors) && t.Address == o.Address
}

// openTicket returns the ticket that a path segment holds, and its nonce, or
// false if none of the keys has sealed it. There is one spelling of a ticket.
func openTicket(segment string, keys map[keyID]*user) (by *user, t Ticket, n nonce, ok bool) {
	if !WellFormed(sequence.Ticket, segment) {
		return nil, t, n, false
	}
	// The decoder passes over line ends; where the lengths are right there are
	// none. The key id comes first, so that a stranger's ticket costs little.
	var clear [clearLen]byte
	encoding := base64.RawURLEncoding.Strict()
	size, err := encoding.Decode(clear[:], []byte(segment[:encoding.EncodedLen(clearLen)]))
	if err != nil || size != clearLen || clear[0] != ticketVersion {
		return nil, t, n, false
	}
	if by = keys[keyID(clear[1:])]; by == nil {
		return nil, t, n, false
	}
	raw, err := encoding.DecodeString(segment)
	if err != nil || encoding.EncodedLen(len(raw)) != len(segment) {
		return nil, t, n, false
	}
	n = nonce(raw[clearLen:])
	payload, err := by.aead.Open(nil, n[:], raw[clearLen+len(n):], raw[:clearLen])
	if err != nil {
		return nil, t, n, false
	}
	t, err = parsePayload(payload)
	return by, t, n, err == nil && t.User == by.name
}

var (
	errShort = errors.New("the payload is too short")
	errForm  = errors.New("the payload is malformed")
	name     = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)
)

// parsePayload reads the sealed part of a ticket. What it accepts has one
// encoding only.
func parsePayload(data []byte) (t Ticket, err error) {
	take := func(n int) []byte {
		if len(data) < n {
			err = errShort
			return make([]byte, n)
		}
		taken := data[:n]
		data = data[n:]
		return taken
	}
	text := func() string { return string(take(int(take(1)[0]))) }

	at := binary.BigEndian.Uint64(take(8))
	t.TTL = time.Duration(binary.BigEndian.Uint32(take(4))) * time.Second
	t.User = text()
	named := name.MatchString(t.User)
	for count := take(1)[0]; count > 0 && err == nil; count-- {
		door := text()
		named = named && name.MatchString(door) && !slices.Contains(t.Doors, door) && len(t.Doors) < maxDoors
		t.Doors = append(t.Doors, door)
	}
	length := int(take(1)[0])
	if address := take(length); length > 0 {
		var valid bool
		t.Address, valid = netip.AddrFromSlice(address)
		named = named && valid && openable(t.Address)
	}
	switch {
	case err != nil:
		return Ticket{}, err
	case len(data) > 0 || !named || at > maxTicketTime:
		return Ticket{}, errForm
	}
	t.Time = time.Unix(int64(at), 0)
	return t, nil
}

// openable reports whether an address can be some client's.
func openable(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.Is4In6()
}
