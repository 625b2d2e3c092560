package control

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
	"net/http/httptrace"
	"net/url"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// maxAnswer is the longest answer that a client takes, in bytes.
const maxAnswer = 16 << 20

// Client is a Backend whose calls travel to a Server. It may be used by many goroutines at once.
// Without a deadline in ctx, a call ends when the server answers, which it does within its own
// CallTimeout; streams have none.
type Client struct {
	http   *http.Client
	where  string // for messages: the socket's path or the node
	target string // ?node=; empty: whoever answers
}

var _ Backend = (*Client)(nil)

// NewClient returns a client for the control socket at path. It connects anew for each call: a
// connection that was kept could be dead, and a call sent on it would have an unknown outcome.
func NewClient(path string) *Client {
	d := &net.Dialer{}
	return &Client{
		where: path,
		http: &http.Client{Transport: &http.Transport{
			DisableKeepAlives:  true,
			DisableCompression: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return d.DialContext(ctx, "unix", path)
			},
		}},
	}
}

// NewClientHTTP returns a client that uses hc, all of whose connections lead to one server; where
// names it in messages.
func NewClientHTTP(hc *http.Client, where string) *Client { return &Client{http: hc, where: where} }

// On returns a client whose calls are carried out by node, whichever node they are sent to.
func (c *Client) On(node string) *Client {
	d := *c
	d.target = node
	return &d
}

// Status asks for one resource, or for all when resource is empty.
func (c *Client) Status(ctx context.Context, resource string) (Status, error) {
	q := url.Values{}
	if resource != "" {
		q.Set("resource", resource)
	}
	var st Status
	err := c.call(ctx, http.MethodGet, "/v1/status", q, nil, &st)
	return st, err
}

// CreateResource makes a resource; see Backend.
func (c *Client) CreateResource(ctx context.Context, req CreateRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/resources", nil, req, nil)
}

// DeleteResource forgets a resource; see Backend.
func (c *Client) DeleteResource(ctx context.Context, resource string) error {
	return c.call(ctx, http.MethodDelete, "/v1/resources/"+url.PathEscape(resource), nil, nil, nil)
}

// ResizeResource grows a resource; see Backend.
func (c *Client) ResizeResource(ctx context.Context, resource string, sizeBytes int64) error {
	return c.change(ctx, resource, "resize", resizeBody{sizeBytes})
}

// Promote makes the target node primary; see Backend.
func (c *Client) Promote(ctx context.Context, resource string, opts PromoteOptions) error {
	return c.change(ctx, resource, "promote", opts)
}

// Demote makes the target node secondary; see Backend.
func (c *Client) Demote(ctx context.Context, resource string) error {
	return c.change(ctx, resource, "demote", nil)
}

// Switchover moves the primary role; see Backend.
func (c *Client) Switchover(ctx context.Context, resource, to string) error {
	return c.change(ctx, resource, "switchover", toBody{to})
}

// Connect lets the target node's session with peer be tried again.
func (c *Client) Connect(ctx context.Context, resource, peer string) error {
	return c.change(ctx, resource, "connect", peerBody{peer})
}

// Disconnect ends the target node's session with peer.
func (c *Client) Disconnect(ctx context.Context, resource, peer string) error {
	return c.change(ctx, resource, "disconnect", peerBody{peer})
}

// Invalidate gives up the target node's replica; see Backend.
func (c *Client) Invalidate(ctx context.Context, resource string) error {
	return c.change(ctx, resource, "invalidate", nil)
}

// ReplaceReplica makes the target node's replica anew; see Backend.
func (c *Client) ReplaceReplica(ctx context.Context, resource string) error {
	return c.change(ctx, resource, "replace", nil)
}

// PauseResync stops copying; see Backend.
func (c *Client) PauseResync(ctx context.Context, resource string) error {
	return c.change(ctx, resource, "resync/pause", nil)
}

// ResumeResync goes on copying; see Backend.
func (c *Client) ResumeResync(ctx context.Context, resource string) error {
	return c.change(ctx, resource, "resync/resume", nil)
}

