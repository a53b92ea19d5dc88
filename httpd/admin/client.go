package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"
)

// API is a client of the admin API.
type API struct{ Socket string }

// ErrNoDaemon means that no daemon listens on the socket.
var ErrNoDaemon = errors.New("no daemon answers")

// Status returns GET /v1/status.
func (a API) Status(ctx context.Context) (s Status, err error) {
	err = a.call(ctx, http.MethodGet, "/v1/status", nil, &s)
	return s, err
}

// Clients returns GET /v1/clients.
func (a API) Clients(ctx context.Context) (c ClientList, err error) {
	err = a.call(ctx, http.MethodGet, "/v1/clients", nil, &c)
	return c, err
}

// Grants returns GET /v1/grants.
func (a API) Grants(ctx context.Context) (g GrantList, err error) {
	err = a.call(ctx, http.MethodGet, "/v1/grants", nil, &g)
	return g, err
}

// Open opens a door by POST /v1/grants.
func (a API) Open(ctx context.Context, r OpenRequest) (g Grant, err error) {
	err = a.call(ctx, http.MethodPost, "/v1/grants", r, &g)
	return g, err
}

// Extend has a grant last longer by POST /v1/grants/{id}/extend.
func (a API) Extend(ctx context.Context, id string, r ExtendRequest) (g Grant, err error) {
	err = a.call(ctx, http.MethodPost, "/v1/grants/"+url.PathEscape(id)+"/extend", r, &g)
	return g, err
}

// Close ends a grant by DELETE /v1/grants/{id}.
func (a API) Close(ctx context.Context, id string) error {
	return a.call(ctx, http.MethodDelete, "/v1/grants/"+url.PathEscape(id), nil, nil)
}

// Reload makes the daemon load its configuration again.
func (a API) Reload(ctx context.Context, r ReloadRequest) error {
	return a.call(ctx, http.MethodPost, "/v1/reload", r, nil)
}

// Confirm confirms a change that would otherwise be undone.
func (a API) Confirm(ctx context.Context) error {
	return a.call(ctx, http.MethodPost, "/v1/confirm", nil, nil)
}

// Bans returns GET /v1/bans.
func (a API) Bans(ctx context.Context) (b BanList, err error) {
	err = a.call(ctx, http.MethodGet, "/v1/bans", nil, &b)
	return b, err
}

// Unban lifts a ban by DELETE /v1/bans/{address}.
func (a API) Unban(ctx context.Context, address string) error {
	return a.call(ctx, http.MethodDelete, "/v1/bans/"+url.PathEscape(address), nil, nil)
}

// Unguard makes the daemon take the guard away.
func (a API) Unguard(ctx context.Context) error {
	return a.call(ctx, http.MethodPost, "/v1/unguard", nil, nil)
}

// call makes a request. Its error is a *Problem, or says why the daemon does not answer.
func (a API) call(ctx context.Context, method, path string, body, to any) error {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(data)
	}
	req, err := newRequest(ctx, method, path, reader)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := a.do(req, 30*time.Second)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if to == nil {
		return nil
	}
	return json.NewDecoder(res.Body).Decode(to)
}

func newRequest(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	return http.NewRequestWithContext(ctx, method, "http://webknock"+path, body)
}

// do sends a request. The whole answer has to come within the timeout; 0 is no timeout.
// The caller closes the body. The error is a *Problem, or says why the daemon does not
// answer.
func (a API) do(req *http.Request, timeout time.Duration) (*http.Response, error) {
	client := http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", a.Socket)
			},
		},
	}
	res, err := client.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w on %s (is webknock serve running? another socket: --socket PATH)", ErrNoDaemon, a.Socket)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("not allowed to use %s (be root, or in the group %s)", a.Socket, Group)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return nil, fmt.Errorf("the daemon on %s has closed the connection: it has ended, or you are not allowed to use it (be root, or in the group %s)", a.Socket, Group)
	case err != nil:
		return nil, err
	case res.StatusCode < 300:
		return res, nil
	}
	defer res.Body.Close()
	p := NewProblem(res.StatusCode, "")
	if err := json.NewDecoder(res.Body).Decode(p); err != nil {
		return nil, fmt.Errorf("the daemon answers %s", res.Status)
	}
	return nil, p
}
