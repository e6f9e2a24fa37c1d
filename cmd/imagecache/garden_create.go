package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	image "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/api"
)

// gardenWish is what Garden asks for.
type gardenWish struct {
	limit              int64 // bytes; 0: none
	excludeImage       bool
	username, password string
	platform           string
}

func (c *cli) gardenCreateCommand(o *gardenOptions) *cobra.Command {
	var w gardenWish
	cmd := &cobra.Command{
		Use:   "create IMAGE HANDLE",
		Short: "Make a root filesystem of an image, and mount it",
		Long: `Make a root filesystem of an image and mount it, and print what Garden has to tell its runtime.

IMAGE is docker:///library/busybox#1.37, docker://HOST/REPOSITORY#TAG (or a digest, or :TAG), oci:///FOLDER, or the path of a tar.
Of a private image a login is shown to its registry, and is neither kept nor printed. The disk limit
holds: what is written goes to an ext4 file system of just that size, in a sparse file of the store.`,
		Example: "  imagecache garden-plugin create --disk-limit-size-bytes 1073741824 --exclude-image-from-quota docker:///library/busybox#1.37 handle",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := exactArgs(2, "an image and a handle")(cmd, args); err != nil {
				return err
			}
			client, err := c.mountingClient(cmd)
			if err != nil {
				return err
			}
			return c.gardenCreate(cmd.Context(), client, args[0], args[1], w, *o)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.Int64Var(&w.limit, "disk-limit-size-bytes", 0, "how many `BYTES` the image and what is written may take; 0: no limit")
	flags.BoolVar(&w.excludeImage, "exclude-image-from-quota", false, "limit what is written only")
	flags.StringVar(&w.username, "username", "", "`USER` at the image's registry")
	flags.StringVar(&w.password, "password", "", "`PASSWORD` at the image's registry")
	addOnePlatformFlag(cmd, &w.platform)
	return cmd
}

func (c *cli) gardenCreate(ctx context.Context, client *adminClient, from, handle string, w gardenWish, o gardenOptions) error {
	ref, err := gardenImage(from)
	if err != nil {
		return err
	}
	place, err := gardenPlace(o.folder, handle)
	if err != nil {
		return err
	}
	ids, err := readMappings(o.uidMappings, o.gidMappings)
	if err != nil {
		return err
	}
	if w.limit < 0 {
		return fmt.Errorf("a disk limit of %d bytes: want 0, for none, or more", w.limit)
	}
	key := gardenPrefix + handle
	got, err := c.acquire(ctx, client, rootfsWish{Key: key, Reference: ref, Platform: w.platform, Writable: true, Bounded: true,
		Username: w.username, Password: w.password})
	if isFault(err, api.RootfsExists) {
		return &hintedError{fmt.Errorf("there is a root filesystem for the handle %q already", handle), "delete it first"}
	}
	if err != nil {
		return err
	}
	env, err := gardenMount(got, place, o.folder, w, ids)
	if err != nil {
		return errors.Join(err, gardenDelete(context.WithoutCancel(ctx), client, handle, o.folder))
	}
	return json.NewEncoder(c.out).Encode(gardenSpec(filepath.Join(place, bundleRootfs), env))
}

// gardenMount limits and mounts a root filesystem, and gives the environment that its image names.
func gardenMount(r api.Rootfs, place, folder string, w gardenWish, ids idMappings) ([]string, error) {
	var config image.Image
	if err := json.Unmarshal(r.Config, &config); err != nil {
		return nil, fmt.Errorf("the image's config: %w", err)
	}
	if w.limit > 0 {
		left := w.limit
		if !w.excludeImage {
			left -= r.Bytes
		}
		if left <= 0 {
			return nil, fmt.Errorf("the disk limit of %d bytes is used up by the image, which takes %d", w.limit, r.Bytes)
		}
		var err error
		if r, err = limitTo(r, left); err != nil {
			return nil, fmt.Errorf("limiting the disk to %d bytes: %w", left, err)
		}
	}
	if err := ids.apply(&r); err != nil {
		return nil, err
	}
	if err := makeGardenPlace(folder, place); err != nil {
		return nil, err
	}
	rootfs := filepath.Join(place, bundleRootfs)
	// One that a plugin left which was killed may be mounted still; nobody has that.
	if err := unmountAll(rootfs); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return config.Config.Env, mountAt(r, rootfs)
}
