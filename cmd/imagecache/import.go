package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

func (c *cli) importCommand() *cobra.Command {
	var form outputForm
	var name string
	var pin bool
	cmd := &cobra.Command{
		Use:   "import FILE|FOLDER|-",
		Short: "Take images from a tar or an OCI layout",
		Long: `Take images from a tar: what "imagecache export" wrote, any OCI image layout, what "docker save" or
"podman save" wrote in any of their forms, or a "skopeo copy" to a folder; or from the folder of one of
these. A tar may be compressed by gzip or zstd; what xz, bzip2 or lz4 compressed is to be unpacked on the
way: xz -dc images.tar.xz | imagecache import -. - is standard input.

Everything is checked: digests, sizes, and that all is there that the images need, from the archive or
from before. Nothing gets a name before; where anything is wrong nothing does. An image has the name that
the archive says; one that has none gets it by --name. Signatures, attestations and SBOMs go with their
image. As docker.io/… it is served like one that was pulled just now, also when there is no way to its
upstream; --pin keeps it, and freezes its tag. As local/… it is one of your own.`,
		Example: `  imagecache import images.tar
  docker save acme/app:v1 | imagecache import --name ghcr.io/acme/app:v1 --pin -
  imagecache import --name local/team/app:v1 ./layout
  ssh builder docker save acme/app:v1 | zstd | imagecache import --name local/acme/app:v1 -`,
		Args: exactArgs(1, "one file, folder or -"),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{}
			if name != "" {
				if err := referenceArgs(cmd, []string{name}); err != nil {
					return err
				}
				query.Set("name", name)
			}
			if pin {
				query.Set("pin", "true")
			}
			return c.importImages(cmd, args[0], query, form)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "what the image is to be called, a `REF`")
	cmd.Flags().BoolVar(&pin, "pin", false, "pin what is imported")
	addOutputFlag(cmd, &form)
	_ = cmd.RegisterFlagCompletionFunc("name", c.importName)
	return cmd
}

func (c *cli) importImages(cmd *cobra.Command, from string, query url.Values, form outputForm) error {
	client, err := c.client(cmd)
	if err != nil {
		return err
	}
	archive, total, err := c.openArchive(from)
	if err != nil {
		return err
	}
	defer archive.Close()
	from = sourceName(from)
	line := &progressLine{w: c.err, redraws: c.redraws, now: c.clock}
	content, err := client.upload(cmd.Context(), "/api/v1/import", query, "application/x-tar",
		&metered{Reader: archive, tell: func(done int64) { line.bytes("importing "+from, done, total) }})
	line.clear()
	if err != nil {
		return importFault(cmd, from, err)
	}
	if form == formJSON {
		return printRawJSON(c.out, content)
	}
	done, err := decode[registry.Imported](content)
	if err != nil {
		return err
	}
	for _, image := range done.Images {
		if err := c.printFetched(image.Reference, image.Digest, image.Platforms, image.Complete, image.Have, image.Want, image.Size); err != nil {
			return err
		}
	}
	for _, m := range done.Moved {
		if _, err := fmt.Fprintf(c.err, "%s meant %s before\n", m.Reference, m.From); err != nil {
			return err
		}
	}
	return c.printArrived(done)
}

// printArrived tells what came besides the images' names.
func (c *cli) printArrived(done registry.Imported) error {
	line := fmt.Sprintf("%s came that were not here, %s", plural(done.Blobs, "blob"), size(done.Bytes))
	if done.Known > 0 {
		line += fmt.Sprintf("; here before: %d", done.Known)
	}
	if done.Referrers > 0 {
		line += "; with the images: " + plural(done.Referrers, "referrer")
	}
	_, err := fmt.Fprintln(c.err, line)
	return err
}

// sourceName is how people call where an archive comes from.
func sourceName(from string) string {
	if from == "-" {
		return "standard input"
	}
	return from
}

// importFault says what was imported where the daemon's words do not.
func importFault(cmd *cobra.Command, from string, err error) error {
	if errors.Is(err, context.Canceled) {
		return &hintedError{errors.New("interrupted: nothing was imported"), ""}
	}
	return asMisuse(cmd, blameUnlessHinted(from, blameDetail(err)))
}

// openArchive opens a tar, or makes one of a folder. The size, in bytes, is -1 where it is not known.
func (c *cli) openArchive(from string) (io.ReadCloser, int64, error) {
	if from == "-" {
		return io.NopCloser(c.in), -1, nil
	}
	info, err := os.Stat(from)
	if err != nil {
		return nil, 0, err
	}
	if !info.IsDir() {
		f, err := os.Open(from)
		return f, info.Size(), err
	}
	names, err := archiveFiles(from)
	if err != nil {
		return nil, 0, err
	}
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(tarFolder(from, names, w)) }() // which always returns nil
	return r, -1, nil
}
