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
	parents  [][]int
	seen     []int // the latest walk that came by
	walks    int

	// Read by readGraph only.
	size []int64 // bytes; 0 for what is not sealed
	used []time.Time
}

// readEdges reads the edges, and which blobs there are.
func readEdges(tx *bolt.Tx) *graph {
	g := &graph{ids: map[digest.Digest]int{}}
	blobs := tx.Bucket(bucketBlobs).Cursor()
	for k, _ := blobs.First(); k != nil; k, _ = blobs.Next() {
		g.sealed[g.number(digest.Digest(k))] = true
	}
	var parent, child digest.Digest
	from := -1
	edges := tx.Bucket(bucketRefs).Cursor()
	for k, _ := edges.First(); k != nil; k, _ = edges.Next() {
		last := parent
		if parent, child = splitRefKey(k); parent != last || from < 0 {
			from = g.number(parent)
		}
		to := g.number(child)
		g.children[from] = append(g.children[from], to)
		g.parents[to] = append(g.parents[to], from)
	}
	return g
}

// readGraph reads the edges and the rows.
func readGraph(tx *bolt.Tx) (*graph, error) {
	g := readEdges(tx)
	g.size, g.used = make([]int64, len(g.digests)), make([]time.Time, len(g.digests))
	blobs := tx.Bucket(bucketBlobs).Cursor()
	for k, v := blobs.First(); k != nil; k, v = blobs.Next() {
		var r struct { // less than row: this is most of the work of a plan
			Size int64     `json:"size"`
			Used time.Time `json:"used"`
		}
		if err := json.Unmarshal(v, &r); err != nil {
			return nil, fmt.Errorf("row of %s: %w", k, err)
		}
		id := g.ids[digest.Digest(k)]
		g.size[id], g.used[id] = r.Size, r.Used
	}
	return g, nil
}

func (g *graph) number(d digest.Digest) int {
	if id, ok := g.ids[d]; ok {
		return id
	}
	id := len(g.digests)
	g.ids[d] = id
	g.digests = append(g.digests, d)
	g.sealed, g.seen = append(g.sealed, false), append(g.seen, 0)
	g.children, g.parents = append(g.children, nil), append(g.parents, nil)
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

// stands reports whether a blob here that is not going needs the given one.
func (g *graph) stands(id int, going map[int]bool) bool {
	seen := map[int]bool{id: true}
	for todo := slices.Clone(g.parents[id]); len(todo) > 0; {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[p] || going[p] {
			continue
		}
		seen[p] = true
		if g.sealed[p] {
			return true
		}
		todo = append(todo, g.parents[p]...)
	}
	return false
}
