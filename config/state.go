package config

import "path/filepath"

// defaultState is the directory that keeps what must survive a restart.
const defaultState = "/var/lib/webknock"

// DefaultState returns the state directory of a host without a configuration:
// that of the environment or, without one, the default.
func DefaultState() string {
	if values, err := environment(); err == nil && filepath.IsAbs(values["state"]) {
		return values["state"]
	}
	return defaultState
}
