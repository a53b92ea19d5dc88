// Package page holds the page of the admin API, which `webknock ui` shows in a browser.
//
// The files below files/ are what the browser gets: there is no build step, and app.js is
// where to begin reading. The page only uses the API, by addresses relative to its own,
// so it works at whatever path it is served.
//
// What strangers have a say in (addresses, paths, reasons) becomes text by dom.js, never
// HTML, and the browser is told to insist on that.
package page

import (
	"embed"
	"io/fs"
	"net/http"
	"path"
)

//go:embed files
var embedded embed.FS

// policy lets the page load its own files, and ask its own origin, and nothing else. It
// forbids the browser to make HTML of text.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// Handler serves the page's files: name returns which one a request asks for, or
// notFound answers.
func Handler(name func(*http.Request) string, notFound http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		file := path.Join("files", path.Clean("/"+name(r)))
		text, err := fs.ReadFile(embedded, file)
		if err != nil {
			notFound(w, r)
			return
		}
		w.Header().Set("Content-Type", types[path.Ext(file)])
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
		w.Header().Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Write(text) // fails only if the browser has gone
	}
}
