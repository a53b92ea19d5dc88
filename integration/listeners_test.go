package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"webknock/integration/lab"
)

// listener returns the standard configuration with another listener.
func listener(keys string) string {
	return strings.Replace(standard, `  - address: ":8080"`, "  - "+strings.ReplaceAll(strings.TrimSpace(keys), "\n", "\n    "), 1)
}

// curl returns what curl prints, and its exit status.
func (w *world) curl(from *lab.Host, args ...string) (out string, exit int) {
	w.t.Helper()
	cmd := from.Command(w.t.Context(), "curl", append([]string{"--silent", "--max-time", "10", "--path-as-is"}, args...)...)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	err := cmd.Run()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		w.t.Fatal(err)
	}
	return stdout.String(), cmd.ProcessState.ExitCode()
}

// certificate makes cert.pem and key.pem, for a name or an address as openssl
// writes it.
func (w *world) certificate(alternative string) {
	w.t.Helper()
	out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
		"-subj", "/CN=home.example.org", "-addext", "subjectAltName="+alternative, "-keyout", w.dir+"/key.pem", "-out", w.dir+"/cert.pem").CombinedOutput()
	if err == nil {
		err = os.Chmod(w.dir+"/key.pem", 0o600)
	}
	if err != nil {
		w.t.Fatalf("openssl: %v\n%s", err, out)
	}
}

func TestKnocksByTLS(t *testing.T) {
	w := newWorld(t)
	w.certificate("DNS:home.example.org")
	w.serve(listener(`
address: ":8443"
tls: {certificate: cert.pem, key: key.pem, server_names: [home.example.org]}`))
	ask := func(name, path string) (string, int) {
		return w.curl(w.alice, "--include", "--cacert", w.dir+"/cert.pem", "--resolve", name+":8443:"+serverIP, "https://"+name+":8443"+path)
	}
	const reset, handshakeFailed = 56, 35
	for _, path := range []string{"/a", "/b", "/c"} {
		if out, exit := ask("home.example.org", path); out != "" || exit != reset {
			t.Errorf("curl %s: exit %d, %q", path, exit, out)
		}
	}
	w.mustBecome("ssh " + aliceIP)
	if out, exit := ask("other.example.org", "/a"); out != "" || exit != handshakeFailed {
		t.Errorf("another name: exit %d, %q", exit, out)
	}
	w.certificate("DNS:home.example.org") // curl trusts the new one alone
	until(t, "the new certificate", func() bool { _, exit := ask("home.example.org", "/a"); return exit == reset })
	if err := os.Chmod(w.dir+"/key.pem", 0o644); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := w.webknock("check"); code != 1 || !strings.Contains(stderr, "everybody may read") {
		t.Errorf("a key that all may read: exit %d, %s", code, stderr)
	}
}

