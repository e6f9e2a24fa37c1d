package erofs

import (
	"encoding/binary"
	"slices"
)

// withDots adds "." and ".." where they belong: entries are found by binary
// search over all of them, in the order of their bytes, and "-" comes before ".".
func withDots(names []string) []string {
	all := append(make([]string, 0, len(names)+2), ".", "..")
	all = append(all, names...)
	slices.Sort(all)
	return all
}

// firstBlock tells how many of the names fit into one block, and how many bytes
// they take: 12 for each entry, then the names one after the other.
func firstBlock(names []string) (count int, size int64) {
	for _, name := range names {
		more := int64(direntSize + len(name))
		if size+more > blockSize {
			break
		}
		size += more
		count++
	}
	return count, size
}

// folderSize is how long a folder with these names is, in bytes: whole blocks,
// and what the last one holds.
func folderSize(names []string) int64 {
	size := int64(0)
	for rest := withDots(names); len(rest) > 0; {
		count, last := firstBlock(rest)
		rest = rest[count:]
		size = roundUp(size, blockSize) + last
	}
	return size
}

// folderBytes gives the entries of a folder as they are on disk.
func (p *plan) folderBytes(i int) []byte {
	var b []byte
	for rest := withDots(p.inodes[i].names); len(rest) > 0; {
		b = append(b, make([]byte, roundUp(int64(len(b)), blockSize)-int64(len(b)))...)
		count, _ := firstBlock(rest)
		b = p.appendNames(b, i, rest[:count])
		rest = rest[count:]
	}
	return b
}

// appendNames appends one block of a folder.
func (p *plan) appendNames(b []byte, folder int, names []string) []byte {
	at := direntSize * len(names)
	for _, name := range names {
		to := p.named(folder, name)
		b = binary.LittleEndian.AppendUint64(b, uint64(p.number(to)))
		b = binary.LittleEndian.AppendUint16(b, uint16(at))
		b = append(b, fileType(p.inodes[to].node.Mode), 0)
		at += len(name)
	}
	for _, name := range names {
		b = append(b, name...)
	}
	return b
}

// named is the inode that a name in a folder leads to.
func (p *plan) named(folder int, name string) int {
	switch name {
	case ".":
		return folder
	case "..":
		return p.inodes[folder].parent
	}
	return p.index[p.inodes[folder].node.Children[name]]
}
