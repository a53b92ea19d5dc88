package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
)

func init() { // what the library does not read by itself
	for _, media := range []string{"text/html", "text/event-stream"} {
		openapi3filter.RegisterBodyDecoder(media, openapi3filter.PlainBodyDecoder)
	}
}

// A documentedAPI is the admin API of a daemon, whose answers have to be as
// docs/openapi.yaml says.
type documentedAPI struct {
	t        testing.TB
	client   http.Client
	document *openapi3.T
	router   routers.Router
	asked    map[string]bool // methods and paths of the document
}

func newDocumentedAPI(t testing.TB, socket string) *documentedAPI {
	t.Helper()
	d, err := openapi3.NewLoader().LoadFromFile("../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	none := false
	for _, s := range d.Components.Schemas { // a field that is not documented is an error
		if s.Value.Type.Is("object") {
			s.Value.AdditionalProperties = openapi3.BoolSchema{Has: &none}
		}
	}
	router, err := gorillamux.NewRouter(d)
	if err != nil {
		t.Fatal(err)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &documentedAPI{t: t, client: http.Client{Transport: &http.Transport{DialContext: dial}}, document: d, router: router, asked: map[string]bool{}}
}

// ask sends a request, and returns the answer, which has to have a status and to be as
// documented.
func (a *documentedAPI) ask(status int, method, path, body string) []byte {
	a.t.Helper()
	request := func() *http.Request {
		r, err := http.NewRequestWithContext(a.t.Context(), method, "http://webknock"+path, strings.NewReader(body))
		if err != nil {
			a.t.Fatal(err)
		}
		if body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		return r
	}
	r := request()
	route, parameters, err := a.router.FindRoute(r)
	if err != nil {
		a.t.Errorf("%s %s is not documented: %v", method, path, err)
		return nil
	}
	a.asked[method+" "+route.Path] = true
	res, err := a.client.Do(request())
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != status {
		a.t.Errorf("%s %s: %s, %v, want %d: %.300s", method, path, res.Status, err, status, answer)
	}
	if err := openapi3filter.ValidateResponse(a.t.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: parameters, Route: route},
		Status:                 res.StatusCode, Header: res.Header, Body: io.NopCloser(bytes.NewReader(answer)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}); err != nil {
		a.t.Errorf("%s %s: %v\n%s", method, path, err, answer)
	}
	return answer
}

// events checks the events of a stream, and returns how many there are of each kind.
func (a *documentedAPI) events(stream []byte) map[string]int {
	a.t.Helper()
	kinds := map[string]int{}
	for line := range strings.Lines(string(stream)) {
		text, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		var value any
		err := json.Unmarshal([]byte(text), &value)
		err = errors.Join(err, a.document.Components.Schemas["Event"].Value.VisitJSON(value, openapi3.EnableJSONSchema2020(), openapi3.EnableFormatValidation()))
		if err != nil {
			a.t.Errorf("%s: %v", text, err)
			continue
		}
		kinds[value.(map[string]any)["kind"].(string)]++
	}
	return kinds
}

// What the built daemon answers, in a life that has some of everything.
func TestTheDaemonAnswersAsTheOpenAPIDocumentSays(t *testing.T) {
	w := newWorld(t)
	hello := w.script("hello", "exit 0")
	config := strings.Replace(standard, "opens: [ssh]", "opens: [ssh]\n    message: hello\n    run: [{on: open, command: ["+hello+"]}]", 1) +
		"shield: {ban: {knocks: 20, within: 1m, for: 10m}, decoys: [/wp-login.php]}\n"
	w.serve(config)
	api := newDocumentedAPI(t, filepath.Join(w.dir, "webknock.sock"))
	_, events := w.follow() // so that knocks are events
	until(t, "a knock is told", func() bool {
		w.knock(w.alice, serverIP, "/a")
		return len(events.events()) > 0
	})
	api.ask(204, "POST", "/v1/unguard", "") // a repair would come at any time, this does not
	api.ask(503, "GET", "/healthz", "")
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	events.wait("a completion that opens nothing", func(e told) bool { return e.Kind == "grant.refused" })
	api.ask(409, "POST", "/v1/grants", `{"door":"ssh","client":"10.20.0.9"}`)
	api.ask(204, "POST", "/v1/reload", "")
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	events.wait("its command", func(e told) bool { return e.Kind == "command" })
	w.knock(w.alice, serverIP, "/a") // in progress
	w.knock(w.mallory, serverIP, "/wp-login.php")
	events.wait("the ban", func(e told) bool { return e.Kind == "ban" })
	var opened, second struct{ ID string }
	if err := errors.Join(
		json.Unmarshal(api.ask(201, "POST", "/v1/grants", `{"door":"web","client":"10.20.0.9"}`), &opened),
		json.Unmarshal(api.ask(201, "POST", "/v1/grants", `{"door":"ssh","client":"fd20::9"}`), &second),
	); err != nil {
		t.Fatal(err)
	}
	api.ask(200, "POST", "/v1/grants/"+second.ID+"/extend", `{"ttl":"30s"}`)
	api.ask(422, "POST", "/v1/grants/"+second.ID+"/extend", `{"ttl":"24h"}`)
	api.ask(404, "POST", "/v1/grants/none/extend", `{}`)
	api.ask(400, "POST", "/v1/grants", `{"door":"ssh","client":"here"}`)
	api.ask(404, "POST", "/v1/grants", `{"door":"shs","client":"10.20.0.9"}`)
	api.ask(422, "POST", "/v1/grants", `{"door":"ssh","client":"127.0.0.1"}`)
	api.ask(200, "GET", "/v1/explain/"+aliceIP, "")
	api.ask(200, "GET", "/v1/explain/"+malloryIP+"?reveal=1", "")
	api.ask(400, "GET", "/v1/explain/here", "")
	api.ask(200, "GET", "/v1/clients", "")
	api.ask(200, "GET", "/v1/bans", "")
	api.ask(200, "GET", "/v1/grants", "")
	api.ask(200, "GET", "/v1/status", "")
	api.ask(200, "GET", "/v1/stats", "")
	api.ask(200, "GET", "/healthz", "")
	api.ask(200, "GET", "/metrics", "")
	api.ask(200, "GET", "/", "")
	api.ask(200, "GET", "/page/index.html", "")
	api.ask(404, "GET", "/page/nothing", "")
	api.ask(204, "DELETE", "/v1/grants/"+opened.ID, "")
	api.ask(404, "DELETE", "/v1/grants/"+opened.ID, "")
	api.ask(204, "DELETE", "/v1/bans/"+malloryIP, "")
	api.ask(404, "DELETE", "/v1/bans/"+malloryIP, "")
	api.ask(409, "POST", "/v1/confirm", "")
	api.ask(204, "POST", "/v1/reload", `{"confirm":"1m"}`)
	api.ask(200, "GET", "/v1/status", "") // waits for a confirmation
	api.ask(204, "POST", "/v1/confirm", "")
	w.configure(config + "nonsense: true\n")
	api.ask(422, "POST", "/v1/reload", "")
	events.wait("the problem", func(e told) bool { return e.Kind == "degraded" })
	api.ask(200, "GET", "/v1/status", "")
	api.ask(200, "GET", "/v1/history", "")
	api.ask(200, "GET", "/v1/history?limit=1&event=closed", "")
	api.ask(400, "GET", "/v1/history?limit=0", "")
	kinds := api.events(api.ask(200, "GET", "/v1/events?once=true", ""))
	for _, kind := range []string{
		"knock", "completion", "grant.opened", "grant.closed", "grant.refused", "ban", "unban", "reload", "command", "degraded", "admin",
	} {
		if kinds[kind] == 0 {
			t.Errorf("no event of kind %s was checked, but %v", kind, kinds)
		}
	}
	api.ask(400, "GET", "/v1/events?kind=knok", "")
	for path, item := range api.document.Paths.Map() {
		for method := range item.Operations() {
			if !api.asked[method+" "+path] {
				t.Errorf("this test asks for no %s %s", method, path)
			}
		}
	}
}
