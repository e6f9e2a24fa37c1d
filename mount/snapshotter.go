package mount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore/boltfile"
)

// DefaultPrepareWait bounds how long a Prepare waits for a layer that is being
// fetched and unpacked. It is as long as a slow line needs for a large layer;
// containerd would need as long, and fetch it a second time.
const DefaultPrepareWait = 10 * time.Minute

// Options configures [Open]. Root, Forms and Images are required; the zero
// value of every other field is its default.
type Options struct {
	Root   string // folder of the room, absolute; made when it is missing
	Forms  Forms
	Images Images
	// PrepareWait bounds how long a Prepare waits for a layer; default:
	// DefaultPrepareWait; negative: it does not wait.
	PrepareWait time.Duration
	// Log gets what an operator should know; default: discarded.
	Log *slog.Logger
}

// Snapshotter is containerd's snapshots.Snapshotter and snapshots.Cleaner. All
// methods may be called in parallel. Errors are those of containerd's errdefs.
type Snapshotter struct {
	folders     folders
	rows        *storage.MetaStore
	forms       Forms
	images      Images
	prepareWait time.Duration
	log         *slog.Logger
	overlay     []string // options of every overlay mount
	counts      counts
	told        told
	growing     growing
	sweeper     *sweeper

	// taking is held while holds on forms and the rows that they are for change
	// together. It is taken before a transaction of rows, never within one.
	taking sync.Mutex
}

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

// Open opens the room, or makes it. It tells Forms which forms are in use before it
// returns; what a kill left behind is swept in the background. The caller
// closes it.
func Open(o Options) (*Snapshotter, error) {
	if strings.ContainsAny(o.Root, `:,\"`) {
		return nil, fmt.Errorf(`%s: a path with one of : , \ " cannot be told to overlayfs: choose another folder`, o.Root)
	}
	s := &Snapshotter{folders: folders{o.Root}, forms: o.Forms, images: o.Images, prepareWait: o.PrepareWait, log: o.Log}
	if s.prepareWait == 0 {
		s.prepareWait = DefaultPrepareWait
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.folders.make(); err != nil {
		return nil, err
	}
	s.overlay = s.overlayOptions()
	if err := s.openRows(); err != nil {
		return nil, err
	}
	if err := s.holdForms(); err != nil {
		return nil, errors.Join(err, s.rows.Close())
	}
	s.sweeper = startSweeper(s.sweep)
	return s, nil
}

// openRows opens the database of rows. One that is damaged is set aside, with
// all that containerd knows of here: it pulls anew. What containers wrote stays.
func (s *Snapshotter) openRows() error {
	db, err := boltfile.Open(s.folders.database(), s.log, func(*bolt.Tx) error { return nil })
	if err != nil {
		return fmt.Errorf("snapshots: %w", err)
	}
	if err := db.Close(); err != nil { // containerd's storage opens it itself
		return err
	}
	s.rows, err = storage.NewMetaStore(s.folders.database(), boundedLock)
	if err != nil {
		return err
	}
	if err = s.rescue(); err == nil {
		err = s.update(context.Background(), makeBuckets)
	}
	if err != nil {
		return errors.Join(err, s.rows.Close())
	}
	s.tellRescued()
	return nil
}

// boundedLock gives up on a file that another process has open.
func boundedLock(o *bolt.Options) error {
	o.Timeout = time.Second
	return nil
}

// makeBuckets has storage make its buckets, which it does with the first row:
// without them it answers that nothing is found where nothing is there.
func makeBuckets(ctx context.Context) error {
	if _, err := storage.IDMap(ctx); err == nil {
		return nil
	}
	const first = "imagecache/first"
	if _, err := storage.CreateSnapshot(ctx, snapshots.KindView, first, ""); err != nil {
		return err
	}
	_, _, err := storage.Remove(ctx, first)
	return err
}

// overlayOptions are those that containerd's own snapshotter gives. index=on
// would refuse an upper folder that was mounted over other lowers before.
func (s *Snapshotter) overlayOptions() []string {
	var options []string
	if needed, err := overlayutils.NeedsUserXAttr(s.folders.root); err != nil {
		s.log.Warn("cannot tell whether overlayfs needs userxattr here: taking it that it does not", "error", err)
	} else if needed {
		options = append(options, "userxattr")
	}
	if _, err := os.Stat("/sys/module/overlay/parameters/index"); err == nil {
		options = append(options, "index=off")
	}
	return options
}

// Close ends what runs in the background. Snapshots, mounts and forms stay as
// they are. It may be called twice.
func (s *Snapshotter) Close() error {
	s.sweeper.stop()
	return s.rows.Close()
}

// update runs fn in a transaction that writes rows; fn does no I/O.
func (s *Snapshotter) update(ctx context.Context, fn func(context.Context) error) error {
	return s.rows.WithTransaction(ctx, true, fn)
}

// read runs fn in a transaction that reads rows. fn calls nobody who could
// want another one: two at once in one goroutine can wait for each other for ever.
func (s *Snapshotter) read(ctx context.Context, fn func(context.Context) error) error {
	return s.rows.WithTransaction(ctx, false, fn)
}

// folders are the places of the room.
type folders struct{ root string }

func (f folders) database() string { return filepath.Join(f.root, "snapshots.db") }
func (f folders) layers() string   { return filepath.Join(f.root, "layers") }
func (f folders) removed() string  { return filepath.Join(f.root, "removed") }
func (f folders) rescued() string  { return filepath.Join(f.root, "rescued") }
func (f folders) people() string   { return filepath.Join(f.root, "rootfs") }

// make makes them. Their modes do not follow the umask: the root keeps others
// out.
func (f folders) make() error {
	for _, dir := range []string{f.root, f.layers(), f.removed(), f.people()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("snapshots: %w", err)
		}
	}
	return nil
}
