package metrics

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/netutil"
)

const (
	maxConnections = 16
	headTimeout    = 5 * time.Second
	answerTimeout  = scrapeTimeout + 5*time.Second
	stopTimeout    = 500 * time.Millisecond // for scrapes that are being answered
)

// A Server answers GET /metrics on one TCP address at a time, over HTTP/1.1 in clear, and
// nothing else. Each scrape is a connection of its own, so that nobody occupies one for
// longer than headTimeout and answerTimeout. Its methods may be called from several
// goroutines.
//
// An address changes in two steps, like the listeners: Prepare binds it, and Commit or
// Abort follows.
type Server struct {
	handler http.Handler
	log     *slog.Logger

	mu                sync.Mutex
	current, prepared *served // nil: no address
	closed            bool
}

// served is an address that is bound.
type served struct {
	address  string
	listener net.Listener
	server   *http.Server // nil: not served yet
}

// NewServer returns a server without an address.
func NewServer(scrapes http.Handler, log *slog.Logger) *Server {
	return &Server{handler: only(scrapes), log: log}
}

// only lets nothing but GET /metrics through to a handler.
func only(scrapes http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/metrics":
			http.Error(w, "only /metrics is here", http.StatusNotFound)
		case r.Method != http.MethodGet:
			w.Header().Set("Allow", http.MethodGet)
			http.Error(w, "only GET", http.StatusMethodNotAllowed)
		default:
			scrapes.ServeHTTP(w, r)
		}
	})
}

// Prepare binds an address, unless it is bound already; an empty one is none. If it fails
// nothing has changed.
func (s *Server) Prepare(ctx context.Context, address string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abort()
	switch {
	case s.closed || address == "":
		return nil
	case s.current != nil && s.current.address == address:
		s.prepared = s.current
		return nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("admin.metrics: %w", err)
	}
	s.prepared = &served{address: address, listener: netutil.LimitListener(l, maxConnections)}
	return nil
}

// Abort releases what Prepare has bound.
func (s *Server) Abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abort()
}

func (s *Server) abort() {
	if s.prepared != nil && s.prepared != s.current {
		s.prepared.listener.Close()
	}
	s.prepared = nil
}

// Commit serves the address that Prepare has bound, and no other any more.
func (s *Server) Commit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.current
	s.current, s.prepared = s.prepared, nil
	if s.current != nil && s.current.server == nil {
		s.serve(s.current)
	}
	if old != nil && old != s.current {
		old.stop()
	}
}

func (s *Server) serve(on *served) {
	on.server = &http.Server{
		Handler:                      s.handler,
		DisableGeneralOptionsHandler: true,
		ReadTimeout:                  headTimeout,
		WriteTimeout:                 answerTimeout,
		MaxHeaderBytes:               8 << 10,
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // strangers cause it
	}
	on.server.SetKeepAlivesEnabled(false)
	go func() {
		if err := on.server.Serve(on.listener); err != http.ErrServerClosed {
			s.log.Error("the metrics cannot be served any more", "address", on.address, "error", err)
		}
	}()
}

// stop closes the address. Scrapes that are being answered have half a second left.
func (o *served) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if o.server.Shutdown(ctx) != nil {
		o.server.Close()
	}
}

// Close stops serving for good.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.abort()
	if s.current != nil {
		s.current.stop()
		s.current = nil
	}
	return nil
}