func TestTheStatusCoverAnswersAllRequestsAlike(t *testing.T) {
	w := newWorld(t)
	if err := os.WriteFile(filepath.Join(w.dir, "404.html"), []byte("<h1>Not here</h1>\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.serve(listener(`
address: ":8080"
cover: {status: 404, body_file: 404.html}`))
	answers := map[string]int{}
	for _, path := range []string{"/a", "/nothing", "/b", "/c"} { // with strict, the second starts over
		out, _ := w.curl(w.alice, "--include", "http://"+serverIP+":8080"+path)
		head, body, _ := strings.Cut(out, "Date: ")
		_, body, _ = strings.Cut(body, "\r\n")
		answers[head+body]++
	}
	if len(answers) != 1 {
		t.Errorf("different answers: %v", answers)
	}
	w.mustHold()
	for _, path := range []string{"/a", "/b", "/c"} {
		w.curl(w.alice, "http://"+serverIP+":8080"+path)
	}
	w.mustBecome("ssh " + aliceIP)
}

func TestTheRealSiteAnswersAsACover(t *testing.T) {
	w := newWorld(t)
	err := w.server.Do(func() error {
		l, err := net.Listen("tcp", "127.0.0.1:8081")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go http.Serve(l, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(rw, "%s for %s", r.URL.Path, r.Header.Get("X-Forwarded-For"))
		}))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.serve(listener(`
address: ":8080"
cover: {proxy: "http://127.0.0.1:8081"}`))
	if _, stderr, _ := w.webknock("check"); !strings.Contains(stderr, "strict: false") {
		t.Errorf("check does not warn: %s", stderr)
	}
	for _, path := range []string{"/a", "/b", "/c"} {
		if out, exit := w.curl(w.alice, "-H", "X-Forwarded-For: 1.2.3.4", "http://"+serverIP+":8080"+path); exit != 0 || out != path+" for "+aliceIP {
			t.Errorf("curl %s: exit %d, %q", path, exit, out)
		}
	}
	w.mustBecome("ssh " + aliceIP)
}

// The recipes of docs/recipes, as they are there.
func TestKnocksBehindProxies(t *testing.T) {
	nginx := func(recipe, dir string) []string {
		return []string{"nginx", "-g", "daemon off; master_process off; pid " + dir + "/nginx.pid; error_log stderr notice;", "-c", recipe}
	}
	haproxy := func(recipe, _ string) []string { return []string{"haproxy", "-db", "-f", recipe} }
	for _, tt := range []struct {
		name, recipe, source string
		old, new             string // a variation that the recipe speaks of
		command              func(recipe, dir string) []string
	}{
		{"nginx", "nginx.conf", "x-real-ip", "", "", nginx},
		{"nginx with Forwarded", "nginx.conf", "forwarded", "", "", nginx},
		{"haproxy", "haproxy.cfg", "proxy-protocol", "", "", haproxy},
		{"haproxy with version 1", "haproxy.cfg", "proxy-protocol", "send-proxy-v2", "send-proxy", haproxy},
		{"caddy", "Caddyfile", "x-forwarded-for", "", "", func(recipe, dir string) []string {
			return []string{"env", "HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "caddy", "run", "--adapter", "caddyfile", "--config", recipe}
		}},
		{"apache", "apache.conf", "x-forwarded-for", "", "", func(recipe, dir string) []string {
			return []string{"apache2", "-X", "-C", "DefaultRuntimeDir " + dir, "-C", "PidFile " + dir + "/apache.pid", "-C", "ErrorLog /dev/stderr", "-f", recipe}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.serve(strings.ReplaceAll(listener(fmt.Sprintf(`
address: 127.0.0.1:8080
proxies: [127.0.0.1]
client_address: %s
cover: {status: 404}`, tt.source)), "/a, /b, /c", "/knock/a, /knock/b, /knock/c"))
			recipe, err := filepath.Abs("../docs/recipes/" + tt.recipe)
			if err != nil {
				t.Fatal(err)
			}
			if tt.old != "" {
				text, err := os.ReadFile(recipe)
				if err != nil {
					t.Fatal(err)
				}
				recipe = filepath.Join(w.dir, tt.recipe)
				if err := os.WriteFile(recipe, []byte(strings.Replace(string(text), tt.old, tt.new, 1)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			command := tt.command(recipe, t.TempDir())
			w.start(w.server.Command(t.Context(), command[0], command[1:]...))
			until(t, "the proxy answers", func() bool { _, exit := w.curl(w.alice, "http://"+serverIP+"/"); return exit == 0 })
			ask := func(from *lab.Host, server, path string, args ...string) string {
				t.Helper()
				out, exit := w.curl(from, append(args, "--write-out", " %{http_code}", "http://"+net.JoinHostPort(server, "80")+path)...)
				if exit != 0 || !strings.HasSuffix(out, " 404") {
					t.Errorf("curl %s: exit %d, %q", path, exit, out)
				}
				return out
			}
			pretend := []string{"-H", "X-Real-IP: " + aliceIP, "-H", "X-Forwarded-For: " + aliceIP, "-H", "Forwarded: for=" + aliceIP}
			other := ask(w.mallory, serverIP, "/elsewhere")
			for _, path := range []string{"/knock/a", "/knock/b", "/knock/c"} {
				if got := ask(w.mallory, serverIP, path, pretend...); got != other {
					t.Errorf("%s looks like %q, other pages like %q", path, got, other)
				}
			}
			w.mustBecome("ssh " + malloryIP) // who asked, whatever she writes
			for _, path := range []string{"/knock/a", "/knock/b", "/knock/c"} {
				ask(w.alice, serverIP6, path, "-H", "X-Forwarded-For: "+malloryIP+", 127.0.0.1", "-H", `Forwarded: for="`)
			}
			w.mustBecome("ssh "+malloryIP, "ssh "+aliceIP6)
			// Without the proxy the header of a client does not count.
			w.curl(w.server, "-H", "X-Real-IP: "+aliceIP, "http://127.0.0.1:8080/knock/a")
			w.mustHold("ssh "+malloryIP, "ssh "+aliceIP6)
		})
	}
}

// A socket that systemd holds stays open while the daemon restarts: no
// connection is refused, and no knock is lost.
func TestARestartRefusesNoConnection(t *testing.T) {
	w := newWorld(t)
	socket := w.socket()
	text := listener(`address: "systemd:web"`)
	w.configure(text)
	serve := func() {
		t.Helper()
		cmd := w.server.Command(t.Context(), "sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web exec "$0" serve --config "$1"`, binary, w.config())
		cmd.ExtraFiles = []*os.File{socket}
		w.daemon = w.start(cmd)
		w.daemon.wait(t, `"serving"`)
	}
	serve()
	stop, ended := make(chan struct{}), make(chan error, 1)
	asked := 0
	go func() { // one knock after the other
		for {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			err := w.mallory.Do(func() error {
				conn, err := net.Dial("tcp", serverIP+":8080")
				if err != nil {
					return err
				}
				defer conn.Close()
				io.WriteString(conn, "GET /other HTTP/1.1\r\nHost: h\r\n\r\n")
				conn.Read(make([]byte, 1)) // until it is reset
				return nil
			})
			if err != nil {
				ended <- err
				return
			}
			asked++
		}
	}()
	for range 3 {
		w.daemon.stop(t, 15)
		serve()
		w.knock(w.alice, serverIP, "/a", "/b", "/c")
		w.mustBecome("ssh " + aliceIP)
		w.must("close", "--all")
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Errorf("after %d knocks: %v", asked, err)
	}
	t.Logf("%d knocks during 3 restarts, none refused", asked)
	w.configure(strings.Replace(text, "systemd:web", "systemd:other", 1))
	if _, stderr, code := w.webknock("reload"); code != 1 || !strings.Contains(stderr, "handed over no socket other") {
		t.Errorf("reload: exit %d, %s", code, stderr)
	}
	w.configure(strings.Replace(text, "22/tcp", "8080/tcp", 1)) // which port it is only the daemon knows
	w.must("reload")
	w.daemon.wait(t, "only who has passed a door already can knock here")
}

// socket is what systemd would hold for the server: port 8080, open.
func (w *world) socket() (socket *os.File) {
	w.t.Helper()
	err := w.server.Do(func() error {
		l, err := net.Listen("tcp", ":8080")
		if err != nil {
			return err
		}
		defer l.Close()
		socket, err = l.(*net.TCPListener).File()
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { socket.Close() })
	return socket
}
