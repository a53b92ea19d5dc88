// Package top shows on a full screen what a running daemon does: who knocks, who is in,
// who is on the way. [Run] begins.
//
// The model (model.go) is pure: messages in, model and commands out. What asks the daemon
// are commands (ask.go) and the feed of knocks (feed.go). The view (view.go) makes lines
// of the model, and panes.go says what each pane lists.
package top

import (
	"context"
	"errors"
	"io"
	"net/netip"

	tea "charm.land/bubbletea/v2"

	"webknock/httpd/admin"
	"webknock/internal/tty"
)

// Daemon is what the screen asks of a daemon; admin.API is one.
type Daemon interface {
	Status(context.Context) (admin.Status, error)
	Clients(context.Context) (admin.ClientList, error)
	Grants(context.Context) (admin.GrantList, error)
	Bans(context.Context) (admin.BanList, error)
	Stats(context.Context) (admin.Stats, error)
	// Follow is as that of admin.API.
	Follow(ctx context.Context, q admin.EventQuery, f func(admin.Event) error, lost func(error)) error
	Close(ctx context.Context, id string) error
}

// Options say what is shown, and where.
type Options struct {
	Daemon Daemon
	// Explain says what became of a client's latest knocks, in lines.
	Explain func(context.Context, netip.Addr) ([]string, error)
	Colours tty.Colours
	In      io.Reader // of a terminal
	Out     io.Writer
}

// Run shows the screen until the user quits, or ctx is done.
func Run(ctx context.Context, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := newModel(ctx, o)
	go m.feed.run(ctx, o.Daemon)
	_, err := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(o.In), tea.WithOutput(o.Out), tea.WithoutSignalHandler(), tea.WithFPS(20)).Run()
	if errors.Is(err, tea.ErrProgramKilled) && ctx.Err() != nil {
		return nil
	}
	return err
}
