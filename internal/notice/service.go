package notice

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/nicholas-fedor/shoutrrr/pkg/router"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"
)

// boundDefaultClient gives http.DefaultClient a timeout. Half of shoutrrr's services
// send by that client and take no other, and without a timeout an attempt whose server
// never answers would never end. Nothing else in webknock uses http.DefaultClient.
var boundDefaultClient = sync.OnceFunc(func() { http.DefaultClient.Timeout = attemptTimeout })

// A service sends texts to where a URL points. It is for one attempt at a time.
type service interface {
	send(text string) error
}

var serviceURL = regexp.MustCompile(`^([a-z]+)(?:\+[a-z]+)?://`)

// Check returns the service that a URL is for, or what is wrong with the URL. It
// sends nothing, and its errors hold nothing of the URL but the service.
func Check(raw string) (service string, err error) {
	m := serviceURL.FindStringSubmatch(raw)
	if m == nil {
		return "", errors.New("not the URL of a service (like ntfy://ntfy.sh/topic)")
	}
	if known := Services(); !slices.Contains(known, m[1]) {
		return "", fmt.Errorf("service %q is unknown (one of %s)", m[1], strings.Join(known, ", "))
	}
	if u, err := url.Parse(raw); err == nil && u.Scheme == "matrix" && u.User != nil {
		// shoutrrr logs in as soon as it sees a user's name.
		password, _ := u.User.Password()
		u.User = url.UserPassword("", password)
		raw = u.String()
	}
	if _, err := open(raw, ""); err != nil {
		return "", fmt.Errorf("not the URL of a %s service (docs/notices.md has examples)", m[1])
	}
	return m[1], nil
}

// Services returns the services there are, which are the schemes of their URLs.
func Services() []string {
	all := new(router.ServiceRouter).ListServices()
	all = slices.DeleteFunc(all, func(s string) bool { return s == "logger" }) // would tell nobody
	slices.Sort(all)
	return all
}

// shoutrrrService is a service of the library. What panics in there is an
// error here: a notice must not end the daemon.
type shoutrrrService struct {
	types.Service
	subject string // empty: none, or the URL's own
}

// open returns the service that a URL is for. Some log in at once.
func open(raw, host string) (_ service, err error) {
	defer recovered(&err)
	s, err := new(router.ServiceRouter).Locate(raw)
	if err != nil {
		return nil, err
	}
	opened := shoutrrrService{Service: s}
	if u, err := url.Parse(raw); err == nil && u.Scheme == "smtp" && !u.Query().Has("subject") && !u.Query().Has("title") {
		opened.subject = "webknock on " + host
	}
	return opened, nil
}

func (s shoutrrrService) send(text string) (err error) {
	defer recovered(&err)
	params := types.Params{}
	if s.subject != "" {
		params.SetTitle(s.subject)
	}
	return s.Send(text, &params)
}

func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("panic: %v", p)
	}
}

var errHanging = errors.New("earlier attempts still wait for an answer")

// causes are what errors of the network and of TLS hold.
var causes = []string{
	syscall.ECONNREFUSED.Error(), syscall.ECONNRESET.Error(), syscall.EHOSTUNREACH.Error(), syscall.ENETUNREACH.Error(),
	"no such host", "server misbehaving", "failed to verify certificate", "Client.Timeout exceeded", "i/o timeout",
}

// reason says why an attempt has failed. It is made of what is known here
// alone: the error itself may hold the URL, or what a server makes of it.
// Services wrap errors as text, so that text is what can be looked for.
func reason(err error) string {
	var mail *textproto.Error
	switch {
	case errors.Is(err, errHanging):
		return err.Error()
	case errors.Is(err, context.Canceled):
		return "no time left, the daemon stops"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in " + attemptTimeout.String()
	case errors.As(err, &mail):
		return "its server answers " + strconv.Itoa(mail.Code)
	}
	for _, cause := range causes {
		if strings.Contains(err.Error(), cause) {
			return cause
		}
	}
	for code := http.StatusBadRequest; code < 600; code++ {
		if text := http.StatusText(code); text != "" && strings.Contains(err.Error(), strconv.Itoa(code)+" "+text) {
			return fmt.Sprint("its server answers ", code, " ", text)
		}
	}
	return "refused by its server, or not understood"
}
