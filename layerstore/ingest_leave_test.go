package layerstore_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/imagecache/imagecache/layerstore"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// A header that is written durably is another file than before: it is renamed.
func header(t *testing.T, root string) os.FileInfo {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "ingest", "write-*.json"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	info, err := os.Stat(files[0])
	must(t, err)
	return info
}

// TestAFewBytesThatAreLeftCostNoSync, but many do, together with the few before.
func TestAFewBytesThatAreLeftCostNoSync(t *testing.T) {
	root, content := t.TempDir(), random(mib)
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	must(t, ingest(t, s, "x", specs.Descriptor{}).Close())
	before, pieces := header(t, root), [][]byte{content[:20000], content[20000:200000], content[200000:]}
	for n, piece := range pieces {
		i := ingest(t, s, "x", specs.Descriptor{})
		write(t, i, piece)
		must(t, i.Close())
		if synced := !os.SameFile(before, header(t, root)); synced != (n == 2) {
			t.Errorf("after piece %d: synced is %v", n, synced)
		}
	}
	_, err := ingest(t, s, "x", specs.Descriptor{}).Commit(t.Context(), describe(content))
	must(t, err)
	if got, err := s.ReadAll(describe(content).Digest, mib); err != nil || !bytes.Equal(got, content) {
		t.Error("other bytes were sealed", err)
	}
}

// TestWhatIsAnnouncedLaterIsKept: it is in the header, which has to be written then.
func TestWhatIsAnnouncedLaterIsKept(t *testing.T) {
	content := random(1000)
	s := open(t, layerstore.Options{Root: t.TempDir()})
	defer s.Close()
	must(t, ingest(t, s, "x", specs.Descriptor{}).Close())
	must(t, ingest(t, s, "x", describe(content)).Close())
	if info, err := s.StatIngest("x"); err != nil || info.Expected != describe(content).Digest || info.Total != 1000 {
		t.Errorf("%+v, %v", info, err)
	}
}
