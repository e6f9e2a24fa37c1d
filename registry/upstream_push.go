package registry

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// sendSilence is for how long upstream may take nothing of a body. It is the
	// time that our own clients have.
	sendSilence = time.Minute
	// settleTime is how long upstream may take to answer when it has all of a blob:
	// some hash it then, or copy it to where it stays.
	settleTime = 5 * time.Minute
)

// opener gives a body from its start, again for each time it is sent.
type opener func() (io.ReadCloser, error)

// change is one request by which something is changed upstream.
type change struct {
	subject   subject
	path      string // repository
	method    string
	to        *url.URL
	mediaType string
	actions   string // that the token is for; default pull and push
	size      int64  // of the body, in bytes
	open      opener // of the body; nil for none
	accept    []int  // the statuses that are successes
}

// at is where something of a repository stands upstream.
func (u *upstream) at(path, rest string) *url.URL {
	return &url.URL{Scheme: u.base.Scheme, Host: u.base.Host, Path: "/v2/" + path + "/" + rest}
}

// mayPush asks upstream to begin an upload, and ends it: nobody is to fill our
// disk with what upstream would not take.
func (u *upstream) mayPush(ctx context.Context, path string) error {
	location, err := u.beginUpload(ctx, path)
	if err != nil {
		return err
	}
	// Some registries do not know how, and forget it in time.
	_ = u.attempt(ctx, change{subject: subjectBlob, path: path, method: http.MethodDelete, to: location})
	return nil
}

// attempt makes a change of which nothing depends, and books no failure.
func (u *upstream) attempt(ctx context.Context, c change) error {
	ctx, cancel := context.WithTimeout(ctx, manifestTime)
	defer cancel()
	res, err := u.sendChange(ctx, c)
	if err == nil {
		res.Body.Close()
	}
	return err
}

// beginUpload asks where a blob is to be sent.
func (u *upstream) beginUpload(ctx context.Context, path string) (*url.URL, error) {
	begin := u.at(path, "blobs/uploads/")
	res, err := u.changeSoon(ctx, change{subject: subjectBlob, path: path, method: http.MethodPost, to: begin, accept: []int{http.StatusAccepted}})
	if err != nil {
		return nil, err
	}
	return u.uploadAt(res.Request.URL, res.Header.Get("Location")) // which is another one than begin after a redirect
}

// uploadAt reads where upstream wants a blob. That may be another host, which
// gets the blob and no credential, but no address that upstream could not
// redirect to either. A registry behind a proxy that ends TLS often names itself
// by http, and is meant as it was asked.
func (u *upstream) uploadAt(begin *url.URL, where string) (*url.URL, error) {
	location, err := begin.Parse(where)
	if where == "" || err != nil || location.Host == "" {
		return nil, u.reject(CodeUnavailable, "upstream does not say where the blob is to be sent")
	}
	if location.Scheme == "http" && u.base.Scheme == "https" && sameHost(location.Hostname(), u.base.Hostname()) && location.Port() == u.base.Port() {
		location.Scheme = "https"
	}
	if err := (redirects{base: u.base}).check(&http.Request{URL: location, Header: http.Header{}}, nil); err != nil {
		return nil, u.failed(context.Background(), subjectBlob, networkError(err))
	}
	return location, nil
}

// sendBlob sends a blob in one piece.
func (u *upstream) sendBlob(ctx context.Context, path string, d digest.Digest, size int64, open opener) error {
	location, err := u.beginUpload(ctx, path)
	if err != nil {
		return err
	}
	query := location.Query()
	query.Set("digest", d.String())
	location.RawQuery = query.Encode()
	_, err = u.change(ctx, change{subject: subjectBlob, path: path, method: http.MethodPut, to: location,
		mediaType: "application/octet-stream", size: size, open: open, accept: []int{http.StatusCreated}})
	return err
}

// sendManifest sends a manifest under a tag or its digest. listed is the
// manifest among whose referrers upstream says that it lists it, "" for none.
func (u *upstream) sendManifest(ctx context.Context, path, tagOrDigest, mediaType string, content []byte) (listed digest.Digest, err error) {
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	res, err := u.changeSoon(ctx, change{subject: subjectManifest, path: path, method: http.MethodPut, to: u.at(path, "manifests/"+tagOrDigest),
		mediaType: mediaType, size: int64(len(content)), open: open, accept: []int{http.StatusCreated}})
	if err != nil {
		return "", err
	}
	return digest.Digest(res.Header.Get("OCI-Subject")), nil
}

// deleted are the statuses of a deletion: the specification's, and what others
// answer to any DELETE.
var deleted = []int{http.StatusAccepted, http.StatusOK, http.StatusNoContent}

// deleting is what a token for it must allow: services differ in which, and give
// of what is asked for what its bearer has.
const deleting = "pull,push,delete"

// deleteManifest deletes a manifest by its digest, or a tag.
func (u *upstream) deleteManifest(ctx context.Context, path, tagOrDigest string) error {
	_, err := u.changeSoon(ctx, change{subject: subjectManifest, path: path, method: http.MethodDelete, to: u.at(path, "manifests/"+tagOrDigest), actions: deleting, accept: deleted})
	return err
}

