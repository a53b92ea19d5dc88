package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"syscall"
)

// A Client asks the daemon that serves on a socket. Its errors are those of
// [Control], [ErrNoDaemon] and [ErrPermission].
type Client struct {
	Socket string // path
}

var _ Control = Client{}

// Status implements [Control].
func (c Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Clients implements [Control].
func (c Client) Clients(ctx context.Context) ([]Progress, error) {
	list, err := call[ProgressList](ctx, c, http.MethodGet, "/v1/clients", nil)
	return list.Clients, err
}

// Grants implements [Control].
func (c Client) Grants(ctx context.Context) ([]Grant, error) {
	list, err := call[GrantList](ctx, c, http.MethodGet, "/v1/grants", nil)
	return list.Grants, err
}

// Open implements [Control].
func (c Client) Open(ctx context.Context, o OpenRequest) (Grant, error) {
	return call[Grant](ctx, c, http.MethodPost, "/v1/grants", o.document())
}

// Close implements [Control].
func (c Client) Close(ctx context.Context, id string) error {
	_, err := call[none](ctx, c, http.MethodDelete, "/v1/grants/"+url.PathEscape(id), nil)
	return err
}

// Reload implements [Control].
func (c Client) Reload(ctx context.Context) error {
	_, err := call[none](ctx, c, http.MethodPost, "/v1/reload", nil)
	return err
}

// Unguard implements [Control].
func (c Client) Unguard(ctx context.Context) error {
	_, err := call[none](ctx, c, http.MethodPost, "/v1/unguard", nil)
	return err
}

// none is the answer of what answers nothing.
type none struct{}

// call sends a request, with a body unless it is nil, and returns the document
// that answers it.
func call[T any](ctx context.Context, c Client, method, path string, body any) (T, error) {
	var answer T
	ctx, cancel := context.WithTimeout(ctx, readTimeout+requestTimeout)
	defer cancel()
	response, err := c.send(ctx, method, path, body)
	if err != nil {
		return answer, err
	}
	defer response.Body.Close()
	if response.StatusCode >= 400 {
		return answer, problemOf(response)
	}
	if response.StatusCode == http.StatusNoContent {
		return answer, nil
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return answer, fmt.Errorf("read the answer to %s %s: %w", method, path, err)
	}
	return answer, nil
}

func (c Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(b)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://webknock"+path, content)
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
		},
	}}
	response, err := client.Do(request)
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // its URL is none that anybody knows
	}
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w (is webknock serve running? socket %s)", ErrNoDaemon, c.Socket)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%w on socket %s (be root or in group webknock)", ErrPermission, c.Socket)
	case err != nil:
		return nil, fmt.Errorf("ask the daemon on socket %s: %w", c.Socket, err)
	}
	return response, nil
}

// problemOf returns the error that a response says.
func problemOf(response *http.Response) error {
	mediaType, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if mediaType != problemType {
		return fmt.Errorf("the daemon answered %s", response.Status)
	}
	problem := new(Problem)
	if err := json.NewDecoder(response.Body).Decode(problem); err != nil {
		return fmt.Errorf("the daemon answered %s, and not why: %w", response.Status, err)
	}
	return problem
}
