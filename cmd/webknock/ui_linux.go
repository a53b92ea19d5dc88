package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/user"
	"strconv"

	"github.com/spf13/cobra"

	"webknock/httpd/admin"
	"webknock/internal/setup"
	"webknock/internal/ui"
)

func newUI(a *app) *cobra.Command {
	var port uint16
	var listen string
	var address netip.Addr
	c := &cobra.Command{
		Use:   "ui",
		Short: "Show the page of the daemon in a browser",
		Long: "ui serves the page of the daemon on a port of this host's loopback address, with your rights, and\n" +
			"prints a link that opens it once. It ends with Ctrl-C.",
		Example: "  webknock ui --port 8123",
		Args: func(c *cobra.Command, args []string) (err error) {
			if err = cobra.NoArgs(c, args); err == nil {
				address, err = loopback(listen)
			}
			return err
		},
		RunE: func(c *cobra.Command, _ []string) error {
			api := a.api()
			if _, err := api.Status(c.Context()); err != nil {
				return mayNot(api.Socket, err)
			}
			l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(address, port)))
			if err != nil {
				return fmt.Errorf("%w (another port: --port N; without it a free one)", err)
			}
			bound := netip.AddrPortFrom(address, uint16(l.Addr().(*net.TCPAddr).Port))
			page := ui.New(bound, api.Socket)
			forward := fmt.Sprintf("ssh -L %d:%v %s", bound.Port(), bound, sshTarget())
			text := fmt.Sprintf("%s\n\nThe link opens the page once. From another computer, run there first:\n\n%s\n\nCtrl-C ends the page.", page.URL(), forward)
			if err := a.done(c.OutOrStdout(), text, map[string]any{"url": page.URL(), "ssh": forward, "port": bound.Port()}); err != nil {
				l.Close()
				return err
			}
			return page.Serve(c.Context(), l)
		},
	}
	c.Flags().Uint16Var(&port, "port", 0, "the `PORT` of the page; 0: a free one")
	c.Flags().StringVar(&listen, "listen", "127.0.0.1", "the loopback `ADDRESS` of the page")
	return c
}

// loopback reads the address that the page is to have.
func loopback(text string) (netip.Addr, error) {
	address, err := netip.ParseAddr(text)
	if text == "localhost" {
		address, err = netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	}
	if err != nil || address.Zone() != "" || address.Is4In6() || !address.IsLoopback() {
		return netip.Addr{}, fmt.Errorf("--listen %s: not a loopback address (127.0.0.1 or ::1; other computers come by ssh -L)", text)
	}
	return address, nil
}

// mayNot says what helps a user who may not use the socket.
func mayNot(socket string, err error) error {
	conn, dialErr := net.Dial("unix", socket)
	if dialErr == nil {
		conn.Close()
	}
	if !errors.Is(dialErr, fs.ErrPermission) {
		return err
	}
	hint := "run sudo webknock ui"
	if _, err := user.LookupGroup(admin.Group); err == nil {
		hint += fmt.Sprintf("; or join the group %[1]s by sudo usermod -aG %[1]s %[2]s, and log in again", admin.Group, caller())
	}
	return fmt.Errorf("you are not allowed to use %s (%s)", socket, hint)
}

func caller() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "USER"
}

// sshTarget returns how this host is reached by ssh: as the session of now has reached
// it, or else by its name.
func sshTarget() string {
	host, port := "HOST", "22"
	if name, err := os.Hostname(); err == nil {
		host = name
	}
	if session, ok := setup.CurrentSession(); ok { // also under sudo
		host, port = session.Server.Addr().String(), strconv.Itoa(int(session.Server.Port()))
	}
	target := caller() + "@" + host
	if port != "22" {
		target = "-p " + port + " " + target
	}
	return target
}
