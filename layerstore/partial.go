package layerstore

import (
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
)

// syncEvery is how many bytes are hashed between two points that survive a
// power cut. The sync runs beside the transfer and spares the one at the end.
const syncEvery = 64 << 20

// partial is the file that a flight writes to, with its journal and the hash
// of what stands behind the frontier.
type partial struct {
	file        *os.File
	journalPath string

	hashing sync.Mutex // guards sum and hashed; held while reading back
	hasher  hash.Hash
	alg     digest.Algorithm
	hashed  int64 // bytes from the start that are in hasher

	mu       sync.Mutex // guards what follows
	journal  *os.File   // nil until there is enough to write down
	seq      uint64
	written  int64 // received bytes at the latest journal
	synced   int64 // see journal.Synced
	state    []byte
	saving   bool
	syncErr  error          // of a sync; the kernel tells it once
	settling sync.WaitGroup // the sync that runs beside
}

// openPartial opens the partial file of a digest and what its journal says of
// it; an empty journal where there is nothing to go on with. size is -1 when
// it is not known.
func openPartial(l layout, d digest.Digest, size int64) (*partial, journal, error) {
	p := &partial{journalPath: l.journal(d), alg: d.Algorithm(), hasher: d.Algorithm().Hash()}
	j, err := readJournal(p.journalPath)
	if err == nil {
		if p.file, err = os.OpenFile(l.partial(d), os.O_RDWR, 0); err == nil && j.fits(d, size, p.file) {
			p.resume(j)
			return p, j, nil
		}
	}
	if p.file != nil {
		p.file.Close()
	}
	if p.file, err = newPartial(l, d); err != nil {
		return nil, journal{}, storageError("open partial file", err)
	}
	return p, journal{}, nil
}

// newPartial makes an empty partial file. It is a new one, for readers may still
// have the earlier one open.
func newPartial(l layout, d digest.Digest) (*os.File, error) {
	if err := l.removePartial(d); err != nil {
		return nil, err
	}
	return os.OpenFile(l.partial(d), os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
}

// fits reports whether a journal speaks of this blob and this file.
func (j journal) fits(d digest.Digest, size int64, file *os.File) bool {
	if j.Digest != d || len(j.Have) == 0 || (size >= 0 && j.Size != size) {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Size() >= j.Have[len(j.Have)-1].To
}

func (p *partial) resume(j journal) {
	p.seq = j.Seq
	if j.Synced == 0 {
		return
	}
	if h, err := restoreHash(p.alg, j.State); err == nil {
		p.hasher, p.hashed, p.synced, p.state = h, j.Synced, j.Synced, j.State
	}
}

// hash takes in a chunk that was just written, when it is the next.
func (p *partial) hash(chunk []byte, at int64) {
	p.hashing.Lock()
	defer p.hashing.Unlock()
	if at == p.hashed {
		p.hasher.Write(chunk)
		p.hashed += int64(len(chunk))
	}
}

// catchUp hashes from the file what stands between the hash and the frontier.
func (p *partial) catchUp(frontier int64) error {
	p.hashing.Lock()
	defer p.hashing.Unlock()
	if frontier <= p.hashed {
		return nil
	}
	n, err := io.Copy(p.hasher, io.NewSectionReader(p.file, p.hashed, frontier-p.hashed))
	p.hashed += n
	if err == nil && p.hashed < frontier {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// sum is the digest of all size bytes.
func (p *partial) sum(size int64) (digest.Digest, error) {
	if err := p.catchUp(size); err != nil {
		return "", err
	}
	p.hashing.Lock()
	defer p.hashing.Unlock()
	return digest.NewDigest(p.alg, p.hasher), nil
}

// progress writes the journal when enough has come since the last time, and
// begins a sync when enough has been hashed.
func (p *partial) progress(received int64, now func() journal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if received-p.written < journalEvery {
		return
	}
	p.written = received
	// A journal that cannot be written costs a later process bytes, no truth.
	_ = p.write(now())
	if !p.saving {
		p.save()
	}
}

// write writes the journal. p.mu is held.
func (p *partial) write(j journal) error {
	if j.Size < journalFrom {
		return nil
	}
	if p.journal == nil {
		f, err := os.OpenFile(p.journalPath, os.O_RDWR|os.O_CREATE, fileMode)
		if err != nil {
			return err
		}
		p.journal = f
	}
	p.seq++
	j.Seq, j.Synced, j.State = p.seq, p.synced, p.state
	return writeJournal(p.journal, j)
}

// save makes what is hashed so far durable, beside the transfer, and then
// fit for the journal. p.mu is held.
func (p *partial) save() {
	hashed, state := p.snapshot()
	if hashed-p.synced < syncEvery || state == nil {
		return
	}
	p.saving = true
	p.settling.Go(func() {
		err := p.file.Sync()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.saving = false
		p.syncErr = errors.Join(p.syncErr, err)
		if p.syncErr == nil {
			p.synced, p.state = hashed, state
		}
	})
}

func (p *partial) snapshot() (hashed int64, state []byte) {
	p.hashing.Lock()
	defer p.hashing.Unlock()
	return p.hashed, saveHash(p.hasher)
}

// lost is why bytes that were written may not be on the disk: a sync beside
// the transfer failed. A later one would succeed without them.
func (p *partial) lost() error {
	p.settling.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.syncErr
}

// leave syncs the file and writes a last journal, for a later flight.
func (p *partial) leave(j journal) {
	p.settling.Wait()
	if j.Size < journalFrom || len(j.Have) == 0 {
		p.discard()
		return
	}
	hashed, state := p.snapshot()
	err := p.file.Sync()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil && p.syncErr == nil && state != nil {
		p.synced, p.state = hashed, state
	}
	_ = p.write(j) // as in progress
	p.close()
}

// discard removes the partial file and its journal.
func (p *partial) discard() {
	p.settling.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.close()
	os.Remove(p.file.Name())
	p.removeJournal()
}

// settle ends the journal of a file that got its final name.
func (p *partial) settle() {
	p.settling.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.close()
	p.removeJournal()
}

// close closes both files. p.mu is held.
func (p *partial) close() {
	p.file.Close()
	if p.journal != nil {
		p.journal.Close()
	}
}

func (p *partial) removeJournal() {
	if err := os.Remove(p.journalPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return // dropped by the next Open
	}
}
