package layerstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore/durable"
)

var (
	// ErrBusy: the name of an ingest is held by an open one.
	ErrBusy = errors.New("the ingest is open elsewhere")
	// ErrEnded: an ingest was closed, committed or aborted before it was used.
	ErrEnded = errors.New("the ingest has ended")
	// ErrExists: what was to be committed is in the store already.
	ErrExists = errors.New("in the store already")
)

// Ingest is content that a caller writes in, from its start to its end, under
// a name of the caller's choice; a flight, in contrast, asks a [Source]. It is
// sealed by [Ingest.Commit] in the same order as all blobs, and until then
// nobody else sees it. What was written stays when the ingest is closed, or the
// process ends, however it does: [Store.Ingest] of the same name goes on with it.
// A power cut may take what was written last, at most safeEvery bytes of it.
//
// Write, Truncate and Commit are for one goroutine; the other methods may be
// called beside them, and wait for them, but for Info and Name, which do not.
type Ingest struct {
	store *Store
	name  string
	told  atomic.Pointer[IngestInfo] // for who does not wait; nil until it is open

	mu      sync.Mutex // guards what follows; held over file operations of this ingest alone
	file    *os.File   // nil when ended
	header  ingestHeader
	hasher  hash.Hash // of all offset bytes
	offset  int64
	updated time.Time
	unsure  bool // bytes were gone on with that may not be those that were written
	sealed  digest.Digest
	named   bool // the file has its final name, whatever became of its row
	noted   bool // the file of the header says all but how far it is
}

// IngestInfo tells how far an ingest has come. Offset and Total are in bytes;
// Total, 0 when unknown, and Expected are what its opener announced.
type IngestInfo struct {
	Name             string
	Offset, Total    int64
	Expected         digest.Digest
	Started, Updated time.Time
}

