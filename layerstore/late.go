package layerstore

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// lateMost bounds the rows that wait in memory. A blob whose row finds no
	// room is still found by its file, and gets a row at the next Open.
	lateMost = 4096
	// lateEvery is how often rows that could not be written are tried again
	// while nothing else is sealed.
	lateEvery = 5 * time.Second
)

// errLate: Store.Writable tells of rows that wait.
var errLate = errors.New("rows wait in memory, for the index could not be written")

// lateRows are rows of blobs that have their final names while the index, or
// the folder of blobs, could not be written. They are found like others, and
// written with the next batch.
type lateRows struct {
	mu   sync.Mutex // guards rows
	rows map[digest.Digest]sealed
}

// add keeps what there is room for. The later row of a blob wins, and adds to
// the edges of the earlier.
func (l *lateRows) add(batch []sealed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rows == nil {
		l.rows = map[digest.Digest]sealed{}
	}
	for _, s := range batch {
		earlier, here := l.rows[s.digest]
		if !here && len(l.rows) >= lateMost {
			continue
		}
		s.root = "" // who asked for it is told that it was not set
		if here {
			s.row.MediaType = cmp.Or(s.row.MediaType, earlier.row.MediaType)
			s.refs = append(slices.Clone(earlier.refs), s.refs...)
			slices.Sort(s.refs)
			s.refs = slices.Compact(s.refs)
		}
		l.rows[s.digest] = s
	}
}

func (l *lateRows) get(d digest.Digest) (row, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.rows[d]
	return s.row, ok
}

func (l *lateRows) any() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.rows) > 0
}

// list gives all in the order of digests.
func (l *lateRows) list() []sealed {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Values(l.rows), func(a, b sealed) int { return cmp.Compare(a.digest, b.digest) })
}

// clear forgets all: they were written. Only the committer adds and clears.
func (l *lateRows) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.rows)
}

// record makes the names of a batch durable and writes its rows, with those
// that are late. Rows that cannot be written are late from then on.
func (c *committer) record(rows []sealed) error {
	s := c.store
	late := &s.index.late
	rows = append(late.list(), rows...)
	if len(rows) == 0 {
		return nil
	}
	err := c.syncFolders(rows)
	var blobs int
	var size int64
	if err == nil {
		blobs, size, err = s.index.putRows(rows)
	}
	if err != nil {
		late.add(rows)
		s.indexing.met(err, 0)
		return storageError("seal", err)
	}
	late.clear()
	s.indexing.over(0)
	s.count(blobs, size)
	s.repaired(rows)
	return nil
}
