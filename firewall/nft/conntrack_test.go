package nft

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"webknock/firewall"
)

// A tracked connection is found by its client, and by what the client asked for. It loses
// its label, and is not found after it was deleted.
func TestTrackedConnectionsAreFoundAndDeleted(t *testing.T) {
	nft(t, "add table inet tracking; add chain inet tracking input { type filter hook input priority 0; }; add rule inet tracking input ct state established ct label set 127")
	t.Cleanup(func() { nft(t, "delete table inet tracking") })
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("ip: %v, %s", err, out)
	}
	for _, address := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		other, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		fmt.Fprintln(conn, "hello") // so that the flow is in state established
		if _, err := io.ReadFull(other, make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		client, asked := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		c, err := dialConntrack()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, clients := range []netip.Prefix{netip.PrefixFrom(client.Addr(), client.Addr().BitLen()), netip.PrefixFrom(client.Addr(), 0)} {
			flows, err := c.flows(firewall.TCP, clients)
			found := false
			for _, f := range flows {
				found = found || f.client == client && f.asked == asked && f.served == asked && f.runs() && f.id != 0 && f.labelled
			}
			if err != nil || !found {
				t.Errorf("flows of %v: %v, %v", clients, flows, err)
			}
		}
		wanted := flow{protocol: firewall.TCP, client: client, asked: asked}
		f, there, err := c.find(wanted)
		if err != nil || !there || f.client != client || f.asked != asked || !f.runs() || !f.labelled {
			t.Errorf("found %+v, %v, %v", f, there, err)
		}
		if err := c.unlabel(f); err != nil {
			t.Error(err)
		}
		if f, _, err := c.find(wanted); err != nil || f.labelled {
			t.Errorf("still labelled: %+v, %v", f, err)
		}
		wrong := f
		wrong.id++
		if err := c.delete(wrong); err != nil {
			t.Error(err)
		}
		if _, there, err := c.find(wanted); !there || err != nil {
			t.Errorf("a flow with another id was deleted: %v", err)
		}
		if err := c.delete(f); err != nil {
			t.Error(err)
		}
		if f, there, err := c.find(wanted); there || err != nil {
			t.Errorf("found after it was deleted: %+v, %v", f, err)
		}
		if err := c.delete(f); err != nil {
			t.Errorf("delete it again: %v", err)
		}
	}
}

func TestParseFlowRejectsMalformedMessages(t *testing.T) {
	for _, data := range []string{"", "\x02\x00\x00", "\x02\x00\x00\x00", strings.Repeat("\x00", 64), strings.Repeat("\xff", 64)} {
		if f, ok := parseFlow([]byte(data)); ok {
			t.Errorf("%q is parsed as %+v", data, f)
		}
	}
}
