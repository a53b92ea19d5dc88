package integration

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"webknock/integration/lab"
)

const (
	authorityIP = "10.20.0.4"
	directory   = "https://" + authorityIP + ":14000/dir"
	domain      = "home.example.org"
	reset       = 56 // curl's exit for a reset after the handshake
	refused     = 35 // and for one in it
)

// tools builds pebble, a certificate authority for tests, and its DNS server, at
// the version of tools/go.mod.
var tools = sync.OnceValues(func() (dir string, err error) {
	dir = filepath.Dir(binary)
	const module = "github.com/letsencrypt/pebble/v2/cmd/"
	if out, err := exec.Command("go", "build", "-C", "tools", "-o", dir, module+"pebble", module+"pebble-challtestsrv").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build pebble: %w\n%s", err, out)
	}
	return dir, nil
})

// An authority is a host with pebble.
type authority struct {
	*world
	host   *lab.Host
	pebble *process
}

// newAuthority prepares one, which expects the challenges at the given ports, and
// whose certificates are valid for so many seconds.
func newAuthority(t *testing.T, httpPort, tlsPort, validity int) *authority {
	t.Helper()
	w := newWorld(t)
	host, err := w.net.Host("authority", authorityIP+"/24")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
		"-subj", "/CN=authority", "-addext", "subjectAltName=IP:"+authorityIP, "-keyout", w.dir+"/ca-key.pem", "-out", w.dir+"/ca.pem").CombinedOutput()
	if err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	config := fmt.Sprintf(`{"pebble": {"listenAddress": "0.0.0.0:14000", "managementListenAddress": "0.0.0.0:15000",
		"certificate": "%[1]s/ca.pem", "privateKey": "%[1]s/ca-key.pem", "httpPort": %[2]d, "tlsPort": %[3]d,
		"keyAlgorithm": "ecdsa", "retryAfter": {"authz": 1, "order": 1},
		"profiles": {"default": {"description": "", "validityPeriod": %[4]d}}}}`, w.dir, httpPort, tlsPort, validity)
	if err := os.WriteFile(w.dir+"/pebble.json", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return &authority{world: w, host: host}
}

// open starts pebble, and waits until it answers.
func (a *authority) open() {
	a.t.Helper()
	dir, err := tools()
	if err != nil {
		a.t.Fatal(err)
	}
	a.start(a.host.Command(a.t.Context(), filepath.Join(dir, "pebble-challtestsrv"), "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "",
		"-dnsserver", "127.0.0.1:8053", "-management", "127.0.0.1:8055", "-defaultIPv4", serverIP, "-defaultIPv6", ""))
	cmd := a.host.Command(a.t.Context(), filepath.Join(dir, "pebble"), "-config", a.dir+"/pebble.json", "-dnsserver", "127.0.0.1:8053")
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1")
	a.pebble = a.start(cmd)
	until(a.t, "the authority answers", func() bool {
		out, exit := a.curl(a.server, "--cacert", a.dir+"/ca.pem", "https://"+authorityIP+":15000/roots/0")
		return exit == 0 && os.WriteFile(a.dir+"/root.pem", []byte(out), 0o600) == nil
	})
}

// config returns a configuration with listeners on the given ports.
func (a *authority) config(domains string, ports ...string) string {
	var listeners strings.Builder
	for _, port := range ports {
		fmt.Fprintf(&listeners, "  - address: \":%s\"\n", port)
		if port == "443" {
			fmt.Fprintf(&listeners, "    tls: {acme: {domains: [%s], email: me@example.org, directory: %q, ca: ca.pem}}\n", domains, directory)
		}
	}
	return strings.Replace(standard, "  - address: \":8080\"\n", listeners.String(), 1) + "state: " + a.dir + "/state\n"
}

// ask requests a path by TLS, trusting pebble's root alone.
func (a *authority) ask(name, path string) (out string, exit int) {
	a.t.Helper()
	return a.curl(a.alice, "--include", "--cacert", a.dir+"/root.pem", "--resolve", name+":443:"+serverIP, "https://"+name+path)
}

// mustServe waits until a domain has its certificate, and completes a sequence.
func (a *authority) mustServe(name string) {
	a.t.Helper()
	until(a.t, "a certificate for "+name, func() bool {
		out, exit := a.ask(name, "/other")
		if out != "" || exit != reset && exit != refused {
			a.t.Fatalf("curl: exit %d, %q", exit, out)
		}
		return exit == reset
	})
	for _, path := range []string{"/a", "/b", "/c"} {
		if out, exit := a.ask(name, path); out != "" || exit != reset {
			a.t.Errorf("curl %s: exit %d, %q", path, exit, out)
		}
	}
	a.mustBecome("ssh " + aliceIP)
	a.must("close", "--all")
}

// silent asks for what a stranger might, and reports what came back.
func (a *authority) silent(port string) error {
	for _, path := range []string{"/.well-known/acme-challenge/other", "/.well-known/acme-challenge/", "/"} {
		if out, exit := a.curl(a.mallory, "--include", "-H", "Host: "+domain, "http://"+serverIP+":"+port+path); out != "" || exit != reset {
			return fmt.Errorf("curl %s to port %s: exit %d, %q", path, port, exit, out)
		}
	}
	return nil
}

