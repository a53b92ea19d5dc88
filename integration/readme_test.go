package integration

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestEveryCommandOfTheReadmeWorks carries out the commands of README.md, one
// after the other, with its own configuration.
func TestEveryCommandOfTheReadmeWorks(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(text, language string) (body, rest string, found bool) {
		_, text, found = strings.Cut(text, "```"+language+"\n")
		body, rest, _ = strings.Cut(text, "```")
		return body, rest, found
	}
	w := newWorld(t)
	yaml, _, _ := block(string(readme), "yaml")
	w.configure(yaml)
	ran := 0
	for rest := string(readme); ; {
		body, after, found := block(rest, "sh")
		if !found {
			break
		}
		rest = after
		for line := range strings.Lines(body) {
			command, _, _ := strings.Cut(line, "#")
			args := strings.Fields(strings.Replace(command, "--config webknock.yaml", "", 1))
			if len(args) > 0 && args[0] == "sudo" {
				args = args[1:]
			}
			switch {
			case len(args) == 0:
			case args[0] == "make": // those that take long run elsewhere: here, that they exist
				make := exec.Command("make", append([]string{"-C", "..", "--dry-run"}, args[1:]...)...)
				if out, err := make.CombinedOutput(); err != nil {
					t.Errorf("%s: %v\n%s", command, err, out)
				}
				ran++
			case args[0] == "webknock" && args[1] == "serve":
				w.serve(yaml)
				ran++
			case args[0] == "webknock" && args[1] == "top": // the tests of top have a terminal: here, that there is one needed
				if _, stderr, _ := w.webknock("top"); !strings.Contains(stderr, "terminal") {
					t.Errorf("%s: %s", command, stderr)
				}
				ran++
			case args[0] == "webknock" && (args[1] == "ui" || slices.Contains(args, "--follow")): // until somebody ends it
				follows(w, args[1:])
				ran++
			case args[0] == "webknock":
				if _, stderr, code := w.webknock(args[1:]...); code != 0 {
					t.Errorf("%s: exit %d, %s", command, code, stderr)
				}
				ran++
			default:
				t.Errorf("no way to run %q", command)
			}
		}
	}
	if ran < 16 {
		t.Errorf("only %d commands found", ran)
	}
}

// follows runs a command that shows what happens until it has shown something.
func follows(w *world, args []string) {
	w.t.Helper()
	cmd := w.server.Command(w.t.Context(), binary, append(args, "--socket", filepath.Join(w.dir, "webknock.sock"), "--config", w.config())...)
	out, err := cmd.StdoutPipe()
	if cmd.Stderr = cmd.Stdout; err == nil {
		err = cmd.Start()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	shown := make(chan bool, 1)
	go func() { shown <- bufio.NewScanner(out).Scan() }()
	until(w.t, strings.Join(args, " ")+" shows a knock", func() bool {
		w.knock(w.alice, serverIP, "/x")
		select {
		case something := <-shown:
			return something
		default:
			return false
		}
	})
	cmd.Process.Kill()
	cmd.Wait()
}

var quoted = regexp.MustCompile("`(?:sudo )?webknock ([^`]+)`")

// A command on a line of its own in a block, up to what the shell does with it.
var inBlock = regexp.MustCompile(`(?m)^(?:[$#] )?(?:sudo )?webknock ([^#|<>&;"\n]+)`)

// TestTheDocumentsNameCommandsThatExist asks for help about every command that
// a document names, with the arguments and flags that it gives.
func TestTheDocumentsNameCommandsThatExist(t *testing.T) {
	named := 0
	for document, text := range documents(t) {
		commands := quoted.FindAllStringSubmatch(text, -1)
		for _, block := range fenced.FindAllStringSubmatch(text, -1) {
			commands = append(commands, inBlock.FindAllStringSubmatch(block[2], -1)...)
		}
		for _, m := range commands {
			named++
			args := strings.Fields(m[1])
			for _, args := range [][]string{{"help", args[0]}, append(args, "--help")} { // one knows commands, the other flags
				if out, err := exec.Command(binary, args...).CombinedOutput(); err != nil {
					t.Errorf("%s: %s: %v\n%s", document, m[0], err, out)
				}
			}
		}
	}
	if named < 20 {
		t.Errorf("only %d commands found", named)
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`) // that has no scheme
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notWord = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors returns what can follow a # in a link to a document, as GitHub names
// headings.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		all[strings.ReplaceAll(notWord.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return all
}

func TestTheDocumentsLinkToWhatIsThere(t *testing.T) {
	links, places := 0, 0
	for document, text := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			links++
			target := document
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(document), m[1])
			}
			other, err := os.ReadFile(target)
			if info, _ := os.Stat(target); info != nil && info.IsDir() {
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", document, err)
			}
			if m[2] != "" {
				places++
				if !anchors(string(other))[m[2]] {
					t.Errorf("%s: %s has no heading #%s", document, target, m[2])
				}
			}
		}
	}
	if links < 30 || places < 3 {
		t.Errorf("only %d links found, %d of them to a heading", links, places)
	}
}

var fenced = regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)^ *```")

// A whole configuration in a document is one that works.
func TestTheConfigurationsOfTheDocumentsAreRight(t *testing.T) {
	found := 0
	for document, text := range documents(t) {
		for _, m := range fenced.FindAllStringSubmatch(text, -1) {
			yaml := strings.ReplaceAll(m[2], "/etc/webknock/", "")
			if m[1] != "yaml" || !strings.Contains(yaml, "listeners:") || !strings.Contains(yaml, "sequences:") {
				continue
			}
			found++
			dir := t.TempDir()
			for _, file := range regexp.MustCompile(`totp_file: ([a-z./-]+)`).FindAllStringSubmatch(yaml, -1) {
				if err := os.WriteFile(filepath.Join(dir, file[1]), []byte("JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			file := filepath.Join(dir, "webknock.yaml")
			if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(binary, "check", file).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s\n%s", document, err, out, m[2])
			}
		}
	}
	if found < 4 {
		t.Errorf("only %d found", found)
	}
}

// documents returns the texts that people read, by file.
func documents(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"../*.md", "../docs/*.md", "../docs/recipes/*.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all[file] = string(text)
		}
	}
	return all
}
