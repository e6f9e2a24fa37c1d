package layerstore

import (
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Stats are the store's figures. Sizes are in bytes.
type Stats struct {
	Blobs           int64  // sealed
	Bytes           int64  // of sealed blobs
	Fetched         int64  // received from sources since Open
	Flights         int    // under way
	Partial         int    // partial files and ingests, those that somebody is at included
	PartialBytes    int64  // that they take on the disk
	Idle            int    // of those, the ones that nobody is at
	IdleBytes       int64  // of those
	Quarantine      int    // files in quarantine
	QuarantineBytes int64  // that they take on the disk
	FormBytes       int64  // that forms take, see Derived
	Capacity        uint64 // of the file system
	Free            uint64 // of it, for this process
	Evictions       int64  // blobs that collections took since Open
	EvictedBytes    int64  // of those
}

// Stats counts. It reads the folders of partial files and of quarantine.
func (s *Store) Stats() (Stats, error) {
	st := Stats{
		Blobs:   s.counts.blobs.Load(),
		Bytes:   s.counts.bytes.Load(),
		Fetched: s.counts.fetched.Load(),
		Flights: s.Flights(),
	}
	st.Evictions, st.EvictedBytes = s.Evicted()
	var err error
	if st.Capacity, st.Free, err = s.disk(); err != nil {
		return st, err
	}
	st.FormBytes = s.forms().Bytes()
	for _, l := range s.quarantined() {
		st.Quarantine++
		st.QuarantineBytes += l.Bytes
	}
	waiting, err := s.waitingFiles()
	for _, w := range waiting {
		st.Partial++
		st.PartialBytes += w.bytes
		if !w.held {
			st.Idle++
			st.IdleBytes += w.bytes
		}
	}
	return st, err
}

// disk tells how large the file system of the store is, and how much of it is
// free for this process, in bytes.
func (l layout) disk() (capacity, free uint64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(l.root, &fs); err != nil {
		return 0, 0, storageError("statfs", err)
	}
	return fs.Blocks * uint64(fs.Bsize), fs.Bavail * uint64(fs.Bsize), nil
}

// Flights is how many transfers are under way.
func (s *Store) Flights() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.flights)
}

// Fetched is how many bytes came from sources since Open.
func (s *Store) Fetched() int64 { return s.counts.fetched.Load() }

// Each calls f with every sealed blob, in the order of digests, until it
// returns an error, which Each returns. f must not change the store.
func (s *Store) Each(f func(Info) error) error {
	return s.index.each(func(d digest.Digest, r row) error {
		info := Info{Digest: d, Size: r.Size, MediaType: r.MediaType, Sealed: r.Sealed, Used: r.Used}
		if at, ok := s.usage.last(d); ok {
			info.Used = at
		}
		return f(info)
	})
}

// Writable reports why the store could not keep a blob now, nil when it could.
func (s *Store) Writable() error {
	if s.index.late.any() {
		return storageError("write index", errLate)
	}
	f, err := os.CreateTemp(filepath.Join(s.layout.root, ingestName), "probe-*"+temporary)
	if err != nil {
		return storageError("write", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	_, err = f.Write([]byte{0})
	return storageError("write", err)
}
