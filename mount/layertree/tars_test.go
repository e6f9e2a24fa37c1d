package layertree_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// entry is one entry of a tar that a test makes.
type entry struct {
	tar.Header
	body string
}

// someTime has nanoseconds, and is long before any test runs.
var someTime = time.Unix(1_600_000_000, 123_456_789)

type change func(*entry)

func newEntry(typeflag byte, name string, mode int64, changes []change) entry {
	e := entry{Header: tar.Header{Typeflag: typeflag, Name: name, Mode: mode, ModTime: someTime, Format: tar.FormatPAX}}
	for _, c := range changes {
		c(&e)
	}
	e.Size = int64(len(e.body))
	return e
}

func folder(name string, changes ...change) entry {
	return newEntry(tar.TypeDir, name+"/", 0o755, changes)
}

func file(name, body string, changes ...change) entry {
	return newEntry(tar.TypeReg, name, 0o644, append([]change{func(e *entry) { e.body = body }}, changes...))
}

func empty(name string, changes ...change) entry { return file(name, "", changes...) }

func symlink(name, target string, changes ...change) entry {
	return newEntry(tar.TypeSymlink, name, 0o777, append([]change{linkname(target)}, changes...))
}

func hardlink(name, target string, changes ...change) entry {
	return newEntry(tar.TypeLink, name, 0o644, append([]change{linkname(target)}, changes...))
}

func linkname(target string) change { return func(e *entry) { e.Linkname = target } }
func mode(m int64) change           { return func(e *entry) { e.Mode = m } }
func owner(uid, gid int) change     { return func(e *entry) { e.Uid, e.Gid = uid, gid } }
func at(t time.Time) change         { return func(e *entry) { e.ModTime = t } }
func format(f tar.Format) change {
	return func(e *entry) { e.Format, e.ModTime = f, e.ModTime.Truncate(time.Second) }
}

func numbers(major, minor int64) change {
	return func(e *entry) { e.Devmajor, e.Devminor = major, minor }
}

func xattr(name, value string) change {
	return func(e *entry) {
		if e.PAXRecords == nil {
			e.PAXRecords = make(map[string]string)
		}
		e.PAXRecords["SCHILY.xattr."+name] = value
	}
}

// pack makes a tar stream.
func pack(t testing.TB, entries ...entry) []byte {
	t.Helper()
	data, err := tryPack(entries)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func tryPack(entries []entry) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		if h.Typeflag == tar.TypeXGlobalHeader {
			h = tar.Header{Typeflag: h.Typeflag, Name: h.Name, PAXRecords: map[string]string{"comment": "x"}, Format: tar.FormatPAX}
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("%q: %w", e.Name, err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

// raw is a tar header block that archive/tar would not write.
func raw(name string, typeflag byte, size int64, changes ...func(block []byte)) string {
	block := make([]byte, 512)
	copy(block, name)
	copy(block[100:], "0000644\x000000000\x000000000\x00")
	copy(block[124:], fmt.Sprintf("%011o\x00%011o\x00", size, someTime.Unix()))
	block[156] = typeflag
	copy(block[257:], "ustar\x0000")
	for _, c := range changes {
		c(block)
	}
	setSum(block)
	return string(block)
}

// setSum computes a header's checksum.
func setSum(block []byte) {
	copy(block[148:], "        ")
	sum := 0
	for _, b := range block {
		sum += int(b)
	}
	copy(block[148:], fmt.Sprintf("%06o\x00 ", sum))
}

// padded fills up to whole blocks.
func padded(s string) string { return s + strings.Repeat("\x00", (512-len(s)%512)%512) }

// extension is a PAX extended header.
func extension(records ...string) string {
	body := ""
	for _, r := range records {
		body += paxRecord(r)
	}
	return raw("pax", 'x', int64(len(body))) + padded(body)
}

func paxRecord(r string) string {
	length := len(r) + 2
	for len(fmt.Sprint(length))+len(r)+2 != length {
		length++
	}
	return fmt.Sprintf("%d %s\n", length, r)
}

func withEnd(s string) []byte { return append([]byte(s), make([]byte, 1024)...) }

func mkdir(t testing.TB, path string) string {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}
