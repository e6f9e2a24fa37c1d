package layerstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Options of a store. Root is needed; every other zero value is the default.
type Options struct {
	Root string       // an absent or empty folder, or a store's
	Log  *slog.Logger // default: nothing is logged

	// StallAfter is how long a body may be silent before it is given up and
	// asked for again from where it stopped. Default 3 s: a registry that
	// sends at all sends something every second.
	StallAfter time.Duration
	// SpreadEvery is how often a transfer is looked at to find out whether
	// several requests side by side would be faster. Default 200 ms.
	SpreadEvery time.Duration
	// TouchEvery is how often times of use are written. Default one minute:
	// they decide on eviction in days, and a hit must not cost a write.
	TouchEvery time.Duration
	// MaxSize is how many bytes the blobs may take before images that were not
	// used for long are evicted. 0: as many as there is room for.
	MaxSize int64
	// MinFree is how much of the file system is kept free by the same means.
	// Default: nothing.
	MinFree Reserve
	// MaxAge is how long an image stays that nobody uses. 0: for ever.
	MaxAge time.Duration
	// LookEvery is how often it is looked, besides after each commit, whether
	// these limits are kept. Default one minute; negative: never, and the
	// store collects only when it is told to (Store.Collect).
	LookEvery time.Duration
	// VerifyAfter is how old the proof of a blob may become before the blob is
	// proven again, at its next hit or by the background scrub. Default 7 days;
	// negative: never.
	VerifyAfter time.Duration
	// ScrubRate is how many bytes a second the background scrub reads at most.
	// Default 8 MiB; negative: there is none.
	ScrubRate int64
	// Disk tells the size of the file system and what is free of it, in bytes.
	// Default: what the system says of the root.
	Disk func() (capacity, free uint64, err error)
	// Describe is shown small blobs that are found without a row, and tells
	// the media type of those that refer to others, and to which: the index
	// is rebuilt by it. It may be called in parallel. Default: none are known.
	Describe func(content []byte) (mediaType string, refs []digest.Digest, ok bool)
	// AwaitRoots holds collections that run by themselves back until
	// [Store.RootsSet]: who keeps roots in rows of its own sets those anew that a
	// lost index has lost, which takes it a moment after Open.
	AwaitRoots bool
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.StallAfter == 0 {
		o.StallAfter = 3 * time.Second
	}
	if o.SpreadEvery == 0 {
		o.SpreadEvery = defaultSpreadEvery
	}
	if o.TouchEvery == 0 {
		o.TouchEvery = time.Minute
	}
	if o.LookEvery == 0 {
		o.LookEvery = defaultLookEvery
	}
	if o.VerifyAfter == 0 {
		o.VerifyAfter = defaultVerifyAfter
	}
	if o.ScrubRate == 0 {
		o.ScrubRate = defaultScrubRate
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Store is an open store. All methods may be called in parallel.
type Store struct {
	layout layout
	index  *index
	log    *slog.Logger
	stall  time.Duration

	spreadEvery time.Duration
	now         func() time.Time
	lock        *os.File
	commit      *committer
	describe    func([]byte) (string, []digest.Digest, bool) // see Options; may be nil
	usage       *usage
	inUse       *inUse
	limits      limits
	disk        func() (capacity, free uint64, err error)
	collector   *collector
	counts      counts
	derived     atomic.Pointer[Derived] // see SetDerived; nil: nobody makes anything of blobs

	ingests ingests
	unheld  unheld
	streams streams

	// What the disk refuses: to keep blobs, to write rows, to open or read blobs.
	keeping, indexing, reading trouble

	// suspects are digests that proved wrong lately.
	suspects suspects

	proofs *proofs
	losses *losses
	turns  chan struct{} // one token for each blob that is being proven again
	pace   *pace         // of scrubs in the background

	ctx    context.Context // ends when the store closes; flights live under it
	cancel context.CancelFunc
	flying sync.WaitGroup // flights, and puts under way
	tasks  sync.WaitGroup // background work

	mu        sync.Mutex // guards what follows
	flights   map[digest.Digest]*flight
	verifying map[digest.Digest]*verification
	dropping  map[digest.Digest]chan struct{} // partial files that are being removed
	closed    bool
}

// counts are what df and metrics ask for.
type counts struct {
	scrubbed, quarantined, repaired atomic.Int64

	blobs, bytes atomic.Int64
	fetched      atomic.Int64
	bypassed     atomic.Int64

	evictions, evicted atomic.Int64 // blobs, and bytes of them
	trashed            atomic.Int64 // files that lost their names
}

func (s *Store) count(blobs int, bytes int64) {
	s.counts.blobs.Add(int64(blobs))
	s.counts.bytes.Add(bytes)
}

// Open opens or makes the store at o.Root, reconciles files with rows, and
// drops partial files that nobody can go on with. It needs no network. A store
// on a read-only file system is opened as well: what is here is given, the rest
// goes past it, and it is kept again when the file system can be written. Errors:
// [ErrLocked], [ErrForeign], [ErrNewer], and those of the file system.
func Open(o Options) (*Store, error) {
	o = o.withDefaults()
	if o.Root == "" {
		return nil, errors.New("a store needs a root folder")
	}
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return nil, err
	}
	l := layout{root}
	if o.Disk == nil {
		o.Disk = l.disk
	}
	lock, err := l.claim()
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s, err := open(l, lock, o)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

func open(l layout, lock *os.File, o Options) (*Store, error) {
	if err := l.build(); err != nil {
		return nil, err
	}
	x, err := openIndex(l, o.Log)
	if err != nil {
		return nil, err
	}
	s := &Store{
		layout: l, index: x, log: o.Log, stall: o.StallAfter, spreadEvery: o.SpreadEvery, now: o.Now, lock: lock,
		usage: newUsage(), describe: o.Describe,
		inUse:  newInUse(),
		limits: limits{o.MaxSize, o.MinFree, o.MaxAge},
		disk:   o.Disk, collector: newCollector(),
		flights:  map[digest.Digest]*flight{},
		dropping: map[digest.Digest]chan struct{}{},
		pace:     newPace(o.ScrubRate),
	}
	s.unheld.stale.Store(true)
	if err := s.trustFrom(o); err != nil {
		x.db.Close()
		return nil, err
	}
	if err := s.reconcile(); err != nil {
		x.db.Close()
		return nil, err
	}
	if s.losses, err = x.loadLosses(); err != nil {
		x.db.Close()
		return nil, err
	}
	x.db.Settle()
	s.tellTroubles(o.Log)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.commit = newCommitter(s)
	s.tasks.Go(s.commit.run)
	s.tasks.Go(func() { s.writeUsage(o.TouchEvery) })
	s.tasks.Go(func() { s.writeProofs(o.TouchEvery) })
	if o.ScrubRate > 0 && o.VerifyAfter > 0 {
		s.tasks.Go(s.scrubbing)
	}
	if o.LookEvery > 0 {
		if !o.AwaitRoots {
			s.RootsSet()
		}
		s.tasks.Go(func() { s.collectAlways(o.LookEvery) })
	}
	return s, nil
}

// Close ends all flights, whose partial files stay for the next process, writes
// what is kept in memory and gives the root free. Open readers of sealed blobs
// read on; followers of a flight get [ErrClosed].
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.flying.Wait()
	left := s.ingests.close()
	s.commit.stop()
	s.tasks.Wait()
	err := s.index.touch(s.usage.take())
	if err == nil {
		err = s.proofs.stop()
	}
	if errors.Is(err, unix.EROFS) {
		err = nil // told when it began; the next Open takes the stop for one that was not clean
	}
	return errors.Join(left, err, s.index.db.Close(), s.lock.Close())
}

// Root is the absolute path of the store's folder.
func (s *Store) Root() string { return s.layout.root }

// Info is what the store knows of a sealed blob.
type Info struct {
	Digest    digest.Digest
	Size      int64 // bytes
	MediaType string
	Sealed    time.Time
	Used      time.Time
}

// Stat tells of a sealed blob, or [ErrNotFound].
func (s *Store) Stat(d digest.Digest) (Info, error) {
	r, err := s.index.get(d)
	if errors.Is(err, ErrNotFound) {
		return Info{}, fmt.Errorf("%s: %w", d, ErrNotFound)
	}
	if err != nil {
		return Info{}, storageError("read index", err)
	}
	info := Info{Digest: d, Size: r.Size, MediaType: r.MediaType, Sealed: r.Sealed, Used: r.Used}
	if at, ok := s.usage.last(d); ok {
		info.Used = at
	}
	return info, nil
}

// Touch notes that d was used now. It costs no disk access.
func (s *Store) Touch(d digest.Digest) { s.usage.touch(d, s.now()) }

// Put keeps small content, such as a manifest, with the digests it refers to,
// and returns when it is durable. The content must hash to desc.Digest
// (*[DigestError] otherwise). Putting what is here again only adds edges. What is
// begun is ended, whatever becomes of ctx: it takes no longer than a disk does.
func (s *Store) Put(ctx context.Context, desc specs.Descriptor, content []byte, refs ...digest.Digest) error {
	return s.PutRooted(ctx, "", desc, content, refs...)
}

// PutRooted is Put with a root of that name (see [Store.SetRoot]), which is set in the
// same write; "" sets none.
func (s *Store) PutRooted(ctx context.Context, root string, desc specs.Descriptor, content []byte, refs ...digest.Digest) error {
	if err := checkDigest(desc.Digest); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if got := desc.Digest.Algorithm().FromBytes(content); got != desc.Digest {
		return &DigestError{Want: desc.Digest, Got: got}
	}
	if s.keeps(desc, int64(len(content))) {
		present, err := s.index.addRefs(desc.Digest, refs, root)
		if present || err != nil {
			return storageError("record edges", err)
		}
	}
	return s.commit.put(desc, root, content, refs)
}

// keeps reports whether a blob is here with its file and all that desc says: a
// row without a file, or without the media type that was lost with the process
// that knew it, is mended by sealing again.
func (s *Store) keeps(desc specs.Descriptor, size int64) bool {
	r, err := s.index.get(desc.Digest)
	if err != nil || (r.MediaType == "" && desc.MediaType != "") {
		return false
	}
	info, err := os.Lstat(s.layout.blob(desc.Digest))
	return err == nil && info.Size() == size
}

// enter lets work begin that Close waits for. Who got nil calls flying.Done.
func (s *Store) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.flying.Add(1)
	return nil
}

