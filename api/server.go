package api

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/api/access"
	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
)

// Content is what the mirror serves. Errors are *registry.Error where it is
// known what went wrong. All methods may be called in parallel, and obey ctx
// while they wait; a transfer that they started goes on without it.
type Content interface {
	// Manifest gives a manifest or index, byte for byte as it was pushed.
	Manifest(ctx context.Context, ref registry.Reference) (*registry.Manifest, registry.Answer, error)
	// Blob opens a blob, following its transfer when it is not here yet. ctx
	// governs the reads too; the caller closes the blob.
	Blob(ctx context.Context, in registry.Repository, d digest.Digest) (*layerstore.Blob, registry.Answer, error)
	// BlobInfo gives the size of a blob in bytes without transferring it.
	BlobInfo(ctx context.Context, in registry.Repository, d digest.Digest) (int64, registry.Answer, error)
	// Tags lists all tags of a repository, sorted; a stale answer has those that are known here.
	Tags(ctx context.Context, in registry.Repository) ([]string, registry.Answer, error)
}

// Home is what clients push to and delete from. Errors are *registry.Error
// where it is known what went wrong.
type Home interface {
	// Takes reports whether images of a registry's name may be pushed to us,
	// and Through whether that is for an upstream to decide.
	Takes(registry string) bool
	Through(registry string) bool
	PutManifest(ctx context.Context, ref registry.Reference, mediaType string, content []byte, further ...registry.Reference) (registry.Pushed, error)
	DeleteManifest(ctx context.Context, in registry.Repository, d digest.Digest) error
	DeleteTag(ctx context.Context, ref registry.Reference) error
	DeleteBlob(ctx context.Context, in registry.Repository, d digest.Digest) error
	MountBlob(ctx context.Context, in registry.Repository, d digest.Digest, from registry.Repository) (mounted bool, err error)
	Holders(ctx context.Context, d digest.Digest) ([]registry.Repository, error)
	StartUpload(ctx context.Context, in registry.Repository, by string) (registry.Upload, error)
	UploadStatus(ctx context.Context, in registry.Repository, id string) (registry.Upload, error)
	BegunBy(ctx context.Context, in registry.Repository, id, by string) bool
	AppendUpload(ctx context.Context, in registry.Repository, id string, p registry.Piece) (registry.Upload, error)
	FinishUpload(ctx context.Context, in registry.Repository, id string, d digest.Digest, p registry.Piece) error
	CancelUpload(ctx context.Context, in registry.Repository, id string) error
	Catalog(ctx context.Context) ([]string, error)
}

// Pins is the administration of pins. progress may be called from any
// goroutine until the method returns; nil platforms mean the configured ones.
type Pins interface {
	Pin(ctx context.Context, ref registry.Reference, platforms []string, progress func(registry.Progress)) (registry.Pin, error)
	Unpin(ctx context.Context, ref registry.Reference) error
	Pins(ctx context.Context, drift bool) ([]registry.Pin, error)
}

// Images is the administration of what is cached.
type Images interface {
	Pull(ctx context.Context, ref registry.Reference, platforms []string, progress func(registry.Progress)) (registry.Image, error)
	Images(ctx context.Context) ([]registry.Image, error)
	Inspect(ctx context.Context, ref registry.Reference) (registry.Inspection, error)
	Remove(ctx context.Context, ref registry.Reference) (registry.Removed, error)
}

// Keeping is the care of what is stored.
type Keeping interface {
	// Scrub proves stored blobs again and repairs what is rotten. progress may
	// be called until it returns.
	Scrub(ctx context.Context, all bool, progress func(registry.Progress)) (registry.Scrubbed, error)
	// Collect evicts what the limits of the store ask for, or tells what it would.
	Collect(ctx context.Context, dryRun bool) (registry.Collection, error)
}

// Health is how it stands: upstreams, counts, space.
type Health interface {
	Status(ctx context.Context) registry.Status
	DiskUsage(ctx context.Context) (registry.DiskUsage, error)
	// Space is DiskUsage without the images: cheap enough for every scrape.
	Space() (registry.DiskUsage, error)
}

// Registry is everything that is served; *registry.Registry has it.
type Registry interface {
	Content
	Home
	Pins
	Desired
	Images
	Keeping
	Health
	Archives
}

var _ Registry = (*registry.Registry)(nil)

