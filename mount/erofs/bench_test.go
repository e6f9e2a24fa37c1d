package erofs_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/erofs"
	"github.com/imagecache/imagecache/mount/layertree"
)

// benchLayer names a compressed layer to be used instead of a made-up one.
const benchLayer = "IMAGECACHE_BENCH_LAYER"

// BenchmarkMake makes the two forms of a layer, as it is done while the layer
// arrives: decompressed, hashed and written in one pass, and synced at the end.
func BenchmarkMake(b *testing.B) {
	layer := benchmarkLayer(b)
	for _, form := range []struct {
		name string
		make func(dir string, r io.Reader) (disk int64, err error)
	}{{"erofs", makeFile}, {"directory", makeFolder}} {
		b.Run(form.name, func(b *testing.B) {
			var disk int64
			for b.Loop() {
				dir := b.TempDir()
				var err error
				if disk, err = makeForm(dir, layer, form.make); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				os.RemoveAll(dir)
				b.StartTimer()
			}
			b.ReportMetric(float64(disk), "disk-B")
		})
	}
}

func makeForm(dir string, layer []byte, make func(string, io.Reader) (int64, error)) (int64, error) {
	r, err := layertree.Decompress(bytes.NewReader(layer))
	if err != nil {
		return 0, err
	}
	defer r.Close()
	return make(dir, io.TeeReader(r, sha256.New()))
}

func makeFile(dir string, r io.Reader) (int64, error) {
	f, err := os.Create(filepath.Join(dir, "layer.erofs"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	w := erofs.NewWriter(f)
	defer w.Close()
	tree, err := layertree.Read(context.Background(), r, layertree.Options{}, nil, w)
	if err != nil {
		return 0, err
	}
	size, err := w.Finish(tree)
	if err != nil {
		return 0, err
	}
	return size, f.Sync()
}

func makeFolder(dir string, r io.Reader) (int64, error) {
	d, err := layertree.NewDirectory(dir)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	tree, err := layertree.Read(context.Background(), r, layertree.Options{}, nil, d)
	if err != nil {
		return 0, err
	}
	if err := d.Finish(context.Background(), tree); err != nil {
		return 0, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return diskUsage(dir), unix.Syncfs(int(f.Fd()))
}

// diskUsage is what du says, in bytes.
func diskUsage(dir string) (size int64) {
	filepath.Walk(dir, func(path string, _ os.FileInfo, _ error) error {
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			size += st.Blocks * 512
		}
		return nil
	})
	return size
}

// benchmarkLayer is the layer that is asked for, or 4,000 files of 0 to 60 KB.
func benchmarkLayer(b *testing.B) []byte {
	b.Helper()
	if name := os.Getenv(benchLayer); name != "" {
		layer, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		return layer
	}
	var layer bytes.Buffer
	zip := gzip.NewWriter(&layer)
	w := tar.NewWriter(zip)
	for i := range 4000 {
		data := text((i * i) % 60_000)
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d%d/f%d", i%60, i), Size: int64(len(data)), Mode: 0o644, ModTime: then})
		io.WriteString(w, data)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		b.Fatal(err)
	}
	return layer.Bytes()
}
