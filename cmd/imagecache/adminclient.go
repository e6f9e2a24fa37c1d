package main

import (
	"bufio"
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
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

const (
	dialDaemon       = 5 * time.Second // a daemon on this machine answers a dial at once, or is stuck
	expectContinue   = 5 * time.Second // for the daemon's word on a large body, before it is sent anyway
	limitAnswer      = 256 << 20       // bytes of one answer; a list of 100,000 images is a tenth of that
	limitStreamLine  = 4 << 20         // bytes of one line of a stream
	limitErrorAnswer = 1 << 20         // bytes of an error body
)

// adminClient asks the daemon over its administration address. Its methods may be called in parallel.
type adminClient struct {
	address adminAddress
	http    *http.Client
	uid     int
	login   adminLogin
	// showsCertificate says that a certificate of our own is shown.
	showsCertificate bool
}

// client finds the daemon that a command is about.
func (c *cli) client(cmd *cobra.Command) (*adminClient, error) {
	address, err := c.adminAddress(cmd)
	if err != nil {
		return nil, err
	}
	client := newAdminClient(address, c.uid)
	if !address.tls {
		return client, nil
	}
	return client, c.signIn(client)
}

func newAdminClient(address adminAddress, uid int) *adminClient {
	dialer := &net.Dialer{Timeout: dialDaemon}
	return &adminClient{
		address: address,
		uid:     uid,
		http: &http.Client{
			// The daemon never redirects; whatever does is not our daemon.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				DisableCompression: true,
				// What is large is announced first, so that a daemon that refuses it need not be sent it.
				ExpectContinueTimeout: expectContinue,
				ForceAttemptHTTP2:     address.tls,
				TLSHandshakeTimeout:   dialDaemon,
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					if address.socket == "" {
						return dialer.DialContext(ctx, "tcp", address.tcp)
					}
					return dialer.DialContext(ctx, "unix", address.socket)
				},
			},
		},
	}
}

// daemonError is an answer of the daemon that says no. Code is one of the OCI distribution specification's, or the daemon's own.
type daemonError struct {
	Status  int // of HTTP, 0 in a stream
	Code    string
	Message string
	Detail  string // what it is about, mostly a reference
	Wait    string // seconds after which to ask again, "" where that is not said
}

func (e *daemonError) Error() string {
	if e.Message != "" {
		return printable(e.Message)
	}
	if e.Code != "" {
		return "the daemon says " + printable(e.Code)
	}
	return fmt.Sprintf("the daemon answers %d %s", e.Status, http.StatusText(e.Status))
}

// misuse tells whether the caller's words were wrong, rather than the state of things.
func (e *daemonError) misuse() bool {
	switch e.Code {
	case "NAME_INVALID", "TAG_INVALID", "DIGEST_INVALID":
		return true
	}
	return false
}

// get asks for a document and returns it as the daemon sent it.
func (a *adminClient) get(ctx context.Context, path string, query url.Values) (json.RawMessage, error) {
	return a.ask(ctx, http.MethodGet, path, query, nil)
}

// delete asks for something to be gone; the answer may be empty.
func (a *adminClient) delete(ctx context.Context, path string, query url.Values) (json.RawMessage, error) {
	return a.ask(ctx, http.MethodDelete, path, query, nil)
}

// post asks for something to be done, and returns when it is.
func (a *adminClient) post(ctx context.Context, path string, wish any) (json.RawMessage, error) {
	body, err := json.Marshal(wish)
	if err != nil {
		return nil, err
	}
	return a.ask(ctx, http.MethodPost, path, nil, body)
}

func (a *adminClient) ask(ctx context.Context, method, path string, query url.Values, body []byte) (json.RawMessage, error) {
	response, err := a.do(ctx, method, path, query, body)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, limitAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("the daemon's answer broke off: %w", err)
	}
	if len(content) > limitAnswer {
		return nil, fmt.Errorf("the daemon's answer is larger than %s", size(limitAnswer))
	}
	return content, nil
}

// wanted is what pull and pin ask for.
type wanted struct {
	Reference string   `json:"reference"`
	Platforms []string `json:"platforms"`
	Update    bool     `json:"update,omitempty"` // of a pin
}

