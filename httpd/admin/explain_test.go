package admin

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestAnExplanationIsAskedForByAddress(t *testing.T) {
	api, _ := serve(t)
	for _, text := range []string{"192.0.2.7", "2001:db8::7", "::ffff:192.0.2.7"} {
		e, err := api.Explain(t.Context(), netip.MustParseAddr(text), false)
		if err != nil || e.Client != netip.MustParseAddr(text).Unmap().String() || e.Knocks[0].Path != "false" {
			t.Errorf("%s: %+v, %v", text, e, err)
		}
	}
	body, err := json.Marshal(Explanation{})
	if want := `{"client":"","knocks":[],"progress":[],"grants":[],"banned_until":null,"advice":""}`; err != nil || string(body) != want {
		t.Errorf("%s, %v", body, err)
	}
}

// The kernel says who is root.
func TestOnlyRootMayHavePathsRevealed(t *testing.T) {
	ask := func(query string, peer *Credentials) (int, string) {
		r := httptest.NewRequest(http.MethodGet, "http://webknock/v1/explain/192.0.2.7"+query, nil)
		if peer != nil {
			r = r.WithContext(WithPeer(r.Context(), *peer))
		}
		w := httptest.NewRecorder()
		Handler(new(fake)).ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	root, other := &Credentials{}, &Credentials{UID: 1000}
	for _, tt := range []struct {
		query string
		peer  *Credentials
		want  int
		text  string
	}{
		{"?reveal=1", root, http.StatusOK, `"path":"true"`},
		{"?reveal=0", other, http.StatusOK, `"path":"false"`},
		{"", nil, http.StatusOK, `"path":"false"`},
		{"?reveal=1", other, http.StatusForbidden, "only root"},
		{"?reveal=1", nil, http.StatusForbidden, "only root"},
		{"?reveal=0&reveal=1", other, http.StatusForbidden, "only root"},
		{"?reveal=yes", root, http.StatusBadRequest, "neither 1 nor 0"},
	} {
		if code, body := ask(tt.query, tt.peer); code != tt.want || !strings.Contains(body, tt.text) {
			t.Errorf("%q by %+v: %d %s", tt.query, tt.peer, code, body)
		}
	}
	api, _ := serve(t)
	if _, err := api.Explain(t.Context(), netip.MustParseAddr("192.0.2.7"), true); (err == nil) != (os.Getuid() == 0) {
		t.Errorf("over the socket as uid %d: %v", os.Getuid(), err)
	}
}

func TestWhatIsNoAddressIsRefused(t *testing.T) {
	for _, text := range []string{"192.0.2.0%2F24", "fe80::1%25eth0", "home", "192.0.2"} {
		w := httptest.NewRecorder()
		Handler(new(fake)).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://webknock/v1/explain/"+text, nil))
		if w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", text, w.Code, w.Body)
		}
	}
}
