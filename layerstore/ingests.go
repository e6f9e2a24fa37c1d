package layerstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// The two files of an ingest are called by the hash of its name, which
	// may be long and hold what a file name must not.
	ingestPrefix = "write-"
	ingestData   = ".data"
	ingestHead   = ".json"
)

func (l layout) ingestFolder() string { return filepath.Join(l.root, ingestName) }

func (l layout) ingest(name string) string { return l.ingestBase(name) + ingestData }

func (l layout) ingestHeader(name string) string { return l.ingestBase(name) + ingestHead }

func (l layout) ingestBase(name string) string {
	return filepath.Join(l.ingestFolder(), ingestPrefix+digest.FromString(name).Encoded())
}

// ingestHeader is what the next who open an ingest must know of its data.
type ingestHeader struct {
	Name     string        `json:"name"`
	Total    int64         `json:"total,omitempty"` // bytes, 0 when not announced
	Expected digest.Digest `json:"expected,omitempty"`
	Started  time.Time     `json:"started"`
	Updated  time.Time     `json:"updated"`
	// Synced bytes from the start were on disk when the hash state was saved.
	Synced int64  `json:"synced,omitempty"`
	State  []byte `json:"state,omitempty"`
	// Boot is the run of the kernel that took the bytes; see boot.
	Boot string `json:"boot,omitempty"`
}

// algorithm is the one to hash by.
func (h ingestHeader) algorithm() digest.Algorithm {
	if h.Expected != "" {
		return h.Expected.Algorithm()
	}
	return digest.Canonical
}

// fits reports whether what was announced before does not contradict desc.
func (h ingestHeader) fits(name string, desc specs.Descriptor) bool {
	if h.Name != name || (desc.Size > 0 && h.Total > 0 && desc.Size != h.Total) {
		return false
	}
	if h.Expected == "" {
		return desc.Digest == "" || desc.Digest.Algorithm() == h.algorithm()
	}
	return desc.Digest == "" || desc.Digest == h.Expected
}

// usable is how many of size bytes are gone on with: those behind the last
// sync only when no power cut can have changed them, or the expected digest will
// tell whether they are right.
func (h ingestHeader) usable(size int64) int64 {
	if h.Expected == "" && !h.cached() {
		return min(size, h.Synced)
	}
	return size
}

// updated is when the last byte came. After a kill only the file knows.
func (h ingestHeader) updated(data fs.FileInfo) time.Time {
	if data.Size() != h.Synced && data.ModTime().After(h.Updated) {
		return data.ModTime()
	}
	return h.Updated
}

func (h ingestHeader) info(offset int64, updated time.Time) IngestInfo {
	return IngestInfo{Name: h.Name, Offset: offset, Total: h.Total, Expected: h.Expected, Started: h.Started, Updated: updated}
}

func (h ingestHeader) write(l layout) error {
	content, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return os.WriteFile(l.ingestHeader(h.Name), content, fileMode)
}

func (h ingestHeader) writeDurably(l layout) error {
	content, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return writeDurably(l.ingestHeader(h.Name), content)
}

// decodeIngestHeader refuses what no ingest wrote.
func decodeIngestHeader(content []byte) (h ingestHeader, err error) {
	if err := json.Unmarshal(content, &h); err != nil {
		return h, err
	}
	if h.Total < 0 || h.Synced < 0 {
		return h, errors.New("ingest header with a negative size")
	}
	if h.Expected != "" {
		return h, checkDigest(h.Expected)
	}
	return h, nil
}

// errUnusable: what is left of an ingest cannot be gone on with.
var errUnusable = errors.New("unusable rest of an ingest")

// readIngest reads the header of an ingest and looks at its data. Errors:
// [fs.ErrNotExist] when there is no header, errUnusable, those of the disk.
func readIngest(l layout, name string) (ingestHeader, fs.FileInfo, error) {
	return readIngestAt(l.ingestBase(name))
}

