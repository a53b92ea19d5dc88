package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/go-chi/chi/v5"
)

// documented are the types that docs/openapi.yaml has a schema of.
var documented = []any{
	Ban{},
	BanList{},
	Client{},
	ClientList{},
	Door{},
	Event{},
	Explanation{},
	ExtendRequest{},
	Firewall{},
	Grant{},
	GrantList{},
	HistoryEntry{},
	HistoryList{},
	Knock{},
	Listener{},
	OpenRequest{},
	Problem{},
	Process{},
	ReloadRequest{},
	Sequence{},
	Shield{},
	Span{},
	Stats{},
	Status{},
}

func init() { // what the library does not read by itself
	for _, media := range []string{"text/html", "text/event-stream"} {
		openapi3filter.RegisterBodyDecoder(media, openapi3filter.PlainBodyDecoder)
	}
}

// document reads docs/openapi.yaml, which has to be an OpenAPI document. Its objects may
// have no properties but those that it names: the API may add some, the document has to
// have them too.
func document(t *testing.T) *openapi3.T {
	t.Helper()
	d, err := openapi3.NewLoader().LoadFromFile("../../docs/openapi.yaml")
	if err == nil {
		err = d.Validate(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	none := false
	for _, s := range d.Components.Schemas {
		if s.Value.Type.Is("object") {
			s.Value.AdditionalProperties = openapi3.BoolSchema{Has: &none}
		}
	}
	return d
}

func TestEveryRouteIsDocumentedAndTheOtherWayRound(t *testing.T) {
	var documented, served []string
	for path, item := range document(t).Paths.Map() {
		for method := range item.Operations() {
			documented = append(documented, method+" "+path)
		}
	}
	err := chi.Walk(Handler(new(fake)).(chi.Routes), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		served = append(served, method+" "+strings.Replace(route, "*", "{file}", 1))
		return nil
	})
	slices.Sort(documented)
	slices.Sort(served)
	if err != nil || !slices.Equal(documented, served) {
		t.Errorf("documented %q, served %q, %v", documented, served, err)
	}
}

// A field that is always there is required.
func TestTheSchemasHaveTheFieldsOfTheTypes(t *testing.T) {
	schemas := document(t).Components.Schemas
	if len(documented) != len(schemas) {
		t.Errorf("%d schemas, %d types", len(schemas), len(documented))
	}
	for _, value := range documented {
		typ := reflect.TypeOf(value)
		var fields, required []string
		for f := range typ.Fields() {
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			fields = append(fields, name)
			if !strings.Contains(options, "omit") {
				required = append(required, name)
			}
		}
		slices.Sort(fields)
		schema := schemas[typ.Name()]
		if schema == nil {
			t.Errorf("%s has no schema", typ.Name())
			continue
		}
		if got := slices.Sorted(maps.Keys(schema.Value.Properties)); !slices.Equal(got, fields) {
			t.Errorf("%s has %q, documented %q", typ.Name(), fields, got)
		}
		slices.Sort(required)
		if got := slices.Sorted(slices.Values(schema.Value.Required)); !slices.Equal(got, required) {
			t.Errorf("%s always has %q, documented %q", typ.Name(), required, got)
		}
	}
}

func TestTheKindsOfEventsAreDocumented(t *testing.T) {
	var kinds []string
	for _, kind := range document(t).Components.Schemas["Event"].Value.Properties["kind"].Value.Enum {
		kinds = append(kinds, kind.(string))
	}
	if want := append(slices.Clone(EventKinds), KindMissed); !slices.Equal(kinds, want) {
		t.Errorf("documented %q, want %q", kinds, want)
	}
}

// A full is a daemon in which everything has a value.
type full struct{ fake }

var now = time.Date(2030, 1, 2, 12, 0, 0, 123456789, time.FixedZone("", 3600))

func (full) Status(context.Context) (Status, error) {
	return Status{
		Version: "1.0", StartedAt: now, State: OK, Firewall: Firewall{"nftables", "guard", true},
		Listeners: []Listener{{":8080", true, "drop", "[::]:8080", true, 2, 9}}, Doors: []Door{{"ssh", []string{"22/tcp"}, 1, 1024, 30}}, Sequences: []Sequence{{"ssh", 3, 7}},
		Clients: 1, Grants: 1, ConfirmBy: &now, Shield: Shield{3}, Lost: Counts{"knocks": 4},
	}, nil
}

func (full) Clients(context.Context) ([]Client, error) {
	return []Client{{"192.0.2.7", "ssh", 1, 3, now, now}}, nil
}

func (full) Grants(context.Context) ([]Grant, error) {
	return []Grant{{"a", "ssh", "192.0.2.7", "ssh", "alice", now, now, 1.5, 1, 2}}, nil
}

func (full) Bans(context.Context) ([]Ban, error) { return []Ban{{"2001:db8::/64", now, 1.5}}, nil }

func (full) Reload(_ context.Context, r ReloadRequest) error {
	if r.Confirm == "" {
		return nil
	}
	p := NewProblem(http.StatusUnprocessableEntity, "the configuration has errors")
	p.Errors = []string{"w.yaml:1:1: x"}
	return p
}

func (full) Unguard(context.Context) error { return nil }

func (full) Unban(_ context.Context, address string) error {
	if address != "192.0.2.66" {
		return NewProblem(http.StatusNotFound, "it is not banned")
	}
	return nil
}

func (full) Stats(context.Context) (Stats, error) {
	return Stats{Minutes: []Span{{now, map[string]uint64{"missed": 3}, 1, 2}}, Hours: []Span{{now, map[string]uint64{}, 0, 0}}}, nil
}

func (full) History(context.Context, HistoryQuery) (HistoryList, error) {
	next, n, uid := "7", uint64(3), uint32(0)
	return HistoryList{Next: &next, Last: 9, Entries: []HistoryEntry{
		{9, now, "closed", "192.0.2.7", "ssh", "ssh", "alice", "a", "expired", &now, &now, &now, &n, &n, &uid}, {ID: 8, Event: "reload"},
	}}, nil
}

func (full) Explain(context.Context, netip.Addr, bool) (Explanation, error) {
	return Explanation{
		Client: "192.0.2.7", BannedUntil: &now, Advice: "x",
		Knocks:   []Knock{{now, ":8080", "missed", "ssh", 2, 3, "3.2 s too late for step 2 (within 10s)", "/b"}},
		Progress: []Client{{"192.0.2.7", "ssh", 1, 3, now, now}},
		Grants:   []Grant{{"a", "ssh", "192.0.2.7", "ssh", "alice", now, now, 1.5, 1, 2}},
	}, nil
}

func (full) Events(_ context.Context, q EventQuery) (EventReader, error) {
	if len(q.Kinds) > 0 {
		return nil, NewProblem(http.StatusBadRequest, "there is no such kind")
	}
	n, uid := uint64(3), uint32(0)
	return &script{end: io.EOF, batches: []EventBatch{{Last: EventID{"abc", 3}, Events: []Event{
		{
			ID: "abc-1", Kind: "knock", Time: now, Client: "192.0.2.7", Address: "192.0.2.8", Sequence: "ssh", Door: "ssh", Doors: []string{"ssh"}, User: "alice",
			Grant: "a", Reason: "x", Message: "x", ExpiresAt: now, Outcome: "matched", Listener: ":8080", Step: 1, Steps: 3, Problems: []string{"x"},
			Result: "done", On: "open", Program: "/bin/x", UID: &uid,
		},
		{ID: "abc-2", Kind: "degraded", Time: now, Problems: []string{}},
		{ID: "abc-3", Kind: "missed", Time: now, Missed: &n},
		{ID: "abc-3", Kind: "missed", Time: now},
	}}}}, nil
}

// Every route answers as the document says.
func TestAnswersAreAsDocumented(t *testing.T) {
	d := document(t)
	router, err := gorillamux.NewRouter(d)
	if err != nil {
		t.Fatal(err)
	}
	asked := map[string]bool{}
	for _, tt := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/", "", 200},
		{"GET", "/page/index.html", "", 200},
		{"GET", "/page/nothing", "", 404},
		{"GET", "/healthz", "", 200},
		{"GET", "/metrics", "", 200},
		{"GET", "/v1/status", "", 200},
		{"GET", "/v1/clients", "", 200},
		{"GET", "/v1/grants", "", 200},
		{"POST", "/v1/grants", `{"door":"ssh","client":"192.0.2.7","ttl":"1h"}`, 201},
		{"POST", "/v1/grants", `{"door":"shs","client":"192.0.2.7"}`, 404},
		{"DELETE", "/v1/grants/a", "", 204},
		{"POST", "/v1/grants/b/extend", `{"ttl":"1h"}`, 200},
		{"POST", "/v1/grants/c/extend", `{}`, 404},
		{"POST", "/v1/reload", "", 204},
		{"POST", "/v1/reload", `{"confirm":"1m"}`, 422},
		{"POST", "/v1/confirm", "", 204},
		{"POST", "/v1/unguard", "", 204},
		{"GET", "/v1/bans", "", 200},
		{"DELETE", "/v1/bans/192.0.2.66", "", 204},
		{"DELETE", "/v1/bans/192.0.2.67", "", 404},
		{"GET", "/v1/stats", "", 200},
		{"GET", "/v1/history", "", 200},
		{"GET", "/v1/history?limit=5&client=192.0.2.0/24&since=24h&user=alice&door=ssh&event=opened,closed", "", 200},
		{"GET", "/v1/events?once=true&recent=3&client=192.0.2.7,2001:db8::/64&door=ssh&door=vpn&sequence=ssh", "", 200},
		{"GET", "/v1/events?kind=x", "", 400},
		{"GET", "/v1/explain/192.0.2.7", "", 200},
		{"GET", "/v1/explain/2001:db8::7?reveal=0", "", 200},
		{"GET", "/v1/explain/home", "", 400},
		{"GET", "/v1/explain/192.0.2.7?reveal=1", "", 403},
	} {
		r := httptest.NewRequest(tt.method, "http://webknock"+tt.path, strings.NewReader(tt.body))
		if tt.body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		route, parameters, err := router.FindRoute(r)
		if err != nil {
			t.Errorf("%s %s is not documented: %v", tt.method, tt.path, err)
			continue
		}
		asked[tt.method+" "+route.Path] = true
		input := &openapi3filter.RequestValidationInput{Request: r, PathParams: parameters, Route: route}
		if err := openapi3filter.ValidateRequest(t.Context(), input); err != nil && tt.status < 300 {
			t.Errorf("%s %s, as a request: %v", tt.method, tt.path, err)
		}
		w := httptest.NewRecorder()
		Handler(new(full)).ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%s %s: %d %s, want %d", tt.method, tt.path, w.Code, w.Body, tt.status)
		}
		body := w.Body.Bytes()
		if err := openapi3filter.ValidateResponse(t.Context(), &openapi3filter.ResponseValidationInput{
			RequestValidationInput: input, Status: w.Code, Header: w.Header(), Body: io.NopCloser(bytes.NewReader(body)),
			Options: &openapi3filter.Options{IncludeResponseStatus: true},
		}); err != nil {
			t.Errorf("%s %s: %v", tt.method, tt.path, err)
		}
		if w.Header().Get("Content-Type") == "text/event-stream" {
			mustBeEvents(t, d, body)
		}
	}
	for path, item := range d.Paths.Map() {
		for method := range item.Operations() {
			if !asked[method+" "+path] {
				t.Errorf("this test asks for no %s %s", method, path)
			}
		}
	}
}

