//go:build e2e

package e2e

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/bcrypt"
)

// Who may do what at an upstream registry. imagecache is the puller; the tests push. Clients of imagecache know neither.
const (
	puller         = "puller"
	pullerPassword = "pull-only-secret"
	pusher         = "pusher"
	pusherPassword = "push-secret"
)

// upstreamName is the registry's name in references. It resolves nowhere: whoever pulls by it can have pulled through imagecache only.
const upstreamName = "registry.test"

// registry is a running docker-registry on its own storage. Nobody gets anything from it without credentials.
type registry struct {
	addr    string
	storage string
	proc    *process
	tokens  *tokenService // nil: htpasswd
}

// startRegistry starts a docker-registry with htpasswd or, given a token service, with bearer tokens.
func startRegistry(t *testing.T, tokens *tokenService) *registry {
	t.Helper()
	dir := t.TempDir()
	r := &registry{addr: freeAddress(t), storage: filepath.Join(dir, "storage"), tokens: tokens}
	auth := htpasswd(t, filepath.Join(dir, "htpasswd"))
	if tokens != nil {
		auth = tokens.settings(t, filepath.Join(dir, "token.pem"))
	}
	// Names of hosts are left out of the Location of uploads, so that the address is nobody's business but ours.
	config := fmt.Sprintf(`
version: 0.1
log: {level: info, formatter: json, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}, maintenance: {uploadpurging: {enabled: false}}}
http: {addr: %q, secret: e2e, relativeurls: true}
auth: %s
`, r.storage, r.addr, auth)
	path := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	r.proc = start(t, "docker-registry", exec.Command(debian("docker-registry"), "serve", path))
	eventually(t, "docker-registry answers", func() error {
		resp, err := http.Get("http://" + r.addr + "/v2/")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			return fmt.Errorf("GET /v2/ without credentials: %s", resp.Status)
		}
		return nil
	})
	return r
}

// htpasswd writes the password file and gives the registry's settings for it. docker-registry takes bcrypt only.
func htpasswd(t *testing.T, path string) string {
	t.Helper()
	var lines strings.Builder
	for user, password := range map[string]string{puller: pullerPassword, pusher: pusherPassword} {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&lines, "%s:%s\n", user, hash)
	}
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("{htpasswd: {realm: e2e, path: %q}}", path)
}

// url is the registry's address as an upstream's url.
func (r *registry) url() string { return "http://" + r.addr }

// push stores an image or an index under "repository:tag" and gives its digest.
func (r *registry) push(t *testing.T, repositoryTag string, what remote.Taggable) digest.Digest {
	t.Helper()
	ref, err := name.NewTag(r.addr + "/" + repositoryTag)
	if err != nil {
		t.Fatal(err)
	}
	auth := remote.WithTransport(r.pusher(t, ref.RepositoryStr()))
	switch what := what.(type) {
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, what, auth, remote.WithContext(t.Context()))
	case v1.Image:
		err = remote.Write(ref, what, auth, remote.WithContext(t.Context()))
	default:
		err = fmt.Errorf("%T is neither an image nor an index", what)
	}
	if err != nil {
		t.Fatalf("pushing %s: %v", repositoryTag, err)
	}
	return digestOf(t, what)
}

// withAuthorization sends an Authorization header with every request.
type withAuthorization string

func (a withAuthorization) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", string(a))
	return http.DefaultTransport.RoundTrip(r)
}

