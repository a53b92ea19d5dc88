package admin

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const stopTimeout = 500 * time.Millisecond // for requests that are being answered

// Serve serves the API on a listener until ctx is done, and then returns nil. Requests
// that are being answered have half a second left, and streams of events end.
func Serve(ctx context.Context, l net.Listener, control Control, log *slog.Logger) error {
	if l, ok := l.(*listener); ok && l.noGroup != "" {
		log.Info("no such group: only root and the daemon's user may use the admin socket", "group", l.noGroup)
	}
	streams, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer endStreams()
	server := &http.Server{
		BaseContext:       func(net.Listener) context.Context { return withStreams(context.Background(), streams) },
		Handler:           Handler(control),
		ConnContext:       withConnPeer,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      time.Minute, // a reload waits for the firewall
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	server.RegisterOnShutdown(endStreams)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if server.Shutdown(stop) != nil {
		server.Close()
	}
	return nil
}
