package ui

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const host = "127.0.0.1:8123"

// daemon answers on a unix socket with what it is asked. It returns a Server before it.
func daemon(t *testing.T, answer http.HandlerFunc) *Server {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: answer}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return New(netip.MustParseAddrPort(host), socket)
}

func echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	io.WriteString(w, r.Method+" "+r.Host+" "+r.RequestURI)
}

func request(method, target string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	r.Host = host
	return r
}

func answer(s *Server, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// enter uses the token, and returns the cookie and the path of the session.
func enter(t *testing.T, s *Server) (*http.Cookie, string) {
	t.Helper()
	u, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	w := answer(s, request("GET", u.RequestURI()))
	cookies := w.Result().Cookies()
	if w.Code != http.StatusOK || len(cookies) != 1 {
		t.Fatalf("the link answers %d with cookies %v", w.Code, cookies)
	}
	if !strings.Contains(w.Body.String(), `url=`+cookies[0].Path) {
		t.Errorf("the link does not lead to the page: %s", w.Body)
	}
	return cookies[0], cookies[0].Path
}

func TestTheTokenIsGoodOnce(t *testing.T) {
	s := daemon(t, echo)
	cookie, path := enter(t, s)
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || !strings.HasSuffix(cookie.Name, "8123") || len(path) < 22 {
		t.Errorf("the cookie is %v", cookie)
	}
	if w := answer(s, request("GET", s.URL())); w.Code != http.StatusForbidden || len(w.Result().Cookies()) > 0 {
		t.Errorf("a token that was used answers %d", w.Code)
	}
	r := request("GET", path+"v1/status?a=b")
	r.AddCookie(cookie)
	if w := answer(s, r); w.Code != http.StatusOK || w.Body.String() != "GET webknock /v1/status?a=b" {
		t.Errorf("the session is answered %d %s", w.Code, w.Body)
	}
	if other := daemon(t, echo); answer(other, r).Code != http.StatusForbidden {
		t.Error("a session is good for another run")
	}
}

func TestARequestWithoutTheSessionIsRefused(t *testing.T) {
	s := daemon(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("%s reaches the daemon", r.RequestURI) })
	wrong := daemon(t, echo)
	cookie, path := enter(t, s)
	strange, strangePath := enter(t, wrong)
	for name, c := range map[string]struct {
		target string
		cookie *http.Cookie
	}{
		"nothing":             {"/", nil},
		"another path":        {"/v1/status", nil},
		"a wrong token":       {"/?token=AAAAAAAAAAAAAAAAAAAAAAAAAA", nil},
		"an empty token":      {"/?token=", nil},
		"the path alone":      {path + "v1/status", nil},
		"the cookie alone":    {"/v1/status", cookie},
		"another path's":      {strangePath + "v1/status", cookie},
		"another's cookie":    {path + "v1/status", &http.Cookie{Name: cookie.Name, Value: strange.Value}},
		"an empty cookie":     {path + "v1/status", &http.Cookie{Name: cookie.Name}},
		"another name":        {path + "v1/status", &http.Cookie{Name: "webknock-80", Value: cookie.Value}},
		"a part of the path":  {strings.TrimSuffix(path, "/"), cookie},
		"the path after dots": {"/x/.." + path + "v1/status", cookie},
	} {
		r := request("GET", c.target)
		if c.cookie != nil {
			r.AddCookie(c.cookie)
		}
		if w := answer(s, r); w.Code != http.StatusForbidden || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
}

func TestWhatAnotherPageCausesIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		method, host string
		header       http.Header
		want         int
	}{
		"the page reads":                 {"GET", host, http.Header{"Sec-Fetch-Site": {"same-origin"}}, 200},
		"an address is typed":            {"GET", host, http.Header{"Sec-Fetch-Site": {"none"}}, 200},
		"curl":                           {"GET", host, nil, 200},
		"by ssh -L":                      {"GET", "localhost:9000", nil, 200},
		"by ssh -L, a change":            {"POST", "localhost:9000", http.Header{"Origin": {"http://localhost:9000"}, "X-Webknock": {"1"}}, 200},
		"a name of a stranger's":         {"GET", "evil.test:8123", nil, 403},
		"a name that looks like ours":    {"GET", "127.0.0.1.evil.test", nil, 403},
		"no Host":                        {"GET", "", nil, 403},
		"the host's own address":         {"GET", "192.0.2.1:8123", nil, 403},
		"another site reads":             {"GET", host, http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403},
		"another port reads":             {"GET", host, http.Header{"Sec-Fetch-Site": {"same-site"}}, 403},
		"another origin reads":           {"GET", host, http.Header{"Origin": {"http://evil.test"}}, 403},
		"the origin of a sandbox":        {"GET", host, http.Header{"Origin": {"null"}}, 403},
		"two origins":                    {"GET", host, http.Header{"Origin": {"http://" + host, "http://evil.test"}}, 403},
		"the page changes something":     {"DELETE", host, http.Header{"Origin": {"http://" + host}, "Sec-Fetch-Site": {"same-origin"}, "X-Webknock": {"1"}}, 200},
		"a form of the page's":           {"POST", host, http.Header{"Origin": {"http://" + host}, "Sec-Fetch-Site": {"same-origin"}}, 403},
		"a change without the header":    {"POST", host, nil, 403},
		"a change by another origin":     {"POST", host, http.Header{"Origin": {"http://127.0.0.1:9"}, "X-Webknock": {"1"}}, 403},
		"a change by another scheme":     {"POST", host, http.Header{"Origin": {"https://" + host}, "X-Webknock": {"1"}}, 403},
		"a change that nobody's page is": {"POST", host, http.Header{"Sec-Fetch-Site": {"none"}, "X-Webknock": {"1"}}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			s := daemon(t, echo)
			cookie, path := enter(t, s)
			r := request(c.method, path+"v1/grants")
			r.Host = c.host
			if c.header != nil {
				r.Header = c.header.Clone()
			}
			r.AddCookie(cookie)
			if w := answer(s, r); w.Code != c.want {
				t.Errorf("%d, want %d: %s", w.Code, c.want, w.Body)
			}
		})
	}
}

