package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/imagecache/imagecache/registry"
)

// checkArchive reads a tar of an OCI layout to its end and hashes each blob. It returns the one in which it stopped.
func checkArchive(from io.Reader) (at registry.Sought, err error) {
	archive := tar.NewReader(from)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, from) // to the end, for whoever gets it too
			return registry.Sought{}, err
		}
		if err != nil {
			return at, err
		}
		if at, err = checkMember(h, archive); err != nil {
			return at, err
		}
	}
}

// checkMember hashes one file, if it is a blob.
func checkMember(h *tar.Header, content io.Reader) (registry.Sought, error) {
	rest, ok := strings.CutPrefix(h.Name, "blobs/")
	if !ok {
		_, err := io.Copy(io.Discard, content)
		return registry.Sought{}, err
	}
	d, err := registry.ParseDigest(strings.Replace(rest, "/", ":", 1))
	if err != nil {
		return registry.Sought{}, err
	}
	at := registry.Sought{Digest: d, Size: h.Size}
	hash := d.Algorithm().Hash()
	if _, err := io.Copy(hash, content); err != nil {
		return at, err
	}
	if got := fmt.Sprintf("%x", hash.Sum(nil)); got != d.Encoded() {
		return at, fmt.Errorf("what came has the digest %s:%s", d.Algorithm(), got)
	}
	return at, nil
}

// tarLayout writes the OCI layout in a folder as a tar. Nothing outside of the folder is read, wherever links in it lead.
func tarLayout(folder string, to io.Writer) error {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	out := tar.NewWriter(to)
	for _, name := range []string{"oci-layout", "index.json"} {
		if err := tarOne(root, name, out); err != nil {
			return err
		}
	}
	err = fs.WalkDir(root.FS(), "blobs", func(name string, d fs.DirEntry, err error) error {
		// Blobs alone: a tool may leave what is half written beside them.
		if err != nil || d.IsDir() || !isBlobPath(name) {
			return err
		}
		return tarOne(root, name, out)
	})
	if err != nil {
		return err
	}
	return out.Close()
}

func isBlobPath(name string) bool {
	algorithm, hex := path.Base(path.Dir(name)), path.Base(name)
	_, err := registry.ParseDigest(algorithm + ":" + hex)
	return err == nil && path.Dir(path.Dir(name)) == "blobs"
}

func tarOne(root *os.Root, name string, out *tar.Writer) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", name)
	}
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: 0o644, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err = io.Copy(out, f)
	return err
}