// streamLine is one line of an answer that tells of progress.
type streamLine struct {
	Progress *registry.Progress `json:"progress"`
	Pin      json.RawMessage    `json:"pin"`
	Image    json.RawMessage    `json:"image"`
	Scrub    json.RawMessage    `json:"scrub"`
	Rootfs   json.RawMessage    `json:"rootfs"`
	Error    *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// errBrokenOff says that a stream ended before its last line: nobody knows from here how the work ended.
var errBrokenOff = errors.New("the daemon's answer broke off before it was done")

// stream posts a wish, hands on what it hears of progress, and returns the last line: the pin, the image, the root filesystem, or what
// the scrub found.
func (a *adminClient) stream(ctx context.Context, path string, wish any, progress func(registry.Progress)) (json.RawMessage, error) {
	body, err := json.Marshal(wish)
	if err != nil {
		return nil, err
	}
	response, err := a.do(ctx, http.MethodPost, path, nil, body)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(make([]byte, 0, 64<<10), limitStreamLine)
	for lines.Scan() {
		var line streamLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("the daemon's answer is not understood: %w", err)
		}
		switch {
		case line.Error != nil:
			return nil, &daemonError{Code: line.Error.Code, Message: line.Error.Message}
		case line.Pin != nil:
			return line.Pin, nil
		case line.Image != nil:
			return line.Image, nil
		case line.Scrub != nil:
			return line.Scrub, nil
		case line.Rootfs != nil:
			return line.Rootfs, nil
		case line.Progress != nil:
			progress(*line.Progress)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", errBrokenOff, err)
	}
	return nil, errBrokenOff
}

// postStream posts a wish whose answer is a stream of bytes; the caller closes its body.
func (a *adminClient) postStream(ctx context.Context, path string, wish any) (*http.Response, error) {
	body, err := json.Marshal(wish)
	if err != nil {
		return nil, err
	}
	return a.do(ctx, http.MethodPost, path, nil, body)
}

// upload posts a large body and returns the answer.
func (a *adminClient) upload(ctx context.Context, path string, query url.Values, mediaType string, body io.Reader) (json.RawMessage, error) {
	request, err := a.request(ctx, http.MethodPost, path, query, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", mediaType)
	request.Header.Set("Expect", "100-continue")
	response, err := a.send(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, limitAnswer))
	if err != nil {
		return nil, fmt.Errorf("the daemon's answer broke off: %w", err)
	}
	return content, nil
}

// do sends one request. An answer that is not 2xx becomes an error; else the caller closes the body.
func (a *adminClient) do(ctx context.Context, method, path string, query url.Values, body []byte) (*http.Response, error) {
	request, err := a.request(ctx, method, path, query, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return a.send(request)
}

func (a *adminClient) request(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Request, error) {
	host := a.address.tcp
	if host == "" {
		host = "imagecache" // a unix socket has no name, but HTTP wants one
	}
	target := url.URL{Scheme: "http", Host: host, Path: path, RawQuery: query.Encode()}
	if a.address.tls {
		target.Scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "imagecache/"+buildVersion())
	if a.login.user != "" {
		request.SetBasicAuth(a.login.user, a.login.password)
	}
	return request, nil
}

func (a *adminClient) send(request *http.Request) (*http.Response, error) {
	response, err := a.http.Do(request)
	if err != nil {
		return nil, a.explain(request.Context(), err)
	}
	if response.StatusCode/100 != 2 {
		defer response.Body.Close()
		return nil, a.hint(readDaemonError(response))
	}
	return response, nil
}

// readDaemonError takes the first error of an OCI error body.
func readDaemonError(response *http.Response) *daemonError {
	failure := &daemonError{Status: response.StatusCode, Wait: response.Header.Get("Retry-After")}
	content, err := io.ReadAll(io.LimitReader(response.Body, limitErrorAnswer))
	if err != nil {
		return failure
	}
	var answer struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Detail  any    `json:"detail"` // of any form, says the specification
		} `json:"errors"`
	}
	if json.Unmarshal(content, &answer) == nil && len(answer.Errors) > 0 {
		failure.Code, failure.Message = answer.Errors[0].Code, answer.Errors[0].Message
		failure.Detail, _ = answer.Errors[0].Detail.(string)
	}
	return failure
}

// explain turns a failure to reach the daemon into what to do about it.
func (a *adminClient) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return a.unreached()
	case errors.Is(err, fs.ErrPermission):
		return &hintedError{
			fmt.Errorf("no right to %s%s", a.address, ownerText(a.address.socket)),
			"run this command as that user, as root, or as a member of its admin_group",
		}
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	err = fmt.Errorf("asking the daemon at %s: %w", a.address, err)
	if hint := a.brokenHint(err); hint != "" {
		return &hintedError{err, hint}
	}
	return err
}

func socketThere(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&fs.ModeSocket != 0
}

// ownerText says who owns a socket, or the first folder above it that can be seen.
func ownerText(path string) string {
	for path != "" && path != "/" {
		if info, err := os.Stat(path); err == nil {
			if uid, known := ownerOf(info); known {
				return fmt.Sprintf(": %s belongs to %s", path, userName(uid))
			}
			return ""
		}
		path = filepath.Dir(path)
	}
	return ""
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return "user " + strconv.Itoa(uid)
}

// refQuery is the query that names a reference.
func refQuery(reference string) url.Values { return url.Values{"ref": {reference}} }

// blameReference puts the reference before a failure that does not name it.
func blameReference(reference string, err error) error {
	if strings.Contains(err.Error(), reference) {
		return err
	}
	return fmt.Errorf("%s: %w", reference, err)
}

// blameDetail puts what a failure is about before it, where several things were asked for at once.
func blameDetail(err error) error {
	var answer *daemonError
	var hinted *hintedError
	if !errors.As(err, &answer) || answer.Detail == "" || errors.As(err, &hinted) {
		return err
	}
	return blameReference(printable(answer.Detail), err)
}
