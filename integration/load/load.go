// Package load has clients of a listener that use little CPU time. Each job runs in a process
// of its own on a host of the lab, so that its CPU time is counted apart.
package load

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"webknock/integration/lab"
)

// job names, in the environment of a process, the job that it was started for.
const job = "WEBKNOCK_LOAD"

// jobs are what a process can be started for: each reads its parameters and
// returns its result.
var jobs = map[string]func(*json.Decoder) (any, error){
	"knocks":     do[Knocks],
	"visits":     do[Visits],
	"handshakes": do[Handshakes],
	"halves":     do[Halves],
}

// do reads a job and does it.
func do[J interface{ do() (any, error) }](in *json.Decoder) (any, error) {
	var j J
	if err := in.Decode(&j); err != nil {
		return nil, err
	}
	return j.do()
}

// Enter returns at once in a process that was not started for a job. Otherwise
// it does the job and exits.
func Enter() {
	name := os.Getenv(job)
	if name == "" {
		return
	}
	result, err := jobs[name](json.NewDecoder(os.Stdin))
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// on has a process on a host do a job. The program has to call Enter when it
// starts.
func on[R any](ctx context.Context, host *lab.Host, name string, parameters any) (result R, err error) {
	self, err := os.Executable()
	if err != nil {
		return result, err
	}
	in, err := json.Marshal(parameters)
	if err != nil {
		return result, err
	}
	cmd := host.Command(ctx, self)
	cmd.Env = append(os.Environ(), job+"="+name)
	cmd.Stdin = strings.NewReader(string(in))
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err = cmd.Run(); err == nil {
		err = json.Unmarshal([]byte(out.String()), &result)
	}
	if err != nil {
		err = fmt.Errorf("%s on %s: %w: %s", name, host.Name, err, errs.String())
	}
	return result, err
}

// patience bounds how long nothing may happen.
const patience = 10 * time.Second

func request(path string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: home.example.org\r\n\r\n")
}
