//go:build hosts

package hosts

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// An ui is the page of the daemon, in a browser on the server's own host.
type ui struct {
	*browsing
	process *exec.Cmd
	url     string // with the token
	ssh     string
	port    int
}

const uiConfig = `
listeners: [{address: ":80"}]
sequences:
  - {name: ssh, steps: [/a, /b, /c], opens: [ssh]}
  - {name: web, steps: [/w, {path: /x, within: 60s}], opens: [web]}`

// newUI serves and knows the page's link. No browser runs yet.
func newUI(t *testing.T) *ui {
	t.Helper()
	b := &browsing{hosts: newHosts(t), t: t, name: "chromium", dir: t.TempDir(), secret: "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"}
	b.serve(uiConfig)
	u := &ui{browsing: b}
	u.startUI()
	return u
}

func (u *ui) startUI(env ...string) {
	u.t.Helper()
	u.process = u.server.Command(context.Background(), binary, "ui", "-o", "json", "--config", filepath.Join(u.dir, "webknock.yaml"))
	u.process.Env = append(os.Environ(), env...)
	u.process.Stderr = os.Stderr
	out, err := u.process.StdoutPipe()
	if err == nil {
		err = u.process.Start()
	}
	if err != nil {
		u.t.Fatal(err)
	}
	process := u.process
	u.t.Cleanup(func() { process.Process.Kill(); process.Wait() })
	var printed struct {
		URL, SSH string
		Port     int
	}
	if err := json.NewDecoder(out).Decode(&printed); err != nil {
		u.t.Fatalf("webknock ui: %v", err)
	}
	u.url, u.ssh, u.port = printed.URL, printed.SSH, printed.Port
}

// openPage starts a browser, and has it open the page.
func (u *ui) openPage(flags ...string) {
	u.t.Helper()
	u.browseOn(u.server, u.name, flags...)
	u.mustDo(order{Tab: "page", Do: "visit", URL: u.url})
	u.mustShow("#live", "Live")
}

// to shows a view of the page.
func (u *ui) to(view string) {
	u.t.Helper()
	u.mustDo(order{Tab: "page", Do: "click", On: "#to-" + view})
	u.mustShow("h1", strings.ToUpper(view[:1])+view[1:])
}

func (u *ui) click(on string) { u.t.Helper(); u.mustDo(order{Tab: "page", Do: "click", On: on}) }
func (u *ui) fill(on, text string) {
	u.t.Helper()
	u.mustDo(order{Tab: "page", Do: "fill", On: on, Text: text})
}
func (u *ui) press(key string) { u.t.Helper(); u.mustDo(order{Tab: "page", Do: "press", Text: key}) }
func (u *ui) text(on string) string {
	u.t.Helper()
	return u.mustDo(order{Tab: "page", Do: "text", On: on})
}

// mustShow waits until an element shows a text.
func (u *ui) mustShow(on, want string) {
	u.t.Helper()
	var got string
	defer func() {
		if u.t.Failed() {
			u.t.Logf("%s shows %q", on, got)
		}
	}()
	until(u.t, fmt.Sprintf("%s shows %q", on, want), func() bool {
		got = u.tell(order{Tab: "page", Do: "text", On: on}).Text
		return strings.Contains(got, want)
	})
}

// mustNotShow waits until an element does not show a text, or is gone.
func (u *ui) mustNotShow(on, unwanted string) {
	u.t.Helper()
	until(u.t, fmt.Sprintf("%s no longer shows %q", on, unwanted), func() bool {
		return !strings.Contains(u.tell(order{Tab: "page", Do: "text", On: on}).Text, unwanted)
	})
}

// request sends one knock of a host's, which is reset.
func (u *ui) request(from string, paths ...string) {
	u.t.Helper()
	host := u.alice
	if from == malloryIP {
		host = u.mallory
	}
	for _, path := range paths {
		host.Run("curl", "--silent", "--max-time", "5", "http://"+serverIP+path)
	}
}

