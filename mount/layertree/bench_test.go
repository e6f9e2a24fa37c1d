package layertree_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/layertree"
)

// someLayer is the layer that LAYERTREE_LAYER names, or one of the size of a
// small distribution: 7,000 files of 13 KiB on average in 700 folders.
func someLayer(b *testing.B) []byte {
	b.Helper()
	if path := os.Getenv("LAYERTREE_LAYER"); path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		return data
	}
	random := rand.New(rand.NewPCG(1, 2))
	var entries []entry
	for i := range 700 {
		dir := fmt.Sprintf("usr/d%d", i/20)
		entries = append(entries, folder(dir), folder(fmt.Sprintf("%s/d%d", dir, i)))
		for j := range 10 {
			entries = append(entries, file(fmt.Sprintf("%s/d%d/file%d", dir, i, j), text(random, random.IntN(26<<10))))
		}
	}
	var compressed bytes.Buffer
	w := gzip.NewWriter(&compressed)
	if _, err := w.Write(pack(b, append([]entry{folder("usr")}, entries...)...)); err != nil {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return compressed.Bytes()
}

// text compresses about as well as what is in images.
func text(random *rand.Rand, size int) string {
	data := make([]byte, size)
	for i := range data {
		data[i] = "etaoin shrdlu\n"[random.IntN(14)]
	}
	return string(data)
}

// BenchmarkUnpack compares making a folder of a gzip layer, its diff ID
// included, in containerd's way and in ours.
func BenchmarkUnpack(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("SKIPPED: files can be given away by root only")
	}
	layer := someLayer(b)
	for name, unpack := range map[string]func(string, []byte) error{"containerd": benchContainerd, "ours": benchOurs} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(layer)))
			// All is removed at the end only: ext4 makes no new file where one was
			// removed in the last seconds, and searches on.
			root, begin := b.TempDir(), processorTime()
			for i := 0; b.Loop(); i++ {
				if err := unpack(mkdir(b, filepath.Join(root, fmt.Sprint(i))), layer); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((processorTime()-begin).Seconds()*1000/float64(b.N), "cpu-ms/op")
		})
	}
}

func benchContainerd(dir string, layer []byte) error {
	r, err := compression.DecompressStream(bytes.NewReader(layer))
	if err != nil {
		return err
	}
	hashed := io.TeeReader(r, sha256.New())
	_, err = archive.Apply(context.Background(), dir, hashed, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
	_, rest := io.Copy(io.Discard, hashed)
	return errors.Join(err, rest, r.Close())
}

func benchOurs(dir string, layer []byte) error {
	r, err := layertree.Decompress(bytes.NewReader(layer))
	if err != nil {
		return err
	}
	defer r.Close()
	parents, err := layertree.OpenParents(nil)
	if err != nil {
		return err
	}
	d, err := layertree.NewDirectory(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	tree, err := layertree.Read(context.Background(), io.TeeReader(r, sha256.New()), layertree.Options{}, parents, d)
	if err != nil {
		return err
	}
	return d.Finish(context.Background(), tree)
}

// processorTime is what the process has used, in the kernel too: it tells more
// than the clock does on a machine that others use.
func processorTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
