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
// # Rot
//
// A proof has an age. A blob whose bytes were last hashed longer ago than
// Options.VerifyAfter, or before a stop that was not clean, is proven again at
// its next hit, beside the sending and once for all who read it: its last 64
// KiB, and the last byte of every range of it ([Blob.Limit], [Blob.ReadAt]), are
// withheld until then, so that rot is cut and never finished. [Store.Scrub] and a slow background pass prove what nobody asks for. Between two proofs a
// flipped bit is served; a file of another size, or none, is not: every hit
// looks at that.
//
// What is rotten is renamed into quarantine/, for the operator to look at (the
// newest 16, at most 7 days, in at most a twentieth of the space); its row goes,
// its edges stay, so that what needs it shows as incomplete. The loss is recorded until the blob is sealed again:
// [Store.Lost], [Store.Rot]. The store knows no upstreams; who does repairs it.
//
// # A disk that fails
//
// Where the store cannot keep a blob (no space, an error of the disk, no
// descriptor left), its readers go on past it: each from the byte where it is,
// straight from its source, hashed on the way, with the last byte withheld
// until the digest is right. Readers at about the same place share a request,
// through a window in memory for which nobody waits. They see no more of it than [Blob.Outcome], and
// that [Blob.Run] lends no file; [Store.Ensure] and [Store.Put], which promise
// that something is kept, fail. The partial file goes at once, for its space
// may be what all others need. A row that cannot be written waits in memory and
// is found there. Nothing has to be restarted: what is fetched when the disk is well
// again is kept. The log tells once that a trouble began, and once that it ended.
// A file system that is read-only from the start is one more such trouble: the
// index is then a copy in memory, and nothing is promised that it would have to keep.
//
// # What goes and what stays
//
// When blobs, what was made of them ([Derived]) and what is left over take more
// than Options.MaxSize, when less than MinFree is free, or when nobody used
// something for MaxAge, [Store.Collect] runs by itself. First goes what serves
// nobody ([Leftover]): rotten files, then partial files and ingests that nobody is
// at, the oldest first, then forms that belong to nothing here. Then images go, each
// told by its top, the blob that no other one here refers to: the least recently
// used first, with all that no image which stays needs.
// What a root or a [Lease] reaches, what is being read or fetched and what was
// used a moment ago stays. A plan is made from a snapshot, beside all traffic; it
// is carried out in steps of a few blobs, each of which looks again at what
// holds them, along the edges that lead to them, drops their rows in one
// transaction and then their names; the space is freed beside. Who asks for a blob
// during its step waits for the end of it, and fetches it anew. Partial files and
// ingests that nobody has gone on with for 7 days go in any case.
// [Store.Shed] drops a blob for which a form stands, and which an image names still.
//
// # Writing in
//
// What no source can be asked for is written in by the caller: [Store.Put] takes
// what fits in memory, [Store.Ingest] what comes bit by bit, under a name, and
// perhaps by several processes in turn. Closing an ingest syncs what was written
// and notes the state of its hash, and so does every 64 MiB. What came after is
// gone on with after a kill, and after a power cut only where the announced digest
// will tell whether it is right.
// Content that was written in is verified and sealed as all is. [Store.Delete] takes one
// blob away, unless something needs it. The package contentstore offers all
// this as containerd's content.Store.
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
//	ingest/write-<hex>.data, .json     what a caller writes in, by the hash of its name, and what to know of it
//	quarantine/<algorithm>-<hex>-<unix time>   what was rotten
//	layerstore.db       the index
//
// # The index
//
// layerstore.db is a bbolt file:
//
//	meta
//	├─ schema          2, as decimal text
//	├─ epoch           how often it was opened after a stop that was not clean, likewise
//	└─ stopped         when it was closed cleanly; absent while it is open
//	blobs
//	└─ <digest>        JSON: size in bytes, media type, when sealed, when last used,
//	                   when last proven and in which epoch
//	refs
//	└─ <parent> \0 <child>   empty; parent names child
//	referrers
//	└─ <child> \0 <parent>   empty; the same edges, to be followed from their ends
//	roots
//	└─ <name>          <digest> that is kept, with all it refers to
//	lost
//	└─ <digest>        JSON of a Loss: rotten or gone, and not here again
//
// # What is lost is learned again
//
// The blobs are the truth, and everything else can be found again from what
// lies beside them. An index that is damaged is set aside (layerstore.db.damaged-<unix
// time>, the newest two are kept) and made anew: every file is hashed and gets
// its row, Options.Describe tells what small ones are and refer to, and
// index.json tells the roots ([RootAnnotation]). Only times of use are
// lost, for which the file's own time stands. A file that was not yet given its row
// when the process was killed is taken in likewise. An index of a later version
// is refused, and never taken for damaged.
//
// A file under blobs/ was proven before it got its name, so files lead and
// rows follow: at Open a file without a row is hashed and gets one, a row
// without a file goes, and the loss is recorded.
//
// # Locks
//
// Store.mu guards the table of flights, flight.mu one flight. Where both are
// held, Store.mu was taken first. No file operation happens under either. Blobs
// get and lose their final names in one goroutine, the committer's: no removal
// meets a blob that is half sealed. inUse.mu, which counts readers and leases, is
// held alone.
package layerstore
