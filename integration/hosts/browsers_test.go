//go:build hosts

package hosts

import (
	"bufio"
	"context"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"webknock/integration/lab"
)

// A browsing is a server that is knocked at on port 80, by a browser as its makers
// ship it, with bans on and the rate limit as it is by default.
type browsing struct {
	*hosts
	t      *testing.T
	dir    string
	daemon *exec.Cmd
	log    *os.File
	tabs   *json.Encoder
	says   *json.Decoder
	secret string
	name   string // of the browser
}

// home is a name of the server's, since browsers treat addresses in another way.
const home = "home.example.org"

// eachBrowser runs a test with both browsers.
func eachBrowser(t *testing.T, config string, test func(b *browsing, name string)) {
	for _, name := range []string{"chromium", "firefox"} {
		t.Run(name, func(t *testing.T) {
			b := &browsing{hosts: newHosts(t), t: t, name: name, dir: t.TempDir(), secret: base32.StdEncoding.EncodeToString([]byte("a secret of this one"))}
			b.serve(config)
			b.count()
			b.browse(name)
			test(b, name)
		})
	}
}

func (b *browsing) serve(config string) {
	b.t.Helper()
	user := filepath.Join(b.dir, "ann.totp")
	file := filepath.Join(b.dir, "webknock.yaml")
	config += "\nshield: {ban: {knocks: 20}}\nstate: " + b.dir + "/state\nadmin: {socket: " + b.dir + "/webknock.sock}\n" +
		"users: [{name: ann, totp_file: " + user + "}]\ndoors: [{name: ssh, ports: [22/tcp], ttl: 10m}, {name: web, ports: [81/tcp], ttl: 10m}]\n"
	err := os.WriteFile(user, []byte(b.secret+"\n"), 0o600)
	if err == nil {
		err = os.WriteFile(file, []byte(config), 0o600)
	}
	if err == nil {
		b.log, err = os.Create(filepath.Join(b.dir, "log"))
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.daemon = b.server.Command(context.Background(), binary, "serve", "--config", file)
	b.daemon.Stderr = b.log
	if err := b.daemon.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		b.daemon.Process.Kill()
		b.daemon.Wait()
		if b.t.Failed() {
			b.t.Logf("log of the daemon:\n%s", b.logged())
		}
	})
	until(b.t, "serving", func() bool { return strings.Contains(b.logged(), `"serving"`) })
}

func (b *browsing) logged() string {
	text, err := os.ReadFile(b.log.Name())
	if err != nil {
		b.t.Fatal(err)
	}
	return string(text)
}

// stop stops the daemon, which then logs what it has in sums.
func (b *browsing) stop() string {
	b.t.Helper()
	b.daemon.Process.Signal(syscall.SIGTERM)
	b.daemon.Wait()
	return b.logged()
}

// browse starts a browser on alice's host.
func (b *browsing) browse(name string) {
	b.t.Helper()
	b.browseOn(b.alice, name)
}

// browseOn starts a browser on a host, with flags of its own.
func (b *browsing) browseOn(host *lab.Host, name string, flags ...string) {
	b.t.Helper()
	// Chromium's socket must have a short path.
	tmp, err := os.MkdirTemp("", "browser-")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { os.RemoveAll(tmp) })
	cmd := host.Command(context.Background(), "node", append([]string{"browser.mjs", name}, flags...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	var out io.Reader
	if err == nil {
		out, err = cmd.StdoutPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		in.Close()
		timer := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		timer.Stop()
	})
	b.tabs, b.says = json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out))
	b.t.Logf("%s %s", name, b.hear().Text)
}

type answer struct{ Text, Error string }

func (b *browsing) hear() (a answer) {
	b.t.Helper()
	if err := b.says.Decode(&a); err != nil {
		b.t.Fatalf("the browser's driver: %v", err)
	}
	return a
}

func (b *browsing) do(tab, what, url string) answer {
	b.t.Helper()
	return b.tell(order{Tab: tab, Do: what, URL: url})
}

// An order is what browser.mjs reads.
type order struct {
	Tab   string `json:"tab"`
	Do    string `json:"do"`
	URL   string `json:"url,omitempty"`
	On    string `json:"on,omitempty"`
	Text  string `json:"text,omitempty"`
	Width int    `json:"width,omitempty"`
}

