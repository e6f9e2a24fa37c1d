package layertree

import "cmp"

// The limits where Options sets none.
const (
	DefaultBytes    = 64 << 30  // 64 GiB: larger than any image layer that is known to be in use
	DefaultEntries  = 750_000   // about twice the largest layers seen
	DefaultMetadata = 256 << 20 // 256 MiB: DefaultEntries of ordinary names
)

// Limits bound what one layer may take. Zero means the default.
type Limits struct {
	// Bytes of content, counted as the tar's headers state them: those of sparse
	// files with their holes, those of names that come twice, twice.
	Bytes int64
	// Entries is the number of the tar's headers.
	Entries int
	// Metadata is the memory, in bytes, of names, link targets, extended
	// attributes and nodes, those included that the layer takes away again.
	Metadata int64
}

func (l Limits) orDefaults() Limits {
	return Limits{
		Bytes:    cmp.Or(l.Bytes, DefaultBytes),
		Entries:  cmp.Or(l.Entries, DefaultEntries),
		Metadata: cmp.Or(l.Metadata, DefaultMetadata),
	}
}

// spent is what a layer has taken of its Limits.
type spent struct {
	limits   Limits
	bytes    int64
	entries  int
	metadata int64
	steps    int
}

func (s *spent) addBytes(n int64) error {
	if n > s.limits.Bytes-s.bytes {
		return &LimitError{"bytes of content", s.limits.Bytes}
	}
	s.bytes += n
	return nil
}

func (s *spent) addEntry() error {
	if s.entries++; s.entries > s.limits.Entries {
		return &LimitError{"entries", int64(s.limits.Entries)}
	}
	return nil
}

// Memory of a node with its place in its folder, and of a folder's map above
// that: what a heap profile shows, rounded up.
const (
	nodeBytes   = 224
	folderBytes = 256
)

func (s *spent) addMetadata(n int) error {
	if s.metadata += int64(n); s.metadata > s.limits.Metadata {
		return &LimitError{"bytes of names, link targets and attributes", s.limits.Metadata}
	}
	return nil
}

// stepsPerEntry bounds how many folders are passed while links are followed, and
// while layers below are looked into: with DefaultEntries some seconds of one
// processor. An ordinary path has no link in it and takes none.
const stepsPerEntry = 64

func (s *spent) addSteps(n int) error {
	limit := stepsPerEntry * s.limits.Entries
	if s.steps += n; s.steps > limit {
		return &LimitError{"steps through links and layers below", int64(limit)}
	}
	return nil
}

// headerBytes is how much of a stream may be headers. A header takes 512 bytes,
// 1536 with a short extension.
func (l Limits) headerBytes() int64 { return l.Metadata + int64(l.Entries)*2048 }
