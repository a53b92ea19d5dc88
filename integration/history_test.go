package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// logEntry is a line of webknock log --output json.
type logEntry struct {
	ID                                                 uint64
	Event, Client, Sequence, Door, User, Grant, Reason string
	Time                                               time.Time
	OpenedAt                                           *time.Time `json:"opened_at"`
	ClosedAt                                           *time.Time `json:"closed_at"`
	Packets, Bytes                                     *uint64
	UID                                                *uint32
}

// entries returns what webknock log prints, and fails unless each line is an entry.
func (w *world) entries(args ...string) (all []logEntry) {
	w.t.Helper()
	out := w.must(append([]string{"log", "--output", "json", "--limit", "0"}, args...)...)
	for line := range strings.Lines(out) {
		var e logEntry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			w.t.Fatalf("%q: %v", line, err)
		}
		if len(all) > 0 && e.ID <= all[len(all)-1].ID {
			w.t.Errorf("entry %d comes after %d", e.ID, all[len(all)-1].ID)
		}
		all = append(all, e)
	}
	return all
}

// only returns the one entry of the history for which f returns true.
func (w *world) only(what string, f func(logEntry) bool) (e logEntry) {
	w.t.Helper()
	all := w.entries()
	found := slices.DeleteFunc(slices.Clone(all), func(e logEntry) bool { return !f(e) })
	if len(found) != 1 {
		w.t.Fatalf("%d entries of %s in\n%s", len(found), what, w.must("log", "--limit", "0"))
	}
	return found[0]
}

