package client

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

//go:embed page/page.html
var pageHTML string

//go:embed page/page.css
var pageStyle string

//go:embed page/page.js
var pageScript string

// PageOptions say what a page is to be.
type PageOptions struct {
	Door       string        // what the page says it opens
	Passphrase string        // that unlocks it, at least MinPassphrase characters
	Keep       bool          // the browser keeps the keys once the passphrase was right
	Poll       string        // URL that answers once the door is open; empty: none
	TTL        time.Duration // of the countdown; 0: the profile's, or 30s
	Lock       time.Duration // without use, until the page locks itself; 0: never
}

// MinPassphrase is the shortest passphrase, in characters. Somebody who gets the page can try
// any number of passphrases.
const MinPassphrase = 10

// iterations of PBKDF2-HMAC-SHA256, as OWASP recommends. WebCrypto has nothing
// that costs an attacker memory, like Argon2.
const iterations = 600_000

// pageData is what the page's script reads.
type pageData struct {
	Door       string   `json:"door"`
	Servers    []string `json:"servers"`
	TTL        int      `json:"ttl"`
	Gap        int      `json:"gap"` // ms
	Lock       int      `json:"lock"`
	Keep       bool     `json:"keep"`
	Poll       string   `json:"poll,omitempty"`
	Salt       string   `json:"salt"`
	Iterations int      `json:"iterations"`
	Steps      sealed   `json:"steps"`
	Secret     *sealed  `json:"secret,omitempty"`
}

// sealed is JSON under AES-256-GCM.
type sealed struct {
	IV   string `json:"iv"`
	Data string `json:"data"`
}

type pageStep struct {
	Path   string            `json:"path"`
	Method string            `json:"method,omitempty"`
	Query  map[string]string `json:"query,omitempty"`
}

// WritePage writes a page that knocks: one HTML file that needs nothing else.
// Steps and secret are sealed by the passphrase. It refuses a profile that no
// page can carry out.
func WritePage(w io.Writer, p *Profile, o PageOptions) error {
	if utf8.RuneCountInString(o.Passphrase) < MinPassphrase {
		return fmt.Errorf("the passphrase is shorter than %d characters (take several words: whoever finds the page can try as many as they like)", MinPassphrase)
	}
	var steps []pageStep
	for i, s := range p.Steps {
		switch {
		case strings.Contains(s.Path, varTicket):
			return fmt.Errorf("step %d takes a ticket, which no browser can seal (a page needs plain steps or {totp})", i+1)
		case s.Host != "":
			return fmt.Errorf("step %d wants a host of its own, which no page can send", i+1)
		case !slices.Contains([]string{"", "GET", "HEAD", "POST"}, s.Method):
			return fmt.Errorf("step %d wants the method %s, which a page may not send to another server (GET, HEAD or POST)", i+1, s.Method)
		}
		steps = append(steps, pageStep{s.Path, s.Method, s.Query})
	}
	for i, s := range steps {
		if slices.ContainsFunc(strings.Split(s.Path, "/"), func(part string) bool { return part == "." || part == ".." }) || strings.Contains(s.Path, `\\`) {
			return fmt.Errorf("step %d has a path that browsers shorten before they send it", i+1)
		}
	}
	for _, s := range p.Servers {
		if strings.Contains(s.Host, ":") {
			return fmt.Errorf("%s: a page's policy cannot name an IPv6 address (use a host name)", s)
		}
	}
	if p.Pin != nil || p.CA != nil {
		return errors.New("a browser trusts what its system trusts, so a page cannot keep to ca or pin (use a certificate that the phone trusts)")
	}
	ttl := o.TTL
	if ttl == 0 {
		ttl = p.TTL
	}
	if ttl == 0 {
		ttl = defaultTTL
	}
	salt := make([]byte, 16)
	rand.Read(salt)
	data := pageData{
		Door: o.Door, TTL: int(ttl.Seconds()), Gap: int(p.Gap.Milliseconds()), Lock: int(o.Lock.Seconds()), Keep: o.Keep, Poll: o.Poll,
		Salt: base64.StdEncoding.EncodeToString(salt), Iterations: iterations,
	}
	connect := []string{}
	for _, s := range p.Servers {
		data.Servers = append(data.Servers, s.String())
		connect = append(connect, s.String())
	}
	if o.Poll != "" {
		u, err := url.Parse(o.Poll)
		if err != nil || u.Host == "" || strings.Contains(u.Host, "[") || u.Scheme != "http" && u.Scheme != "https" {
			return errors.New("what is polled is not a URL (write https://home.example.org/)")
		}
		connect = append(connect, u.Scheme+"://"+u.Host)
	}
	keys, err := pbkdf2.Key(sha256.New, o.Passphrase, salt, iterations, 64)
	if err != nil {
		return err
	}
	if data.Steps, err = seal(keys[:32], steps); err != nil {
		return err
	}
	if p.uses(varTOTP) {
		secret, err := seal(keys[32:], p.Secret) // JSON writes it as base64
		if err != nil {
			return err
		}
		data.Secret = &secret
	}
	text, err := json.Marshal(data) // writes < as \u003c, so that nothing ends the element
	if err != nil {
		return err
	}
	page, err := template.New("page").Parse(pageHTML)
	if err != nil {
		return err
	}
	return page.Execute(w, map[string]any{
		"Title":  "Open " + o.Door,
		"Policy": policy(connect),
		"Style":  template.CSS(pageStyle),
		"Script": template.JS(pageScript),
		"Data":   template.JS(text),
	})
}

// policy allows the page's own script and style, and connections to the servers.
func policy(connect []string) string {
	hash := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return strings.Join([]string{
		"default-src 'none'", "script-src " + hash(pageScript), "style-src " + hash(pageStyle),
		"connect-src " + strings.Join(connect, " "), "base-uri 'none'", "form-action 'none'",
	}, "; ")
}

func seal(key []byte, value any) (s sealed, err error) {
	text, err := json.Marshal(value)
	if err != nil {
		return s, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return s, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return s, err
	}
	iv := make([]byte, gcm.NonceSize())
	rand.Read(iv)
	encode := base64.StdEncoding.EncodeToString
	return sealed{encode(iv), encode(gcm.Seal(nil, iv, text, nil))}, nil
}
