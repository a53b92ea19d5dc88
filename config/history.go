package config

import "time"

// History says what is kept of what has happened. The oldest is removed first.
type History struct {
	Keep time.Duration `mapstructure:"keep" limits:"0s..87600h"` // 0: nothing is recorded
	Max  int           `mapstructure:"max" limits:"1..10000000"` // entries
}

func defaultHistory() History { return History{Keep: 90 * 24 * time.Hour, Max: 100000} }
