package forms

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/mount/erofs"
)

const (
	// More processors for unpacking would be missed by those who run containers.
	defaultWorkers     = 4
	defaultMaxUnpacked = 64 << 30
	// What a small blob may always unpack to, and how much more than its size a
	// larger one may: gzip packs zeros 1 to 1030, and no honest layer comes near 100.
	leastUnpacked = 1 << 30
	unpackedRatio = 100
	defaultLinger = time.Minute
	// The layers of one pull are often made within this time: a sync of the file
	// system for each would slow down the pull.
	defaultSealDelay = 2 * time.Second
	// For each worker this many layers are begun: those that wait for bytes of
	// their flights need no processor.
	makingsPerWorker = 3
	bootIDFile       = "/proc/sys/kernel/random/boot_id"
)

// Options say where forms are and how they are made. Only Root is needed.
type Options struct {
	Root string // a folder of our own, made when it is not there
	Kind string // of new forms: KindAuto (default), KindDirectory, KindEROFS
	// Workers is how many layers are decompressed and unpacked at the same moment;
	// default: the processors, at most 4.
	Workers int
	// MaxUnpacked is how many bytes one layer may unpack to; default 64 GiB. Less is
	// allowed to a small blob: the larger of 1 GiB and 100 times its size.
	MaxUnpacked int64
	// Linger is how long a making goes on when nobody waits for it any more;
	// default 1 minute.
	Linger time.Duration
	// Blob opens a layer's compressed bytes as Layer.Open does, for a form that has
	// to be made again while nobody asks with a Layer: after a power cut, or when
	// it has rotted. nil: such a form waits until somebody asks.
	Blob func(ctx context.Context, diffID digest.Digest, blob specs.Descriptor) (io.ReadCloser, error)
	// Here reports whether the store has a blob, or an image that names it: a form
	// of which neither is true belongs to nobody. It answers from memory or one
	// look-up, and may be called while the store collects. nil: all are here.
	Here func(blob digest.Digest) bool
	// SealDelay is how long forms that were made are gathered before they are synced
	// together; default 2 seconds.
	SealDelay time.Duration
	Log       *slog.Logger
	Now       func() time.Time
	// BootID tells this boot of the machine from others; default: the kernel's.
	BootID string
}

// withDefaults fills in what was left out.
func (o Options) withDefaults() (Options, error) {
	if o.Root == "" {
		return o, fmt.Errorf("forms need a folder")
	}
	if o.Kind == "" {
		o.Kind = KindAuto
	}
	if !slices.Contains([]string{KindAuto, KindDirectory, KindEROFS}, o.Kind) {
		return o, fmt.Errorf("kind of form %q: want %s, %s or %s", o.Kind, KindAuto, KindDirectory, KindEROFS)
	}
	if o.Workers <= 0 {
		o.Workers = min(runtime.GOMAXPROCS(0), defaultWorkers)
	}
	if o.MaxUnpacked <= 0 {
		o.MaxUnpacked = defaultMaxUnpacked
	}
	if o.Linger <= 0 {
		o.Linger = defaultLinger
	}
	if o.SealDelay <= 0 {
		o.SealDelay = defaultSealDelay
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.BootID == "" {
		id, err := os.ReadFile(bootIDFile)
		if err != nil {
			return o, fmt.Errorf("which boot of the machine this is: %w", err)
		}
		o.BootID = string(bytes.TrimSpace(id))
	}
	return o, nil
}

// Forms are the unpacked layers below one folder. All methods may be called in
// parallel.
type Forms struct {
	o       Options
	at      layout
	index   *index
	log     *slog.Logger
	support func() erofs.Support // what the probe told; probes at the first call
	newKind func() string        // of forms to be made
	trouble trouble
	turns   chan struct{} // a token for each worker
	large   chan struct{} // the one token for a layer that takes much memory

	ctx    context.Context // ends when Close is called
	stop   context.CancelCauseFunc
	work   sync.WaitGroup // makings and background work
	counts counts
	moves  atomic.Int64 // see Progress

	seals   signal // something may want to be sealed
	tidying signal // something may want to be deleted or unmounted

	mu       sync.Mutex // guards what follows, and the fields of a form and a making that say so
	closed   bool
	forms    map[uint64]*form
	keys     map[key]*form
	blobs    map[digest.Digest]map[*form]bool
	parented map[digest.Digest]bool // diff IDs that need the layers below
	makings  map[key]*making
	places   places
	refused  refusals
	going    map[key]chan struct{} // closed when what was dropped has left its place
	users    map[string]map[uint64]bool
	settled  bool     // Rehold was called
	orphans  []string // below layers/, without a row
	next     uint64   // the number given last
	first    uint64   // that this process may give
	serial   int      // of folders in making/ and dropped/
	doomed   []string // paths to delete
	unlend   []*form  // to be unmounted unless somebody holds them again
	keeping  []keep
	deleting int // deletions under way
	idle     idleForms
}

// Open opens the forms, or makes their folder. What the last process left behind
// is looked at in the background; a form that is damaged, or whose bytes a power
// cut may have taken, is made again when somebody wants it. Until [Forms.Rehold]
// nothing is removed. Errors: [ErrBusy], [ErrNewer], those of the file system.
func Open(o Options) (*Forms, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	f := &Forms{
		o: o, at: layout{o.Root}, log: o.Log, trouble: trouble{log: o.Log}, turns: make(chan struct{}, o.Workers), large: make(chan struct{}, 1),
		seals: newSignal(), tidying: newSignal(), places: places{free: makingsPerWorker * o.Workers},
		forms: map[uint64]*form{}, keys: map[key]*form{}, blobs: map[digest.Digest]map[*form]bool{},
		parented: map[digest.Digest]bool{}, makings: map[key]*making{}, refused: refusals{},
		going: map[key]chan struct{}{}, users: map[string]map[uint64]bool{},
	}
	f.support = sync.OnceValue(f.probe)
	f.newKind = sync.OnceValue(f.chooseKind)
	if err := f.at.build(); err != nil {
		return nil, err
	}
	if f.index, err = openIndex(f.at, f.log); err != nil {
		return nil, err
	}
	f.ctx, f.stop = context.WithCancelCause(context.Background())
	f.load()
	f.leftovers()
	f.work.Go(f.sealing)
	f.work.Go(f.tidy)
	f.seals.raise()
	f.tidying.raise()
	return f, nil
}

func (f *Forms) probe() erofs.Support { return erofs.Probe(f.at.probe()) }

func (f *Forms) chooseKind() string {
	if f.o.Kind == KindDirectory {
		return KindDirectory
	}
	if s := f.support(); s.Way == erofs.None {
		if f.o.Kind == KindEROFS {
			f.log.Warn("EROFS cannot be used here: layers are kept as directories", "why", s)
		}
		return KindDirectory
	}
	return KindEROFS
}

// Close ends makings and background work, and waits for them. Mounts of forms
// stay: containers run on them.
func (f *Forms) Close() error {
	f.mu.Lock()
	closed := f.closed
	f.closed = true
	f.mu.Unlock()
	f.stop(ErrClosed)
	f.work.Wait()
	if closed {
		return nil
	}
	f.writeUse()
	return f.index.db.Close()
}
