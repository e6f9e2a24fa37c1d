package layerstore

import "github.com/opencontainers/go-digest"

// Derived is what another room makes of blobs and keeps on the store's disk:
// forms, such as unpacked layers. It counts in the limits, and goes with the
// blobs it was made of. A form belongs to its blobs as long as they are here, or a
// blob that is here names them (Store.Referrers): they may have been dropped because
// it is here (Store.Shed). All methods may be called in parallel, and beside
// methods of the store; the store holds no lock and no blob while it calls
// them, so that they may ask it. A form that is in use (mounted, or being made)
// is never dropped, and never told as freeable.
type Derived interface {
	// Bytes is the disk that all forms take. It is asked often, and answers
	// from memory.
	Bytes() int64
	// Freeable is how many of these bytes would go if the given blobs, all at
	// once, went: those of forms made of them, and those of forms that belong
	// to no such blob. So Freeable(nil) is what Idle could free. It is
	// asked for each image that a plan takes, with all that were taken before,
	// and answers from memory.
	Freeable(blobs map[digest.Digest]bool) int64
	// Drop removes the forms made of blobs that went, or that are named no more
	// by what is here (see [Store.Shed]), and tells how many bytes that freed. It returns when their space is free: the store would take more
	// images for what it still waits for.
	Drop(blobs []digest.Digest) (freed int64)
	// Idle removes forms that belong to no such blob, the least recently
	// used first, until want bytes are free or none is left, and tells how
	// many bytes that freed. It returns when their space is free.
	Idle(want int64) (freed int64)
}

// SetDerived makes what another room keeps on this disk count. It is called at
// most once, also while there is traffic.
func (s *Store) SetDerived(d Derived) {
	s.derived.Store(&d)
	s.collector.nudge() // the limits may be passed by it
}

// forms is what other rooms keep on this disk.
func (s *Store) forms() Derived {
	if d := s.derived.Load(); d != nil {
		return *d
	}
	return noForms{}
}

// noForms stands where nobody makes anything of blobs.
type noForms struct{}

func (noForms) Bytes() int64                          { return 0 }
func (noForms) Freeable(map[digest.Digest]bool) int64 { return 0 }
func (noForms) Drop([]digest.Digest) int64            { return 0 }
func (noForms) Idle(int64) int64                      { return 0 }
