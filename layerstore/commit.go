package layerstore

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/imagecache/imagecache/layerstore/durable"
)

const (
	// Blobs that wait while a batch is being made durable go in the next one,
	// so that sixty small layers share their syncs.
	batchMost = 256
	// File systems merge syncs that run side by side; more than this gain nothing.
	syncsAtOnce = 8
)

// proof is a proven blob in a file under ingest/ that is to be sealed.
type proof struct {
	digest    digest.Digest
	size      int64
	mediaType string
	refs      []digest.Digest
	root      string      // what keeps it from its first moment, "" for nothing
	file      *os.File    // nil: it has its final name, and perhaps no row
	synced    bool        // the file is, by who handed it over
	named     bool        // it got its final name, whatever became of its row
	done      func(error) // called once, when sealed or not
}

// committer seals proven blobs, one batch after the other, in the order that
// survives a power cut at any point: sync the file, rename it, sync the
// folder, write the rows.
type committer struct {
	store   *Store
	queue   chan *proof
	between chan func() // work that must see no blob that is half sealed
}

func newCommitter(s *Store) *committer {
	return &committer{store: s, queue: make(chan *proof, batchMost), between: make(chan func())}
}

// stop lets the committer finish what it was given. Nothing is given to it
// any more: all flights and puts have ended.
func (c *committer) stop() { close(c.queue) }

func (c *committer) run() {
	for {
		var again <-chan time.Time
		if c.store.index.late.any() {
			again = time.After(lateEvery)
		}
		select {
		case work := <-c.between:
			_ = c.record(nil) // a removal must find the rows that are late; their error is told by itself
			work()
		case <-again:
			_ = c.record(nil) // as above
		case p, ok := <-c.queue:
			if !ok {
				_ = c.record(nil) // what stays late is found by the next Open
				return
			}
			batch := []*proof{p}
			for len(batch) < batchMost && len(c.queue) > 0 {
				batch = append(batch, <-c.queue)
			}
			c.commit(batch)
			c.store.noteGrowth()
		}
	}
}

// hand gives a proof to the committer and waits until it is sealed or not. It
// is not left early: the file belongs to the batch until then, and a batch
// takes no longer than a disk does.
func (c *committer) hand(p *proof) error {
	sealed := make(chan error, 1)
	p.done = func(err error) { sealed <- err }
	c.queue <- p
	return <-sealed
}

func (c *committer) commit(batch []*proof) {
	named := c.name(batch)
	if len(named) == 0 {
		return
	}
	err := c.record(c.rows(named))
	for _, p := range named {
		p.done(err)
	}
}

// name syncs the files of a batch side by side and gives them their final
// names. It returns those that succeeded; the others are done, with an error.
func (c *committer) name(batch []*proof) (named []*proof) {
	errs := make([]error, len(batch))
	var syncs errgroup.Group
	syncs.SetLimit(syncsAtOnce)
	for i, p := range batch {
		if p.file != nil && !p.synced {
			syncs.Go(func() error { errs[i] = p.file.Sync(); return nil })
		}
	}
	_ = syncs.Wait() // each has its own error
	for i, p := range batch {
		if errs[i] == nil {
			errs[i] = c.rename(p)
		}
		if errs[i] != nil {
			p.done(storageError("seal", errs[i]))
			continue
		}
		p.named = true
		c.store.proofs.sealed(p.digest, p.size, c.store.now())
		named = append(named, p)
	}
	return named
}

func (c *committer) rename(p *proof) error {
	final := c.store.layout.blob(p.digest)
	if p.file == nil {
		_, err := os.Lstat(final)
		return err
	}
	return os.Rename(p.file.Name(), final)
}

func (c *committer) syncFolders(batch []sealed) error {
	folders := map[string]bool{}
	for _, p := range batch {
		folders[filepath.Dir(c.store.layout.blob(p.digest))] = true
	}
	for folder := range folders {
		if err := durable.SyncFolder(folder); err != nil {
			return err
		}
	}
	return nil
}

func (c *committer) rows(batch []*proof) []sealed {
	now := c.store.now()
	rows := make([]sealed, 0, len(batch))
	for _, p := range batch {
		rows = append(rows, sealed{p.digest, row{Size: p.size, MediaType: p.mediaType, Sealed: now, Used: now, Proven: now}, p.refs, p.root})
	}
	return rows
}

// seal hands over a proven flight. Its followers read on meanwhile.
func (c *committer) seal(f *flight) {
	if err := f.part.lost(); err != nil {
		f.settle(storageError("sync", err))
		return
	}
	done := make(chan struct{})
	p := &proof{digest: f.digest, size: f.frontier(), mediaType: f.mediaType, file: f.part.file}
	// Ended here, before the committer does anything else: a removal must not
	// meet a flight that still sends readers to the file. One whose row is
	// late is here all the same.
	p.done = func(err error) {
		if p.named {
			err = nil
		}
		f.settle(err)
		close(done)
	}
	c.queue <- p
	<-done
}

// settle ends a proven flight that was sealed, or could not be.
func (f *flight) settle(err error) {
	f.part.settle()
	if err == nil {
		f.store.keeping.over(f.frontier())
		f.end(sealed_, nil)
		return
	}
	os.Remove(f.part.file.Name()) // gone already, unless it could not be renamed
	f.store.keeping.met(err, f.frontier())
	f.end(proven, err)
}

// put seals content that is in memory and was verified.
func (c *committer) put(desc specs.Descriptor, root string, content []byte, refs []digest.Digest) error {
	s := c.store
	if err := s.enter(); err != nil {
		return err
	}
	defer s.flying.Done()
	p := &proof{digest: desc.Digest, size: int64(len(content)), mediaType: desc.MediaType, refs: refs, root: root}
	err := c.write(p, content)
	if p.named {
		s.keeping.over(p.size)
	} else if err != nil {
		s.keeping.met(err, p.size)
	}
	return err
}

// write brings content that is in memory into the store.
func (c *committer) write(p *proof, content []byte) error {
	file, err := os.CreateTemp(filepath.Join(c.store.layout.root, ingestName), "put-*"+temporary)
	if err != nil {
		return storageError("create", err)
	}
	defer file.Close()
	defer os.Remove(file.Name()) // a no-op once renamed: the name is unique
	if _, err := file.WriteAt(content, 0); err != nil {
		return storageError("write", err)
	}
	p.file = file
	return c.hand(p)
}

// confirm returns when a blob whose file has its final name has its row too,
// and so survives a power cut: a file is found by its name a moment before it
// is sealed, or for longer when its row could not be written.
func (c *committer) confirm(desc specs.Descriptor, size int64) error {
	s := c.store
	if _, err := s.index.written(desc.Digest); !errors.Is(err, ErrNotFound) {
		return storageError("read index", err)
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.flying.Done()
	return c.hand(&proof{digest: desc.Digest, size: size, mediaType: desc.MediaType})
}

// apart runs work while no blob is half sealed: with a file and no row.
func (c *committer) apart(work func()) error {
	if err := c.store.enter(); err != nil {
		return err
	}
	defer c.store.flying.Done()
	done := make(chan struct{})
	c.between <- func() { defer close(done); work() }
	<-done
	return nil
}
