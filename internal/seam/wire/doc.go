// Package wire carries the seam between keeper and front over a socket between two
// processes. [NewFrontClient] is the keeper's end, [ServeFront] the front's.
//
// # Frames
//
// The socket is a connected AF_UNIX stream. All that goes over it are frames: a header
// of 24 bytes and a payload. The header has, big-endian,
//
//	4 bytes  length of the payload
//	1 byte   form: request, notice, answer, failure or cancellation
//	1 byte   kind: the method of seam.Front or seam.Keeper
//	2 bytes  how many descriptors go with the frame
//	8 bytes  id of the request; 0 of a notice
//	8 bytes  nanoseconds that a request may take; 0: as long as it likes
//
// Each end numbers its requests from 1 upwards. An answer, a failure and a cancellation
// have the id and the kind of their request. A notice has no answer.
//
// # Payloads
//
// A payload is one CBOR item (RFC 8949): of a request or notice its argument, of an
// answer the result, of a failure an error. Structures are maps with the names of Go's
// fields. Texts are byte strings, because requests of strangers hold bytes that are no
// UTF-8, and must come over as they are; that is why it is not JSON.
//
// Everything is bounded: the payload by its kind, what is under way at once, and what
// waits to be written. Decoding is strict. An unknown kind, a field that is unknown or
// there twice, bytes behind the item, an answer that nobody waits for, or a request
// before its time end the connection.
//
// # Descriptors
//
// Listening sockets go from the keeper to the front, as SCM_RIGHTS of the bytes that
// stand between header and payload, one byte for every 200 of them. The keeper takes no
// descriptors: it reads in a way that has the kernel close any that are sent.
//
// # What may be asked when
//
// The front may ask nothing before the keeper has called Commit, and nothing any more
// when Stop has returned. docs/security.md has the whole state machine.
package wire
