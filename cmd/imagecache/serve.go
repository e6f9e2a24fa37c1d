package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/api"
	"github.com/imagecache/imagecache/api/access"
	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
)

func (c *cli) serveCommand() *cobra.Command {
	var flags *settingsFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon",
		Long: `Run the daemon: the mirror that clients pull from, and the administration that the other commands
ask.

It runs without any settings: then the well-known public registries are its upstreams, it listens on
this machine only, and knows no secrets. It starts without network. SIGTERM and Ctrl-C let the
answers under way end; a second one ends the daemon at once.`,
		Example: `  imagecache serve
  imagecache serve --listen 127.0.0.1:6000 --root /srv/imagecache
  imagecache serve --upstream registry.example=https://10.0.0.7:5000`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, warnings, err := c.loadSettings(cmd, flags)
			if err != nil {
				return err
			}
			if err := settings.check(); err != nil {
				return err
			}
			return c.serve(cmd.Context(), settings, warnings)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags = addSettingsFlags(cmd)
	return cmd
}

// daemon is everything that runs, in the order in which it was opened.
type daemon struct {
	settings *Settings
	log      *slog.Logger
	store    *layerstore.Store
	registry *registry.Registry
	gate     *access.Gate
	tls      *tlsFiles     // nil: the mirror speaks plain http
	lockfile *lockFollower // nil: none is followed
	rootfs   *rootfs       // nil: nobody asks for root filesystems, or nobody did at the start
	people   *people
	api      *api.Server
	mirror   net.Listener
	admin    net.Listener
	remote   net.Listener // of the administration over the network; nil: none
	heap     heapFloor
}

// serve runs the daemon until a signal, and returns when everything is closed.
func (c *cli) serve(ctx context.Context, s *Settings, warnings []Warning) error {
	// Until both listeners stand a signal simply ends the start.
	log, flush := newLogger(c.err, s)
	defer flush()
	for _, warning := range warnings {
		log.Warn(string(warning))
	}
	// Whatever the daemon makes, a socket above all, is for its own user.
	unix.Umask(0o077)
	// A limit on the size of files (ulimit -f) is a disk that is full, which
	// pulls survive, and not the end.
	signal.Ignore(syscall.SIGXFSZ)
	d := &daemon{settings: s, log: log, heap: newHeapFloor()}
	err := d.open(ctx, c.uid)
	if err == nil {
		err = d.run(ctx, c.getenv("NOTIFY_SOCKET"))
	}
	return errors.Join(err, d.close())
}

// open opens the store first: its lock keeps two daemons of one root apart before anything else of the other is touched.
func (d *daemon) open(ctx context.Context, uid int) error {
	var err error
	if d.store, err = openStore(d.settings, d.log); err != nil {
		return err
	}
	for _, open := range []func() error{
		func() error { return d.openForms(uid) },
		d.openAccess,
		d.openRegistry,
		func() error { return d.openSnapshotter(ctx, uid) },
		func() error { d.people = d.openPeople(uid); return nil },
		func() error { return d.listen(ctx, uid) },
	} {
		if err := open(); err != nil {
			return err
		}
	}
	d.openAPI()
	return nil
}

func (d *daemon) openRegistry() (err error) {
	s := d.settings
	d.registry, err = registry.New(registry.Options{
		Passed:   d.rootfs.passed(),
		Unpacked: d.rootfs.unpacked(), DropLayers: s.Snapshotter.DropLayers, DropAfter: s.Snapshotter.DropAfter,
		Store:     d.store,
		Path:      filepath.Join(s.Root, "registry.db"),
		Upstreams: s.configured(),
		Open:      s.openByDefault(),
		Ruled:     d.gate.Ruled(),
		StaleWait: s.StaleWait,
		Lockfile:  s.Lockfile,
		Log:       d.log,
		UserAgent: "imagecache/" + buildVersion(),
	})
	return err
}

