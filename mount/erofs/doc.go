// Package erofs writes the tree of a layer as one EROFS file, finds out how this
// kernel can mount such files, and mounts them.
//
// # The file
//
// Written front to back, while the layer arrives:
//
//	block 0     superblock at byte 1024, its checksum over the rest of the block;
//	            written last, so that a file that is not finished is no EROFS
//	data        regular files, each at the start of a block; runs of zeros left out
//	metadata    inodes, each followed by its extended attributes and by what is
//	            short enough to stand there: the tail of a file, the target of a
//	            symbolic link, the last names of a folder, the map of a sparse file
//	names       the blocks of folders, and of long link targets
//
// Blocks have 4096 bytes. Nothing is compressed, see docs/decisions. Every kernel
// from 5.15 on mounts the file; a name in it is at most 255 bytes long, an
// attribute's value at most 65,535.
//
// The same tree, read from the same tar, gives the same bytes: names are sorted,
// the volume's UUID is a hash of what is in it, and no clock is read.
//
// # Mounting
//
// From Linux 6.12 on a kernel can mount the file as it is; else, and where such a
// mount counts as a level of stacked filesystems so that an overlay on an overlay
// fails, it goes through a loop device. [Probe] finds out which, by doing it.
//
// The package does not know which layers there are, where files are kept, nor
// when they go: that is the affair of mount/forms.
package erofs
