package admin

import (
	"maps"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"go.yaml.in/yaml/v3"
)

func TestTheOpenAPIDocumentAgreesWithTheCode(t *testing.T) {
	var document struct {
		Paths      map[string]map[string]any
		Components struct {
			Schemas map[string]struct{ Properties map[string]any }
		}
	}
	text, err := os.ReadFile("../../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	var documented, served []string
	for path, methods := range document.Paths {
		for method := range methods {
			documented = append(documented, strings.ToUpper(method)+" "+path)
		}
	}
	err = chi.Walk(Handler(new(fake)).(chi.Routes), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		served = append(served, method+" "+route)
		return nil
	})
	slices.Sort(documented)
	slices.Sort(served)
	if err != nil || !slices.Equal(documented, served) {
		t.Errorf("documented %q, served %q, %v", documented, served, err)
	}
	types := []any{Problem{}, Status{}, Firewall{}, Listener{}, Door{}, Sequence{}, ClientList{}, Client{}, GrantList{}, Grant{}, OpenRequest{}, ExtendRequest{}, ReloadRequest{}, Ban{}, BanList{}, Stats{}, Span{}, HistoryList{}, HistoryEntry{}, Event{}}
	if len(types) != len(document.Components.Schemas) {
		t.Errorf("%d schemas, %d types", len(document.Components.Schemas), len(types))
	}
	for _, value := range types {
		typ := reflect.TypeOf(value)
		var fields []string
		for f := range typ.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			fields = append(fields, name)
		}
		slices.Sort(fields)
		if got := slices.Sorted(maps.Keys(document.Components.Schemas[typ.Name()].Properties)); !slices.Equal(got, fields) {
			t.Errorf("%s has %q, documented %q", typ.Name(), fields, got)
		}
	}
}