// Verify compares all replicas; see Backend.
func (c *Client) Verify(ctx context.Context, resource string, opts VerifyOptions) (VerifyResult, error) {
	var res VerifyResult
	path := "/v1/resources/" + url.PathEscape(resource) + "/verify"
	err := c.stream(ctx, http.MethodPost, path, nil, opts, func(l line) (bool, error) {
		switch {
		case l.Error != nil:
			return true, l.Error
		case l.Result != nil:
			res = *l.Result
			return true, nil
		}
		return false, nil
	})
	return res, err
}

// Events calls fn for each event; see Backend.
func (c *Client) Events(ctx context.Context, since uint64, follow bool, fn func(Event) error) error {
	q := url.Values{"since": {strconv.FormatUint(since, 10)}, "follow": {strconv.FormatBool(follow)}}
	var stop error // of fn: returned as it is
	err := c.stream(ctx, http.MethodGet, "/v1/events", q, nil, func(l line) (bool, error) {
		switch {
		case l.Error != nil:
			return true, l.Error
		case l.Event != nil:
			stop = fn(*l.Event)
			return stop != nil, nil
		}
		return l.End, nil
	})
	if stop != nil {
		return stop
	}
	if follow && ctx.Err() != nil {
		return nil
	}
	return err
}

func (c *Client) change(ctx context.Context, resource, verb string, body any) error {
	return c.call(ctx, http.MethodPost, "/v1/resources/"+url.PathEscape(resource)+"/"+verb, nil, body, nil)
}

// call sends a request and decodes its answer into out, unless out is nil.
func (c *Client) call(ctx context.Context, method, path string, q url.Values, body, out any) error {
	resp, err := c.request(ctx, method, path, q, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil && out != nil {
		err = json.Unmarshal(b, out)
	}
	if err != nil {
		return c.lost(method, err)
	}
	return nil
}

// stream sends a request and reads its answer line by line; see readStream.
func (c *Client) stream(ctx context.Context, method, path string, q url.Values, body any, fn func(line) (bool, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	idle := time.AfterFunc(streamSilence, cancel)
	defer idle.Stop()
	resp, err := c.request(ctx, method, path, q, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	err = readStream(resp.Body, idle, fn)
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return c.lost(method, err)
}

// request sends a request and returns a good answer, or the error that came instead.
func (c *Client) request(ctx context.Context, method, path string, q url.Values, body any) (*http.Response, error) {
	var b []byte
	ct := ""
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		ct = "application/json"
	}
	if c.target != "" {
		if q == nil {
			q = url.Values{}
		}
		q.Set("node", c.target)
	}
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	resp, err := send(ctx, c.http, method, path, ct, b)
	if err != nil {
		e := AsError(err)
		e.Message = c.where + ": " + e.Message
		return nil, e
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var eb errorBody
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err == nil {
		err = json.Unmarshal(text, &eb)
	}
	if err != nil || eb.Error == nil || eb.Error.Code == "" {
		return nil, c.lost(method, fmt.Errorf("answer with status %s that is none of ours", resp.Status))
	}
	return nil, eb.Error
}

// lost is the error of a request that was sent and whose answer did not come or parse.
func (c *Client) lost(method string, err error) error { return lost(c.where, method, err) }

func lost(where, method string, err error) error {
	if method == http.MethodGet {
		return Errorf(CodeUnreachable, "%s: no answer: %v", where, err)
	}
	return Errorf(CodeOutcomeUnknown, "%s: the request was sent, but no answer came: %v", where, err).
		WithHint("lockstep status shows whether it was done; look before you try again")
}

// send sends one request. Its errors are ErrUnreachable when nothing was sent, else as in lost.
func send(ctx context.Context, hc *http.Client, method, uri, contentType string, body []byte) (*http.Response, error) {
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { sent.Store(true) },
	})
	req, err := http.NewRequestWithContext(ctx, method, "http://lockstep"+uri, bytes.NewReader(body))
	if err != nil {
		return nil, Usagef("%v", err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := hc.Do(req)
	if err == nil {
		return resp, nil
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // without the made-up URL
	}
	if !sent.Load() {
		e := Errorf(CodeUnreachable, "cannot connect: %v", err)
		e.Absent = errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
		return nil, e
	}
	return nil, lost("node", method, err)
}