// refuses fails unless a handshake for the challenge of a domain is reset, with
// not one byte of an answer.
func (a *authority) refuses(name string) {
	a.t.Helper()
	out, _ := a.mallory.Command(a.t.Context(), "openssl", "s_client", "-connect", serverIP+":443", "-servername", name, "-alpn", "acme-tls/1").CombinedOutput()
	if !strings.Contains(string(out), "SSL handshake has read 0 bytes") {
		a.t.Errorf("openssl:\n%s", out)
	}
}

// whileObtaining asks again and again until stop is called, which returns what
// was wrong, if anything was.
func (a *authority) whileObtaining(port string) (stop func() error) {
	done, result := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			if err := a.silent(port); err != nil {
				result <- err
				return
			}
			select {
			case <-done:
				result <- nil
				return
			default:
			}
		}
	}()
	return func() error {
		close(done)
		return <-result
	}
}

const (
	nobody = 9            // a port that nobody listens on
	aDay   = 24 * 60 * 60 // seconds
)

func TestACertificateByHTTP01(t *testing.T) {
	a := newAuthority(t, 80, nobody, aDay)
	a.open()
	a.serve(a.config(domain, "80", "443"))
	stop := a.whileObtaining("80")
	a.mustServe(domain)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := a.silent("80"); err != nil {
		t.Error(err)
	}
	a.mustHold()
	err := filepath.WalkDir(a.dir+"/state/acme", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestACertificateByTLSALPN01(t *testing.T) {
	const other = "other.example.org"
	a := newAuthority(t, nobody, 443, aDay)
	a.open()
	a.serve(a.config(domain, "443"))
	a.mustServe(domain)
	a.refuses(domain)
	if out, exit := a.ask(other, "/a"); out != "" || exit != refused {
		t.Errorf("another name: exit %d, %q", exit, out)
	}

	a.configure(a.config(domain+", "+other, "443"))
	a.must("reload")
	if out, exit := a.ask(domain, "/a"); out != "" || exit != reset {
		t.Errorf("right after a reload: exit %d, %q", exit, out)
	}
	a.daemon.wait(t, "stopped background certificate maintenance") // of what is no longer used
	a.mustServe(other)
	a.configure(a.config(other, "443"))
	a.must("reload")
	if out, exit := a.ask(domain, "/a"); out != "" || exit != refused {
		t.Errorf("a domain that is gone: exit %d, %q", exit, out)
	}

	a.pebble.stop(t, syscall.SIGTERM)
	a.daemon.stop(t, syscall.SIGTERM)
	a.serve(a.config(domain+", "+other, "443"))
	for _, name := range []string{domain, other} {
		if out, exit := a.ask(name, "/a"); out != "" || exit != reset {
			t.Errorf("after a restart, without the authority: exit %d, %q", exit, out)
		}
	}
	if log := strings.Join(a.daemon.lines(), "\n"); strings.Contains(log, "obtaining") {
		t.Errorf("a certificate was asked for anew:\n%s", log)
	}
}

// The daemon starts although the authority is down, and asks it again later.
func TestADaemonStartsWithoutItsCertificateAuthority(t *testing.T) {
	a := newAuthority(t, nobody, 443, aDay)
	a.serve(a.config(domain, "8080", "443"))
	a.daemon.wait(t, "no certificate yet")
	a.knock(a.alice, serverIP, "/a", "/b", "/c")
	a.mustBecome("ssh " + aliceIP)
	a.must("close", "--all")
	a.refuses(domain)
	if out, exit := a.curl(a.alice, "--insecure", "--resolve", domain+":443:"+serverIP, "https://"+domain+"/a"); out != "" || exit != refused {
		t.Errorf("without a certificate: exit %d, %q", exit, out)
	}
	if status := a.must("status"); !strings.Contains(status, "no certificate for "+domain) {
		t.Errorf("the status does not say so:\n%s", status)
	}
	a.open()
	a.must("reload")
	a.mustServe(domain)
	if status := a.must("status"); strings.Contains(status, "no certificate") {
		t.Errorf("the status has not changed:\n%s", status)
	}
	// The authority may have tried HTTP-01 first, in vain, and said so.
	if token := regexp.MustCompile(`acme-challenge/[\w-].*`).FindString(strings.Join(a.daemon.lines(), "\n")); token != "" {
		t.Errorf("the log has a token: %s", token)
	}
}

func TestACertificateIsRenewed(t *testing.T) {
	a := newAuthority(t, nobody, 443, 2)
	a.open()
	a.serve(a.config(domain, "443"))
	a.daemon.wait(t, "certificate obtained successfully")
	a.daemon.stop(t, syscall.SIGTERM)
	stored, err := filepath.Glob(a.dir + "/state/acme/certificates/*/" + domain + "/" + domain + ".crt")
	if err != nil || len(stored) != 1 {
		t.Fatalf("stored certificates: %q, %v", stored, err)
	}
	until(t, "the certificate has expired", func() bool { return exec.Command("openssl", "x509", "-checkend", "0", "-in", stored[0]).Run() != nil })
	a.serve(a.config(domain, "443"))
	a.daemon.wait(t, "certificate renewed successfully")
}
