package layerstore

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// knownMost bounds, in blobs, what is known without asking the index: some
// 3 MiB, and more blobs than the images of one node have.
const knownMost = 16384

var (
	keyEpoch   = []byte("epoch")
	keyStopped = []byte("stopped")
)

// known is what a hit has to know of a sealed blob.
type known struct {
	size   int64     // bytes
	sealed time.Time // the last byte came just before
	proven time.Time // zero: not since the last unclean stop
	// since is how many blobs had been sealed when this became known: it is not
	// about a file that was opened before.
	since uint64
}

// proofs knows when blobs were last proven, that is, when their bytes were last
// hashed and right. New proofs are kept in memory and written in batches.
type proofs struct {
	index    *index
	now      func() time.Time
	after    time.Duration // a proof older than this does not count; negative: all do
	recent   *lru.Cache[digest.Digest, known]
	sealings atomic.Uint64 // blobs that were sealed since Open

	mu        sync.Mutex // guards what follows
	unwritten map[digest.Digest]time.Time
	hiding    map[digest.Digest]bool // rotten, and the file could not be taken away
}

func newProofs(x *index, now func() time.Time, after time.Duration) (*proofs, error) {
	recent, err := lru.New[digest.Digest, known](knownMost)
	if err != nil {
		return nil, err
	}
	return &proofs{index: x, now: now, after: after, recent: recent, unwritten: map[digest.Digest]time.Time{}, hiding: map[digest.Digest]bool{}}, nil
}

// of is what is known of a blob. Without a row nothing is.
func (p *proofs) of(d digest.Digest) (k known, ok bool) {
	if k, ok := p.recent.Get(d); ok {
		return k, true
	}
	since := p.sealings.Load()
	r, err := p.index.get(d)
	if err != nil {
		return known{}, false
	}
	k = p.index.known(r)
	k.since = since
	// Not Add: it may have been proven since the row was read.
	if newer, raced, _ := p.recent.PeekOrAdd(d, k); raced {
		return newer, true
	}
	return k, true
}

// known leaves out a proof that an unclean stop has made doubtful.
func (x *index) known(r row) known {
	k := known{size: r.Size, sealed: r.Sealed}
	if r.Epoch == x.epoch {
		k.proven = r.Proven
	}
	return k
}

// fresh reports whether the proof of a blob still counts. One from the future
// does not: the clock was wrong then, or is now.
func (p *proofs) fresh(k known) bool {
	if p.after < 0 {
		return true
	}
	age := p.now().Sub(k.proven)
	return !k.proven.IsZero() && age >= 0 && age < p.after
}

// sealed notes a blob that was proven, got its name and gets its row.
func (p *proofs) sealed(d digest.Digest, size int64, at time.Time) {
	p.recent.Add(d, known{size: size, sealed: at, proven: at, since: p.sealings.Add(1)})
	p.mu.Lock()
	delete(p.hiding, d)
	p.mu.Unlock()
}

// renew notes that a sealed blob was proven again.
func (p *proofs) renew(d digest.Digest, size int64) {
	k, ok := p.of(d)
	if !ok {
		return // removed meanwhile
	}
	k.size, k.proven = size, p.now()
	p.recent.Add(d, k)
	p.mu.Lock()
	p.unwritten[d] = k.proven
	p.mu.Unlock()
}

// doubt makes the next hit prove the blob.
func (p *proofs) doubt(d digest.Digest) {
	if k, ok := p.of(d); ok {
		k.proven = time.Time{}
		p.recent.Add(d, k)
	}
}

// forget drops what is known of a blob.
func (p *proofs) forget(d digest.Digest) {
	p.recent.Remove(d)
	p.mu.Lock()
	delete(p.unwritten, d)
	delete(p.hiding, d)
	p.mu.Unlock()
}

// hide makes a blob that is rotten and cannot be taken away count as not here,
// until it is sealed again. It is remembered apart from what is known of blobs
// that were asked for lately: it must not be forgotten for the sake of others.
func (p *proofs) hide(d digest.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hiding[d] = true
}