// listen takes the addresses, once there is something to answer from.
func (d *daemon) listen(ctx context.Context, uid int) (err error) {
	if d.mirror, err = listenMirror(ctx, d.settings.Listen); err != nil {
		return err
	}
	if d.admin, err = listenAdmin(ctx, d.settings.Admin, d.settings.AdminGroup, uid); err != nil {
		return err
	}
	return d.listenRemote(ctx)
}

// openAPI makes the handlers of what was opened.
func (d *daemon) openAPI() {
	var lockfile func() *registry.LockfileStatus
	if d.settings.Lockfile != "" {
		d.lockfile = newLockFollower(d.settings.Lockfile, d.registry, d.log, time.Now)
		lockfile = d.lockfile.Status
	}
	d.api = api.New(api.Options{
		Snapshotter: d.rootfs.status(),
		Forms:       d.people,
		Rootfs:      d.people,
		Lockfile:    lockfile,
		Push:        d.settings.openByDefault(),
		Gate:        d.gate,
		Registry:    d.registry,
		Log:         d.log,
		AccessLog:   d.log,
		Version:     buildVersion(),
		Listen:      d.mirror.Addr().String(), // with the port in place of :0
	})
}

// openAccess reads the files that say who callers are.
func (d *daemon) openAccess() (err error) {
	if d.gate, err = d.settings.gate(d.log); err != nil {
		return err
	}
	if d.settings.TLS.CertFile != "" {
		d.tls, err = openTLS(d.settings.TLS, d.log)
	}
	return d.settings.fileFault(err)
}

// serveMirror serves clients, over TLS where there is a certificate.
func (d *daemon) serveMirror(server *http.Server) error {
	if d.tls == nil {
		return server.Serve(d.mirror)
	}
	server.TLSConfig = d.tls.server()
	return server.ServeTLS(d.mirror, "", "")
}

// openStore opens the store and says of each refusal what to do.
func openStore(s *Settings, log *slog.Logger) (*layerstore.Store, error) {
	root := s.Root
	store, err := layerstore.Open(layerstore.Options{
		Root: root, Log: log, Describe: registry.Describe, AwaitRoots: true,
		MaxSize: s.MaxSize, MinFree: s.MinFree, MaxAge: s.MaxAge,
		VerifyAfter: orNever(s.VerifyAfter), ScrubRate: orNever(s.ScrubRate), StallAfter: s.StallAfter,
	})
	switch {
	case err == nil:
		return store, nil
	case errors.Is(err, layerstore.ErrLocked):
		return nil, &hintedError{fmt.Errorf("another imagecache uses %s: %w", root, err), "stop that one, or choose another --root"}
	case errors.Is(err, layerstore.ErrForeign):
		return nil, &hintedError{fmt.Errorf("%s is not imagecache's: %w", root, err), "choose an empty folder, or one that is not there yet, as --root"}
	case errors.Is(err, layerstore.ErrNewer):
		return nil, &hintedError{fmt.Errorf("%s: %w", root, err), "run that version, or choose another --root"}
	case errors.Is(err, syscall.EROFS):
		return nil, &hintedError{fmt.Errorf("cannot write to %s: %w", root, err), "mount that file system writable, or choose another --root"}
	case errors.Is(err, os.ErrPermission):
		return nil, &hintedError{fmt.Errorf("cannot write to %s: %w", root, err), "give that folder to this user, or choose another --root"}
	}
	return nil, fmt.Errorf("opening the store at %s: %w", root, err)
}

// run serves until a signal or until a listener fails.
func (d *daemon) run(ctx context.Context, notifySocket string) error {
	servers := []*http.Server{d.server(d.api.Mirror()), d.server(d.api.RemoteAdmin()), d.server(d.api.Admin())}
	servers[2].ConnContext = api.WithPeer
	crowd := d.crowd()
	crowd.Watch(servers[0])
	crowd.Watch(servers[1]) // and not the third: whoever reaches it may end us as well
	if d.lockfile != nil {
		following, stop := context.WithCancel(ctx)
		followed := make(chan struct{})
		go func() { defer close(followed); d.lockfile.follow(following) }()
		defer func() { stop(); <-followed }()
	}
	failed := make(chan error, len(servers)+1)
	d.rootfs.serve(failed)
	go func() { failed <- d.serveMirror(servers[0]) }()
	d.serveRemote(servers[1], failed)
	go func() { failed <- servers[2].Serve(d.admin) }()
	d.log.Info("serving", "listen", d.mirror.Addr().String(), "admin", d.settings.Admin, "root", d.settings.Root, "version", buildVersion())
	if err := notify(notifySocket, "READY=1"); err != nil {
		d.log.Warn("could not tell systemd that it is ready", "error", err)
	}
	select {
	case err := <-failed:
		return fmt.Errorf("listener failed: %w", err)
	case <-ctx.Done():
	}
	return d.drain(servers, notifySocket)
}

