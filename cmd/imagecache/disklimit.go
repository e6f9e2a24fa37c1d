package main

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/imagecache/imagecache/api"
)

// limitTo has what is written to a root filesystem take so many bytes at most. The mounts of what it gives are to be used: they write to a
// file system of its own, in a file beside the folders fs and work that overlayfs else writes to.
func limitTo(r api.Rootfs, bytes int64) (api.Rootfs, error) {
	dir := filepath.Dir(r.Upper)
	limited, err := limitByFile(dir, bytes)
	if err != nil {
		return r, err
	}
	return movedTo(r, dir, limited), nil
}

// movedTo is a root filesystem that writes below another folder.
func movedTo(r api.Rootfs, from, to string) api.Rootfs {
	moved := func(text string) string {
		for _, name := range []string{"fs", "work"} {
			for _, prefix := range []string{"", "upperdir=", "workdir="} {
				if text == prefix+filepath.Join(from, name) {
					return prefix + filepath.Join(to, name)
				}
			}
		}
		return text
	}
	r.Mounts = slices.Clone(r.Mounts)
	for i, m := range r.Mounts {
		r.Mounts[i].Source = moved(m.Source)
		r.Mounts[i].Options = slices.Clone(m.Options)
		for j, option := range m.Options {
			r.Mounts[i].Options[j] = moved(option)
		}
	}
	lowers := r.Lowers
	r.Lowers = nil
	for _, l := range lowers { // a folder that is bound and written to is none that only the daemon mounted
		if !strings.HasPrefix(l.Path, from+"/") {
			r.Lowers = append(r.Lowers, l)
		}
	}
	return r
}
