package layerstore

import (
	"errors"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
)

// Between the look at a partial file and its removal a flight may have begun.
func TestPartialFileOfAFlightIsNotDropped(t *testing.T) {
	s, err := Open(Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d := digest.FromString("x")
	if err := os.WriteFile(s.layout.partial(d), []byte("x"), fileMode); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.flights[d] = &flight{}
	s.mu.Unlock()
	if err := s.dropPartial(d); !errors.Is(err, errHeld) {
		t.Errorf("drop: %v", err)
	}
	s.mu.Lock()
	delete(s.flights, d)
	s.mu.Unlock()
	if err := s.dropPartial(d); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(s.layout.partial(d)); err == nil {
		t.Error("the file of nobody stays")
	}
}
