package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestTheSocketIsOpenedToAGroup, and so is a folder that is for it alone; one that others may enter is not ours to give away.
func TestTheSocketIsOpenedToAGroup(t *testing.T) {
	for before, after := range map[fs.FileMode]fs.FileMode{0o700: 0o710, 0o755: 0o755} {
		folder := filepath.Join(ownFolder(t), "run")
		if err := os.Mkdir(folder, before); err != nil {
			t.Fatal(err)
		}
		socket := filepath.Join(folder, "s")
		listener, err := listenAdmin(t.Context(), unixScheme+socket, strconv.Itoa(os.Getgid()), os.Getuid())
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		for name, want := range map[string]os.FileMode{socket: 0o660, folder: after} {
			if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s is %v, want %o: %v", name, info.Mode(), want, err)
			}
		}
	}
}

func TestAGroupThatIsNotThereIsAnError(t *testing.T) {
	listener, err := listenAdmin(t.Context(), unixScheme+filepath.Join(ownFolder(t), "s"), "no such group", os.Getuid())
	if err == nil || !strings.Contains(err.Error(), `there is no group "no such group"`) {
		t.Errorf("got %v", err)
	}
	if listener == nil {
		t.Fatal("nobody can close the listener")
	}
	listener.Close()
}
