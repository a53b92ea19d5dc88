//go:build hosts

package hosts

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const passphrase = "correct horse battery"

// knockPage makes a page of a profile on alice's host and opens it in a tab.
func (b *browsing) knockPage(profile string, args ...string) (path string) {
	b.t.Helper()
	file := filepath.Join(b.dir, "profile.yaml")
	if err := os.WriteFile(file, []byte(profile), 0o600); err != nil {
		b.t.Fatal(err)
	}
	cmd := b.alice.Command(b.t.Context(), binary, append([]string{"page", file, "--name", "ssh"}, args...)...)
	cmd.Env = append(os.Environ(), "WEBKNOCK_PASSPHRASE="+passphrase)
	text, err := cmd.Output()
	if err != nil {
		b.t.Fatal(err)
	}
	path = filepath.Join(b.dir, "knock.html")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		b.t.Fatal(err)
	}
	for _, secret := range []string{b.secret, "/secret-step"} {
		if strings.Contains(string(text), secret) {
			b.t.Errorf("the page holds %s in clear", secret)
		}
	}
	b.mustDo(order{Tab: "page", Do: "visit", URL: "file://" + path})
	return path
}

func (b *browsing) mustDo(o order) string {
	b.t.Helper()
	a := b.tell(o)
	if a.Error != "" {
		b.t.Fatalf("%s %s: %s", o.Do, o.On, a.Error)
	}
	return a.Text
}

// mustSay waits for the page's status line.
func (b *browsing) mustSay(want string) {
	b.t.Helper()
	var got string
	until(b.t, "the page says "+want, func() bool {
		got = b.mustDo(order{Tab: "page", Do: "text", On: "#status"})
		return strings.Contains(got, want)
	})
}

func (b *browsing) unlock(passphrase string) {
	b.t.Helper()
	b.mustDo(order{Tab: "page", Do: "fill", On: "#passphrase", Text: passphrase})
	b.mustDo(order{Tab: "page", Do: "press", Text: "Enter"})
}

// look takes pictures of the page and has axe look at it.
func (b *browsing) look(view string) {
	b.t.Helper()
	for _, scheme := range []string{"dark", "light"} {
		for _, width := range []int{320, 800} {
			dir := b.dir
			if shots := os.Getenv("WEBKNOCK_SHOTS"); shots != "" {
				dir = shots
			}
			b.mustDo(order{Tab: "page", Do: "shot", Text: scheme, Width: width, URL: filepath.Join(dir, fmt.Sprintf("page-%s-%s-%s-%d.png", b.name, view, scheme, width))})
		}
		if found := b.mustDo(order{Tab: "page", Do: "axe"}); found != "" {
			b.t.Errorf("axe on %s, %s:\n%s", view, scheme, found)
		}
	}
}

const pageConfig = `
listeners: [{address: ":80"}]
sequences: [{name: ssh, steps: [/secret-step, {path: "/k/{totp}", within: 60s}], opens: [ssh]}]`

func (b *browsing) pageProfile(more string) string {
	return "servers: [http://" + home + "]\nsteps: [/secret-step, \"/k/{totp}\"]\nuser: ann\nsecret: " + b.secret + "\n" + more
}

func TestThePageOpensADoor(t *testing.T) {
	eachBrowser(t, pageConfig, func(b *browsing, name string) {
		b.knockPage(b.pageProfile(""))
		b.look("locked")
		b.unlock("a wrong passphrase")
		b.mustSay("That is not the passphrase.")
		b.unlock(passphrase)
		b.mustSay("Ready to open ssh.")
		b.look("ready")
		b.mustDo(order{Tab: "page", Do: "press", Text: "Enter"}) // the button has the focus
		b.mustSay("Knocked. If it was right, ssh is open now")
		b.mustOpen("ssh")
		if left := b.mustDo(order{Tab: "page", Do: "text", On: "#left"}); !strings.HasPrefix(left, "0:") {
			b.t.Errorf("the countdown shows %q", left)
		}
		b.look("open")
		// Its next knock has the next code.
		b.webknock("close", "--all")
		b.mustOpen()
		b.mustDo(order{Tab: "page", Do: "click", On: "#go"})
		b.mustOpen("ssh")
		b.mustDo(order{Tab: "page", Do: "click", On: "#lock"})
		b.mustSay("Locked.")
		if b.mustDo(order{Tab: "page", Do: "text", On: "#go"}) != "" {
			b.t.Error("the button is there although the page is locked")
		}
		b.mustBan("")
		if log := b.stop(); strings.Contains(log, "codes or tickets") {
			b.t.Errorf("a code of the page was wrong:\n%s", log)
		}
	})
}

func TestThePageKeepsItsKeysIfAsked(t *testing.T) {
	eachBrowser(t, pageConfig, func(b *browsing, name string) {
		b.knockPage(b.pageProfile(""), "--keep")
		b.unlock(passphrase)
		b.mustSay("Ready to open ssh.")
		b.mustDo(order{Tab: "page", Do: "reload"})
		b.mustSay("Ready to open ssh.") // without a passphrase
		b.mustDo(order{Tab: "page", Do: "click", On: "#go"})
		b.mustOpen("ssh")
		b.mustDo(order{Tab: "page", Do: "click", On: "#lock"})
		b.mustSay("Locked.")
		b.mustDo(order{Tab: "page", Do: "reload"})
		until(b.t, "the passphrase is asked for", func() bool {
			return b.mustDo(order{Tab: "page", Do: "text", On: "#unlock"}) != ""
		})
	})
}

func TestThePageLocksItself(t *testing.T) {
	eachBrowser(t, pageConfig, func(b *browsing, name string) {
		b.knockPage(b.pageProfile(""), "--lock", (2 * time.Second).String())
		b.unlock(passphrase)
		b.mustSay("Locked after a while without use.")
	})
}

func TestThePageWaitsForWhatIsBehindTheDoor(t *testing.T) {
	eachBrowser(t, `
listeners: [{address: ":80"}]
sequences: [{name: web, steps: [/secret-step, /b], opens: [web]}]`, func(b *browsing, name string) {
		profile := "servers: [http://" + home + "]\nsteps: [/secret-step, /b]\n"
		b.serveFile(81)
		b.knockPage(profile, "--poll", "http://"+home+":81/")
		b.unlock(passphrase)
		b.mustSay("Ready")
		b.mustDo(order{Tab: "page", Do: "click", On: "#go"})
		b.mustSay("ssh is open.")
		b.mustOpen("web")
		b.webknock("close", "--all")
		b.knockPage(strings.Replace(profile, "/b", "/c", 1), "--poll", "http://"+home+":81/")
		b.unlock(passphrase)
		b.mustSay("Ready")
		b.mustDo(order{Tab: "page", Do: "click", On: "#go"})
		b.mustSay("ssh does not answer")
	})
}

// serveFile answers web requests on a port of the server.
func (b *browsing) serveFile(port int) {
	b.t.Helper()
	if err := b.server.Do(func() error {
		l, err := net.Listen("tcp", fmt.Sprint(":", port))
		if err == nil {
			b.t.Cleanup(func() { l.Close() })
			site := &http.Server{Handler: http.NotFoundHandler()}
			site.SetKeepAlivesEnabled(false) // a session that is kept would pass the door that is shut again
			go site.Serve(l)
		}
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
}
