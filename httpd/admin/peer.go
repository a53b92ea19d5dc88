package admin

import (
	"context"
	"net"
)

// Credentials are those of the process that has sent a request, as they were when it
// connected. The kernel tells them (unix(7), SO_PEERCRED).
type Credentials struct {
	UID, GID uint32
	PID      int32
}

type peerKey struct{}

// Peer returns who has sent the request that ctx belongs to. It reports false for a
// context of no request over the admin socket.
func Peer(ctx context.Context) (Credentials, bool) {
	c, ok := ctx.Value(peerKey{}).(Credentials)
	return c, ok
}

// WithPeer returns a context whose Peer is c.
func WithPeer(ctx context.Context, c Credentials) context.Context {
	return context.WithValue(ctx, peerKey{}, c)
}

// A peerConn is a connection of a known peer.
type peerConn struct {
	*net.UnixConn
	peer Credentials
}

// withConnPeer is the ConnContext of the server.
func withConnPeer(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(*peerConn); ok {
		return WithPeer(ctx, c.peer)
	}
	return ctx
}