func (b *browsing) tell(o order) answer {
	b.t.Helper()
	if err := b.tabs.Encode(o); err != nil {
		b.t.Fatal(err)
	}
	return b.hear()
}

// visit types an address of the knock listener into a tab, and fails unless the
// browser finds nothing there.
func (b *browsing) visit(tab, path string) {
	b.t.Helper()
	if a := b.do(tab, "visit", "http://"+home+path); a.Error == "" {
		b.t.Errorf("%s shows something", path)
	}
}

// count has the kernel count alice's connections to the listener.
func (b *browsing) count() {
	b.t.Helper()
	for _, line := range []string{"add table inet count", "add chain inet count in { type filter hook input priority -300; }",
		"add rule inet count in ip saddr " + aliceIP + " tcp dport 80 tcp flags & (syn|ack) == syn counter"} {
		if err := b.server.Run("nft", line); err != nil {
			b.t.Fatal(err)
		}
	}
}

var packets = regexp.MustCompile(`counter packets (\d+)`)

func (b *browsing) connections() int {
	b.t.Helper()
	out, err := b.server.Command(b.t.Context(), "nft", "list", "chain", "inet", "count", "in").CombinedOutput()
	found := packets.FindSubmatch(out)
	if err != nil || found == nil {
		b.t.Fatalf("%v: %s", err, out)
	}
	n, _ := strconv.Atoi(string(found[1]))
	return n
}

// until waits until alice has made more connections.
func (b *browsing) more(what string, n int) {
	b.t.Helper()
	before := b.connections()
	until(b.t, what, func() bool { return b.connections() >= before+n })
}