// Ingest opens the ingest of a name, or goes on with what was written under it
// and announced in the same way. Of desc the digest and the size are taken as
// announced; both may be zero. Whoever opened it closes it. Errors: [ErrBusy],
// [ErrExists] when the announced digest is sealed, [ErrClosed],
// *[StorageError], and those of a digest that cannot be.
func (s *Store) Ingest(name string, desc specs.Descriptor) (*Ingest, error) {
	if desc.Digest != "" {
		if err := checkDigest(desc.Digest); err != nil {
			return nil, err
		}
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.flying.Done()
	if desc.Digest != "" && s.present(desc.Digest) {
		return nil, fmt.Errorf("%s: %w", desc.Digest, ErrExists)
	}
	i, fresh := s.ingests.reserve(s, name)
	if !fresh {
		return nil, fmt.Errorf("ingest %q: %w", name, ErrBusy)
	}
	defer i.mu.Unlock()
	if err := i.open(desc); err != nil {
		i.end()
		return nil, storageError("open ingest", err)
	}
	return i, nil
}

// present reports whether a blob is sealed and its file here.
func (s *Store) present(d digest.Digest) bool {
	r, err := s.index.get(d)
	return err == nil && s.keeps(specs.Descriptor{Digest: d}, r.Size)
}

// open goes on with what is there, if it is of the same content, or begins.
// i.mu is held, here and in what follows in this file, but for what is exported.
func (i *Ingest) open(desc specs.Descriptor) error {
	header, info, err := readIngest(i.store.layout, i.name)
	if err == nil && header.fits(i.name, desc) {
		total, expected := header.Total, header.Expected
		header.Total = cmp.Or(total, max(desc.Size, 0))
		header.Expected = cmp.Or(expected, desc.Digest)
		i.noted = header.Total == total && header.Expected == expected
		return i.resume(header, info)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		if err := i.wipe(); err != nil {
			return err
		}
		if err := durable.SyncFolder(i.store.layout.ingestFolder()); err != nil {
			return err
		}
	}
	return i.begin(desc)
}

func (i *Ingest) begin(desc specs.Descriptor) (err error) {
	defer func() {
		if err != nil { // a full disk: nobody would look for half an ingest
			err = errors.Join(err, i.wipe())
		}
	}()
	i.updated = i.store.now()
	i.header = ingestHeader{Name: i.name, Total: max(desc.Size, 0), Expected: desc.Digest, Started: i.updated, Updated: i.updated, Boot: boot()}
	i.hasher = i.header.algorithm().Hash()
	i.noted = true
	i.tell()
	// Not synced: one that a power cut tears is dropped, with nothing lost
	// but bytes that were not synced either.
	if err := i.header.write(i.store.layout); err != nil {
		return err
	}
	i.file, err = os.OpenFile(i.store.layout.ingest(i.name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, fileMode)
	return err
}

// resume goes on behind the bytes that are there. After a power cut those
// behind the last sync may not be what was written: they are kept only where the
// commit will know it. The others are hashed from the disk then, which may have
// got back less than it was given; that takes place here, when somebody goes on.
func (i *Ingest) resume(h ingestHeader, info fs.FileInfo) (err error) {
	i.file, err = os.OpenFile(i.store.layout.ingest(i.name), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	i.header, i.updated = h, h.updated(info)
	i.offset = h.usable(info.Size())
	i.tell()
	if err := i.file.Truncate(i.offset); err != nil {
		return err
	}
	if !h.cached() {
		i.unsure = i.offset > h.Synced
		if err := i.adopt(); err != nil {
			return err
		}
	}
	return i.rehash()
}

// adopt makes what an earlier run of the kernel left that of this one. What is
// unsure stays the other's.
func (i *Ingest) adopt() error {
	i.header.State = nil
	if i.unsure {
		return nil
	}
	i.header.Boot = boot()
	return i.header.writeDurably(i.store.layout)
}

// rehash makes the hash that of all offset bytes, from the state of the last
// sync where there is one.
func (i *Ingest) rehash() error {
	from := i.header.Synced
	h, err := restoreHash(i.header.algorithm(), i.header.State)
	if err != nil || from > i.offset {
		h, from = i.header.algorithm().Hash(), 0
	}
	i.hasher = h
	n, err := io.Copy(h, io.NewSectionReader(i.file, from, i.offset-from))
	if err == nil && n < i.offset-from {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Name is the one it was opened by.
func (i *Ingest) Name() string { return i.name }

// Info tells how far the ingest has come.
func (i *Ingest) Info() IngestInfo {
	if told := i.told.Load(); told != nil {
		return *told
	}
	return IngestInfo{}
}

// tell makes Info tell how it stands now.
func (i *Ingest) tell() {
	info := i.header.info(i.offset, i.updated)
	i.told.Store(&info)
}

// Digest is that of the bytes written so far, by the algorithm of the announced
// digest or sha256; after Commit it is that of the blob.
func (i *Ingest) Digest() digest.Digest {
	i.mu.Lock()
	defer i.mu.Unlock()
	return cmp.Or(i.sealed, i.sum())
}

// sum is the digest of the bytes so far.
func (i *Ingest) sum() digest.Digest { return digest.NewDigest(i.header.algorithm(), i.hasher) }

// Write appends. Where the disk is full, room is made for who tries again.
// Errors: [ErrEnded], *[StorageError].
func (i *Ingest) Write(p []byte) (int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.file == nil {
		return 0, fmt.Errorf("ingest %q: %w", i.name, ErrEnded)
	}
	n, err := i.file.WriteAt(p, i.offset)
	i.hasher.Write(p[:n])
	i.offset += int64(n)
	i.updated = i.store.now()
	if err == nil && !i.unsure && i.offset-i.header.Synced >= safeEvery {
		err = i.makeSafe()
	}
	i.tell()
	i.store.noteFull(err, i.lacks())
	return n, storageError("write ingest", err)
}

// Truncate drops what stands behind the first size bytes, which must be there.
// Errors: [ErrEnded], [fs.ErrInvalid], *[StorageError].
func (i *Ingest) Truncate(size int64) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.file == nil {
		return fmt.Errorf("ingest %q: %w", i.name, ErrEnded)
	}
	if size < 0 || size > i.offset {
		return fmt.Errorf("truncate ingest %q of %d bytes to %d: %w", i.name, i.offset, size, fs.ErrInvalid)
	}
	return storageError("truncate ingest", i.truncate(size))
}

func (i *Ingest) truncate(size int64) error {
	if i.header.Synced > size {
		// The hash state must never meet other bytes than those it was made of.
		i.header.Synced, i.header.State = 0, nil
		if err := i.header.writeDurably(i.store.layout); err != nil {
			return err
		}
	}
	if err := i.file.Truncate(size); err != nil {
		return err
	}
	i.offset, i.updated = size, i.store.now()
	i.unsure = i.unsure && size > 0
	i.tell()
	return i.rehash()
}

// Close ends the writing and keeps what was written for the next [Store.Ingest]
// of the same name, durably but for less than leaveEvery bytes. After Commit or Abort, or again, it does nothing.
func (i *Ingest) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return storageError("close ingest", i.leave())
}

func (i *Ingest) leave() error {
	if i.file == nil {
		return nil
	}
	defer i.end()
	if i.noted && i.header.cached() && !i.unsure && i.offset-i.header.Synced < leaveEvery {
		// The kernel's own time of the last write is some milliseconds off.
		return os.Chtimes(i.file.Name(), i.updated, i.updated)
	}
	if err := i.sync(); err != nil {
		return err
	}
	i.header.Updated = i.updated
	if !i.unsure { // otherwise the sync comes too late to vouch for all
		i.header.Synced, i.header.State = i.offset, saveHash(i.hasher)
	}
	return i.header.writeDurably(i.store.layout)
}

// end closes the file and gives the name free.
func (i *Ingest) end() {
	if i.file != nil {
		i.file.Close()
		i.file = nil
	}
	i.store.ingests.free(i)
}

// wipe removes both files, the header first: see truncate.
func (i *Ingest) wipe() error {
	l := i.store.layout
	for _, path := range []string{l.ingestHeader(i.name), l.ingest(i.name)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Commit seals what was written and ends the ingest, whatever comes of it. The
// digest and size of desc are checked where they are not zero, and otherwise
// those that were announced; desc.MediaType is kept beside the blob. It returns
// the blob's digest, durable. Errors: [ErrExists], after which nothing is left of
// the ingest, *[DigestError], *[SizeError], [ErrEnded], [ErrClosed],
// *[StorageError] and the cause of ctx, after which what was written stays.
// Bytes that a power cut may have changed go with the *DigestError.
func (i *Ingest) Commit(ctx context.Context, desc specs.Descriptor) (digest.Digest, error) {
	return i.CommitRooted(ctx, "", desc)
}

// CommitRooted is Commit with a root of that name (see [Store.SetRoot]), which is
// set in the same write; "" sets none. After an error there is none either.
func (i *Ingest) CommitRooted(ctx context.Context, root string, desc specs.Descriptor) (digest.Digest, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.file == nil {
		return "", fmt.Errorf("ingest %q: %w", i.name, ErrEnded)
	}
	d, err := i.commit(ctx, root, desc)
	var wrong *DigestError
	if i.named || errors.Is(err, ErrExists) || (i.unsure && errors.As(err, &wrong)) {
		i.drop()
	} else if lerr := i.leave(); lerr != nil {
		i.store.log.Warn("ingest not kept", "name", i.name, "error", lerr)
	}
	if err != nil {
		return "", err
	}
	i.sealed = d
	return d, nil
}

// drop ends the ingest and removes what is left of it, which the next Open
// would do, too.
func (i *Ingest) drop() {
	if err := i.wipe(); err != nil {
		i.store.log.Warn("ingest left behind", "name", i.name, "error", err)
	}
	i.end()
}

func (i *Ingest) commit(ctx context.Context, root string, desc specs.Descriptor) (digest.Digest, error) {
	if err := context.Cause(ctx); err != nil {
		return "", err
	}
	d, err := i.verify(desc)
	if err != nil {
		return "", err
	}
	s := i.store
	if s.present(d) {
		return "", fmt.Errorf("%s: %w", d, ErrExists)
	}
	if err := s.enter(); err != nil {
		return "", err
	}
	defer s.flying.Done()
	// Synced here and not by the committer: a large file shall not hold up the
	// blobs that finish together with it.
	if err := i.sync(); err != nil {
		return "", storageError("seal", err)
	}
	p := &proof{digest: d, size: i.offset, mediaType: desc.MediaType, root: root, file: i.file, synced: true}
	err = s.commit.hand(p)
	i.named = p.named
	return d, err
}

// verify checks size and digest against what is wanted, and gives the digest.
func (i *Ingest) verify(desc specs.Descriptor) (digest.Digest, error) {
	want := cmp.Or(desc.Digest, i.header.Expected)
	if size := cmp.Or(max(desc.Size, 0), i.header.Total); size > 0 && size != i.offset {
		return "", &SizeError{Digest: cmp.Or(want, i.sum()), Want: size, Got: i.offset}
	}
	if want == "" {
		return i.sum(), nil
	}
	if err := checkDigest(want); err != nil {
		return "", err
	}
	h := i.hasher
	if want.Algorithm() != i.header.algorithm() {
		h = want.Algorithm().Hash()
		if _, err := io.Copy(h, io.NewSectionReader(i.file, 0, i.offset)); err != nil {
			return "", storageError("read back", err)
		}
	}
	if got := digest.NewDigest(want.Algorithm(), h); got != want {
		return "", &DigestError{Want: want, Got: got}
	}
	return want, nil
}
