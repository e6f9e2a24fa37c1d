package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	ctdmount "github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/api"
	"github.com/imagecache/imagecache/registry"
)

const (
	pathRootfs       = "/api/v1/rootfs"
	pathRootfsMounts = "/api/v1/rootfs/mounts"
)

// rootfsWish is the body by which a root filesystem is asked for.
type rootfsWish struct {
	Key       string `json:"key"`
	Reference string `json:"reference"`
	Platform  string `json:"platform,omitempty"`
	Writable  bool   `json:"writable,omitempty"`
	Bounded   bool   `json:"bounded,omitempty"`
	Username  string `json:"username,omitempty"`
	Password  string `json:"password,omitempty"`
}

// mountingClient finds the daemon for a command that mounts, which takes a root.
func (c *cli) mountingClient(cmd *cobra.Command) (*adminClient, error) {
	if c.uid != 0 {
		return nil, &hintedError{fmt.Errorf("%s mounts file systems, which only root may", cmd.CommandPath()), "run it as root, with a daemon that runs as root"}
	}
	return c.client(cmd)
}

// imageArg wants a reference, or an image on this machine.
func imageArg(cmd *cobra.Command, arg string) error {
	if isLocalImage(arg) {
		return nil
	}
	return referenceArgs(cmd, []string{arg})
}

// acquire has the daemon make a root filesystem, and shows how far it is.
func (c *cli) acquire(ctx context.Context, client *adminClient, wish rootfsWish) (api.Rootfs, error) {
	line := &progressLine{w: c.err, redraws: c.redraws, now: c.clock}
	var last registry.Progress
	content, err := client.stream(ctx, pathRootfs, wish, func(event registry.Progress) {
		last = event
		line.show(event)
	})
	line.clear()
	if err == nil {
		return decode[api.Rootfs](content)
	}
	if ctx.Err() != nil || errors.Is(err, errBrokenOff) {
		return api.Rootfs{}, &hintedError{interrupted(wish.Reference, last, err), "what arrived is kept; \"imagecache mount\" tells what there is, and the same command goes on from here"}
	}
	return api.Rootfs{}, explainRootfsAnswer(blameUnlessHinted(wish.Reference, err))
}

// explainRootfsAnswer says what to do where the daemon has said what is wrong.
func explainRootfsAnswer(err error) error {
	answer := new(daemonError)
	if !errors.As(err, &answer) {
		return err
	}
	switch answer.Code {
	case "MANIFEST_UNKNOWN", "NAME_UNKNOWN", "UNAVAILABLE":
		return &hintedError{err, "\"imagecache images\" lists what is here; \"imagecache inspect REF\" tells what of it"}
	case string(api.RootfsBusy):
		return &hintedError{err, "try again in a moment"}
	}
	return err
}

func isFault(err error, fault api.RootfsFault) bool {
	answer := new(daemonError)
	return errors.As(err, &answer) && answer.Code == string(fault)
}

// acquired asks for a root filesystem that is there.
func acquired(ctx context.Context, client *adminClient, key string) (api.Rootfs, error) {
	content, err := client.get(ctx, pathRootfsMounts, url.Values{"key": {key}})
	if err != nil {
		return api.Rootfs{}, err
	}
	return decode[api.Rootfs](content)
}

// release gives a root filesystem up. One that is not there is no error.
func release(ctx context.Context, client *adminClient, key string) error {
	_, err := client.delete(ctx, pathRootfs, url.Values{"key": {key}})
	if isFault(err, api.RootfsUnknown) {
		return nil
	}
	return err
}

// releaseAfter gives a root filesystem up that could not be used, also when the command was interrupted.
func releaseAfter(ctx context.Context, client *adminClient, key string, err error) error {
	return errors.Join(err, release(context.WithoutCancel(ctx), client, key))
}

// realFolder is where a folder really is, which is what the kernel lists mounts by. What of it is not there is taken as it stands: folders
// below /run are gone after the machine was started anew, and what was mounted on them is still to be found by them.
func realFolder(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return real, err
	}
	parent, err := realFolder(filepath.Dir(path))
	return filepath.Join(parent, filepath.Base(path)), err
}

// checkTarget wants a folder that is empty, or not there.
func checkTarget(dir string) error {
	files, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	if mounted, err := mountinfo.Mounted(dir); err != nil {
		return err
	} else if mounted {
		return &hintedError{fmt.Errorf("something is mounted on %s already", dir), "\"imagecache umount " + dir + "\" takes it away where it is imagecache's, umount(8) else"}
	}
	if len(files) > 0 {
		return &hintedError{fmt.Errorf("%s is not empty", dir), "choose an empty folder, or one that is not there yet"}
	}
	return nil
}

// mountAt mounts a root filesystem on a folder, which is made where it is missing. When it fails nothing of it is mounted.
func mountAt(r api.Rootfs, dir string) error {
	if err := checkSeen(r.Lowers); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := ctdmount.All(mountsOf(r), dir); err != nil {
		return errors.Join(fmt.Errorf("mounting on %s: %w", dir, err), ctdmount.UnmountAll(dir, 0))
	}
	return nil
}

func mountsOf(r api.Rootfs) []ctdmount.Mount {
	mounts := make([]ctdmount.Mount, len(r.Mounts))
	for i, m := range r.Mounts {
		mounts[i] = ctdmount.Mount{Type: m.Type, Source: m.Source, Options: m.Options}
	}
	return mounts
}

// checkSeen wants this process to see the layers that the daemon sees: it mounted them, maybe where nobody else sees that.
func checkSeen(lowers []api.RootfsLower) error {
	for _, want := range lowers {
		got, err := seen(want.Path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err != nil || got != want {
			return &hintedError{fmt.Errorf("the daemon sees another %s than this command: it has a mount namespace of its own", want.Path),
				"run the daemon without one, as packaging/imagecache-snapshotter.conf has systemd do, and this command beside it"}
		}
	}
	return nil
}

// unmountAll unmounts everything on a folder.
func unmountAll(dir string) error {
	err := ctdmount.UnmountAll(dir, 0)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return &hintedError{fmt.Errorf("unmounting %s: %w", dir, err), "end what uses it (fuser -vm " + dir + "), and try again"}
}

// mountedAt tells where each root filesystem is mounted in this mount namespace: on the folder that is its key, and a writable one
// wherever an overlay writes to its folder.
func mountedAt(list []api.Rootfs) (map[string][]string, error) {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, err
	}
	at := map[string][]string{}
	for _, m := range mounts {
		for _, r := range list {
			if m.Mountpoint == placeOf(r.Key) || r.Upper != "" && writesTo(m, filepath.Dir(r.Upper)) {
				at[r.Key] = append(at[r.Key], m.Mountpoint)
			}
		}
	}
	return at, nil
}

// placeOf is the folder that a key stands for, "" where it does not tell.
func placeOf(key string) string {
	if dir, isBundle := strings.CutPrefix(key, bundlePrefix); isBundle {
		return filepath.Join(dir, bundleRootfs)
	}
	return key
}

// writesTo tells whether a mount is an overlay whose upper folder is below dir.
func writesTo(m *mountinfo.Info, dir string) bool {
	for option := range strings.SplitSeq(m.VFSOptions, ",") {
		if upper, ok := strings.CutPrefix(option, "upperdir="); ok && strings.HasPrefix(upper, dir+"/") {
			return true
		}
	}
	return false
}
