package admin

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
)

// Explanation is the answer to GET /v1/explain/{address}: what became of a client's
// latest knocks, and why.
type Explanation struct {
	Client      string       `json:"client"` // an address, or a prefix that counts as one client
	Knocks      List[Knock]  `json:"knocks"` // newest first
	Progress    List[Client] `json:"progress"`
	Grants      List[Grant]  `json:"grants"`
	BannedUntil *time.Time   `json:"banned_until"` // null: it is not banned
	Advice      string       `json:"advice"`       // what to do next, in one line
}

// Knock is one request that a listener has received.
type Knock struct {
	At       time.Time `json:"at"`
	Listener string    `json:"listener"` // its address, as configured
	Outcome  string    `json:"outcome"`
	Sequence string    `json:"sequence"` // that it matters to most; empty: to none
	Step     int       `json:"step"`     // of the sequence, that it matches, from 1; 0: none
	Steps    int       `json:"steps"`
	Why      string    `json:"why"`            // what it did and why, in a clause without any path
	Path     string    `json:"path,omitempty"` // as it was asked for, cut if it is long; only if it was to be revealed
}

// serveExplanation answers GET /v1/explain/{address}. Paths go to root alone.
func serveExplanation(control Control) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		address, reveal, err := explanationAsked(r)
		var e Explanation
		if err == nil {
			e, err = control.Explain(r.Context(), address, reveal)
		}
		answer(w, http.StatusOK, e, err)
	}
}

func explanationAsked(r *http.Request) (address netip.Addr, reveal bool, err error) {
	text := chi.URLParam(r, "address")
	if decoded, err := url.PathUnescape(text); err == nil {
		text = decoded
	}
	address, err = netip.ParseAddr(text)
	if err != nil || address.Zone() != "" {
		return address, false, NewProblem(http.StatusBadRequest, fmt.Sprintf("%.80q is not an IP address (like 192.0.2.7 or 2001:db8::7)", text))
	}
	if values := r.URL.Query()["reveal"]; len(values) > 0 {
		if reveal, err = strconv.ParseBool(values[len(values)-1]); err != nil {
			return address, false, NewProblem(http.StatusBadRequest, fmt.Sprintf("reveal: %.80q is neither 1 nor 0", values[len(values)-1]))
		}
	}
	if peer, known := Peer(r.Context()); reveal && (!known || peer.UID != 0) {
		return address, false, NewProblem(http.StatusForbidden, "reveal: only root may see the paths of knocks")
	}
	return address.Unmap(), reveal, nil
}

// Explain returns GET /v1/explain/{address}. Only root may have the paths revealed.
func (a API) Explain(ctx context.Context, address netip.Addr, reveal bool) (e Explanation, err error) {
	path := "/v1/explain/" + url.PathEscape(address.String())
	if reveal {
		path += "?reveal=1"
	}
	err = a.call(ctx, http.MethodGet, path, nil, &e)
	return e, err
}
