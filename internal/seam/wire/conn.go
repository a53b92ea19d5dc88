package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"time"

	"webknock/internal/seam"
)

const (
	// maxWaiting bounds the bytes of notices that wait to be written. The other end may
	// be slow; nobody here waits for it.
	maxWaiting = 8 * mib
	// maxUnread bounds the bytes of answers that the front does not read, without the
	// latest.
	maxUnread = 8 * mib
	overhead  = 128 // of a frame in memory
	// maxCalls bounds the requests that have no answer yet, given up or not.
	maxCalls = 1 << 12
)

// A conn is one end of the socket. It asks what the other end does, and does what that
// asks.
type conn struct {
	socket *net.UnixConn
	peer   string            // the other half, for errors
	files  *fileReader       // nil: no descriptors are taken
	serve  map[kind]function // what the other end may ask
	may    func(kind) error  // nil: anything at any time

	wake chan struct{} // holds a value while there is something to write
	done chan struct{} // closed when the connection has ended

	mu      sync.Mutex
	failed  error // why the connection has ended
	out     []outgoing
	notices int    // bytes of notices in out
	answers int    // bytes of answers in out
	lost    uint64 // notices that found no room
	last    uint64 // id of the latest own request
	calls   map[uint64]*call
	running map[uint64]*execution // requests of the other end
	latest  uint64                // id of its latest one
}

// outgoing is a frame to be written.
type outgoing struct {
	frame  []byte
	notice bool
	answer bool
	files  []*os.File // own copies; they go with the bytes behind the header
}

// A call is a request that waits for its answer.
type call struct {
	kind  kind
	reply chan reply // nil: nobody waits any more
}

type reply struct {
	payload []byte
	err     error
}

// An execution is a request of the other end that is being carried out.
type execution struct {
	kind   kind
	cancel context.CancelFunc
}

// A function decodes an argument, and returns what then carries the request out. Of a
// notice that does not wait.
type function func(payload []byte, files []*os.File) (func(context.Context) (any, error), error)

func newConn(socket *net.UnixConn, peer string, serve map[kind]function) *conn {
	return &conn{
		socket: socket, peer: peer, serve: serve, wake: make(chan struct{}, 1), done: make(chan struct{}),
		calls: map[uint64]*call{}, running: map[uint64]*execution{},
	}
}

// start reads and writes until the connection ends.
func (c *conn) start() {
	go c.write()
	go func() { c.fail(c.read()) }()
}

// fail ends the connection. Who waits gets the error.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed != nil {
		return
	}
	c.failed = err
	for _, call := range c.calls {
		if call.reply != nil {
			call.reply <- reply{err: err}
		}
	}
	clear(c.calls)
	for _, e := range c.running {
		e.cancel()
	}
	for _, o := range c.out {
		closeFiles(o.files)
	}
	c.out = nil
	close(c.done)
	c.socket.Close()
	if c.files != nil {
		c.files.close()
	}
}

// err returns why the connection has ended; nil: it has not.
func (c *conn) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// lostNotices returns how many notices found no room.
func (c *conn) lostNotices() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// tell sends a notice, without waiting. If too much waits to be written it is lost.
func (c *conn) tell(k kind, argument any) {
	payload, err := encode(argument)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || len(payload) > methods[k].argument || c.notices+len(payload) > maxWaiting {
		c.lost++
		return
	}
	c.send(outgoing{frame: frame(header{form: notice, kind: k}, payload), notice: true})
}

// frame returns a frame as it is written.
func frame(h header, payload []byte) []byte {
	h.length = uint32(len(payload))
	return append(h.append(make([]byte, 0, headerLen+len(payload))), payload...)
}

