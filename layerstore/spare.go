package layerstore

const (
	// What is fetched ahead of demand may use this part of Options.MinFree, and
	// go this far beyond Options.MaxSize: a store that is full as it should be,
	// with room being made as it is wanted, is no reason to stop, and one where
	// room is not made is.
	spareFree = 0.5
	spareSize = 1.1
)

// Spare reports whether n bytes more may be kept that nobody is waiting for: the
// disk takes what it is given, and neither limit is passed by much. A disk that
// cannot be asked has no room to spare.
func (s *Store) Spare(n int64) bool {
	if s.keeping.present.Load() || s.index.late.any() {
		return false
	}
	if most := s.limits.size; most > 0 && float64(s.taken()+n) > spareSize*float64(most) {
		return false
	}
	capacity, free, err := s.disk()
	return err == nil && float64(int64(free)-n) >= spareFree*float64(s.limits.free.of(capacity))
}
