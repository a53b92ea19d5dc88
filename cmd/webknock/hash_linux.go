package main

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"webknock/sequence"
)

type hashedPath struct {
	Path string `json:"path"`
	Hash string `json:"hash"`
}

func newHash(a *app) *cobra.Command {
	var random bool
	c := &cobra.Command{
		Use:   "hash (PATH | - | --random)",
		Short: "Print the hash of a path, for a step that does not tell it",
		Long: "hash prints a path as a step of the configuration that does not tell it to whoever reads the\n" +
			"file. With - it reads the path from standard input, so that it is in no shell history and no\n" +
			"list of processes. With --random it invents a path of 128 bits.",
		Args: func(_ *cobra.Command, args []string) error {
			if random == (len(args) > 0) || len(args) > 1 {
				return errors.New("hash takes exactly one of PATH, - and --random")
			}
			if !random && args[0] != "-" {
				return validatePath(args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			var path string
			switch {
			case random:
				path = randomPath(16)
			case args[0] == "-":
				var err error
				if path, err = readPath(c.InOrStdin()); err != nil {
					return err
				}
			default:
				path = args[0]
			}
			hash := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(path)))
			if a.output == "json" {
				return printJSON(c.OutOrStdout(), hashedPath{path, hash})
			}
			if random {
				fmt.Fprintln(c.OutOrStdout(), path)
			}
			_, err := fmt.Fprintln(c.OutOrStdout(), hash)
			return err
		},
	}
	c.Flags().BoolVar(&random, "random", false, "invent a path that nobody guesses")
	return c
}

// readPath reads a path, the one line of r.
func readPath(r io.Reader) (string, error) {
	const most = 8192 // bytes
	in := bufio.NewReader(io.LimitReader(r, most))
	path, err := in.ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("read the path: %w", err)
	}
	if _, err := in.ReadByte(); err != io.EOF || len(path) == most {
		return "", errors.New("read the path: more than one line (only the path)")
	}
	path = strings.TrimSuffix(strings.TrimSuffix(path, "\n"), "\r")
	if err := validatePath(path); err != nil {
		return "", fmt.Errorf("read the path: %w", err)
	}
	return path, nil
}

// validatePath reports what is wrong with a path for a step.
func validatePath(path string) error {
	if path == "" {
		return errors.New("there is no path (like /a)")
	}
	return sequence.Exact(path).Validate()
}

// readable has 32 letters and digits. It lacks l, o, 0 and 1, which look alike in many fonts.
const readable = "abcdefghijkmnpqrstuvwxyz23456789"

// randomPath returns a path of n random bytes.
func randomPath(n int) string {
	bits := make([]byte, n)
	rand.Read(bits) // never fails
	return "/" + base32.NewEncoding(readable).WithPadding(base32.NoPadding).EncodeToString(bits)
}
