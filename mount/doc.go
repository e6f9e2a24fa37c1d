// Package mount gives root filesystems out of cached layers: to containerd as
// a snapshotter, and to people without any containerd.
//
// # Words
//
// A snapshot is a tree that containerd knows by a key while it is active or a
// view, and by a name once it is committed; each but the first of a chain has a
// parent. A form is an unpacked layer that package forms made and keeps. A
// lower is a folder that overlayfs reads one layer from.
//
// # The life of a snapshot
//
// Prepare makes a folder to write into, then a row; Commit turns the row's key
// into a name; Remove takes the row away, and the folder goes later. This is
// what containerd's own overlayfs snapshotter does, and the mounts are the same.
//
// A Prepare that names, by the label containerd.io/snapshot.ref, the chain ID
// that containerd is about to download and unpack, is answered in another way
// when that chain ID is one of an image that went through the mirror: the form
// of its last layer is made, or waited for, and a snapshot of that form is
// committed. ErrAlreadyExists tells containerd that it has nothing to do for
// this layer. Whatever is in the way of it is no error: it is counted, and
// Prepare goes on in the ordinary way.
//
// # On disk
//
//	snapshots.db            rows, as containerd's core/snapshots/storage draws them
//	layers/s<number>/fs     what an ordinary snapshot holds
//	layers/s<number>/work   overlayfs's own, of active ones
//	layers/f<id>            lowers of forms, which package forms owns
//	removed/                folders whose snapshot went, until they are deleted
//	rescued/<time>/         folders whose rows went with a damaged database, until somebody deletes them
//	rootfs/<hash>/          a root filesystem for people: rootfs.json, fs, work
//
// All lowers stand in one folder, because containerd shortens the options of a
// mount by what lowers have in common, and the kernel takes 4 KB of them.
//
// A row names its folder, or the id of its form, by a label that callers
// neither see nor change. The folder is there before the row and is taken away
// after it, so a folder that no row names is what a kill left, and start sweeps
// it; but where the database itself was lost, folders are kept aside, because
// containers may be running on them. A row whose folder is not there tells of a disk that lost it: one that
// came from an image is made again, as a form, before it is mounted, and any other
// is refused with what to do about it. Nothing that is damaged keeps the daemon
// from starting.
//
// Which forms are in use is told to package forms at start, from the rows.
// Closing the snapshotter unmounts nothing and deletes nothing: containers run
// on without it.
//
// # What it is not responsible for
//
// It unpacks nothing and fetches nothing itself. It changes the owners of no
// files: it does not offer containerd's capability remap-ids, and containerd
// then makes a copy with other owners itself. The capability rebase must not be
// configured for it: with that and ErrAlreadyExists containerd would start
// containers that have their last layer only.
//
// One containerd owns the snapshots: it removes those that it does not know.
// Root filesystems for people are not among them, so it leaves those alone.
package mount