func row(client string) string { return fmt.Sprintf("main tbody tr:has-text(%q)", client) }

func TestThePageOfTheDaemonDoesWhatCommandsDo(t *testing.T) {
	for _, name := range []string{"chromium", "firefox"} {
		t.Run(name, func(t *testing.T) { testThePage(t, name) })
	}
}

func testThePage(t *testing.T, name string) {
	u := newUI(t)
	u.name = name
	u.openPage()
	u.mustShow("#guard", "Guarded")
	if strings.Contains(u.mustDo(order{Tab: "page", Do: "address"}), "token") {
		t.Error("the address still has the token")
	}

	// A knock appears as it comes, and so do its client and its grant.
	u.to("knocks")
	u.request(aliceIP, "/w")
	u.mustShow("section:has(#latest) tbody", "matched")
	u.mustShow("section:has(#progress) tbody", "1 of 2")
	u.request(aliceIP, "/x")
	u.mustShow("section:has(#latest) tbody tr:first-child", "completed")
	u.mustNotShow("section:has(#progress) tbody", aliceIP)
	u.mustOpen("web")
	u.to("grants")
	u.mustShow(row(aliceIP), "web")
	before := u.text(row(aliceIP) + " .countdown")
	until(t, "the grant counts down from "+before, func() bool {
		now := u.text(row(aliceIP) + " .countdown")
		return now != before && strings.HasPrefix(now, "9 min")
	})

	// Extend, close, open by hand.
	u.click(row(aliceIP) + " >> text=Extend")
	u.fill("dialog input", "20m")
	u.click("dialog >> text=Extend >> nth=-1")
	u.mustShow("dialog .error", "max_ttl")
	u.fill("dialog input", "10m")
	u.click("dialog [type=submit]")
	u.mustShow("#toasts", "may pass")
	u.click(row(aliceIP) + " >> text=Close")
	u.click("dialog [type=submit]")
	u.mustOpen()
	u.mustNotShow("main", aliceIP)
	u.click("text=Open by hand")
	u.mustDo(order{Tab: "page", Do: "choose", On: "dialog select", Text: "ssh (22/tcp)"})
	u.fill("#field-client", "10.20.0.300")
	u.click("dialog [type=submit]")
	u.mustShow("dialog .error", "not an IP address")
	u.fill("#field-client", aliceIP)
	u.fill("#field-ttl", "5m")
	u.click("dialog [type=submit]")
	u.mustOpen("ssh")
	u.to("overview")
	u.mustShow("[aria-label='Door ssh'] .pill", "Open for 1")
	u.mustShow("[aria-label='Door ssh'] .rings", aliceIP)
	u.mustShow("[aria-label='Door web']", "Nobody is in")
	u.click("[aria-label='Door ssh'] >> text=Close")
	u.click("dialog [type=submit]")
	u.mustOpen()
	u.mustShow("[aria-label='Door ssh'] .pill", "Shut")

	// A ban appears, and is lifted.
	u.to("bans")
	u.mustShow("main", "Nobody is banned")
	for i := range 20 {
		u.request(malloryIP, fmt.Sprintf("/%d", i))
	}
	u.mustShow(row(malloryIP), malloryIP)
	u.click(row(malloryIP) + " >> text=Lift")
	u.click("dialog [type=submit]")
	u.mustNotShow("main tbody", malloryIP)
	u.mustBan("")

	// Why it did not work.
	u.to("explain")
	u.fill("#address", aliceIP)
	u.press("Enter")
	u.mustShow("#answer", "completed")
	u.mustShow(".advice", aliceIP)
	u.fill("#address", "nonsense")
	u.press("Enter")
	u.mustShow("#answer", "not an IP address")

	// What happened.
	u.to("history")
	u.mustShow("main tbody", malloryIP)
	u.mustShow("main tbody", aliceIP)
	u.fill("#client", malloryIP)
	u.click("main form [type=submit]")
	u.mustNotShow("main tbody", aliceIP)
	u.mustShow("main tbody", malloryIP)
	u.click("text=Clear")
	u.mustShow("main tbody", aliceIP)
	u.mustDo(order{Tab: "page", Do: "choose", On: "#door", Text: "web"})
	u.mustDo(order{Tab: "page", Do: "choose", On: "#event", Text: "was in"})
	u.mustDo(order{Tab: "page", Do: "choose", On: "#since", Text: "the last hour"})
	u.click("main form [type=submit]")
	u.mustShow("main tbody", "web")
	until(t, "one entry fits", func() bool { return u.mustDo(order{Tab: "page", Do: "count", On: "main tbody tr"}) == "1" })
	u.fill("#user", "nobody")
	u.click("main form [type=submit]")
	u.mustShow("main", "Nothing fits")

	// How it went.
	u.to("plot")
	u.mustShow("main", "In the last hour")
	u.click("text=Last day")
	u.mustShow("main", "In the last day")
	u.click("summary")
	u.mustShow("details table", "completed")

	// The theme.
	for _, theme := range []string{"light", "dark", "system"} {
		u.click("#theme")
		u.mustShow("#theme", theme)
		if want := map[string]string{"light": "html[data-theme=light]", "dark": "html[data-theme=dark]", "system": "html:not([data-theme])"}[theme]; u.mustDo(order{Tab: "page", Do: "count", On: want}) != "1" {
			t.Errorf("theme %s is not in force", theme)
		}
	}
	u.click("#theme")
	u.mustDo(order{Tab: "page", Do: "reload"})
	u.mustShow("#theme", "light")
	u.mustFindNothing()
}

