package forfront

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"webknock/config"
)

const everyKind = `
listeners: [{address: ":8080"}]
doors: [{name: ssh, ports: [22/tcp]}]
users: [{name: ann, totp_file: ann.totp}]
sequences:
  - name: all
    steps:
      - /a
      - sha256:0f40b3ca3e9c8e33b2e2c4f3e3c70be8e0d2bd2d1fd2bd3ba2a2c7d3ffe7ddb1
      - {regex: ^/b, method: POST, host: h.example.org, query: {Key: "yes"}, scheme: http, within: 3s}
      - /k/{totp}
      - /t/{ticket}
    opens: [ssh]
`

// A kind of trigger that package seam has no name for would panic here.
func TestSequencesReachTheFrontUnchanged(t *testing.T) {
	dir := t.TempDir()
	own := filepath.Join(dir, "every-kind.yaml")
	for file, text := range map[string]string{own: everyKind, filepath.Join(dir, "ann.totp"): "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob("../../../config/testdata/good/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no configurations: %v", err)
	}
	for _, file := range append(files, own) {
		cfg, err := config.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range Configuration(cfg).Sequences {
			want := cfg.Sequences[i].Spec
			if spec, err := s.Spec(); err != nil || !reflect.DeepEqual(spec, want) {
				t.Errorf("%s: got %+v, %v; want %+v", file, spec, err, want)
			}
		}
	}
}
