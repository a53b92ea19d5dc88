package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
	"github.com/pquerna/otp"
	"github.com/pquerna/otp/totp"
	"golang.org/x/sys/unix"

	"webknock/config"
)

const oneTime = `listeners:
  - address: ":8080"
doors:
  - name: ssh
    ports: [22/tcp]
sequences:
  - name: ssh
    steps: ["/k/{totp}"]
    opens: [ssh]
`

// oneTimeConfig writes a configuration with a one-time step and, unless it is
// empty, a state directory.
func oneTimeConfig(t *testing.T, state string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "w.yaml")
	text := oneTime
	if state != "" {
		text += "state: " + state + "\n"
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestTheURIGivesTheCodesOfTheStoredSecret(t *testing.T) {
	file := oneTimeConfig(t, t.TempDir())
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"user", "add", "alice", "--config", file, "-o", "json"}, &stdout, &stderr); code != exitDone {
		t.Fatal(stderr.String())
	}
	var added addedUser
	if err := json.Unmarshal(stdout.Bytes(), &added); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if u := cfg.Users[0]; u.Name != "alice" || u.File != added.File || len(u.Secret) != 20 {
		t.Fatalf("user %v", u)
	}
	key, err := otp.NewKeyFromURL(added.URI)
	if err != nil || key.Type() != "totp" || key.AccountName() != "alice" || !strings.HasPrefix(key.Issuer(), "webknock") {
		t.Fatalf("%v, %v", key, err)
	}
	for _, at := range []int64{59, 1111111109, 20000000000} {
		got, err := totp.GenerateCodeCustom(key.Secret(), time.Unix(at, 0),
			totp.ValidateOpts{Period: uint(key.Period()), Digits: key.Digits(), Algorithm: key.Algorithm()})
		if want := rfc6238(cfg.Users[0].Secret, at); err != nil || got != want {
			t.Errorf("at %d: %s, %v; want %s", at, got, err, want)
		}
	}
	if got := rfc6238([]byte("12345678901234567890"), 59); got != "287082" { // RFC 6238 appendix B
		t.Errorf("the test's own code is %s", got)
	}
}

// rfc6238 is the code of a secret at a time, as RFC 6238 section 4 and RFC 4226
// section 5.3 have it.
func rfc6238(secret []byte, at int64) string {
	mac := hmac.New(sha1.New, secret)
	binary.Write(mac, binary.BigEndian, at/30)
	sum := mac.Sum(nil)
	bits := binary.BigEndian.Uint32(sum[sum[19]&0xf:]) & 0x7fffffff
	return fmt.Sprintf("%06d", bits%1_000_000)
}

func TestASecretBelongsToTheOwnerOfTheState(t *testing.T) {
	state := t.TempDir()
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 { // who alone may give files away
		uid, gid = 1234, 4321
	}
	if err := os.Chown(state, uid, gid); err != nil {
		t.Fatal(err)
	}
	for state, want := range map[string]struct {
		uid, gid int
		hint     string
	}{
		state:           {uid, gid, ""},
		state + "/none": {os.Getuid(), os.Getgid(), state + "/none is not there yet, so the secret is yours"},
	} {
		file := oneTimeConfig(t, state)
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), []string{"user", "add", "alice", "--config", file}, &stdout, &stderr); code != exitDone || !strings.Contains(stderr.String(), want.hint) {
			t.Fatalf("exit %d: %s", code, &stderr)
		}
		info, err := os.Stat(filepath.Join(filepath.Dir(file), "alice.totp"))
		if err != nil {
			t.Fatal(err)
		}
		if s := info.Sys().(*syscall.Stat_t); int(s.Uid) != want.uid || int(s.Gid) != want.gid || info.Mode() != 0o600 {
			t.Errorf("state %s: the secret belongs to %d:%d and has mode %v", state, s.Uid, s.Gid, info.Mode())
		}
	}
}

