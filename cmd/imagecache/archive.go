package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
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

// archiveFiles lists what an import wants of a folder: of an OCI layout, or of what skopeo copy dir: and podman save
// --format docker-dir write. Blobs alone: a tool may leave what is half written beside them.
func archiveFiles(folder string) ([]string, error) {
	if _, err := os.Stat(filepath.Join(folder, "oci-layout")); err == nil {
		names := []string{"oci-layout", "index.json"}
		err := fs.WalkDir(os.DirFS(folder), "blobs", func(name string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && isBlobPath(name) {
				names = append(names, name)
			}
			return err
		})
		return names, err
	}
	if content, err := os.ReadFile(filepath.Join(folder, "version")); err != nil || !strings.HasPrefix(string(content), "Directory Transport Version") {
		return nil, &hintedError{fmt.Errorf("%s is not the folder of an OCI layout: it has no oci-layout", folder),
			"of other folders make a tar first: \"tar -C " + folder + " -c . | imagecache import -\""}
	}
	files, err := os.ReadDir(folder)
	names := []string{"version", "manifest.json"}
	for _, f := range files {
		if dirBlob.MatchString(f.Name()) {
			names = append(names, f.Name())
		}
	}
	return names, err
}

// dirBlob are the names of blobs and of an index's manifests in skopeo's dir: form.
var dirBlob = regexp.MustCompile(`^[0-9a-f]{64}(\.manifest\.json)?$`)

// tarFolder writes files of a folder as a tar. Nothing outside of the folder is read, wherever links in it lead.
func tarFolder(folder string, names []string, to io.Writer) error {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	out := tar.NewWriter(to)
	for _, name := range names {
		if err := tarOne(root, name, out); err != nil {
			return err
		}
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
	if link, lerr := root.Lstat(name); err != nil && lerr == nil && link.Mode()&fs.ModeSymlink != 0 {
		return &hintedError{fmt.Errorf("%s is a link that leads out of the folder: %w", name, err),
			"if what it leads to is meant, send that: \"tar -C " + root.Name() + " -ch . | imagecache import -\""}
	}
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
