package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/api"
	"github.com/imagecache/imagecache/api/access"
)

func (c *cli) accessCommand() *cobra.Command {
	var form outputForm
	cmd := &cobra.Command{
		Use:   "access CALLER VERB [REPOSITORY]",
		Short: "Tell what the rules allow to a caller, and by which rule",
		Long: `Tell what access.rules allow to a caller, and by which rule.

A caller is anonymous, or user:, oidc: or certificate: with a name, and perhaps groups: oidc:ann,group:dev. A verb
is pull, push, delete, admin or metrics; the last two have no repository. Nobody is asked whether there is
such a user or group.

The exit status is 0 if it is allowed, 1 if not.`,
		Example: `  imagecache access user:ann,group:dev push local/team/app
  imagecache access anonymous pull nginx
  imagecache access -o json certificate:node-7 metrics`,
		Args: accessArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.askAccess(cmd, args, form)
		},
		ValidArgsFunction: completeVerbs,
	}
	addOutputFlag(cmd, &form)
	return cmd
}

// accessArgs finds what the daemon would not understand, before it is asked.
func accessArgs(cmd *cobra.Command, args []string) error {
	if len(args) < 2 || len(args) > 3 {
		return wrongUse(cmd, "%s takes a caller, a verb, and for pull, push and delete a repository", cmd.CommandPath())
	}
	if _, err := access.ParseCaller(args[0]); err != nil {
		return wrongUse(cmd, "%s", err)
	}
	verb, err := access.ParseVerb(args[1])
	switch {
	case err != nil:
		return wrongUse(cmd, "%s", err)
	case verb.Everywhere() && len(args) == 3:
		return wrongUse(cmd, "%s is about the whole daemon: ask without a repository", verb)
	case !verb.Everywhere() && len(args) == 2:
		return wrongUse(cmd, "%s needs a repository, as in local/team/app", verb)
	}
	return nil
}

func (c *cli) askAccess(cmd *cobra.Command, args []string, form outputForm) error {
	query := url.Values{"caller": {args[0]}, "verb": {args[1]}}
	if len(args) > 2 {
		query.Set("repository", args[2])
	}
	client, err := c.client(cmd)
	if err != nil {
		return err
	}
	content, err := client.get(cmd.Context(), "/api/v1/access", query)
	if err != nil {
		return asMisuse(cmd, err)
	}
	verdict, err := decode[api.Verdict](content)
	if err != nil {
		return err
	}
	if err := c.printVerdict(verdict, content, form); err != nil || verdict.Allowed {
		return err
	}
	return errors.New("refused: " + printable(verdict.Reason))
}

func (c *cli) printVerdict(v api.Verdict, content json.RawMessage, form outputForm) error {
	if form == formJSON {
		return printRawJSON(c.out, content)
	}
	t := newTable(c.out, "CALLER", "VERB", "REPOSITORY", "ALLOWED", "WHY")
	why := printable(v.Reason)
	if v.Number > 0 {
		why = fmt.Sprintf("rule %d: %s", v.Number, printable(v.Rule))
	}
	repository := v.Repository
	if repository == "" {
		repository = "-"
	}
	t.row(printable(v.Caller), v.Verb, repository, yesNo(v.Allowed), why)
	return t.flush()
}

// completeVerbs proposes verbs, which are the only words that are the same everywhere.
func completeVerbs(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return []string{"pull", "push", "delete", "admin", "metrics"}, cobra.ShellCompDirectiveNoFileComp
}
