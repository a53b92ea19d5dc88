package supervise

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"time"
)

// The front writes its log as lines of JSON, into a pipe. It talks to strangers, so
// what it writes is bounded, and read as strictly as what they send.
const (
	maxLine       = 16 << 10 // bytes; what is longer is cut
	maxAttributes = 32
	recordsBurst  = 1000 // records at once
	recordsRate   = 100  // a second; a long one counts as several
	recordSize    = 1 << 10
	// How far off the time of a record may be. What is beyond gets the time of now.
	mostEarly = time.Second
	mostLate  = time.Minute
)

// processKey marks records with the process that they are of. That is not for it to say.
const processKey = "process"

// attributeName is what the name of an attribute may be.
var attributeName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,63}$`)

// Relay reads what a process logs until its end, and logs it as the process's. It
// always reads on, so that a process never waits for the log.
func Relay(from io.Reader, name string, log *slog.Logger) {
	r := relay{log: log.With(processKey, name), allowed: recordsBurst, filled: time.Now()}
	for lines := bufio.NewReaderSize(from, maxLine); ; {
		line, err := lines.ReadSlice('\n')
		cut := errors.Is(err, bufio.ErrBufferFull)
		if len(bytes.TrimSpace(line)) > 0 {
			r.line(line, time.Now())
		}
		for cut { // leave out the rest
			_, err = lines.ReadSlice('\n')
			cut = errors.Is(err, bufio.ErrBufferFull)
		}
		if err != nil {
			r.reportLost()
			return
		}
	}
}

type relay struct {
	log     *slog.Logger
	allowed float64 // records now
	filled  time.Time
	lost    uint64
}

// line logs a line, unless there are too many.
func (r *relay) line(line []byte, now time.Time) {
	r.allowed = min(recordsBurst, r.allowed+recordsRate*now.Sub(r.filled).Seconds())
	r.filled = now
	record, err := parse(line)
	if err != nil { // a crash, for example, is reported as text
		record = slog.NewRecord(now, slog.LevelError, "not a record: "+strings.ToValidUTF8(string(bytes.TrimSpace(line)), "?"), 0)
	}
	if !r.log.Enabled(context.Background(), record.Level) {
		return
	}
	if record.Time.After(now.Add(mostEarly)) || record.Time.Before(now.Add(-mostLate)) {
		record.Time = now
	}
	if r.allowed < 1 {
		r.lost++
		return
	}
	r.allowed -= float64(1 + len(line)/recordSize)
	r.reportLost()
	r.log.Handler().Handle(context.Background(), record)
}

func (r *relay) reportLost() {
	if r.lost > 0 {
		r.log.Warn("records that are not in the log: there were too many", "count", r.lost)
		r.lost = 0
	}
}

// parse reads a record of slog.JSONHandler: one flat object with time, level and msg
// first. Attributes are strings, numbers or booleans; any other value becomes the text
// of its JSON.
func parse(line []byte) (r slog.Record, err error) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return r, errors.New("no object")
	}
	var at time.Time
	var level slog.Level
	var message string
	var attributes []slog.Attr
	for n := 0; d.More(); n++ {
		key, err := d.Token()
		if err != nil {
			return r, err
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return r, err
		}
		switch n {
		case 0:
			err = field(key, "time", raw, &at)
		case 1:
			err = field(key, "level", raw, &level)
		case 2:
			err = field(key, "msg", raw, &message)
		default:
			name := key.(string)
			if !attributeName.MatchString(name) || name == slog.TimeKey || name == slog.LevelKey || name == slog.MessageKey || name == processKey || n > maxAttributes+2 {
				return r, fmt.Errorf("an attribute %q", name)
			}
			attributes = append(attributes, slog.Any(name, value(raw)))
		}
		if err != nil {
			return r, err
		}
	}
	if _, err := d.Token(); err != nil {
		return r, err
	}
	if _, err := d.Token(); err != io.EOF || message == "" {
		return r, errors.New("more, or less, than one record")
	}
	r = slog.NewRecord(at, level, message, 0)
	r.AddAttrs(attributes...)
	return r, nil
}

func field(key json.Token, want string, raw json.RawMessage, into any) error {
	if key != want {
		return fmt.Errorf("%v where %s stands", key, want)
	}
	return json.Unmarshal(raw, into)
}

// value returns what a JSON value is logged as.
func value(raw json.RawMessage) any {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var truth bool
	if json.Unmarshal(raw, &truth) == nil {
		return truth
	}
	var whole int64
	if json.Unmarshal(raw, &whole) == nil {
		return whole
	}
	var number float64
	if json.Unmarshal(raw, &number) == nil {
		return number
	}
	return string(raw)
}
