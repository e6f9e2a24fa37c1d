package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/boltfile"
)

// Annotations of index.json that hold a row of registry.db as it is there, for
// the day when registry.db is lost.
const (
	tagAnnotation = "com.github.imagecache.tag"
	pinAnnotation = "com.github.imagecache.pin"
)

// Describe tells the media type of a manifest or an index, and what it refers
// to, by its bytes alone; ok is false for anything else. It is what a
// layerstore needs to rebuild its index (layerstore.Options.Describe).
func Describe(content []byte) (mediaType string, refs []digest.Digest, ok bool) {
	p, err := parseManifest("", content)
	if err != nil || !(isIndex(p.mediaType) || isImage(p.mediaType)) {
		return "", nil, false
	}
	return p.mediaType, p.digests(), true
}

// rescued are the rows that a new registry.db begins with.
type rescued struct {
	tags map[string]tagRow
	pins map[string]pinRow
	home map[string]homeRow // by holdKey
}

// rescue finds tags and pins where they are besides registry.db: both in
// index.json, pins in the store's roots as well. Where the roots alone know a
// pin, its platforms are not known: there are none in its row.
func rescue(store *layerstore.Store, log *slog.Logger, now time.Time) (rescued, error) {
	found := rescued{tags: map[string]tagRow{}, pins: map[string]pinRow{}, home: map[string]homeRow{}}
	listed, err := store.Index()
	if err != nil {
		log.Error("tags are not known, for index.json is damaged too", "error", err)
	}
	for _, d := range listed {
		found.take(d)
	}
	roots, err := store.Roots()
	if err != nil {
		return found, err
	}
	found.takeHome(store, roots, now)
	for name, d := range roots {
		key, isPin := strings.CutPrefix(name, rootOfPin)
		if _, known := found.pins[key]; !isPin || known || !canonical(key) {
			continue
		}
		row := pinRow{Digest: d, At: now}
		if info, err := store.Stat(d); err == nil {
			row.MediaType, row.Size = info.MediaType, info.Size
		}
		found.pins[key] = row
	}
	return found, nil
}

// take takes the rows that an entry of index.json holds.
func (found rescued) take(d specs.Descriptor) {
	key := d.Annotations[specs.AnnotationRefName]
	if !canonical(key) {
		return // not of our making
	}
	var tag tagRow
	if json.Unmarshal([]byte(d.Annotations[tagAnnotation]), &tag) == nil && tag.Digest.Validate() == nil {
		found.tags[key] = tag
	}
	var pin pinRow
	if json.Unmarshal([]byte(d.Annotations[pinAnnotation]), &pin) == nil && pin.Digest.Validate() == nil {
		found.pins[key] = pin
	}
}

// canonical reports whether a reference is written as our keys are.
func canonical(key string) bool {
	ref, err := ParseReference(key)
	return err == nil && ref.String() == key
}

// write makes the rows those of a new registry.db.
func (found rescued) write(tx *bolt.Tx) error {
	for key, row := range found.tags {
		if err := put(tx, bucketTags, key, row); err != nil {
			return err
		}
	}
	for key, row := range found.pins {
		if err := put(tx, bucketPins, key, row); err != nil {
			return err
		}
	}
	return found.writeHome(tx)
}

// checkRows finds rows that cannot be read. Their keys are references: with one
// that is none nothing could be listed any more.
func checkRows(tx *bolt.Tx) error {
	for name, check := range map[string]func(ref Reference, value []byte) error{
		string(bucketTags): func(_ Reference, value []byte) error {
			var row tagRow
			return errors.Join(json.Unmarshal(value, &row), row.Digest.Validate())
		},
		string(bucketPins): func(_ Reference, value []byte) error {
			var row pinRow
			return errors.Join(json.Unmarshal(value, &row), row.Digest.Validate())
		},
		string(bucketHome): func(ref Reference, value []byte) error {
			return errors.Join(ref.Digest.Validate(), json.Unmarshal(value, new(homeRow)))
		},
		string(bucketHistory): func(_ Reference, value []byte) error {
			var past []pastRow
			err := json.Unmarshal(value, &past)
			for _, p := range past {
				err = errors.Join(err, p.Digest.Validate())
			}
			return err
		},
	} {
		err := tx.Bucket([]byte(name)).ForEach(func(key, value []byte) error {
			ref, err := ParseReference(string(key))
			if err == nil && ref.String() != string(key) {
				err = fmt.Errorf("it is written %s", ref)
			}
			if err = errors.Join(err, check(ref, value)); err != nil {
				return fmt.Errorf("row %q of %s: %w", key, name, err)
			}
			return nil
		})
		if err != nil {
			return &boltfile.Damage{Err: err}
		}
	}
	return nil
}

// choosePlatforms gives pins whose platforms are not known those that are
// here as a whole, else those that a pin would get now.
func (r *Registry) choosePlatforms() error {
	chosen := map[string]pinRow{}
	for key, row := range r.pins {
		if len(row.Platforms) > 0 {
			continue
		}
		wanted, err := r.likelyPlatforms(key, row)
		if err != nil {
			return err
		}
		row.Platforms = wanted
		chosen[key] = row
		r.log.Warn("platforms of a pin were lost and are chosen anew", "reference", key, "platforms", wanted)
	}
	if len(chosen) == 0 {
		return nil
	}
	err := r.state.db.Update(func(tx *bolt.Tx) error { return rescued{pins: chosen}.write(tx) })
	for key, row := range chosen {
		r.pins[key] = row
	}
	return err
}

func (r *Registry) likelyPlatforms(key string, row pinRow) ([]string, error) {
	if top, err := r.local(row.Digest); err == nil {
		if here := r.platformsHere(top, true).complete; len(here) > 0 && !slices.Contains(here, "unknown") {
			return CheckPlatforms(here)
		}
	}
	ref, err := ParseReference(key)
	if err != nil {
		return nil, err
	}
	v, err := r.operatorView(ref.Repository)
	if err != nil {
		return CheckPlatforms(nil) // its upstream is not set up any more
	}
	return wantedOf(v.upstream, nil)
}
