// Package admin serves the admin API on a unix socket, and is its client.
//
// The API is HTTP/1.1 and JSON under /v1. Whoever may connect may open doors:
// root, the user the daemon runs as, and the members of a group, by the
// kernel's word.
package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
)

// Control is what the API shows and does. An error that is a *Problem is
// answered as such, any other as a failure.
type Control interface {
	Status(context.Context) (Status, error)
	Clients(context.Context) ([]Client, error)
	Grants(context.Context) ([]Grant, error)
	Open(context.Context, OpenRequest) (Grant, error)
	Close(ctx context.Context, id string) error
	Reload(context.Context, ReloadRequest) error
	Confirm(context.Context) error
	Unguard(context.Context) error
	Bans(context.Context) ([]Ban, error)
	Unban(ctx context.Context, address string) error
}

// A List is never null in JSON.
type List[T any] []T

// MarshalJSON implements json.Marshaler.
func (l List[T]) MarshalJSON() ([]byte, error) {
	return json.Marshal(append([]T{}, l...))
}

// Status is the answer to GET /v1/status.
type Status struct {
	Version   string         `json:"version"`
	StartedAt time.Time      `json:"started_at"`
	State     string         `json:"state"` // ok or degraded
	Problems  List[string]   `json:"problems"`
	Firewall  Firewall       `json:"firewall"`
	Listeners List[Listener] `json:"listeners"`
	Doors     List[Door]     `json:"doors"`
	Sequences List[Sequence] `json:"sequences"`
	Clients   int            `json:"clients"` // in progress
	Grants    int            `json:"grants"`
	// ConfirmBy is until when a change waits for confirmation, if one does.
	ConfirmBy *time.Time `json:"confirm_by,omitempty"`
}

// The states of a daemon.
const (
	OK       = "ok"
	Degraded = "degraded"
)

// Firewall says what keeps the doors.
type Firewall struct {
	Backend string `json:"backend"`
	Mode    string `json:"mode"`
	Guarded bool   `json:"guarded"` // false: the guard was taken away
}

// Listener is an address that receives knocks.
type Listener struct {
	Address string `json:"address"`
	TLS     bool   `json:"tls"`
	Cover   string `json:"cover"`
}

// Door is a door and how many grants it has.
type Door struct {
	Name   string       `json:"name"`
	Ports  List[string] `json:"ports"`
	Grants int          `json:"grants"`
}

// Sequence is a sequence and how often it was completed since the start.
type Sequence struct {
	Name        string `json:"name"`
	Steps       int    `json:"steps"`
	Completions uint64 `json:"completions"`
}

// Client is how far one client is in one sequence.
type Client struct {
	Client      string    `json:"client"`
	Sequence    string    `json:"sequence"`
	Step        int       `json:"step"` // steps matched
	Steps       int       `json:"steps"`
	LastKnockAt time.Time `json:"last_knock_at"`
	ExpiresAt   time.Time `json:"expires_at"`
}

// Grant is one client's permission to pass one door.
type Grant struct {
	ID        string    `json:"id"`
	Door      string    `json:"door"`
	Client    string    `json:"client"` // an address, or a prefix
	Sequence  string    `json:"sequence"`
	User      string    `json:"user"`
	OpenedAt  time.Time `json:"opened_at"`
	ExpiresAt time.Time `json:"expires_at"`
	Remaining float64   `json:"remaining"` // seconds
	Packets   uint64    `json:"packets"`
	Bytes     uint64    `json:"bytes"`
}

// Ban keeps a client from the listeners.
type Ban struct {
	Client    string    `json:"client"` // an address, or an IPv6 prefix
	ExpiresAt time.Time `json:"expires_at"`
	Remaining float64   `json:"remaining"` // seconds
}

// BanList is the answer to GET /v1/bans.
type BanList struct {
	Bans List[Ban] `json:"bans"`
}

// OpenRequest is the body of POST /v1/grants.
type OpenRequest struct {
	Door   string `json:"door"`
	Client string `json:"client"`        // an address
	TTL    string `json:"ttl,omitempty"` // a Go duration; empty: the door's own
}

// ReloadRequest is the body of POST /v1/reload, which may be left out.
type ReloadRequest struct {
	// Confirm is how long to wait for a confirmation, as a Go duration of at
	// least 1s, before the change is undone; empty: not at all.
	Confirm string `json:"confirm,omitempty"`
}

// ClientList and GrantList are the answers that list.
type (
	ClientList struct {
		Clients List[Client] `json:"clients"`
	}
	GrantList struct {
		Grants List[Grant] `json:"grants"`
	}
)

// Problem is an error in the form of RFC 9457.
type Problem struct {
	Type   string   `json:"type"`
	Title  string   `json:"title"`
	Status int      `json:"status"`
	Detail string   `json:"detail,omitempty"`
	Errors []string `json:"errors,omitempty"` // of a configuration, a line each
}

