// Package admin serves the admin API on a unix socket, and is a client of it.
//
// The API is HTTP/1.1 and JSON under /v1; docs/openapi.yaml describes it, and a test
// compares that with the code. The daemon calls [Listen] and [Serve] with its [Control].
// The commands use [API].
//
// Everybody who may connect may open doors: root, the user the daemon runs as, and the
// members of [Group]. The kernel says who connects.
//
// A new endpoint is a method of [Control], a route in [Handler], a method of [API], and
// its types in types.go.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"webknock/httpd/admin/page"
)

// Control is what the API shows and does; the daemon implements it. If an error is a
// *Problem, the API answers with that problem, otherwise with status 500.
type Control interface {
	Status(context.Context) (Status, error)
	Clients(context.Context) ([]Client, error)
	Grants(context.Context) ([]Grant, error)
	Open(context.Context, OpenRequest) (Grant, error)
	Extend(ctx context.Context, id string, r ExtendRequest) (Grant, error)
	Close(ctx context.Context, id string) error
	Reload(context.Context, ReloadRequest) error
	Confirm(context.Context) error
	Unguard(context.Context) error
	Bans(context.Context) ([]Ban, error)
	Unban(ctx context.Context, address string) error
	Stats(context.Context) (Stats, error)
	History(context.Context, HistoryQuery) (HistoryList, error)
	// Explain returns what became of a client's latest knocks, with their paths if they
	// are to be revealed.
	Explain(ctx context.Context, address netip.Addr, reveal bool) (Explanation, error)
	// Events returns a reader of events, which the caller closes.
	Events(context.Context, EventQuery) (EventReader, error)
	Metrics() http.Handler // answers Prometheus
}

const maxBody = 64 << 10 // bytes of a request body

// Handler returns the handler of the API.
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
	r.Use(withGuardingHeaders, localHostsOnly, sameOriginOnly, jsonBodiesOnly, middleware.GetHead)
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
	r.Get("/", page.Handler(func(*http.Request) string { return "index.html" }, r.NotFoundHandler()))
	r.Get("/page/*", page.Handler(func(r *http.Request) string { return chi.URLParam(r, "*") }, r.NotFoundHandler()))
	r.Get("/metrics", func(w http.ResponseWriter, r *http.Request) { control.Metrics().ServeHTTP(w, r) })
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
		r.Post("/grants/{id}/extend", func(w http.ResponseWriter, r *http.Request) {
			var request ExtendRequest
			err := decode(w, r, &request)
			var grant Grant
			if err == nil {
				grant, err = control.Extend(r.Context(), chi.URLParam(r, "id"), request)
			}
			answer(w, http.StatusOK, grant, err)
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
		r.Get("/events", streamEvents(control))
		r.Get("/stats", get(control.Stats))
		r.Get("/history", serveHistory(control))
		r.Get("/explain/{address}", serveExplanation(control))
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

// get answers with what f returns.
func get[T any](f func(context.Context) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		value, err := f(r.Context())
		answer(w, http.StatusOK, value, err)
	}
}

// answer sends a value as JSON, or an error.
func answer(w http.ResponseWriter, status int, value any, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(value) // fails only if the client has gone
}

// done answers without a body, or with an error.
func done(w http.ResponseWriter, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// fail answers with a problem document.
func fail(w http.ResponseWriter, err error) {
	var p *Problem
	if !errors.As(err, &p) {
		p = NewProblem(http.StatusInternalServerError, err.Error())
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

// decode reads a body that is exactly one JSON value. It returns a *Problem.
func decode(w http.ResponseWriter, r *http.Request, to any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	err := d.Decode(to)
	if err == nil {
		if _, err = d.Token(); err == nil {
			err = errors.New("there is more after its JSON value")
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
