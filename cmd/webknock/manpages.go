//go:build manpages

package main

import (
	"io"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra/doc"
)

// With the build tag manpages this program writes a manual page for each command
// into a folder, and does nothing else:
//
//	go run -tags manpages ./cmd/webknock DIR
//
// The date of the pages is SOURCE_DATE_EPOCH, or now.
func init() {
	date := time.Now()
	if seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		date = time.Unix(seconds, 0).UTC()
	}
	root := newRoot(io.Discard, io.Discard, false)
	root.DisableAutoGenTag = true
	header := &doc.GenManHeader{Section: "8", Date: &date, Source: "webknock " + version, Manual: "System Manager's Manual"}
	if err := doc.GenManTree(root, header, os.Args[1]); err != nil {
		log.Fatal(err)
	}
	os.Remove(os.Args[1] + "/webknock.8") // there is a better one, docs/man/webknock.8
	os.Exit(0)
}
