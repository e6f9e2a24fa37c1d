package layertree_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"github.com/imagecache/imagecache/mount/layertree"
)

func gzipped(t testing.TB, data string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func zstdCompressed(t testing.TB, data string, options ...zstd.EOption) string {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, options...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// skippable is a zstd frame that decoders pass over.
func skippable(body string) string {
	header := binary.LittleEndian.AppendUint32(nil, 0x184d2a53)
	header = binary.LittleEndian.AppendUint32(header, uint32(len(body)))
	return string(header) + body
}

func decompressed(r io.Reader) (string, error) {
	d, err := layertree.Decompress(r)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(d)
	return string(data), errors.Join(err, d.Close())
}

func byContainerdDecompressed(r io.Reader) (string, error) {
	d, err := compression.DecompressStream(r)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(d)
	return string(data), errors.Join(err, d.Close())
}

func TestDecompressGivesWhatContainerdGives(t *testing.T) {
	defer goleak.VerifyNone(t)
	long := strings.Repeat("a layer ", 60_000)
	gz, zst := gzipped(t, long), zstdCompressed(t, long)
	for name, data := range map[string]string{
		"nothing":                 "",
		"plain":                   long,
		"short":                   "x",
		"gzip":                    gz,
		"gzip of nothing":         gzipped(t, ""),
		"gzip, two members":       gz + gzipped(t, "and more"),
		"gzip, an empty member":   gz + gzipped(t, "") + gzipped(t, "x"),
		"zstd":                    zst,
		"zstd, two frames":        zst + zstdCompressed(t, "and more"),
		"zstd, skippable between": skippable("first") + zst + skippable("") + zstdCompressed(t, "x") + skippable("last"),
		"zstd, checksum":          zstdCompressed(t, long, zstd.WithEncoderCRC(true)),
		"gzip, garbage behind":    gz + "garbage",
		"gzip, zeros behind":      gz + strings.Repeat("\x00", 1024),
		"gzip, cut":               gz[:len(gz)-9],
		"gzip, cut in the sum":    gz[:len(gz)-3],
		"gzip, cut in the header": gz[:5],
		"gzip, wrong sum":         gz[:len(gz)-8] + "12345678",
		"gzip, zstd behind":       gz + zst,
		"zstd, garbage behind":    zst + "garbage",
		"zstd, gzip behind":       zst + gz,
		"zstd, cut":               zst[:len(zst)-5],
		"zstd, magic alone":       zst[:4],
		"zstd, broken":            zst[:20] + "xxxxxxxx" + zst[28:],
		"three bytes of gzip":     "\x1f\x8b\x08",
	} {
		t.Run(name, func(t *testing.T) {
			want, containerd := byContainerdDecompressed(strings.NewReader(data))
			got, err := decompressed(iotest.OneByteReader(strings.NewReader(data)))
			if (err == nil) != (containerd == nil) {
				t.Fatalf("%v; containerd: %v", err, containerd)
			}
			if err != nil && !isRefused(err) {
				t.Errorf("%v is no RefusedError", err)
			}
			if err == nil && got != want {
				t.Errorf("%d bytes, containerd gives %d", len(got), len(want))
			}
		})
	}
}

func TestDecompressBoundsTheWindow(t *testing.T) {
	// A frame header alone: a window of 2^31 bytes, and a block that never comes.
	frame := "\x28\xb5\x2f\xfd" + "\x00" + string([]byte{21 << 3}) + strings.Repeat("\x00", 64)
	if _, err := decompressed(strings.NewReader(frame)); !isRefused(err) || !strings.Contains(err.Error(), "window") {
		t.Errorf("a window of 2 GiB: %v", err)
	}
}

func TestDecompressPassesErrorsOn(t *testing.T) {
	broken := errors.New("the line is down")
	gz := gzipped(t, strings.Repeat("x", 100_000))
	for name, prefix := range map[string]string{"at once": "", "in the header": gz[:4], "later": gz[:len(gz)/2], "plain": strings.Repeat("plain", 100)} {
		r := io.MultiReader(strings.NewReader(prefix), iotest.ErrReader(broken))
		if _, err := decompressed(r); !errors.Is(err, broken) || isRefused(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// endless gives bytes until it is told to stop, and notes reads after that.
type endless struct{ closed, late bool }

func (e *endless) Read(p []byte) (int, error) {
	e.late = e.late || e.closed
	return copy(p, "endless"), nil
}

func TestReadAheadStopsAtClose(t *testing.T) {
	defer goleak.VerifyNone(t)
	source := new(endless)
	r := layertree.ReadAhead(source)
	if _, err := io.CopyN(io.Discard, r, 5<<20); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	source.closed = true
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("a read after Close gave %d, %v", n, err)
	}
	if source.late {
		t.Error("the source was read after Close")
	}
}

func TestReadAheadIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := new(full)
		r := layertree.ReadAhead(source)
		synctest.Wait()
		if source.bytes > 2<<20 {
			t.Errorf("%d bytes were read ahead", source.bytes)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// full gives as much as is asked for, and counts it.
type full struct{ bytes int }

func (f *full) Read(p []byte) (int, error) {
	f.bytes += len(p)
	return len(p), nil
}
