package layerstore_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// limit sets a soft limit of this process until undo.
func limit(t *testing.T, resource int, most uint64) (undo func()) {
	t.Helper()
	var before unix.Rlimit
	must(t, unix.Getrlimit(resource, &before))
	must(t, unix.Setrlimit(resource, &unix.Rlimit{Cur: most, Max: before.Max}))
	return func() { must(t, unix.Setrlimit(resource, &before)) }
}

// limitFiles makes the disk full for any file that grows beyond most bytes.
func limitFiles(t *testing.T, most uint64) (undo func()) {
	signal.Ignore(syscall.SIGXFSZ)
	return limit(t, unix.RLIMIT_FSIZE, most)
}

// logged is a log that a test reads.
type logged struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) count(line string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), line)
}

// ends waits until no flight is under way.
func ends(t *testing.T, s *layerstore.Store) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); s.Flights() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a flight does not end")
		}
	}
}

// wantBytes fetches a blob, reads it whole and compares.
func wantBytes(t *testing.T, s *layerstore.Store, desc specs.Descriptor, src layerstore.Source, content []byte, want layerstore.Outcome) {
	t.Helper()
	b, err := s.Fetch(t.Context(), desc, src)
	must(t, err)
	defer b.Close()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d of %d bytes, error %v", len(got), len(content), err)
	}
	if b.Outcome() != want {
		t.Errorf("outcome %v, want %v", b.Outcome(), want)
	}
}

// Fifty followers meet a disk that fills up midway: each goes on from where it
// is. When there is room again the blob is stored, and the log told each once.
func TestFollowersGoOnPastAFullDisk(t *testing.T) {
	alone(t, func(t *testing.T) {
		var log logged
		s := open(t, layerstore.Options{Root: t.TempDir(), Log: slog.New(slog.NewTextHandler(&log, nil))})
		defer s.Close()
		undo := limitFiles(t, mib)
		content := random(2 * mib)
		desc := describe(content)
		hold := make(chan struct{})
		src := &storetest.Source{Content: content, Script: func(n int, _ storetest.Request) storetest.Answer {
			if n == 0 {
				return storetest.Answer{HoldAt: mib / 2, Hold: hold}
			}
			return storetest.Answer{}
		}}
		const readers = 50
		var reading, started sync.WaitGroup
		started.Add(readers)
		for i := range readers {
			reading.Go(func() {
				b, err := s.Fetch(t.Context(), desc, src)
				if err != nil {
					t.Error(err)
					started.Done()
					return
				}
				defer b.Close()
				head := make([]byte, i*mib/2/readers)
				_, err = io.ReadFull(b, head)
				started.Done()
				rest, rerr := io.ReadAll(b)
				if got := append(head, rest...); errors.Join(err, rerr) != nil || !bytes.Equal(got, content) {
					t.Errorf("reader %d got %d bytes, error %v", i, len(got), errors.Join(err, rerr))
				}
				if b.Outcome() != layerstore.Bypass || b.Bypassed() == nil {
					t.Errorf("reader %d: outcome %v, %v", i, b.Outcome(), b.Bypassed())
				}
			})
		}
		started.Wait()
		close(hold)
		reading.Wait()
		if got := s.Bypassed(); got != readers {
			t.Errorf("%d readers went past the store, want %d", got, readers)
		}
		wantOpen(t, src, 0)
		wantBytes(t, s, desc, src, content, layerstore.Bypass)
		undo()
		wantBytes(t, s, desc, src, content, layerstore.Miss)
		ends(t, s)
		wantBytes(t, s, desc, src, content, layerstore.Hit)
		if sick, well := log.count("blobs cannot be kept"), log.count("blobs are kept again"); sick != 1 || well != 1 {
			t.Errorf("logged %d and %d times:\n%s", sick, well, log.text.String())
		}
	})
}

// A full disk that is what one blob made it has its space back at once.
func TestPartialFileOfAFullDiskIsGone(t *testing.T) {
	alone(t, func(t *testing.T) {
		s := open(t, layerstore.Options{Root: t.TempDir()})
		defer s.Close()
		defer limitFiles(t, 3*mib)()
		content := random(8 * mib)
		wantBytes(t, s, describe(content), storetest.NewSource(content), content, layerstore.Bypass)
		ends(t, s)
		stats, err := s.Stats()
		must(t, err)
		if stats.Partial != 0 || stats.PartialBytes != 0 || stats.Blobs != 0 {
			t.Errorf("the disk holds %+v", stats)
		}
	})
}

// Ensure promises that a blob is kept: going past the store will not do.
func TestEnsureFailsOnAFullDisk(t *testing.T) {
	alone(t, func(t *testing.T) {
		s := open(t, layerstore.Options{Root: t.TempDir()})
		defer s.Close()
		defer limitFiles(t, 3*mib)()
		content := random(8 * mib)
		var storage *layerstore.StorageError
		if err := s.Ensure(t.Context(), describe(content), storetest.NewSource(content), nil); !errors.As(err, &storage) {
			t.Errorf("ensure: %v", err)
		}
		if s.Bypassed() != 0 {
			t.Error("ensure went past the store")
		}
	})
}

// A process that has no descriptor left for the file of a blob that is here
// gets it from the source, and from the file again when it has.
func TestHitWithoutDescriptors(t *testing.T) {
	alone(t, func(t *testing.T) {
		var log logged
		s := open(t, layerstore.Options{Root: t.TempDir(), Log: slog.New(slog.NewTextHandler(&log, nil))})
		defer s.Close()
		content := random(mib)
		desc, src := describe(content), storetest.NewSource(content)
		must(t, s.Put(t.Context(), desc, content))
		undo := limit(t, unix.RLIMIT_NOFILE, 3)
		for range 3 {
			wantBytes(t, s, desc, src, content, layerstore.Bypass)
		}
		if _, err := s.Fetch(t.Context(), desc, nil); !errors.Is(err, syscall.EMFILE) {
			t.Errorf("without a source: %v", err)
		}
		undo()
		wantBytes(t, s, desc, src, content, layerstore.Hit)
		if sick, well := log.count("blobs cannot be read"), log.count("blobs are read again"); sick != 1 || well != 1 {
			t.Errorf("logged %d and %d times:\n%s", sick, well, log.text.String())
		}
		if _, err := os.Stat(s.Root()); err != nil {
			t.Error(err)
		}
	})
}
