package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"webknock/sequence"
)

// rfcSecret is that of RFC 6238 appendix B, "12345678901234567890".
const rfcSecret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"

func hashOf(path string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(path))) }

// secretFile writes a file that only its owner may read.
func secretFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "alice.totp")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// withUsers is a configuration with a one-time step and users with these files.
func withUsers(files map[string]string) string {
	text := strings.Replace(smallest, "[/a, /b, /c]", "[/a, '/k/{totp}']", 1) + "users:\n"
	for _, name := range []string{"alice", "bob"} {
		if files[name] != "" {
			text += fmt.Sprintf("  - {name: %s, totp_file: %s}\n", name, files[name])
		}
	}
	return text
}

func TestAUserHasTheSecretOfItsFile(t *testing.T) {
	for _, text := range []string{
		rfcSecret,
		rfcSecret + "\n",
		rfcSecret + "\r\n",
		strings.ToLower(rfcSecret),
		"  GEZD GNBV gy3t qojq GEZD GNBV GY3T QOJQ  \n",
		rfcSecret + "====",
	} {
		file := secretFile(t, text)
		cfg, err := Parse("w.yaml", []byte(withUsers(map[string]string{"alice": file})))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		want := []User{{Name: "alice", File: file, Secret: Secret("12345678901234567890")}}
		if !reflect.DeepEqual(cfg.Users, want) {
			t.Errorf("%q: user %s with %d bytes", text, cfg.Users[0].Name, len(cfg.Users[0].Secret))
		}
	}
}

func TestAnErrorOfASecretDoesNotShowTheSecret(t *testing.T) {
	encode := func(n int) string { return base32.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), n)) }
	for _, tt := range []struct{ text, want string }{
		{"", "holds a secret of 0 bytes (16 to 64)"},
		{encode(15), "holds a secret of 15 bytes (16 to 64)"},
		{encode(65), "holds a secret of 65 bytes (16 to 64)"},
		{rfcSecret + "\n" + rfcSecret, "holds no secret (letters and the digits 2 to 7 on one line"},
		{rfcSecret[:31] + "1", "holds no secret"},
		{rfcSecret + "A", "holds no secret"}, // bits that make no byte
		{rfcSecret[:8] + "=" + rfcSecret[8:], "holds no secret"},
		{rfcSecret + strings.Repeat(" ", 1024), "holds no secret"},
		{"\x00" + rfcSecret, "holds no secret"},
	} {
		file := secretFile(t, tt.text)
		_, err := Parse("w.yaml", []byte(withUsers(map[string]string{"alice": file})))
		want := "w.yaml:11:30: users[0].totp_file: " + file + " " + tt.want
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q:\n got %v\nwant %s", tt.text, err, want)
		}
		if err != nil && len(tt.text) > 8 && strings.Contains(err.Error(), tt.text[:8]) {
			t.Errorf("the secret is in the error: %v", err)
		}
	}
	for _, n := range []int{16, 64} {
		if _, err := Parse("w.yaml", []byte(withUsers(map[string]string{"alice": secretFile(t, encode(n))}))); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestErrorsOfUsersSayWhere(t *testing.T) {
	alice, bob := secretFile(t, rfcSecret), secretFile(t, strings.ToLower(rfcSecret))
	both := withUsers(map[string]string{"alice": alice, "bob": secretFile(t, rfcSecret[8:]+"MFRGGZDF")})
	if _, err := Parse("w.yaml", []byte(both)); err != nil {
		t.Fatal(err)
	}
	open := secretFile(t, rfcSecret)
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ text, want string }{
		{withUsers(map[string]string{"alice": alice, "bob": bob}), `w.yaml:12:28: users[1].totp_file: user "alice" has the same secret (give each a secret of its own)`},
		{withUsers(map[string]string{"alice": open}), `w.yaml:11:30: users[0].totp_file: everybody may read ` + open},
		{withUsers(map[string]string{"alice": filepath.Dir(open)}), `w.yaml:11:30: users[0].totp_file: `},
		{strings.Replace(both, "name: bob", "name: alice", 1), `w.yaml:12:12: users[1].name: there is another user "alice"`},
		{strings.Replace(both, "opens:", "users: [alice, alice]\n    opens:", 1), `w.yaml:9:20: sequences[0].users[1]: user "alice" is there twice (remove one)`},
		{strings.Replace(both, "opens:", "users: [carol]\n    opens:", 1), `w.yaml:9:13: sequences[0].users[0]: there is no user "carol" (one of alice, bob)`},
		{strings.Replace(both, "/k/{totp}", "/k", 1) + "x: 1\n", `w.yaml:13:1: x: unknown key`},
		{strings.Replace(strings.Replace(both, "/k/{totp}", "/k", 1), "opens:", "users: [alice]\n    opens:", 1), `w.yaml:9:12: sequences[0].users: no step asks who knocks (a step like /k/{totp}, or leave it out)`},
		{strings.Replace(both, "opens:", "allow_address: true\n    opens:", 1), `w.yaml:9:20: sequences[0].allow_address: only a ticket can name an address`},
	} {
		_, err := Parse("w.yaml", []byte(tt.text))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("\n got %v\nwant %s", err, tt.want)
		}
	}
}