func TestTheHistorySaysWhoCameInAndHowItEnded(t *testing.T) {
	w := newWorld(t)
	w.sshd()
	w.listen(8001)
	k := newKeyring(w, "anna", "bert")
	config := `
listeners: [{address: ":8080"}]
doors:
  - {name: ssh, ports: [22/tcp], ttl: 1h}
  - {name: web, ports: [8000-8010/tcp], ttl: 2s}
sequences:
  - {name: code, steps: ["/k/{totp}"], opens: [ssh]}
  - {name: web, steps: [/a, /x], opens: [web]}
shield: {decoys: [/wp]}
` + k.config
	w.serve(config)
	began := time.Now()

	// Anna transfers something by ssh until an administrator closes her grant.
	w.knock(w.alice, serverIP, "/k/"+k.code("anna"))
	w.mustBecome("ssh " + aliceIP)
	ssh := w.alice.Command(t.Context(), "ssh", "-F", "none", "-i", filepath.Join(w.dir, "key"), "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile="+filepath.Join(w.dir, "known"), "-o", "BatchMode=yes", "root@"+serverIP, "wc -c")
	const size = 100_000
	ssh.Stdin = bytes.NewReader(make([]byte, size))
	if out, err := ssh.Output(); err != nil || strings.TrimSpace(string(out)) != fmt.Sprint(size) {
		t.Fatalf("over ssh came %q, %v", out, err)
	}
	anna := w.only("anna's opening", func(e logEntry) bool { return e.Event == "opened" })
	if anna.User != "anna" || anna.Sequence != "code" || anna.Door != "ssh" || anna.Client != aliceIP || anna.Bytes != nil || anna.ClosedAt != nil {
		t.Errorf("her opening: %+v", anna)
	}
	w.must("close", "--client", aliceIP)
	closed := w.only("anna's end", func(e logEntry) bool { return e.User == "anna" })
	if closed.Event != "closed" || closed.Grant != anna.Grant || closed.Reason != "closed by an administrator" || !closed.OpenedAt.Equal(*anna.OpenedAt) ||
		closed.ClosedAt.Before(began) || closed.Bytes == nil || *closed.Bytes < size || *closed.Packets == 0 {
		t.Errorf("her end: %+v", closed)
	}
	act := w.only("the administrator's act", func(e logEntry) bool { return e.Event == "admin" })
	if act.UID == nil || *act.UID != 0 || act.Reason != "closed grant "+anna.Grant || act.Client != aliceIP || act.Door != "ssh" {
		t.Errorf("the act: %+v", act)
	}

	// Nobody closes the door web. What has passed is counted all the same.
	w.knock(w.alice, serverIP, "/a", "/x")
	w.mustBecome("web " + aliceIP)
	w.talk(w.alice, serverIP, 8001).says(strings.Repeat("x", 300))
	w.mustBecome()
	expired := w.only("the grant that has expired", func(e logEntry) bool { return e.Door == "web" })
	if expired.Event != "closed" || expired.Reason != "expired" || expired.Sequence != "web" || expired.User != "" || *expired.Bytes < 300 {
		t.Errorf("it: %+v, %d bytes", expired, *expired.Bytes)
	}

	// A ban that is lifted, a reload that fails, one that does not, and a repair.
	w.knock(w.mallory, serverIP, "/wp")
	w.mustBan(malloryIP)
	w.must("unban", malloryIP)
	w.configure(strings.Replace(config, "ttl: 1h", "ttl: 1", 1))
	w.webknock("reload")
	w.configure(config)
	w.must("reload")
	w.nft("flush", "ruleset")
	w.daemon.wait(t, "guard repaired")
	var events []string
	for _, e := range w.entries("--since", time.Since(expired.Time).String()) {
		if e.ID > expired.ID {
			events = append(events, e.Event)
		}
		if e.Event == "reload" && e.Reason != "" && !strings.Contains(e.Reason, "doors[0].ttl: 1 has no unit") {
			t.Errorf("the reload that failed: %+v", e)
		}
	}
	want := []string{"banned", "unbanned", "admin", "admin", "reload", "admin", "reload", "repair"}
	if events = slices.DeleteFunc(events, func(e string) bool { return e == "degraded" || e == "recovered" }); !slices.Equal(events, want) { // the watch over the state may have seen it
		t.Errorf("events %q, want %q", events, want)
	}

	// A daemon that is killed: one grant runs out meanwhile, bert's goes on.
	w.knock(w.mallory, serverIP, "/k/"+k.code("bert"))
	w.mustBecome("ssh " + malloryIP)
	w.must("open", "web", aliceIP, "--for", "2s")
	if open := w.entries("--event", "opened"); len(open) != 2 {
		t.Errorf("before the kill: %+v", open)
	}
	w.daemon.stop(t, syscall.SIGKILL)
	if open := w.entries("--event", "opened"); len(open) != 2 { // from the state directory
		t.Errorf("without a daemon: %+v", open)
	}
	until(t, "the grant of 2 s ends", func() bool { return !strings.Contains(w.nft("list", "set", "inet", "webknock", "web4"), aliceIP) })
	w.serve(config)
	missed := w.only("what ended meanwhile", func(e logEntry) bool { return e.Reason == "ended while webknock did not run" })
	if missed.Event != "closed" || missed.Door != "web" || missed.Client != aliceIP || missed.ClosedAt.Sub(*missed.OpenedAt).Round(time.Second) != 2*time.Second || missed.Bytes != nil {
		t.Errorf("it: %+v", missed)
	}
	if open := w.entries("--event", "opened"); len(open) != 1 || open[0].User != "bert" || open[0].Client != malloryIP {
		t.Errorf("after the restart: %+v", open)
	}

	// Filters, and the table.
	for args, want := range map[string]int{
		"--user anna": 1, "--user bert": 1, "--user carl": 0, "--door ssh --event opened,closed": 2, "--client 10.20.0.0/24 --event banned": 1,
		"--client 192.0.2.0/24": 0, "--event reload": 2, "--since 24h --event repair": 1, "--since " + time.Now().Add(time.Minute).UTC().Format(time.RFC3339): 0,
	} {
		if got := w.entries(strings.Fields(args)...); len(got) != want {
			t.Errorf("log %s: %d entries, want %d: %+v", args, len(got), want, got)
		}
	}
	for line := range strings.Lines(w.must("log", "--event", "opened,closed,banned,unbanned,admin")) {
		if len(strings.TrimSpace(line)) > 80 {
			t.Errorf("more than 80 columns: %s", line)
		}
	}
	if out, stderr, code := w.webknock("log", "--since", "yesterday"); code != 2 || out != "" || !strings.Contains(stderr, "like 24h") {
		t.Errorf("since yesterday: exit %d, %s%s", code, out, stderr)
	}
	if status, body := w.ask(http.MethodGet, "/v1/history?cursor=7"); status != http.StatusBadRequest || !strings.Contains(body, "cursor: not a cursor") {
		t.Errorf("a bad cursor: %d %s", status, body)
	}
}