// send has a frame written. The caller holds c.mu.
func (c *conn) send(o outgoing) {
	if c.failed != nil {
		closeFiles(o.files)
		return
	}
	c.out = append(c.out, o)
	if o.notice {
		c.notices += len(o.frame)
	}
	if o.answer {
		c.answers += len(o.frame) + overhead
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// write writes what is to be written.
func (c *conn) write() {
	for {
		select {
		case <-c.wake:
		case <-c.done:
			return
		}
		c.mu.Lock()
		out := c.out
		c.out, c.notices, c.answers = nil, 0, 0
		c.mu.Unlock()
		if err := c.writeAll(out); err != nil {
			c.fail(c.gone(err))
			return
		}
	}
}

// gone says that the connection has ended without anybody's fault.
func (c *conn) gone(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s %w", c.peer, ErrGone)
	}
	return fmt.Errorf("%s %w: %w", c.peer, ErrGone, err)
}

// ErrGone means that the process of the other half has ended, or has closed its end.
var ErrGone = errors.New("has gone")

// ErrProtocol means that the other half has sent what it may not send. It is not to be
// trusted any more.
var ErrProtocol = errors.New("breaks the rules of the seam")

func (c *conn) wrong(err error) error { return fmt.Errorf("%s %w: %w", c.peer, ErrProtocol, err) }

func (c *conn) writeAll(out []outgoing) error {
	defer func() {
		for _, o := range out {
			closeFiles(o.files)
		}
	}()
	var together net.Buffers
	for _, o := range out {
		if len(o.files) == 0 {
			together = append(together, o.frame)
			continue
		}
		if _, err := together.WriteTo(c.socket); err != nil {
			return err
		}
		if _, err := c.socket.Write(o.frame[:headerLen]); err != nil {
			return err
		}
		if err := writeFiles(c.socket, o.files); err != nil {
			return err
		}
		together = net.Buffers{o.frame[headerLen:]}
	}
	_, err := together.WriteTo(c.socket)
	return err
}

// ask sends a request and waits for its answer. Result is a pointer, or nil if there is
// none. Files are copied.
func (c *conn) ask(ctx context.Context, k kind, argument, result any, files ...*os.File) error {
	payload, err := encode(argument)
	if err != nil {
		return err
	}
	if limit := methods[k].argument; len(payload) > limit {
		return fmt.Errorf("%s takes %d bytes (%d at most)", k, len(payload), limit)
	}
	h := header{form: request, kind: k, files: uint16(len(files))}
	if len(files) > maxFiles {
		return fmt.Errorf("%s with %d sockets (%d at most)", k, len(files), maxFiles)
	}
	if deadline, ok := ctx.Deadline(); ok {
		h.timeout = max(1, time.Until(deadline))
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	copies, err := copyFiles(files)
	if err != nil {
		return err
	}
	answered := make(chan reply, 1)
	c.mu.Lock()
	if c.failed != nil || len(c.calls) >= maxCalls {
		err := c.failed
		c.mu.Unlock()
		closeFiles(copies)
		if err == nil {
			err = fmt.Errorf("%s answers nothing", c.peer)
		}
		return err
	}
	c.last++
	h.id = c.last
	c.calls[h.id] = &call{k, answered}
	c.send(outgoing{frame: frame(h, payload), files: copies})
	c.mu.Unlock()
	select {
	case r := <-answered:
		return c.result(k, r, result)
	case <-ctx.Done():
	}
	c.mu.Lock()
	if call := c.calls[h.id]; call != nil {
		call.reply = nil
		c.send(outgoing{frame: frame(header{form: cancel, kind: k, id: h.id}, nil)})
	}
	c.mu.Unlock()
	select {
	case r := <-answered: // just before
		return c.result(k, r, result)
	default:
		return ctx.Err()
	}
}

// result decodes an answer. One that cannot be decoded ends the connection.
func (c *conn) result(k kind, r reply, result any) error {
	if r.err != nil {
		return r.err
	}
	if err := decode(many, r.payload, result); err != nil {
		err = c.wrong(fmt.Errorf("the answer to %s: %w", k, err))
		c.fail(err)
		return err
	}
	return nil
}

// read reads frames until one is wrong or the connection ends, and returns why.
func (c *conn) read() error {
	var source io.Reader = c.socket
	if c.files != nil {
		source = c.files
	}
	r := bufio.NewReaderSize(source, readAtOnce)
	var buf []byte
	for {
		h, payload, err := readFrame(r, &buf)
		var protocol *frameError
		switch {
		case errors.As(err, &protocol):
			return c.wrong(protocol)
		case err != nil:
			return c.gone(err)
		}
		if err := c.take(h, payload); err != nil {
			return c.wrong(err)
		}
	}
}

// take does what a frame says.
func (c *conn) take(h header, payload []byte) error {
	switch h.form {
	case answer, failed:
		return c.answered(h, payload)
	case cancel:
		c.mu.Lock()
		defer c.mu.Unlock()
		if h.id > c.latest {
			return fmt.Errorf("a cancellation of %s, which was not asked", h.kind)
		}
		if e := c.running[h.id]; e != nil && e.kind == h.kind {
			e.cancel()
		}
		return nil
	}
	f, ok := c.serve[h.kind]
	if !ok {
		return fmt.Errorf("%s is nothing to ask for here", h.kind)
	}
	if c.may != nil {
		if err := c.may(h.kind); err != nil {
			return err
		}
	}
	var files []*os.File
	if h.files > 0 {
		var err error
		if files, err = c.files.take(int(h.files)); err != nil {
			return err
		}
	}
	run, err := f(payload, files)
	if err != nil {
		closeFiles(files)
		return fmt.Errorf("%s: %w", h.kind, err)
	}
	if h.form == notice {
		run(context.Background())
		return nil
	}
	return c.run(h, run, files)
}

// run carries out a request, beside others.
func (c *conn) run(h header, f func(context.Context) (any, error), files []*os.File) error {
	limit := h.timeout
	if limit == 0 {
		limit = math.MaxInt64
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.failed
	switch {
	case err != nil:
	case h.id <= c.latest:
		err = fmt.Errorf("%s has the id %d, after %d", h.kind, h.id, c.latest)
	case len(c.running) >= maxConcurrent:
		err = fmt.Errorf("more than %d requests at once", maxConcurrent)
	case methods[h.kind].alone && c.runs(h.kind):
		err = fmt.Errorf("%s twice at once", h.kind)
	}
	if err != nil {
		cancel()
		closeFiles(files)
		return err
	}
	c.latest = h.id
	c.running[h.id] = &execution{h.kind, cancel}
	go func() {
		result, err := f(ctx)
		cancel()
		closeFiles(files)
		c.reply(h, result, err)
	}()
	return nil
}

// runs reports whether a request of a kind is being carried out. The caller holds c.mu.
func (c *conn) runs(k kind) bool {
	for _, e := range c.running {
		if e.kind == k {
			return true
		}
	}
	return false
}

func (c *conn) reply(h header, result any, err error) {
	to := header{form: answer, kind: h.kind, id: h.id}
	var payload []byte
	if err == nil {
		payload, err = encode(result)
		if limit := methods[h.kind].result; err == nil && len(payload) > limit {
			err = fmt.Errorf("the answer to %s takes %d bytes (%d at most)", h.kind, len(payload), limit)
		}
	}
	if err != nil {
		to.form = failed
		payload, _ = encode(failureOf(err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.running, h.id)
	if c.may != nil && c.answers > maxUnread {
		go c.fail(c.wrong(errors.New("it asks, and does not read the answers")))
		return
	}
	c.send(outgoing{frame: frame(to, payload), answer: true})
}

// answered passes an answer on to who waits for it.
func (c *conn) answered(h header, payload []byte) error {
	c.mu.Lock()
	call := c.calls[h.id]
	if call == nil || call.kind != h.kind {
		c.mu.Unlock()
		return fmt.Errorf("an answer to %s, which was not asked", h.kind)
	}
	delete(c.calls, h.id)
	waits := call.reply
	c.mu.Unlock()
	var r reply
	if h.form == failed {
		var f failure
		if err := decode(few, payload, &f); err != nil {
			return err
		}
		r.err = f.error()
	} else {
		r.payload = append([]byte{}, payload...)
	}
	if waits != nil {
		waits <- r
	}
	return nil
}

// close ends the connection from this end.
func (c *conn) close() { c.fail(seam.ErrStopped) }
