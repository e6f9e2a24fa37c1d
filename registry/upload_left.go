package registry

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/imagecache/imagecache/layerstore"
)

const (
	// uploadsMost is how many uploads one caller may have begun and not ended: a
	// hundred jobs that push ten layers each.
	uploadsMost = 1000
	// leftBytesMost is how many bytes of uploads one caller may leave behind. The
	// store lets them go when it wants room, and after a week; this is for
	// disks that are large.
	leftBytesMost = 64 << 30
	// leftAfter is for how long nothing must have come for an upload to be left
	// behind: the store takes none for its room that is younger.
	leftAfter = 10 * time.Minute
	// countEvery is after how many new uploads of a caller they are counted again:
	// that reads a folder.
	countEvery = 64
	// pushersMost is how many callers' counts are held in memory.
	pushersMost = 4096
	// tagSize is how many characters of an upload's ID tell whose it is.
	tagSize = 8
)

// pushers are callers that have begun uploads, by tag.
type pushers struct {
	most int // uploads of one; 0: uploadsMost

	mu  sync.Mutex // guards all
	all map[string]pusher
}

func (p *pushers) limit() int { return cmp.Or(p.most, uploadsMost) }

// pusher is how many uploads a caller had when they were counted, and has begun since.
type pusher struct{ counted, since int }

// due reports whether a caller's uploads are to be counted, and counts one more.
func (p *pushers) due(tag string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	one, known := p.all[tag]
	if !known || one.since >= countEvery || one.counted+one.since >= p.limit() {
		return true
	}
	one.since++
	p.all[tag] = one
	return false
}

func (p *pushers) counted(tag string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil || len(p.all) >= pushersMost {
		p.all = map[string]pusher{} // who is forgotten is counted anew
	}
	p.all[tag] = pusher{counted: n, since: 1}
}

// user is the name that a caller has shown. Who shows a token, which may be
// another for each request, is nobody in particular.
func (c Caller) user() string {
	if c.Anonymous() {
		return ""
	}
	return c.login().Username
}

// pusherTag stands for a caller in the IDs of its uploads, so that they are known
// after a restart, and tells those who read a log nothing.
func pusherTag(by string) string {
	sum := sha256.Sum256([]byte(by))
	return base32.StdEncoding.EncodeToString(sum[:])[:tagSize]
}

// BegunBy reports whether it was by, as StartUpload was told, who began an upload.
// To anybody else it is one that is not there: what others send is not for them to
// see, to end or to add to, though they learn its ID from a log.
func (r *Registry) BegunBy(ctx context.Context, in Repository, id, by string) bool {
	if by == "" && r.Through(in.Registry) {
		by = callerOf(ctx).user()
	}
	return strings.HasPrefix(id, pusherTag(by))
}

// boundUploads lets go what a caller has left behind beyond what it may, the
// oldest first. The error has [CodeTooMany] where nothing of it is left behind.
func (r *Registry) boundUploads(tag string) error {
	if !r.pushers.due(tag) {
		return nil
	}
	uploads, err := r.uploadsOf(tag)
	if err != nil {
		return err
	}
	before := r.now().Add(-leftAfter)
	idle := slices.IndexFunc(uploads, func(u layerstore.IngestInfo) bool { return !u.Updated.Before(before) })
	if idle < 0 {
		idle = len(uploads)
	}
	var bytes int64
	for _, u := range uploads[:idle] {
		bytes += u.Offset
	}
	gone, most := 0, r.pushers.limit()
	for ; gone < idle && (len(uploads)-gone >= most || bytes > leftBytesMost); gone++ {
		u := uploads[gone]
		if err := r.store.AbortIngest(u.Name); err != nil {
			r.log.Warn("an upload that was left behind stays", "upload", u.Name, "error", err)
		}
		bytes -= u.Offset
	}
	if gone > 0 {
		r.log.Info("uploads that were left behind are let go", "uploads", gone)
	}
	if len(uploads)-gone >= most {
		return &Error{Code: CodeTooMany, Message: "too many uploads are begun and not ended; end or cancel some", RetryAfter: time.Minute}
	}
	r.pushers.counted(tag, len(uploads)-gone)
	return nil
}

// uploadsOf are the uploads of a caller, the one that has waited longest first.
func (r *Registry) uploadsOf(tag string) ([]layerstore.IngestInfo, error) {
	infos, err := r.store.Ingests()
	uploads := slices.DeleteFunc(infos, func(i layerstore.IngestInfo) bool {
		id := i.Name[strings.LastIndexByte(i.Name, ' ')+1:]
		return !strings.HasPrefix(i.Name, rootOfUpload) || !strings.HasPrefix(id, tag)
	})
	slices.SortFunc(uploads, func(a, b layerstore.IngestInfo) int {
		return cmp.Or(a.Updated.Compare(b.Updated), cmp.Compare(a.Name, b.Name))
	})
	return uploads, err
}
