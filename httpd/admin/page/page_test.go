package page

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"strings"
	"testing"
)

func get(name string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	Handler(func(*http.Request) string { return name }, http.NotFound)(w, httptest.NewRequest("GET", "/", nil))
	return w
}

// each calls f with each file that a browser gets.
func each(t *testing.T, f func(name, text string)) {
	t.Helper()
	n := 0
	err := fs.WalkDir(embedded, "files", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(embedded, file)
		f(strings.TrimPrefix(file, "files/"), string(text))
		n++
		return err
	})
	if err != nil || n < 10 {
		t.Fatalf("%d files, %v", n, err)
	}
}

func TestEachFileIsServedAndMayDoLittle(t *testing.T) {
	each(t, func(name, text string) {
		w := get(name)
		h := w.Header()
		if w.Code != 200 || w.Body.String() != text || h.Get("Content-Type") == "" {
			t.Errorf("%s: %d %q", name, w.Code, h.Get("Content-Type"))
		}
		for _, rule := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(h.Get("Content-Security-Policy"), rule) {
				t.Errorf("%s: the policy lacks %s", name, rule)
			}
		}
		if strings.Contains(h.Get("Content-Security-Policy"), "unsafe") || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: %v", name, h)
		}
	})
}

func TestNoOtherFileIsServed(t *testing.T) {
	for _, name := range []string{"", "none.js", "views", "../page.go", "../../api.go", "/etc/passwd", "views/../../page.go", "..", "%2e%2e/page.go", "index.html/"} {
		if w := get(name); w.Code != 404 && !(name == "index.html/" && w.Code == 200) {
			t.Errorf("%q: %d", name, w.Code)
		}
	}
}

// The policy forbids these as well, but then the page would not work.
func TestNothingBecomesHTML(t *testing.T) {
	forbidden := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|javascript:|<script>|<style|\sstyle=|\son[a-z]+="|https?://`)
	each(t, func(name, text string) {
		text = strings.ReplaceAll(text, "http://www.w3.org/2000/svg", "")
		if found := forbidden.FindString(text); found != "" {
			t.Errorf("%s has %q", name, found)
		}
	})
}

func TestWhatAFileNamesIsThere(t *testing.T) {
	imports := regexp.MustCompile(`(?m)from '(.+?)'`)
	assets := regexp.MustCompile(`(?:href|src)="page/(.+?)"`)
	each(t, func(name, text string) {
		for _, m := range imports.FindAllStringSubmatch(text, -1) {
			if other := path.Join(path.Dir(name), m[1]); get(other).Code != 200 {
				t.Errorf("%s imports %s", name, other)
			}
		}
		for _, m := range assets.FindAllStringSubmatch(text, -1) {
			if get(m[1]).Code != 200 {
				t.Errorf("%s loads %s", name, m[1])
			}
		}
	})
}
