package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/imagecache/imagecache/registry"
)

// rootfsShelf gives root filesystems of which nothing is there but the word.
type rootfsShelf struct {
	mu    sync.Mutex // guards what follows
	wish  RootfsWish
	held  map[string]Rootfs
	fault error // what everything answers
}

func (s *rootfsShelf) Acquire(_ context.Context, w RootfsWish, progress func(registry.Progress)) (Rootfs, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault != nil {
		return Rootfs{}, s.fault
	}
	progress(registry.Progress{Phase: registry.PhaseFetch, BlobsTotal: 7})
	s.wish = w
	s.held[w.Key] = Rootfs{Key: w.Key, Reference: w.Reference, Writable: w.Writable, Config: []byte("{}"),
		Mounts: []RootfsMount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/a:/b"}}}}
	return s.held[w.Key], nil
}

func (s *rootfsShelf) Acquired(_ context.Context, key string) (Rootfs, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	held, ok := s.held[key]
	if !ok {
		return Rootfs{}, &RootfsError{RootfsUnknown, errors.New("no such thing")}
	}
	return held, s.fault
}

func (s *rootfsShelf) List(context.Context) (list []Rootfs, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, held := range s.held {
		list = append(list, held)
	}
	return list, s.fault
}

func (s *rootfsShelf) Release(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, key)
	return s.fault
}

func TestARootfsIsAcquiredListedAndReleased(t *testing.T) {
	shelf := &rootfsShelf{held: map[string]Rootfs{}}
	var log bytes.Buffer
	server := New(Options{Registry: newShelf(t), Rootfs: shelf, AccessLog: slog.New(slog.NewTextHandler(&log, nil))})
	url := listen(t, server.Admin()) + "/api/v1/rootfs"
	if _, got := get(t, "GET", url); strings.TrimSpace(got) != `{"rootfs":[]}` {
		t.Errorf("an empty list is %s", got)
	}
	answer, got := post(t, url, `{"key":"/mnt","reference":"app:1","writable":true,"bounded":true,"username":"ann","password":"geheim"}`)
	lines := strings.Split(strings.TrimSpace(got), "\n")
	if answer.StatusCode != http.StatusOK || !strings.HasPrefix(lines[len(lines)-1], `{"rootfs":{"key":"/mnt","reference":"app:1"`) || !strings.Contains(got, `"options":["lowerdir=/a:/b"]`) {
		t.Errorf("%d %s", answer.StatusCode, got)
	}
	if !shelf.wish.Bounded || shelf.wish.Caller.Anonymous() {
		t.Errorf("asked for is %+v", shelf.wish)
	}
	if told := fmt.Sprintf("%+v %s %s", shelf.wish, got, log.String()); strings.Contains(told, "geheim") {
		t.Errorf("the password is told: %s", told)
	}
	if _, got := get(t, "GET", url+"/mounts?key=/mnt"); !strings.Contains(got, `"config":"e30="`) {
		t.Errorf("acquired is %s", got)
	}
	if answer, got := get(t, "DELETE", url+"?key=/mnt"); answer.StatusCode != http.StatusNoContent || got != "" {
		t.Errorf("released: %d %s", answer.StatusCode, got)
	}
	answer, got = get(t, "GET", url+"/mounts?key=/mnt")
	wantError(t, answer, got, http.StatusNotFound, "ROOTFS_UNKNOWN")
}

func TestWithoutALoginNobodyAsks(t *testing.T) {
	shelf := &rootfsShelf{held: map[string]Rootfs{}}
	url := listen(t, New(Options{Registry: newShelf(t), Rootfs: shelf}).Admin()) + "/api/v1/rootfs"
	post(t, url, `{"key":"k","reference":"app:1"}`)
	if shelf.wish.Bounded || !shelf.wish.Caller.Anonymous() {
		t.Errorf("asked for is %+v", shelf.wish)
	}
}

func TestErrorsOfRootFilesystems(t *testing.T) {
	shelf := &rootfsShelf{held: map[string]Rootfs{}}
	admin := listen(t, New(Options{Registry: newShelf(t), Rootfs: shelf}).Admin())
	for fault, status := range rootfsStatuses {
		shelf.fault = fmt.Errorf("outside: %w", &RootfsError{fault, errors.New("inside")})
		answer, got := post(t, admin+"/api/v1/rootfs", `{"key":"k","reference":"app:1"}`)
		wantError(t, answer, got, status, string(fault))
	}
	shelf.fault = nil
	for _, wish := range []string{`{}`, `{"key":"k"}`, `{"key":"k","reference":"r","rw":true}`, `{"key":"k","reference":"r","username":"a:b","password":"c"}`} {
		answer, got := post(t, admin+"/api/v1/rootfs", wish)
		wantError(t, answer, got, http.StatusBadRequest, "REQUEST_INVALID")
	}
	answer, got := get(t, "DELETE", admin+"/api/v1/rootfs")
	wantError(t, answer, got, http.StatusBadRequest, "REQUEST_INVALID")
	without := listen(t, New(Options{Registry: newShelf(t)}).Admin())
	answer, got = get(t, "GET", without+"/api/v1/rootfs")
	wantError(t, answer, got, http.StatusServiceUnavailable, "ROOTFS_UNABLE")
}
