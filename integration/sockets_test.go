package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"webknock/integration/lab"
)

// Connections that say nothing leave descriptors to the daemon: it takes knocks,
// reloads, and runs the commands for the end of a grant while they are there.
func TestRunningOutOfDescriptors(t *testing.T) {
	for name, cover := range map[string]string{"drop": "drop", "status": "{status: 404}", "proxy": `{proxy: "http://127.0.0.1:1"}`} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			text := strings.Replace(listener("address: \":8080\"\ncover: "+cover)+"shield: {rate: 'off'}\n", "    opens: [ssh]\n",
				"    opens: [ssh]\n    run: [{on: close, command: [/usr/bin/touch, "+w.dir+"/closed]}]\n", 1)
			if !strings.Contains(text, "on: close") {
				t.Fatal("no command in " + text)
			}
			w.configure(text)
			w.daemon = w.start(w.server.Command(context.Background(), "prlimit", "--nofile=64", binary, "serve", "--config", w.config()))
			w.daemon.wait(t, `"serving"`)
			var idle []net.Conn
			for range 200 {
				err := w.mallory.Do(func() error {
					conn, err := net.Dial("tcp", serverIP+":8080")
					if err == nil {
						idle = append(idle, conn)
						_, err = io.WriteString(conn, "GET / HTTP/1.1\r\n")
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, path := range []string{"/a", "/b", "/c"} { // while they are all there
				w.curl(w.alice, "http://"+serverIP+":8080"+path)
			}
			w.daemon.wait(t, "grant opened")
			w.must("reload")
			w.mustHold("ssh " + aliceIP)
			w.must("close", "--all")
			until(t, "the command for the end of the grant runs", func() bool { _, err := os.Stat(w.dir + "/closed"); return err == nil })
			if log := strings.Join(w.daemon.lines(), "\n"); strings.Contains(log, "too many open files") {
				t.Error("descriptors ran out")
			}
			for _, conn := range idle {
				conn.Close()
			}
		})
	}
}

func TestAddressesOfListeners(t *testing.T) {
	for _, tt := range []struct {
		address     string
		four, six   bool
		ours, ours6 bool // from the server itself, by loopback
	}{
		{":8080", true, true, true, true},
		{"0.0.0.0:8080", true, false, true, false},
		{"[::1]:8080", false, false, false, true},
		{"127.0.0.1:8080", false, false, true, false},
		{"[" + serverIP6 + "]:8080", false, true, false, false},
	} {
		t.Run(tt.address, func(t *testing.T) {
			w := newWorld(t)
			w.serve(listener(fmt.Sprintf("address: %q", tt.address)))
			for _, try := range []struct {
				from *lab.Host
				to   string
				want bool
			}{{w.alice, serverIP, tt.four}, {w.alice, serverIP6, tt.six}, {w.server, "127.0.0.1", tt.ours}, {w.server, "::1", tt.ours6}} {
				w.mustPass(try.from, try.to, 8080, try.want)
			}
		})
	}
}

// A reload that adds and takes listeners away loses no knock of the one that
// stays.
func TestListenersComeAndGoUnderLoad(t *testing.T) {
	w := newWorld(t)
	one := strings.Replace(standard, "[/a, /b, /c]", "[/a, /b]", 1) + "shield: {rate: 'off'}\n"
	two := strings.Replace(one, `  - address: ":8080"`, "  - address: \":8080\"\n  - address: \":8081\"\n    cover: {status: 404}\n  - address: \"127.0.0.1:8082\"", 1)
	w.serve(one)
	stop := make(chan struct{})
	var load sync.WaitGroup
	var knocks, failed atomic.Int64
	w.hammer(&load, stop, 4, "/other", &knocks, &failed)
	status := func() (out string, exit int) {
		return w.curl(w.alice, "--write-out", "%{http_code}", "http://"+serverIP+":8081/a")
	}
	for range 5 {
		w.configure(two)
		w.must("reload")
		if out, exit := status(); exit != 0 || out != "404" {
			t.Errorf("the new listener: exit %d, %q", exit, out)
		}
		w.knock(w.alice, serverIP, "/b")
		w.mustHold("ssh " + aliceIP) // begun at one, ended at another
		w.must("close", "--all")
		w.configure(one)
		w.must("reload")
		if out, exit := status(); exit == 0 {
			t.Errorf("a listener that is gone: %q", out)
		}
	}
	close(stop)
	load.Wait()
	if failed.Load() > 0 || knocks.Load() == 0 {
		t.Errorf("%d of %d knocks were not reset", failed.Load(), knocks.Load())
	}
}

// hammer has some clients ask for a path over and over, until stop is closed. It
// counts their knocks, and those that do not end with a reset.
func (w *world) hammer(load *sync.WaitGroup, stop <-chan struct{}, clients int, path string, knocks, unreset *atomic.Int64) {
	for range clients {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, reset := w.send(w.mallory, "GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n", false); !reset {
					unreset.Add(1)
				}
				knocks.Add(1)
			}
		})
	}
}

