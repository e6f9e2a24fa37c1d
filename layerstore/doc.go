// Package layerstore keeps the bytes of blobs on disk by their digest, and
// what is known about them. It knows nothing of registries, tags or manifests:
// a blob is a digest and bytes, and which blobs belong together it is told
// ([Store.Put] with the digests that a blob refers to, [Store.SetRoot]).
//
// # The life of a blob
//
// A blob that nobody has is fetched by a flight: one transfer for a digest,
// however many readers follow it. A flight asks its [Source], writes to a
// sparse partial file and hashes what stands behind its frontier. Every reader,
// the first included, reads the file through a descriptor of its own and waits
// where the bytes it wants are still missing. A flight belongs to no reader and
// goes on when all have left.
//
// When all bytes are there and hash to the digest, the blob is proven; until
// then the last byte is withheld from readers, so that nobody completes a blob
// that is wrong. A proven blob is sealed: the partial file is synced, renamed
// to its final name, the folder synced, and a row written to the index. Only
// what is sealed is found again by the next process. A blob that proves wrong
// is thrown away and its readers get an error.
//
// A transfer that breaks is asked for again from where it broke. One that was
// cut by the end of the process is taken up by the next from the partial file
// and its journal.
//
// # On disk
//
// The root is an OCI image layout, with folders of mode 0700:
//
//	imagecache.lock     held by the process that has the store open; marks the root as ours
//	oci-layout          the version of the layout
//	index.json          what is tagged and pinned (see Store.SetIndex)
//	blobs/<algorithm>/<hex>
//	ingest/<algorithm>-<hex>.part      a partial file, sparse
//	ingest/<algorithm>-<hex>.journal   which bytes of it are there, and a hash state
//	layerstore.db       the index
//
// # The index
//
// layerstore.db is a bbolt file:
//
//	meta
//	└─ schema          1, as decimal text
//	blobs
//	└─ <digest>        JSON: size in bytes, media type, when sealed, when last used
//	refs
//	└─ <parent> \0 <child>   empty; parent names child
//	roots
//	└─ <name>          <digest> that is kept, with all it refers to
//
// A file under blobs/ was proven before it got its name, so files lead and
// rows follow: at Open a file without a row is hashed and gets one, a row
// without a file goes.
//
// # Locks
//
// Store.mu guards the table of flights, flight.mu one flight. Where both are
// held, Store.mu was taken first. No file operation happens under either. Blobs
// get and lose their final names in one goroutine, the committer's: no removal
// meets a blob that is half sealed.
package layerstore
