package layerstore

import (
	"slices"
	"sort"
)

// span is a half-open range of bytes [From, To).
type span struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// spans is a set of bytes: sorted, disjoint, and never touching spans.
type spans []span

// add puts [from, to) into the set.
func (s *spans) add(from, to int64) {
	if from >= to {
		return
	}
	set := *s
	// The spans that touch or overlap the new one are set[i:j].
	i := sort.Search(len(set), func(k int) bool { return set[k].To >= from })
	j := i
	for j < len(set) && set[j].From <= to {
		from, to = min(from, set[j].From), max(to, set[j].To)
		j++
	}
	*s = slices.Replace(set, i, j, span{from, to})
}

// reach is the end of the run of bytes that begins at pos, or pos itself when
// the byte at pos is missing.
func (s spans) reach(pos int64) int64 {
	i := sort.Search(len(s), func(k int) bool { return s[k].To > pos })
	if i < len(s) && s[i].From <= pos {
		return s[i].To
	}
	return pos
}

// gap is the first run of missing bytes at or behind pos. Its To is -1 where
// nothing is known to stand behind it.
func (s spans) gap(pos int64) span {
	pos = s.reach(pos)
	i := sort.Search(len(s), func(k int) bool { return s[k].From > pos })
	if i == len(s) {
		return span{pos, -1}
	}
	return span{pos, s[i].From}
}

// bytes counts the bytes in the set.
func (s spans) bytes() (n int64) {
	for _, r := range s {
		n += r.To - r.From
	}
	return n
}

// valid reports whether s is in the form that the methods keep, within [0, size).
func (s spans) valid(size int64) bool {
	end := int64(-1)
	for _, r := range s {
		if r.From <= end || r.To <= r.From || r.From < 0 || (size >= 0 && r.To > size) {
			return false
		}
		end = r.To
	}
	return true
}
