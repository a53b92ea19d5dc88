package notice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-smtp"
)

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// received is what a server has got.
type received struct{ from, to, head, body string }

// webServer answers with a status, and passes on what it gets.
func webServer(t *testing.T, status func() int) (host string, got chan received) {
	t.Helper()
	got = make(chan received, 10)
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		rw.WriteHeader(status())
		io.WriteString(rw, "{}")
		got <- received{to: r.URL.Path, body: string(body)}
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), got
}

// mailServer takes mail but for nobody@example.org.
func mailServer(t *testing.T) (host string, got chan received) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got = make(chan received, 10)
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{got: got}, nil }))
	s.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return l.Addr().String(), got
}

type session struct {
	mail received
	got  chan received
}

func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }
func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.mail.from = from
	return nil
}
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if to == "nobody@example.org" {
		return &smtp.SMTPError{Code: 550, Message: "no s3cret here"}
	}
	s.mail.to = to
	return nil
}
func (s *session) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.mail.head, s.mail.body, _ = strings.Cut(string(text), "\r\n\r\n")
	s.got <- s.mail
	return err
}

func always(status int) func() int { return func() int { return status } }

// start starts a sender with one target of completions.
func start(t *testing.T, url string) (s *Sender, log *bytes.Buffer, stop func()) {
	t.Helper()
	log = new(bytes.Buffer)
	s = NewSender(slog.New(slog.NewTextHandler(log, nil)))
	s.host = "home"
	s.Use([]Target{{Place: "notify[0]", URL: url, Events: []Event{Completion}}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	return s, log, func() { cancel(); <-done }
}

var completed = Notice{Event: Completion, Client: "192.0.2.7", Sequence: "ssh"}

const text = "home: 192.0.2.7 has completed ssh"

func TestServersGetWhatTheyAreSent(t *testing.T) {
	web, gets := webServer(t, always(http.StatusOK))
	mail, mails := mailServer(t)
	send := func(url string) {
		t.Helper()
		s, log, stop := start(t, url)
		s.Send(completed)
		stop()
		if log.Len() > 0 {
			t.Errorf("%s: logged %s", url, log)
		}
	}
	send("ntfy://" + web + "/topic?scheme=http")
	if got := <-gets; got.to != "/topic" || got.body != text {
		t.Errorf("ntfy got %+v", got)
	}
	for _, url := range []string{"generic+http://" + web + "/hook?template=json", "generic://" + web + "/hook?template=json&disabletls=yes"} {
		send(url)
		got := <-gets
		var message struct{ Message string }
		if err := json.Unmarshal([]byte(got.body), &message); err != nil || got.to != "/hook" || message.Message != text {
			t.Errorf("%s: got %+v, %v", url, got, err)
		}
	}
	send("smtp://" + mail + "/?from=webknock@example.org&to=alice@example.org")
	if got := <-mails; got.from != "webknock@example.org" || got.to != "alice@example.org" || strings.TrimSpace(got.body) != text ||
		!strings.Contains(got.head+"\r\n", "Subject: webknock on home\r\n") {
		t.Errorf("the mail is %+v", got)
	}
	send("smtp://" + mail + "/?from=webknock@example.org&to=alice@example.org&subject=Knock")
	if got := <-mails; !strings.Contains(got.head+"\r\n", "Subject: Knock\r\n") {
		t.Errorf("the mail is %+v", got)
	}
}

func TestAServerThatFailsTwiceGetsTheNotice(t *testing.T) {
	t.Parallel() // it waits about three seconds
	var attempts atomic.Int64
	web, gets := webServer(t, func() int {
		if attempts.Add(1) < 3 {
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	})
	s, log, stop := start(t, "ntfy://"+web+"/topic?scheme=http")
	s.Send(completed)
	for range 3 {
		if got := <-gets; got.body != text {
			t.Errorf("got %+v", got)
		}
	}
	stop()
	if log.Len() > 0 {
		t.Errorf("logged %s", log)
	}
}

func TestAReasonSaysWhyAndShowsNoSecret(t *testing.T) {
	failing, _ := webServer(t, always(http.StatusInternalServerError))
	refusing, _ := webServer(t, always(http.StatusUnauthorized))
	mail, _ := mailServer(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	tls := httptest.NewUnstartedServer(nil)
	tls.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	tls.StartTLS()
	t.Cleanup(tls.Close)
	for url, want := range map[string]string{
		"ntfy://s3cret:s3cret@" + refusing + "/s3cret?scheme=http":               "refused by its server, or not understood",
		"generic+http://" + failing + "/s3cret":                                  "its server answers 500 Internal Server Error",
		"generic+http://" + closed.Addr().String() + "/s3cret":                   "connection refused",
		"generic://" + tls.Listener.Addr().String() + "/s3cret":                  "failed to verify certificate",
		"smtp://" + mail + "/?from=webknock@example.org&to=nobody@example.org":   "its server answers 550",
		"smtp://s3cret:s3cret@" + mail + "/?from=a@example.org&to=b@example.org": "its server answers 523",
	} {
		s, err := open(url, "home")
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if err = s.send(text); err == nil {
			t.Errorf("%s: sent", url)
		} else if got := reason(err); got != want {
			t.Errorf("%s: %q, want %q; %v", url, got, want, err)
		}
	}
	for err, want := range map[error]string{
		errHanging:                    "earlier attempts still wait for an answer",
		context.DeadlineExceeded:      "no answer in 10s",
		context.Canceled:              "no time left, the daemon stops",
		errors.New("s3cret nonsense"): "refused by its server, or not understood",
	} {
		if got := reason(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

// The library waits for ever for the greeting of a mail server.
func TestASilentMailServerDelaysNoStop(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, log, stop := start(t, "smtp://"+l.Addr().String()+"/?from=webknock@example.org&to=alice@example.org")
	s.Send(completed)
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	stop() // or the test never ends
	if !strings.Contains(log.String(), "no time left") {
		t.Errorf("logged %s", log)
	}
	conn.Close()
}

// Loading the package changes nothing of the process; a sender needs the timeout.
func TestASenderBoundsWhatTheLibrarySends(t *testing.T) {
	NewSender(slog.New(slog.DiscardHandler))
	if got := http.DefaultClient.Timeout; got != attemptTimeout {
		t.Errorf("the default client waits %v, want %v", got, attemptTimeout)
	}
}
