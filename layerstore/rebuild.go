package layerstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/layerstore/boltfile"
)

const (
	// Files that are hashed side by side when they are taken in: two keep a
	// disk busy, and leave the machine, which is starting, cores for others.
	adoptersAtOnce = 2
	// Files that are taken in get their rows this often, so that a start
	// that is cut off does not begin anew, and say how far they are.
	adoptEvery = 3 * time.Second
	adoptBatch = 1000
	// Larger blobs are not shown to Options.Describe: registries take
	// manifests of at most this many bytes.
	describeMost = 4 << 20
	// No store is opened so often that its epoch takes more: one more is added
	// at each start.
	epochBits = 63
)

// checkRows finds rows that cannot be read. No row is worth more than the
// blobs, of which all can be learned again.
func checkRows(tx *bolt.Tx) error {
	for name, check := range map[string]func(k, v []byte) error{
		string(bucketBlobs): func(k, v []byte) error {
			var r row
			return errors.Join(digest.Digest(k).Validate(), json.Unmarshal(v, &r), checkSize(r.Size))
		},
		string(bucketRefs): func(k, _ []byte) error {
			parent, child := splitRefKey(k)
			return errors.Join(parent.Validate(), child.Validate())
		},
		string(bucketRoots): func(_, v []byte) error { return digest.Digest(v).Validate() },
		string(bucketLost): func(k, v []byte) error {
			var loss Loss
			return errors.Join(digest.Digest(k).Validate(), json.Unmarshal(v, &loss), checkSize(loss.Size))
		},
		string(bucketMeta): func(k, v []byte) error {
			if !bytes.Equal(k, keyEpoch) {
				return nil
			}
			_, err := strconv.ParseUint(string(v), 10, epochBits)
			return err
		},
	} {
		err := tx.Bucket([]byte(name)).ForEach(check)
		if err != nil {
			return &boltfile.Damage{Err: fmt.Errorf("a row of %s: %w", name, err)}
		}
	}
	return nil
}

func checkSize(n int64) error {
	if n < 0 {
		return fmt.Errorf("a size of %d bytes", n)
	}
	return nil
}

// adoption is the taking in of files that have no row.
type adoption struct {
	store *Store
	files map[digest.Digest]int64
	found chan sealed // files that are right

	blobs int   // taken in
	bytes int64 // of them
	rows  []sealed
}

