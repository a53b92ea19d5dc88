package wire

import (
	"context"
	"errors"
	"testing"

	"webknock/internal/seam"
	"webknock/internal/seam/seamtest"
)

// join joins a front and a keeper by a socket.
func join(t testing.TB, front seam.Front, keeper seam.Keeper) (f *FrontClient, k seam.Keeper, ended chan error) {
	a, b := seamtest.Pair(t)
	f = NewFrontClient(a, keeper)
	got := make(chan seam.Keeper, 1)
	ended = make(chan error, 1)
	go func() {
		ended <- ServeFront(context.Background(), b, func(k seam.Keeper) seam.Front {
			got <- k
			return front
		})
	}()
	t.Cleanup(func() { f.Close() })
	return f, <-got, ended
}

func TestTheContractOfTheSeam(t *testing.T) {
	seamtest.Contract(t, func(t *testing.T, front seam.Front, keeper seam.Keeper) (seam.Front, seam.Keeper) {
		f, k, _ := join(t, front, keeper)
		return f, k
	})
}

func TestTheContractWithoutASocket(t *testing.T) {
	seamtest.Contract(t, func(_ *testing.T, front seam.Front, keeper seam.Keeper) (seam.Front, seam.Keeper) {
		return front, keeper
	})
}

func TestAfterTheEndNothingHangs(t *testing.T) {
	blocked := make(chan struct{})
	f, k, ended := join(t, &seamtest.Front{OnPing: func(ctx context.Context) error {
		close(blocked)
		<-ctx.Done()
		return ctx.Err()
	}}, &seamtest.Keeper{})
	answer := make(chan error)
	go func() { answer <- f.Ping(context.Background()) }()
	<-blocked
	f.Close()
	if err := <-answer; !errors.Is(err, seam.ErrStopped) {
		t.Errorf("who waits: %v", err)
	}
	<-f.Done()
	if err := <-ended; !errors.Is(err, ErrGone) {
		t.Errorf("the front: %v", err)
	}
	if err := f.Ping(t.Context()); !errors.Is(err, seam.ErrStopped) || !errors.Is(f.Err(), seam.ErrStopped) {
		t.Errorf("ping: %v", err)
	}
	if s := f.State(); len(s.Problems) != 1 {
		t.Errorf("state %+v", s)
	}
	f.Abort()
	k.Complete(seam.Completion{})
	if _, err := k.UsedCodes(); !errors.Is(err, ErrGone) {
		t.Errorf("used codes: %v", err)
	}
}

func TestAFrontThatHasStoppedEndsWithoutAnError(t *testing.T) {
	f, _, ended := join(t, new(seamtest.Front), new(seamtest.Keeper))
	if err := f.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	f.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
