// Package setup finds out what a first configuration has to fit: who listens on this
// host, over which session the administrator came, which other firewalls there are. It
// changes nothing. [Find] returns all of it; [Plan] makes a configuration of that.
package setup

import (
	"bufio"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A Socket waits for TCP connections.
type Socket struct {
	Address netip.AddrPort
	Program string // that has it, like sshd; empty: not known
	PID     int    // 0: not known

	inode uint64
}

// outside reports whether it takes connections to other addresses than loopback ones.
func (s Socket) outside() bool { return !s.Address.Addr().IsLoopback() }

// listenState is TCP_LISTEN in /proc/net/tcp.
const listenState = "0A"

// listening reads which sockets wait for connections, and who has them, as far as this
// process may know. Root is the root of the file system.
func listening(root string) (sockets []Socket, err error) {
	for _, name := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(filepath.Join(root, "proc/self/net", name))
		if os.IsNotExist(err) && name == "tcp6" {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		sockets = append(sockets, parseSockets(string(text))...)
	}
	owners := owners(root)
	for i := range sockets {
		s := &sockets[i]
		s.PID, s.Program = owners[s.inode].pid, owners[s.inode].program
	}
	slices.SortStableFunc(sockets, func(a, b Socket) int { return int(a.Address.Port()) - int(b.Address.Port()) })
	return sockets, nil
}

// parseSockets reads the listening sockets of /proc/net/tcp or tcp6.
func parseSockets(text string) (sockets []Socket) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != listenState {
			continue
		}
		address, ok := parseAddress(f[1])
		inode, err := strconv.ParseUint(f[9], 10, 64)
		if ok && err == nil {
			sockets = append(sockets, Socket{Address: address, inode: inode})
		}
	}
	return sockets
}

// parseAddress reads an address as the kernel writes it: words of 32 bits, each in the
// order of the processor's bytes, here little-endian.
func parseAddress(text string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || err2 != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for word := range slices.Chunk(raw, 4) {
		if littleEndian {
			slices.Reverse(word)
		}
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), ok
}

type owner struct {
	pid     int
	program string
}

// owners returns who has which socket. Of several programs that have one, it is not
// systemd, which passes sockets on.
func owners(root string) map[uint64]owner {
	all := map[uint64]owner{}
	processes, _ := filepath.Glob(filepath.Join(root, "proc/[0-9]*"))
	for _, dir := range processes {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		descriptors, err := os.ReadDir(filepath.Join(dir, "fd"))
		if err != nil {
			continue // not ours, or gone
		}
		program := ""
		for _, d := range descriptors {
			to, _ := os.Readlink(filepath.Join(dir, "fd", d.Name()))
			number, ok := strings.CutPrefix(to, "socket:[")
			if !ok {
				continue
			}
			inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
			if err != nil {
				continue
			}
			if program == "" {
				program = programOf(dir)
			}
			if before, ok := all[inode]; !ok || before.program == systemd || before.program == sshSession {
				all[inode] = owner{pid, program}
			}
		}
	}
	return all
}

const (
	systemd    = "systemd"
	sshSession = "sshd-session" // a process of sshd that serves one session
)

// programOf returns the name of a process's program. A session of sshd, which may
// listen for what it forwards, is no sshd.
func programOf(dir string) string {
	text, _ := os.ReadFile(filepath.Join(dir, "comm"))
	program := strings.TrimSpace(string(text))
	if program == "sshd" {
		title, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if strings.HasPrefix(string(title), "sshd: ") && !strings.Contains(string(title), "[listener]") {
			return sshSession
		}
	}
	return program
}

// sshPrograms are the SSH servers, by the names of their processes.
var sshPrograms = []string{"sshd", "dropbear", "tinysshd"}

// portsOf returns where systemd listens by a unit, as systemctl show -p Listen has it:
// lines like "Listen=[::]:22 (Stream)".
func portsOf(show string) (ports []uint16) {
	for s := bufio.NewScanner(strings.NewReader(show)); s.Scan(); {
		value, ok := strings.CutPrefix(s.Text(), "Listen=")
		if !ok {
			value, ok = strings.CutPrefix(s.Text(), "ListenStream=")
		}
		address, kind, _ := strings.Cut(value, " ")
		if !ok || kind != "" && kind != "(Stream)" {
			continue
		}
		at := address[strings.LastIndexByte(address, ':')+1:]
		if n, err := strconv.ParseUint(at, 10, 16); err == nil && n > 0 && !slices.Contains(ports, uint16(n)) {
			ports = append(ports, uint16(n))
		}
	}
	return ports
}
