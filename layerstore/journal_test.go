package layerstore

import (
	"bytes"
	"crypto/sha256"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/opencontainers/go-digest"
)

func someJournal(seq uint64) journal {
	h := sha256.New()
	h.Write(make([]byte, 100))
	return journal{
		Seq: seq, Digest: digest.FromString("x"), Size: 5000,
		Have: spans{{0, 1000}, {2000, 3000}}, Synced: 100, State: saveHash(h),
	}
}

func mustEncode(t testing.TB, j journal) []byte {
	t.Helper()
	slot, err := j.encode()
	if err != nil {
		t.Fatal(err)
	}
	return slot
}

func TestJournalIsReadAsWritten(t *testing.T) {
	want := someJournal(3)
	got, err := decodeJournal(mustEncode(t, want))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
}

func TestJournalOfManyGapsKeepsTheFirst(t *testing.T) {
	h := digest.SHA512.Hash()
	j := journal{Seq: math.MaxUint64, Digest: digest.SHA512.FromString("x"), Size: math.MaxInt64, State: saveHash(h)}
	for i := range int64(1000) {
		from := math.MaxInt64/2 + 10*i // the longest numbers there are
		j.Have = append(j.Have, span{from, from + 5})
	}
	got, err := decodeJournal(mustEncode(t, j))
	if err != nil || !reflect.DeepEqual(got.Have, j.Have[:journalSpans]) {
		t.Errorf("%d spans, %v", len(got.Have), err)
	}
}

func TestJournalThatLiesIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(*journal){
		"no size":                  func(j *journal) { j.Size = -1 },
		"more than the blob":       func(j *journal) { j.Have = spans{{0, j.Size + 1}} },
		"spans out of order":       func(j *journal) { j.Have = spans{{2000, 3000}, {0, 1000}} },
		"synced behind a gap":      func(j *journal) { j.Synced = 2500 },
		"synced before the start":  func(j *journal) { j.Synced = -1 },
		"synced, and nothing here": func(j *journal) { j.Have = nil },
	} {
		j := someJournal(1)
		spoil(&j)
		if got, err := decodeJournal(mustEncode(t, j)); err == nil {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
}

// Whatever byte of the latest slot a power cut spoils, the one before is read.
func TestTornSlotLeavesTheOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for seq := range uint64(4) {
		if err := writeJournal(f, someJournal(seq)); err != nil {
			t.Fatal(err)
		}
	}
	wantSeq(t, path, 3)
	latest := mustEncode(t, someJournal(3))
	length := len(bytes.TrimRight(latest, "\x00"))
	for at := 0; at < length; at += 7 {
		torn := append(bytes.Clone(latest[:at]), make([]byte, journalSlot-at)...)
		if _, err := f.WriteAt(torn, journalSlot); err != nil {
			t.Fatal(err)
		}
		wantSeq(t, path, 2)
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := readJournal(path); err == nil {
		t.Error("an empty journal was read")
	}
}

func TestJournalWithOneSlotIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, mustEncode(t, someJournal(2)), 0o600); err != nil {
		t.Fatal(err)
	}
	wantSeq(t, path, 2)
}

func wantSeq(t *testing.T, path string, want uint64) {
	t.Helper()
	if j, err := readJournal(path); err != nil || j.Seq != want {
		t.Fatalf("journal %d, %v; want %d", j.Seq, err, want)
	}
}

func FuzzDecodeJournal(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, journalSlot))
	f.Add(bytes.Repeat([]byte{0xff}, journalSlot))
	slot := mustEncode(f, someJournal(1))
	f.Add(slot)
	f.Add(slot[:100])
	f.Add(mustEncode(f, journal{Digest: digest.FromString("y"), Size: 1}))
	f.Fuzz(func(t *testing.T, slot []byte) {
		j, err := decodeJournal(slot)
		if err != nil {
			return
		}
		if j.Size < 0 || !j.Have.valid(j.Size) || j.Synced < 0 || j.Synced > j.Have.reach(0) {
			t.Errorf("accepted %+v", j)
		}
		if again, err := j.encode(); err == nil {
			if _, err := decodeJournal(again); err != nil {
				t.Errorf("what was read cannot be read again: %v", err)
			}
		}
	})
}
