// Demo shows the main job, for real: a server, a client and a stranger in
// network namespaces of their own, the daemon, sshd and curl. It prints what it
// measures, and leaves nothing behind.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"webknock/integration/lab"
)

const (
	serverIP = "10.20.0.1"
	ttl      = 6 * time.Second
	config   = `listeners:
  - address: ":80"
doors:
  - name: ssh
    ports: [22/tcp]
    ttl: 6s
sequences:
  - name: ssh
    steps: [/a, /b, /c]
    opens: [ssh]
admin: {socket: %[1]s/webknock.sock}
state: %[1]s/state
`
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo WEBKNOCK")
		os.Exit(2)
	}
	lab.Enter()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := demo(ctx, os.Args[1])
	switch {
	case ctx.Err() != nil:
		fmt.Println("\nInterrupted; nothing is left behind.")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context, webknock string) (err error) {
	if err := lab.Need("curl", "ip", "nsenter", "ssh-keygen", "/usr/sbin/sshd"); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "webknock-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	n, err := lab.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	server, err1 := n.Host("server", serverIP+"/24")
	client, err2 := n.Host("client", "10.20.0.2/24")
	stranger, err3 := n.Host("stranger", "10.20.0.3/24")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	fmt.Println("Three hosts in namespaces of their own: server 10.20.0.1, client 10.20.0.2, stranger 10.20.0.3.")

	stopSSH, err := sshd(ctx, server, dir)
	if err != nil {
		return err
	}
	defer stopSSH()
	file := filepath.Join(dir, "webknock.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, dir), 0o600); err != nil {
		return err
	}
	daemon := server.Command(ctx, webknock, "serve", "--config", file)
	stopDaemon, err := start(daemon, `"serving"`)
	if err != nil {
		return err
	}
	defer stopDaemon()
	fmt.Println("The server runs sshd and webknock; SSH opens for 6 s to who asks for /a, /b, /c.")
	fmt.Println()

	step := func(what string, from *lab.Host, want bool) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		banner, took := look(from, 700*time.Millisecond)
		got := "silent for " + took.Round(time.Millisecond).String()
		if banner != "" {
			got = fmt.Sprintf("open: %s says %q", serverIP, banner)
		}
		fmt.Printf("%-44s %s\n", what, got)
		if (banner != "") != want {
			return fmt.Errorf("%s: open %v, want %v", what, banner != "", want)
		}
		return nil
	}
	knock := func(paths ...string) error {
		for _, path := range paths {
			out, err := client.Command(ctx, "curl", "--silent", "http://"+serverIP+path).CombinedOutput()
			if err := ctx.Err(); err != nil {
				return err
			}
			fmt.Printf("  client: curl http://%s%s   %d bytes back, %v\n", serverIP, path, len(out), err)
		}
		return nil
	}
	if err := step("The client tries SSH:", client, false); err != nil {
		return err
	}
	if err := knock("/a", "/c", "/b"); err != nil {
		return err
	}
	if err := step("After the wrong order:", client, false); err != nil {
		return err
	}
	if err := knock("/a", "/b", "/c"); err != nil {
		return err
	}
	last := time.Now()
	for {
		// A first packet that came too early is not sent again for a second.
		if banner, _ := look(client, 10*time.Millisecond); banner != "" {
			break
		}
		if time.Since(last) > ttl || ctx.Err() != nil {
			return errors.New("the door did not open")
		}
	}
	fmt.Printf("%-44s %v after the last curl had ended\n", "Open for the client:", time.Since(last).Round(10*time.Microsecond))
	if err := step("The client tries SSH:", client, true); err != nil {
		return err
	}
	if err := step("The stranger tries SSH:", stranger, false); err != nil {
		return err
	}
	fmt.Println("\n$ webknock grants")
	out, err := server.Command(ctx, webknock, "grants", "--config", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("webknock grants: %w: %s", err, out)
	}
	fmt.Println(string(out))
	for {
		if banner, _ := look(client, 700*time.Millisecond); banner == "" {
			break
		}
		if time.Since(last) > 3*ttl || ctx.Err() != nil {
			return errors.New("the door did not close")
		}
	}
	fmt.Printf("%-44s seen %v after the last knock, with a time to live of %v\n", "Closed again, by the kernel:", time.Since(last).Round(100*time.Millisecond), ttl)
	fmt.Println("\nThe hosts are gone, and nothing is left behind.")
	return nil
}

// sshd runs the real one.
func sshd(ctx context.Context, server *lab.Host, dir string) (stop func(), err error) {
	if err := lab.PrivateRun(); err != nil {
		return nil, fmt.Errorf("make room for sshd: %w", err)
	}
	key := filepath.Join(dir, "host")
	if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("ssh-keygen: %w: %s", err, out)
	}
	return start(server.Command(ctx, "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-h", key, "-o", "PidFile=none"), "Server listening")
}

// start runs a command until stop, once its log holds text.
func start(cmd *exec.Cmd, text string) (stop func(), err error) {
	out, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	var log strings.Builder
	for s := bufio.NewScanner(out); s.Scan(); {
		log.WriteString(s.Text() + "\n")
		if strings.Contains(s.Text(), text) {
			go func() {
				for s.Scan() {
				}
			}()
			return stop, nil
		}
	}
	stop()
	return nil, fmt.Errorf("%v: %s", cmd.Args, log.String())
}

// look connects to the server's SSH port, and returns what it says; empty means
// that it did not answer within patience.
func look(from *lab.Host, patience time.Duration) (banner string, took time.Duration) {
	began := time.Now()
	from.Do(func() error {
		conn, err := net.DialTimeout("tcp", serverIP+":22", patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		line, err := bufio.NewReader(conn).ReadString('\n')
		banner = strings.TrimSpace(line)
		return err
	})
	return banner, time.Since(began)
}
