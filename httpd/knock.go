package httpd

import (
	"bufio"
	"bytes"
	"errors"
	"hash/maphash"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"webknock/httpd/eventloop"
)

// Bounds of a request head. One that exceeds them is malformed.
const (
	MaxHead  = 8 << 10 // bytes, the empty line included
	MaxLines = 100     // lines, the request line and the empty line included
)

// A Knock is one request as it was received: by whom, when, and its head.
type Knock struct {
	Client      netip.Addr     // the client the knock counts for; never IPv4-mapped
	Remote      netip.AddrPort // the peer of the connection, or whom its proxy names
	Local       netip.AddrPort // the address it connected to
	At          time.Time      // when the head was complete
	TLS         bool           // it came by TLS
	ProxyScheme string         // by which scheme the client sent it, as its proxy says; empty: none does
	ViaProxy    bool           // a proxy has named the client, whom the firewall cannot see
	ToSite      bool           // it went on to a real site, whose visitors look around
	// Answered is closed when the answer is out, under a cover that gives one.
	// What a completion brings about waits for that, so that the answer cannot be
	// late for it.
	Answered <-chan struct{}
	head     *buffer
	request  *http.Request // in place of head, where a server has read it
}

// NewKnock returns a knock with the given head, which it copies.
func NewKnock(client netip.Addr, at time.Time, head []byte) Knock {
	b := getBuffer()
	b.bytes = append(b.bytes, head...)
	return Knock{Client: client, At: at, head: b}
}

// Scheme returns http or https, by which the client sent the request: as its proxy
// says, or else as it came here. Anything else matches neither.
func (k *Knock) Scheme() string {
	switch {
	case k.ProxyScheme != "":
		return k.ProxyScheme
	case k.TLS:
		return "https"
	}
	return "http"
}

// Release gives the memory of the head back. The knock cannot be opened any
// more.
func (k *Knock) Release() {
	putBuffer(k.head)
	k.head = nil
}

// PlainPath returns the path that was asked for, if it stands in the head as it is:
// unreserved characters (RFC 3986, section 2.3) and slashes alone. It does not
// say whether the head is malformed. The path is valid until the knock is
// opened or discarded.
func (k *Knock) PlainPath() (path string, plain bool) {
	if k.request != nil {
		return "", false
	}
	_, rest, _ := bytes.Cut(k.head.bytes, []byte{' '})
	target, _, found := bytes.Cut(rest, []byte{' '})
	if !found || len(target) == 0 || target[0] != '/' {
		return "", false
	}
	for _, c := range target {
		if !unreserved[c] {
			return "", false
		}
	}
	return unsafe.String(&target[0], len(target)), true
}

// Hash returns a hash of the request head, by which a request is told from one
// that is the same to the byte. Call it before the knock is opened or discarded.
func (k *Knock) Hash(seed maphash.Seed) uint64 {
	if k.request == nil {
		return maphash.Bytes(seed, k.head.bytes)
	}
	var h maphash.Hash
	h.SetSeed(seed)
	write := func(text string) { maphash.WriteComparable(&h, text) }
	write(k.request.Method)
	write(k.request.RequestURI)
	write(k.request.Proto)
	write(k.request.Host)
	for _, name := range slices.Sorted(maps.Keys(k.request.Header)) {
		write(name)
		for _, value := range k.request.Header[name] {
			write(value)
		}
	}
	return h.Sum64()
}

// unreserved has the bytes that a plain path is made of.
var unreserved = func() (set [256]bool) {
	for _, c := range []byte("/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") {
		set[c] = true
	}
	return set
}()

// Parse parses the head, and discards the knock. It returns an error for a
// malformed one: more than the bounds allow, control characters, no or
// several Host fields in HTTP/1.1 (RFC 9112 section 3.2), or anything else that
// net/http refuses. The request has no body.
func (k *Knock) Parse(r *bufio.Reader) (*http.Request, error) {
	if k.request != nil {
		return k.request, nil
	}
	defer k.Release()
	hosts, err := check(k.head.bytes)
	if err != nil {
		return nil, err
	}
	r.Reset(bytes.NewReader(k.head.bytes))
	req, err := http.ReadRequest(r)
	if err != nil {
		return nil, err
	}
	if hosts > 1 || hosts == 0 && req.ProtoAtLeast(1, 1) {
		return nil, errHost
	}
	req.Body = http.NoBody
	req.RemoteAddr = k.Remote.String()
	return req, nil
}

var (
	errTooLarge = errors.New("the request head is too large")
	errControl  = errors.New("a control character in the request head")
	errHost     = errors.New("not exactly one Host field")
)

// check looks at what http.ReadRequest lets pass, and counts the Host fields.
func check(head []byte) (hosts int, err error) {
	if len(head) > MaxHead || eventloop.HeadEnd(head) < 0 {
		return 0, errTooLarge
	}
	lines := 0
	for rest := head; len(rest) > 0; lines++ {
		line, after, _ := bytes.Cut(rest, []byte{'\n'})
		line = bytes.TrimSuffix(line, []byte{'\r'})
		if bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return 0, errControl
		}
		if lines > 0 && len(line) >= len("host:") && strings.EqualFold(string(line[:len("host:")]), "host:") {
			hosts++
		}
		rest = after
	}
	if lines > MaxLines {
		return 0, errTooLarge
	}
	return hosts, nil
}

// Prefetch reports whether a browser asks ahead of its user, or for a preview, so
// that the request is no knock. Browsers say so in Sec-Purpose (Fetch standard;
// "prefetch;prerender" as well), and older ones in Purpose, X-Purpose (Safari)
// and X-Moz (Firefox).
func Prefetch(h http.Header) bool {
	for _, name := range []string{"Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"} {
		for _, value := range h[name] {
			for token := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ';' || r == ',' }) {
				switch strings.ToLower(strings.TrimSpace(token)) {
				case "prefetch", "prerender", "preview":
					return true
				}
			}
		}
	}
	return false
}

// A buffer holds a head while it is read and until its knock is opened.
type buffer struct{ bytes []byte }

// Most heads of browsers and of curl fit.
const smallHead = 1 << 10

var buffers = sync.Pool{New: func() any { return &buffer{make([]byte, 0, smallHead)} }}

func getBuffer() *buffer { return buffers.Get().(*buffer) }

func putBuffer(b *buffer) {
	if b == nil || cap(b.bytes) > MaxHead+1 {
		return
	}
	b.bytes = b.bytes[:0]
	buffers.Put(b)
}