// mustFindNothing looks for what the browser has complained about.
func (u *ui) mustFindNothing() {
	u.t.Helper()
	if complaints := u.mustDo(order{Tab: "page", Do: "complaints"}); complaints != "" {
		u.t.Errorf("the browser complains:\n%s", complaints)
	}
}

func TestThePageOfTheDaemonShowsHistoryPageByPage(t *testing.T) {
	u := newUI(t)
	for i := range 60 {
		u.webknock("open", "web", fmt.Sprintf("192.0.2.%d", i+1))
	}
	u.openPage()
	u.to("history")
	rows := func() string { return u.mustDo(order{Tab: "page", Do: "count", On: "main tbody tr"}) }
	until(t, "fifty entries", func() bool { return rows() == "50" })
	u.click("text=Show older")
	until(t, "more than sixty entries", func() bool { n := rows(); return len(n) > 2 || n > "60" })
}

func TestThePageOfTheDaemonByKeyboardAlone(t *testing.T) {
	u := newUI(t)
	u.openPage()
	tab := func(on string) { t.Helper(); u.mustDo(order{Tab: "page", Do: "tab", On: on}) }
	do := func(on, key string) { t.Helper(); tab(on); u.press(key) }
	types := func(text string) { t.Helper(); u.mustDo(order{Tab: "page", Do: "type", Text: text}) }
	selectAll := func() { t.Helper(); u.press("Control+A") }

	u.mustDo(order{Tab: "page", Do: "reload"}) // the focus is at the beginning
	do(".skip", "Enter")
	do("main button.primary", "Enter") // open by hand
	types("ssh")                       // in the list of doors
	tab("#field-client")
	types(aliceIP)
	tab("#field-ttl")
	types("5m")
	u.press("Enter")
	u.mustOpen("ssh")
	u.mustShow("[aria-label='Door ssh'] .pill", "Open for 1")

	do("#to-grants", "Enter")
	u.mustShow(row(aliceIP), "ssh")
	do("button[aria-label^=Extend]", "Enter")
	tab("#field-ttl")
	selectAll()
	types("9m")
	u.press("Enter")
	u.mustShow("#toasts", "may pass")
	u.mustShow(row(aliceIP)+" .countdown", "8 min")
	do("button[aria-label^=Close]", "Enter")
	u.press("Escape")
	u.mustNotShow("body", "will no longer pass")
	u.press("Enter") // the focus is back where it was
	u.mustShow("dialog", "will no longer pass")
	do("dialog [type=submit]", "Enter")
	u.mustOpen()

	for i := range 20 {
		u.request(malloryIP, fmt.Sprintf("/%d", i))
	}
	do("#to-bans", "Enter")
	u.mustShow(row(malloryIP), malloryIP)
	do("button[aria-label^=Lift]", "Enter")
	do("dialog [type=submit]", "Enter")
	u.mustShow("main", "Nobody is banned")

	do("#to-explain", "Enter")
	u.mustShow("h1", "Explain")
	types(malloryIP) // the field has the focus
	u.press("Enter")
	u.mustShow("#answer", malloryIP)

	do("#to-history", "Enter")
	u.mustShow("main tbody", malloryIP)
	tab("#client")
	types(aliceIP)
	u.press("Enter")
	u.mustNotShow("main tbody", malloryIP)

	do("#to-plot", "Enter")
	do("[data-span=hours]", "Space")
	u.mustShow("main", "In the last day")
	tab(".plots")
	u.press("End")
	u.mustShow(".readout", "knock")
	do("summary", "Enter")
	u.mustShow("details table", "completions")

	do("#to-knocks", "Enter")
	u.request(aliceIP, "/w")
	u.mustShow("section:has(#latest) tbody", aliceIP)
	tab("#outcome")
	types("completed")
	u.mustShow("main", "No knock")
	do("main .actions button", "Space")
	u.mustShow("main .actions button", "Go on")
	do("#theme", "Enter")
	u.mustShow("#theme", "light")
	u.mustFindNothing()
}

