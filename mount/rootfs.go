package mount

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	cfs "github.com/containerd/continuity/fs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/imagecache/imagecache/mount/forms"
)

var (
	// ErrRootfsExists: a root filesystem of this key is there, or being made.
	ErrRootfsExists = errors.New("there is a root filesystem of this name already")
	// ErrRootfsBusy: it is being made, or released, at this moment.
	ErrRootfsBusy = errors.New("this root filesystem is being made or released")
	// ErrNoRootfs: no root filesystem has this key.
	ErrNoRootfs = errors.New("there is no root filesystem of this name")
)

// Wish is a root filesystem that somebody asks for.
type Wish struct {
	Key      string // a name for it: any text that is not empty, as in the folder it will be mounted on
	Ref      string // the image
	Platform string // as in linux/amd64; "": this machine's
	Writable bool
}

// Rootfs is a root filesystem for people. It stays, with the layers that it
// needs, until it is released, whatever restarts meanwhile.
type Rootfs struct {
	Key       string
	Ref       string        // of the image, in full
	Digest    digest.Digest // of its manifest
	Platform  string        // as in linux/amd64
	Config    []byte        // the image's config, as the registry has it
	Writable  bool
	CreatedAt time.Time
	Bytes     int64  // that its layers take; other root filesystems may share them
	Upper     string // folder that what is written goes to; "" when it is not writable
	// Mounts are what to mount, in this order, on one folder. They hold paths of
	// this machine and hold until the machine is started anew: then they are
	// asked for again. nil in lists.
	Mounts []mount.Mount
}

// Acquire makes a root filesystem of an image. Layers that are not here are
// fetched and unpacked first, which ends with ctx. Errors besides those of
// Images and of forms: [ErrRootfsExists].
func (s *Snapshotter) Acquire(ctx context.Context, w Wish) (Rootfs, error) {
	if w.Key == "" {
		return Rootfs{}, errors.New("a root filesystem needs a name")
	}
	name := rootfsName(w.Key)
	if !s.growing.start(name) {
		return Rootfs{}, fmt.Errorf("%q: %w", w.Key, ErrRootfsExists)
	}
	defer s.growing.done(name)
	if !missing(s.folders.rootfs(name)) {
		return Rootfs{}, fmt.Errorf("%q: %w", w.Key, ErrRootfsExists)
	}
	r, err := s.makeRootfs(ctx, name, w)
	if err != nil {
		s.forms.Release(rootfsUser(name))
		return Rootfs{}, fmt.Errorf("root filesystem of %s: %w", w.Ref, err)
	}
	return r, nil
}

// makeRootfs makes it under another name, so that a kill leaves a half that is
// known as one.
func (s *Snapshotter) makeRootfs(ctx context.Context, name string, w Wish) (Rootfs, error) {
	image, err := s.images.RootFS(ctx, w.Ref, w.Platform)
	if err != nil {
		return Rootfs{}, err
	}
	made, err := s.getAll(ctx, image.Layers, rootfsUser(name))
	if err != nil {
		return Rootfs{}, err
	}
	record := newRecord(w, image, made)
	r, _, err := s.readied(ctx, name, &record)
	if err != nil {
		return Rootfs{}, err
	}
	half := s.folders.rootfs(halfPrefix + name)
	if err := s.setAside(half); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Rootfs{}, err
	}
	if err := os.Mkdir(half, 0o700); err != nil {
		return Rootfs{}, err
	}
	err = fillFolder(half, r.lowers)
	if err == nil {
		err = record.write(half)
	}
	if err == nil {
		err = os.Rename(half, s.folders.rootfs(name))
	}
	if err != nil {
		return Rootfs{}, errors.Join(err, s.setAside(half))
	}
	return r.Rootfs, nil
}

// getAll has all layers made, side by side, and held for user. It is given the
// same bytes twice where an image has a layer twice.
func (s *Snapshotter) getAll(ctx context.Context, layers []forms.Layer, user string) ([]forms.Form, error) {
	made := make([]forms.Form, len(layers))
	group, ctx := errgroup.WithContext(ctx)
	for i := range layers {
		group.Go(func() (err error) {
			made[i], err = s.forms.Get(ctx, layers[:i+1:i+1], user)
			return err
		})
	}
	return made, group.Wait()
}

// Acquired gives a root filesystem again, with mounts that hold now. Error: [ErrNoRootfs].
func (s *Snapshotter) Acquired(ctx context.Context, key string) (Rootfs, error) {
	name := rootfsName(key)
	record, err := readRecord(s.folders.rootfs(name))
	if errors.Is(err, fs.ErrNotExist) {
		return Rootfs{}, fmt.Errorf("%q: %w", key, ErrNoRootfs)
	}
	if err != nil {
		return Rootfs{}, err
	}
	r, changed, err := s.readied(ctx, name, &record)
	if err == nil && changed {
		err = record.write(s.folders.rootfs(name))
	}
	if missing(s.folders.rootfs(name)) { // released meanwhile: what was held again for it is not wanted
		s.forms.Release(rootfsUser(name))
		return Rootfs{}, fmt.Errorf("%q: %w", key, ErrNoRootfs)
	}
	return r.Rootfs, err
}

