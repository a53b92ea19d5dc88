package setup

import (
	"cmp"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A Session is a connection to sshd, in the words of SSH_CONNECTION.
type Session struct {
	Text           string // as sshd has written it; no other session has the same
	Client, Server netip.AddrPort
}

// CurrentSession returns the session that this process belongs to, or false if it
// belongs to none, or may not know. sudo and su take SSH_CONNECTION out of the
// environment: it is then that of the closest ancestor that has it.
func CurrentSession() (Session, bool) {
	return sessionOf("/", os.Getenv("SSH_CONNECTION"), os.Getppid())
}

// maxAncestors bounds how many ancestors are asked.
const maxAncestors = 64

func sessionOf(root, own string, parent int) (Session, bool) {
	if s, ok := parseSession(own); ok {
		return s, true
	}
	for pid, n := parent, 0; pid > 1 && n < maxAncestors; n++ {
		dir := filepath.Join(root, "proc", strconv.Itoa(pid))
		environment, _ := os.ReadFile(filepath.Join(dir, "environ"))
		for _, variable := range strings.Split(string(environment), "\x00") {
			if value, ok := strings.CutPrefix(variable, "SSH_CONNECTION="); ok {
				if s, ok := parseSession(value); ok {
					return s, true
				}
			}
		}
		// The name of the program is in brackets, and may hold anything.
		stat, _ := os.ReadFile(filepath.Join(dir, "stat"))
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(f) < 2 {
			break
		}
		pid, _ = strconv.Atoi(f[1])
	}
	return Session{}, false
}

func parseSession(text string) (Session, bool) {
	f := strings.Fields(text)
	if len(f) != 4 {
		return Session{}, false
	}
	s := Session{Text: text}
	var errs [4]error
	var client, server netip.Addr
	client, errs[0] = netip.ParseAddr(f[0])
	server, errs[1] = netip.ParseAddr(f[2])
	from, err := strconv.ParseUint(f[1], 10, 16)
	errs[2] = err
	to, err := strconv.ParseUint(f[3], 10, 16)
	errs[3] = err
	s.Client = netip.AddrPortFrom(client.Unmap().WithZone(""), uint16(from))
	s.Server = netip.AddrPortFrom(server.Unmap().WithZone(""), uint16(to))
	return s, cmp.Or(errs[:]...) == nil
}
