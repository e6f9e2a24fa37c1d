package forms

import (
	"maps"
	"slices"
	"sync"

	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// form is one form that is here.
type form struct {
	// place guards where the form lies and is mounted. It is taken before
	// Forms.mu, and held over operations of files.
	place sync.Mutex

	// Forms.mu guards what follows.
	row    row
	users  map[string]bool
	making bool // it is being made again
	gone   bool // it was dropped
	// times says how often it was made: what was found out about an earlier
	// making does not count.
	times int
	dirty bool // the index does not know the time of its use, or a blob
}

func (m *form) info() Form {
	return Form{ID: m.row.ID, Kind: m.row.Kind, DiffID: m.row.DiffID, Bytes: m.row.Bytes, Inodes: m.row.Inodes}
}

// ready reports whether the form may be lent. What was not sealed before the
// machine went down may be anything.
func (f *Forms) ready(m *form) bool {
	return m.row.Bad == "" && (!m.row.Sealed.IsZero() || m.row.Boot == f.o.BootID)
}

// add enters a form into the tables. f.mu is held.
func (f *Forms) add(m *form) {
	f.forms[m.row.ID] = m
	f.keys[m.row.Key] = m
	f.addBlobs(m)
	f.next = max(f.next, m.row.ID)
	f.idle.forget()
}

func (f *Forms) addBlobs(m *form) {
	for _, b := range m.row.Blobs {
		if f.blobs[b.Digest] == nil {
			f.blobs[b.Digest] = map[*form]bool{}
		}
		f.blobs[b.Digest][m] = true
	}
}

// forget takes a form out of the tables. f.mu is held.
func (f *Forms) forget(m *form) {
	delete(f.forms, m.row.ID)
	if f.keys[m.row.Key] == m {
		delete(f.keys, m.row.Key)
	}
	f.removeBlobs(m)
	f.idle.forget()
	m.gone = true
}

func (f *Forms) removeBlobs(m *form) {
	for _, b := range m.row.Blobs {
		if delete(f.blobs[b.Digest], m); len(f.blobs[b.Digest]) == 0 {
			delete(f.blobs, b.Digest)
		}
	}
}

// use notes that a form was asked for, and the blob it was asked by. f.mu is held.
func (f *Forms) use(m *form, blob specs.Descriptor) {
	m.row.Used = f.o.Now()
	m.dirty = true
	if slices.ContainsFunc(m.row.Blobs, func(b specs.Descriptor) bool { return b.Digest == blob.Digest }) {
		return
	}
	f.removeBlobs(m)
	m.row.meet(blob)
	f.addBlobs(m)
	f.idle.forget()
}

// load takes the rows that were found into the tables.
func (f *Forms) load() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.index.rows {
		f.add(&form{row: r})
	}
	for _, d := range f.index.parented {
		f.parented[d] = true
	}
	f.index.rows, f.index.parented = nil, nil
}

// Form is the form of a number.
func (f *Forms) Form(id uint64) (Form, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, ok := f.forms[id]
	if !ok {
		return Form{}, false
	}
	return m.info(), true
}

// spoil says that a form must be made again before it is lent, and remembers it.
// times is what the form's was when that was found out. It reports whether that
// still counts.
func (f *Forms) spoil(m *form, times int, why error) bool {
	f.mu.Lock()
	if m.gone || m.times != times || m.row.Bad != "" {
		f.mu.Unlock()
		return false
	}
	m.row.Bad = why.Error()
	id := m.row.ID
	f.mu.Unlock()
	if err := f.record(id); err != nil {
		f.log.Error("damage of a form not recorded", "form", id, "error", err)
	}
	return true
}

// record writes the rows of forms as they are now.
func (f *Forms) record(ids ...uint64) error {
	return f.index.put(func() (rows []row) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, id := range ids {
			if m := f.forms[id]; m != nil {
				rows = append(rows, m.row)
				m.dirty = false
			}
		}
		return rows
	})
}

// writeUse writes what the index does not know yet: times of use, and blobs.
func (f *Forms) writeUse() {
	var ids []uint64
	f.mu.Lock()
	for id, m := range f.forms {
		if m.dirty {
			ids = append(ids, id)
		}
	}
	f.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	if err := f.record(ids...); err != nil {
		f.log.Error("times of use not written", "error", err)
	}
}

// sortedUsers are the names of those who hold a form. f.mu is held.
func (m *form) sortedUsers() []string { return slices.Sorted(maps.Keys(m.users)) }
