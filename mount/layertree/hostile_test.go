package layertree_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/imagecache/imagecache/mount/layertree"
)

// repeated gives a piece again and again, n times, and never has more than
// the piece in memory.
func repeated(piece string, n int) io.Reader {
	return numbered(n, func(int) string { return piece })
}

// numbered gives a piece for each number up to n.
func numbered(n int, piece func(i int) string) io.Reader {
	i, rest := 0, ""
	return readerFunc(func(p []byte) (int, error) {
		if rest == "" {
			if i == n {
				return 0, io.EOF
			}
			i++
			rest = piece(i)
		}
		n := copy(p, rest)
		rest = rest[n:]
		return n, nil
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// bombs are streams that take more than is allowed. They are made as they are
// read.
var bombs = map[string]struct {
	stream func() io.Reader
	what   string // of the LimitError
}{
	"10 GB of zeros in one file": {func() io.Reader {
		return io.MultiReader(strings.NewReader(raw("zeros", '0', 10_000_000_000)), repeated(strings.Repeat("\x00", 1<<20), 10_000))
	}, "bytes of content"},
	"10 GB in files that replace each other": {func() io.Reader {
		return repeated(raw("again", '0', 100<<20)+strings.Repeat("\x00", 100<<20), 100)
	}, "bytes of content"},
	"10 GB after the end": {func() io.Reader {
		return repeated(strings.Repeat("\x00", 1<<20), 10_000)
	}, "bytes of content, or after the end"},
	"10 GB in whiteouts": {func() io.Reader {
		return io.MultiReader(strings.NewReader(raw(".wh.x", '0', 10_000_000_000)), repeated(strings.Repeat("\x00", 1<<20), 10_000))
	}, "bytes of content"},
	"a sparse terabyte": {func() io.Reader {
		body := padded("0\n")
		return strings.NewReader(extension("GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=s", "GNU.sparse.realsize=1099511627776") + raw("s", '0', int64(len(body))) + body)
	}, "bytes of content"},
	"a sparse terabyte of GNU": {func() io.Reader {
		return strings.NewReader(raw("s", 'S', 0, func(block []byte) {
			copy(block[257:], "ustar  \x00")
			copy(block[483:], "\x80\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00")
		}))
	}, "bytes of content"},
	"a million empty files": {func() io.Reader {
		return numbered(1_000_000, func(i int) string { return raw(fmt.Sprint("f", i), '0', 0) })
	}, "entries"},
	"a million names for one file": {func() io.Reader {
		return io.MultiReader(strings.NewReader(raw("f", '0', 0)), numbered(1_000_000, func(i int) string {
			return raw(fmt.Sprint("l", i), '1', 0, func(b []byte) { copy(b[157:], "f") })
		}))
	}, "entries"},
	"a million whiteouts of one name": {func() io.Reader {
		return numbered(1_000_000, func(i int) string { return raw(fmt.Sprint(".wh.f", i), '0', 0) })
	}, "entries"},
	"the root a million times": {func() io.Reader { return repeated(raw("./", '5', 0), 1_000_000) }, "entries"},
	"endless PAX headers":      {func() io.Reader { return repeated(extension("comment=on and on"), 1<<62) }, "bytes of headers"},
	"endless large PAX headers": {func() io.Reader {
		return repeated(extension("comment="+strings.Repeat("x", 900<<10)), 1<<62)
	}, "bytes of headers"},
	"endless global headers": {func() io.Reader {
		return repeated(raw("g", 'g', 10)+padded("10 comment"), 1<<62)
	}, ""},
	"endless long names": {func() io.Reader {
		return repeated(raw("././@LongLink", 'L', 1<<19, func(b []byte) { copy(b[257:], "ustar  \x00") })+strings.Repeat("n", 1<<19), 1<<62)
	}, "bytes of headers"},
	"large PAX headers for each file": {func() io.Reader {
		return repeated(extension("comment="+strings.Repeat("x", 900<<10))+raw("f", '0', 0), 1<<62)
	}, "bytes of headers"},
	"large attributes for each file": {func() io.Reader {
		return repeated(extension("SCHILY.xattr.user.x="+strings.Repeat("x", 60<<10))+raw("f", '0', 0), 1<<62)
	}, "bytes of names"},
	"large link targets": {func() io.Reader {
		return repeated(extension("linkpath="+strings.Repeat("x", 4000))+raw("f", '2', 0), 1<<62)
	}, "bytes of names"},
	"long chains of implied folders": {func() io.Reader {
		return numbered(1<<62, func(i int) string {
			return extension(fmt.Sprintf("path=%d/%s", i, strings.Repeat("d/", 1800))) + raw("f", '0', 0)
		})
	}, "entries"},
	"links that are walked for long": {func() io.Reader {
		deep := strings.Repeat("d/", 1700)
		return io.MultiReader(
			strings.NewReader(extension("path="+deep)+raw("d", '5', 0)+raw("l", '2', 0, func(b []byte) { copy(b[157:], ".") })),
			repeated(extension("path=l/"+deep+"f")+raw("f", '0', 0), 1<<62))
	}, "steps"},
}

// TestBombsAreRefused also looks at the memory: it must not grow with what a
// layer pretends to be.
func TestBombsAreRefused(t *testing.T) {
	limits := layertree.Limits{Bytes: 256 << 20, Entries: 20_000, Metadata: 16 << 20}
	// What is counted below is in use, and not garbage that waits for its turn.
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(192 << 20))
	for name, bomb := range bombs {
		t.Run(name, func(t *testing.T) {
			sink := new(count)
			tree, err := readAlone(bomb.stream(), limits, sink)
			if limit := new(layertree.LimitError); tree != nil || !errors.As(err, &limit) && !isRefused(err) {
				t.Fatalf("%v, %v", tree, err)
			} else if bomb.what != "" && !strings.HasPrefix(limit.What, bomb.what) {
				t.Errorf("it was stopped by %v", err)
			}
			if sink.bytes > limits.Bytes {
				t.Errorf("the sink was given %d bytes", sink.bytes)
			}
			var memory runtime.MemStats
			runtime.ReadMemStats(&memory)
			if memory.HeapAlloc > 256<<20 {
				t.Errorf("%d MiB are in use", memory.HeapAlloc>>20)
			}
		})
	}
}

// escapes are layers that reach for what is outside. What is refused and what
// is contained is containerd's choice: see TestAgainstContainerd.
func escapes() map[string][]entry {
	return map[string][]entry{
		"..":                      {file("../../escaped", "x"), folder("../../escaped-folder"), file("a/../../../escaped", "x")},
		"absolute":                {file("/tmp/escaped", "x"), file("//tmp/escaped", "x")},
		"symlink":                 {symlink("out", "/"), file("out/tmp/escaped", "x"), symlink("up", "../../../../../../.."), file("up/tmp/escaped2", "x")},
		"symlink chain":           {symlink("a", "b"), symlink("b", ".."), symlink("c", "a/a/a/a"), file("c/escaped", "x")},
		"symlink, then a folder":  {symlink("d", "/tmp"), folder("d"), file("d/escaped", "x")},
		"symlink, same name":      {symlink("f", "/tmp/escaped"), file("f", "x")},
		"symlink, opaque":         {symlink("f", "/tmp"), empty("f/.wh..wh..opq")},
		"symlink, whiteout":       {symlink("f", "/tmp"), empty("f/.wh.victim")},
		"symlink, whiteout of it": {symlink("f", "/tmp/victim"), empty(".wh.f")},
		"hard link":               {hardlink("l", "/etc/passwd")},
		"hard link ..":            {hardlink("l", "../../../../../../etc/passwd")},
		"hard link by a symlink":  {symlink("s", "/etc"), hardlink("l", "s/passwd", mode(0o777))},
		"hard link to a symlink":  {symlink("s", "/tmp/victim"), hardlink("l", "s", mode(0o777), owner(7, 7)), file("l", "x")},
		"into a device":           {newEntry(tar.TypeChar, "null", 0o666, []change{numbers(1, 3)}), file("null", "over it"), newEntry(tar.TypeChar, "tty", 0o666, []change{numbers(5, 0)}), file("tty/below", "x")},
		"into a pipe":             {newEntry(tar.TypeFifo, "p", 0o666, nil), file("p", "x"), hardlink("q", "p")},
		"whiteout climbs":         {empty("a/.wh..."), empty(".wh.../victim")},
		"folder time by a link":   {folder("d"), symlink("d", "/tmp")},
	}
}

// TestNothingEscapes unpacks beside files that must stay as they are.
func TestNothingEscapes(t *testing.T) {
	needRoot(t)
	for name, entries := range escapes() {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			mkdir(t, filepath.Join(root, "outside"))
			if err := os.WriteFile(filepath.Join(root, "outside", "victim"), []byte("untouched"), 0o600); err != nil {
				t.Fatal(err)
			}
			for i := range entries {
				entries[i].Linkname = strings.ReplaceAll(entries[i].Linkname, "/tmp", root+"/outside")
			}
			before := mustLookAt(t, root)
			dir := filepath.Join(root, "layer")
			_, err := byUs(mkdir(t, dir), pack(t, entries...), nil)
			if err != nil && !isRefused(err) {
				t.Errorf("not refused clearly: %v", err)
			}
			t.Log(err)
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			after := mustLookAt(t, root)
			delete(before, ".")
			delete(after, ".") // its time changed
			if fmt.Sprint(before) != fmt.Sprint(after) {
				t.Errorf("outside was\n%v\nand is\n%v", before, after)
			}
			if _, err := os.Lstat("/tmp/escaped"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("/tmp/escaped: %v", err)
			}
		})
	}
}