func (u *upstream) deleteBlob(ctx context.Context, path string, d digest.Digest) error {
	_, err := u.changeSoon(ctx, change{subject: subjectBlob, path: path, method: http.MethodDelete, to: u.at(path, "blobs/"+d.String()), actions: deleting, accept: deleted})
	return err
}

// changeSoon is change for what is small.
func (u *upstream) changeSoon(ctx context.Context, c change) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, manifestTime)
	defer cancel()
	return u.change(ctx, c)
}

// change makes a change, and returns upstream's answer, its body closed. It is not
// tried again when it fails: the client knows what it wants.
func (u *upstream) change(ctx context.Context, c change) (*http.Response, error) {
	res, err := u.sendChange(ctx, c)
	if err != nil {
		return nil, u.failed(ctx, c.subject, networkError(err))
	}
	defer res.Body.Close()
	if !slices.Contains(c.accept, res.StatusCode) {
		return nil, u.failed(ctx, c.subject, u.refusedChange(c.subject, res))
	}
	u.outage.over()
	return res, nil
}

// errSendSilence: see sendSilence.
var errSendSilence = &Error{Code: CodeTimeout, Message: "upstream stopped taking what was sent to it"}

// sendChange sends the request of a change. Who gets the answer closes its body.
func (u *upstream) sendChange(ctx context.Context, c change) (*http.Response, error) {
	ctx = withWay(ctx, &way{repository: c.path, scope: "repository:" + c.path + ":" + cmp.Or(c.actions, "pull,push")})
	ctx, cancel := context.WithCancelCause(ctx)
	watch := time.AfterFunc(sendSilence, func() { cancel(errSendSilence) })
	defer watch.Stop()
	req, err := c.request(ctx, watch)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	u.tally.requests.Add(1)
	res, err := u.sender.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errSendSilence) {
			err = cause
		}
		cancel(nil)
		return nil, err
	}
	res.Body = &endedBody{res.Body, func() { cancel(nil) }}
	return res, nil
}

// request is that of a change. watch ends it when nothing of the body is taken.
func (c change) request(ctx context.Context, watch *time.Timer) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, c.method, c.to.String(), http.NoBody)
	if err != nil {
		return nil, &Error{Code: CodeNameInvalid, Message: "upstream cannot be asked for this", Err: withoutAddress(err), final: true}
	}
	if c.mediaType != "" {
		req.Header.Set("Content-Type", c.mediaType)
	}
	if c.open == nil || c.size == 0 {
		watch.Stop()
		return req, nil
	}
	req.ContentLength = c.size
	req.GetBody = func() (io.ReadCloser, error) {
		body, err := c.open()
		return &watchedBody{body, watch}, err
	}
	req.Body, err = req.GetBody()
	return req, err
}

// watchedBody winds its watch up whenever something of it is taken. When all is,
// the watch stops: how long the answer takes is for settleTime.
type watchedBody struct {
	io.ReadCloser
	watch *time.Timer
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.watch.Stop()
	} else {
		b.watch.Reset(sendSilence)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.watch.Stop()
	return b.ReadCloser.Close()
}

// endedBody ends what belongs to an answer when its body is closed.
type endedBody struct {
	io.ReadCloser
	end func()
}

func (b *endedBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

// patiently is a way to upstream for what takes it longer to answer.
func patiently(network *http.Transport) *http.Transport {
	patient := network.Clone()
	patient.ResponseHeaderTimeout = max(settleTime, network.ResponseHeaderTimeout)
	return patient
}

// refusedChange is refusal for a change. What upstream has against it is for the
// client to mend, so it gets upstream's status and, where the specification has
// it, upstream's code. Refusals of who asks and wishes to be left alone are the
// same as for questions, and so is what went wrong on the way.
func (u *upstream) refusedChange(s subject, res *http.Response) *Error {
	code, said := coded(res)
	said = withoutSecret(said, res.Request)
	e := statusError(s, res.StatusCode, !sameOrigin(res.Request.URL, u.base), said)
	e.RetryAfter = retryAfter(res.Header, u.env.now())
	unfit := e.Code == CodeUnavailable && e.final || e.Code == s.unknown()
	if !unfit || !sameOrigin(res.Request.URL, u.base) || res.StatusCode < http.StatusBadRequest {
		return e
	}
	e.Answered = res.StatusCode
	e.Message = "upstream answered " + statusText(res.StatusCode)
	if said != "" {
		e.Message += ": " + said
	}
	switch {
	case slices.Contains(codesOfChanges, Code(code)):
		e.Code = Code(code)
	case res.StatusCode == http.StatusMethodNotAllowed:
		e.Code = CodeUnsupported
	case e.Code == CodeUnavailable && s == subjectManifest:
		e.Code = CodeManifestInvalid
	case e.Code == CodeUnavailable:
		e.Code = CodeUploadInvalid
	}
	return e
}

// codesOfChanges are the specification's, as far as they can be an answer to a
// change that is not fit.
var codesOfChanges = []Code{
	CodeBlobUnknown, CodeUploadInvalid, CodeUploadUnknown, CodeDigestInvalid, CodeManifestBlobUnknown, CodeManifestInvalid,
	CodeManifestUnknown, CodeNameInvalid, CodeNameUnknown, CodeSizeInvalid, CodeTagInvalid, CodeUnsupported, CodeDenied,
}
