// Package contentstore offers a [layerstore.Store] as containerd's
// [content.Store], so that containerd, and what is built for it, reads cached
// blobs where they lie and writes its own beside them.
//
// It is a room of its own, because it speaks containerd's types: a program that
// has no use for them does not link it. It is for the snapshotter and for
// programs that embed the store; the daemon serves registries' clients without it.
//
// # What is the store's, and what containerd's
//
// There is one kind of blob: what was cached is found here, and what is
// committed here is served from the cache. Only sealed blobs are seen. A blob in
// flight is not here yet: who wants to follow it asks the store's Fetch.
//
// Content has no namespaces here. containerd's own metadata store, placed above
// this one, gives them, and its garbage collection: labels, those that begin
// with containerd.io/gc among them, are kept and given back, and mean nothing
// to this package. What keeps a blob is a root of the layerstore; one that is
// committed here and has none is what an image is that nobody pinned: it may be
// evicted.
//
// # Deleting
//
// Delete deletes that blob alone, whatever it refers to, and only when nothing
// needs it: no root (a pin is one) or lease keeps it, and no other blob in the
// store is known to refer to it. Otherwise it returns errdefs.ErrFailedPrecondition and
// the blob stays. When it returns nil the blob is gone.
//
// # Labels
//
// Labels and the time of their last change are kept in contentstore.db, a bbolt
// file in the root of the store:
//
//	meta
//	└─ schema        1, as decimal text
//	blobs
//	└─ <digest>      JSON: labels, when they were last changed
//
// A blob without labels that were ever changed has no row. A row is written
// after its blob is sealed, and one whose blob the store has evicted goes when
// the file is opened next: until then the same bytes come back with the same
// labels. A file that is damaged is set aside and made anew, without labels.
package contentstore