// adopt gives rows to files that have none: proven before a kill or a power
// cut, put there by somebody, or all of them when the index was lost. Each is
// hashed; one that is wrong or cannot be read is removed.
func (s *Store) adopt(files map[digest.Digest]int64) error {
	if len(files) == 0 {
		return nil
	}
	a := &adoption{store: s, files: files, found: make(chan sealed)}
	group, ctx := errgroup.WithContext(context.Background())
	group.Go(func() error { return a.collect(ctx) })
	group.Go(func() error {
		defer close(a.found)
		return a.judgeAll(ctx)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	s.log.Info("blobs taken in that had no row", "count", a.blobs, "bytes", a.bytes)
	return nil
}

func (a *adoption) judgeAll(ctx context.Context) error {
	judges, ctx := errgroup.WithContext(ctx)
	judges.SetLimit(adoptersAtOnce)
	for d := range a.files {
		judges.Go(func() error { return a.judge(ctx, d) })
	}
	return judges.Wait()
}

// judge hands over a file that is right, and removes one that is not. One that
// cannot be read now, for want of descriptors or because the disk fails, may
// be the only copy of what a pin needs: it stays for the next start.
func (a *adoption) judge(ctx context.Context, d digest.Digest) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	found, err := a.store.appraise(d)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil && !noBlob(err) {
		a.store.log.Error("blob cannot be read and is left alone", "digest", d, "error", err)
		return nil
	}
	if err != nil {
		// One that cannot even be removed has no row, and so no proof.
		a.store.log.Warn("file is no blob and is removed", "digest", d, "error", err, "failed", os.Remove(a.store.layout.blob(d)))
		return nil
	}
	select {
	case a.found <- found:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// noBlob reports whether an error of appraise says what the file is, rather
// than that it could not be read.
func noBlob(err error) bool {
	return errors.As(err, new(*DigestError)) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ELOOP)
}

// appraise reads a file below blobs/ and makes its row.
func (s *Store) appraise(d digest.Digest) (found sealed, err error) {
	f, err := os.Open(s.layout.blob(d))
	if err != nil {
		return found, err
	}
	defer f.Close()
	hash := d.Algorithm().Hash()
	head, err := io.ReadAll(io.TeeReader(io.LimitReader(f, describeMost+1), hash))
	if err != nil {
		return found, err
	}
	rest, err := io.Copy(hash, f)
	if err != nil {
		return found, err
	}
	if got := digest.NewDigest(d.Algorithm(), hash); got != d {
		return found, &DigestError{Want: d, Got: got}
	}
	info, err := f.Stat()
	if err != nil {
		return found, err
	}
	// When it came is the least that is known of its use: blobs that all
	// lost their rows are still evicted in an order that makes sense.
	now := s.now()
	came := info.ModTime()
	if came.After(now) {
		came = now
	}
	found = sealed{digest: d, row: row{Size: int64(len(head)) + rest, Sealed: came, Used: came, Proven: now}}
	if len(head) <= describeMost && s.describe != nil {
		if mediaType, refs, ok := s.describe(head); ok {
			found.row.MediaType, found.refs = mediaType, refs
		}
	}
	return found, nil
}

// collect writes rows as they come.
func (a *adoption) collect(ctx context.Context) error {
	tick := time.NewTicker(adoptEvery)
	defer tick.Stop()
	for {
		select {
		case found, more := <-a.found:
			if !more {
				return a.write()
			}
			a.rows = append(a.rows, found)
			if len(a.rows) < adoptBatch {
				continue
			}
		case <-tick.C:
			a.store.log.Info("taking in blobs that have no row", "done", a.blobs+len(a.rows), "of", len(a.files))
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := a.write(); err != nil {
			return err
		}
	}
}

func (a *adoption) write() error {
	if len(a.rows) == 0 {
		return nil
	}
	blobs, size, err := a.store.index.putRows(a.rows)
	if err != nil {
		return err
	}
	a.store.count(blobs, size)
	a.blobs, a.bytes, a.rows = a.blobs+blobs, a.bytes+size, nil
	return nil
}

// RootAnnotation is the annotation by which an entry of index.json says that
// it is also a root, and under which name: an index that is made anew has
// such roots from its first moment, before anything could be collected.
const RootAnnotation = "com.github.imagecache.root"

// restoreRoots gives a new index the roots that index.json knows.
func (l layout) restoreRoots(tx *bolt.Tx, log *slog.Logger) error {
	listed, err := l.index()
	if err != nil {
		log.Error("roots are not known, for index.json is damaged too", "error", err)
		return nil
	}
	roots := 0
	for _, d := range listed {
		name := d.Annotations[RootAnnotation]
		if name == "" || checkDigest(d.Digest) != nil {
			continue
		}
		if err := tx.Bucket(bucketRoots).Put([]byte(name), []byte(d.Digest)); err != nil {
			return err
		}
		roots++
	}
	if roots > 0 {
		log.Info("roots taken from index.json", "count", roots)
	}
	return nil
}

// index reads index.json.
func (l layout) index() ([]specs.Descriptor, error) {
	content, err := os.ReadFile(filepath.Join(l.root, specs.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	var index specs.Index
	if err := json.Unmarshal(content, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", specs.ImageIndexFile, err)
	}
	return index.Manifests, nil
}

// Index gives what index.json of the image layout lists, as it was set by
// [Store.SetIndex]. An error means that it is damaged or cannot be read.
func (s *Store) Index() ([]specs.Descriptor, error) {
	listed, err := s.layout.index()
	return listed, storageError("read index.json", err)
}
