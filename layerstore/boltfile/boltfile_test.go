package boltfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// fill makes buckets small enough to stand inline, and large enough for
// branch pages, an overflow page and a freelist.
func fill(t testing.TB, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		err := db.Update(func(tx *bolt.Tx) error { return put(tx, round) })
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func put(tx *bolt.Tx, round int) error {
	for name, rows := range map[string]int{"inline": 3, "large": 700, "empty": 0} {
		b, err := tx.CreateBucketIfNotExists([]byte(name))
		if err != nil {
			return err
		}
		for i := range rows {
			if err := b.Put(fmt.Appendf(nil, "key %04d", i*7%rows), fmt.Appendf(nil, "value %d of round %d", i, round)); err != nil {
				return err
			}
		}
		if rows > 100 {
			if err := b.Put([]byte("overflow"), make([]byte, 20000)); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestCheckPassesSoundFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	fill(t, path)
	if made, err := examine(path); made || err != nil {
		t.Errorf("made %v, error %v", made, err)
	}
	if made, err := examine(filepath.Join(t.TempDir(), "absent")); !made || err != nil {
		t.Errorf("absent: made %v, error %v", made, err)
	}
}

// What bbolt writes passes, whatever was put and deleted.
func TestCheckPassesAfterEveryTransaction(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	random := rand.New(rand.NewPCG(3, 4))
	for i := range 150 {
		if err := db.Update(func(tx *bolt.Tx) error { return churn(tx, random) }); err != nil {
			t.Fatal(err)
		}
		if _, err := examine(path); err != nil {
			t.Fatalf("after %d transactions: %v", i+1, err)
		}
	}
}

// churn puts some rows and deletes others, at times many in a row.
func churn(tx *bolt.Tx, random *rand.Rand) error {
	b, err := tx.CreateBucketIfNotExists([]byte{'a' + byte(random.IntN(3))})
	if err != nil {
		return err
	}
	from, n := random.IntN(3000), 1+random.IntN(200)
	put := random.IntN(5) < 3
	for i := range n {
		key := fmt.Appendf(nil, "key %04d", from+i)
		if put {
			err = b.Put(key, make([]byte, random.IntN(300)))
		} else {
			err = b.Delete(key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// damages are done to a sound file. Each must be found.
var damages = map[string]func(file []byte) []byte{
	"half of it":        func(b []byte) []byte { return b[:len(b)/2] },
	"a few bytes":       func(b []byte) []byte { return b[:100] },
	"garbage":           func(b []byte) []byte { return garbage(len(b)) },
	"text":              func([]byte) []byte { return []byte(strings.Repeat("not a database ", 1000)) },
	"first meta page":   func(b []byte) []byte { return zeroed(b, 0) },
	"second meta page":  func(b []byte) []byte { return zeroed(b, 1) },
	"every page behind": func(b []byte) []byte { clear(b[2*os.Getpagesize():]); return b },
}

func garbage(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(b) // never fails
	return b
}

func zeroed(b []byte, page int) []byte {
	clear(b[page*os.Getpagesize():][:os.Getpagesize()])
	return b
}

func TestDamagedFileIsSetAsideAndMadeAnew(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.db")
			fill(t, path)
			rewrite(t, path, damage)
			damaged, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			db, err := Open(path, slog.New(slog.DiscardHandler), func(tx *bolt.Tx) error { return put(tx, 0) })
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			kept, err := filepath.Glob(path + asideMark + "*")
			if err != nil || len(kept) != 1 {
				t.Fatalf("kept %v, %v", kept, err)
			}
			if content, err := os.ReadFile(kept[0]); err != nil || string(content) != string(damaged) {
				t.Errorf("what was set aside is not the damaged file; %v", err)
			}
		})
	}
}

func rewrite(t testing.TB, path string, change func([]byte) []byte) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestNewestTwoDamagedFilesAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	for i := range 4 {
		if err := os.WriteFile(path, []byte{byte(i)}, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := setAside(path, time.Unix(1000, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for at, want := range map[int64]byte{1002: 2, 1003: 3} {
		if content, err := os.ReadFile(asideName(path, at)); err != nil || content[0] != want {
			t.Errorf("%v, %v", content, err)
		}
	}
	if times, err := asides(path); err != nil || len(times) != asideMost {
		t.Errorf("kept %v, %v", times, err)
	}
}

func TestRefusalIsNoDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	fill(t, path)
	refusal := errors.New("written by a newer version")
	if _, err := Open(path, slog.New(slog.DiscardHandler), func(*bolt.Tx) error { return refusal }); !errors.Is(err, refusal) {
		t.Errorf("error %v", err)
	}
	if times, err := asides(path); err != nil || len(times) != 0 {
		t.Errorf("set aside %v, %v", times, err)
	}
}

// A file that passes must not bring bbolt down, whatever was done to it: it is
// read and written through.
func TestWhatPassesIsSafe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	fill(t, path)
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	random, passed := rand.New(rand.NewPCG(1, 2)), 0
	for range 400 {
		if useMutated(t, path, mutate(random, sound)) {
			passed++
		}
	}
	t.Logf("%d of 400 damaged files passed", passed)
}

// mutate changes a few bytes, mostly where structure is: at the beginning of pages.
func mutate(random *rand.Rand, sound []byte) []byte {
	b := append([]byte(nil), sound...)
	for range 1 + random.IntN(3) {
		at := random.IntN(len(b)/os.Getpagesize()) * os.Getpagesize()
		at += random.IntN([]int{16, 200, os.Getpagesize() - 8}[random.IntN(3)])
		switch random.IntN(3) {
		case 0:
			b[at] ^= 1 << random.IntN(8)
		case 1:
			b[at] = byte(random.IntN(256))
		default:
			binary.NativeEndian.PutUint64(b[at&^7:], uint64(random.IntN(40)))
		}
	}
	return b
}

// useMutated reports whether the content passed the check; then it is worked with.
func useMutated(t *testing.T, path string, content []byte) (passed bool) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := examine(path); err != nil {
		return false
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			t.Fatalf("passed, and then: %v\n%s", p, debug.Stack())
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		t.Fatalf("passed, and then: %v", err)
	}
	defer db.Close()
	for round := range 2 {
		if err := db.Update(func(tx *bolt.Tx) error { return put(tx, round) }); err != nil && !strings.Contains(err.Error(), "incompatible value") {
			t.Fatalf("passed, and then: %v", err)
		}
	}
	return true
}

func FuzzCheck(f *testing.F) {
	path := filepath.Join(f.TempDir(), "a.db")
	fill(f, path)
	sound, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint64(0), uint64(0))
	f.Add(uint64(2*os.Getpagesize()), ^uint64(0))
	f.Fuzz(func(t *testing.T, at, value uint64) {
		b := append([]byte(nil), sound...)
		binary.NativeEndian.PutUint64(b[at%uint64(len(b)-8):], value)
		useMutated(t, filepath.Join(t.TempDir(), "b.db"), b)
	})
}
