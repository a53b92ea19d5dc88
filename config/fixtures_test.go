package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// fixture reads a file of testdata into a directory of its own, and what its
// comments "#! LINE:COL: …" want.
func fixture(t *testing.T, file string) (path string, want []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path = filepath.Join(dir, filepath.Base(file))
	for line := range strings.Lines(string(text)) {
		if wanted, ok := strings.CutPrefix(line, "#! "); ok {
			want = append(want, path+":"+strings.TrimSpace(wanted))
		}
	}
	for name, content := range map[string]string{filepath.Base(file): string(text), "body.html": "hello\n", "alice.totp": rfcSecret} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path, want
}

func fixtures(t *testing.T, kind string, f func(t *testing.T, path string, want []string)) {
	t.Helper()
	files, err := filepath.Glob("testdata/" + kind + "/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			path, want := fixture(t, file)
			f(t, path, want)
		})
	}
}

// Valid files are valid for Load, for Restore, which decodes them again, and for the
// schema.
func TestGoodFiles(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("../docs/webknock.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	fixtures(t, "good", func(t *testing.T, path string, _ []string) {
		cfg, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(cfg.Warnings) > 0 {
			t.Errorf("it is warned of:\n%v", cfg.Warnings)
		}
		if _, lacks, err := Restore(cfg.Source); err != nil || len(lacks) > 0 {
			t.Errorf("it cannot be read again: %v, %v", lacks, err)
		}
		if strings.Contains(path, "null") {
			return // a key without a value is no mapping to the schema
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var document any
		if err := yaml.Unmarshal(data, &document); err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(document); err != nil {
			t.Error(err)
		}
	})
}

// Invalid files have exactly the errors that their comments want.
func TestBadFiles(t *testing.T) {
	fixtures(t, "bad", func(t *testing.T, path string, want []string) {
		_, err := Load(path)
		var errs Errors
		if !errors.As(err, &errs) || len(want) == 0 || !slices.Equal(errs.Lines(), want) {
			t.Errorf("errors\n%v\nwant\n%s", err, strings.Join(want, "\n"))
		}
	})
}

func TestFilesWithWarnings(t *testing.T) {
	fixtures(t, "warned", func(t *testing.T, path string, want []string) {
		cfg, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(want) == 0 || !slices.Equal(cfg.Warnings.Lines(), want) {
			t.Errorf("warnings\n%v\nwant\n%s", cfg.Warnings, strings.Join(want, "\n"))
		}
	})
}

// A configuration that was in force is restored, although Load refuses it now for what
// its sections do together.
func TestRestoreTakesAConfigurationThatLoadRefuses(t *testing.T) {
	for _, name := range []string{"door-over-the-only-listener", "rate-too-low", "ban-too-early", "step-is-a-decoy", "https-without-tls", "cover-leads-back"} {
		path, want := fixture(t, "testdata/bad/"+name+".yaml")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		cfg, lacks, err := Restore(&Source{File: path, Text: string(text)})
		if err != nil || len(lacks) != len(want) || cfg == nil || len(cfg.Sequences) != 1 {
			t.Errorf("%s: %v, lacks %q", name, err, lacks)
		}
	}
}
