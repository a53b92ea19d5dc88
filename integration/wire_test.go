package integration

import (
	"bytes"
	"crypto/tls"
	endian "encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A wire is what a host has on its network: TCP over IPv4.
type wire struct {
	t  testing.TB
	fd int

	mu      sync.Mutex
	packets map[netip.AddrPort][]packet // by the client's side of the connection
}

type packet struct {
	out     bool // from the host
	flags   byte
	payload []byte
}

const (
	fin, syn, rst, ack = 1, 2, 4, 16
)

// tap records all packets from and to the server, until the test ends.
func (w *world) tap() *wire {
	w.t.Helper()
	l := &wire{t: w.t, packets: map[netip.AddrPort][]packet{}}
	err := w.server.Do(func() (err error) {
		every := endian.NativeEndian.Uint16(endian.BigEndian.AppendUint16(nil, unix.ETH_P_ALL)) // packet(7)
		l.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(every))
		if err != nil {
			return err
		}
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		// A read returns now and then, so that the reader can be stopped.
		return errors.Join(
			unix.Bind(l.fd, &unix.SockaddrLinklayer{Protocol: every, Ifindex: eth0.Index}),
			unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
			unix.SetsockoptTimeval(l.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 1<<16); ; {
			select {
			case <-stop:
				return
			default:
			}
			n, from, err := unix.Recvfrom(l.fd, buf, 0)
			if err == unix.EAGAIN || err == unix.EINTR {
				continue
			}
			if err != nil {
				w.t.Errorf("read from the wire: %v", err)
				return
			}
			l.record(buf[:n], from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING)
		}
	}()
	w.t.Cleanup(func() {
		close(stop)
		<-done
		unix.Close(l.fd)
	})
	return l
}

func (l *wire) record(p []byte, out bool) {
	if len(p) < 20 || p[0]>>4 != 4 || p[9] != unix.IPPROTO_TCP {
		return
	}
	p = p[:endian.BigEndian.Uint16(p[2:])]
	source, destination := netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:]))
	segment := p[int(p[0]&15)*4:]
	client := netip.AddrPortFrom(source, endian.BigEndian.Uint16(segment))
	if out {
		client = netip.AddrPortFrom(destination, endian.BigEndian.Uint16(segment[2:]))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.packets[client] = append(l.packets[client], packet{out, segment[13], bytes.Clone(segment[int(segment[12]>>4)*4:])})
}

// seen returns the packets of a client's connection that went out, or came in.
func (l *wire) seen(client netip.AddrPort, out bool) []packet {
	l.mu.Lock()
	defer l.mu.Unlock()
	var seen []packet
	for _, p := range l.packets[client] {
		if p.out == out {
			seen = append(seen, p)
		}
	}
	return seen
}

// shows describes what the server has sent: the flags and the size of each
// packet, in their order, and the type and size of each TLS record.
//
// Bare acknowledgements are left out. The kernel sends them for segments that
// have arrived, whatever they hold, before the program has read them; one may
// be left out if the next packet, which acknowledges as well, is quick enough.
// How many there are says how the client has cut its request into segments, and
// how busy the machine is.
func (l *wire) shows(client netip.AddrPort) string {
	var out []string
	var stream []byte
	for _, p := range l.seen(client, true) {
		if p.flags == ack && len(p.payload) == 0 {
			continue
		}
		out = append(out, fmt.Sprintf("%#02x:%d", p.flags, len(p.payload)))
		stream = append(stream, p.payload...)
	}
	for len(stream) >= 5 { // RFC 8446, section 5.1
		size := int(endian.BigEndian.Uint16(stream[3:]))
		out = append(out, fmt.Sprintf("record %d:%d", stream[0], size))
		stream = stream[min(5+size, len(stream)):]
	}
	return strings.Join(out, " ")
}

// ended waits for the end of a connection.
func (l *wire) ended(client netip.AddrPort) {
	l.t.Helper()
	until(l.t, "the end of a connection", func() bool {
		for _, p := range l.seen(client, true) {
			if p.flags&(rst|fin) != 0 {
				return true
			}
		}
		return false
	})
}

// whole fails if the tap has missed a packet.
func (l *wire) whole() {
	l.t.Helper()
	stats, err := unix.GetsockoptTpacketStats(l.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		l.t.Fatal(err)
	}
	if stats.Drops > 0 {
		l.t.Fatalf("the tap has missed %d of %d packets", stats.Drops, stats.Packets)
	}
}

// A caller is a client that sends what it wants.
type caller struct {
	*world
	port int // of the server
	tls  *tls.Config
}

