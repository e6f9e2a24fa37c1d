package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/spf13/cobra"
)

func (c *cli) umountCommand() *cobra.Command {
	var form outputForm
	cmd := &cobra.Command{
		Use:   "umount DIR…",
		Short: "Take away what mount or bundle put on a folder",
		Long: `Unmount a root filesystem and give it up, with what was written to it. The layers stay cached, and may
be evicted from then on. Of a bundle its config.json and rootfs go; the folder itself stays.`,
		Example: "  imagecache umount /mnt/alpine\n  imagecache umount /run/bundles/web",
		Args:    minArgs(1, "a folder that something is mounted on"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.mountingClient(cmd)
			if err != nil {
				return err
			}
			done := []string{}
			failed := c.forEach(cmd.Context(), cmd, args, func(ctx context.Context, dir string) error {
				if err := c.umount(ctx, client, dir); err != nil {
					return err
				}
				done = append(done, dir)
				return nil
			})
			if form == formJSON {
				if err := printJSON(c.out, map[string][]string{"unmounted": done}); err != nil {
					return err
				}
			}
			return failed
		},
		ValidArgsFunction: c.completeMounts,
	}
	addOutputFlag(cmd, &form)
	return cmd
}

// completeMounts offers the folders that something is mounted on.
func (c *cli) completeMounts(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), completionPatience)
	defer cancel()
	client, err := c.client(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	list, err := mountedList(ctx, client)
	if err != nil {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	var offered []cobra.Completion
	for _, m := range list {
		offered = append(offered, strings.TrimPrefix(m.Key, bundlePrefix))
	}
	return offered, cobra.ShellCompDirectiveNoFileComp
}

// umount finds what a folder is, a mount, a bundle or, by the name that the list has for it, a root filesystem that Garden has, and takes
// it away.
func (c *cli) umount(ctx context.Context, client *adminClient, given string) error {
	list, err := mountedList(ctx, client)
	if err != nil {
		return err
	}
	held := func(key string) bool {
		return slices.ContainsFunc(list, func(m mounted) bool { return m.Key == key })
	}
	if handle, isGardens := strings.CutPrefix(given, gardenPrefix); isGardens && held(given) {
		return gardenDelete(ctx, client, handle, defaultGardenFolder)
	}
	dir, err := realFolder(strings.TrimPrefix(given, bundlePrefix))
	switch {
	case err != nil:
		return err
	case held(dir):
		if err := unmountAll(dir); err != nil {
			return err
		}
		return release(ctx, client, dir)
	case held(bundlePrefix + dir):
		return umountBundle(ctx, client, dir)
	}
	return notOurs(dir)
}

// notOurs says what is on a folder that we mounted nothing on.
func notOurs(dir string) error {
	if mounted, err := mountinfo.Mounted(dir); err == nil && mounted {
		return &hintedError{fmt.Errorf("what is mounted on %s is not imagecache's", dir), "umount(8) takes it away"}
	}
	return &hintedError{fmt.Errorf("nothing of imagecache's is mounted on %s", dir), "\"imagecache mount\" lists what is"}
}

func umountBundle(ctx context.Context, client *adminClient, dir string) error {
	rootfs := filepath.Join(dir, bundleRootfs)
	if err := unmountAll(rootfs); err != nil {
		return err
	}
	if err := release(ctx, client, bundlePrefix+dir); err != nil {
		return err
	}
	for _, path := range []string{filepath.Join(dir, bundleConfig), rootfs} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
