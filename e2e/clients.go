//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// errWrongBytes is what a client says that came to the clean end of an answer and holds bytes which are not those it asked for. It is the
// one thing that must never happen.
var errWrongBytes = errors.New("an answer ended cleanly with wrong bytes")

// statusError is an answer that is not what was asked for, but says so.
type statusError struct {
	status int
	header http.Header
	body   string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("answered %d: %s", e.status, strings.TrimSpace(e.body))
}

// client pulls as containerd does, /v2/<repository>/…?ns=<registry>, and believes nothing. Each has its own connections.
type client struct {
	base string // http://host:port
	ns   string // "" for a registry that is asked itself
	http *http.Client
}

// newClient gives a client of the mirror at addr for the registry that the tests call upstream.
func newClient(t *testing.T, addr string) *client {
	t.Helper()
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{base: "http://" + addr, ns: upstreamName, http: &http.Client{Transport: transport}}
}

// url is the address of something in a repository: "manifests/1.0".
func (c *client) url(repository, what string) string {
	address := c.base + "/v2/" + repository + "/" + what
	if c.ns != "" {
		address += "?ns=" + url.QueryEscape(c.ns)
	}
	return address
}

// get asks for something in a repository. The caller closes the answer, which is a good one.
func (c *client) get(ctx context.Context, repository, what string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url(repository, what), nil)
	if err != nil {
		return nil, err
	}
	for key, values := range header {
		req.Header[key] = values
	}
	if strings.HasPrefix(what, "manifests/") {
		req.Header.Set("Accept", strings.Join([]string{
			specs.MediaTypeImageManifest, specs.MediaTypeImageIndex,
			"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json",
		}, ", "))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // only to be shown
		return nil, &statusError{status: resp.StatusCode, header: resp.Header, body: string(body)}
	}
	return resp, nil
}

// manifestAnswer is a manifest or an index as it came.
type manifestAnswer struct {
	digest  digest.Digest
	content []byte
	header  http.Header
}

// manifest gets a manifest or an index by tag or digest. It is checked against both the digest asked for and the one the answer names.
func (c *client) manifest(ctx context.Context, repository, reference string) (*manifestAnswer, error) {
	resp, err := c.get(ctx, repository, "manifests/"+reference, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return nil, err
	}
	hash := digest.FromBytes(content)
	if want := resp.Header.Get("Docker-Content-Digest"); want != "" && want != hash.String() {
		return nil, fmt.Errorf("manifest %s: the header says %s, the bytes are %s: %w", reference, want, hash, errWrongBytes)
	}
	if want, err := digest.Parse(reference); err == nil && want != want.Algorithm().FromBytes(content) {
		return nil, fmt.Errorf("manifest %s: the bytes are %s: %w", reference, hash, errWrongBytes)
	}
	return &manifestAnswer{digest: hash, content: content, header: resp.Header}, nil
}

// blob gets a blob and checks it. read, when not nil, is told after each piece how many bytes have come.
func (c *client) blob(ctx context.Context, repository string, hash digest.Digest, read func(n int64)) (int64, error) {
	resp, err := c.get(ctx, repository, "blobs/"+hash.String(), nil)
	if err != nil {
		return 0, fmt.Errorf("blob %s: %w", hash, err)
	}
	defer resp.Body.Close()
	verifier := hash.Verifier()
	var n int64
	buf := make([]byte, 64<<10)
	for {
		k, err := resp.Body.Read(buf)
		n += int64(k)
		_, _ = verifier.Write(buf[:k]) // a hash never fails
		if read != nil && k > 0 {
			read(n)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return n, fmt.Errorf("blob %s after %d bytes: %w", hash, n, err)
		}
	}
	if !verifier.Verified() {
		return n, fmt.Errorf("blob %s, %d bytes: %w", hash, n, errWrongBytes)
	}
	return n, nil
}

// pull gets a whole image, the first of an index, and checks all of it. It gives the digest of what the reference named.
func (c *client) pull(ctx context.Context, repository, reference string) (digest.Digest, error) {
	top, err := c.manifest(ctx, repository, reference)
	if err != nil {
		return "", err
	}
	content := top.content
	var index specs.Index
	if json.Unmarshal(content, &index) == nil && len(index.Manifests) > 0 {
		image, err := c.manifest(ctx, repository, index.Manifests[0].Digest.String())
		if err != nil {
			return "", err
		}
		content = image.content
	}
	var manifest specs.Manifest
	if err := json.Unmarshal(content, &manifest); err != nil {
		return "", err
	}
	for _, desc := range append([]specs.Descriptor{manifest.Config}, manifest.Layers...) {
		if _, err := c.blob(ctx, repository, desc.Digest, nil); err != nil {
			return "", err
		}
	}
	return top.digest, nil
}

// mustPull pulls a whole image or ends the test.
func (c *client) mustPull(t *testing.T, repository, reference string) digest.Digest {
	t.Helper()
	hash, err := c.pull(t.Context(), repository, reference)
	if err != nil {
		t.Fatalf("pulling %s:%s: %v", repository, reference, err)
	}
	return hash
}

// clientProcessURL, in the environment, turns the test binary into a client of that URL.
const clientProcessURL = "IMAGECACHE_E2E_CLIENT_URL"

// clientProcessReads is how much a client process reads before it says so and waits to be killed.
const clientProcessReads = 1 << 20

// runClientProcess begins to read a blob and then stands still, the connection open, until it is killed or its parent is gone.
func runClientProcess(address string) {
	resp, err := http.Get(address)
	if err == nil {
		_, err = io.CopyN(io.Discard, resp.Body, clientProcessReads)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("reading")
	_, _ = io.Copy(io.Discard, os.Stdin)
}
