// Package forms keeps unpacked layers: which ones are here, who uses them, how
// they are made and when they go. It knows neither images in registries nor
// containerd: a [Layer] is a diff ID, and where its compressed bytes come from.
//
// # The life of a form
//
// A form that nobody has is made by one making, however many ask: the compressed
// bytes are read straight from their flight, decompressed, hashed for the diff ID
// and unpacked in one pass. Most layers are made alone, side by side, and found by
// their diff IDs. A layer that can only be told on top of those below it (a hard
// link into one of them; a folder that is only implied) says so, which is
// remembered; it is made once their forms are here, and found by its chain ID.
//
// What does not hash to the diff ID, is no sound layer or passes a limit is
// refused, and for ten minutes not tried again with the same blob; nothing of it
// is kept. A blob that breaks is tried once more. A making belongs to nobody who asked: it
// goes on for a while when all have left, and to its end when [Forms.Ahead] asked.
// Any failure is a miss, counted by reason and told once; who asked pulls as if
// there were no cache.
//
// A form is usable as soon as it is in its place, and sealed a moment later: synced
// in the background, all folders by one sync of the file system. Until then its
// row counts in this boot of the machine only. What was not sealed when the power
// went, has vanished, or was found rotten by [Forms.Scrub] is made again, under
// its number, before it is lent: snapshots stay valid. Containers that run on a
// form meanwhile keep what they have: a folder that was displaced stays in
// replaced/ as long as they do, a file as long as it is mounted.
//
// # What goes and what stays
//
// [Forms.Hold] keeps a form; holds are in memory, and the next process is told them by
// [Forms.Rehold], before which nothing is removed. The store takes forms with their
// blobs, or, of a blob that is not kept because its form is ([Forms.Stands]), with the
// last image that names it, through layerstore.Derived. A form leaves by a deleted row and a rename
// into dropped/; who asks for it meanwhile waits for the rename. What is in dropped/
// is deleted in the background, by one goroutine and with idle priority, unless
// the store waits for the space.
//
// # Kinds
//
// A form is a directory, which is itself the lower folder that overlay gets, or an
// EROFS file, mounted once when it is first lent and unmounted when nobody
// holds it any more. Both can be in one place: the setting is for new ones. Where an
// EROFS file cannot hold a layer it is kept as a directory; where EROFS cannot be
// mounted any more its forms are made again as directories.
//
// # On disk
//
//	layers/f<number>          the lower folder of a form: itself, or where its file is mounted
//	erofs/<algorithm>/<xx>/<hex>.erofs          by diff ID, as containerd's layer_content_caches read them
//	erofs/chains/<algorithm>/<xx>/<hex>.erofs   by chain ID
//	making/                   what is being made
//	replaced/f<number>.<boot>.<time>   folders made anew while containers ran on them
//	dropped/                  what is to be deleted
//	rows/f<number>.json       a second copy of each row, not synced
//	forms.db                  the index
//
// Other names in layers/ are those of snapshots, and not touched.
//
// # The index
//
// forms.db is a bbolt file:
//
//	meta
//	└─ schema       1, as decimal text
//	forms
//	└─ <number>     JSON of a row: key, diff ID, kind, size, blobs, boot, when sealed, why bad,
//	                digest of the whole form, when that was last found right, when used
//	parented
//	└─ <diff ID>    empty; this layer needs those below it
//
// Files lead and rows follow: a folder without a row goes, one whose row was lost
// with a damaged index is learned again from rows/.
//
// # Locks
//
// Forms.mu guards all tables; no file operation happens under it. form.place is
// held over the operations that put a form in its place, mount it or take it
// away, and is taken before Forms.mu. Rows are read under Forms.mu within the transaction
// that writes them, so that the last one that is written is the newest.
package forms
