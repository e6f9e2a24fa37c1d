package mount

import (
	"context"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
)

// row reads one snapshot.
func (s *Snapshotter) row(ctx context.Context, key string) (r row, err error) {
	err = s.read(ctx, func(ctx context.Context) (err error) {
		_, r.Info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	return r, err
}

// find reads the snapshots that match.
func (s *Snapshotter) find(ctx context.Context, filters ...string) (found []row, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		return storage.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
			found = append(found, row{info})
			return nil
		}, filters...)
	})
	return found, err
}

// lineage reads a snapshot and all below it, the topmost first; "" has none.
func (s *Snapshotter) lineage(ctx context.Context, name string) (all []row, err error) {
	if name == "" {
		return nil, nil
	}
	err = s.read(ctx, func(ctx context.Context) error {
		for ; name != ""; name = all[len(all)-1].Parent {
			_, info, _, err := storage.GetInfo(ctx, name)
			if err != nil {
				return err
			}
			all = append(all, row{info})
		}
		return nil
	})
	return all, err
}
