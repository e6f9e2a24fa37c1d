// Package layertree reads a layer's tar stream into the tree it describes, and
// makes a folder of such a tree.
//
// # One meaning
//
// What a layer means is decided here once, for every form that is made of it.
// The tree equals what containerd's overlayfs snapshotter has in its upper
// folder after its own unpacker (containerd v2.4.2, pkg/archive.Apply with
// OverlayConvertWhiteout and WithParents): whiteouts are character devices 0:0,
// opaque folders carry trusted.overlay.opaque, a name that comes twice is what
// it was last, and so on. Where containerd refuses a layer, Read refuses it;
// where Read refuses what containerd takes (POSIX access lists; paths near the
// kernel's limit; links whose meaning depends on the host's files), the caller
// lets containerd unpack. It never makes something else.
//
// One thing goes further: a hard link to a file that only a layer below has.
// containerd's overlay unpacker refuses it. Read copies the file up, as the
// kernel would in a mounted overlay.
//
// Two times differ on purpose: a folder that is only implied, and whiteouts,
// have the time of unpacking with containerd. Here the first has the time of
// the folder below or of the epoch, the second that of the epoch, so that a
// layer always gives the same tree.
//
// # Nothing escapes
//
// Paths are resolved in the tree in memory, never by the kernel, so a layer
// cannot reach outside of it: names that climb end at the layer's root, as
// with containerd. Bytes of files go to a [Sink] as they come; only names,
// link targets, attributes are kept, and [Limits] bound those, the number of
// entries and the bytes of content. A [Directory] is such a Sink: it stages the
// bytes in one flat folder and moves them to their places through directory
// descriptors, never following a link.
//
// # What a layer may need of those below
//
// An implied folder has the attributes of the folder below, and a hard link
// may name a file below. [Parents] answers both. Without it Read says with a
// [NeedsParentError] that it cannot tell, so that most layers are unpacked side by
// side, and the few others on top of their parents.
package layertree
