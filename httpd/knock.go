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

// Bounds of a request head. A head that exceeds them is malformed.
const (
	MaxHead  = 8 << 10 // bytes, including the empty line
	MaxLines = 100     // lines, including the request line and the empty line
)

// A Knock is one request as it was received.
type Knock struct {
	Listener string // the Name of its options

	Client netip.Addr     // whose knock it is; never IPv4-mapped
	Remote netip.AddrPort // the peer of the connection, or whom the PROXY protocol names
	Local  netip.AddrPort // the address that the peer connected to
	At     time.Time      // when the head was complete
	TLS    bool           // whether the connection to the listener uses TLS

	ProxyScheme string // the scheme that the client used, according to a trusted proxy; empty: none says
	ViaProxy    bool   // a trusted proxy has named the client, whose packets the firewall never sees
	ToSite      bool   // the request also went to a site with visitors: see Cover.HasVisitors

	// Answered is closed when the request has been answered. It is nil under a cover
	// that drops. What a completion does must wait for it, so that it cannot delay
	// the answer.
	Answered <-chan struct{}

	head    *buffer
	request *http.Request // replaces head if net/http has read the request
}

// NewKnock returns a knock with the given head, which it copies.
func NewKnock(client netip.Addr, at time.Time, head []byte) Knock {
	b := getBuffer()
	b.bytes = append(b.bytes, head...)
	return Knock{Client: client, At: at, head: b}
}

// Scheme returns the scheme by which the client sent the request, http or https: what
// its proxy says, or else what the listener speaks. Any other value matches neither.
func (k *Knock) Scheme() string {
	switch {
	case k.ProxyScheme != "":
		return k.ProxyScheme
	case k.TLS:
		return "https"
	}
	return "http"
}

// Release frees the head for reuse. The knock cannot be parsed any more.
func (k *Knock) Release() {
	putBuffer(k.head)
	k.head = nil
}

// PlainPath returns the path of the request without parsing it, if the path is written
// in nothing but unreserved characters (RFC 3986, section 2.3) and slashes. The head may
// still be malformed. The path is valid until the knock is parsed or released.
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

// Hash returns a hash of the request head. Requests that are equal to the byte have
// the same. Call it before Parse and Release.
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

// unreserved marks the bytes that a plain path consists of.
var unreserved = func() (set [256]bool) {
	for _, c := range []byte("/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") {
		set[c] = true
	}
	return set
}()

// Parse parses the head and releases the knock. It returns an error if the head is
// malformed: beyond the bounds, with control characters, in HTTP/1.1 with no Host field
// or several (RFC 9112, section 3.2), or anything else that net/http refuses. The
// request has no body. The error is one of those below, or net/http's, which may quote
// the head.
func (k *Knock) Parse(r *bufio.Reader) (*http.Request, error) {
	if k.request != nil {
		return k.request, nil
	}
	defer k.Release()
	hosts, err := check(k.head.bytes)
	if err == nil && hosts > 1 {
		err = ErrManyHosts
	}
	if err != nil {
		return nil, err
	}
	r.Reset(bytes.NewReader(k.head.bytes))
	req, err := http.ReadRequest(r)
	if err != nil {
		return nil, err
	}
	if hosts == 0 && req.ProtoAtLeast(1, 1) {
		return nil, ErrNoHost
	}
	req.Body = http.NoBody
	req.RemoteAddr = k.Remote.String()
	return req, nil
}

// Why a head is malformed.
var (
	ErrTooLarge     = errors.New("the request head is too large")
	ErrTooManyLines = errors.New("the request head has too many lines")
	ErrControl      = errors.New("there is a control character in the request head")
	ErrNoHost       = errors.New("there is no Host field")
	ErrManyHosts    = errors.New("there are several Host fields")
)

// check checks what http.ReadRequest does not, and counts the Host fields.
func check(head []byte) (hosts int, err error) {
	if len(head) > MaxHead || eventloop.HeadEnd(head) < 0 {
		return 0, ErrTooLarge
	}
	lines := 0
	for rest := head; len(rest) > 0; lines++ {
		line, after, _ := bytes.Cut(rest, []byte{'\n'})
		line = bytes.TrimSuffix(line, []byte{'\r'})
		if bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return 0, ErrControl
		}
		if lines > 0 && len(line) >= len("host:") && strings.EqualFold(string(line[:len("host:")]), "host:") {
			hosts++
		}
		rest = after
	}
	if lines > MaxLines {
		return 0, ErrTooManyLines
	}
	return hosts, nil
}

// Prefetch reports whether a browser sent a request before its user asked for it, or
// for a preview. Such a request is no knock. Browsers say so in Sec-Purpose (Fetch
// standard; also "prefetch;prerender"), older ones in Purpose, X-Purpose (Safari) and
// X-Moz (Firefox).
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

// A buffer holds a head from its reading until its knock is parsed or released.
type buffer struct{ bytes []byte }

// smallHead is a size that most heads of curl and of browsers fit in, in bytes.
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
