package nft

import (
	"context"
	"errors"
	"fmt"
)

// lock is a mutex. Waiting for it ends with a context.
type lock chan struct{}

func (l lock) acquire(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	default:
	}
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return unanswered(ctx)
	}
}

func (l lock) release() { <-l }

// unanswered is the error of a call whose context ended before the kernel answered.
func unanswered(ctx context.Context) error {
	return fmt.Errorf("nftables: the kernel has not answered: %w", context.Cause(ctx))
}

// call runs f while no other call uses the connection, and returns what f returns.
//
// A system call waits in the kernel while another process commits a transaction, and
// nothing can interrupt it: socket deadlines do not apply. So f runs in the goroutine of
// worker. If ctx ends first, call returns an error and f goes on; its result is lost, and
// later calls wait for it to end. That is why f must not write to variables of its caller.
func call[T any](ctx context.Context, b *Backend, f func() (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if err := b.lock.acquire(ctx); err != nil {
		return none, err
	}
	type result struct {
		value T
		err   error
	}
	results := make(chan result, 1)
	select {
	case b.work <- func() {
		value, err := f()
		b.lock.release()
		results <- result{value, err}
	}:
	case <-b.closed:
		b.lock.release()
		return none, errClosed
	}
	select {
	case r := <-results:
		return r.value, r.err
	case <-ctx.Done():
		return none, unanswered(ctx)
	}
}

// call is the function of that name for an f that returns an error alone.
func (b *Backend) call(ctx context.Context, f func() error) error {
	_, err := call(ctx, b, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

var errClosed = errors.New("nftables: the backend is closed")

// worker runs what call hands over, until the backend is closed. It lasts because a new
// goroutine for each call would cost a fifth of the call.
func (b *Backend) worker() {
	for {
		select {
		case f := <-b.work:
			f()
		case <-b.closed:
			return
		}
	}
}
