package layerstore

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
)

const testMiB = 1 << 20

// leftPartial makes the partial file of a process that ended: content on the
// disk, have in the journal, and a hash state of the first synced bytes of state.
func leftPartial(t *testing.T, l layout, content []byte, j journal, state []byte) {
	t.Helper()
	if err := l.build(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.partial(j.Digest), content, fileMode); err != nil {
		t.Fatal(err)
	}
	h := j.Digest.Algorithm().Hash()
	h.Write(state[:j.Synced])
	j.State = saveHash(h)
	f, err := os.Create(l.journal(j.Digest))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := writeJournal(f, j); err != nil {
		t.Fatal(err)
	}
}

func testContent(size int) []byte {
	return bytes.Repeat([]byte("0123456789abcdef"), size/16)
}

func TestPartialHashesWhatWasNotSynced(t *testing.T) {
	content := testContent(4 * testMiB)
	zeroed := bytes.Clone(content)
	clear(zeroed[2*testMiB : 3*testMiB])
	for name, c := range map[string]struct {
		file   []byte
		synced int64
		whole  bool
	}{
		"all as written":           {content, 2 * testMiB, true},
		"nothing synced":           {content, 0, true},
		"everything synced":        {content, 4 * testMiB, true},
		"zeros behind synced":      {zeroed, 2 * testMiB, false},
		"zeros and nothing synced": {zeroed, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := layout{t.TempDir()}
			d := digest.FromBytes(content)
			size := int64(len(content))
			leftPartial(t, l, c.file, journal{Seq: 1, Digest: d, Size: size, Have: spans{{0, size}}, Synced: c.synced}, content)
			p, j, err := openPartial(l, d, size)
			if err != nil {
				t.Fatal(err)
			}
			defer p.discard()
			if p.hashed != c.synced || j.Have.reach(0) != size {
				t.Errorf("hashed %d, have %v", p.hashed, j.Have)
			}
			got, err := p.sum(size)
			if err != nil || (got == d) != c.whole {
				t.Errorf("digest right is %v, want %v (error %v)", got == d, c.whole, err)
			}
		})
	}
}

// A hash state must never meet other bytes than those it was made of, also when
// the process ends before the new transfer has a journal of its own.
func TestPartialThatDoesNotFitTakesItsJournalAlong(t *testing.T) {
	content := testContent(4 * testMiB)
	d := digest.FromBytes(content)
	size := int64(len(content))
	j := journal{Seq: 7, Digest: d, Size: size, Have: spans{{0, size}}, Synced: size}
	for name, c := range map[string]struct {
		file []byte
		size int64
	}{
		"another size is asked for": {content, size + 1},
		"the file is too short":     {content[:testMiB], size},
	} {
		t.Run(name, func(t *testing.T) {
			l := layout{t.TempDir()}
			leftPartial(t, l, c.file, j, content)
			reader, err := os.Open(l.partial(d)) // of the flight before
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			p, got, err := openPartial(l, d, c.size)
			if err != nil {
				t.Fatal(err)
			}
			defer p.discard()
			if len(got.Have) > 0 || p.hashed > 0 {
				t.Errorf("went on with %v, hashed %d", got.Have, p.hashed)
			}
			if _, err := os.Lstat(l.journal(d)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the old journal: %v", err)
			}
			first := make([]byte, testMiB)
			if _, err := reader.ReadAt(first, 0); err != nil || !bytes.Equal(first, content[:testMiB]) {
				t.Errorf("a reader of the earlier file lost its bytes: %v", err)
			}
		})
	}
}

func TestPartialWithoutUsableStateHashesAnew(t *testing.T) {
	content := testContent(2 * testMiB)
	d := digest.FromBytes(content)
	size := int64(len(content))
	l := layout{t.TempDir()}
	leftPartial(t, l, content, journal{Digest: d, Size: size, Have: spans{{0, size}}}, content)
	f, err := os.OpenFile(l.journal(d), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := writeJournal(f, journal{Seq: 1, Digest: d, Size: size, Have: spans{{0, size}}, Synced: size, State: []byte("no state")}); err != nil {
		t.Fatal(err)
	}
	p, _, err := openPartial(l, d, size)
	if err != nil {
		t.Fatal(err)
	}
	defer p.discard()
	if got, err := p.sum(size); got != d || err != nil {
		t.Errorf("sum %s, %v", got, err)
	}
}
