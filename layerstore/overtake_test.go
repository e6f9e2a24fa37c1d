package layerstore_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
)

// Requests of a source whose first answers misbehave, in a bubble.
func overtaking(t *testing.T, first func(hold chan struct{}) []storetest.Answer, test func(t *testing.T, src *storetest.Source, hold chan struct{}, ensure func() error)) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{}) // of the bubble
		s := open(t, layerstore.Options{Root: t.TempDir()})
		defer s.Close()
		content := random(3 * mib)
		src := storetest.Answers(content, first(hold)...)
		test(t, src, hold, func() error { return s.Ensure(t.Context(), describe(content), src, nil) })
		synctest.Wait()
		if n := src.OpenBodies(); n != 0 {
			t.Errorf("%d bodies were not closed", n)
		}
	})
}

func TestSilentRequestIsDroppedWhenAnotherDelivers(t *testing.T) {
	first := func(hold chan struct{}) []storetest.Answer {
		return []storetest.Answer{{HoldAt: mib}, {HoldAt: storetest.AtStart, Hold: hold}}
	}
	overtaking(t, first, func(t *testing.T, src *storetest.Source, hold chan struct{}, ensure func() error) {
		time.AfterFunc(5*time.Second, func() {
			if n := src.OpenBodies(); n != 2 {
				t.Errorf("%d requests are open while the second delivers nothing", n)
			}
			close(hold)
		})
		must(t, ensure())
		wantAsked(t, src, storetest.Request{Offset: 0, End: -1}, storetest.Request{Offset: mib, End: 3 * mib})
	})
}

func TestRequestThatIsOnlyHeldUpGoesOn(t *testing.T) {
	first := func(hold chan struct{}) []storetest.Answer {
		return []storetest.Answer{{HoldAt: mib, Hold: hold}, {HoldAt: storetest.AtStart}}
	}
	overtaking(t, first, func(t *testing.T, src *storetest.Source, hold chan struct{}, ensure func() error) {
		time.AfterFunc(5*time.Second, func() { close(hold) })
		must(t, ensure())
		if got := src.Sent(); got != 3*mib || len(src.Requests()) != 2 {
			t.Errorf("%d bytes were sent, asked %v", got, src.Requests())
		}
	})
}

func TestRequestThatFallsSilentAgainIsAskedForAgain(t *testing.T) {
	first := func(hold chan struct{}) []storetest.Answer {
		return []storetest.Answer{{HoldAt: mib, Hold: hold, Break: mib + kib}, {HoldAt: storetest.AtStart}}
	}
	overtaking(t, first, func(t *testing.T, src *storetest.Source, hold chan struct{}, ensure func() error) {
		time.AfterFunc(5*time.Second, func() { close(hold) })
		must(t, ensure())
		if got := src.Requests(); len(got) != 3 || got[2].Offset != mib+kib {
			t.Errorf("asked %v", got)
		}
	})
}

func TestSourceThatRefusesTheSecondRequestEndsTheFirst(t *testing.T) {
	first := func(hold chan struct{}) []storetest.Answer {
		return []storetest.Answer{{HoldAt: mib}, {Err: errRefused{}}}
	}
	overtaking(t, first, func(t *testing.T, src *storetest.Source, hold chan struct{}, ensure func() error) {
		if err := ensure(); !errors.As(err, new(errRefused)) || len(src.Requests()) != 2 {
			t.Errorf("%v, asked %v", err, src.Requests())
		}
	})
}

func TestBothRequestsSilentAreTwoTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, layerstore.Options{Root: t.TempDir()})
		defer s.Close()
		content := random(mib)
		src := storetest.Always(content, storetest.Answer{HoldAt: storetest.AtStart})
		if err := s.Ensure(t.Context(), describe(content), src, nil); !errors.Is(err, layerstore.ErrStalled) || len(src.Requests()) != 2 {
			t.Errorf("%v, asked %v", err, src.Requests())
		}
	})
}
