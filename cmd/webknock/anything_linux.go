//go:build anything

package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"webknock/firewall"
	"webknock/internal/onetime"
	"webknock/internal/seam"
	"webknock/internal/ticket"
)

// anything stands for a front that somebody has taken over, for tests: a client that
// completes the sequence "anything" has the front do what its last knock says,
// /do/ACT?arguments. The log says how that went.
func anything(k seam.Keeper, conn *net.UnixConn, log *slog.Logger) seam.Keeper {
	return &taken{k, conn, log}
}

type taken struct {
	seam.Keeper
	conn *net.UnixConn
	log  *slog.Logger
}

// Complete implements seam.Keeper.
func (t *taken) Complete(c seam.Completion) {
	if c.Sequence != "anything" || c.Request == nil {
		t.Keeper.Complete(c)
		return
	}
	arguments, _ := url.ParseQuery(c.Request.RawQuery)
	act := path.Base(c.Request.Path)
	go func() {
		result, err := t.do(act, arguments.Get)
		if err != nil {
			result = "refused: " + err.Error()
		}
		t.log.Info("anything", "act", act, "number", arguments.Get("number"), "result", result)
	}()
}

// spoil does something to all listening sockets that would outlast this process.
func spoil(by, to string) (result string, err error) {
	spoilt := 0
	for fd := 0; fd < 256; fd++ {
		if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
			continue
		}
		switch by {
		case "shutdown":
			err = unix.Shutdown(fd, unix.SHUT_RDWR)
		case "half a shutdown":
			err = unix.Shutdown(fd, unix.SHUT_RD)
		case "disconnect":
			_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unix.RawSockaddr{Family: unix.AF_UNSPEC})), 16)
			if errno != 0 {
				err = errno
			}
		case "filter":
			none := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
			err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &none[0]})
		case "device":
			err = unix.BindToDevice(fd, "lo")
		case "hops":
			err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MINTTL, 255), unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT, 255))
		case "linger":
			err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{})
		case "block":
			err = unix.SetNonblock(fd, false)
		case "connect": // without connect(2), by the first data of TCP Fast Open
			addr := netip.MustParseAddrPort(to)
			at := unix.SockaddrInet6{Port: int(addr.Port()), Addr: netip.AddrFrom16(addr.Addr().As16()).As16()}
			err = errors.Join(unix.Shutdown(fd, unix.SHUT_RD), unix.Sendto(fd, []byte("x"), unix.MSG_FASTOPEN, &at))
		default:
			err = fmt.Errorf("no way %q", by)
		}
		if err != nil {
			return "", err
		}
		spoilt++
	}
	if spoilt == 0 {
		return "", errors.New("no socket listens")
	}
	return fmt.Sprint(spoilt), nil
}

func (t *taken) do(act string, argument func(string) string) (result string, err error) {
	number := func(name string) int { n, _ := strconv.Atoi(argument(name)); return n }
	address := func(name string) netip.Addr { a, _ := netip.ParseAddr(argument(name)); return a }
	switch act {
	case "execute":
		out, err := exec.Command(argument("path"), strings.Fields(argument("args"))...).CombinedOutput()
		return string(out), err
	case "become":
		return "", syscall.Exec(argument("path"), append([]string{argument("path")}, strings.Fields(argument("args"))...), os.Environ())
	case "read":
		text, err := os.ReadFile(argument("path"))
		return string(text), err
	case "list":
		entries, err := os.ReadDir(argument("path"))
		return fmt.Sprint(entries), err
	case "write":
		return "", os.WriteFile(argument("path"), []byte("x"), 0o600)
	case "listen":
		_, err := net.Listen("tcp", ":"+argument("port"))
		return "", err
	case "listen-raw":
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err == nil {
			err = unix.Listen(fd, 1) // without bind(2), which Landlock knows
		}
		return "", err
	case "connect":
		conn, err := net.DialTimeout("tcp", argument("to"), time.Second)
		if err == nil {
			conn.Close()
		}
		return "", err
	case "unix":
		conn, err := net.Dial("unix", argument("path"))
		if err == nil {
			conn.Close()
		}
		return "", err
	case "send":
		conn, err := net.Dial("udp", argument("to"))
		if err == nil {
			_, err = conn.Write([]byte("x"))
		}
		return "", err
	case "netlink":
		_, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
		return "", err
	case "packet":
		_, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		return "", err
	case "trace":
		return "", unix.PtraceAttach(os.Getppid())
	case "signal":
		return "", unix.Kill(os.Getppid(), unix.Signal(number("signal")))
	case "signal-thread":
		return "", unix.Tgkill(os.Getppid(), os.Getppid(), unix.Signal(number("signal")))
	case "namespace":
		return "", unix.Unshare(unix.CLONE_NEWUSER | unix.CLONE_NEWNET)
	case "code":
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		return "", err
	case "spoil": // the listening sockets, which the keeper has too
		return spoil(argument("by"), argument("to"))
	case "crash":
		go func() { panic("taken over") }()
		return "", nil

	// What the seam has it ask for; whether it was done is to be seen elsewhere.
	case "complete":
		c := seam.Completion{Sequence: argument("sequence"), Client: address("client"), At: time.Now(), User: argument("user")}
		if argument("ttl")+argument("doors")+argument("address") != "" {
			ttl, _ := time.ParseDuration(argument("ttl"))
			c.Ticket = &ticket.Request{TTL: ttl, Address: address("address")}
			if doors := argument("doors"); doors != "" {
				c.Ticket.Doors = strings.Split(doors, ",")
			}
		}
		t.Keeper.Complete(c)
		return "asked", nil
	case "flood":
		first := address("client")
		for range number("count") {
			t.Keeper.Complete(seam.Completion{Sequence: argument("sequence"), Client: first, At: time.Now()})
			first = first.Next()
		}
		return "asked", nil
	case "ban":
		client := netip.PrefixFrom(address("client"), number("bits"))
		t.Keeper.Ban(seam.Ban{Ban: firewall.Ban{Client: client, Until: time.Now().Add(time.Hour)}, At: time.Now(), Reason: "anything"})
		return "asked", nil
	case "used":
		used, err := t.Keeper.UsedCodes()
		return fmt.Sprint(used), err
	case "record":
		return "", t.Keeper.RecordCodes(onetime.Used{})
	case "garbage":
		_, err := io.WriteString(t.conn, strings.Repeat("garbage", number("count")))
		return "", err
	}
	return "", fmt.Errorf("no act %q", act)
}
