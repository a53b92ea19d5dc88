package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"webknock/config"
	"webknock/httpd/admin"
	"webknock/internal/lastgood"
)

const (
	defaultConfig = "/etc/webknock/webknock.yaml"
	defaultSocket = "/run/webknock/webknock.sock"
)

// serverCommands are those of the daemon's host, which only Linux can be.
var serverCommands = []func(*app) *cobra.Command{
	newServe, newCheck, newStatus, newClients, newGrants, newLog, newOpen, newClose, newReload, newBans, newUnban, newConfirm, newGuard, newDoctor,
	newUnguard, newFront, newRun, newUser, newHash, newEnroll, newUI, newEvents, newExplain, newTop, newInit, newTrial,
}

func (a *app) serverFlags(flags *pflag.FlagSet) {
	flags.StringVar(&a.configFile, "config", cmp.Or(os.Getenv("WEBKNOCK_CONFIG"), defaultConfig), "configuration `FILE`")
	flags.StringVar(&a.socket, "socket", "", "admin socket `PATH` (default "+defaultSocket+", or as WEBKNOCK_SOCKET or the configuration has it)")
}

func (a *app) checkServerFlags() error {
	if len(a.socket) > config.MaxSocketPath {
		return fmt.Errorf("--socket has %d bytes, and the path of a socket may have %d (a shorter one)", len(a.socket), config.MaxSocketPath)
	}
	return nil
}

// api returns the client of the running daemon. It finds the socket although
// the configuration has errors, or names another than the daemon, which goes on
// with what was in force when it started.
func (a *app) api() admin.API {
	socket := cmp.Or(a.socket, os.Getenv("WEBKNOCK_SOCKET"), os.Getenv("WEBKNOCK_ADMIN_SOCKET"))
	if socket != "" {
		return admin.API{Socket: socket}
	}
	socket = config.Peek(a.configFile).Socket
	if answers(socket) {
		return admin.API{Socket: socket}
	}
	if last, err := lastgood.ReadConfig(a.stateDir()); err == nil && last != nil {
		if before := config.PeekSource(last.Source).Socket; answers(before) {
			return admin.API{Socket: before}
		}
	}
	return admin.API{Socket: socket}
}

// answers reports whether anybody serves on a socket.
func answers(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err == nil {
		conn.Close()
	}
	return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED)
}

// stateDir returns where what was in force last is kept, although the
// configuration has errors.
func (a *app) stateDir() string {
	return lastgood.Dir(a.configFile, config.Peek(a.configFile).State, config.DefaultState())
}
