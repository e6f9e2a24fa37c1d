package registry

import (
	"hash/fnv"
	"io"
	"slices"
	"sync"
)

// turnsMost is how many tags may change side by side. Two tags that share a
// turn wait for each other, which is rare and takes as long as one write.
const turnsMost = 256

// turns let the row of a tag on disk and the one in memory change as one: who
// changes both holds the tag's turn. Otherwise two who change the same tag could
// write in one order and remember in the other, and after a restart the tag
// would mean what was pushed over, or be there though it was deleted. A turn is
// taken after pushing.
type turns [turnsMost]sync.Mutex

// take waits for the turns of all these tags and returns what gives them back.
func (t *turns) take(keys ...string) (done func()) {
	taken := make([]int, len(keys))
	for i, key := range keys {
		h := fnv.New32a()
		io.WriteString(h, key)
		taken[i] = int(h.Sum32() % turnsMost)
	}
	slices.Sort(taken) // in one order, or two could wait for each other
	taken = slices.Compact(taken)
	for _, n := range taken {
		t[n].Lock()
	}
	return func() {
		for _, n := range taken {
			t[n].Unlock()
		}
	}
}
