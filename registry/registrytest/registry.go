// Package registrytest runs a registry on loopback that can be told to lie:
// to cut, stall, refuse, limit, corrupt, and to ask for credentials in the ways
// that registries do. It logs what it was asked, so that tests can count.
//
// It is for tests only and knows nothing of this project. For what an honest
// registry does, tests run a real one.
package registrytest

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Auth is how a registry asks its callers to sign in.
type Auth string

// Kinds of sign-in.
const (
	AuthNone   Auth = ""
	AuthBasic  Auth = "basic"
	AuthBearer Auth = "bearer" // with a token service of its own, on another port
)

// Options of a registry. The zero value is a plain http registry for all.
type Options struct {
	Auth               Auth
	Username, Password string        // default "alice", "open sesame"
	TokenLife          time.Duration // of bearer tokens, whole seconds; 0: 5 minutes, and the answer does not say so
	Realm              string        // named in challenges instead of the own token service
	QuietPing          bool          // /v2/ answers 200 without a challenge though repositories want one
	TLS                bool          // https, with the certificate in CAFile
	PageSize           int           // tags on a page of tags/list; 0: all
	Referrers          bool          // the referrers API is there; otherwise it answers 404
}

// Registry is a running registry. All methods may be called in parallel.
type Registry struct {
	options  Options
	registry *host
	tokens   *host // nil without AuthBearer
	storage  *host // where Redirect sends; refuses Authorization
	caFile   string

	mu       sync.Mutex // guards what follows
	changed  *sync.Cond // of log
	password string
	users    map[string]user // besides the one of the options
	public   map[string]bool
	blobs    map[string]map[digest.Digest]content // by repository
	manifest map[string]map[digest.Digest]manifest
	tags     map[string]map[string]digest.Digest
	rules    []*rule
	log      []*Request
	issued   map[string]grant
	release  chan struct{} // closed to let stalled answers go on
}

type content struct {
	io.ReaderAt
	size int64
}

type manifest struct {
	mediaType string
	bytes     []byte
}

type grant struct {
	scopes []string
	until  time.Time
}

// New starts a registry that ends with the test.
func New(t testing.TB, o Options) *Registry {
	t.Helper()
	if o.Username == "" {
		o.Username, o.Password = "alice", "open sesame"
	}
	r := &Registry{options: o, password: o.Password,
		users:    make(map[string]user),
		public:   make(map[string]bool),
		blobs:    make(map[string]map[digest.Digest]content),
		manifest: make(map[string]map[digest.Digest]manifest),
		tags:     make(map[string]map[string]digest.Digest),
		issued:   make(map[string]grant),
		release:  make(chan struct{}),
	}
	r.changed = sync.NewCond(&r.mu)
	r.registry = r.listen(t, "registry", r.serveRegistry)
	r.storage = r.listen(t, "storage", r.serveStorage)
	if o.Auth == AuthBearer {
		r.tokens = r.listen(t, "token", r.serveToken)
	}
	if o.TLS {
		r.caFile = filepath.Join(t.TempDir(), "ca.pem")
		block := &pem.Block{Type: "CERTIFICATE", Bytes: r.registry.server().Certificate().Raw}
		if err := os.WriteFile(r.caFile, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(r.close)
	return r
}

func (r *Registry) close() {
	r.Release()
	for _, h := range []*host{r.registry, r.storage, r.tokens} {
		if h != nil {
			h.stop()
		}
	}
}

// Host is the registry's host:port on loopback; also its name in references.
func (r *Registry) Host() string { return r.registry.address }

// URL is the registry's address without a path.
func (r *Registry) URL() string {
	if r.options.TLS {
		return "https://" + r.Host()
	}
	return "http://" + r.Host()
}

// CAFile is a PEM file with the certificate of a registry with TLS.
func (r *Registry) CAFile() string { return r.caFile }

// SetPassword changes the password and ends all tokens.
func (r *Registry) SetPassword(password string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.password = password
	clear(r.issued)
}

// user may see some repositories, the one of the options all.
type user struct {
	password     string
	repositories []string
}

// AddUser lets a user see these repositories and no others, instead of what
// the user could see before, and ends all tokens.
func (r *Registry) AddUser(username, password string, repositories ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users[username] = user{password, repositories}
	clear(r.issued)
}

// RemoveUser makes a user one that the registry does not know, and ends all tokens.
func (r *Registry) RemoveUser(username string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.users, username)
	clear(r.issued)
}

// ExpireTokens ends all tokens that were issued.
func (r *Registry) ExpireTokens() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.issued)
}

// Public lets everybody read the repository, of a registry with AuthBearer with an
// anonymous token.
func (r *Registry) Public(repository string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.public[repository] = true
}

// Unpublish takes Public back, and ends all tokens.
func (r *Registry) Unpublish(repository string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.public, repository)
	clear(r.issued)
}

// Token issues a token for a repository, as the token service does to a user
// who may see it.
func (r *Registry) Token(repository string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	token := secret()
	r.issued[token] = grant{scopes: []string{scope(repository)}, until: time.Now().Add(quietLife)}
	return token
}

// Tokens are all that were issued and have not been ended.
func (r *Registry) Tokens() (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for token := range r.issued {
		all = append(all, token)
	}
	return all
}

// Stop ends the registry as a power cut does: connections are closed where
// they stand, and new ones refused until Start.
func (r *Registry) Stop() {
	for _, h := range []*host{r.registry, r.storage, r.tokens} {
		if h != nil {
			h.stop()
		}
	}
}

// Start brings a stopped registry back at the same addresses.
func (r *Registry) Start(t testing.TB) {
	t.Helper()
	for _, h := range []*host{r.registry, r.storage, r.tokens} {
		if h != nil {
			h.start(t)
		}
	}
}

