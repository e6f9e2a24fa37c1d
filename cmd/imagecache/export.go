package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/imagecache/imagecache/registry"
)

// exportWish is the body of the request.
type exportWish struct {
	References []string `json:"references"`
	Platforms  []string `json:"platforms"`
	Have       []string `json:"have"`
	// NoReferrers leaves out signatures, SBOMs and the like.
	NoReferrers bool `json:"no_referrers,omitempty"`
	DryRun      bool `json:"dry_run"`
}

func (c *cli) exportCommand() *cobra.Command {
	var to, have string
	var wish exportWish
	cmd := &cobra.Command{
		Use:   "export REF…",
		Short: "Write cached images to a tar",
		Long: `Write cached images to a tar of an OCI image layout, which "imagecache import" takes, and so do
"docker load", "ctr images import" and "skopeo copy oci-archive:". It asks no upstream: what is not here
whole is refused.

What refers to the images goes with them, so that what verifies here verifies there: signatures,
attestations and SBOMs, by the referrers API or by cosign's tags, as far as they are here. Of a home's
images these are all, of an upstream's what "imagecache pin" has brought. --no-referrers leaves them out.

Of an image of several platforms all that are here whole are written, or those of --platform;
"docker load" takes one of them, this machine's where it is there. It takes no archive made with --have.
--have names a file of blobs that the other side has, as "imagecache match" prints them there, which
are left out; --dry-run prints what would be written, for "imagecache match" to read. Each blob is
checked while it is written. A file gets its name when all of it is there.`,
		Example: `  imagecache export nginx:1.27 postgres:17 -o images.tar
  imagecache export --platform linux/arm64 ghcr.io/acme/app:v1 -o app.tar
  imagecache export --dry-run nginx:1.27 | ssh other imagecache match - > have
  imagecache export nginx:1.27 --have have | ssh other imagecache import --pin -`,
		Args: referenceArgs,
		RunE: func(cmd *cobra.Command, refs []string) (err error) {
			wish.References = refs
			if err := checkPlatforms(wish.Platforms); err != nil {
				return wrongUse(cmd, "--platform: %s", err)
			}
			if wish.Have, err = c.readHave(cmd, have); err != nil {
				return err
			}
			return c.export(cmd, wish, to)
		},
		ValidArgsFunction: c.completeReferences("/api/v1/images", "images"),
	}
	cmd.Flags().StringVarP(&to, "output", "o", "-", "`FILE` to write to; - is standard output")
	cmd.Flags().StringVar(&have, "have", "", "`FILE` of blobs to leave out; - is standard input")
	cmd.Flags().BoolVar(&wish.NoReferrers, "no-referrers", false, "leave out signatures, SBOMs and the like")
	cmd.Flags().BoolVar(&wish.DryRun, "dry-run", false, "print which blobs would be written, with their sizes")
	addPlatformFlag(cmd, &wish.Platforms)
	return cmd
}

// readHave reads the digests that the other side has.
func (c *cli) readHave(cmd *cobra.Command, file string) ([]string, error) {
	digests := []string{}
	if file == "" {
		return digests, nil
	}
	content, name, err := c.readInput(file, limitDigests)
	if err != nil {
		return nil, err
	}
	all, err := readDigests(name, content)
	if err != nil {
		return nil, wrongUse(cmd, "--have: %s", err)
	}
	for _, s := range unique(all) {
		digests = append(digests, s.Digest.String())
	}
	return digests, nil
}

func (c *cli) export(cmd *cobra.Command, wish exportWish, to string) error {
	client, err := c.client(cmd)
	if err != nil {
		return err
	}
	if wish.DryRun {
		return c.printExport(cmd, client, wish)
	}
	if file, ok := c.out.(*os.File); ok && to == "-" && term.IsTerminal(int(file.Fd())) {
		return wrongUse(cmd, "a tar is not for a terminal: name a file with -o, or send it on")
	}
	if to == "-" {
		err = c.receive(cmd.Context(), client, wish, c.out)
	} else {
		err = writeWhole(to, func(f io.Writer) error { return c.receive(cmd.Context(), client, wish, f) })
	}
	return asMisuse(cmd, blameDetail(err))
}

// printExport lists what an export would hold.
func (c *cli) printExport(cmd *cobra.Command, client *adminClient, wish exportWish) error {
	content, err := client.post(cmd.Context(), "/api/v1/export", wish)
	if err != nil {
		return asMisuse(cmd, blameDetail(err))
	}
	blobs, err := decode[[]registry.Sought](content)
	if err != nil {
		return err
	}
	for _, b := range blobs {
		if _, err := fmt.Fprintln(c.out, b.Digest, b.Size); err != nil {
			return err
		}
	}
	return nil
}

// receive takes an export, and checks every blob of it again on the way.
func (c *cli) receive(ctx context.Context, client *adminClient, wish exportWish, to io.Writer) error {
	response, err := client.postStream(ctx, "/api/v1/export", wish)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	line := &progressLine{w: c.err, redraws: c.redraws, now: c.clock}
	body := &metered{Reader: response.Body, tell: func(done int64) { line.bytes("exporting", done, response.ContentLength) }}
	at, err := checkArchive(io.TeeReader(body, to))
	line.clear()
	switch {
	case err == nil || ctx.Err() != nil:
		return errors.Join(err, ctx.Err())
	case errors.As(err, new(*os.PathError)):
		return err // ours, of writing
	}
	return client.whyCut(ctx, at, err)
}

// whyCut says why an export broke off in the middle of a blob: most often because the daemon found it to be damaged.
func (a *adminClient) whyCut(ctx context.Context, at registry.Sought, err error) error {
	if at.Digest == "" {
		return fmt.Errorf("%w: %w", errBrokenOff, err)
	}
	content, asked := a.post(ctx, "/api/v1/match", []registry.Sought{{Digest: at.Digest}})
	if asked == nil {
		if here, err := decode[[]registry.Sought](content); err == nil && len(here) == 0 {
			return &hintedError{fmt.Errorf("the export broke off: the blob %s was damaged, and has been taken out of the store", at.Digest),
				"\"imagecache scrub\" fetches it again, where its upstream has it; then export again"}
		}
	}
	return fmt.Errorf("%w, in %s: %w", errBrokenOff, at.Digest, err)
}

// writeWhole writes a file that gets its name when all of it is on the disk; whatever goes wrong before leaves what stood there. A pipe or
// a device, such as /dev/null, is written to as it stands.
func writeWhole(path string, write func(io.Writer) error) (err error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return writeInto(path, write)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close() // a second close changes nothing
			_ = os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(modeOfNew(path)); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func writeInto(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// modeOfNew is that of the file that stands at a path; for none it is the owner's alone, since images may be private.
func modeOfNew(path string) os.FileMode {
	if info, err := os.Stat(path); err == nil {
		return info.Mode().Perm()
	}
	return 0o600
}

// metered tells how many bytes were read.
type metered struct {
	io.Reader
	n    int64
	tell func(done int64)
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	m.n += int64(n)
	m.tell(m.n)
	return n, err
}

// importName completes what an image may be called: as those that are here.
func (c *cli) importName(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	offered, directive := c.completeReferences("/api/v1/images", "images")(cmd, nil, typed)
	return slices.Compact(offered), directive
}