// mustBeEvents checks that the data of a stream are events as documented.
func mustBeEvents(t *testing.T, d *openapi3.T, stream []byte) {
	t.Helper()
	events := 0
	for line := range strings.Lines(string(stream)) {
		text, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		events++
		var value any
		err := json.Unmarshal([]byte(text), &value)
		err = errors.Join(err, d.Components.Schemas["Event"].Value.VisitJSON(value, openapi3.EnableJSONSchema2020(), openapi3.EnableFormatValidation()))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	if events == 0 {
		t.Errorf("no events in %s", stream)
	}
}

// The test above would let nothing through that is wrong.
func TestAWrongAnswerIsNotAsDocumented(t *testing.T) {
	schema := document(t).Components.Schemas["Grant"].Value
	text, err := json.Marshal(Grant{ID: "a", OpenedAt: now, ExpiresAt: now})
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []struct{ before, after string }{
		{``, ``},
		{`"id":"a",`, ``},
		{`"id":"a"`, `"id":1`},
		{`"id":"a"`, `"id":null`},
		{`"id":"a"`, `"id":"a","more":1`},
		{`"packets":0`, `"packets":0.5`},
		{`"opened_at":"2030`, `"opened_at":"the year 2030`},
	} {
		var value any
		if err := json.Unmarshal([]byte(strings.Replace(string(text), wrong.before, wrong.after, 1)), &value); err != nil {
			t.Fatal(err)
		}
		err := schema.VisitJSON(value, openapi3.EnableJSONSchema2020(), openapi3.EnableFormatValidation())
		if (err == nil) != (wrong.before == "") {
			t.Errorf("%q for %q: %v", wrong.after, wrong.before, err)
		}
	}
}
