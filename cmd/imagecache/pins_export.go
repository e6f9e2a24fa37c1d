package main

import (
	"encoding/json"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"
)

// lockForm is the value of -o of pins export.
type lockForm string

func (f *lockForm) String() string { return string(*f) }
func (f *lockForm) Type() string   { return "FORM" }

// Set takes "toml" or "json".
func (f *lockForm) Set(value string) error {
	if value != "toml" && value != "json" {
		return fmt.Errorf("want toml or json")
	}
	*f = lockForm(value)
	return nil
}

func (c *cli) pinsExportCommand() *cobra.Command {
	form := lockForm("toml")
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write all pins as a lockfile to standard output",
		Long: `Write all pins as a lockfile: reference, digest and platforms of each, in the order of references.
The same pins give the same bytes, so that a change of pins can be reviewed like any other.`,
		Example: "  imagecache pins export > pins.lock\n  imagecache pins export -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client(cmd)
			if err != nil {
				return err
			}
			content, err := client.get(cmd.Context(), "/api/v1/pins/export", url.Values{"format": {string(form)}})
			if err != nil {
				return err
			}
			if form == "json" {
				return printRawJSON(c.out, json.RawMessage(content))
			}
			_, err = c.out.Write(content)
			return err
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().VarP(&form, "output", "o", "what to write: toml or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"toml", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