func (p *proofs) hidden(d digest.Digest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hiding[d]
}

// write writes the proofs that were made since the last time.
func (p *proofs) write() error {
	p.mu.Lock()
	taken := p.unwritten
	p.unwritten = map[digest.Digest]time.Time{}
	p.mu.Unlock()
	err := p.index.renew(taken)
	if err != nil {
		p.mu.Lock()
		maps.Copy(taken, p.unwritten)
		p.unwritten = taken
		p.mu.Unlock()
	}
	return err
}

// renew writes times of proofs. Digests without a row are passed over.
func (x *index) renew(proven map[digest.Digest]time.Time) error {
	if len(proven) == 0 {
		return nil
	}
	return x.db.Update(func(tx *bolt.Tx) error {
		for d, at := range proven {
			err := changeRow(tx, d, func(r *row) { r.Proven, r.Epoch = at, x.epoch })
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// changeRow changes the row of a blob, where it has one.
func changeRow(tx *bolt.Tx, d digest.Digest, change func(*row)) error {
	blobs := tx.Bucket(bucketBlobs)
	value := blobs.Get([]byte(d))
	if value == nil {
		return nil
	}
	var r row
	if err := json.Unmarshal(value, &r); err != nil {
		return fmt.Errorf("row of %s: %w", d, err)
	}
	change(&r)
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return blobs.Put([]byte(d), value)
}

// begin reads the epoch, and begins a new one when the last process did not
// stop cleanly: what it left may have been lost or torn, so that no earlier
// proof counts. Epochs are numbers and not times: after a power cut the clock
// may be wrong.
func (x *index) begin() error {
	return x.db.Update(func(tx *bolt.Tx) (err error) {
		x.epoch, err = beginEpoch(tx)
		return err
	})
}

// beginAgain begins the same epoch in the index as in its copy, from which it was
// read while the file system was read-only.
func (x *index) beginAgain(tx *bolt.Tx) error {
	epoch, err := beginEpoch(tx)
	if err == nil && epoch != x.epoch {
		err = fmt.Errorf("epoch %d was begun in a copy of the index, and its own is %d", x.epoch, epoch)
	}
	return err
}

func beginEpoch(tx *bolt.Tx) (epoch uint64, err error) {
	meta := tx.Bucket(bucketMeta)
	if v := meta.Get(keyEpoch); v != nil {
		if epoch, err = strconv.ParseUint(string(v), 10, 64); err != nil {
			return 0, fmt.Errorf("epoch %q is not a number", v)
		}
	}
	if meta.Get(keyStopped) != nil {
		return epoch, meta.Delete(keyStopped)
	}
	epoch++
	return epoch, meta.Put(keyEpoch, []byte(strconv.FormatUint(epoch, 10)))
}

// end marks a clean stop.
func (x *index) end(at time.Time) error {
	return x.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(keyStopped, []byte(at.UTC().Format(time.RFC3339)))
	})
}

// stop writes the last proofs and the mark of a clean stop, without which they
// would not count.
func (p *proofs) stop() error {
	if err := p.write(); err != nil {
		return err
	}
	return p.index.end(p.now())
}

// writeProofs writes proofs every now and then until the store closes.
func (s *Store) writeProofs(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
			if err := s.proofs.write(); err != nil {
				s.log.Error("proofs not written", "error", err)
			}
		}
	}
}

// trustFrom makes ready what decides whether a sealed blob is trusted.
func (s *Store) trustFrom(o Options) error {
	if err := s.index.begin(); err != nil {
		return err
	}
	proofs, err := newProofs(s.index, o.Now, o.VerifyAfter)
	if err != nil {
		return err
	}
	s.proofs = proofs
	s.pruneQuarantine()
	s.turns = make(chan struct{}, verifiesAtOnce)
	s.verifying = map[digest.Digest]*verification{}
	return nil
}
