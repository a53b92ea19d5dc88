package nft

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"webknock/firewall"
)

// SessionsFile is the name for the file of a Store, and MaxSessionsFile its largest size.
const (
	SessionsFile    = "sessions.json"
	MaxSessionsFile = 32 << 20 // bytes
)

// A Store keeps data over restarts. Load returns the data of the last Save, or nil.
type Store interface {
	Load() ([]byte, error)
	Save([]byte) error
}

// earlierFile is the format of the data in the Store.
type earlierFile struct {
	Version  int               `json:"version"`
	Boot     string            `json:"boot"`
	Ports    []string          `json:"ports"`
	Sessions []session         `json:"sessions"`
	Left     map[uint64]uint16 `json:"left,omitempty"`
}

const sessionsVersion = 1

// boot identifies this boot of the machine and this network namespace.
func boot() string {
	id, err := thisBoot()
	if err != nil {
		return ""
	}
	return id + " " + namespace()
}

// namespace identifies the network namespace. No other gets the same identity until the next
// boot.
func namespace() string {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	if cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
		return strconv.FormatUint(cookie, 10)
	}
	var stat unix.Stat_t // a kernel before 5.14
	if unix.Stat("/proc/thread-self/ns/net", &stat) != nil {
		return ""
	}
	return "inode " + strconv.FormatUint(stat.Ino, 10)
}

func (e *earlier) encode() ([]byte, error) {
	file := earlierFile{Version: sessionsVersion, Boot: boot(), Sessions: slices.AppendSeq([]session{}, maps.Values(e.sessions)), Left: e.left}
	for _, p := range e.ports {
		file.Ports = append(file.Ports, fmt.Sprintf("%d-%d", p.First, p.Last))
	}
	return json.Marshal(file)
}

// decodeEarlier reads what the store has of this boot. Of another boot it
// returns nothing known.
func decodeEarlier(data []byte) (*earlier, error) {
	e := new(earlier).clone()
	if data == nil {
		return e, nil
	}
	var file earlierFile
	if err := json.Unmarshal(data, &file); err != nil {
		return e, err
	}
	if file.Version != sessionsVersion {
		return e, fmt.Errorf("version %d is not known (%d)", file.Version, sessionsVersion)
	}
	if file.Boot != boot() {
		return e, nil
	}
	for _, text := range file.Ports {
		var p firewall.Ports
		if _, err := fmt.Sscanf(text, "%d-%d", &p.First, &p.Last); err != nil {
			return new(earlier).clone(), fmt.Errorf("ports %q: %w", text, err)
		}
		p.Protocol = firewall.TCP
		e.ports = append(e.ports, p)
	}
	for _, s := range file.Sessions {
		if !s.Client.IsValid() || !s.Ours.IsValid() || s.Client.Addr().Is4() != s.Ours.Addr().Is4() {
			continue
		}
		e.sessions[s.key()] = s
	}
	maps.Copy(e.left, file.Left)
	e.known = true
	return e, nil
}

// loadEarlier reads the store, once. The caller holds b.lock.
func (b *Backend) loadEarlier() {
	if b.earlier != nil {
		return
	}
	b.earlier = new(earlier).clone()
	if b.store == nil {
		return
	}
	data, err := b.store.Load()
	if err == nil {
		b.earlier, err = decodeEarlier(data)
	}
	if err != nil {
		b.log.Warn("nftables: which sessions were up before the guard was put up cannot be read", "error", err)
	}
}

// saveEarlier writes the store. The caller holds b.lock.
func (b *Backend) saveEarlier() {
	if b.store == nil {
		return
	}
	data, err := b.earlier.encode()
	if err == nil {
		err = b.store.Save(data)
	}
	if err != nil {
		b.log.Warn("nftables: which sessions were up before the guard was put up cannot be written down: "+
			"if the table is gone when webknock starts again, those count that are up then", "error", err)
	}
}
