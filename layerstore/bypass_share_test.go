package layerstore_test

import (
	"bytes"
	"context"
	"io"
	"sync"
	"testing"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
)

// herd opens readers that go past the store, all at once.
func herd(t *testing.T, s *layerstore.Store, content []byte, src layerstore.Source, n int) []*layerstore.Blob {
	t.Helper()
	readers := make([]*layerstore.Blob, n)
	var opening sync.WaitGroup
	for i := range readers {
		opening.Go(func() {
			b, err := s.Fetch(t.Context(), describe(content), src)
			if err != nil {
				t.Error(err)
				return
			}
			readers[i] = b
		})
	}
	opening.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() {
		for _, b := range readers {
			b.Close()
		}
	})
	return readers
}

func wantRead(t *testing.T, b *layerstore.Blob, content []byte) {
	t.Helper()
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d of %d bytes, %v", len(got), len(content), err)
	}
}

func TestHerdPastTheStoreSharesOneRequest(t *testing.T) {
	s, content, _ := openBlocked(t, mib) // less than a window: nobody falls behind
	src := storetest.NewSource(content)
	readers := herd(t, s, content, src, 12)
	var reading sync.WaitGroup
	for _, b := range readers {
		reading.Go(func() { wantRead(t, b, content) })
	}
	reading.Wait()
	if n := len(src.Requests()); n != 1 || src.Sent() != mib {
		t.Errorf("%d requests, %d bytes were sent", n, src.Sent())
	}
	for _, b := range readers {
		must(t, b.Close())
	}
	wantOpen(t, src, 0)
}

// The store keeps no more than a window for who is slow, and nobody waits.
func TestReaderPastTheStoreThatFallsBehindAsksForItself(t *testing.T) {
	s, content, _ := openBlocked(t, 9*mib)
	src := storetest.NewSource(content)
	readers := herd(t, s, content, src, 2)
	got := make([]byte, mib)
	_, err := io.ReadFull(readers[1], got)
	must(t, err)
	wantRead(t, readers[0], content)
	rest, err := io.ReadAll(readers[1])
	if err != nil || !bytes.Equal(append(got, rest...), content) {
		t.Errorf("%d bytes, %v", len(got)+len(rest), err)
	}
	asked := src.Requests()
	if len(asked) != 2 || asked[1].Offset != mib {
		t.Errorf("asked %v", asked)
	}
}

// What one source refuses, another's right may get.
func TestRefusalPastTheStoreIsNotShared(t *testing.T) {
	s, content, desc := openBlocked(t, mib)
	hold := make(chan struct{})
	refusing := &waits{hold: hold, err: errRefused{}, asked: make(chan struct{}, 1)}
	refused := make(chan error, 1)
	go func() {
		_, err := s.Fetch(t.Context(), desc, refusing)
		refused <- err
	}()
	<-refusing.asked
	var following sync.WaitGroup
	following.Go(func() {
		b, err := s.Fetch(t.Context(), desc, storetest.NewSource(content))
		if err != nil {
			t.Error(err)
			return
		}
		defer b.Close()
		wantRead(t, b, content)
	})
	close(hold)
	following.Wait()
	if err := <-refused; err == nil {
		t.Error("what its source refuses was given")
	}
}

// waits is a source that refuses after a while.
type waits struct {
	hold  chan struct{}
	asked chan struct{}
	err   error
}

func (w *waits) Open(ctx context.Context, _, _ int64) (*layerstore.Body, error) {
	select {
	case w.asked <- struct{}{}:
	default:
	}
	select {
	case <-w.hold:
		return nil, w.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