// ListRootfs lists the root filesystems for people, without mounts, the oldest first.
func (s *Snapshotter) ListRootfs() ([]Rootfs, error) {
	names, err := s.rootfsNames()
	if err != nil {
		return nil, err
	}
	var list []Rootfs
	for _, name := range names {
		record, err := readRecord(s.folders.rootfs(name))
		if errors.Is(err, fs.ErrNotExist) { // released meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, s.rootfsOf(name, record))
	}
	sortOldestFirst(list)
	return list, nil
}

// RootfsUsage tells what was written to a root filesystem, in bytes of disk. Error: [ErrNoRootfs].
func (s *Snapshotter) RootfsUsage(ctx context.Context, key string) (int64, error) {
	usage, err := cfs.DiskUsage(ctx, filepath.Join(s.folders.rootfs(rootfsName(key)), "fs"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%q: %w", key, ErrNoRootfs)
	}
	return usage.Size, err
}

// ReleaseRootfs gives a root filesystem up, with what was written to it. Whoever
// mounted it has unmounted it before. Errors: [ErrNoRootfs], [ErrRootfsBusy].
func (s *Snapshotter) ReleaseRootfs(key string) error {
	name := rootfsName(key)
	if !s.growing.start(name) {
		return fmt.Errorf("%q: %w", key, ErrRootfsBusy)
	}
	defer s.growing.done(name)
	if missing(s.folders.rootfs(name)) {
		return fmt.Errorf("%q: %w", key, ErrNoRootfs)
	}
	if err := s.setAside(s.folders.rootfs(name)); err != nil {
		return err
	}
	s.forms.Release(rootfsUser(name))
	s.sweeper.kick()
	return nil
}

// readyRootfs is a root filesystem whose lowers can be mounted.
type readyRootfs struct {
	Rootfs
	lowers []string
}

// readied has all lowers of a root filesystem ready, and tells its mounts.
// changed says that the record names other forms now, made for some that were lost.
func (s *Snapshotter) readied(ctx context.Context, name string, record *rootfsRecord) (r readyRootfs, changed bool, err error) {
	r.lowers = make([]string, len(record.Layers))
	for i, l := range record.Layers {
		dir, form, err := s.formLower(ctx, l.Form, l.Chain, rootfsUser(name))
		if err != nil {
			return readyRootfs{}, changed, err
		}
		r.lowers[len(r.lowers)-1-i] = dir // the topmost first
		if form.ID != 0 && form.ID != l.Form {
			record.Layers[i].Form, changed = form.ID, true
		}
	}
	r.Rootfs = s.rootfsOf(name, *record)
	r.Mounts = s.peopleMounts(name, record.Writable, r.lowers)
	return r, changed, nil
}

// peopleMounts is what to mount: as a snapshot's, in folders of its own.
func (s *Snapshotter) peopleMounts(name string, writable bool, lowers []string) []mount.Mount {
	kind := snapshots.KindView
	if writable {
		kind = snapshots.KindActive
	}
	dir := s.folders.rootfs(name)
	return s.mountsIn(kind, filepath.Join(dir, "fs"), filepath.Join(dir, "work"), lowers)
}

// rootfsOf is what a record tells, without mounts.
func (s *Snapshotter) rootfsOf(name string, r rootfsRecord) Rootfs {
	told := Rootfs{Key: r.Key, Ref: r.Ref, Digest: r.Digest, Platform: r.Platform, Config: r.Config,
		Writable: r.Writable, CreatedAt: r.CreatedAt}
	for _, l := range r.Layers {
		if form, here := s.forms.Form(l.Form); here {
			told.Bytes += form.Bytes
		}
	}
	if r.Writable {
		told.Upper = filepath.Join(s.folders.rootfs(name), "fs")
	}
	return told
}

// peopleForms are the forms in use by root filesystems, by user.
func (s *Snapshotter) peopleForms() map[string][]uint64 {
	users := map[string][]uint64{}
	names, err := s.rootfsNames()
	if err != nil {
		s.log.Error("root filesystems could not be listed: their layers are not kept", "error", err)
	}
	for _, name := range names {
		record, err := readRecord(s.folders.rootfs(name))
		if err != nil {
			s.log.Error("a root filesystem's record cannot be read: its layers are not kept", "folder", s.folders.rootfs(name), "error", err)
			continue
		}
		for _, l := range record.Layers {
			users[rootfsUser(name)] = append(users[rootfsUser(name)], l.Form)
		}
	}
	return users
}

// halfPrefix begins the name of a root filesystem that is being made.
const halfPrefix = "."

// rootfsNames are the names of the folders of root filesystems that are whole.
func (s *Snapshotter) rootfsNames() (names []string, err error) {
	dirs, err := os.ReadDir(s.folders.people())
	for _, dir := range dirs {
		if !strings.HasPrefix(dir.Name(), halfPrefix) {
			names = append(names, dir.Name())
		}
	}
	return names, err
}

// discardHalves takes away what a kill left of root filesystems that were being made.
func (s *Snapshotter) discardHalves() (err error) {
	dirs, err := os.ReadDir(s.folders.people())
	for _, dir := range dirs {
		whole, isHalf := strings.CutPrefix(dir.Name(), halfPrefix)
		if !isHalf || !s.growing.start(whole) { // one that is being made now
			continue
		}
		err = errors.Join(err, s.setAside(s.folders.rootfs(dir.Name())))
		s.growing.done(whole)
	}
	return err
}

func (f folders) rootfs(name string) string { return filepath.Join(f.people(), name) }

// rootfsName makes a folder's name of a key, which may be any text.
func rootfsName(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:16])
}

// rootfsUser is who holds the forms of a root filesystem. No snapshot has such a
// name: containerd's begin with a namespace, which has no colon.
func rootfsUser(name string) string { return "rootfs:" + name }
