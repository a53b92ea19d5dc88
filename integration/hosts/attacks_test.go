//go:build hosts

package hosts

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// attack is a page that tries to read and to change what the page shows. %s is where the
// page is, with what the attacker may know of its path.
const attack = `<!doctype html><title>attack</title><iframe name="frame" hidden></iframe><pre id="result"></pre><script>
const base = %q, results = [];
const add = (what, got) => { results.push(what + ': ' + got); document.getElementById('result').textContent = results.join('\n'); };
const read = async (what, options) => {
	for (const path of ['', 'v1/status', 'v1/grants', 'page/app.js']) {
		try {
			const res = await fetch(base + path, options);
			add(what + ' ' + path, res.type === 'opaque' ? 'opaque' : res.ok ? 'READ ' + (await res.text()).slice(0, 40) : 'refused ' + res.status);
		} catch { add(what + ' ' + path, 'refused'); }
	}
};
const image = path => new Promise(done => { const i = new Image(); i.onload = () => done('LOADED'); i.onerror = () => done('refused'); i.src = base + path; });
const script = path => new Promise(done => { const s = document.createElement('script'); s.onload = () => done('LOADED'); s.onerror = () => done('refused'); s.src = base + path; document.head.append(s); });
const sheet = path => new Promise(done => { const s = document.createElement('link'); s.rel = 'stylesheet'; s.onload = () => done('LOADED'); s.onerror = () => done('refused'); s.href = base + path; document.head.append(s); });
const events = () => new Promise(done => { const e = new EventSource(base + 'v1/events', { withCredentials: true }); e.onopen = () => done('READ'); e.onerror = () => { e.close(); done('refused'); }; });
const form = (type, body) => {
	const f = document.createElement('form');
	f.method = 'post'; f.enctype = type; f.action = base + 'v1/grants'; f.target = 'frame';
	const i = document.createElement('input'); i.name = body; i.value = ''; f.append(i); document.body.append(f); f.submit();
};
const grant = '{"door":"ssh","client":"` + malloryIP + `"}';
const look = (what, get) => { try { add(what, 'READ ' + get()); } catch { add(what, 'refused'); } };
(async () => {
	await read('fetch', { credentials: 'include' });
	await read('no-cors', { credentials: 'include', mode: 'no-cors' });
	await read('with the header', { credentials: 'include', headers: { 'X-Webknock': '1' } });
	for (const [what, options] of Object.entries({
		'post': { method: 'POST', body: grant, headers: { 'Content-Type': 'application/json', 'X-Webknock': '1' } },
		'post as text': { method: 'POST', body: grant, mode: 'no-cors' },
		'delete': { method: 'DELETE', headers: { 'X-Webknock': '1' } },
	})) await fetch(base + 'v1/grants', { credentials: 'include', ...options }).then(r => add(what, r.ok ? 'CHANGED' : 'refused ' + r.type), () => add(what, 'refused'));
	navigator.sendBeacon(base + 'v1/grants', grant);
	form('text/plain', grant); form('application/x-www-form-urlencoded', grant); form('multipart/form-data', grant);
	add('image', await image('page/mark.svg'));
	add('script', await script('page/theme.js'));
	add('style', await sheet('page/page.css'));
	add('events', await events());
	const frame = document.createElement('iframe'); frame.src = base; document.body.append(frame);
	await new Promise(done => { frame.onload = done; setTimeout(done, 1500); });
	look('frame', () => frame.contentWindow.document.body.innerText);
	const other = window.open(base);
	await new Promise(done => setTimeout(done, 1500));
	look('window', () => other.document.body.innerText);
	other?.close();
	add('done', 'yes');
})();
</script>`

