package layerstore

import (
	"maps"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestSizesAreOfWhatIsSealed(t *testing.T) {
	s, err := Open(Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	want := map[digest.Digest]int64{}
	for _, content := range []string{"", "a", "bc"} {
		d := digest.FromString(content)
		if err := s.Put(t.Context(), specs.Descriptor{Digest: d}, []byte(content)); err != nil {
			t.Fatal(err)
		}
		want[d] = int64(len(content))
	}
	i, err := s.Ingest("half", specs.Descriptor{Digest: digest.FromString("half")})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	late := digest.FromString("late")
	s.index.late.add([]sealed{{digest: late, row: row{Size: 4}}})
	want[late] = 4
	got, err := s.Sizes([]digest.Digest{digest.FromString(""), digest.FromString("a"), digest.FromString("bc"), digest.FromString("half"), late, "sha256:../x", ""})
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}