func TestASecretsFileIsBesideTheConfiguration(t *testing.T) {
	file := secretFile(t, rfcSecret)
	cfg, err := Parse(filepath.Join(filepath.Dir(file), "w.yaml"), []byte(withUsers(map[string]string{"alice": "alice.totp"})))
	if err != nil || cfg.Users[0].File != file {
		t.Errorf("%v, %v", cfg, err)
	}
}

func TestOneTimeStepsAreTemplatesAndAdmitUsers(t *testing.T) {
	text := strings.Replace(withUsers(map[string]string{"alice": secretFile(t, rfcSecret)}), "'/k/{totp}']",
		"'/k/{totp}', {path: '/t/{ticket}/x', method: GET}, {path: 'sha256:"+strings.ToUpper(hashOf("/x"))+"'}, sha256:"+hashOf("/y")+"]", 1)
	cfg, err := Parse("w.yaml", []byte(strings.Replace(text, "opens:", "allow_address: true\n    opens:", 1)))
	if err != nil {
		t.Fatal(err)
	}
	s := cfg.Sequences[0]
	for i, want := range []sequence.Step{
		{Trigger: sequence.Exact("/a")}, {Trigger: sequence.Template("/k/{totp}")},
		{Trigger: sequence.Template("/t/{ticket}/x"), Conditions: sequence.Conditions{Method: "GET"}},
		{Trigger: sequence.Hash(hashOf("/x"))}, {Trigger: sequence.Hash(hashOf("/y"))},
	} {
		if got := s.Steps[i]; !got.SameRequest(want) {
			t.Errorf("step %d: %+v, want %+v", i, got, want)
		}
	}
	if !s.AllowAddress || len(s.Users) != 0 || !s.Admits("alice") {
		t.Errorf("%+v", s)
	}
	s.Users = []string{"bob"}
	if s.Admits("alice") || !s.Admits("bob") {
		t.Error("others are admitted than those named")
	}
	s.Steps = s.Steps[:1]
	if s.Admits("bob") {
		t.Error("a sequence without one-time steps admits somebody")
	}
}

func TestASecretIsNeverPrinted(t *testing.T) {
	u := User{Name: "alice", Secret: Secret("12345678901234567890")}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+" "+verb+" "+verb+"\n", u, &u, u.Secret)
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("user", "user", u, "pointer", &u, "secret", u.Secret)
	}
	json.NewEncoder(&out).Encode([]any{u, u.Secret})
	for _, form := range []string{"1234567890", "3132333435", "49 50 51", "49, 50", "0x31, 0x32", "MTIzNDU2"} {
		if strings.Contains(out.String(), form) {
			t.Errorf("%s is in\n%s", form, &out)
		}
	}
	if !strings.Contains(out.String(), hiddenSecret) {
		t.Errorf("nothing printed:\n%s", &out)
	}
}
