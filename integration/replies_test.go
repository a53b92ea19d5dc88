package integration

import (
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"
)

// This host may begin connections from ports that are guarded, and gets the
// answers.
func TestThisHostMayConnectFromAGuardedPort(t *testing.T) {
	w := newWorld(t)
	w.listenOn(w.alice, 9)
	w.serve(standard)
	for _, a := range []struct{ from, to string }{{serverIP, aliceIP}, {serverIP6, aliceIP6}} {
		err := w.server.Do(func() error {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(a.from), Port: 8005}, Timeout: 5 * time.Second}
			conn, err := d.Dial("tcp", net.JoinHostPort(a.to, "9"))
			if err != nil {
				return err
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := fmt.Fprint(conn, "x"); err != nil {
				return err
			}
			_, err = conn.Read(make([]byte, 1))
			return err
		})
		if err != nil {
			t.Errorf("from port 8005 to %s: %v", a.to, err)
		}
	}
}

// A session that began while the table was gone does not live, although
// connection tracking first sees it when the server sends.
func TestASessionBegunWithoutTheTableEndsThoughTheServerSendsFirst(t *testing.T) {
	w := newWorld(t)
	accepted := make(chan net.Conn, 2)
	if err := w.server.Do(func() error {
		l, err := net.Listen("tcp", ":22")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
				accepted <- conn
			}
		}()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	w.serve(standard)
	w.daemon.stop(t, syscall.SIGKILL)
	w.nft("delete", "table", "inet", "webknock") // and nobody else asks for connection tracking
	for _, to := range []string{serverIP, serverIP6} {
		if err := w.mallory.Do(func() error {
			conn, err := net.DialTimeout("tcp", net.JoinHostPort(to, "22"), 5*time.Second)
			if err == nil {
				t.Cleanup(func() { conn.Close() })
				go answer(conn)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	w.must("guard")
	for range 2 {
		conn := <-accepted
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(2 * time.Second))
		fmt.Fprintln(conn, "hello")
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%v, whose session began while the table was gone, gets an answer in", conn.RemoteAddr())
		}
	}
	w.serve(standard)
	w.mustPass(w.mallory, serverIP, 22, false)
}

// answer sends back what comes.
func answer(conn net.Conn) {
	buf := make([]byte, 512)
	for n, err := conn.Read(buf); err == nil; n, err = conn.Read(buf) {
		conn.Write(buf[:n])
	}
}
