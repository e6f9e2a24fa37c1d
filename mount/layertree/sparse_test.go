package layertree_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/layertree"
)

// sparsePAX is a sparse file in format 1.0 of GNU's PAX formats: "data" at
// 1 MiB of 2 MiB.
func sparsePAX(name string) string {
	body := "1\n1048576\n4\n"
	body += strings.Repeat("\x00", 512-len(body)) + "data"
	return extension("GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name="+name, "GNU.sparse.realsize=2097152") +
		raw("GNUSparseFile.0/f", '0', int64(len(body))) + padded(body)
}

// sparsePAX01 is the same in format 0.1.
func sparsePAX01(name string) string {
	return extension("GNU.sparse.size=2097152", "GNU.sparse.numblocks=1", "GNU.sparse.map=1048576,4", "GNU.sparse.name="+name) +
		raw(name, '0', 4) + padded("data")
}

// sparseGNU is the same in GNU's old format.
func sparseGNU(name string) string {
	return raw(name, 'S', 4, func(block []byte) {
		copy(block[257:], "ustar  \x00")
		copy(block[386:], "00004000000\x0000000000004\x00")
		copy(block[483:], "00010000000\x00")
	}) + padded("data")
}

func TestSparseFilesAgainstContainerd(t *testing.T) {
	needOverlay(t)
	for name, layer := range map[string][]byte{
		"PAX 1.0": withEnd(sparsePAX("s")),
		"PAX 0.1": withEnd(sparsePAX01("s") + sparsePAX("d/e")),
		"GNU":     withEnd(sparseGNU("s")), // containerd takes none
	} {
		t.Run(name, func(t *testing.T) { mustAgree(t, [][]byte{layer, nil}) })
	}
}

// TestSparseFilesOfGNUTar takes what the program itself writes.
func TestSparseFilesOfGNUTar(t *testing.T) {
	needOverlay(t)
	program, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("SKIPPED: there is no tar program to write sparse files")
	}
	dir := t.TempDir()
	writeSparse(t, filepath.Join(dir, "s"))
	for _, options := range [][]string{{"--format=gnu"}, {"--format=pax", "--sparse-version=0.0"}, {"--format=pax", "--sparse-version=0.1"}, {"--format=pax", "--sparse-version=1.0"}} {
		t.Run(strings.Join(options, " "), func(t *testing.T) {
			layer, err := exec.Command(program, append(options, "--sparse", "-C", dir, "-c", "s")...).Output()
			if err != nil {
				t.Skipf("SKIPPED: tar does not write this format: %v", err)
			}
			if len(layer) > 1<<20 {
				t.Fatalf("tar wrote %d bytes: the file is not sparse", len(layer))
			}
			mustAgree(t, [][]byte{layer, nil})
		})
	}
}

func writeSparse(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, offset := range []int64{8192, 1 << 20, 3 << 20} {
		if _, err := f.WriteAt([]byte("data"), offset); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(4 << 20); err != nil {
		t.Fatal(err)
	}
}

// TestZerosBecomeHoles looks at the space and at the bytes.
func TestZerosBecomeHoles(t *testing.T) {
	const block = 4096
	zeros := func(n int) string { return strings.Repeat("\x00", n) }
	for name, c := range map[string]struct {
		body string
		most int64 // blocks
	}{
		"zeros alone":         {zeros(1 << 20), 0},
		"zeros, not a block":  {zeros(1000), 0},
		"zeros at the end":    {"x" + zeros(1<<20), 1},
		"zeros in the middle": {"x" + zeros(1<<20) + "y", 2},
		"zeros first":         {zeros(1<<20) + "y", 1},
		"an odd end":          {zeros(300<<10) + strings.Repeat("y", 300<<10+7) + zeros(300<<10+9), 77},
		"no zeros":            {strings.Repeat("y", 4*block), 4},
	} {
		t.Run(name, func(t *testing.T) {
			dir := mustUnpack(t, pack(t, file("f", c.body)))
			got, err := os.ReadFile(filepath.Join(dir, "f"))
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != c.body {
				t.Errorf("%d bytes of %d, or others", len(got), len(c.body))
			}
			f, err := os.Open(filepath.Join(dir, "f"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Sync(); err != nil { // else blocks are not given yet
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Fstat(int(f.Fd()), &st); err != nil {
				t.Fatal(err)
			}
			if used := st.Blocks * 512; used > c.most*block {
				t.Errorf("it takes %d bytes, not %d", used, c.most*block)
			}
		})
	}
}

// mustUnpack makes a folder of one base layer.
func mustUnpack(t *testing.T, layer []byte) string {
	t.Helper()
	needRoot(t)
	dir := mkdir(t, filepath.Join(t.TempDir(), "layer"))
	d, err := layertree.NewDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	tree, err := readAlone(bytes.NewReader(layer), layertree.Limits{}, d)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Finish(context.Background(), tree); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "fs")
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can make the files of a layer")
	}
}