func (b *browsing) webknock(args ...string) string {
	b.t.Helper()
	out, err := b.server.Command(b.t.Context(), binary, append(args, "--config", filepath.Join(b.dir, "webknock.yaml"))...).CombinedOutput()
	if err != nil {
		b.t.Fatalf("webknock %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// mustOpen waits for grants of these doors, alice's.
func (b *browsing) mustOpen(want ...string) {
	b.t.Helper()
	var got []string
	open := func() bool {
		var list struct {
			Grants []struct{ Door, Client string }
		}
		if err := json.Unmarshal([]byte(b.webknock("grants", "-o", "json")), &list); err != nil {
			b.t.Fatal(err)
		}
		got = nil
		for _, g := range list.Grants {
			if g.Client == aliceIP {
				got = append(got, g.Door)
			}
		}
		return strings.Join(got, " ") == strings.Join(want, " ")
	}
	until(b.t, fmt.Sprint("open doors ", want), open)
}

func (b *browsing) mustBan(want string) {
	b.t.Helper()
	var list struct{ Bans []struct{ Client string } }
	if err := json.Unmarshal([]byte(b.webknock("bans", "-o", "json")), &list); err != nil {
		b.t.Fatal(err)
	}
	var got []string
	for _, ban := range list.Bans {
		got = append(got, ban.Client)
	}
	if strings.Join(got, " ") != want {
		b.t.Errorf("bans %q, want %q", got, want)
	}
}

// mustBanStrangers has somebody try twenty paths, after which they are banned and
// alice is not.
func (b *browsing) mustBanStrangers() {
	b.t.Helper()
	b.mustBan("")
	for i := range 20 {
		b.mallory.Run("curl", "--silent", "--max-time", "5", fmt.Sprintf("http://%s/%d", serverIP, i)) // is reset
	}
	until(b.t, "the ban of a stranger", func() bool { return !b.passes(b.mallory, serverIP, 80) })
	b.mustBan(malloryIP)
	b.mustPass(b.alice, serverIP, 80, true)
}

// code returns ann's code, of now or of so many half minutes later.
func (b *browsing) code(later int) string {
	b.t.Helper()
	code, err := totp.GenerateCode(b.secret, time.Now().Add(time.Duration(later)*30*time.Second))
	if err != nil {
		b.t.Fatal(err)
	}
	return code
}

func TestABrowserGetsInByPlainSteps(t *testing.T) {
	eachBrowser(t, `
listeners: [{address: ":80"}]
sequences: [{name: ssh, steps: [/a, /b, /c], opens: [ssh]}]`, func(b *browsing, name string) {
		for _, path := range []string{"/a", "/b", "/c"} {
			b.visit("one", path)
		}
		b.mustOpen("ssh")
		t.Logf("%s: three steps were %d connections", name, b.connections())
		if n := b.connections(); n < 6 {
			t.Errorf("%s no longer sends again what was reset: %d connections", name, n)
		}
		for range 3 {
			b.do("one", "reload", "")
		}
		b.webknock("close", "--all")
		b.mustOpen()
		for _, path := range []string{"/a", "/b", "/c"} {
			b.visit("two", path)
		}
		b.mustOpen("ssh")
		b.mustBanStrangers()
	})
}

func TestABrowserGetsInByACodeAndReloadsItsPage(t *testing.T) {
	eachBrowser(t, `
listeners: [{address: ":80"}]
sequences:
  - {name: ssh, steps: [/a, {path: "/k/{totp}", within: 60s}], opens: [ssh]}
  - {name: web, steps: ["/w/{totp}", {path: /x, within: 60s}], opens: [web]}`, func(b *browsing, name string) {
		b.visit("one", "/a")
		b.visit("one", "/k/"+b.code(0))
		b.mustOpen("ssh")
		b.do("one", "reload", "")
		if name == "chromium" { // its error page tries again, after 1 and 6 seconds
			b.more("the error page's reload", 2)
		}
		b.webknock("close", "--all")
		b.mustOpen()
		// The page with the used code starts nothing over, neither the sequence that it
		// belongs to nor another.
		b.visit("two", "/w/"+b.code(1))
		b.do("one", "reload", "")
		b.do("one", "reload", "")
		b.visit("two", "/x")
		b.mustOpen("web")
		b.mustBanStrangers()
		if log := b.stop(); strings.Contains(log, "codes or tickets") {
			b.t.Errorf("a code of alice's was wrong:\n%s", log)
		}
	})
}

func TestAWrongCodeInABrowserIsOne(t *testing.T) {
	eachBrowser(t, `
listeners: [{address: ":80"}]
sequences: [{name: ssh, steps: ["/k/{totp}"], opens: [ssh]}]`, func(b *browsing, name string) {
		b.visit("one", "/k/12345")
		b.visit("one", "/k/"+b.code(0))
		b.mustOpen("ssh")
		b.mustBan("")
		if log := b.stop(); !regexp.MustCompile(`codes or tickets[^\n]*"count":1\b`).MatchString(log) {
			b.t.Errorf("not one wrong code:\n%s", log)
		}
	})
}

func TestAPageThatReloadsItselfInABrowserDoesNoHarm(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.html")
	if err := os.WriteFile(page, []byte(`<!doctype html><meta http-equiv="refresh" content="0.2"><title>x</title>nothing here`), 0o644); err != nil {
		t.Fatal(err)
	}
	eachBrowser(t, `
listeners: [{address: ":80", cover: {status: 404, body_file: `+page+`}}]
sequences:
  - {name: web, steps: ["/w/{totp}"], opens: [web]}
  - {name: ssh, steps: [/a, {path: /b, within: 60s}, {path: /c, within: 60s}], opens: [ssh]}`, func(b *browsing, name string) {
		b.do("one", "visit", "http://"+home+"/w/"+b.code(1))
		b.mustOpen("web")
		knock := func(path string) {
			if err := b.alice.Run("curl", "--silent", "--max-time", "5", "http://"+serverIP+path); err != nil {
				b.t.Error(err)
			}
			b.more("the page's reload", 3)
		}
		for _, path := range []string{"/a", "/b", "/c"} {
			knock(path)
		}
		b.mustOpen("ssh", "web")
		b.more("more reloads", 20)
		b.mustBanStrangers()
		if log := b.stop(); strings.Contains(log, "codes or tickets") {
			b.t.Errorf("a code of alice's was wrong:\n%s", log)
		}
	})
}

func TestAPrefetchInABrowserIsNoKnock(t *testing.T) {
	eachBrowser(t, `
listeners: [{address: ":80"}]
sequences:
  - {name: ssh, steps: [/a, {path: "/k/{totp}", within: 60s}], ignore: [/plain], opens: [ssh]}
  - {name: web, steps: [/plain], opens: [web]}`, func(b *browsing, name string) {
		code := b.code(0)
		// A page of another site, with links that a browser may fetch ahead.
		var prefetched atomic.Int64
		site := http.NewServeMux()
		site.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprintf(w, `<!doctype html><link rel="prefetch" href="/ahead"><link rel="prefetch" href="http://%s/k/%s">text`, home, code)
		})
		site.HandleFunc("/ahead", func(w http.ResponseWriter, r *http.Request) {
			b.t.Logf("%s: Sec-Purpose %q, Purpose %q, X-Moz %q", name, r.Header["Sec-Purpose"], r.Header["Purpose"], r.Header["X-Moz"])
			prefetched.Add(1)
		})
		if err := b.server.Do(func() error {
			l, err := net.Listen("tcp", ":8090")
			if err == nil {
				b.t.Cleanup(func() { l.Close() })
				go http.Serve(l, site)
			}
			return err
		}); err != nil {
			b.t.Fatal(err)
		}
		b.visit("one", "/a")
		before := b.connections()
		if a := b.do("two", "visit", "http://"+home+":8090/"); a.Error != "" {
			b.t.Fatal(a.Error)
		}
		until(b.t, "the prefetches", func() bool { return prefetched.Load() > 0 && b.connections() > before })
		// Knocks of one client are read in order: when this one has opened its door,
		// those before it are read.
		b.alice.Run("curl", "--silent", "--max-time", "5", "http://"+serverIP+"/plain") // is reset
		b.mustOpen("web")
		b.visit("one", "/k/"+code)
		b.mustOpen("ssh", "web")
		b.mustBan("")
		if log := b.stop(); strings.Contains(log, "codes or tickets") {
			b.t.Errorf("a code of alice's was wrong:\n%s", log)
		}
	})
}

// What a browser sends in clear although there is TLS. The steps tell by which
// listener a request came.
const bothListeners = `
listeners: [%s]
sequences:
  - {name: tls, steps: [{path: /a, scheme: https}], ignore: [/plain], opens: [ssh]}
  - {name: clear, steps: [{path: /a, scheme: http}], ignore: [/plain], opens: [web]}`

func TestWhatABrowserSendsInClear(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
		"-subj", "/CN="+home, "-addext", "subjectAltName=DNS:"+home, "-keyout", dir+"/key.pem", "-out", dir+"/cert.pem").CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	if err := os.Chmod(dir+"/key.pem", 0o600); err != nil {
		t.Fatal(err)
	}
	const plain = `{address: ":80"}`
	secure := fmt.Sprintf(`{address: ":443", tls: {certificate: %[1]s/cert.pem, key: %[1]s/key.pem}}`, dir)
	page := func(b *browsing, link string) string {
		file := filepath.Join(b.dir, "link.html")
		if err := os.WriteFile(file, []byte(`<!doctype html><title>x</title><a id="link" href="`+link+`">link</a>`), 0o644); err != nil {
			b.t.Fatal(err)
		}
		return "file://" + file
	}
	cases := []struct {
		name string
		do   func(b *browsing)
		http bool // the address begins with http
	}{
		{"an https address, typed", func(b *browsing) { b.do("one", "visit", "https://"+home+"/a") }, false},
		{"an https address, reloaded", func(b *browsing) { b.do("one", "reload", "") }, false},
		{"an https link, clicked", func(b *browsing) {
			b.do("two", "visit", page(b, "https://"+home+"/a"))
			b.tell(order{Tab: "two", Do: "click", On: "#link"})
		}, false},
		{"an http address, typed", func(b *browsing) { b.do("three", "visit", "http://"+home+"/a") }, true},
		{"an http link, clicked", func(b *browsing) {
			b.do("four", "visit", page(b, "http://"+home+"/a"))
			b.tell(order{Tab: "four", Do: "click", On: "#link"})
		}, true},
	}
	eachBrowser(t, fmt.Sprintf(bothListeners, plain+", "+secure), func(b *browsing, name string) {
		for _, c := range cases {
			b.webknock("close", "--all")
			b.mustOpen()
			c.do(b)
			if c.http { // after TLS was dropped, or at once
				until(b.t, c.name+" comes in clear", func() bool { return strings.Contains(b.webknock("grants"), "web") })
			} else {
				b.mustOpen("ssh") // by TLS, and never in clear
			}
			grants := b.webknock("grants")
			b.t.Logf("%s: by TLS %v, in clear %v", c.name, strings.Contains(grants, "ssh "), strings.Contains(grants, "web "))
		}
	})
}
