package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheSocketIsForItsUserOnly(t *testing.T) {
	path := filepath.Join(ownFolder(t), "run", "imagecache.sock")
	listener, err := listenSocket(t.Context(), path, "--admin", os.Getuid())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for name, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", name, info.Mode().Perm(), want)
		}
	}
}

func TestASocketOfADeadDaemonIsReplaced(t *testing.T) {
	path := filepath.Join(ownFolder(t), "imagecache.sock")
	dead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false) // as kill -9 leaves it
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	listener, err := listenSocket(t.Context(), path, "--admin", os.Getuid())
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestWhatStandsAtTheSocketsPathIsNotHarmed(t *testing.T) {
	t.Run("a living daemon", func(t *testing.T) {
		path := filepath.Join(ownFolder(t), "imagecache.sock")
		living, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer living.Close()
		_, err = listenSocket(t.Context(), path, "--admin", os.Getuid())
		if err == nil || !strings.Contains(err.Error(), "another imagecache is serving at unix://"+path) {
			t.Errorf("got %v", err)
		}
		if connection, err := net.Dial("unix", path); err != nil {
			t.Errorf("the living one is not reached any more: %v", err)
		} else if err := connection.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("a file", func(t *testing.T) {
		path := filepath.Join(ownFolder(t), "imagecache.sock")
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := listenSocket(t.Context(), path, "--admin", os.Getuid()); err == nil {
			t.Error("listens over a file")
		}
		if content, _ := os.ReadFile(path); string(content) != "precious" {
			t.Errorf("the file holds %q", content)
		}
	})
	t.Run("a folder that others may write", func(t *testing.T) {
		folder := ownFolder(t)
		if err := os.Chmod(folder, 0o777); err != nil {
			t.Fatal(err)
		}
		if _, err := listenSocket(t.Context(), filepath.Join(folder, "s"), "--admin", os.Getuid()); err == nil || !strings.Contains(err.Error(), "0777") {
			t.Errorf("got %v", err)
		}
	})
}

// ownFolder is a short path: a socket's has a limit that the names of tests use up.
func ownFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "ic")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	return folder
}

func TestNotifyReachesSystemd(t *testing.T) {
	path := filepath.Join(ownFolder(t), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := notify(path, "READY=1"); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 64)
	n, err := socket.Read(said)
	if err != nil || string(said[:n]) != "READY=1" {
		t.Errorf("systemd hears %q, %v", said[:n], err)
	}
	if err := notify("", "READY=1"); err != nil {
		t.Errorf("without systemd: %v", err)
	}
}