func readIngestAt(base string) (h ingestHeader, info fs.FileInfo, err error) {
	content, err := os.ReadFile(base + ingestHead)
	if err != nil {
		return h, nil, err
	}
	if h, err = decodeIngestHeader(content); err != nil {
		return h, nil, fmt.Errorf("%w: %w", errUnusable, err)
	}
	info, err = os.Lstat(base + ingestData)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil, fmt.Errorf("%w: no data", errUnusable)
	}
	if err == nil && info.Size() < h.Synced {
		return h, nil, fmt.Errorf("%w: %d of %d bytes", errUnusable, info.Size(), h.Synced)
	}
	return h, info, err
}

// ingests are those that are open. A name is held by one of them at a time.
type ingests struct {
	mu   sync.Mutex // guards open; taken after Ingest.mu
	open map[string]*Ingest
}

// reserve gives the open ingest of a name, or a fresh one that holds the name
// from here on, with its mu taken.
func (t *ingests) reserve(s *Store, name string) (i *Ingest, fresh bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := t.open[name]; i != nil {
		return i, false
	}
	i = &Ingest{store: s, name: name}
	i.mu.Lock() // nobody else knows it yet
	if t.open == nil {
		t.open = map[string]*Ingest{}
	}
	t.open[name] = i
	s.unheld.stale.Store(true)
	return i, true
}

func (t *ingests) free(i *Ingest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[i.name] == i {
		delete(t.open, i.name)
		i.store.unheld.stale.Store(true)
	}
}

func (t *ingests) all() (open []*Ingest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, i := range t.open {
		open = append(open, i)
	}
	return open
}

// close keeps what the open ingests hold for the next process.
func (t *ingests) close() (err error) {
	for _, i := range t.all() {
		err = errors.Join(err, i.Close())
	}
	return err
}

// Ingests tells of all ingests, open and left, in no order.
func (s *Store) Ingests() ([]IngestInfo, error) {
	files, err := os.ReadDir(s.layout.ingestFolder())
	if err != nil {
		return nil, storageError("list ingests", err)
	}
	var infos []IngestInfo
	for _, f := range files {
		base, ok := strings.CutSuffix(f.Name(), ingestHead)
		if !ok || !strings.HasPrefix(base, ingestPrefix) {
			continue
		}
		h, data, err := readIngestAt(filepath.Join(s.layout.ingestFolder(), base))
		if err != nil {
			continue // ended meanwhile, or of no use
		}
		infos = append(infos, s.ingestInfo(h, data))
	}
	return infos, nil
}

// StatIngest tells of one ingest, or [ErrNotFound].
func (s *Store) StatIngest(name string) (IngestInfo, error) {
	h, data, err := readIngest(s.layout, name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errUnusable) {
		return IngestInfo{}, fmt.Errorf("ingest %q: %w", name, ErrNotFound)
	}
	if err != nil {
		return IngestInfo{}, storageError("read ingest", err)
	}
	return s.ingestInfo(h, data), nil
}

// ingestInfo prefers what the open ingest says of itself.
func (s *Store) ingestInfo(h ingestHeader, data fs.FileInfo) IngestInfo {
	s.ingests.mu.Lock()
	i := s.ingests.open[h.Name]
	s.ingests.mu.Unlock()
	if i != nil {
		if info := i.Info(); info.Name != "" { // empty: it could not be opened
			return info
		}
	}
	return h.info(h.usable(data.Size()), h.updated(data))
}

// AbortIngest ends an ingest, open or left, and drops what was written. Errors:
// [ErrNotFound], [ErrClosed], *[StorageError].
func (s *Store) AbortIngest(name string) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.flying.Done()
	i, fresh := s.ingests.reserve(s, name)
	for !fresh {
		i.mu.Lock()
		if i.file != nil {
			break
		}
		i.mu.Unlock() // ended meanwhile
		i, fresh = s.ingests.reserve(s, name)
	}
	defer i.mu.Unlock()
	defer i.end()
	_, err := os.Lstat(s.layout.ingestHeader(name))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ingest %q: %w", name, ErrNotFound)
	}
	return storageError("abort ingest", i.wipe())
}

// ingestLeftover reports whether a file under ingest/ belongs to an ingest that
// nobody can go on with, or has for long.
func (s *Store) ingestLeftover(path string) bool {
	_, info, err := readIngestAt(strings.TrimSuffix(path, filepath.Ext(path)))
	return err != nil || s.now().Sub(info.ModTime()) > partialAge
}
