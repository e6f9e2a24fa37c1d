package api

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
	"github.com/imagecache/imagecache/registry/registrytest"
)

// TestCacheChangesNoAnswer sends the same requests, in the same order, to the
// upstream itself and to mirrors that are cold, warm, tiny, restarted or robbed
// of their store in between. All must answer alike.
func TestCacheChangesNoAnswer(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	exam := newExam(up)
	for _, c := range []struct {
		name   string
		o      layerstore.Options
		before func(*moody, *testing.T) // the first request
		then   func(*moody, *testing.T) // after each
	}{
		{"cold", layerstore.Options{}, nil, nil},
		{"warm", layerstore.Options{}, func(m *moody, t *testing.T) { exam.sit(t, 1, m.ask) }, nil},
		{"tiny", layerstore.Options{MaxSize: 64 << 10}, nil, (*moody).evict},
		{"restarted", layerstore.Options{}, nil, (*moody).restart},
		{"robbed", layerstore.Options{}, nil, (*moody).rob},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMoody(t, up, c.o)
			if c.before != nil {
				c.before(m, t)
			}
			for seed := range uint64(3) {
				want := exam.sit(t, seed, func(t *testing.T, q question) reply { return ask(t, up.URL()+q.path, q) })
				got := exam.sit(t, seed, func(t *testing.T, q question) reply {
					r := m.ask(t, q)
					if c.then != nil {
						c.then(m, t)
					}
					return r
				})
				for i, q := range exam.questions(seed) {
					if got[i] != want[i] {
						t.Errorf("%s\n  the cache answers %v\n  the upstream      %v", q, got[i], want[i])
					}
				}
			}
		})
	}
}

// question is one request.
type question struct{ method, path, byteRange string }

func (q question) String() string { return q.method + " " + q.path + " " + q.byteRange }

// reply is what of an answer must not depend on the cache.
type reply struct {
	status                                int
	mediaType, digest, length, rangeGiven string
	body                                  digest.Digest // of a success; of a refusal there is
	code                                  string
}

// exam knows what to ask.
type exam struct {
	manifests, blobs []string // paths
	sizes            map[string]int
}

func newExam(up *registrytest.Registry) *exam {
	big, small, empty := registrytest.Bytes(1, 3<<20), registrytest.Bytes(2, 70<<10), []byte{}
	one := up.AddImage("team/app", "v1", big, small)
	two := up.AddImageFor("team/app", "v2", specs.Platform{OS: "linux", Architecture: "arm64"}, small, empty)
	index, _ := up.AddIndex("team/app", "both", one, two)
	e := &exam{sizes: map[string]int{}}
	for _, name := range []string{"v1", "v2", "both", one.Digest.String(), two.Digest.String(), index.Digest.String(), "absent", digest.FromString("absent").String()} {
		e.manifests = append(e.manifests, "/v2/team/app/manifests/"+name)
	}
	// No manifest is asked for as a blob: registries differ in whether it is one.
	for _, b := range [][]byte{big, small, empty, []byte("absent")} {
		path := "/v2/team/app/blobs/" + digest.FromBytes(b).String()
		e.blobs = append(e.blobs, path)
		e.sizes[path] = len(b)
	}
	e.blobs = append(e.blobs, "/v2/team/app/blobs/"+one.Config.Digest.String())
	return e
}

// questions are the same for the same seed.
func (e *exam) questions(seed uint64) (asked []question) {
	r := rand.New(rand.NewPCG(seed, 7))
	for range 30 {
		q := question{method: []string{"GET", "GET", "HEAD"}[r.IntN(3)]}
		switch r.IntN(8) {
		case 0, 1, 2:
			q.path = e.manifests[r.IntN(len(e.manifests))]
		case 3:
			q.method, q.path = "GET", []string{"/v2/team/app/tags/list", "/v2/team/app/tags/list?n=2", "/v2/nobody/here/tags/list"}[r.IntN(3)]
		default:
			q.path = e.blobs[r.IntN(len(e.blobs))]
			q.byteRange = e.someRange(r, q)
		}
		asked = append(asked, q)
	}
	return asked
}

// someRange is a Range header, or none. Nothing can be ranged in what has no
// bytes, and RFC 9110 lets a server choose what to answer then.
func (e *exam) someRange(r *rand.Rand, q question) string {
	size := e.sizes[q.path]
	if size < 2 || q.method != "GET" {
		return ""
	}
	from := r.IntN(size)
	switch r.IntN(6) {
	case 0:
		return fmt.Sprintf("bytes=%d-%d", from, from+r.IntN(size-from))
	case 1:
		return fmt.Sprintf("bytes=%d-", from)
	case 2:
		return fmt.Sprintf("bytes=-%d", 1+r.IntN(size))
	case 3:
		return fmt.Sprintf("bytes=%d-", size+r.IntN(10))
	}
	return ""
}

