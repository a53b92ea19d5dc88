package sequence

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
)

// Hash matches the decoded path whose SHA-256 it is, in 64 lower-case
// hexadecimal digits. A configuration with hashes does not reveal its paths.
type Hash string

// Validate implements [Trigger].
func (h Hash) Validate() error {
	if sum, err := hex.DecodeString(string(h)); err != nil || len(sum) != sha256.Size || string(h) != strings.ToLower(string(h)) {
		return errors.New("not a SHA-256 in 64 lower-case hexadecimal digits")
	}
	return nil
}

// Variable implements [Trigger].
func (Hash) Variable() string { return "" }

func (Hash) newIndex() index { return &hashIndex{sums: map[[sha256.Size]byte][]stepOf{}} }

// hashIndex has all hash steps of a set, so that a path is hashed once.
type hashIndex struct {
	decided
	sums map[[sha256.Size]byte][]stepOf
}

func (x *hashIndex) add(s stepOf) bool {
	h, ok := s.spec().Trigger.(Hash)
	if ok {
		var sum [sha256.Size]byte
		hex.Decode(sum[:], []byte(h)) // no error: the trigger is valid
		x.sums[sum] = append(x.sums[sum], s)
	}
	return ok
}

func (x *hashIndex) mayMatch(path string) []stepOf { return x.sums[sha256.Sum256([]byte(path))] }

func (*hashIndex) cost() int { return 2 }
