package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/registry/registrytest"
)

const (
	fileIndex = "layerstore.db"
	fileState = "registry.db"
	fileList  = specs.ImageIndexFile
)

// ruin is a cache, before it becomes one, that holds a tag, and a pin of two platforms whose tag
// has moved on since. Its upstream is gone.
type ruin struct {
	*cache
	tagged, pinned registrytest.Image
	index          specs.Descriptor
}

func newRuin(t *testing.T) *ruin {
	t.Helper()
	upstream := registrytest.New(t, registrytest.Options{})
	s := &ruin{cache: newCache(t, upstream, nil)}
	s.tagged = upstream.AddImage("team/tagged", "1", registrytest.Bytes(1, 3000), registrytest.Bytes(2, 3000))
	s.pinned = upstream.AddImageFor("team/pinned", "", specs.Platform{OS: "linux", Architecture: "amd64"}, registrytest.Bytes(3, 3000))
	other := upstream.AddImageFor("team/pinned", "", specs.Platform{OS: "linux", Architecture: "arm64"}, registrytest.Bytes(4, 3000))
	s.index, _ = upstream.AddIndex("team/pinned", "1", s.pinned, other)
	s.pull("registry.test/team/tagged:1")
	s.pin("registry.test/team/pinned:1", PlatformAll)
	upstream.Stop()
	return s
}

func (s *ruin) pull(ref string) {
	s.t.Helper()
	if _, err := s.Pull(context.Background(), reference(s.t, ref), nil, nil); err != nil {
		s.t.Fatal(err)
	}
}

func (s *ruin) pin(ref string, platforms ...string) {
	s.t.Helper()
	if _, err := s.Pin(context.Background(), reference(s.t, ref), platforms, nil); err != nil {
		s.t.Fatal(err)
	}
}

func (s *ruin) damage(name string, change func([]byte) []byte) {
	s.t.Helper()
	path := filepath.Join(s.root, name)
	content, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if content = change(content); content == nil {
		err = os.Remove(path)
	} else {
		err = os.WriteFile(path, content, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// wantPin wants the pin as it was acknowledged, answering and complete.
func (s *ruin) wantPin() {
	s.t.Helper()
	s.expect("registry.test/team/pinned:1", s.index.Digest, OutcomeHit)
	pins, err := s.Pins(context.Background(), false)
	if err != nil || len(pins) != 1 {
		s.t.Fatalf("pins %+v, %v", pins, err)
	}
	p := pins[0]
	if p.Digest != s.index.Digest.String() || !p.Complete || p.Want < 7 {
		s.t.Errorf("the pin stands as %+v", p)
	}
	roots, err := s.store.Roots()
	if err != nil || roots[rootOfPin+"registry.test/team/pinned:1"] != s.index.Digest {
		s.t.Errorf("roots %v, %v", roots, err)
	}
}

// wantTag wants the tag to be answered though upstream is gone.
func (s *ruin) wantTag() {
	s.t.Helper()
	m, _ := s.get("registry.test/team/tagged:1")
	if m.Descriptor.Digest != s.tagged.Digest {
		s.t.Errorf("the tag means %s", m.Descriptor.Digest)
	}
	if _, _, err := s.Blob(context.Background(), Repository{"registry.test", "team/tagged"}, s.tagged.Layers[0].Digest); err != nil {
		s.t.Error(err)
	}
	images, err := s.Images(context.Background())
	if err != nil || len(images) != 2 || !images[0].Complete || !images[1].Complete {
		s.t.Errorf("images %+v, %v", images, err)
	}
}

func gone([]byte) []byte { return nil }

// hurts are what may be done to a file.
var hurts = map[string]func([]byte) []byte{
	"missing":   gone,
	"empty":     func([]byte) []byte { return []byte{} },
	"truncated": func(b []byte) []byte { return b[:len(b)*2/3] },
	"garbage": func(b []byte) []byte {
		_, _ = rand.NewChaCha8([32]byte{9}).Read(b) // never fails
		return b
	},
	"unreadable rows": func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`{"digest":`), []byte(`{"digest!!`)) },
}