// sit asks all questions of a seed.
func (e *exam) sit(t *testing.T, seed uint64, ask func(*testing.T, question) reply) (replies []reply) {
	t.Helper()
	for _, q := range e.questions(seed) {
		replies = append(replies, ask(t, q))
	}
	return replies
}

var errorCode = regexp.MustCompile(`"code":\s*"(\w+)"`)

func ask(t *testing.T, url string, q question) reply {
	t.Helper()
	var header []string
	if q.byteRange != "" {
		header = []string{"Range", q.byteRange}
	}
	answer, body := get(t, q.method, url, header...)
	r := reply{status: answer.StatusCode, digest: answer.Header.Get("Docker-Content-Digest")}
	if answer.StatusCode >= 400 {
		if code := errorCode.FindStringSubmatch(body); code != nil && answer.StatusCode != http.StatusRequestedRangeNotSatisfiable {
			r.code = code[1]
		}
		r.digest = ""
		return r
	}
	r.mediaType = answer.Header.Get("Content-Type")
	r.length, r.rangeGiven = answer.Header.Get("Content-Length"), answer.Header.Get("Content-Range")
	r.body = digest.FromString(body)
	if strings.Contains(q.path, "/tags/") {
		r.length = "" // of JSON that may be written in other ways
		names := regexp.MustCompile(`"[\w/]+"`).FindAllString(body, -1)
		slices.Sort(names)
		r.body = digest.Digest(strings.Join(names, " "))
	}
	if n, err := strconv.Atoi(r.length); q.method == "GET" && r.length != "" && (err != nil || n != len(body)) {
		t.Errorf("%s: %d bytes came, %s were announced", q, len(body), r.length)
	}
	return r
}

// moody is a mirror at one address whose store changes between requests.
type moody struct {
	root     string
	up       *registrytest.Registry
	o        layerstore.Options
	store    *layerstore.Store
	registry *registry.Registry
	url      string
	clock    atomic.Int64 // how far it is ahead of the real one

	mu      sync.Mutex // guards handler
	handler http.Handler
}

func newMoody(t *testing.T, up *registrytest.Registry, o layerstore.Options) *moody {
	t.Helper()
	m := &moody{root: filepath.Join(t.TempDir(), "root"), up: up, o: o}
	m.start(t)
	t.Cleanup(func() { m.stop(t) })
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		handler := m.handler
		m.mu.Unlock()
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close) // before the stop above
	m.url = server.URL
	return m
}

func (m *moody) start(t *testing.T) {
	t.Helper()
	m.o.Root = m.root
	m.o.Now = func() time.Time { return time.Now().Add(time.Duration(m.clock.Load())) }
	store, err := layerstore.Open(m.o)
	if err != nil {
		t.Fatal(err)
	}
	upstreams := []registry.UpstreamOptions{{Name: m.up.Host(), URL: m.up.URL()}}
	reg, err := registry.New(registry.Options{Store: store, Path: filepath.Join(m.root, "registry.db"), Upstreams: upstreams, Open: true})
	if err != nil {
		store.Close()
		t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store, m.registry, m.handler = store, reg, New(Options{Registry: reg}).Mirror()
}

func (m *moody) stop(t *testing.T) {
	t.Helper()
	if err := errors.Join(m.registry.Close(), m.store.Close()); err != nil {
		t.Fatal(err)
	}
}

func (m *moody) ask(t *testing.T, q question) reply {
	t.Helper()
	sep := "?"
	if strings.Contains(q.path, "?") {
		sep = "&"
	}
	return ask(t, m.url+q.path+sep+"ns="+m.up.Host(), q)
}

func (m *moody) restart(t *testing.T) {
	t.Helper()
	m.stop(t)
	m.start(t)
}

// rob takes everything away.
func (m *moody) rob(t *testing.T) {
	t.Helper()
	m.stop(t)
	if err := os.RemoveAll(m.root); err != nil {
		t.Fatal(err)
	}
	m.start(t)
}

// evict collects what was used a minute ago, which is all.
func (m *moody) evict(t *testing.T) {
	t.Helper()
	m.clock.Add(int64(time.Minute))
	if _, err := m.store.Collect(t.Context(), layerstore.CollectOptions{}); err != nil {
		t.Fatal(err)
	}
}
