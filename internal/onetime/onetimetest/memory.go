package onetimetest

import (
	"sync"

	"webknock/internal/onetime"
)

// A Memory is an onetime.Store that does not outlive the process. It may be used
// from several goroutines.
type Memory struct {
	mu   sync.Mutex
	used onetime.Used
}

// NewMemory returns an empty one.
func NewMemory() *Memory { return &Memory{used: onetime.NewUsed()} }

// Load implements onetime.Store.
func (m *Memory) Load() (onetime.Used, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	used := onetime.NewUsed()
	used.Add(m.used)
	return used, nil
}

// Record implements onetime.Store.
func (m *Memory) Record(used onetime.Used, done func(error)) {
	m.mu.Lock()
	m.used.Add(used)
	m.mu.Unlock()
	go done(nil)
}
