package layerstore

import (
	"errors"
	"os"
	"strings"
	"sync"
)

const (
	// safeEvery is after how many bytes an ingest is made safe from a power cut:
	// what that can cost a client, against a sync of so many bytes, which takes
	// less time than they took to come.
	safeEvery = 64 << 20
	// leaveEvery is the same for one that is left in between, as an upload is by
	// each request: three syncs each time would cost more than to send so few
	// bytes again.
	leaveEvery = 256 << 10
	// bootFile names the run of the kernel.
	bootFile = "/proc/sys/kernel/random/boot_id"
)

// boot names the run of the kernel, which has a page cache of its own: what one
// process wrote, and no sync vouches for, the next one finds as it was written as
// long as that run lasts, and after it perhaps not. "" where nobody tells.
var boot = sync.OnceValue(func() string {
	id, err := os.ReadFile(bootFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
})

// cached reports whether what was written is in the page cache, or was put from
// there to the disk.
func (h ingestHeader) cached() bool { return h.Boot != "" && h.Boot == boot() }

// makeSafe makes what was written outlive a power cut. Where the header cannot
// be written, less does than could.
func (i *Ingest) makeSafe() error {
	if err := i.sync(); err != nil {
		return err
	}
	i.header.Updated = i.updated
	i.header.Synced, i.header.State = i.offset, saveHash(i.hasher)
	if err := i.header.writeDurably(i.store.layout); err != nil {
		i.store.log.Warn("how much of an ingest is safe is not noted", "name", i.name, "error", err)
	}
	return nil
}

// sync puts the bytes to the disk. Where that fails, nobody knows which of them
// it has, and the kernel does not say so twice: those behind the last sync go.
func (i *Ingest) sync() error {
	err := i.file.Sync()
	if err != nil && !i.unsure && i.offset > i.header.Synced {
		err = errors.Join(err, i.truncate(i.header.Synced))
	}
	return err
}

// lacks guesses how many bytes are still to come: as announced, else as many as
// came, and not less than a layer of the usual size.
func (i *Ingest) lacks() int64 {
	if i.header.Total > i.offset {
		return i.header.Total - i.offset
	}
	return max(i.offset, safeEvery)
}