func TestDaemonStartsWhateverDatabaseIsLost(t *testing.T) {
	for _, files := range [][]string{{fileIndex}, {fileState}, {fileIndex, fileState}} {
		for name, hurt := range hurts {
			t.Run(fmt.Sprint(name, files), func(t *testing.T) {
				s := newRuin(t)
				s.stop()
				for _, file := range files {
					s.damage(file, hurt)
				}
				s.start()
				s.wantPin()
				s.wantTag()
				s.restart() // what was found again lasts
				s.wantPin()
				s.wantTag()
			})
		}
	}
}

func TestPinsAnswerWhicheverPageOfTheStateIsLost(t *testing.T) {
	s := newRuin(t)
	s.stop()
	path := filepath.Join(s.root, fileState)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(content); at += os.Getpagesize() {
		page := slices.Clone(content)
		clear(page[at : at+os.Getpagesize()])
		if err := os.WriteFile(path, page, 0o600); err != nil {
			t.Fatal(err)
		}
		s.start()
		s.wantPin()
		s.wantTag()
		s.stop()
	}
}

// A pin is known by the store's roots when registry.db and index.json are lost
// both, and its platforms by what is here.
func TestPinSurvivesTheLossOfStateAndList(t *testing.T) {
	s := newRuin(t)
	s.stop()
	s.damage(fileState, gone)
	s.damage(fileList, func([]byte) []byte { return []byte("{") })
	s.start()
	s.wantPin()
	if row, _ := s.Registry.pinned(reference(t, "registry.test/team/pinned:1")); !slices.Equal(row.Platforms, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("platforms %v", row.Platforms)
	}
}

func TestDamagedListIsWrittenAnew(t *testing.T) {
	for name, hurt := range hurts {
		t.Run(name, func(t *testing.T) {
			s := newRuin(t)
			s.stop()
			s.damage(fileList, hurt)
			s.restart()
			s.stop() // writes what was found to be wrong at the start
			s.damage(fileIndex, gone)
			s.damage(fileState, gone)
			s.start()
			s.wantPin()
			s.wantTag()
		})
	}
}

// A pin is in index.json when it is acknowledged, and no more when it is
// dropped: nothing but the process is ended here, and that by a copy.
func TestPinIsListedAtOnce(t *testing.T) {
	s := newRuin(t)
	lost := func() *ruin {
		root := filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(root, os.DirFS(s.root)); err != nil {
			t.Fatal(err)
		}
		after := &ruin{cache: newCache(t, s.upstream, func(c *cache) {
			c.root = root
			for _, file := range []string{fileIndex, fileState} {
				if err := os.Remove(filepath.Join(root, file)); err != nil {
					t.Fatal(err)
				}
			}
		}), index: s.index}
		return after
	}
	lost().wantPin()
	if err := s.Unpin(context.Background(), reference(t, "registry.test/team/pinned:1")); err != nil {
		t.Fatal(err)
	}
	if pins, err := lost().Pins(context.Background(), false); err != nil || len(pins) != 0 {
		t.Errorf("pins %+v, %v", pins, err)
	}
}

// Who pulled a tag was told that it is here: its row is durable by then.
func TestPulledTagIsDurable(t *testing.T) {
	s := newRuin(t)
	row, err := s.state.tag("registry.test/team/tagged:1")
	if err != nil || row.Digest != s.tagged.Digest {
		t.Errorf("the row says %+v, %v", row, err)
	}
}

// A database of a later version is no damaged one.
func TestNewerStateIsRefusedAndLeftAlone(t *testing.T) {
	s := newRuin(t)
	s.stop()
	path := filepath.Join(s.root, fileState)
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keySchema, []byte("2")) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openState(path, slog.New(slog.DiscardHandler), nil); !errors.Is(err, ErrNewer) {
		t.Errorf("error %v", err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed; %v", err)
	}
}

func TestDescribe(t *testing.T) {
	s := newRuin(t)
	mediaType, refs, ok := Describe(s.tagged.Manifest)
	want := []digest.Digest{s.tagged.Config.Digest, s.tagged.Layers[0].Digest, s.tagged.Layers[1].Digest}
	if !ok || mediaType != s.tagged.MediaType || !slices.Equal(refs, want) {
		t.Errorf("%q, %v, %v", mediaType, refs, ok)
	}
	for _, other := range []string{"", "{}", "layer", `{"config":{"Cmd":["sh"]},"rootfs":{}}`, `{"manifests":[{"digest":"x"}]}`} {
		if mediaType, refs, ok := Describe([]byte(other)); ok {
			t.Errorf("%q is taken for %s with %v", other, mediaType, refs)
		}
	}
}