const (
	// A client that dials and says nothing holds a descriptor: this long is enough for any header from anywhere.
	readHeaderTimeout = 10 * time.Second
	// containerd and crane keep idle connections for 30 to 90 s: the client, not we, should be first to close.
	idleTimeout    = 120 * time.Second
	maxHeaderBytes = 64 << 10 // tokens of cloud registries have up to some 10 KB
	// What one connection of HTTP/2 may have answered at once: as much as RFC 9113, section 6.5.2, wants at least. Each reads a file.
	maxStreams = 100
)

// crowd bounds the connections of the network, so that an eighth of the files that we may open is left for everything else.
func (d *daemon) crowd() *access.Crowd {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		limit.Cur = 0
	}
	files := min(limit.Cur, math.MaxInt32) // unlimited, as good as
	return access.NewCrowd(access.CrowdOptions{Files: int(files - files/8), OfOne: d.settings.Access.Connections, Log: d.log})
}

// server makes an HTTP server. It has no WriteTimeout: a body may take hours, and api sets a deadline for each write.
func (d *daemon) server(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug), // clients that break off are no news
	}
}

// drain lets the answers under way end, at most as long as the settings say, in the order of the servers. /readyz says so first.
func (d *daemon) drain(servers []*http.Server, notifySocket string) error {
	d.api.Drain()
	stop := quitOnSecondSignal(d.log)
	defer stop()
	if err := notify(notifySocket, "STOPPING=1"); err != nil {
		d.log.Warn("could not tell systemd that it is stopping", "error", err)
	}
	d.log.Info("draining", "at_most", d.settings.DrainTimeout.String())
	ctx, cancel := context.WithTimeout(context.Background(), d.settings.DrainTimeout)
	defer cancel()
	// The mirror first: meanwhile administration answers, so that one can see what is being waited for.
	for _, server := range servers {
		if err := server.Shutdown(ctx); err != nil {
			d.log.Warn("answers under way were cut", "error", err)
		}
	}
	// containerd's calls under way may wait for layers that the mirror was asked for.
	if err := d.rootfs.shutdown(ctx); err != nil {
		d.log.Warn("calls of the snapshotter under way were cut", "error", err)
	}
	for _, server := range servers {
		if err := server.Close(); err != nil {
			d.log.Debug("closing connections", "error", err)
		}
	}
	d.log.Info("stopped")
	return nil
}

// quitOnSecondSignal ends the process at once when somebody insists. What is on disk is whole at every instant, so nothing is lost by it.
func quitOnSecondSignal(log *slog.Logger) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		if got, more := <-signals; more {
			log.Warn("quitting at once", "signal", got.String())
			os.Exit(exitFailed)
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
	}
}

// close closes what was opened, the last first.
func (d *daemon) close() error {
	var failures []error
	for _, listener := range []net.Listener{d.admin, d.remote, d.mirror} {
		if listener == nil {
			continue
		}
		if err := listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			failures = append(failures, err)
		}
	}
	if d.people != nil { // it has the room, which may have been opened late
		failures = append(failures, d.people.close())
	} else {
		failures = append(failures, d.rootfs.close())
	} // before those that it reads from
	if d.registry != nil {
		failures = append(failures, d.registry.Close())
	}
	if d.store != nil {
		failures = append(failures, d.store.Close())
	}
	return errors.Join(failures...)
}