// NewProblem returns a problem with the title of its HTTP status.
func NewProblem(status int, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail}
}

func (p *Problem) Error() string {
	return strings.Join(append([]string{cmp.Or(p.Detail, p.Title)}, p.Errors...), "\n")
}

const maxBody = 64 << 10

// Handler returns the API.
func Handler(control Control) http.Handler {
	r := chi.NewRouter()
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		fail(w, NewProblem(http.StatusNotFound, "there is no "+r.URL.Path))
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, req *http.Request) {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete} {
			if r.Match(chi.NewRouteContext(), method, req.URL.Path) {
				w.Header().Add("Allow", method) // RFC 9110 section 15.5.6
			}
		}
		fail(w, NewProblem(http.StatusMethodNotAllowed, req.URL.Path+" does not take "+req.Method))
	})
	r.Use(middleware.GetHead)
	r.Get("/healthz", func(w http.ResponseWriter, r *http.Request) {
		s, err := control.Status(r.Context())
		if err == nil && s.State != OK {
			p := NewProblem(http.StatusServiceUnavailable, "degraded")
			p.Errors = s.Problems
			err = p
		}
		if err != nil {
			fail(w, err)
			return
		}
		io.WriteString(w, "ok\n")
	})
	r.Route("/v1", func(r chi.Router) {
		r.Get("/status", get(control.Status))
		r.Get("/clients", get(func(ctx context.Context) (ClientList, error) {
			clients, err := control.Clients(ctx)
			return ClientList{clients}, err
		}))
		r.Get("/grants", get(func(ctx context.Context) (GrantList, error) {
			grants, err := control.Grants(ctx)
			return GrantList{grants}, err
		}))
		r.Post("/grants", func(w http.ResponseWriter, r *http.Request) {
			var request OpenRequest
			err := decode(w, r, &request)
			var grant Grant
			if err == nil {
				grant, err = control.Open(r.Context(), request)
			}
			answer(w, http.StatusCreated, grant, err)
		})
		r.Delete("/grants/{id}", func(w http.ResponseWriter, r *http.Request) {
			done(w, control.Close(r.Context(), chi.URLParam(r, "id")))
		})
		r.Post("/reload", func(w http.ResponseWriter, r *http.Request) {
			var request ReloadRequest
			var err error
			if r.ContentLength != 0 {
				err = decode(w, r, &request)
			}
			if err == nil {
				err = control.Reload(r.Context(), request)
			}
			done(w, err)
		})
		r.Get("/bans", get(func(ctx context.Context) (BanList, error) {
			bans, err := control.Bans(ctx)
			return BanList{bans}, err
		}))
		r.Delete("/bans/{address}", func(w http.ResponseWriter, r *http.Request) {
			done(w, control.Unban(r.Context(), chi.URLParam(r, "address")))
		})
		r.Post("/confirm", func(w http.ResponseWriter, r *http.Request) { done(w, control.Confirm(r.Context())) })
		r.Post("/unguard", func(w http.ResponseWriter, r *http.Request) { done(w, control.Unguard(r.Context())) })
	})
	return r
}

func get[T any](f func(context.Context) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		value, err := f(r.Context())
		answer(w, http.StatusOK, value, err)
	}
}

func answer(w http.ResponseWriter, status int, value any, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(value) // fails only if the client has gone
}

func done(w http.ResponseWriter, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func fail(w http.ResponseWriter, err error) {
	var p *Problem
	if !errors.As(err, &p) {
		p = NewProblem(http.StatusInternalServerError, err.Error())
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

func decode(w http.ResponseWriter, r *http.Request, to any) error {
	if media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); media != "application/json" {
		return NewProblem(http.StatusUnsupportedMediaType, "the body is not application/json")
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	err := d.Decode(to)
	if err == nil {
		if _, err = d.Token(); err == nil {
			err = errors.New("something stands behind its JSON value")
		} else if errors.Is(err, io.EOF) {
			return nil
		}
	}
	status := http.StatusBadRequest
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		status = http.StatusRequestEntityTooLarge
	}
	return NewProblem(status, fmt.Sprintf("the body cannot be read: %v", err))
}

const stopTimeout = 500 * time.Millisecond

// Serve answers on a listener until ctx is done, and then returns nil.
func Serve(ctx context.Context, l net.Listener, control Control, log *slog.Logger) error {
	if l, ok := l.(*listener); ok && l.noGroup != "" {
		log.Info("no such group: only root and the daemon's user may use the admin socket", "group", l.noGroup)
	}
	server := &http.Server{
		Handler:           Handler(control),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      time.Minute, // a reload waits for the firewall
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
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