// Options configures [New]. Registry is required; the zero value of every
// other field is its default.
type Options struct {
	Registry Registry
	// Log gets what an operator should know; default: discarded.
	Log *slog.Logger
	// AccessLog gets one line for each request; default: none.
	AccessLog *slog.Logger
	// Version is what build_info and the status say; default: "unknown".
	Version string
	// Listen is the mirror's address as the status shows it.
	Listen string
	// Push lets whoever reaches the mirror push to homes and delete from them,
	// where no rule says who may.
	Push bool
	// Gate says who callers are and what they may; default: everybody may.
	Gate *access.Gate
	// Lockfile tells how it goes with the lockfile that is followed; default:
	// none is.
	Lockfile func() *registry.LockfileStatus
	// Snapshotter tells how it stands with the snapshotter; default: there is none.
	Snapshotter func() *SnapshotterStatus
	// Forms proves unpacked layers; default: there are none.
	Forms FormScrubber
	// Rootfs gives root filesystems to people; default: nobody does.
	Rootfs RootFilesystems
	// Now is the clock of the access log; default: time.Now.
	Now func() time.Time
}

// Server makes the handlers. It has no goroutines and needs no closing.
type Server struct {
	registry    Registry
	log         *slog.Logger
	access      *slog.Logger
	version     string
	listen      string
	lockfile    func() *registry.LockfileStatus
	snapshotter func() *SnapshotterStatus
	forms       FormScrubber
	rootfs      RootFilesystems
	push        bool
	gate        *access.Gate
	now         func() time.Time
	metrics     *metrics
	draining    atomic.Bool
	proven      bool // some upstream wants to see a caller's own credential
}

// New makes a server. Its metrics are its own: two servers in one process do
// not disturb each other.
func New(o Options) *Server {
	s := &Server{registry: o.Registry, log: o.Log, access: o.AccessLog, version: o.Version, listen: o.Listen, lockfile: o.Lockfile, snapshotter: o.Snapshotter, forms: o.Forms, rootfs: o.Rootfs, push: o.Push, gate: o.Gate, now: o.Now}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.version == "" {
		s.version = "unknown"
	}
	if s.gate == nil {
		s.gate, _ = access.New(access.Options{}) // which cannot fail
	}
	if s.now == nil {
		s.now = time.Now
	}
	if p, ok := o.Registry.(proving); ok {
		s.proven = p.Proving()
	}
	s.metrics = newMetrics(s.registry, s.version)
	if s.snapshotter != nil {
		s.metrics.registry.MustRegister(newSnapshotterMetrics(s.snapshotter))
	}
	return s
}

// Drain makes /readyz answer 503 from now on. Requests are served as before:
// the owner of the listener shuts it down when the balancers have noticed.
func (s *Server) Drain() { s.draining.Store(true) }

// Mirror serves /v2/, metrics and health: the address that clients pull from.
func (s *Server) Mirror() http.Handler {
	router := s.router(s.scrapes)
	pull := s.handle(kindOther, s.pull)
	router.HandleFunc(access.TokenPath, s.handle(kindOther, s.token))
	router.MethodNotAllowed(s.handle(kindOther, refuseMethod(readMethods)))
	return s.ownPages(kindOther, s.ownBrowsers(first(pull, router)))
}

// first has pull answer what is below /v2/, and rest everything else. Nearly
// all requests are of the one kind, and are spared being looked up and copied
// by a router that has nothing to tell of them.
func first(pull, rest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.RawPath // as the router takes it: "" where nothing is escaped
		if path == "" {
			path = r.URL.Path
		}
		if path == "/v2" || strings.HasPrefix(path, "/v2/") {
			pull.ServeHTTP(w, r)
			return
		}
		rest.ServeHTTP(w, r)
	})
}

// router has what all addresses serve, the metrics behind a guard. Chi neither
// cleans nor redirects a path, so that one with ".." or "//" reaches the
// handler that refuses it.
func (s *Server) router(scrapes guard) chi.Router {
	router := chi.NewRouter()
	router.NotFound(s.handle(kindOther, func(*record, *http.Request) error { return errNoEndpoint }))
	for path, h := range map[string]handler{"/healthz": s.healthz, "/readyz": s.readyz, metricsPath: scrapes(s.metrics.serve)} {
		h := s.handle(kindOther, h)
		router.Get(path, h)
		router.Head(path, h)
	}
	return router
}

// readMethods are the methods of everything that only reads.
const readMethods = "GET, HEAD"

func refuseMethod(allow string) handler {
	return func(*record, *http.Request) error { return errMethod(allow) }
}
