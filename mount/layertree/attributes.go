package layertree

import (
	"archive/tar"
	"encoding/binary"
	"math"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// setAttributes gives an inode the owner, extended attributes, permissions and
// time of an entry, with the effects that containerd's calls have on each other:
// chown, setxattr, chmod, utimensat. For a hard link the inode has attributes
// already, and keeps those extended ones that the entry does not name.
func setAttributes(n *Node, h *tar.Header) error {
	setOwner(n, h)
	if err := setXattrs(n, h); err != nil {
		return err
	}
	if n.Type() != unix.S_IFLNK {
		n.Mode = n.Type() | uint32(h.Mode&0o7777)
	}
	n.ModTime = boundTime(h.ModTime)
	return nil
}

// setOwner is chown: the kernel takes 32 bits, leaves what all ones name as it
// is, and takes the capabilities from what is no folder.
func setOwner(n *Node, h *tar.Header) {
	if uid := uint32(h.Uid); uid != math.MaxUint32 {
		n.UID = uid
	}
	if gid := uint32(h.Gid); gid != math.MaxUint32 {
		n.GID = gid
	}
	if !n.isFolder() {
		n.removeXattr(capability)
	}
}

const (
	capability = "security.capability"
	userPrefix = "user."
)

// Limits of Linux for one extended attribute, in bytes.
const (
	maxXattrName  = 255
	maxXattrValue = 64 << 10
)

// xattrName is the attribute that a PAX record holds.
func xattrName(record string) (string, bool) { return strings.CutPrefix(record, "SCHILY.xattr.") }

func setXattrs(n *Node, h *tar.Header) error {
	for record, value := range h.PAXRecords {
		name, is := xattrName(record)
		if !is || strings.HasPrefix(name, "trusted.") {
			continue // containerd sets none of the administrator's
		}
		if reason := unfit(name, value); reason != "" {
			return refuse(h, reason)
		}
		if acl(name) {
			return refuse(h, "access lists ("+name+") are left to containerd's own unpacker")
		}
		if !kept(n, name) {
			continue
		}
		if name == userPrefix {
			return refuse(h, "an extended attribute has no name")
		}
		n.setXattr(name, value)
	}
	return nil
}

// unfit says why the kernel would not take an attribute, where that makes
// containerd give up.
func unfit(name, value string) string {
	switch {
	case len(name) == 0 || len(name) > maxXattrName || len(value) > maxXattrValue:
		return "an extended attribute has no name, or is too long"
	case name == "security.":
		return "an extended attribute has no name"
	case name == capability && !validCapability(value):
		return "its " + capability + " is not valid"
	}
	return ""
}

// kept tells whether the attribute lands on the file: the kernel has user.*
// only on files and folders, and the other name spaces that there are not at
// all; containerd goes on in both cases.
func kept(n *Node, name string) bool {
	if strings.HasPrefix(name, userPrefix) {
		return n.Type() == unix.S_IFREG || n.isFolder()
	}
	return strings.HasPrefix(name, "security.")
}

func acl(name string) bool {
	return name == "system.posix_acl_access" || name == "system.posix_acl_default"
}

// validCapability knows the two formats of struct vfs_cap_data that the kernel
// lets be set (linux/capability.h). An empty value is set as it is.
func validCapability(value string) bool {
	const effective = 1
	const revision2, revision3 = 0x02000000, 0x03000000
	if value == "" {
		return true
	}
	if len(value) != 20 && len(value) != 24 {
		return false
	}
	switch magic := binary.LittleEndian.Uint32([]byte(value)) &^ effective; magic {
	case revision2:
		return len(value) == 20
	case revision3:
		return len(value) == 24 && binary.LittleEndian.Uint32([]byte(value[20:])) != math.MaxUint32
	}
	return false
}

var lastTime = time.Unix(0, math.MaxInt64)

// boundTime is a time as containerd sets it: what it cannot count in
// nanoseconds since 1970 becomes 1970.
func boundTime(t time.Time) time.Time {
	if t.Before(epoch) || t.After(lastTime) {
		return epoch
	}
	return time.Unix(0, t.UnixNano()).UTC()
}
