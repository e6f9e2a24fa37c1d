package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/api"
	"github.com/imagecache/imagecache/registry"
)

// mountOptions are the flags of mount.
type mountOptions struct {
	writable bool
	platform string
	form     outputForm
}

func (c *cli) mountCommand() *cobra.Command {
	var o mountOptions
	cmd := &cobra.Command{
		Use:   "mount [REF DIR]",
		Short: "Mount an image's root filesystem, without containerd",
		Long: `Mount the root filesystem of an image on a folder, without containerd.

Layers that are not here are fetched first. What is mounted stays when the daemon stops, is never
evicted, and takes no network. DIR is made when it is missing. After the machine was started anew the
same command mounts it again, with what was written to it. oci:///FOLDER:TAG and /FILE.tar mount
images that lie on this machine.

Without arguments it lists what there is, and what of it is not mounted any more.`,
		Example: `  imagecache mount docker.io/library/alpine:3.22 /mnt/alpine
  imagecache mount --rw ghcr.io/acme/app:v1 /srv/app
  imagecache mount
  imagecache umount /mnt/alpine`,
		Args: mountArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.mountingClient(cmd)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return c.listMounts(cmd.Context(), client, o.form)
			}
			return c.mountRootfs(cmd, client, args[0], args[1], o)
		},
		ValidArgsFunction: c.completeImageThenFolder(),
	}
	cmd.Flags().BoolVar(&o.writable, "rw", false, "let it be written to; umount throws away what was written")
	addOnePlatformFlag(cmd, &o.platform)
	addOutputFlag(cmd, &o.form)
	return cmd
}

// completeImageThenFolder completes REF DIR.
func (c *cli) completeImageThenFolder() cobra.CompletionFunc {
	images := c.completeReferences("/api/v1/images", "images")
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		switch len(args) {
		case 0:
			return images(cmd, args, typed)
		case 1:
			return nil, cobra.ShellCompDirectiveFilterDirs
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

func mountArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if err := exactArgs(2, "a reference and a folder, or nothing")(cmd, args); err != nil {
		return err
	}
	return imageArg(cmd, args[0])
}

func addOnePlatformFlag(cmd *cobra.Command, platform *string) {
	cmd.Flags().StringVar(platform, "platform", "", "`PLATFORM`, as in linux/arm64 (default: this machine's)")
	_ = cmd.RegisterFlagCompletionFunc("platform", cobra.FixedCompletions([]string{"linux/amd64", "linux/arm64"}, cobra.ShellCompDirectiveNoFileComp))
}

// mounted is a root filesystem and where it is mounted.
type mounted struct {
	api.Rootfs
	MountedOn []string `json:"mounted_on"` // in this mount namespace
	// Again says that it had been mounted before, and holds what was written then.
	Again bool   `json:"again,omitempty"`
	image []byte // its config
}

func (c *cli) mountRootfs(cmd *cobra.Command, client *adminClient, ref, dir string, o mountOptions) error {
	dir, err := realFolder(dir)
	if err != nil {
		return err
	}
	got, err := c.mountWish(cmd.Context(), client, dir, rootfsWish{Key: dir, Reference: ref, Platform: o.platform, Writable: o.writable})
	if err != nil {
		return asMisuse(cmd, blameUnlessHinted(ref, err))
	}
	return c.printMounted(got, o.form)
}

// mountWish has a root filesystem made and mounts it on dir; one that was mounted there before is mounted again.
func (c *cli) mountWish(ctx context.Context, client *adminClient, dir string, wish rootfsWish) (mounted, error) {
	if err := checkTarget(dir); err != nil {
		return mounted{}, err
	}
	got, err := c.acquire(ctx, client, wish)
	again := isFault(err, api.RootfsExists)
	if again {
		got, err = c.reacquire(ctx, client, dir, wish)
	}
	if err != nil {
		return mounted{}, err
	}
	if err := mountAt(got, dir); err != nil {
		if again {
			return mounted{}, err
		}
		return mounted{}, releaseAfter(ctx, client, wish.Key, err)
	}
	config := got.Config
	got.Config, got.Mounts, got.Lowers = nil, nil, nil
	return mounted{got, []string{dir}, again, config}, nil
}

// reacquire takes a root filesystem that is there but not mounted, if it is the one that is wanted.
func (c *cli) reacquire(ctx context.Context, client *adminClient, dir string, wish rootfsWish) (api.Rootfs, error) {
	got, err := acquired(ctx, client, wish.Key)
	if err != nil {
		return api.Rootfs{}, err
	}
	if got.Writable != wish.Writable || !sameReference(got.Reference, wish.Reference) {
		return api.Rootfs{}, &hintedError{
			fmt.Errorf("%s was mounted on %s, %s, and is not now", got.Reference, dir, accessWord(got.Writable)),
			fmt.Sprintf("mount it again as it was, or give it up first, with what was written to it: \"imagecache umount %s\"", dir),
		}
	}
	return got, nil
}

// sameReference compares a reference in full with one as it was typed.
func sameReference(full, typed string) bool {
	ref, err := registry.ParseReference(typed)
	return full == typed || err == nil && ref.String() == full
}

func accessWord(writable bool) string {
	if writable {
		return "writable"
	}
	return "read-only"
}

func (c *cli) printMounted(m mounted, form outputForm) error {
	if form == formJSON {
		return printJSON(c.out, m)
	}
	word := "mounted"
	if m.Again {
		word = "mounted again"
	}
	_, err := fmt.Fprintf(c.out, "%s (%s, %s) %s on %s, %s\n", printable(m.Reference), shortDigest(m.Digest), m.Platform, word,
		printable(strings.Join(m.MountedOn, ", ")), accessWord(m.Writable))
	return err
}

// listMounts tells what root filesystems there are, and where.
func (c *cli) listMounts(ctx context.Context, client *adminClient, form outputForm) error {
	list, err := mountedList(ctx, client)
	if err != nil {
		return err
	}
	if form == formJSON {
		return printJSON(c.out, map[string][]mounted{"mounts": list})
	}
	t := newTable(c.out, "FOR", "IMAGE", "DIGEST", "ACCESS", "LAYERS", "MADE", "MOUNTED ON")
	for _, m := range list {
		t.row(m.Key, m.Reference, shortDigest(m.Digest), accessWord(m.Writable), size(m.Bytes), ago(c.clock(), m.CreatedAt), strings.Join(m.MountedOn, ", "))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if i := slices.IndexFunc(list, func(m mounted) bool { return len(m.MountedOn) == 0 }); i >= 0 {
		fmt.Fprintf(c.err, "note: what is mounted nowhere is kept all the same: mount it again, or give it up by \"imagecache umount %s\"\n", printable(list[i].Key))
	}
	return nil
}

func mountedList(ctx context.Context, client *adminClient) ([]mounted, error) {
	held, err := listRootfs(ctx, client)
	if err != nil {
		return nil, err
	}
	at, err := mountedAt(held)
	if err != nil {
		return nil, err
	}
	list := make([]mounted, len(held))
	for i, r := range held {
		list[i] = mounted{Rootfs: r, MountedOn: append([]string{}, at[r.Key]...)}
	}
	return list, nil
}

// listRootfs asks for all root filesystems that are held.
func listRootfs(ctx context.Context, client *adminClient) ([]api.Rootfs, error) {
	content, err := client.get(ctx, pathRootfs, nil)
	if err != nil {
		return nil, err
	}
	answer, err := decode[struct {
		Rootfs []api.Rootfs `json:"rootfs"`
	}](content)
	return answer.Rootfs, err
}
