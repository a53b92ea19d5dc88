// Package ticket seals and opens tickets: encrypted, single-use requests to open
// doors, each one path segment long. docs/protocol.md specifies the format.
//
// A client calls [Seal] with its user's secret. A server keeps a [Key] for each
// user and calls [Open]. The server must also remember the nonces of the tickets
// that it has accepted, so that each ticket counts only once.
package ticket

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
)

const (
	version    = 1
	label      = "webknock ticket v1" // info of HKDF
	maxDoors   = 32                   // in a ticket
	maxTime    = 1 << 40              // seconds since 1970
	headerLen  = 1 + len(KeyID{})     // version and key id, in clear, which are the associated data
	minPayload = 8 + 4 + 1 + 1 + 1
	maxPayload = minPayload + 32 + maxDoors*33 + 16
	minLen     = headerLen + len(Nonce{}) + minPayload + chacha20poly1305.Overhead
	maxLen     = headerLen + len(Nonce{}) + maxPayload + chacha20poly1305.Overhead
)

// KeyID identifies a secret without revealing anything of it.
type KeyID [8]byte

// Nonce makes each ticket unique. A server accepts each nonce only once.
type Nonce [chacha20poly1305.NonceSizeX]byte

// MarshalText writes hexadecimal.
func (k KeyID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, k[:]), nil }

// UnmarshalText reads what MarshalText writes.
func (k *KeyID) UnmarshalText(text []byte) error { return unhex(k[:], text) }

// MarshalText writes hexadecimal.
func (n Nonce) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, n[:]), nil }

// UnmarshalText reads what MarshalText writes.
func (n *Nonce) UnmarshalText(text []byte) error { return unhex(n[:], text) }

func unhex(to, text []byte) error {
	if len(text) != hex.EncodedLen(len(to)) {
		return fmt.Errorf("it has %d characters (%d hexadecimal digits)", len(text), hex.EncodedLen(len(to)))
	}
	_, err := hex.Decode(to, text)
	return err
}

// A Ticket is a request together with who makes it and when.
type Ticket struct {
	Time time.Time // when the client sealed it, in whole seconds
	User string
	Request
}

// A Request is what a ticket asks for.
type Request struct {
	TTL     time.Duration // of the grants, in whole seconds; 0: each door's own
	Doors   []string      // to open; empty: all that the sequence opens
	Address netip.Addr    // to open for; zero: the client's own
}

// Permitted reports whether a sequence may do what the request asks for: the
// sequence opens the given doors, and allowAddress says whether it allows a
// ticket to name an address. A nil request asks for nothing and is permitted.
func (r *Request) Permitted(opens []string, allowAddress bool) bool {
	return r == nil || (allowAddress || !r.Address.IsValid()) &&
		!slices.ContainsFunc(r.Doors, func(door string) bool { return !slices.Contains(opens, door) })
}

// A Key opens the tickets of one user.
type Key struct {
	ID   KeyID
	aead cipher.AEAD
}

// NewKey derives the key of a user's tickets from the user's secret (HKDF-SHA256,
// RFC 5869).
func NewKey(secret []byte) Key {
	okm, err := hkdf.Key(sha256.New, secret, nil, label, chacha20poly1305.KeySize+len(KeyID{}))
	if err != nil {
		panic(err) // only if more than 255 hashes of key material are asked for
	}
	aead, err := chacha20poly1305.NewX(okm[:chacha20poly1305.KeySize])
	if err != nil {
		panic(err) // only if the key has another length
	}
	return Key{KeyID(okm[chacha20poly1305.KeySize:]), aead}
}

// Seal returns a ticket as the path segment that takes the place of {ticket}. It
// returns an error for a ticket that every server would refuse.
func Seal(secret []byte, t Ticket) (string, error) {
	var n Nonce
	rand.Read(n[:])
	return SealWith(secret, t, n)
}

// SealWith is like Seal, with a given nonce, for test vectors. Never use a nonce
// twice with the same secret.
func SealWith(secret []byte, t Ticket, n Nonce) (string, error) {
	return NewKey(secret).seal(t, n)
}

func (k Key) seal(t Ticket, n Nonce) (string, error) {
	payload := binary.BigEndian.AppendUint64(nil, uint64(t.Time.Unix()))
	payload = binary.BigEndian.AppendUint32(payload, uint32(t.TTL/time.Second))
	payload = append(append(payload, byte(len(t.User))), t.User...)
	payload = append(payload, byte(len(t.Doors)))
	for _, door := range t.Doors {
		payload = append(append(payload, byte(len(door))), door...)
	}
	address := t.Address.AsSlice()
	payload = append(append(payload, byte(len(address))), address...)
	if back, err := parsePayload(payload); err != nil || !back.Equal(t) {
		return "", errors.New("every server would refuse this ticket (check its user, doors, address and time)")
	}
	ticket := append(append([]byte{version}, k.ID[:]...), n[:]...)
	return base64.RawURLEncoding.EncodeToString(k.aead.Seal(ticket, n[:], payload, ticket[:headerLen])), nil
}

// Equal reports whether both tickets have the same content.
func (t Ticket) Equal(o Ticket) bool {
	return t.Time.Unix() == o.Time.Unix() && t.User == o.User && t.TTL == o.TTL && slices.Equal(t.Doors, o.Doors) && t.Address == o.Address
}

// WellFormed reports whether a path segment has the length of a ticket.
func WellFormed(segment string) bool {
	return len(segment) >= base64.RawURLEncoding.EncodedLen(minLen) && len(segment) <= base64.RawURLEncoding.EncodedLen(maxLen)
}

// Open returns the ticket in a path segment, the id of the key that sealed it,
// and its nonce. It reports false for any other segment. Each ticket has exactly
// one spelling. The function key must return the key with an id, or nil.
func Open(segment string, key func(KeyID) *Key) (t Ticket, id KeyID, n Nonce, ok bool) {
	if !WellFormed(segment) {
		return t, id, n, false
	}
	// Look at the key id first, so that a stranger's ticket costs little. The
	// decoder skips line ends; the comparisons of lengths refuse segments that
	// contain some.
	var header [headerLen]byte
	encoding := base64.RawURLEncoding.Strict()
	size, err := encoding.Decode(header[:], []byte(segment[:encoding.EncodedLen(headerLen)]))
	if err != nil || size != headerLen || header[0] != version {
		return t, id, n, false
	}
	by := key(KeyID(header[1:]))
	if by == nil {
		return t, id, n, false
	}
	raw, err := encoding.DecodeString(segment)
	if err != nil || encoding.EncodedLen(len(raw)) != len(segment) {
		return t, id, n, false
	}
	n = Nonce(raw[headerLen:])
	payload, err := by.aead.Open(nil, n[:], raw[headerLen+len(n):], raw[:headerLen])
	if err != nil {
		return t, id, n, false
	}
	t, err = parsePayload(payload)
	return t, by.ID, n, err == nil
}

var (
	errShort = errors.New("the payload is too short")
	errForm  = errors.New("the payload is malformed")
	name     = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)
)

// parsePayload reads the sealed part of a ticket. It accepts only one encoding of
// each ticket.
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
	case len(data) > 0 || !named || at > maxTime:
		return Ticket{}, errForm
	}
	t.Time = time.Unix(int64(at), 0)
	return t, nil
}

// openable reports whether an address can be the address of a client.
func openable(a netip.Addr) bool {
	if first := a.As16()[12]; a.Is4() && (first == 0 || first >= 240) {
		return false // this network (0.0.0.0/8), reserved or broadcast (240.0.0.0/4)
	}
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.Is4In6()
}
