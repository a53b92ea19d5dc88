package eventloop

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"webknock/httpd/pending"
)

// handler is a listener whose service may be exchanged. It is the service as well.
type handler struct {
	inForce atomic.Bool
	heads   chan string
	served  chan *net.TCPConn
	answer  []byte
}

func (h *handler) Accepted() Service {
	if h.inForce.Load() {
		return h
	}
	return nil
}

func (h *handler) Serve(conn *net.TCPConn) { h.served <- conn }
func (h *handler) Failed(error)            {}
func (h *handler) MaxPending() int         { return 2 }

func (h *handler) Head(c Conn, head []byte) {
	if h.answer != nil {
		c.Answer(h.answer)
	}
	h.heads <- c.Peer().String() + " " + c.Local().String() + " " + string(head)
}

// start starts two loops on loopback that reset what they close.
func start(t *testing.T, h *handler, timeout time.Duration) (l *net.TCPListener, loops *Loops, counts *pending.Counts) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := control(raw, func(fd int) error {
		return syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	}); err != nil {
		t.Fatal(err)
	}
	h.heads, h.served = make(chan string, 10), make(chan *net.TCPConn, 10)
	h.inForce.Store(true)
	counts = new(pending.Counts)
	set := pending.New(counts)
	loops, err = Start(l, h, set, Options{Loops: 2, MaxHead: 100, HeadTimeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		loops.Stop()
		l.Close()
		set.Close()
		loops.Wait()
	})
	return l, loops, counts
}

func dial(t *testing.T, l net.Listener, text string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, text)
	return conn.(*net.TCPConn)
}

func mustReset(t *testing.T, conn net.Conn) {
	t.Helper()
	if got, err := io.ReadAll(conn); len(got) > 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%q, %v; want a reset", got, err)
	}
}

func TestAHeadIsHandledAndItsConnectionReset(t *testing.T) {
	h := new(handler)
	l, _, _ := start(t, h, time.Minute)
	for sent, want := range map[string]string{
		"GET /a\r\n\r\nmore":                        "GET /a\r\n\r\n",
		"x\n\n":                                     "x\n\n",
		string(bytes.Repeat([]byte("x"), 100)):      "", // incomplete, and then nothing comes any more
		string(bytes.Repeat([]byte("x"), 101)):      string(bytes.Repeat([]byte("x"), 101)),
		string(bytes.Repeat([]byte("x\r\n"), 1000)): string(bytes.Repeat([]byte("x\r\n"), 1000))[:101],
	} {
		conn := dial(t, l, sent)
		if want == "" {
			conn.CloseWrite()
		} else if got := <-h.heads; got != conn.LocalAddr().String()+" "+l.Addr().String()+" "+want {
			t.Errorf("%q: head %q", sent, got)
		}
		mustReset(t, conn)
	}
}

func TestTheHandlersAnswerIsSent(t *testing.T) {
	h := &handler{answer: []byte("answer")}
	l, _, _ := start(t, h, time.Minute)
	if got, err := io.ReadAll(dial(t, l, "x\n\n")); string(got) != "answer" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAHeadThatTakesTooLongIsReset(t *testing.T) {
	h := new(handler)
	l, _, counts := start(t, h, time.Millisecond)
	mustReset(t, dial(t, l, "GET /a"))
	if n := counts.TooSlow.Load(); n != 1 || len(h.heads) > 0 {
		t.Errorf("%d too slow, %d heads", n, len(h.heads))
	}
}

func TestTheOldestPendingConnectionGivesWay(t *testing.T) {
	h := new(handler)
	l, _, counts := start(t, h, time.Minute)
	first := dial(t, l, "GET /1")
	for range 2 {
		dial(t, l, "GET /more")
	}
	mustReset(t, first)
	if n := counts.Evicted.Load(); n != 1 {
		t.Errorf("%d evicted", n)
	}
}

// Pending heads are still read, whatever service is in force for new connections.
func TestStoppedLoopsReadWhatIsPending(t *testing.T) {
	h := new(handler)
	l, loops, _ := start(t, h, time.Minute)
	conn := dial(t, l, "GET /a")
	for loops.pending.Len() == 0 {
		runtime.Gosched()
	}
	h.inForce.Store(false)
	loops.Stop()
	io.WriteString(conn, "\n\n")
	<-h.heads
	mustReset(t, conn)
	loops.Wait()
	next := dial(t, l, "GET /b\n\n") // the socket is still open
	if served, err := l.AcceptTCP(); err != nil || served.RemoteAddr().String() != next.LocalAddr().String() {
		t.Errorf("%v", err)
	}
}

func TestWhatALoopCannotServeIsHandedOver(t *testing.T) {
	h := new(handler)
	l, _, _ := start(t, h, time.Minute)
	h.inForce.Store(false)
	conn := dial(t, l, "GET /a\n\n")
	served := <-h.served
	defer served.Close()
	got := make([]byte, 8)
	if _, err := io.ReadFull(served, got); err != nil || string(got) != "GET /a\n\n" || served.RemoteAddr().String() != conn.LocalAddr().String() {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAddressesAreNeverMappedOnes(t *testing.T) {
	l, err := net.Listen("tcp", "[::]:0") // takes IPv4 as well
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h := &handler{heads: make(chan string, 1)}
	h.inForce.Store(true)
	set := pending.New(new(pending.Counts))
	loops, err := Start(l.(*net.TCPListener), h, set, Options{Loops: 1, MaxHead: 100, HeadTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer loops.Stop()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "x\n\n")
	want := netip.MustParseAddrPort(conn.LocalAddr().String()).String() + " 127.0.0.1:" + port + " x\n\n"
	if got := <-h.heads; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func FuzzHeadEnd(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: h\r\n\r\nrest"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		end := HeadEnd(data)
		if end > len(data) || end == 0 {
			t.Fatalf("head of %d bytes in %d", end, len(data))
		}
		if end > 0 && HeadEnd(data[:end-1]) >= 0 {
			t.Fatalf("%q ends before %d", data, end)
		}
	})
}
