// Package ticket makes and opens tickets: sealed, single-use requests to open
// doors, each one path segment long. docs/protocol.md has the format.
//
// A client calls [Seal]. A server keeps a [Key] for each user and calls [Open];
// it must also remember the nonce, so that a ticket counts once.
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
	clearLen   = 1 + len(KeyID{})     // version and key id, the associated data
	minPayload = 8 + 4 + 1 + 1 + 1
	maxPayload = minPayload + 32 + maxDoors*33 + 16
	minLen     = clearLen + len(Nonce{}) + minPayload + chacha20poly1305.Overhead
	maxLen     = clearLen + len(Nonce{}) + maxPayload + chacha20poly1305.Overhead
)

// KeyID identifies a secret without revealing anything of it.
type KeyID [8]byte

// Nonce makes each ticket unique. A server accepts none twice.
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
		panic(err) // more than 255 hashes were asked for
	}
	aead, err := chacha20poly1305.NewX(okm[:chacha20poly1305.KeySize])
	if err != nil {
		panic(err) // the key is of another length
	}
	return Key{KeyID(okm[chacha20poly1305.KeySize:]), aead}
}

// Seal returns a ticket as the path segment that {ticket} stands for. It returns
// an error for a ticket that every server would refuse.
func Seal(secret []byte, t Ticket) (string, error) {
	var n Nonce
	rand.Read(n[:])
	return SealWith(secret, t, n)
}

// SealWith is Seal with a chosen nonce, for test vectors. A nonce must never be
// used twice with one secret.
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
		return "", errors.New("such a ticket would be refused")
	}
	ticket := append(append([]byte{version}, k.ID[:]...), n[:]...)
	return base64.RawURLEncoding.EncodeToString(k.aead.Seal(ticket, n[:], payload, ticket[:clearLen])), nil
}

// Equal reports whether both tickets ask for the same.
func (t Ticket) Equal(o Ticket) bool {
	return t.Time.Unix() == o.Time.Unix() && t.User == o.User && t.TTL == o.TTL && slices.Equal(t.Doors, o.Doors) && t.Address == o.Address
}

// WellFormed reports whether a path segment has the length of a ticket.
func WellFormed(segment string) bool {
	return len(segment) >= base64.RawURLEncoding.EncodedLen(minLen) && len(segment) <= base64.RawURLEncoding.EncodedLen(maxLen)
}

// Open returns the ticket that a path segment holds, the id of the key that
// sealed it and its nonce. It reports false for any other segment; there is one
// spelling of a ticket. Key returns the key of an id, or nil.
func Open(segment string, key func(KeyID) *Key) (t Ticket, id KeyID, n Nonce, ok bool) {
	if !WellFormed(segment) {
		return t, id, n, false
	}
	// The decoder passes over line ends; where the lengths are right there are
	// none. The key id comes first, so that a stranger's ticket costs little.
	var clear [clearLen]byte
	encoding := base64.RawURLEncoding.Strict()
	size, err := encoding.Decode(clear[:], []byte(segment[:encoding.EncodedLen(clearLen)]))
	if err != nil || size != clearLen || clear[0] != version {
		return t, id, n, false
	}
	by := key(KeyID(clear[1:]))
	if by == nil {
		return t, id, n, false
	}
	raw, err := encoding.DecodeString(segment)
	if err != nil || encoding.EncodedLen(len(raw)) != len(segment) {
		return t, id, n, false
	}
	n = Nonce(raw[clearLen:])
	payload, err := by.aead.Open(nil, n[:], raw[clearLen+len(n):], raw[:clearLen])
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
	case len(data) > 0 || !named || at > maxTime:
		return Ticket{}, errForm
	}
	t.Time = time.Unix(int64(at), 0)
	return t, nil
}

// openable reports whether an address can be some client's.
func openable(a netip.Addr) bool {
	if first := a.As16()[12]; a.Is4() && (first == 0 || first >= 240) {
		return false // of this network, reserved, broadcast
	}
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.Is4In6()
}
