package api

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/imagecache/imagecache/registry"
)

// RootFilesystems gives root filesystems to people. The daemon makes and holds
// them; whoever asks mounts them. All methods may be called in parallel.
// Errors are *[RootfsError] or *registry.Error where it is known what went wrong.
type RootFilesystems interface {
	// Acquire makes a root filesystem; progress may be called until it returns.
	Acquire(ctx context.Context, w RootfsWish, progress func(registry.Progress)) (Rootfs, error)
	// Acquired gives one again, with what to mount now.
	Acquired(ctx context.Context, key string) (Rootfs, error)
	// List lists all of them, without what to mount, the oldest first.
	List(ctx context.Context) ([]Rootfs, error)
	// Release gives one up, with what was written to it. It is unmounted before.
	Release(ctx context.Context, key string) error
}

// RootfsWish is a root filesystem that is asked for.
type RootfsWish struct {
	Key       string // a name for it, such as the folder it is mounted on
	Reference string // as people write it; or an OCI layout or a tar on this machine, as oci:///folder:tag or /file
	Platform  string // "os/arch[/variant]"; "": this machine's
	Writable  bool
	// Bounded says that it is for somebody who may see less than the operator:
	// what Caller may see, as through the mirror.
	Bounded bool
	Caller  registry.Caller
}

// Rootfs is a root filesystem that is held.
type Rootfs struct {
	Key       string        `json:"key"`
	Reference string        `json:"reference"`
	Digest    string        `json:"digest"`
	Platform  string        `json:"platform"`
	Writable  bool          `json:"writable"`
	CreatedAt time.Time     `json:"created_at"`
	Bytes     int64         `json:"bytes"`             // of its layers, which others may share
	Written   int64         `json:"written,omitempty"` // bytes of disk; not in lists
	Upper     string        `json:"upper,omitempty"`   // folder that what is written goes to
	Config    []byte        `json:"config,omitempty"`  // the image's; not in lists
	Mounts    []RootfsMount `json:"mounts,omitempty"`  // to be mounted in this order on one folder; not in lists
	Lowers    []RootfsLower `json:"lowers,omitempty"`  // what the mounts read from; not in lists
}

// RootfsMount is one call of mount(2), its options as in fstab(5).
type RootfsMount struct {
	Type    string   `json:"type"`
	Source  string   `json:"source"`
	Options []string `json:"options"`
}

// RootfsLower is a folder that a mount reads from, as the daemon sees it:
// whoever sees another one there, because it lives in another mount namespace,
// would mount something else.
type RootfsLower struct {
	Path   string `json:"path"`
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
}

// RootfsFault is what can be wrong with a wish for a root filesystem.
type RootfsFault string

// Values of RootfsFault; they are the codes of error answers.
const (
	RootfsUnable  RootfsFault = "ROOTFS_UNABLE"  // this daemon cannot give any
	RootfsExists  RootfsFault = "ROOTFS_EXISTS"  // there is one of this key
	RootfsBusy    RootfsFault = "ROOTFS_BUSY"    // it is being made or released
	RootfsUnknown RootfsFault = "ROOTFS_UNKNOWN" // there is none of this key
	RootfsInvalid RootfsFault = "ROOTFS_INVALID" // what was asked for is none, or cannot be unpacked
)

// RootfsError says why there is no root filesystem. Its text is for people.
type RootfsError struct {
	Fault RootfsFault
	Err   error
}

func (e *RootfsError) Error() string { return e.Err.Error() }
func (e *RootfsError) Unwrap() error { return e.Err }

var errNoRootfs = &RootfsError{RootfsUnable, errors.New("this daemon gives no root filesystems")}

// rootfsAdmin are the endpoints of RootFilesystems, by path and method.
func (s *Server) rootfsAdmin() map[string]map[string]handler {
	return map[string]map[string]handler{
		"/api/v1/rootfs":        {http.MethodGet: s.listRootfs, http.MethodPost: s.acquireRootfs, http.MethodDelete: s.releaseRootfs},
		"/api/v1/rootfs/mounts": {http.MethodGet: s.acquiredRootfs},
	}
}

func (s *Server) listRootfs(w *record, r *http.Request) error {
	if s.rootfs == nil {
		return errNoRootfs
	}
	list, err := s.rootfs.List(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, r, map[string][]Rootfs{"rootfs": append([]Rootfs{}, list...)})
}

func (s *Server) acquiredRootfs(w *record, r *http.Request) error {
	key, err := s.rootfsKey(r)
	if err != nil {
		return err
	}
	got, err := s.rootfs.Acquired(r.Context(), key)
	if err != nil {
		return err
	}
	return writeJSON(w, r, got)
}

func (s *Server) releaseRootfs(w *record, r *http.Request) error {
	key, err := s.rootfsKey(r)
	if err != nil {
		return err
	}
	if err := s.rootfs.Release(r.Context(), key); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) rootfsKey(r *http.Request) (string, error) {
	if s.rootfs == nil {
		return "", errNoRootfs
	}
	key := r.URL.Query().Get("key")
	if key == "" {
		return "", errRequest("the parameter key is missing")
	}
	return key, nil
}

// acquireRootfs answers as a pull does: progress, and at last the root filesystem.
func (s *Server) acquireRootfs(w *record, r *http.Request) error {
	if s.rootfs == nil {
		return errNoRootfs
	}
	asked, err := readRootfsWish(w, r)
	if err != nil {
		return err
	}
	w.concerns(withoutLogin(asked.Reference) + " on " + asked.Key)
	return stream(w, func(progress func(registry.Progress)) (Rootfs, error) {
		return s.rootfs.Acquire(r.Context(), asked, progress)
	}, func(got Rootfs) any {
		return struct {
			Rootfs Rootfs `json:"rootfs"`
		}{got}
	})
}

func readRootfsWish(w http.ResponseWriter, r *http.Request) (RootfsWish, error) {
	var asked struct {
		Key       string `json:"key"`
		Reference string `json:"reference"`
		Platform  string `json:"platform"`
		Writable  bool   `json:"writable"`
		Bounded   bool   `json:"bounded"`
		Username  string `json:"username"` // of whoever it is for, at the image's registry; neither kept nor told
		Password  string `json:"password"`
	}
	if err := readRequest(w, r, &asked); err != nil {
		return RootfsWish{}, err
	}
	if asked.Key == "" || asked.Reference == "" {
		return RootfsWish{}, errRequest("key and reference are wanted")
	}
	if strings.Contains(asked.Username, ":") {
		return RootfsWish{}, errRequest("a user's name holds no colon") // RFC 7617 section 2
	}
	basic := base64.StdEncoding.EncodeToString([]byte(asked.Username + ":" + asked.Password))
	return RootfsWish{Key: asked.Key, Reference: asked.Reference, Platform: asked.Platform, Writable: asked.Writable,
		Bounded: asked.Bounded, Caller: registry.NewCaller("Basic " + basic)}, nil
}
