package layerstore_test

import (
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
)

func TestProveFindsRot(t *testing.T) {
	eachDamage(t, []int{1000, mib}, func(s *shed, content []byte, d damage) {
		_, err := s.Prove(s.Context(), digest.FromBytes(content))
		var rot *layerstore.RotError
		if !errors.As(err, &rot) && !errors.Is(err, layerstore.ErrNotFound) {
			s.Errorf("%v", err)
		}
		s.wantTaken(content, d)
		s.wantLost(content)
	})
}

func TestProvingIsNoUse(t *testing.T) {
	s := newShed(t)
	content := random(mib + 1)
	must(t, s.Put(t.Context(), describe(content), content))
	before, err := s.Stat(digest.FromBytes(content))
	must(t, err)
	s.clock.advance(day)
	if n, err := s.Prove(t.Context(), digest.FromBytes(content)); n != int64(len(content)) || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if after, err := s.Stat(digest.FromBytes(content)); err != nil || after != before {
		t.Errorf("%+v, %v, before %+v", after, err, before)
	}
	if _, err := s.Prove(t.Context(), digest.FromString("nowhere")); !errors.Is(err, layerstore.ErrNotFound) {
		t.Errorf("%v", err)
	}
}
