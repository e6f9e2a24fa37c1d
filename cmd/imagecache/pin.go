package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

// pinFlags are what pin is told beside references.
type pinFlags struct {
	form        outputForm
	platforms   []string
	update      bool
	dryRun, yes bool // of patterns
}

func (c *cli) pinCommand() *cobra.Command {
	var f pinFlags
	cmd := &cobra.Command{
		Use:   "pin REF…",
		Short: "Freeze references at their digests, and fetch all of them",
		Long: `Freeze references at the digests they have now, and fetch all of these images.

From then on a pinned reference answers with that digest through the mirror, whatever its upstream
does, until "imagecache unpin". REF@sha256:… pins REF at that digest, whatever its tag says. A
reference that is pinned already stays where it is, and what lacks of it is fetched; --update moves
it to what its upstream's tag means now. A cached image can be pinned while its upstream is away.

A pattern in quotes stands for the tags that exist now: * for any characters but a slash, ? for one,
[…] for one of a set. What it stands for is listed, and pinned when that is agreed to. Registries do
not tell which repositories they have: in a repository's name it stands for those known here.`,
		Example: `  imagecache pin docker.io/library/postgres:17
  imagecache pin --update docker.io/library/postgres:17
  imagecache pin --platform all ghcr.io/acme/app:v1
  imagecache pin quay.io/acme/db:9@sha256:3b1f…
  imagecache pin --dry-run 'registry.example/team/*:v1.*'`,
		Args: pinArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.pin(cmd, args, f)
		},
		ValidArgsFunction: c.completeReferences("/api/v1/images", "images"),
	}
	addPlatformFlag(cmd, &f.platforms)
	cmd.Flags().BoolVar(&f.update, "update", false, "move pins to what their upstreams' tags mean now")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "list what patterns stand for, and pin nothing")
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask before pinning what patterns stand for")
	addOutputFlag(cmd, &f.form)
	return cmd
}

// pinArgs is referenceArgs with patterns.
func pinArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return referenceArgs(cmd, args)
	}
	for _, arg := range args {
		if registry.IsPattern(arg) {
			continue // the daemon reads it
		}
		if err := referenceArgs(cmd, []string{arg}); err != nil {
			return err
		}
	}
	return nil
}

func (c *cli) pin(cmd *cobra.Command, args []string, f pinFlags) error {
	refs, patterns, err := c.matched(cmd, args)
	if err != nil {
		return err
	}
	if f.dryRun {
		return c.printMatches(refs, f.form)
	}
	if patterns {
		if agreed, err := c.agreedToPin(refs, f.yes); err != nil || !agreed {
			return err
		}
	}
	return c.fetchAll(cmd, "/api/v1/pins", "pins", refs, wanted{Platforms: f.platforms, Update: f.update}, f.form, printPinned)
}

// matched puts what they stand for in the place of patterns.
func (c *cli) matched(cmd *cobra.Command, args []string) (refs []string, patterns bool, err error) {
	for _, arg := range args {
		if !registry.IsPattern(arg) {
			refs = append(refs, arg)
			continue
		}
		patterns = true
		matches, err := c.match(cmd.Context(), cmd, arg)
		if err != nil {
			return nil, patterns, asMisuse(cmd, blameUnlessHinted(arg, err))
		}
		refs = append(refs, matches...)
	}
	return refs, patterns, nil
}

func (c *cli) match(ctx context.Context, cmd *cobra.Command, pattern string) ([]string, error) {
	client, err := c.client(cmd)
	if err != nil {
		return nil, err
	}
	content, err := client.get(ctx, "/api/v1/pins/matches", url.Values{"pattern": {pattern}})
	if err != nil {
		return nil, err
	}
	answer, err := decode[struct {
		References []string `json:"references"`
	}](content)
	if err == nil && len(answer.References) == 0 {
		err = fmt.Errorf("nothing matches; in a repository's name a pattern stands for those of which something is cached")
	}
	return answer.References, err
}

func (c *cli) printMatches(refs []string, form outputForm) error {
	if form == formJSON {
		return printJSON(c.out, map[string][]string{"references": refs})
	}
	for _, ref := range refs {
		fmt.Fprintln(c.out, printable(ref))
	}
	return nil
}

// agreedToPin lists what patterns stand for, and finds out whether it may be pinned.
func (c *cli) agreedToPin(refs []string, yes bool) (bool, error) {
	for _, ref := range refs {
		fmt.Fprintln(c.err, printable(ref))
	}
	switch {
	case yes:
		return true, nil
	case !c.asks:
		return false, &hintedError{fmt.Errorf("nothing was pinned: nobody is here to ask"), "add --yes to pin these"}
	}
	return c.confirm(fmt.Sprintf("Pin %s?", plural(len(refs), "reference")))
}

func printPinned(c *cli, result json.RawMessage) error {
	pin, err := decode[registry.Pin](result)
	if err != nil {
		return err
	}
	if pin.Already {
		_, err := fmt.Fprintf(c.out, "%s is already pinned at %s, %s; --update moves it\n", printable(pin.Reference), printable(pin.Digest),
			completeness(pin.Complete, pin.Have, pin.Want))
		return err
	}
	if pin.MovedFrom != "" {
		fmt.Fprintf(c.out, "%s moved from %s\n", printable(pin.Reference), printable(pin.MovedFrom))
	}
	return c.printFetched(pin.Reference, pin.Digest, pin.Platforms, pin.Complete, pin.Have, pin.Want, pin.Size)
}
