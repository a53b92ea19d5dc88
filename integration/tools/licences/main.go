// Command licences writes the licences of all that is linked into a program:
//
//	licences GO-ARGUMENTS... PACKAGE
//
// Run it where the program's module is. GOOS and GOARCH choose what is linked.
package main

import (
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var licence = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|copyright)([.-].*)?$`)

func main() {
	log.SetFlags(0)
	args := append([]string{"list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}\t{{.Dir}}{{end}}{{end}}"}, os.Args[1:]...)
	cmd := exec.Command("go", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		log.Fatal(err)
	}
	modules := slices.Compact(slices.Sorted(strings.SplitSeq(strings.TrimSpace(string(out)), "\n")))
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		log.Fatal(err)
	}
	version, err := exec.Command("go", "env", "GOVERSION").Output()
	if err != nil {
		log.Fatal(err)
	}
	modules = append(modules, "Go "+strings.TrimSpace(string(version))+"\t"+strings.TrimSpace(string(root)))
	for _, line := range modules {
		name, dir, _ := strings.Cut(line, "\t")
		if name == "" {
			continue
		}
		if err := print(name, dir); err != nil {
			log.Fatal(err)
		}
	}
}

func print(name, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	none := true
	for _, e := range entries {
		if !licence.MatchString(e.Name()) || !isFile(filepath.Join(dir, e.Name())) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		none = false
		title := name + ": " + e.Name()
		fmt.Printf("%s\n%s\n\n%s\n\n", title, strings.Repeat("=", len(title)), strings.TrimSpace(string(text)))
	}
	if none {
		return fmt.Errorf("%s has no licence in %s", name, dir)
	}
	return nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Type() == fs.FileMode(0)
}
