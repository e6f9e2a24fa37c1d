package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

// completionPatience is how long a shell's Tab may wait for the daemon.
const completionPatience = time.Second

// referenceArgs wants at least one reference, each written as one can be.
func referenceArgs(cmd *cobra.Command, args []string) error {
	if err := minArgs(1, "a reference, as in docker.io/library/nginx:1.27")(cmd, args); err != nil {
		return err
	}
	for _, arg := range args {
		if _, err := registry.ParseReference(arg); err != nil {
			return wrongUse(cmd, "%q is not a reference: %s", arg, rootCause(err))
		}
	}
	return nil
}

// rootCause is the innermost error's text: what is around it names the reference again.
func rootCause(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}

// forEach does a thing for each reference and goes on after one that failed, so that nine good ones are not lost to a bad tenth.
// What the daemon calls badly written is misuse, and so is the whole command then.
func (c *cli) forEach(ctx context.Context, cmd *cobra.Command, references []string, do func(context.Context, string) error) error {
	var failed error
	for _, reference := range references {
		err := do(ctx, reference)
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return err
		}
		var unreachable *hintedError
		if len(references) == 1 || errors.As(err, &unreachable) {
			return asMisuse(cmd, blameUnlessHinted(reference, err))
		}
		c.report(asMisuse(cmd, blameReference(reference, err)))
		failed = errReported
	}
	return failed
}

func blameUnlessHinted(reference string, err error) error {
	var hinted *hintedError
	if errors.As(err, &hinted) {
		return err
	}
	return blameReference(reference, err)
}

func asMisuse(cmd *cobra.Command, err error) error {
	var answer *daemonError
	if errors.As(err, &answer) && answer.misuse() {
		return wrongUse(cmd, "%s", err)
	}
	return err
}

// completeReferences offers the references that the daemon knows below a list ("images" or "pins") in its answer to a path.
func (c *cli) completeReferences(path, list string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(context.Background(), completionPatience)
		defer cancel()
		references, err := c.knownReferences(ctx, cmd, path, list)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var offered []cobra.Completion
		for _, reference := range references {
			if strings.HasPrefix(reference, typed) && !slices.Contains(args, reference) {
				offered = append(offered, reference)
			}
		}
		return offered, cobra.ShellCompDirectiveNoFileComp
	}
}

func (c *cli) knownReferences(ctx context.Context, cmd *cobra.Command, path, list string) ([]string, error) {
	client, err := c.client(cmd)
	if err != nil {
		return nil, err
	}
	content, err := client.get(ctx, path, url.Values{})
	if err != nil {
		return nil, err
	}
	answer := map[string][]struct {
		Reference string `json:"reference"`
	}{}
	if err := json.Unmarshal(content, &answer); err != nil {
		return nil, fmt.Errorf("the daemon's answer is not understood: %w", err)
	}
	references := make([]string, 0, len(answer[list]))
	for _, known := range answer[list] {
		references = append(references, known.Reference)
	}
	return references, nil
}