func TestOtherPagesCannotUseThePageOfTheDaemon(t *testing.T) {
	u := newUI(t)
	u.webknock("open", "web", aliceIP)
	u.openPage("--host-resolver-rules=MAP *.test 127.0.0.1", "--disable-popup-blocking", "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests")
	page, err := url.Parse(u.mustDo(order{Tab: "page", Do: "address"}))
	if err != nil || len(page.Path) < 20 {
		t.Fatalf("the page is at %v, %v", page, err)
	}
	// The attacker's pages: of another site, and of another user on another port of the
	// same address, which browsers take for the same site.
	var cookies, targets sync.Map
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		for _, c := range r.Cookies() {
			cookies.Store(c.Name, c.Value)
		}
		if target, ok := targets.Load(r.URL.Path); ok {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprintf(w, attack, target)
		}
	})
	var evil string
	if err := u.server.Do(func() error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			t.Cleanup(func() { l.Close() })
			_, evil, _ = net.SplitHostPort(l.Addr().String())
			go http.Serve(l, mux)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("http://127.0.0.1:%d", u.port)
	rebound := fmt.Sprintf("http://rebound.test:%d", u.port)
	n := 0
	for _, from := range []string{"evil.test:" + evil, "127.0.0.1:" + evil, "localhost:" + evil} {
		for _, target := range []string{own + "/", own + page.Path, rebound + page.Path} { // and if the path were known
			n++
			path, tab := fmt.Sprintf("/%d", n), fmt.Sprint("attack", n)
			targets.Store(path, target)
			u.mustDo(order{Tab: tab, Do: "visit", URL: "http://" + from + path})
			var result string
			until(t, "the attack ends", func() bool {
				result = u.mustDo(order{Tab: tab, Do: "text", On: "#result"})
				return strings.Contains(result, "done: yes")
			})
			for _, success := range []string{"READ", "CHANGED", "LOADED"} {
				if strings.Contains(result, success) {
					t.Errorf("a page of %s, against %s:\n%s", from, target, result)
				}
			}
			if n == 1 {
				t.Logf("a page of %s, against %s:\n%s", from, target, result)
			}
			u.mustDo(order{Tab: tab, Do: "close"})
		}
	}
	// A rebound name is a page of its own origin, as the browser sees it.
	for _, address := range []string{rebound + page.Path, rebound + "/", rebound + page.Path + "v1/grants"} {
		u.mustDo(order{Tab: "rebound", Do: "visit", URL: address})
		if text := u.mustDo(order{Tab: "rebound", Do: "content"}); strings.Contains(text, aliceIP) || !strings.Contains(text, "This page is for a browser on this computer") {
			t.Errorf("%s shows %q", address, text)
		}
	}
	cookies.Range(func(name, value any) bool {
		t.Errorf("the attacker receives the cookie %v", name)
		return true
	})
	u.mustOpen("web") // nothing was opened or closed
	if strings.Contains(u.webknock("grants"), malloryIP) {
		t.Error("the attacker has let themselves in")
	}
	u.to("grants") // and the page itself works
	u.mustShow(row(aliceIP), "web")
}

func TestOtherUsersOfTheHostCannotUseThePageOfTheDaemon(t *testing.T) {
	u := newUI(t)
	nobody := func(args ...string) (string, error) {
		out, err := u.server.Command(t.Context(), "setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups"}, args...)...).CombinedOutput()
		return string(out), err
	}
	// The binary's directory is root's alone; so is the state's.
	for _, dir := range []string{scratch, u.dir, filepath.Dir(u.dir), filepath.Dir(filepath.Dir(u.dir))} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	out, err := nobody(binary, "ui", "--socket", filepath.Join(u.dir, "webknock.sock"))
	if err == nil || !strings.Contains(out, "not allowed") || !strings.Contains(out, "sudo webknock ui") {
		t.Errorf("webknock ui of a user who may not: %v\n%s", err, out)
	}
	base := fmt.Sprintf("http://127.0.0.1:%d", u.port)
	for _, path := range []string{"/", "/v1/status", "/v1/grants", "/page/app.js", "/?token=", "/?token=guess"} {
		out, err := nobody("curl", "--silent", "--include", base+path)
		if err != nil || !strings.HasPrefix(out, "HTTP/1.1 403") || strings.Contains(out, "Set-Cookie") {
			t.Errorf("%s: %v\n%s", path, err, out)
		}
	}
	if !strings.Contains(u.ssh, fmt.Sprintf("ssh -L %d:127.0.0.1:%d ", u.port, u.port)) {
		t.Errorf("the line for ssh is %q", u.ssh)
	}
	// One browser gets in, the second does not.
	jar := func() *http.Client {
		j, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		return &http.Client{Jar: j, Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			err = u.server.Do(func() error { conn, err = new(net.Dialer).DialContext(ctx, network, address); return err })
			return conn, err
		}}}
	}
	get := func(c *http.Client, url string) (int, string) {
		res, err := c.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
	first, second := jar(), jar()
	code, text := get(first, u.url)
	_, path, found := strings.Cut(text, "url=")
	path, _, _ = strings.Cut(path, `"`)
	if code != 200 || !found {
		t.Fatalf("the link answers %d:\n%s", code, text)
	}
	if code, text := get(first, base+path+"v1/status"); code != 200 || !strings.Contains(text, `"version"`) {
		t.Errorf("the page's browser is answered %d:\n%s", code, text)
	}
	for _, address := range []string{u.url, base + path, base + path + "v1/status"} {
		if code, _ := get(second, address); code != 403 {
			t.Errorf("a second browser is answered %d for %s", code, address)
		}
	}
	u.process.Process.Signal(os.Interrupt)
	if err := u.process.Wait(); err != nil {
		t.Errorf("webknock ui ends with %v", err)
	}
	if u.passes(u.server, "127.0.0.1", u.port) {
		t.Error("the port is still open")
	}
}