// host is one listening address.
type host struct {
	address string
	tls     bool
	handler http.Handler

	mu      sync.Mutex // guards running
	running *httptest.Server
}

func (r *Registry) listen(t testing.TB, name string, serve func(http.ResponseWriter, *http.Request)) *host {
	t.Helper()
	h := &host{address: Port(t), tls: r.options.TLS, handler: r.logged(name, serve)}
	h.start(t)
	return h
}

func (h *host) server() *httptest.Server {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.running
}

func (h *host) start(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", h.address)
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running = &httptest.Server{Listener: l, Config: &http.Server{Handler: h.handler}, EnableHTTP2: true}
	if h.tls {
		h.running.StartTLS()
	} else {
		h.running.Start()
	}
}

func (h *host) stop() {
	h.mu.Lock()
	running := h.running
	h.running = nil
	h.mu.Unlock()
	if running != nil {
		running.Listener.Close()
		running.CloseClientConnections()
		running.Close()
	}
}

// AddBlob stores content in a repository.
func (r *Registry) AddBlob(repository string, bytesOf []byte) digest.Digest {
	d := digest.FromBytes(bytesOf)
	r.AddBlobAt(repository, d, bytes.NewReader(bytesOf), int64(len(bytesOf)))
	return d
}

// AddBlobAt stores a blob of size bytes that is read from at when asked for. The
// caller answers for the digest.
func (r *Registry) AddBlobAt(repository string, d digest.Digest, at io.ReaderAt, size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.blobs[repository] == nil {
		r.blobs[repository] = make(map[digest.Digest]content)
	}
	r.blobs[repository][d] = content{at, size}
}

// AddManifest stores a manifest or index, as it is.
func (r *Registry) AddManifest(repository, mediaType string, bytesOf []byte) specs.Descriptor {
	d := specs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(bytesOf), Size: int64(len(bytesOf))}
	r.AddManifestAs(repository, mediaType, d.Digest, bytesOf)
	return d
}

// AddManifestAs stores a manifest under a digest that need not be sha256, nor right.
func (r *Registry) AddManifestAs(repository, mediaType string, d digest.Digest, bytesOf []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.manifest[repository] == nil {
		r.manifest[repository] = make(map[digest.Digest]manifest)
	}
	r.manifest[repository][d] = manifest{mediaType, slices.Clone(bytesOf)}
}

// Tag points a tag to a manifest.
func (r *Registry) Tag(repository, tag string, d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tags[repository] == nil {
		r.tags[repository] = make(map[string]digest.Digest)
	}
	r.tags[repository][tag] = d
}

// Untag removes a tag.
func (r *Registry) Untag(repository, tag string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.tags[repository], tag)
}

// Image is what AddImage stored.
type Image struct {
	specs.Descriptor                    // of the manifest
	Manifest         []byte             // its bytes
	Config           specs.Descriptor   // of the config
	Layers           []specs.Descriptor // in order
}

// AddImage stores an OCI image for linux/amd64 of these layers, taken as they
// are, and points the tag to it unless that is empty.
func (r *Registry) AddImage(repository, tag string, layers ...[]byte) Image {
	return r.AddImageFor(repository, tag, specs.Platform{OS: "linux", Architecture: "amd64"}, layers...)
}

// AddImageFor is AddImage for another platform.
func (r *Registry) AddImageFor(repository, tag string, platform specs.Platform, layers ...[]byte) Image {
	config := specs.Image{Platform: platform, RootFS: specs.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}}
	var image Image
	for _, layer := range layers {
		d := r.AddBlob(repository, layer)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, d)
		image.Layers = append(image.Layers, specs.Descriptor{MediaType: specs.MediaTypeImageLayer, Digest: d, Size: int64(len(layer))})
	}
	encoded := encode(config)
	image.Config = specs.Descriptor{MediaType: specs.MediaTypeImageConfig, Digest: r.AddBlob(repository, encoded), Size: int64(len(encoded))}
	m := specs.Manifest{MediaType: specs.MediaTypeImageManifest, Config: image.Config, Layers: image.Layers}
	m.SchemaVersion = 2
	if m.Layers == nil {
		m.Layers = []specs.Descriptor{}
	}
	image.Manifest = encode(m)
	image.Descriptor = r.AddManifest(repository, specs.MediaTypeImageManifest, image.Manifest)
	image.Descriptor.Platform = &platform
	if tag != "" {
		r.Tag(repository, tag, image.Digest)
	}
	return image
}

// AddIndex stores an OCI index of these images and points the tag to it
// unless that is empty.
func (r *Registry) AddIndex(repository, tag string, images ...Image) (specs.Descriptor, []byte) {
	index := specs.Index{MediaType: specs.MediaTypeImageIndex, Manifests: []specs.Descriptor{}}
	index.SchemaVersion = 2
	for _, image := range images {
		index.Manifests = append(index.Manifests, image.Descriptor)
	}
	encoded := encode(index)
	d := r.AddManifest(repository, specs.MediaTypeImageIndex, encoded)
	if tag != "" {
		r.Tag(repository, tag, d.Digest)
	}
	return d, encoded
}

func encode(v any) []byte {
	encoded, err := json.Marshal(v)
	if err != nil {
		panic(err) // the types are ours and always encode
	}
	return encoded
}

// Bytes returns n bytes that do not compress, the same for the same seed.
func Bytes(seed byte, n int) []byte {
	b := make([]byte, n)
	state := uint64(seed)*0x9e3779b97f4a7c15 + 1
	for i := range b {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		b[i] = byte(state >> 32)
	}
	return b
}

func secret() string { return fmt.Sprintf("secret-%s", rand.Text()) }
