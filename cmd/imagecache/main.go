// Command imagecache is the cache for container images on one machine: the daemon, and the commands that speak to it.
//
// It is the only room that reads files of settings, the environment and flags, and the only one that knows signals; everything else is
// handed an Options struct. One file holds one verb.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

func main() {
	os.Exit(run())
}

// run is main with an exit status, so that deferred calls happen before the process ends.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// After the first signal a command winds down; a second one then ends it at once, as if nobody listened.
	context.AfterFunc(ctx, stop)
	c := &cli{
		in:      os.Stdin,
		out:     os.Stdout,
		err:     os.Stderr,
		environ: os.Environ(),
		uid:     os.Getuid(),

		systemFile: defaultConfigFile,

		asks:    term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stderr.Fd())),
		redraws: term.IsTerminal(int(os.Stderr.Fd())),
	}
	return c.execute(ctx, os.Args[1:])
}
