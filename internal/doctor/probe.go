package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"webknock/firewall"
	"webknock/httpd/admin"
	"webknock/internal/suggest"
)

const (
	probeTimeout = time.Second     // for one try; the answer comes from this host
	probeGrant   = time.Minute     // closed at once when it has been tried
	probeLink    = "webknockprobe" // at the host's end
)

// What the probe's ends are called: from the ranges for benchmarks (RFC 2544,
// RFC 5180), which no network uses.
var (
	probeHost   = [2]string{"198.18.77.1/30", "2001:2:0:77::1/126"}
	probeClient = [2]string{"198.18.77.2/30", "2001:2:0:77::2/126"}
)

// Probe tries a door with packets: from a network namespace that is joined to
// this host by a veth pair and removed again, without a grant, with one, and
// after closing it. It needs CAP_NET_ADMIN and CAP_SYS_ADMIN.
func Probe(ctx context.Context, o Options, name string) (Report, error) {
	door := o.Config.Firewall.Guard.Door(name)
	if door == nil {
		var names []string
		for _, door := range o.Config.Firewall.Guard.Doors {
			names = append(names, door.Name)
		}
		return Report{}, fmt.Errorf("there is no door %q%s", name, suggest.DidYouMean(name, names))
	}
	x := &exam{Options: o, report: Report{Status: OK, Findings: []Finding{}}}
	ns, err := newNamespace()
	if err != nil {
		return Report{}, fmt.Errorf("make a namespace to probe from: %w (be root)", err)
	}
	defer ns.close()
	for i := range probeHost {
		host, client := netip.MustParsePrefix(probeHost[i]).Addr(), netip.MustParsePrefix(probeClient[i]).Addr()
		if to := door.Forward; to.IsValid() && to.Addr().Is4() != host.Is4() {
			continue
		}
		if err := x.probe(ctx, ns, *door, host, client); err != nil {
			return Report{}, err
		}
	}
	x.conclude()
	return x.report, nil
}

// probe tries one family.
func (x *exam) probe(ctx context.Context, ns *namespace, door firewall.Door, host, client netip.Addr) (err error) {
	ports := door.Ports[0]
	for _, p := range door.Ports {
		if p.Protocol == firewall.TCP {
			ports = p
			break
		}
	}
	family := familyName(host)
	subject := fmt.Sprintf("%s %d/%s", door.Name, ports.First, ports.Protocol)
	if ports.Protocol != firewall.TCP {
		x.say("probe", subject, family, Warning, "cannot tell: a UDP service need not answer a packet that it does not know")
		return nil
	}
	try := func() (answer string, err error) {
		return ns.connect(netip.AddrPortFrom(host, ports.First))
	}
	before, err := try()
	if err != nil {
		return err
	}
	grant, err := x.API.Open(ctx, admin.OpenRequest{Door: door.Name, Client: client.String(), TTL: min(probeGrant, door.MaxTTL).String()})
	if err != nil {
		return fmt.Errorf("open door %s for the probe: %w", door.Name, err)
	}
	closed := false
	defer func() {
		if !closed {
			err = errors.Join(err, x.API.Close(context.WithoutCancel(ctx), grant.ID))
		}
	}()
	during, err := try()
	if err != nil {
		return err
	}
	if err := x.API.Close(ctx, grant.ID); err != nil {
		return err
	}
	closed = true
	after, err := try()
	if err != nil {
		return err
	}
	for _, step := range []struct {
		when, answer string
	}{{"without a grant", before}, {"after closing", after}} {
		switch step.answer {
		case silent:
			x.say("probe", subject, family, OK, "%s: silent", step.when)
		case refused:
			x.say("probe", subject, family, Fail, "%s: answered, with a refusal", step.when)
		default:
			x.say("probe", subject, family, Fail, "%s: open", step.when)
		}
	}
	switch during {
	case connected:
		x.say("probe", subject, family, OK, "with a grant: open")
	case refused:
		x.say("probe", subject, family, Warning, "with a grant: refused, as if nothing listened there")
	default:
		x.say("probe", subject, family, Fail, "with a grant: silent, it does not get through")
	}
	return nil
}

// What a try meets.
const (
	connected = "connected"
	refused   = "refused"
	silent    = "silent"
)

// A namespace is a network of its own, on a thread of its own.
type namespace struct {
	work chan func()
	done chan struct{}
}

// newNamespace makes a namespace, joined to the one of the caller by a veth
// pair whose ends have addresses.
func newNamespace() (_ *namespace, err error) {
	ns := &namespace{work: make(chan func()), done: make(chan struct{})}
	home, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	made := make(chan error)
	go func() {
		defer close(ns.done)
		runtime.LockOSThread() // never unlocked: the thread ends here, and its namespace with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- err
			return
		}
		made <- ns.join(int(home.Fd()))
		for f := range ns.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		close(ns.work)
		<-ns.done
		return nil, err
	}
	for _, a := range probeHost {
		if err := address(probeLink, a); err != nil {
			ns.close()
			return nil, err
		}
	}
	return ns, nil
}

// join makes the veth pair, from inside.
func (ns *namespace) join(home int) error {
	const inside = "probe0"
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: inside}, PeerName: probeLink, PeerNamespace: netlink.NsFd(home)}
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	for _, a := range probeClient {
		if err := address(inside, a); err != nil {
			return err
		}
	}
	return nil
}

// address gives a link an address, and puts it up.
func address(name, cidr string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	addr.Flags = unix.IFA_F_NODAD                                                                                     // usable at once
	if err := netlink.AddrReplace(link, addr); err != nil && !(errors.Is(err, unix.EACCES) && addr.IP.To4() == nil) { // IPv6 is off
		return err
	}
	return netlink.LinkSetUp(link)
}

// connect tries a TCP port from inside.
func (ns *namespace) connect(to netip.AddrPort) (answer string, err error) {
	done := make(chan struct{})
	ns.work <- func() {
		defer close(done)
		var conn net.Conn
		conn, err = net.DialTimeout("tcp", to.String(), probeTimeout)
		var timeout net.Error
		switch {
		case err == nil:
			conn.Close()
			answer = connected
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EACCES):
			answer, err = refused, nil
		case errors.As(err, &timeout) && timeout.Timeout():
			answer, err = silent, nil
		}
	}
	<-done
	return answer, err
}

// close ends the namespace, and with it the veth pair.
func (ns *namespace) close() {
	if link, err := netlink.LinkByName(probeLink); err == nil {
		netlink.LinkDel(link)
	}
	close(ns.work)
	<-ns.done
}