// An upgrade: the program is replaced by another, and its socket handed on,
// while many clients knock. Nobody is refused, and every sequence whose knocks
// came to one process or the next opens its door.
func TestAnUpgradeUnderLoad(t *testing.T) {
	w := newWorld(t)
	socket := w.socket()
	w.configure(strings.Replace(listener(`address: "systemd:web"`), "[/a, /b, /c]", "[/a, /b, /c]\n    message: done", 1) +
		"  - {name: single, steps: [/single], message: single}\nshield: {rate: 'off'}\n")
	program := filepath.Join(w.dir, "webknock")
	install := func() {
		t.Helper()
		// A new file, as a package manager puts it there.
		text, err := os.ReadFile(binary)
		if err == nil {
			err = os.WriteFile(program+".new", text, 0o755)
		}
		if err == nil {
			err = os.Rename(program+".new", program)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	var daemons []*process
	serve := func() {
		t.Helper()
		install()
		cmd := w.server.Command(t.Context(), "sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web exec "$0" serve --config "$1"`, program, w.config())
		cmd.ExtraFiles = []*os.File{socket}
		w.daemon = w.start(cmd)
		w.daemon.wait(t, `"serving"`)
		mu.Lock()
		defer mu.Unlock()
		daemons = append(daemons, w.daemon)
	}
	completed := func(sequence string) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, d := range daemons {
			n += strings.Count(strings.Join(d.lines(), "\n"), `"sequence completed","sequence":"`+sequence+`"`)
		}
		return n
	}
	serve()
	stop := make(chan struct{})
	var load sync.WaitGroup
	var singles, unreset atomic.Int64
	w.hammer(&load, stop, 8, "/single", &singles, &unreset) // a whole sequence each: none may be lost
	var sequences, again atomic.Int64
	load.Go(func() { // and one that opens a door, begun again if progress was lost
		for {
			select {
			case <-stop:
				return
			default:
			}
			before := completed("ssh")
			for completed("ssh") == before && again.Load() < 100 {
				for _, path := range []string{"/a", "/b", "/c"} {
					w.send(w.alice, "GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n", false)
				}
				again.Add(1)
			}
			sequences.Add(1)
		}
	})
	for range 3 {
		for first := singles.Load(); singles.Load() < first+200; {
		}
		w.daemon.stop(t, syscall.SIGTERM)
		serve()
	}
	close(stop)
	load.Wait()
	until(t, "all knocks are read", func() bool { return completed("single") >= int(singles.Load()) })
	if unreset.Load() > 0 || completed("single") != int(singles.Load()) || sequences.Load() == 0 {
		t.Errorf("%d knocks, %d completed, %d not reset; %d sequences", singles.Load(), completed("single"), unreset.Load(), sequences.Load())
	}
	if log := strings.Join(w.daemon.lines(), "\n"); strings.Contains(log, "knocks lost") {
		t.Error("knocks were lost")
	}
	t.Logf("%d knocks and %d sequences (%d begun) during 3 upgrades, none refused nor lost", singles.Load(), sequences.Load(), again.Load())
}
