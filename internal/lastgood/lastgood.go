// Package lastgood keeps what was in force last, and by whose word, in plain
// files under state: so that a mistake in the configuration neither opens a door
// nor locks anybody out at the next start.
//
// Files are replaced as a whole and have mode 0600. The daemon alone writes
// them while it runs; others read them without a lock.
package lastgood

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"webknock/config"
	"webknock/firewall"
	"webknock/internal/atomicfile"
)

// The files in state.
const (
	guardFile  = "guard.json"
	configFile = "config.json"
	trialsFile = "trials.json"
)

// A Guard is the guard that was in force last.
type Guard struct {
	Backend string         `json:"backend"` // config.BackendMemory: nothing did
	Table   string         `json:"table"`
	Guard   firewall.Guard `json:"guard"` // without its shield, which goes with listeners
	// TakenAway is when an administrator removed the guard on purpose. It is zero if nobody
	// has.
	TakenAway time.Time `json:"taken_away,omitzero"`
}

// A Config is the configuration that was in force last.
type Config struct {
	Since  time.Time      `json:"since"`
	Source *config.Source `json:"source"`
}

// Trials are the files that somebody confirmed, or nobody did, by the hashes of
// their sources.
type Trials struct {
	Confirmed []string `json:"confirmed"`
	// Undone are those that are treated like a file that does not load, until it
	// changes or a reload is asked for.
	Undone []string `json:"undone"`
}

// maxTrials is how many hashes are remembered of each kind; the oldest go.
const maxTrials = 64

// Confirm remembers that a file was confirmed, or was put in force without a
// trial. It reports whether that is new.
func (t *Trials) Confirm(hash string) bool {
	if slices.Contains(t.Confirmed, hash) && !slices.Contains(t.Undone, hash) {
		return false
	}
	t.Undone = without(t.Undone, hash)
	t.Confirmed = with(t.Confirmed, hash)
	return true
}

// Undo remembers that nobody has confirmed a file. It reports whether that is new.
func (t *Trials) Undo(hash string) bool {
	if slices.Contains(t.Undone, hash) && !slices.Contains(t.Confirmed, hash) {
		return false
	}
	t.Confirmed = without(t.Confirmed, hash)
	t.Undone = with(t.Undone, hash)
	return true
}

// Forget lets a file be tried again. It reports whether it was undone.
func (t *Trials) Forget(hash string) bool {
	before := len(t.Undone)
	t.Undone = without(t.Undone, hash)
	return len(t.Undone) < before
}

func with(all []string, hash string) []string {
	all = append(without(all, hash), hash)
	return all[max(0, len(all)-maxTrials):]
}

func without(all []string, hash string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(h string) bool { return h == hash })
}

// Dir returns where what was in force last is kept, of a configuration file: in
// its state or, if there is nothing since the file has another state now, or
// cannot tell it any more, in the standard one. What lies there may be another
// file's, which is then left alone.
func Dir(file, state, standard string) string {
	if c, err := ReadConfig(state); state == standard || c != nil || err != nil {
		return state
	}
	absolute, err := filepath.Abs(file)
	if c, cerr := ReadConfig(standard); err == nil && cerr == nil && c != nil && c.Source.File == absolute {
		return standard
	}
	return state
}

// ReadGuard returns the last good guard that is kept in a directory, or nil.
func ReadGuard(state string) (*Guard, error) { return read[Guard](state, guardFile) }

// ReadConfig returns the last good configuration that is kept in a directory,
// or nil.
func ReadConfig(state string) (*Config, error) {
	c, err := read[Config](state, configFile)
	if err == nil && c != nil && c.Source == nil {
		return nil, fmt.Errorf("%s holds no configuration", filepath.Join(state, configFile))
	}
	return c, err
}

// ReadTrials returns what is kept of trials in a directory.
func ReadTrials(state string) (Trials, error) {
	t, err := read[Trials](state, trialsFile)
	if t == nil {
		return Trials{}, err
	}
	return *t, err
}

func read[T any](state, name string) (*T, error) {
	path := filepath.Join(state, name)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	to := new(T)
	if err := json.Unmarshal(data, to); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return to, nil
}

// WriteGuard, WriteConfig and WriteTrials replace what is kept. What is there
// already is not written again.
func WriteGuard(d *atomicfile.Dir, g Guard) error   { return write(d, guardFile, g) }
func WriteConfig(d *atomicfile.Dir, c Config) error { return write(d, configFile, c) }
func WriteTrials(d *atomicfile.Dir, t Trials) error { return write(d, trialsFile, t) }

const maxFile = 64 << 20 // bytes; what is longer is not compared

func write(d *atomicfile.Dir, name string, value any) error {
	data, err := json.MarshalIndent(value, "", "\t")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	old, err := d.Read(name, maxFile) // owns the directory, and clears up behind a write that was broken off
	if err == nil && string(old) == string(data) {
		return nil
	}
	return d.Write(name, data)
}

// MarkGuard sets since when the last good guard is taken away; zero: it is not.
// Where there is none it does nothing.
func MarkGuard(d *atomicfile.Dir, away time.Time) error {
	g, err := ReadGuard(d.Path(""))
	if err != nil || g == nil || g.TakenAway.Equal(away) {
		return err
	}
	g.TakenAway = away
	return WriteGuard(d, *g)
}
