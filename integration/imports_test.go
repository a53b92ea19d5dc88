package integration

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// may says which of our packages each package may import, besides itself.
var may = map[string][]string{
	"webknock/sequence":              {},
	"webknock/sequence/track":        {"webknock/sequence"},
	"webknock/firewall":              {},
	"webknock/firewall/nft":          {"webknock/firewall"},
	"webknock/firewall/firewalltest": {"webknock/firewall"},
	"webknock/httpd":                 {"webknock/httpd/eventloop", "webknock/httpd/pending"},
	"webknock/httpd/eventloop":       {"webknock/httpd/pending"},
	"webknock/httpd/pending":         {},
	"webknock/httpd/admin":           {"webknock/httpd/admin/page"},
	"webknock/httpd/admin/page":      {},
	"webknock/internal/ui":           {"webknock/httpd/admin"},
	"webknock/config":                {"webknock/sequence", "webknock/firewall", "webknock/internal/notice", "webknock/internal/suggest", "webknock/internal/hostname"},
	"webknock/internal/event":        {"webknock/sequence", "webknock/firewall"},
	"webknock/internal/seam":         {"webknock/firewall", "webknock/internal/event", "webknock/internal/onetime", "webknock/internal/ticket", "webknock/sequence"},
	"webknock/internal/front": {
		"webknock/firewall", "webknock/httpd", "webknock/internal/banlist", "webknock/internal/event", "webknock/internal/hostname",
		"webknock/internal/onetime", "webknock/internal/seam", "webknock/internal/ticket", "webknock/sequence", "webknock/sequence/track",
	},
	"webknock/internal/keeper": {
		"webknock/config", "webknock/firewall", "webknock/firewall/nft", "webknock/httpd", "webknock/httpd/admin", "webknock/internal/acme", "webknock/internal/atomicfile", "webknock/internal/banlist", "webknock/internal/closed",
		"webknock/internal/command", "webknock/internal/confine", "webknock/internal/event", "webknock/internal/history", "webknock/internal/keeper/forfront", "webknock/internal/lastgood", "webknock/internal/metrics", "webknock/internal/notice", "webknock/internal/onetime",
		"webknock/internal/seam", "webknock/internal/store", "webknock/internal/suggest",
		"webknock/internal/ticket", "webknock/internal/tty", "webknock/sequence",
	},
	"webknock/internal/seam/wire": {
		"webknock/firewall", "webknock/internal/command", "webknock/internal/event", "webknock/internal/onetime", "webknock/internal/seam",
	},
	"webknock/internal/banlist": {
		"webknock/firewall",
	},
	"webknock/internal/keeper/forfront": {
		"webknock/config", "webknock/internal/seam",
	},
	"webknock/internal/confine":       {},
	"webknock/internal/metrics":       {"webknock/internal/event"},
	"webknock/internal/supervise":     {"webknock/firewall", "webknock/httpd", "webknock/internal/command", "webknock/internal/confine", "webknock/internal/event", "webknock/internal/seam", "webknock/internal/seam/wire"},
	"webknock/internal/notice":        {},
	"webknock/integration/lab":        {},
	"webknock/internal/acme":          {},
	"webknock/internal/doctor/nftsim": {},
	"webknock/internal/ticket":        {},
	"webknock/internal/suggest":       {},
	"webknock/internal/top":           {"webknock/httpd/admin", "webknock/internal/tty"},
	"webknock/internal/tty":           {},
	"webknock/internal/setup":         {},
	"webknock/internal/store":         {"webknock/internal/atomicfile"},
	"webknock/internal/history":       {"webknock/firewall", "webknock/internal/store"},
	"webknock/internal/atomicfile":    {},
	"webknock/internal/hostname":      {},
}

// standardOnly may import nothing but the standard library.
var standardOnly = []string{"webknock/sequence", "webknock/firewall"}

func TestPackagesImportWhatTheyMay(t *testing.T) {
	list := exec.Command("go", "list", "-json=ImportPath,Imports", "webknock/...")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		allowed, bound := may[p.ImportPath]
		if !bound {
			continue
		}
		seen++
		for _, i := range p.Imports {
			ours := strings.HasPrefix(i, "webknock/")
			if ours && !slices.Contains(allowed, i) {
				t.Errorf("%s imports %s", p.ImportPath, i)
			}
			if !ours && strings.Contains(i, ".") && slices.Contains(standardOnly, p.ImportPath) {
				t.Errorf("%s imports %s, which is not of the standard library", p.ImportPath, i)
			}
		}
	}
	if seen != len(may) {
		t.Errorf("%d packages found, %d have rules", seen, len(may))
	}
}

func TestTheFoldersAreThoseOfTheHouse(t *testing.T) {
	out, err := exec.Command("git", "-C", "..", "ls-tree", "--name-only", "-d", "HEAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range strings.Fields(string(out)) {
		if !slices.Contains([]string{".ci", "cmd", "config", "docs", "firewall", "httpd", "integration", "internal", "sequence"}, folder) {
			t.Errorf("%s is no folder of the house", folder)
		}
	}
}
