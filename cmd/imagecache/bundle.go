package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

// The parts of a bundle (OCI runtime spec, "Filesystem Bundle"), and what its key begins with.
const (
	bundleConfig = "config.json"
	bundleRootfs = "rootfs"
	bundlePrefix = "bundle:"
)

// bundleOptions are the flags of bundle.
type bundleOptions struct {
	platform           string
	readOnly, terminal bool
	form               outputForm
}

func (c *cli) bundleCommand() *cobra.Command {
	var o bundleOptions
	cmd := &cobra.Command{
		Use:   "bundle REF DIR [-- ARG…]",
		Short: "Make an OCI runtime bundle of an image, which runc starts as it is",
		Long: `Make an OCI runtime bundle: DIR/config.json, made from the image's config, and DIR/rootfs, which is
mounted. "runc run" and other OCI runtimes start it as it is. What stands after -- takes the place of
the image's command; its entrypoint stays, as with docker run.

The bundle has a network namespace of its own, with nothing in it; its capabilities are those that
containers usually have. "imagecache umount DIR" takes it away, with what was written to it.`,
		Example: `  imagecache bundle docker.io/library/redis:8 /run/bundles/redis && runc run -b /run/bundles/redis redis
  imagecache bundle --tty alpine:3.22 /run/bundles/shell -- /bin/sh
  imagecache umount /run/bundles/redis`,
		Args: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); dash >= 0 {
				args = args[:dash]
			}
			if err := exactArgs(2, "a reference and a folder, and after -- a command")(cmd, args); err != nil {
				return err
			}
			return imageArg(cmd, args[0])
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.bundle(cmd, args[0], args[1], args[2:], o)
		},
		ValidArgsFunction: c.completeImageThenFolder(),
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.readOnly, "read-only", false, "let the container write nothing to its root filesystem")
	flags.BoolVarP(&o.terminal, "tty", "t", false, "give the process a terminal")
	addOnePlatformFlag(cmd, &o.platform)
	addOutputFlag(cmd, &o.form)
	return cmd
}

func (c *cli) bundle(cmd *cobra.Command, ref, dir string, args []string, o bundleOptions) error {
	client, err := c.mountingClient(cmd)
	if err != nil {
		return err
	}
	if dir, err = realFolder(dir); err != nil {
		return err
	}
	if err := checkBundle(dir); err != nil {
		return err
	}
	ctx, key, rootfs := cmd.Context(), bundlePrefix+dir, filepath.Join(dir, bundleRootfs)
	// Also where the container may write nothing: its runtime makes the folders that it mounts on.
	got, err := c.mountWish(ctx, client, rootfs, rootfsWish{Key: key, Reference: ref, Platform: o.platform, Writable: true})
	if err != nil {
		return asMisuse(cmd, blameUnlessHinted(ref, err))
	}
	if err := writeBundleConfig(dir, got.image, args, o); err != nil {
		err = errors.Join(err, unmountAll(rootfs))
		if !got.Again {
			err = releaseAfter(ctx, client, key, err)
			_ = os.Remove(rootfs) // which we made
		}
		return err
	}
	got.MountedOn = []string{dir}
	return c.printMounted(got, o.form)
}

// checkBundle wants a folder without a bundle in it. What a bundle has that was there before the machine was started anew is made again.
func checkBundle(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, file := range files {
		if name := file.Name(); name != bundleConfig && name != bundleRootfs {
			return &hintedError{fmt.Errorf("%s is not empty", dir), "choose an empty folder, or one that is not there yet"}
		}
	}
	return nil
}

func writeBundleConfig(dir string, config []byte, args []string, o bundleOptions) error {
	var image specs.Image
	if err := json.Unmarshal(config, &image); err != nil {
		return fmt.Errorf("the image's config: %w", err)
	}
	spec, err := runtimeSpec(image, filepath.Join(dir, bundleRootfs), args)
	if err != nil {
		return err
	}
	spec.Root.Readonly, spec.Process.Terminal = o.readOnly, o.terminal
	if o.terminal {
		spec.Process.Env = withDefault(spec.Process.Env, "TERM", "xterm")
	}
	content, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return err
	}
	return writeDurable(filepath.Join(dir, bundleConfig), append(content, '\n'), 0o644, nil)
}
