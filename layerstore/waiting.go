package layerstore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// waitingFile is the file of a blob that is not whole: of a flight, or of an
// ingest.
type waitingFile struct {
	digest  digest.Digest // of the blob; "" for an ingest
	ingest  string        // its name; "" for a partial file, and where the header cannot be read
	bytes   int64         // that it takes on the disk
	changed time.Time
	held    bool // by a flight, or somebody who writes
}

// waitingFiles reads the folder of them.
func (s *Store) waitingFiles() ([]waitingFile, error) {
	names, err := os.ReadDir(s.layout.ingestFolder())
	if err != nil {
		return nil, storageError("list partial files", err)
	}
	var found []waitingFile
	for _, name := range names {
		w, ok := s.layout.waitingFile(name.Name())
		if !ok {
			continue
		}
		var info unix.Stat_t
		if unix.Lstat(filepath.Join(s.layout.ingestFolder(), name.Name()), &info) != nil {
			continue // ended meanwhile
		}
		w.bytes, w.changed = diskBytes(&info), time.Unix(info.Mtim.Unix())
		found = append(found, w)
	}
	s.tellHeld(found)
	return found, nil
}

// diskBytes is what a file takes on the disk: st_blocks counts in 512 bytes.
func diskBytes(info *unix.Stat_t) int64 { return info.Blocks * 512 }

// waitingFile tells what the name of a file under ingest/ says.
func (l layout) waitingFile(name string) (w waitingFile, ok bool) {
	if base, ok := strings.CutSuffix(name, ".part"); ok {
		algorithm, encoded, _ := strings.Cut(base, "-")
		w.digest = digest.NewDigestFromEncoded(digest.Algorithm(algorithm), encoded)
		return w, checkDigest(w.digest) == nil
	}
	base, ok := strings.CutSuffix(name, ingestData)
	if !ok || !strings.HasPrefix(base, ingestPrefix) {
		return w, false
	}
	if h, _, err := readIngestAt(filepath.Join(l.ingestFolder(), base)); err == nil {
		w.ingest = h.Name
	}
	return w, true
}

// tellHeld finds out which files somebody is at.
func (s *Store) tellHeld(files []waitingFile) {
	s.mu.Lock()
	for i, w := range files {
		_, flying := s.flights[w.digest]
		files[i].held = flying
	}
	s.mu.Unlock()
	s.ingests.mu.Lock()
	defer s.ingests.mu.Unlock()
	for i, w := range files {
		if w.digest == "" {
			files[i].held = w.ingest == "" || s.ingests.open[w.ingest] != nil
		}
	}
}

// dropPartial removes a partial file and its journal unless a flight has them.
// A flight that begins meanwhile waits: it must not go on in a file that goes.
func (s *Store) dropPartial(d digest.Digest) error {
	s.mu.Lock()
	_, flying := s.flights[d]
	_, dropping := s.dropping[d]
	if flying || dropping {
		s.mu.Unlock()
		return errHeld
	}
	done := make(chan struct{})
	s.dropping[d] = done
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.dropping, d)
		s.mu.Unlock()
		close(done)
	}()
	return s.layout.removePartial(d)
}

// removePartial removes the journal first: its hash state must never meet other
// bytes than those it was made of.
func (l layout) removePartial(d digest.Digest) error {
	for _, path := range []string{l.journal(d), l.partial(d)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// awaitDrop returns when nobody removes the partial file of a flight any more.
func (f *flight) awaitDrop() {
	f.store.mu.Lock()
	done := f.store.dropping[f.digest]
	f.store.mu.Unlock()
	if done != nil {
		<-done
	}
}

// dropIngest removes what is left of an ingest unless somebody has it open.
func (s *Store) dropIngest(name string) error {
	i, fresh := s.ingests.reserve(s, name)
	if !fresh {
		return errHeld
	}
	defer i.mu.Unlock()
	defer i.end()
	return i.wipe()
}

// unheld is how many bytes leftovers take, counted again only when one came or
// went: the limits are looked at after each commit.
type unheld struct {
	stale atomic.Bool
	bytes atomic.Int64
}

// idleBytes is what files take on the disk that nobody is at: those in
// quarantine, and what is left of transfers and ingests.
func (s *Store) idleBytes() int64 {
	if !s.unheld.stale.Swap(false) {
		return s.unheld.bytes.Load()
	}
	found, err := s.leftovers()
	if err != nil {
		s.unheld.stale.Store(true)
		return s.unheld.bytes.Load()
	}
	bytes := bytesOf(found)
	s.unheld.bytes.Store(bytes)
	return bytes
}

func bytesOf(left []leftover) (bytes int64) {
	for _, l := range left {
		bytes += l.Bytes
	}
	return bytes
}