// ask sends a request to the admin socket.
func (w *world) ask(method, path string) (status int, body string) {
	w.t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(w.dir, "webknock.sock"))
	}, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(w.t.Context(), method, "http://webknock"+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	answer, err := client.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text)
}

func TestAFullDiskLosesHistoryAndNoGrant(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	state := w.dir + "/full"
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=256k,mode=700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(state, syscall.MNT_DETACH) })
	config := standard + "\nstate: " + state + "\n"
	w.serve(config)
	w.must("open", "ssh", malloryIP, "--for", "1s")
	if n := len(w.entries()); n != 2 {
		t.Errorf("%d entries at first", n)
	}
	filler := filepath.Join(state, "filler")
	os.WriteFile(filler, make([]byte, 512<<10), 0o600) // until it is full
	// More happens than the file has room for, and than waits in memory.
	w.configure(strings.Replace(config, "ttl: 30s", "ttl: 30", 1))
	for range 2500 {
		if status, body := w.ask(http.MethodPost, "/v1/reload"); status != http.StatusUnprocessableEntity {
			t.Fatalf("reload: %d %s", status, body)
		}
	}
	w.configure(config)
	until(t, "the status says so", func() bool { return strings.Contains(w.problems(), "the history is not written (4096 entries wait, ") })
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	w.mustPass(w.alice, serverIP, 22, true)
	w.must("close", "--all")
	w.mustPass(w.alice, serverIP, 22, false)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	w.daemon.wait(t, "entries of the history lost")
	// It is too small even so for all that waits; there is room for that elsewhere.
	if err := syscall.Mount("", state, "", syscall.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	until(t, "the history is written", func() bool { return !strings.Contains(w.problems(), "history") })
	lost := w.only("what is lost", func(e logEntry) bool { return e.Event == "lost" })
	if !strings.HasSuffix(lost.Reason, " entries could not be written") {
		t.Errorf("lost: %+v", lost)
	}
	ends := w.entries("--client", aliceIP, "--event", "closed")
	if len(ends) != 1 || ends[0].Reason != "closed by an administrator" {
		t.Errorf("the grant of meanwhile: %+v", ends)
	}
}

// hourly is standard with a door ssh that stays open.
var hourly = strings.Replace(standard, "ttl: 30s", "ttl: 1h", 1)

func TestTheHistoryCanBeFollowed(t *testing.T) {
	w := newWorld(t)
	w.serve(hourly)
	w.must("open", "ssh", malloryIP, "--for", "1h")
	cmd := w.server.Command(t.Context(), binary, "log", "--follow", "-o", "json", "--client", "10.20.0.0/24", "--event", "opened,closed",
		"--socket", filepath.Join(w.dir, "webknock.sock"), "--config", w.config())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	follower := w.start(cmd)
	lines := bufio.NewScanner(out)
	mustCome := func(want string) {
		t.Helper()
		var e logEntry
		if !lines.Scan() || json.Unmarshal(lines.Bytes(), &e) != nil || e.Event+" "+e.Client != want {
			t.Fatalf("came %q, want %q", lines.Text(), want)
		}
	}
	mustCome("opened " + malloryIP)
	w.must("open", "ssh", aliceIP, "--for", "1h")
	mustCome("opened " + aliceIP)
	w.must("close", "--client", malloryIP)
	mustCome("closed " + malloryIP)
	w.again(syscall.SIGKILL)
	w.must("close", "--all")
	mustCome("closed " + aliceIP)
	if err := follower.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if lines.Scan() {
		t.Errorf("after the interrupt: %q", lines.Text())
	}
}

func TestAReloadChangesWhatIsKept(t *testing.T) {
	w := newWorld(t)
	w.serve(hourly + "history: {max: 4}\n")
	for range 3 {
		w.must("open", "ssh", aliceIP, "--for", "1h")
	}
	w.must("reload")
	if n := len(w.entries()); n != 4 {
		t.Errorf("%d entries of 4", n)
	}
	w.configure(hourly + "history: {keep: 0s}\n")
	w.must("reload")
	w.must("open", "ssh", malloryIP, "--for", "1h")
	until(t, "nothing is left", func() bool { return len(w.entries()) == 0 })
	w.configure(hourly)
	w.must("reload")
	until(t, "the grants that run are there again", func() bool { return len(w.entries("--event", "opened")) == 2 })
}
