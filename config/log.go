package config

import (
	"log/slog"
	"strings"
)

// Log says what is logged, and how.
type Log struct {
	Level  slog.Level `mapstructure:"level" words:"debug info warn error"`
	Format string     `mapstructure:"format" words:"auto text journal json"`
}

func defaultLog() Log { return Log{Level: slog.LevelInfo, Format: "auto"} }

func (d *decoder) level(v *value) any {
	s, ok := d.text(v)
	if !ok || !d.isWord(v, s, strings.Fields(v.tag.Get("words"))) {
		return nil
	}
	var level slog.Level
	level.UnmarshalText([]byte(s)) // one of slog's own words
	return level
}
