package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	runtime "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/api"
)

const (
	gardenPrefix = "garden:" // of the keys of what Garden has
	// defaultGardenFolder is where root filesystems are mounted: below /run, so that after a boot nothing is left of what is no more.
	defaultGardenFolder = "/run/imagecache-garden"
)

// gardenOptions are the flags of garden-plugin that Garden's image_plugin_extra_args may hold.
type gardenOptions struct {
	folder                   string
	uidMappings, gidMappings []string
}

func (c *cli) gardenCommand() *cobra.Command {
	var o gardenOptions
	cmd := &cobra.Command{
		Use:   "garden-plugin",
		Short: "Give Cloud Foundry's Garden its root filesystems",
		Long: `Give Cloud Foundry's Garden its root filesystems, as its image plugin.

Garden calls this itself: set image_plugin (and privileged_image_plugin) to the path of imagecache, and
its extra arguments to garden-plugin. Containers in a user namespace need their mappings there too.
Unlike with grootfs a cached image needs no registry, so applications start while it is away. Errors
are printed on standard output, where Garden looks for them.`,
		Example: `  imagecache garden-plugin create --disk-limit-size-bytes 1073741824 docker:///library/busybox#1.37 handle
  imagecache garden-plugin --uid-mapping 0:4294967294:1 --uid-mapping 1:1:4294967293 create oci:///var/images/app handle
  imagecache garden-plugin stats handle
  imagecache garden-plugin delete handle`,
		Args: cobra.ArbitraryArgs,
		RunE: runGroup,
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&o.folder, "mounts", defaultGardenFolder, "`FOLDER` below which root filesystems are mounted")
	flags.StringArrayVar(&o.uidMappings, "uid-mapping", nil, "`CONTAINER:HOST:SIZE` of users, for containers in a user namespace; may be repeated")
	flags.StringArrayVar(&o.gidMappings, "gid-mapping", nil, "the same of groups (default: as of users)")
	cmd.AddCommand(c.gardenCreateCommand(&o), c.gardenDeleteCommand(&o), c.gardenStatsCommand())
	for _, sub := range cmd.Commands() {
		c.speakToGarden(sub)
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		fmt.Fprintln(c.out, printable(err.Error()))
		return errReported
	})
	return cmd
}

// speakToGarden has a command say on standard output what went wrong: Garden reads that, and has no use for the exit status but that it
// is not 0.
func (c *cli) speakToGarden(cmd *cobra.Command) {
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := run(cmd, args); err != nil {
			fmt.Fprintln(c.out, printable(withHint(err).Error()))
			return errReported
		}
		return nil
	}
}

// gardenPlace is the folder of a handle, which may be any text.
func gardenPlace(folder, handle string) (string, error) {
	name := url.PathEscape(handle)
	if name == "" || name == "." || name == ".." || len(name) > 255 {
		return "", fmt.Errorf("%q cannot be the handle of a container", handle)
	}
	return filepath.Join(folder, name), nil
}

func (c *cli) gardenDeleteCommand(o *gardenOptions) *cobra.Command {
	return &cobra.Command{
		Use:     "delete HANDLE",
		Short:   "Take a root filesystem away; one that is not there is no error",
		Example: "  imagecache garden-plugin delete handle",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := exactArgs(1, "a handle")(cmd, args); err != nil {
				return err
			}
			client, err := c.mountingClient(cmd)
			if err != nil {
				return err
			}
			return gardenDelete(cmd.Context(), client, args[0], o.folder)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// gardenDelete takes everything of a handle away, as much of it as there is.
func gardenDelete(ctx context.Context, client *adminClient, handle, folder string) error {
	place, err := gardenPlace(folder, handle)
	if err != nil {
		return err
	}
	held, known, err := findRootfs(ctx, client, gardenPrefix+handle)
	if err != nil {
		return err
	}
	if err := unmountAll(filepath.Join(place, bundleRootfs)); err != nil {
		return err
	}
	if known {
		if err := unlimit(held); err != nil {
			return err
		}
		if err := release(ctx, client, held.Key); err != nil {
			return explainRootfsAnswer(err)
		}
	}
	return errors.Join(removeIfThere(filepath.Join(place, bundleRootfs)), removeIfThere(place))
}

// findRootfs looks for a root filesystem without having its layers mounted.
func findRootfs(ctx context.Context, client *adminClient, key string) (api.Rootfs, bool, error) {
	list, err := listRootfs(ctx, client)
	for _, r := range list {
		if r.Key == key {
			return r, true, err
		}
	}
	return api.Rootfs{}, false, err
}

func (c *cli) gardenStatsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "stats HANDLE",
		Short:   "Tell how much a root filesystem takes",
		Example: "  imagecache garden-plugin stats handle",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := exactArgs(1, "a handle")(cmd, args); err != nil {
				return err
			}
			client, err := c.mountingClient(cmd)
			if err != nil {
				return err
			}
			return c.gardenStats(cmd.Context(), client, args[0])
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// diskUsage is what Garden reads of the answer to stats.
type diskUsage struct {
	Total     int64 `json:"total_bytes_used"`     // with the image, which others may use too
	Exclusive int64 `json:"exclusive_bytes_used"` // what was written
}

func (c *cli) gardenStats(ctx context.Context, client *adminClient, handle string) error {
	held, known, err := findRootfs(ctx, client, gardenPrefix+handle)
	if err != nil {
		return err
	}
	if !known {
		return fmt.Errorf("there is no root filesystem for the handle %q", handle)
	}
	written, limited, err := writtenWithinLimit(held)
	if err == nil && !limited {
		held, err = acquired(ctx, client, held.Key)
		written = held.Written
	}
	if err != nil {
		return err
	}
	return printJSON(c.out, map[string]diskUsage{"disk_usage": {Total: held.Bytes + written, Exclusive: written}})
}

// gardenSpec is what Garden reads of the answer to create: the parts of a runtime's settings that an image decides.
func gardenSpec(rootfs string, env []string) *runtime.Spec {
	return &runtime.Spec{Version: runtime.Version, Root: &runtime.Root{Path: rootfs}, Process: &runtime.Process{Cwd: "/", Env: env}}
}

// makeGardenPlace makes the folder to mount on. Those above it are passed through by the users that containers run as.
func makeGardenPlace(folder, place string) error {
	if err := os.MkdirAll(folder, 0o711); err != nil {
		return err
	}
	if err := os.MkdirAll(place, 0o711); err != nil {
		return err
	}
	return errors.Join(os.Chmod(folder, 0o711), os.Chmod(place, 0o711)) // whatever the umask
}
