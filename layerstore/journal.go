package layerstore

import (
	"encoding"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
)

const (
	// A journal has two slots that are written in turn, so that a write that
	// is torn by a power cut leaves the other. 4 KiB is a page, written at once.
	journalSlot = 4096
	// A record begins with its length and a checksum.
	journalHeader = 8
	// A flight writes its journal whenever this many more bytes have come:
	// what a kill -9 can cost, against one small write to the page cache.
	journalEvery = 1 << 20
	// A blob smaller than this is fetched anew rather than gone on with.
	journalFrom = 1 << 20
	// Spans in one record, for it to fit a slot. A flight with more gaps
	// records the first ones; the rest is fetched again.
	journalSpans = 48
)

// journal tells what a partial file holds, for the process after this one.
type journal struct {
	Seq    uint64        `json:"seq"`
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"` // bytes
	Have   spans         `json:"have"`
	// Synced bytes from the start were on disk, not only in the page cache,
	// when the hash state was saved. Behind it, what Have claims is hashed
	// again from the file: after a power cut it may not be what was written.
	Synced int64  `json:"synced"`
	State  []byte `json:"state,omitempty"`
}

// encode makes one slot of it.
func (j journal) encode() ([]byte, error) {
	if len(j.Have) > journalSpans {
		j.Have = j.Have[:journalSpans]
	}
	body, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	if len(body) > journalSlot-journalHeader {
		return nil, fmt.Errorf("journal of %s has %d bytes", j.Digest, len(body))
	}
	slot := make([]byte, journalSlot)
	binary.BigEndian.PutUint32(slot, uint32(len(body)))
	binary.BigEndian.PutUint32(slot[4:], crc32.ChecksumIEEE(body))
	copy(slot[journalHeader:], body)
	return slot, nil
}

var errNoJournal = errors.New("no usable journal")

func decodeJournal(slot []byte) (j journal, err error) {
	if len(slot) < journalHeader {
		return j, errNoJournal
	}
	n := binary.BigEndian.Uint32(slot)
	if int64(n) > int64(len(slot)-journalHeader) {
		return j, errNoJournal
	}
	body := slot[journalHeader : journalHeader+n]
	if crc32.ChecksumIEEE(body) != binary.BigEndian.Uint32(slot[4:]) {
		return j, errNoJournal
	}
	if err := json.Unmarshal(body, &j); err != nil {
		return j, errNoJournal
	}
	if j.Size < 0 || !j.Have.valid(j.Size) || j.Synced < 0 || j.Synced > j.Have.reach(0) {
		return j, errNoJournal
	}
	return j, nil
}

// readJournal reads the later of the two slots that is whole.
func readJournal(path string) (best journal, err error) {
	f, err := os.Open(path)
	if err != nil {
		return best, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, 2*journalSlot))
	if err != nil {
		return best, err
	}
	err = errNoJournal
	for len(content) > 0 {
		n := min(len(content), journalSlot)
		if j, jerr := decodeJournal(content[:n]); jerr == nil && (err != nil || j.Seq > best.Seq) {
			best, err = j, nil
		}
		content = content[n:]
	}
	return best, err
}

// writeJournal writes the slot that is not the latest. No sync: the page cache
// outlives the process, and after a power cut the checksum tells.
func writeJournal(f *os.File, j journal) error {
	slot, err := j.encode()
	if err != nil {
		return err
	}
	_, err = f.WriteAt(slot, int64(j.Seq%2)*journalSlot)
	return err
}

func saveHash(h hash.Hash) []byte {
	m, ok := h.(encoding.BinaryMarshaler)
	if !ok {
		return nil
	}
	state, err := m.MarshalBinary()
	if err != nil {
		return nil
	}
	return state
}

func restoreHash(a digest.Algorithm, state []byte) (hash.Hash, error) {
	h := a.Hash()
	m, ok := h.(encoding.BinaryUnmarshaler)
	if !ok {
		return nil, fmt.Errorf("%s has no state to restore", a)
	}
	return h, m.UnmarshalBinary(state)
}