func TestTheConfigurationKeepsOwnerAndMode(t *testing.T) {
	file := oneTimeConfig(t, t.TempDir())
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		uid, gid = 0, 4321
	}
	if err := os.Chown(file, uid, gid); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"user add alice", "user add bob", "user remove alice"} {
		var out bytes.Buffer
		if code := run(t.Context(), append(strings.Fields(args), "--config", file), &out, &out); code != exitDone {
			t.Fatal(out.String())
		}
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if s := info.Sys().(*syscall.Stat_t); int(s.Uid) != uid || int(s.Gid) != gid || info.Mode() != 0o640 {
			t.Errorf("after %s it belongs to %d:%d and has mode %v", args, s.Uid, s.Gid, info.Mode())
		}
	}
}

func TestAFailureLeavesNoSecretBehind(t *testing.T) {
	file := filepath.Join(t.TempDir(), strings.Repeat("w", 250)) // no room for the name of its successor
	if err := os.WriteFile(file, []byte(oneTime), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"user", "add", "alice", "--config", file}, &stdout, &stderr); code != exitFailed || stdout.Len() > 0 {
		t.Errorf("exit %d: %s%s", code, &stdout, &stderr)
	}
	if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) != 1 {
		t.Errorf("%d files, %v", len(entries), err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != oneTime {
		t.Errorf("%v\n%s", err, text)
	}
}

// What a terminal shows is what a phone reads.
func TestOnATerminalTheURIIsAQRCodeAsWell(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := oneTimeConfig(t, t.TempDir())
	code := make(chan int, 1)
	var stderr bytes.Buffer
	go func() {
		code <- run(context.Background(), []string{"user", "add", "alice", "--config", file}, terminal, &stderr)
		terminal.Close()
	}()
	shown, err := io.ReadAll(master)
	if got := <-code; got != exitDone {
		t.Fatalf("exit %d: %s", got, &stderr)
	}
	if len(shown) == 0 { // a terminal that is hung up fails with EIO
		t.Fatal(err)
	}
	var rows []string
	uri, width := "", 0
	for lines := bufio.NewScanner(bytes.NewReader(shown)); lines.Scan(); {
		line := strings.TrimRight(lines.Text(), "\r")
		if row, ok := strings.CutPrefix(line, "\x1b[38;5;16;48;5;231m"); ok {
			row = strings.TrimSuffix(row, "\x1b[0m")
			rows = append(rows, row)
			width = len([]rune(row))
		}
		if strings.HasPrefix(line, "otpauth://") {
			uri = line
		}
	}
	if width > 80 {
		t.Errorf("the code is %d characters wide", width)
	}
	source := gozxing.NewLuminanceSourceFromImage(picture(rows, width))
	bitmap, err := gozxing.NewBinaryBitmap(gozxing.NewHybridBinarizer(source))
	if err != nil {
		t.Fatal(err)
	}
	// The picture is upright and sharp; without the hint the reader fails to find a code in some.
	read, err := qrcode.NewQRCodeReader().Decode(bitmap, map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_PURE_BARCODE: true})
	if err != nil || uri == "" || read.GetText() != uri {
		t.Errorf("read %v, %v; want %q", read, err, uri)
	}
}

// picture is what rows of half blocks, black on white, look like.
func picture(rows []string, width int) image.Image {
	const scale = 4 // pixels of a module
	m := image.NewGray(image.Rect(0, 0, width*scale, 2*len(rows)*scale))
	for y := range m.Rect.Dy() {
		row := []rune(rows[y/scale/2])
		for x := range m.Rect.Dx() {
			half := row[x/scale]
			dark := half == '█' || half == '▀' && y/scale%2 == 0 || half == '▄' && y/scale%2 == 1
			if !dark {
				m.SetGray(x, y, color.Gray{Y: 255})
			}
		}
	}
	return m
}

func TestRandomPathsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		path := randomPath(16)
		if seen[path] || validatePath(path) != nil || len(path) != 27 {
			t.Fatalf("%q", path)
		}
		seen[path] = true
	}
}
