// Screens records what people see of webknock: the demo, webknock status and
// webknock top, as terminal recordings (asciicasts), in a lab of its own.
//
//	screens WEBKNOCK DEMO DIR
//
// DEMO is the program of the demo. It writes demo.cast, status.cast and top.cast to
// DIR; make screens makes pictures of them.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"webknock/integration/lab"
)

const config = `listeners:
  - address: ":80"
  - {address: ":8080", cover: {status: 404}}
doors:
  - {name: ssh, ports: [22/tcp], ttl: 2m, max_ttl: 8h}
  - {name: vpn, ports: [51820/udp], ttl: 1h}
users:
  - {name: alice, totp_file: alice.totp}
sequences:
  - {name: ssh, steps: [/a, /b, /c], opens: [ssh]}
  - {name: vpn, steps: [/x, /y], opens: [vpn]}
shield: {ban: {knocks: 12}}
admin: {socket: %[1]s/webknock.sock}
state: %[1]s/state
`

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: screens WEBKNOCK DEMO DIR")
		os.Exit(2)
	}
	lab.Enter()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := screens(ctx, os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "screens:", err)
		os.Exit(1)
	}
}

func screens(ctx context.Context, webknock, demo, dir string) (err error) {
	if err := lab.Need("asciinema", "curl", "ip", "nsenter"); err != nil {
		return err
	}
	if err := record(ctx, exec.CommandContext, filepath.Join(dir, "demo.cast"), demo+" "+webknock); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "webknock-screens-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	n, err := lab.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	server, err := n.Host("home", "198.51.100.1/24")
	if err != nil {
		return err
	}
	var clients []*lab.Host
	for i := range 6 {
		client, err := n.Host(fmt.Sprintf("client%d", i), fmt.Sprintf("198.51.100.%d/24", 10+i))
		if err != nil {
			return err
		}
		clients = append(clients, client)
	}
	file := filepath.Join(work, "webknock.yaml")
	if err := errors.Join(os.WriteFile(file, fmt.Appendf(nil, config, work), 0o600),
		os.WriteFile(filepath.Join(work, "alice.totp"), []byte("JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"), 0o600)); err != nil {
		return err
	}
	daemon := server.Command(ctx, webknock, "serve", "--config", file)
	daemon.Stderr = os.Stderr
	if err := daemon.Start(); err != nil {
		return err
	}
	defer func() {
		daemon.Process.Signal(syscall.SIGTERM)
		daemon.Wait()
	}()
	socket := filepath.Join(work, "webknock.sock")
	for deadline := time.Now().Add(10 * time.Second); ; {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	knock := func(client int, paths ...string) {
		for _, path := range paths {
			clients[client].Command(ctx, "curl", "--silent", "--max-time", "2", "http://198.51.100.1"+path).Run() // is reset
		}
	}
	knock(0, "/a", "/b", "/c")
	knock(1, "/x", "/y")
	knock(2, "/a", "/b")
	knock(3, "/wp-login.php", "/admin", "/.env")
	os.Setenv("WEBKNOCK_SOCKET", socket)
	os.Setenv("WEBKNOCK_CONFIG", file)
	if err := record(ctx, server.Command, filepath.Join(dir, "status.cast"), webknock+" status"); err != nil {
		return err
	}
	// Somebody knocks while top is looked at.
	watched, end := context.WithTimeout(ctx, 15*time.Second)
	defer end()
	go func() {
		for turn := 0; watched.Err() == nil; turn++ {
			switch turn % 4 {
			case 0:
				knock(4, "/a")
			case 1:
				knock(5, "/robots", "/login")
			case 2:
				knock(4, "/b", "/c")
			case 3:
				knock(2, "/x")
			}
			time.Sleep(1200 * time.Millisecond)
		}
	}()
	return record(ctx, server.Command, filepath.Join(dir, "top.cast"), "timeout --foreground --signal=INT 12 "+webknock+" top || true")
}

// record records a command at a terminal of 80 columns.
func record(ctx context.Context, start func(context.Context, string, ...string) *exec.Cmd, to, command string) error {
	os.Remove(to)
	cmd := start(ctx, "asciinema", "rec", "--quiet", "--cols", "80", "--rows", "26", "--overwrite", "--command", command, to)
	cmd.Env = append(os.Environ(), "TERM=xterm-256color", "LC_ALL=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("record %s: %w: %s", to, err, out)
	}
	return nil
}