// ReadAll reads a sealed blob of at most limit bytes into memory. It is not
// verified again. Errors: [ErrNotFound], *[SizeError] when it is larger.
func (s *Store) ReadAll(d digest.Digest, limit int64) ([]byte, error) {
	if err := checkDigest(d); err != nil {
		return nil, err
	}
	f, err := os.Open(s.layout.blob(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", d, ErrNotFound)
	}
	if err != nil {
		return nil, storageError("open blob", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, storageError("read blob", err)
	}
	if int64(len(content)) > limit {
		return nil, &SizeError{Digest: d, Want: limit, Got: int64(len(content))}
	}
	return content, nil
}

// IsSHA256 reports whether d is a well-formed digest of the usual algorithm. It
// says so for each request without the pattern that digest.Validate goes by.
func IsSHA256(d digest.Digest) bool {
	hex, is := strings.CutPrefix(string(d), "sha256:")
	if !is || len(hex) != 64 {
		return false
	}
	for i := range len(hex) {
		if c := hex[i]; (c < '0' || '9' < c) && (c < 'a' || 'f' < c) {
			return false
		}
	}
	return true
}

// checkDigest refuses what could not be a file name or is not registered.
func checkDigest(d digest.Digest) error {
	if IsSHA256(d) {
		return nil
	}
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", d, err)
	}
	for _, a := range algorithms {
		if d.Algorithm() == a {
			return nil
		}
	}
	return fmt.Errorf("digest %q: %w", d, digest.ErrDigestUnsupported)
}
