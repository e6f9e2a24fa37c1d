package layerstore

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// graph is what the index knows of blobs and edges at one moment. Digests are
// numbered, so that ten thousand of them are walked in little time and memory.
type graph struct {
	ids      map[digest.Digest]int
	digests  []digest.Digest
	sealed   []bool
	children [][]int
	size     []int64 // bytes; 0 for what is not sealed
	used     []time.Time
	seen     []int // the latest walk that came by
	walks    int
}

// readGraph reads the rows and the edges.
func readGraph(tx *bolt.Tx) (*graph, error) {
	g := &graph{ids: map[digest.Digest]int{}}
	if err := g.readRows(tx); err != nil {
		return nil, err
	}
	g.readEdges(tx)
	return g, nil
}

func (g *graph) readRows(tx *bolt.Tx) error {
	blobs := tx.Bucket(bucketBlobs).Cursor()
	for k, v := blobs.First(); k != nil; k, v = blobs.Next() {
		var r struct { // less than row: this is most of the work of a plan
			Size int64     `json:"size"`
			Used time.Time `json:"used"`
		}
		if err := json.Unmarshal(v, &r); err != nil {
			return fmt.Errorf("row of %s: %w", k, err)
		}
		id := g.number(digest.Digest(k))
		g.sealed[id], g.size[id], g.used[id] = true, r.Size, r.Used
	}
	return nil
}

func (g *graph) readEdges(tx *bolt.Tx) {
	var parent, child digest.Digest
	from := -1
	edges := tx.Bucket(bucketRefs).Cursor()
	for k, _ := edges.First(); k != nil; k, _ = edges.Next() {
		last := parent
		if parent, child = splitRefKey(k); parent != last || from < 0 {
			from = g.number(parent)
		}
		g.children[from] = append(g.children[from], g.number(child))
	}
}

func (g *graph) number(d digest.Digest) int {
	if id, ok := g.ids[d]; ok {
		return id
	}
	id := len(g.digests)
	g.ids[d] = id
	g.digests = append(g.digests, d)
	g.sealed, g.seen = append(g.sealed, false), append(g.seen, 0)
	g.children = append(g.children, nil)
	g.size, g.used = append(g.size, 0), append(g.used, time.Time{})
	return id
}

// walk visits everything that can be reached from the given numbers,
// themselves included, each once. Where visit says no, it goes no further.
// visit does not walk itself.
func (g *graph) walk(from []int, visit func(id int) (further bool)) {
	g.walks++
	for todo := slices.Clone(from); len(todo) > 0; {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if g.seen[id] == g.walks {
			continue
		}
		g.seen[id] = g.walks
		if visit(id) {
			todo = append(todo, g.children[id]...)
		}
	}
}

// closure marks everything that can be reached from the given digests.
func (g *graph) closure(from []digest.Digest) map[int]bool {
	reached := map[int]bool{}
	var known []int
	for _, d := range from {
		if id, ok := g.ids[d]; ok {
			known = append(known, id)
		}
	}
	g.walk(known, func(id int) bool {
		reached[id] = true
		return true
	})
	return reached
}

// tops are the blobs that no other blob here needs: whole images, and blobs of
// which nobody said what they belong to. A parent that is not here needs
// nothing by itself; what it names belongs to who named the parent. Should
// blobs refer to each other in a ring, which content by digest cannot, one of
// the ring stands for it.
func (g *graph) tops() []int {
	needed := make([]bool, len(g.digests))
	for id := range g.digests {
		if !g.sealed[id] {
			continue
		}
		g.walk(g.children[id], func(child int) bool {
			if child != id {
				needed[child] = true
			}
			return !g.sealed[child]
		})
	}
	var tops []int
	for id := range g.digests {
		if g.sealed[id] && !needed[id] {
			tops = append(tops, id)
		}
	}
	return g.addRings(tops)
}

func (g *graph) addRings(tops []int) []int {
	reached := make([]bool, len(g.digests))
	mark := func(id int) bool {
		was := reached[id]
		reached[id] = true
		return !was
	}
	g.walk(tops, mark)
	for id := range g.digests {
		if g.sealed[id] && !reached[id] {
			tops = append(tops, id)
			g.walk([]int{id}, mark)
		}
	}
	return tops
}