// fresh is the last port that a connection was made from. None is used again,
// so that connections can be told apart by it.
var fresh atomic.Int32

func init() { fresh.Store(10_000) }

// dial connects to the server.
func (c caller) dial() net.Conn {
	c.t.Helper()
	var conn net.Conn
	err := c.alice.Do(func() (err error) {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(aliceIP), Port: int(fresh.Add(1))}, Timeout: patience}
		conn, err = dialer.Dial("tcp", net.JoinHostPort(serverIP, fmt.Sprint(c.port)))
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// send writes once, in a connection of its own, and waits for the reset. It
// returns the client's side of the connection.
func (c caller) send(text string) netip.AddrPort {
	c.t.Helper()
	conn := c.dial()
	local := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	if c.tls != nil {
		conn = tls.Client(conn, c.tls)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		c.t.Fatal(err)
	}
	mustBeReset(c.t, conn)
	return local
}

func mustBeReset(t testing.TB, conn net.Conn) {
	t.Helper()
	if n, err := conn.Read(make([]byte, 1)); n > 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%d bytes, %v; want a reset", n, err)
	}
}

func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: home.example.org\r\n\r\n" }

const wired = `
listeners:
  - address: ":8080"
  - address: ":8081"
    proxies: [` + aliceIP + `]
    client_address: proxy-protocol
  - address: ":8082"
    max_connections: 1
  - address: ":8443"
    tls: {certificate: cert.pem, key: key.pem}
shield:
  rate: off
  decoys: [/decoy]
doors:
  - {name: ssh, ports: [22/tcp]}
sequences:
  - {name: ssh, steps: [/a, /b, /c], opens: [ssh]}
`

