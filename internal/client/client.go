// Package client knocks: it requests the paths of a sequence on a server, in
// order, with the one-time codes of a user, and waits until a door is open.
//
// Start with [Load], which reads a [Profile], and [Knock], which carries it out
// once and returns what it saw. [Connect] is for OpenSSH's ProxyCommand: it
// knocks only if a port does not answer. The package uses nothing of the server
// and builds on every system.
package client
