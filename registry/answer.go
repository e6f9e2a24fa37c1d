package registry

import (
	"time"

	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Outcomes of an [Answer].
const (
	OutcomeHit    = "hit"    // from here
	OutcomeMiss   = "miss"   // fetched for this request
	OutcomeJoined = "joined" // followed a transfer or a question under way
	OutcomeStale  = "stale"  // from here, though upstream should have been asked
	OutcomeBypass = "bypass" // straight from upstream: the store could not keep or give it
)

// DetailPinned is the detail of an answer that a pin gave.
const DetailPinned = "pinned"

// Answer tells how a request was answered.
type Answer struct {
	Outcome  string
	Detail   string        // [DetailPinned], or why the answer is stale
	Stored   bool          // what was fetched is being kept
	Age      time.Duration // since upstream last said so (a tag), or since the bytes came
	Upstream string        // the registry's name
}

// Manifest is a manifest or an index, byte for byte as upstream gave it. It
// is shared: nobody may change it.
type Manifest struct {
	Descriptor specs.Descriptor // media type, digest, size in bytes
	Content    []byte

	parsed parsed
	came   time.Time
}

// Progress tells how far a pull or a pin is. Sizes are in bytes; the totals
// grow while manifests are being read.
type Progress struct {
	Reference  string `json:"reference"`
	Phase      string `json:"phase"` // resolve, fetch, done
	Digest     string `json:"digest,omitempty"`
	BlobsDone  int    `json:"blobs_done"`
	BlobsTotal int    `json:"blobs_total"`
	BytesDone  int64  `json:"bytes_done"`
	BytesTotal int64  `json:"bytes_total"`
}

// Phases of a [Progress].
const (
	PhaseResolve = "resolve"
	PhaseFetch   = "fetch"
	PhaseDone    = "done"
)

// Image is a cached image: a tag, a pin, or a manifest that was asked for by
// its digest.
type Image struct {
	Reference string    `json:"reference"`
	Digest    string    `json:"digest"`
	MediaType string    `json:"media_type"`
	Platforms []string  `json:"platforms"`         // of which everything is here
	Size      int64     `json:"size"`              // bytes of it that are here
	Have      int       `json:"have"`              // blobs that are here, manifests included
	Want      int       `json:"want"`              // blobs of the platforms that are wanted
	Complete  bool      `json:"complete"`          // Have has all of Want
	Dropped   int       `json:"dropped,omitempty"` // of Have, layers that are here unpacked only
	Pinned    bool      `json:"pinned"`
	CheckedAt time.Time `json:"checked_at,omitzero"` // upstream last confirmed the tag
	UsedAt    time.Time `json:"used_at,omitzero"`
}

// Pin is a reference that is frozen at a digest.
type Pin struct {
	Reference string    `json:"reference"`
	Digest    string    `json:"digest"`
	MediaType string    `json:"media_type"`
	Platforms []string  `json:"platforms"`
	Complete  bool      `json:"complete"`
	Have      int       `json:"have"`
	Want      int       `json:"want"`
	Dropped   int       `json:"dropped,omitempty"` // of Have, layers that are here unpacked only
	Size      int64     `json:"size"`              // bytes of it that are here
	PinnedAt  time.Time `json:"pinned_at"`

	State     string    `json:"state"`                // complete, filling, unreachable, drifted
	Error     string    `json:"error,omitempty"`      // why it could not be completed, last time
	Since     time.Time `json:"since,omitzero"`       // it could not be since then
	NextTry   time.Time `json:"next_try,omitzero"`    // and is not tried again before
	Already   bool      `json:"already,omitempty"`    // answer of Pin: it was pinned at this digest before
	MovedFrom string    `json:"moved_from,omitempty"` // answer of Pin, Update and Rollback: the digest before
	Lockfile  bool      `json:"lockfile,omitempty"`   // it came from the lockfile that is followed

	// Signatures, SBOMs and the like that are kept with it. That one is not
	// here does not make the pin incomplete.
	Referrers     int `json:"referrers,omitempty"`      // wholly here
	ReferrersWant int `json:"referrers_want,omitempty"` // known of

	UpstreamDigest string    `json:"upstream_digest,omitempty"` // what the tag means upstream, last time it was asked
	Drift          string    `json:"drift,omitempty"`           // same, moved, unknown; empty when not asked
	DriftReason    string    `json:"drift_reason,omitempty"`    // why unknown
	DriftCheckedAt time.Time `json:"drift_checked_at,omitzero"`
	Change         *Change   `json:"change,omitempty"` // with drift, of a pin that moved

	History []PastPin `json:"history,omitempty"` // newest first
}

// States of a [Pin].
const (
	PinComplete    = "complete"
	PinFilling     = "filling"     // something lacks, and is being fetched or will be
	PinUnreachable = "unreachable" // something lacks, and could not be fetched
	PinDrifted     = "drifted"     // complete, and upstream's tag means another digest now
)

// PastPin is a digest that a pin had before.
type PastPin struct {
	Digest    string    `json:"digest"`
	Platforms []string  `json:"platforms"`
	From      time.Time `json:"from"`
	Until     time.Time `json:"until"`
	Complete  bool      `json:"complete"` // all of it is still here
}

// Values of Pin.Drift.
const (
	DriftSame    = "same"
	DriftMoved   = "moved"
	DriftUnknown = "unknown"
)

// Inspection is everything about one cached image.
type Inspection struct {
	Image
	Manifests []InspectedManifest `json:"manifests"`
	// Config is the image config of this machine's platform, as it stands;
	// absent where it is not here.
	Config any `json:"config,omitempty"`
}

// InspectedManifest is one manifest of an image: the image itself, or a child
// of its index.
type InspectedManifest struct {
	Digest      string            `json:"digest"`
	MediaType   string            `json:"media_type"`
	Size        int64             `json:"size"`
	Platform    string            `json:"platform,omitempty"`
	Here        bool              `json:"here"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Config      *InspectedBlob    `json:"config,omitempty"`
	Layers      []InspectedBlob   `json:"layers,omitempty"`
}

// InspectedBlob is a config or a layer.
type InspectedBlob struct {
	Digest    string `json:"digest"`
	MediaType string `json:"media_type"`
	Size      int64  `json:"size"`
	Here      bool   `json:"here"`
	Dropped   bool   `json:"dropped,omitempty"` // not here but unpacked
}

// Removed tells what Remove did.
type Removed struct {
	References []string `json:"references"`
	Blobs      int      `json:"blobs"`
	Bytes      int64    `json:"bytes"`
}

// Status tells how the cache has been doing since it started.
type Status struct {
	Version        string           `json:"version,omitempty"` // filled in by who knows it
	StartedAt      time.Time        `json:"started_at"`
	Listen         string           `json:"listen,omitempty"` // as Version
	Root           string           `json:"root"`
	Writable       bool             `json:"writable"`
	WritableReason string           `json:"writable_reason,omitempty"` // why not
	Upstreams      []UpstreamStatus `json:"upstreams"`
	Flights        int              `json:"flights"`
	Gets           int64            `json:"gets"`
	Hits           int64            `json:"hits"`
	Misses         int64            `json:"misses"`
	Joined         int64            `json:"joined"`
	Stale          int64            `json:"stale"`
	Bypassed       int64            `json:"bypassed"`
	BytesServed    int64            `json:"bytes_served"` // filled in by who serves
	BytesFetched   int64            `json:"bytes_fetched"`
	Evictions      int64            `json:"evictions"` // blobs
	EvictedBytes   int64            `json:"evicted_bytes"`
	Pins           int              `json:"pins"`
	PinsIncomplete int              `json:"pins_incomplete"`
	Quarantined    int64            `json:"quarantined"`    // blobs that rotted and were taken away
	Repaired       int64            `json:"repaired"`       // lost blobs that came back
	Unrepaired     int              `json:"unrepaired"`     // lost blobs that did not, those of earlier runs included
	BytesScrubbed  int64            `json:"bytes_scrubbed"` // read to prove blobs again
	LayersDropped  int64            `json:"layers_dropped"` // compressed, for they are here unpacked
	BytesDropped   int64            `json:"bytes_dropped"`  // of those
	PinsDrifted    int              `json:"pins_drifted"`
	DrillFailing   *int             `json:"drill_failing,omitempty"`  // pinned and recent references that could not start without upstream; absent until it was found out
	DrillExpiring  *int             `json:"drill_expiring,omitempty"` // those that could, and not for long: see DrilledReference.Expires
	Lockfile       *LockfileStatus  `json:"lockfile,omitempty"`       // filled in by who follows one
}

// DiskUsage tells where the space went. Sizes are in bytes.
type DiskUsage struct {
	Root         string       `json:"root"`
	Capacity     uint64       `json:"capacity"`
	Free         uint64       `json:"free"`
	Blobs        int64        `json:"blobs"`
	Bytes        int64        `json:"bytes"`
	Images       []ImageUsage `json:"images"`
	Partial      int          `json:"partial"` // transfers and ingests that are not whole
	PartialBytes int64        `json:"partial_bytes"`
	Idle         int          `json:"idle"` // of those, the ones that nobody is at
	IdleBytes    int64        `json:"idle_bytes"`

	Quarantine      int   `json:"quarantine"` // files of blobs that rotted
	QuarantineBytes int64 `json:"quarantine_bytes"`
	FormBytes       int64 `json:"form_bytes"` // what was made of blobs: unpacked layers
}

// ImageUsage is what one image takes: Size is Unique, which goes with it, and
// Shared, which other images need too.
type ImageUsage struct {
	Reference string `json:"reference"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	Unique    int64  `json:"unique"`
	Shared    int64  `json:"shared"`
	Pinned    bool   `json:"pinned"`
}
