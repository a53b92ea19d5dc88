package acme

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"time"

	"go.uber.org/zap/zapcore"
)

// A core writes what the libraries log to the daemon's log, without what only an
// authority has to know. What they log to debug them stays out.
type core struct {
	log    *slog.Logger
	fields []zapcore.Field
}

var _ zapcore.Core = core{}

func level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

func (c core) Enabled(l zapcore.Level) bool {
	return l >= zapcore.InfoLevel && c.log.Enabled(context.Background(), level(l))
}

func (c core) With(fields []zapcore.Field) zapcore.Core {
	return core{c.log, slices.Concat(c.fields, fields)}
}

func (c core) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

func (c core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	encoder := zapcore.NewMapObjectEncoder()
	for _, f := range slices.Concat(c.fields, fields) {
		f.AddTo(encoder)
	}
	var attrs []slog.Attr
	for _, key := range slices.Sorted(maps.Keys(encoder.Fields)) {
		attrs = append(attrs, slog.Any(key, clean(encoder.Fields[key])))
	}
	c.log.LogAttrs(context.Background(), level(e.Level), redact("acme: "+e.Message), attrs...)
	return nil
}

func (c core) Sync() error { return nil }

// clean returns a value of a field without secrets.
func clean(value any) any {
	switch v := value.(type) {
	case bool, int, int64, uint64, float64, time.Time, time.Duration:
		return v
	case map[string]any: // a group
		cleaned := map[string]any{}
		for key, value := range v {
			cleaned[key] = clean(value)
		}
		return cleaned
	}
	return redact(fmt.Sprint(value))
}

// A token, as it stands in the path of its challenge, and a key authorization
// (RFC 8555, sections 8.1 and 8.3).
var secret = regexp.MustCompile(`(acme-challenge/)[\w-]+|[\w-]{22,}\.[\w-]{43}\b`)

// redact strikes the tokens of challenges out of a text.
func redact(text string) string { return secret.ReplaceAllString(text, "$1…") }