// basic is the Authorization header of a user and a password.
func basic(user, password string) withAuthorization {
	return withAuthorization("Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

// pusher speaks to the registry with the right to push. It brings its token along, because go-containerregistry asks no token service
// on a loopback address.
func (r *registry) pusher(t *testing.T, repository string) http.RoundTripper {
	t.Helper()
	if r.tokens == nil {
		return basic(pusher, pusherPassword)
	}
	token, err := r.tokens.sign(pusher, grant(pusher, "repository:"+repository+":pull,push"))
	if err != nil {
		t.Fatal(err)
	}
	return withAuthorization("Bearer " + token)
}

// fetch is one GET of a blob that the registry has answered, or is answering.
type fetch struct {
	repository string
	digest     digest.Digest
	authorized bool  // the registry knew who asked
	status     int   // 0 while it is being answered
	written    int64 // bytes of the body
}

// authorizedMessage is how docker-registry logs that it knows who asks.
const authorizedMessage = "authorized request"

// logLine is a line of docker-registry's log, as far as it tells of requests.
type logLine struct {
	ID      string `json:"http.request.id"`
	Method  string `json:"http.request.method"`
	URI     string `json:"http.request.uri"`
	Status  int    `json:"http.response.status"`
	Written int64  `json:"http.response.written"`
	Message string `json:"msg"`
}

// answeredLines reads from the registry's own log what it says of GETs. The line that a request is authorized is written before its answer,
// so whoever holds an answer finds its request here.
func (r *registry) answeredLines(t *testing.T) []logLine {
	t.Helper()
	file, err := os.Open(r.proc.log)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var gets []logLine
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line logLine
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Method == http.MethodGet {
			gets = append(gets, line)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatalf("reading docker-registry's log: %v", err)
	}
	return gets
}

// fetches gives the GETs of blobs in the order in which they came.
func (r *registry) fetches(t *testing.T) []*fetch {
	t.Helper()
	var all []*fetch
	byID := map[string]*fetch{}
	for _, line := range r.answeredLines(t) {
		repository, hash, ok := parseBlobPath(line.URI)
		if !ok {
			continue
		}
		f := byID[line.ID]
		if f == nil {
			f = &fetch{repository: repository, digest: hash}
			byID[line.ID] = f
			all = append(all, f)
		}
		f.authorized = f.authorized || line.Message == authorizedMessage
		if line.Status != 0 {
			f.status, f.written = line.Status, line.Written
		}
	}
	return all
}

// manifestFetches counts the authorized GETs of manifests and indexes, which are what Docker Hub counts.
func (r *registry) manifestFetches(t *testing.T) int {
	t.Helper()
	n := 0
	for _, line := range r.answeredLines(t) {
		if line.Message == authorizedMessage && strings.Contains(line.URI, "/manifests/") {
			n++
		}
	}
	return n
}

// parseBlobPath takes apart /v2/<repository>/blobs/<digest>.
func parseBlobPath(uri string) (repository string, hash digest.Digest, ok bool) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", "", false
	}
	rest, ok := strings.CutPrefix(u.Path, "/v2/")
	if !ok {
		return "", "", false
	}
	repository, last, ok := strings.Cut(rest, "/blobs/")
	if !ok {
		return "", "", false
	}
	hash, err = digest.Parse(last)
	return repository, hash, err == nil
}

// requireFetchedOnce fails the test unless the registry's log shows one authorized fetch of each of these blobs. A large blob of a slow
// registry may come in several ranges side by side; then each of its bytes must have come once.
func (r *registry) requireFetchedOnce(t *testing.T, blobs []digest.Digest) {
	t.Helper()
	eventually(t, "docker-registry's log shows the end of each fetch", func() error {
		for _, f := range r.fetches(t) {
			if f.authorized && f.status == 0 {
				return fmt.Errorf("%s is still being answered", f.digest)
			}
		}
		return nil
	})
	whole, ranges, written := map[digest.Digest]int{}, map[digest.Digest]int64{}, map[digest.Digest]int64{}
	for _, f := range r.fetches(t) {
		switch {
		case f.authorized && f.status == http.StatusOK:
			whole[f.digest]++
		case f.authorized && f.status == http.StatusPartialContent:
			ranges[f.digest]++
		case f.status != http.StatusUnauthorized && f.status != 0:
			t.Errorf("docker-registry answered a request for a blob in an unexpected way: %+v", *f)
		}
		written[f.digest] += f.written
	}
	for _, hash := range blobs {
		size := r.sizeOf(t, hash)
		// What a registry has written counts although the connection was closed before it was read: some MiB in the sockets' buffers.
		if whole[hash] != 1 || written[hash] < size || written[hash] > size+ranges[hash]<<22 {
			t.Errorf("docker-registry was asked for %s of %d bytes %d times for the whole and %d times for a range, and sent %d bytes, want each byte once",
				hash, size, whole[hash], ranges[hash], written[hash])
		}
	}
}

// sizeOf is the size of a blob in the registry's storage.
func (r *registry) sizeOf(t *testing.T, hash digest.Digest) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(r.storage, "docker/registry/v2/blobs", hash.Algorithm().String(), hash.Encoded()[:2], hash.Encoded(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
