package keeper

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"webknock/config"
)

// A firewall that does not answer holds up neither the status nor who confirms.
func TestUndoingAChangeDelaysNoOtherRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := Options{Log: slog.New(slog.DiscardHandler), DryRun: true}
		k := New(o)
		k.kept = newKept(nil, config.BackendMemory, o)
		began, answer := make(chan bool), make(chan error)
		k.awaitConfirmation(time.Minute, &config.Config{Source: &config.Source{}}, func(context.Context) error {
			began <- true
			return <-answer
		})
		<-began
		if !k.pending().IsZero() {
			t.Error("a change that is being undone can be confirmed")
		}
		if err := k.Confirm(t.Context()); err == nil || !strings.Contains(err.Error(), "too late") {
			t.Errorf("confirmed meanwhile: %v", err)
		}
		answer <- errors.New("the firewall fails")
		synctest.Wait()
		if k.pending().IsZero() {
			t.Error("what failed is taken for undone")
		}
		go func() { <-began; answer <- nil }()
		k.endConfirmation(t.Context()) // at once
		if !k.pending().IsZero() {
			t.Error("pending after the end")
		}
	})
}
