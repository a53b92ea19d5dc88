package integration

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"webknock/integration/lab"
)

// inbox gets what the servers of a host are sent, as "path or address: text".
type inbox chan string

// must waits for a text that begins and goes on like this, and leaves others.
func (box inbox) must(t *testing.T, begins, holds string) {
	t.Helper()
	var others []string
	defer func() {
		for _, text := range others {
			box <- text
		}
	}()
	for deadline := time.After(patience); ; {
		select {
		case got := <-box:
			if strings.HasPrefix(got, begins) && strings.Contains(got, holds) {
				return
			}
			others = append(others, got)
		case <-deadline:
			t.Fatalf("waited in vain for %s…%s", begins, holds)
		}
	}
}

// serveInboxes has a host listen for HTTP on port 9000, and for mail on 2525.
func serveInboxes(t *testing.T, h *lab.Host) (web, mail inbox) {
	t.Helper()
	web, mail = make(inbox, 100), make(inbox, 100)
	listen := func(address string, serve func(net.Listener)) {
		t.Helper()
		err := h.Do(func() error {
			l, err := net.Listen("tcp", address)
			if err == nil {
				t.Cleanup(func() { l.Close() })
				go serve(l)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	listen("127.0.0.1:9000", func(l net.Listener) {
		http.Serve(l, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			text, err := io.ReadAll(r.Body)
			if err == nil {
				web <- r.URL.Path + ": " + string(text)
			}
			io.WriteString(rw, "{}")
		}))
	})
	listen("127.0.0.1:2525", func(l net.Listener) {
		s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &mailSession{got: mail}, nil }))
		s.Serve(l)
	})
	return web, mail
}

type mailSession struct {
	to  string
	got inbox
}

func (s *mailSession) Reset()                               { s.to = "" }
func (s *mailSession) Logout() error                        { return nil }
func (s *mailSession) Mail(string, *smtp.MailOptions) error { return nil }
func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = to
	return nil
}
func (s *mailSession) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.got <- s.to + ": " + string(text)
	return err
}

func TestRecipientsGetNotices(t *testing.T) {
	w := newWorld(t)
	web, mail := serveInboxes(t, w.server)
	file := filepath.Join(w.dir, "mail.url")
	if err := os.WriteFile(file, []byte("smtp://127.0.0.1:2525/?from=webknock@example.org&to=s3cret@example.org\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.serve(strings.Replace(standard, "    opens: [ssh]\n", `    opens: [ssh]
    message: hello
    notify:
      - ntfy://alice:s3cret@127.0.0.1:9000/ntfy?scheme=http
      - url_file: mail.url
        on: [completion, grant]
      - ntfy://127.0.0.1:1/s3cret?scheme=http      # nobody there
`, 1) + `
shield: {decoys: [/decoy]}
notify:
  - generic+http://127.0.0.1:9000/hook?template=json&$token=s3cret
  - url: generic+http://127.0.0.1:9000/s3cret
    on: [ban, grant]
    template: '{{.Event}} {{.Client}} {{.Door}}{{.Reason}}'
`)
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	web.must(t, "/ntfy: ", ": "+aliceIP+" has completed ssh: hello")
	mail.must(t, "s3cret@example.org: ", aliceIP+" has completed ssh: hello")
	mail.must(t, "s3cret@example.org: ", "door ssh is open to "+aliceIP+" until 20")
	web.must(t, "/s3cret: ", "grant "+aliceIP+" ssh")
	w.knock(w.mallory, serverIP, "/decoy")
	web.must(t, "/s3cret: ", "ban "+malloryIP+" a decoy")
	w.nft("flush", "ruleset")
	web.must(t, `/hook: {"message":"`, "guard repaired")
	w.must("unguard")
	web.must(t, `/hook: {"message":"`, "webknock is degraded: the guard was taken away")

	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"check", "reload"} {
		if _, stderr, code := w.webknock(command); code != 1 || !strings.Contains(stderr, "sequences[0].notify[1].url_file: everybody may read") {
			t.Errorf("%s of a URL that all may read: exit %d, %s", command, code, stderr)
		}
	}

	w.daemon.stop(t, syscall.SIGTERM)
	log := strings.Join(w.daemon.lines(), "\n")
	if !strings.Contains(log, `"notify":"sequences[0].notify[2]","service":"ntfy","event":"completion","reason":"connection refused"`) {
		t.Error("nothing of the notice that nobody got")
	}
	if strings.Contains(log, "s3cret") {
		t.Error("a secret is in the log")
	}
}
