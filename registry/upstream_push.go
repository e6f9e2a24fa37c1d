package registry

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
)

// opener gives a body from its start, again for each time it is sent.
type opener func() (io.ReadCloser, error)

// mayPush asks upstream to begin an upload, and ends it: nobody is to fill our
// disk with what upstream would not take.
func (u *upstream) mayPush(ctx context.Context, path string) error {
	location, err := u.beginUpload(ctx, path)
	if err != nil {
		return err
	}
	if res, err := u.write(ctx, path, http.MethodDelete, location, nil, 0, ""); err == nil {
		res.Body.Close() // some registries do not know how, and forget it in time
	}
	return nil
}

// beginUpload asks where a blob is to be sent.
func (u *upstream) beginUpload(ctx context.Context, path string) (*url.URL, error) {
	begin := &url.URL{Scheme: u.base.Scheme, Host: u.base.Host, Path: "/v2/" + path + "/blobs/uploads/"}
	res, err := u.write(ctx, path, http.MethodPost, begin, nil, 0, "")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusAccepted {
		return nil, u.failed(ctx, subjectBlob, u.refusal(subjectBlob, res))
	}
	location, err := begin.Parse(res.Header.Get("Location"))
	if err != nil || location.Host == "" {
		return nil, u.reject(CodeUnavailable, "upstream does not say where the blob is to be sent")
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
	res, err := u.write(ctx, path, http.MethodPut, location, open, size, "application/octet-stream")
	if err != nil {
		return err
	}
	return u.created(ctx, subjectBlob, res)
}

// sendManifest sends a manifest under a tag or its digest.
func (u *upstream) sendManifest(ctx context.Context, path, tagOrDigest, mediaType string, content []byte) error {
	ctx, cancel := context.WithTimeout(ctx, manifestTime)
	defer cancel()
	to := &url.URL{Scheme: u.base.Scheme, Host: u.base.Host, Path: "/v2/" + path + "/manifests/" + tagOrDigest}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	res, err := u.write(ctx, path, http.MethodPut, to, open, int64(len(content)), mediaType)
	if err != nil {
		return err
	}
	return u.created(ctx, subjectManifest, res)
}

func (u *upstream) created(ctx context.Context, s subject, res *http.Response) error {
	defer res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		return u.failed(ctx, s, u.refusal(s, res))
	}
	return nil
}

// write sends a request that changes something. Who gets the answer closes its
// body. It is not asked again when it fails: the client knows what it wants.
func (u *upstream) write(ctx context.Context, path, method string, to *url.URL, open opener, size int64, mediaType string) (*http.Response, error) {
	ctx = withWay(ctx, &way{repository: path, scope: "repository:" + path + ":pull,push"})
	req, err := http.NewRequestWithContext(ctx, method, to.String(), http.NoBody)
	if err != nil {
		return nil, &Error{Code: CodeNameInvalid, Message: "upstream cannot be asked for this", Err: withoutAddress(err), final: true}
	}
	if open != nil && size > 0 {
		if req.Body, err = open(); err != nil {
			return nil, err
		}
		req.GetBody, req.ContentLength = open, size
	}
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	u.tally.requests.Add(1)
	res, err := u.client.Do(req)
	if err != nil {
		return nil, u.failed(ctx, subjectBlob, networkError(err))
	}
	return res, nil
}