var uiViews = []string{"overview", "grants", "knocks", "explain", "history", "plot", "bans"}

func TestThePageOfTheDaemonInPictures(t *testing.T) {
	u := newUI(t)
	dir := u.dir
	if shots := os.Getenv("WEBKNOCK_SHOTS"); shots != "" {
		dir = shots
	}
	u.openPage("--hide-scrollbars")
	look := func(name string) {
		t.Helper()
		for _, scheme := range []string{"dark", "light"} {
			for _, width := range []int{360, 820, 1600} {
				u.mustDo(order{Tab: "page", Do: "shot", Text: scheme, Width: width, URL: filepath.Join(dir, fmt.Sprintf("ui-%s-%s-%d.png", name, scheme, width))})
				if found := u.mustDo(order{Tab: "page", Do: "axe"}); found != "" {
					t.Errorf("axe on %s, %s, %d:\n%s", name, scheme, width, found)
				}
			}
		}
	}
	for _, view := range uiViews {
		u.to(view)
		look(view + "-empty")
	}
	u.to("knocks")
	u.request(aliceIP, "/a", "/b", "/c", "/w", "/none", "/w")
	u.mustOpen("ssh")
	u.webknock("open", "web", "2001:db8:1234:5678:9abc:def0:1234:5678")
	u.webknock("open", "web", "192.0.2.1", "--for", "1m")
	for i := range 20 {
		u.request(malloryIP, fmt.Sprintf("/%d", i))
	}
	u.mustShow("section:has(#latest) tbody", malloryIP)
	for _, view := range uiViews {
		u.to(view)
		switch view {
		case "explain":
			u.fill("#address", aliceIP)
			u.click("#reveal")
			u.press("Enter")
			u.mustShow("#answer", "/none")
		case "bans":
			u.mustShow(row(malloryIP), malloryIP)
		case "history", "grants", "overview":
			u.mustShow("main", "192.0.2.1")
		case "plot":
			u.mustShow("main", "matched")
		}
		look(view)
	}
	u.to("grants")
	u.click("text=Open by hand")
	look("dialog")
	u.press("Escape")

	// Problems, with what to do.
	file := filepath.Join(u.dir, "webknock.yaml")
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(strings.Replace(string(text), "ttl: 10m", "ttl: 10", 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	u.server.Command(t.Context(), binary, "reload", "--config", file).Run() // is refused
	u.webknock("unguard")
	u.to("overview")
	u.mustShow("#guard", "Not guarded")
	u.mustShow(".problems", "What to do")
	look("problems")
	u.mustFindNothing()
}

func TestThePageOfTheDaemonSaysThatItIsLost(t *testing.T) {
	u := newUI(t)
	u.openPage()
	u.to("knocks")
	u.request(aliceIP, "/first")
	u.mustShow("section:has(#latest) tbody", aliceIP)
	u.daemon.Process.Signal(syscall.SIGTERM)
	u.daemon.Wait()
	u.mustShow("#live", "Connection lost")
	u.serve(uiConfig)
	u.mustShow("#live", "Live")
	u.request(malloryIP, "/second")
	u.mustShow("section:has(#latest) tbody", malloryIP)
	u.process.Process.Signal(syscall.SIGINT)
	if err := u.process.Wait(); err != nil {
		t.Errorf("webknock ui ends with %v", err)
	}
	u.mustShow("#live", "Connection lost")
}

// The recipe whole: knock, go through the door by the printed line, open the printed link.
func TestThePageOfTheDaemonOverSSH(t *testing.T) {
	u := newUI(t)
	for _, name := range []string{"host", "key"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(u.dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	config := fmt.Sprintf("HostKey %s/host\nAuthorizedKeysFile %s/key.pub\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n", u.dir, u.dir)
	if err := os.WriteFile(filepath.Join(u.dir, "sshd_config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(cmd *exec.Cmd) {
		t.Helper()
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	}
	run(u.server.Command(context.Background(), "/usr/sbin/sshd", "-D", "-q", "-f", filepath.Join(u.dir, "sshd_config")))
	until(t, "sshd listens", func() bool { return u.passes(u.server, "127.0.0.1", 22) })
	u.mustPass(u.alice, serverIP, 22, false)
	u.request(aliceIP, "/a", "/b", "/c")
	u.mustOpen("ssh")

	u.startUI("SUDO_USER=root", "SSH_CONNECTION="+aliceIP+" 40000 "+serverIP+" 22")
	if want := fmt.Sprintf("ssh -L %d:127.0.0.1:%d root@%s", u.port, u.port, serverIP); u.ssh != want {
		t.Fatalf("the line for ssh is %q, want %q", u.ssh, want)
	}
	line := slices.Insert(strings.Fields(u.ssh), 1, "-N", "-q", "-F", "/dev/null", "-i", filepath.Join(u.dir, "key"), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null")
	run(u.alice.Command(context.Background(), line[0], line[1:]...))
	until(t, "ssh forwards", func() bool { return u.passes(u.alice, "127.0.0.1", u.port) })
	u.browseOn(u.alice, u.name)
	u.mustDo(order{Tab: "page", Do: "visit", URL: u.url})
	u.mustShow("#live", "Live")
	u.mustShow("[aria-label='Door ssh'] .rings", aliceIP)
	u.click("[aria-label='Door ssh'] >> text=Extend")
	u.click("text=5 min")
	u.click("dialog [type=submit]")
	u.mustShow("#toasts", "may pass")
}

// What a stranger sends is shown as text.
func TestThePageOfTheDaemonShowsStrangersTextAsText(t *testing.T) {
	u := newUI(t)
	u.openPage()
	u.request(malloryIP, "/%3Cimg%20src=x%20onerror=document.title='caught'%3E", "/%3Cscript%3Edocument.title='caught'%3C/script%3E")
	u.to("explain")
	u.fill("#address", malloryIP)
	u.click("#reveal")
	u.press("Enter")
	u.mustShow("#answer", "onerror")
	if n := u.mustDo(order{Tab: "page", Do: "count", On: "main img, main script"}); n != "0" {
		t.Errorf("%s elements of a stranger's", n)
	}
	if title := u.mustDo(order{Tab: "page", Do: "title"}); strings.Contains(title, "caught") {
		t.Error("a stranger's script runs")
	}
	u.mustFindNothing()
}
