package access

import (
	"io/fs"
	"syscall"
	"time"
)

// stamp tells one version of a file from another. Time and size do not suffice:
// hashes are equally long, and some systems, and rsync, give files the time that
// they like. When a file's name was given to it nobody can choose.
type stamp struct {
	at      time.Time
	size    int64
	file    uint64
	changed syscall.Timespec
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{at: info.ModTime(), size: info.Size()}
	if is, ok := info.Sys().(*syscall.Stat_t); ok {
		s.file, s.changed = is.Ino, is.Ctim
	}
	return s
}