func mustLookAt(t *testing.T, root string) map[string]looks {
	t.Helper()
	all, err := lookAt(root)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestBrokenStreams cuts and bends a good stream everywhere.
func TestBrokenStreams(t *testing.T) {
	good := pack(t, folder("d"), file("d/f", strings.Repeat("x", 700), xattr("user.a", "b")), hardlink("l", "d/f"))
	for at := range len(good) - 1024 {
		_, err := readAlone(bytes.NewReader(good[:at]), layertree.Limits{}, new(count))
		if err != nil && !isRefused(err) {
			t.Fatalf("cut at %d: %v", at, err)
		}
		// archive/tar, and so containerd, do not miss the padding of the last block.
		if err == nil && strings.Trim(string(good[at:(at+511)/512*512]), "\x00") != "" {
			t.Fatalf("cut at %d: taken", at)
		}
	}
	broken := errors.New("the disk is gone")
	for _, at := range []int{0, 100, 512, 1800, 2600, len(good)} {
		_, err := readAlone(io.MultiReader(bytes.NewReader(good[:at]), iotest.ErrReader(broken)), layertree.Limits{}, new(count))
		if !errors.Is(err, broken) || isRefused(err) {
			t.Errorf("an error at %d: %v", at, err)
		}
	}
}

// failing is a Sink that fails, or that reads too little.
type failing struct{ err error }

func (f failing) File(io.Reader, int64) (int64, error) { return 1, f.err }

func TestSinkErrors(t *testing.T) {
	full := errors.New("no space")
	layer := pack(t, file("f", "x"))
	if _, err := readAlone(bytes.NewReader(layer), layertree.Limits{}, failing{full}); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	if _, err := readAlone(bytes.NewReader(layer), layertree.Limits{}, failing{}); err == nil || isRefused(err) {
		t.Errorf("a sink that read nothing: %v", err)
	}
}

func TestContextEndsRead(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	endless := readerFunc(func(p []byte) (int, error) {
		cancel()
		clear(p)
		return len(p), nil
	})
	_, err := layertree.Read(ctx, io.MultiReader(strings.NewReader(raw("f", '0', 1<<40)), endless), layertree.Options{Limits: layertree.Limits{Bytes: 1 << 41}}, nil, new(count))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestNothingIsLeftOpen makes and breaks many folders.
func TestNothingIsLeftOpen(t *testing.T) {
	needRoot(t)
	before := openFiles(t)
	for i := range 20 {
		layer := pack(t, folder("d"), file("d/f", "x"), hardlink("l", "d/f"), file(strings.Repeat("d/", 100)+"f", "x"))
		if i%2 == 1 {
			layer = layer[:len(layer)-2000]
		}
		if _, err := byUs(mkdir(t, filepath.Join(t.TempDir(), "l")), layer, nil); err != nil && !isRefused(err) {
			t.Fatal(err)
		}
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d files were open, and now %d", before, after)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