// requests are what a stranger may send, each to be followed by the same.
var requests = []struct{ name, text string }{
	{"miss", get("/nothing")},
	{"step", get("/a")},
	{"second step", get("/b")},
	{"completion", get("/c")},
	{"ignored", get("/favicon.ico")},
	{"prefetch", "GET /a HTTP/1.1\r\nHost: h\r\nSec-Purpose: prefetch\r\n\r\n"},
	{"long path", get("/" + strings.Repeat("x", 1200))},
	{"short path", "GET / HTTP/1.0\r\n\r\n"},
	{"other method", "BREW /a HTTP/1.1\r\nHost: h\r\n\r\n"},
	{"a body", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"},
	{"expectation", "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"},
	{"upgrade", "GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"},
	{"no host", "GET /a HTTP/1.1\r\n\r\n"},
	{"malformed", "\x00\xff nonsense\r\n\r\n"},
	{"later version", "GET /a HTTP/9.9\r\nHost: h\r\n\r\n"},
	// One byte more than there is room for, so that nothing is on its way any
	// more when the reset comes.
	{"oversized", "GET /a HTTP/1.1\r\nX: " + strings.Repeat("x", 8<<10+1-len("GET /a HTTP/1.1\r\nX: "))},
}

// TestPacketsOfHitsAndMissesAreAlike looks at what the server sends, packet by packet.
func TestPacketsOfHitsAndMissesAreAlike(t *testing.T) {
	w := newWorld(t)
	out, err := exec.Command("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", // a signature is always of the same size
		"-subj", "/CN=home.example.org", "-keyout", w.dir+"/key.pem", "-out", w.dir+"/cert.pem").CombinedOutput()
	if err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	w.serve(wired)
	l := w.tap()
	type connection struct {
		name   string
		client netip.AddrPort
	}
	var plain, secured []connection
	alice := caller{world: w, port: 8080}
	add := func(list *[]connection, name string, client netip.AddrPort) {
		*list = append(*list, connection{name, client})
	}
	for _, r := range requests {
		add(&plain, r.name, alice.send(r.text))
	}
	w.mustBecome("ssh " + aliceIP)
	w.must("close", "--all")

	// Too many at once: the older goes, the newer is served.
	crowd := caller{world: w, port: 8082}
	half := crowd.dial()
	io.WriteString(half, "GET /a HTTP/1.1\r\n")
	add(&plain, "with too many others", crowd.send(get("/a")))
	mustBeReset(t, half)
	add(&plain, "reset for another", half.LocalAddr().(*net.TCPAddr).AddrPort())

	// Banned by the daemon, which alone sees the client behind a proxy.
	proxy := caller{world: w, port: 8081}
	named := func(client, path string) string {
		return "PROXY TCP4 " + client + " 192.0.2.99 4711 80\r\n" + get(path)
	}
	add(&plain, "behind a proxy", proxy.send(named("192.0.2.1", "/a")))
	add(&plain, "a decoy behind a proxy", proxy.send(named("192.0.2.1", "/decoy")))
	until(t, "the ban", func() bool { out, _, _ := w.webknock("bans"); return strings.Contains(out, "192.0.2.1") })
	for _, path := range []string{"/a", "/b", "/c", "/nothing"} {
		add(&plain, "banned behind a proxy", proxy.send(named("192.0.2.1", path)))
	}

	// The same under TLS.
	private := caller{world: w, port: 8443, tls: &tls.Config{InsecureSkipVerify: true, ServerName: "home.example.org"}}
	for _, r := range requests {
		add(&secured, r.name, private.send(r.text))
	}
	w.mustBecome("ssh " + aliceIP)
	private.tls = nil
	add(&plain, "no TLS", private.send(get("/a")))

	// Whatever the server sends after the end of a connection, it has sent
	// before the end of the last one.
	for _, list := range [][]connection{plain, secured} {
		for _, c := range list {
			l.ended(c.client)
		}
	}
	l.ended(alice.send(get("/last")))
	l.whole()
	want := fmt.Sprintf("%#02x:0 %#02x:0", syn|ack, rst|ack)
	for _, c := range plain {
		if got := l.shows(c.client); got != want {
			t.Errorf("%s: the server sends %s, want %s", c.name, got, want)
		}
	}
	want = l.shows(secured[0].client)
	if !strings.HasPrefix(want, "0x12:0 ") || !strings.Contains(want, " 0x14:0 record 22:") || strings.Count(want, "0x") != 3 {
		t.Errorf("under TLS the server sends %s; want a SYN, one flight, a RST", want)
	}
	for _, c := range secured {
		if got := l.shows(c.client); got != want {
			t.Errorf("TLS, %s: the server sends %s, but %s for a miss", c.name, got, want)
		}
	}
	t.Logf("under TLS the server sends %s", want)
}

// A client that the kernel bans gets no answer at all, not even to its SYN.
func TestABannedClientGetsNoAnswer(t *testing.T) {
	w := newWorld(t)
	w.serve(standard + "shield: {decoys: [/decoy]}\n")
	l := w.tap()
	alice := caller{world: w, port: 8080}
	decoy := alice.send(get("/decoy"))
	until(t, "the ban", func() bool { out, _, _ := w.webknock("bans"); return strings.Contains(out, aliceIP) })
	l.ended(decoy)
	if got, want := l.shows(decoy), "0x12:0 0x14:0"; got != want {
		t.Errorf("for a decoy the server sends %s, want %s", got, want)
	}
	var syns netip.AddrPort
	err := w.alice.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(fd) })
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(serverIP).As4(), Port: 8080})
		if err != unix.EINPROGRESS {
			return fmt.Errorf("connect: %w", err)
		}
		local, err := unix.Getsockname(fd)
		if err != nil {
			return err
		}
		in := local.(*unix.SockaddrInet4)
		syns = netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// The second comes after a second without an answer.
	until(t, "two SYNs", func() bool { return len(l.seen(syns, false)) >= 2 })
	l.whole()
	if got := l.shows(syns); got != "" {
		t.Errorf("to a banned client the server sends %s", got)
	}
}

// A knock that is lost, since more come than can be read, looks like all others.
func TestALostKnockLooksLikeOthers(t *testing.T) {
	w := newWorld(t)
	w.serve(`
listeners:
  - address: ":8080"
shield: {rate: off}
doors:
  - {name: ssh, ports: [22/tcp]}
sequences:
  - {name: slow, steps: [{regex: "x{0,400}y"}, /b], opens: [ssh]}
`)
	l := w.tap()
	alice := caller{world: w, port: 8080}
	text := get("/" + strings.Repeat("x", 1200)) // takes long to match
	var clients []netip.AddrPort
	var conns []net.Conn
	for range 1000 { // a queue has room for 256
		conn := alice.dial()
		conns = append(conns, conn)
		clients = append(clients, conn.LocalAddr().(*net.TCPAddr).AddrPort())
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
	}
	for i, conn := range conns {
		mustBeReset(t, conn)
		l.ended(clients[i])
	}
	l.whole()
	for i, c := range clients {
		if got, want := l.shows(c), "0x12:0 0x14:0"; got != want {
			t.Errorf("knock %d: the server sends %s, want %s", i, got, want)
		}
	}
	w.daemon.wait(t, "knocks lost")
}
