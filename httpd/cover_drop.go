package httpd

import (
	"log/slog"
	"net/http"
)

// Drop is the cover that sends not one byte. The listener resets each connection
// once its knock has been posted.
type Drop struct{}

func (Drop) String() string                             { return "drop" }
func (Drop) Handler(Clients, *slog.Logger) http.Handler { return nil }
func (Drop) HasVisitors() bool                          { return false }