func TestALinkThatAnotherPageLeadsToWorks(t *testing.T) {
	s := daemon(t, echo)
	r := request("GET", s.URL())
	r.Header.Set("Sec-Fetch-Site", "cross-site") // a chat in the browser
	if w := answer(s, r); w.Code != http.StatusOK {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
	s = daemon(t, echo)
	r = request("GET", s.URL())
	r.Host = "evil.test"
	if w := answer(s, r); w.Code != http.StatusForbidden {
		t.Errorf("by a stranger's name: %d", w.Code)
	}
	enter(t, s) // what was refused has not used the token
}

func TestTheDaemonSeesACommand(t *testing.T) {
	s := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"Cookie", "Origin", "Sec-Fetch-Site", "Referer", "X-Forwarded-For"} {
			if r.Header.Get(name) != "" {
				t.Errorf("the daemon receives %s", name)
			}
		}
		if r.Header.Get("Last-Event-Id") != "7" || r.Host != "webknock" {
			t.Errorf("the daemon receives %v for %s", r.Header, r.Host)
		}
		w.Header().Set("Content-Security-Policy", "the page's own")
		w.WriteHeader(http.StatusTeapot)
	})
	cookie, path := enter(t, s)
	r := request("POST", path+"v1/bans/2001:db8::%2F64")
	r.AddCookie(cookie)
	for name, value := range map[string]string{"Origin": "http://" + host, "Sec-Fetch-Site": "same-origin", "X-Webknock": "1", "Last-Event-ID": "7", "Referer": "http://" + host} {
		r.Header.Set(name, value)
	}
	w := answer(s, r)
	if csp := w.Header().Values("Content-Security-Policy"); w.Code != http.StatusTeapot || len(csp) != 1 || csp[0] != "the page's own" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

func TestEventsAreShownAsTheyCome(t *testing.T) {
	more := make(chan struct{})
	s := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		<-more
		io.WriteString(w, "data: 2\n\n")
	})
	cookie, path := enter(t, s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	r, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+l.Addr().String()+path+"v1/events", nil)
	r.AddCookie(cookie)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	first := make([]byte, 9)
	if _, err := io.ReadFull(res.Body, first); err != nil || string(first) != "data: 1\n\n" {
		t.Fatalf("%q, %v", first, err)
	}
	close(more)
	if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "data: 2\n\n" {
		t.Errorf("%q, %v", rest, err)
	}
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it does not end")
	}
}

func TestADaemonThatIsGoneIsAProblem(t *testing.T) {
	s := New(netip.MustParseAddrPort(host), filepath.Join(t.TempDir(), "none"))
	cookie, path := enter(t, s)
	r := request("GET", path+"v1/status")
	r.AddCookie(cookie)
	w := answer(s, r)
	if w.Code != http.StatusBadGateway || w.Header().Get("Content-Type") != "application/problem+json" || !strings.Contains(w.Body.String(), "does not answer") {
		t.Errorf("%d %v: %s", w.Code, w.Header(), w.Body)
	}
}
