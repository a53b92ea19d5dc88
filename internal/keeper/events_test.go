package keeper

import (
	"bytes"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"webknock/config"
	"webknock/httpd"
	"webknock/internal/notice"
	"webknock/sequence"
)

// locked is a buffer for several goroutines.
type locked struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.String()
}

// Under covers that answer, what completions bring about waits for the answers,
// and keeps the order of each client's completions whatever the answers take.
func TestWhatCompletionsBringAboutKeepsTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out locked
		log := slog.New(slog.NewTextHandler(&out, nil))
		d := &Daemon{Options: Options{Log: log}, notices: notice.NewSender(log), commands: &commands{}, completions: map[string]uint64{}, waiting: map[netip.Addr]chan struct{}{}}
		alice, bob := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.8")
		at := func(client netip.Addr, name string, answered <-chan struct{}) {
			d.complete(completion{sequence: &config.Sequence{Spec: sequence.Spec{Name: name}}, letter: httpd.Knock{Client: client, Answered: answered}})
		}
		done := func() string {
			synctest.Wait()
			var names []string
			for _, found := range regexp.MustCompile(`sequence=(\S+)`).FindAllStringSubmatch(out.String(), -1) {
				names = append(names, found[1])
			}
			return strings.Join(names, " ")
		}
		answered := make(chan struct{})
		close(answered)
		at(alice, "streams", make(chan struct{})) // never ends
		at(alice, "answered", answered)
		at(alice, "dropped", nil)
		if got := done(); got != "" {
			t.Errorf("before any answer could be out: %s", got)
		}
		at(bob, "other", nil)
		if got := done(); got != "other" {
			t.Errorf("of another client: %s", got)
		}
		d.effects.Wait()
		at(alice, "last", nil)
		if got := done(); got != "other streams answered dropped last" {
			t.Errorf("in the end: %s", got)
		}
		if len(d.waiting) > 0 {
			t.Errorf("%d clients are still waited for", len(d.waiting))
		}
	})
}
