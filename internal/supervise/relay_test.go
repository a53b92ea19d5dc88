package supervise

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func relayed(t *testing.T, level slog.Level, text string) string {
	t.Helper()
	var out bytes.Buffer
	Relay(strings.NewReader(text), "front", slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: level})))
	return out.String()
}

// What a process logs by slog reads as if it had been logged here.
func TestRecordsAreRelayedAsTheyAre(t *testing.T) {
	var there bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&there, &slog.HandlerOptions{Level: slog.LevelDebug}))
	log.Warn("cannot accept", "address", "[::1]:80", "count", 3, "share", 0.5, "again", true, "error", fmt.Errorf("a \"quoted\"\nerror"), "wait", time.Second)
	log.Debug("unseen")
	got := relayed(t, slog.LevelInfo, there.String())
	want := strings.Replace(strings.SplitAfter(there.String(), "\n")[0], `"msg":"cannot accept",`, `"msg":"cannot accept","process":"front",`, 1)
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestWhatIsNoRecordIsRelayedAsText(t *testing.T) {
	const start = `{"time":"2026-01-02T03:04:05Z","level":"INFO","msg":"x"`
	for name, line := range map[string]string{
		"a crash":          "panic: runtime error: index out of range",
		"nothing of JSON":  `{"time"`,
		"a list":           `["x"]`,
		"no time":          `{"level":"INFO","msg":"x"}`,
		"another order":    `{"level":"INFO","time":"2026-01-02T03:04:05Z","msg":"x"}`,
		"no such level":    `{"time":"2026-01-02T03:04:05Z","level":"LOUD","msg":"x"}`,
		"no message":       `{"time":"2026-01-02T03:04:05Z","level":"INFO","msg":""}`,
		"two messages":     start + `,"msg":"y"}`,
		"a process":        start + `,"process":"keeper"}`,
		"two times":        start + `,"time":"2027-01-02T03:04:05Z"}`,
		"a strange name":   start + `,"a b":1}`,
		"two records":      start + `}{"a":1}`,
		"no end":           start,
		"many attributes":  start + strings.Repeat(`,"a":1`, maxAttributes+1) + "}",
		"not UTF-8":        "\xff\xfe",
		"control and more": "\x1b[31mred\x07",
	} {
		out := relayed(t, slog.LevelInfo, line+"\n")
		if !strings.Contains(out, `"level":"ERROR","msg":"not a record: `) || strings.Count(out, "\n") != 1 || strings.ContainsAny(out, "\x1b\x07") || !utf8.ValidString(out) {
			t.Errorf("%s: %q", name, out)
		}
	}
	nested := relayed(t, slog.LevelInfo, start+`,"a":{"msg":"y"},"b":[1],"c":null}`+"\n")
	if !strings.Contains(nested, `"a":"{\"msg\":\"y\"}","b":"[1]"`) {
		t.Errorf("nested values: %s", nested)
	}
}

func TestWhatIsRelayedIsBounded(t *testing.T) {
	record := `{"time":"2026-01-02T03:04:05Z","level":"INFO","msg":"many"}` + "\n"
	out := relayed(t, slog.LevelInfo, strings.Repeat(record, 3*recordsBurst))
	if n := strings.Count(out, `"many"`); n < recordsBurst || n > recordsBurst+recordsBurst/2 {
		t.Errorf("%d records", n)
	}
	if !strings.Contains(out, "there were too many") {
		t.Error("nothing tells of those that are missing")
	}
	text := `{"time":"2026-01-02T03:04:05Z","level":"INFO","msg":"` + strings.Repeat("x", 10*recordSize) + `"}` + "\n"
	if out := relayed(t, slog.LevelInfo, strings.Repeat(text, recordsBurst)); len(out) > 2*recordsBurst*recordSize {
		t.Errorf("%d bytes of long records", len(out))
	}
	for _, at := range []time.Time{time.Now().Add(time.Hour), time.Now().Add(-time.Hour)} {
		out := relayed(t, slog.LevelInfo, fmt.Sprintf(`{"time":%q,"level":"INFO","msg":"x"}`+"\n", at.Format(time.RFC3339)))
		var record struct{ Time time.Time }
		if err := json.Unmarshal([]byte(out), &record); err != nil || time.Since(record.Time).Abs() > time.Minute {
			t.Errorf("of %v is logged: %s", at, out)
		}
	}
	long := relayed(t, slog.LevelInfo, strings.Repeat("x", 10*maxLine)+"\n"+record)
	if len(long) > 2*maxLine || !strings.Contains(long, `"many"`) {
		t.Errorf("%d bytes of a long line", len(long))
	}
}

func FuzzARecordIsOneLine(f *testing.F) {
	f.Add([]byte(`{"time":"2026-01-02T03:04:05Z","level":"INFO","msg":"x","a":"b"}`))
	f.Add([]byte("panic: x"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if bytes.ContainsAny(line, "\n") {
			return
		}
		if out := relayed(t, slog.LevelDebug, string(line)+"\n"); strings.Count(out, "\n") > 1 {
			t.Errorf("%q", out)
		}
	})
}
