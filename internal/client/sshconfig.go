package client

import (
	"fmt"
	"io"
	"regexp"
	"strings"
)

// CheckWait reports what is wrong with something to wait for.
func CheckWait(wait string) error {
	if _, _, err := splitHostPort(wait); err != nil {
		return fmt.Errorf("--wait: %q: %w", wait, err)
	}
	return nil
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9._/-]+$`)

// SSHConfig writes the lines for ssh_config(5) that knock before ssh connects to
// name. Profile is what the profile is called on the command line.
func SSHConfig(w io.Writer, p *Profile, profile, name string) error {
	host, port := p.Servers[0].Host, "22"
	if p.Wait != "" {
		var err error
		if host, port, err = splitHostPort(p.Wait); err != nil {
			return err
		}
	}
	for _, word := range []string{profile, name} { // a shell reads the one, ssh the other
		if !plainWord.MatchString(word) {
			return fmt.Errorf("%q cannot be written into ssh_config (letters, digits and . _ - / alone: rename the profile, or use --name)", word)
		}
	}
	_, err := fmt.Fprintf(w, `# ssh %[1]s knocks if the port does not answer, then connects.
Host %[1]s
    HostName %[2]s
    Port %[3]s
    ProxyCommand webknock connect %[4]s %%h %%p

# Or, without a pipe between: knock first, every time. Keep one of the two.
# Match originalhost %[1]s exec "webknock knock %[4]s --wait %[5]s >/dev/null"
#     HostName %[2]s
#     Port %[3]s
`, name, host, port, profile, joinWait(host, port))
	return err
}

func joinWait(host, port string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + port
}
