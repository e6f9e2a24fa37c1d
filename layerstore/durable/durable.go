// Package durable makes names survive a power cut.
package durable

import "os"

// SyncFolder returns when the names in a folder would survive a power cut: those
// that were given, moved or removed before it was called.
func SyncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
