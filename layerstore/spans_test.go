package layerstore

import (
	"math/rand/v2"
	"testing"
)

// Spans must say what a bitmap of the same bytes says.
func TestSpansAreWhatABitmapIs(t *testing.T) {
	const size = 64
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		var s spans
		var bits [size]bool
		for range 1 + r.IntN(20) {
			from := r.Int64N(size + 1)
			to := min(size, from+r.Int64N(12)-2) // now and then empty or backward
			s.add(from, to)
			for i := from; i < to; i++ {
				bits[i] = true
			}
			if !compare(t, s, bits[:]) {
				t.Fatalf("seed %d: %v", seed, s)
			}
		}
	}
}

func compare(t *testing.T, s spans, bits []bool) bool {
	t.Helper()
	size := int64(len(bits))
	if !s.valid(size) {
		t.Error("not in its form")
	}
	var count int64
	for _, b := range bits {
		if b {
			count++
		}
	}
	if s.bytes() != count {
		t.Errorf("%d bytes, want %d", s.bytes(), count)
	}
	for pos := range size {
		reach := run(bits, pos, true)
		if got := s.reach(pos); got != reach {
			t.Errorf("reach(%d) = %d, want %d", pos, got, reach)
		}
		want := span{reach, run(bits, reach, false)}
		if want.To == size {
			want.To = -1
		}
		if got := s.gap(pos); got != want {
			t.Errorf("gap(%d) = %v, want %v", pos, got, want)
		}
	}
	return !t.Failed()
}

// run is where the bits from pos on stop being as told.
func run(bits []bool, pos int64, is bool) int64 {
	for pos < int64(len(bits)) && bits[pos] == is {
		pos++
	}
	return pos
}

func TestSpansInAWrongFormAreNotValid(t *testing.T) {
	for _, s := range []spans{
		{{-1, 2}}, {{0, 11}}, {{3, 3}}, {{4, 3}}, {{0, 2}, {2, 4}}, {{0, 4}, {3, 6}}, {{5, 6}, {1, 2}},
	} {
		if s.valid(10) {
			t.Errorf("%v is valid", s)
		}
	}
	for _, s := range []spans{nil, {{0, 10}}, {{0, 2}, {3, 4}}} {
		if !s.valid(10) {
			t.Errorf("%v is not valid", s)
		}
	}
}
