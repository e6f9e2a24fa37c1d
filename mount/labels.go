package mount

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// Labels of ours say where a snapshot's bytes are. Callers neither see nor
// change them: containerd replaces all labels of a snapshot when it updates one.
const (
	ownLabels   = "imagecache/"
	labelFolder = ownLabels + "folder" // name of a folder in layers
	labelForm   = ownLabels + "form"   // id of a form
)

// row is a snapshot as it is stored.
type row struct{ snapshots.Info }

// folder is the name of the folder that holds an ordinary snapshot, or "".
func (r row) folder() string { return r.Labels[labelFolder] }

// form is the id of the form that a snapshot is.
func (r row) form() (id uint64, ok bool) {
	id, err := strconv.ParseUint(r.Labels[labelForm], 10, 64)
	return id, err == nil
}

// public is what callers see.
func (r row) public() snapshots.Info {
	info := r.Info
	info.Labels = foreignLabels(info.Labels)
	return info
}

// foreignLabels are those that are not ours; nil where there are none, as storage
// has it.
func foreignLabels(labels map[string]string) map[string]string {
	foreign := maps.Clone(labels)
	maps.DeleteFunc(foreign, func(name, _ string) bool { return strings.HasPrefix(name, ownLabels) })
	if len(foreign) == 0 {
		return nil
	}
	return foreign
}

// kept are the labels that no update takes away: ours, and the one by which
// containerd finds a form again.
func (r row) kept() map[string]string {
	kept := maps.Clone(r.Labels)
	_, isForm := r.form()
	maps.DeleteFunc(kept, func(name, _ string) bool {
		return !strings.HasPrefix(name, ownLabels) && (!isForm || name != snapshots.LabelSnapshotRef)
	})
	return kept
}

// asked applies a caller's options, without the labels that are ours alone.
func asked(opts []snapshots.Opt) (snapshots.Info, error) {
	var info snapshots.Info
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return info, err
		}
	}
	info.Labels = foreignLabels(info.Labels)
	return info, nil
}

// with makes options of what was asked and of labels of ours.
func with(info snapshots.Info, own map[string]string) []snapshots.Opt {
	labels := maps.Clone(info.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, own)
	return []snapshots.Opt{snapshots.WithLabels(labels), snapshots.WithParent(info.Parent)}
}

// relabelled is what to store when a caller updates the fields of a row at
// paths; no paths are all of its labels.
func (r row) relabelled(info snapshots.Info, paths []string) (snapshots.Info, error) {
	kept := r.kept()
	for _, path := range paths {
		name, isLabel := strings.CutPrefix(path, "labels.")
		if !isLabel {
			continue
		}
		if strings.HasPrefix(name, ownLabels) {
			return info, fmt.Errorf("label %q is imagecache's own: %w", name, errdefs.ErrInvalidArgument)
		}
		if value, ok := kept[name]; ok && info.Labels[name] != value {
			return info, fmt.Errorf("label %q says which layer this snapshot is: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	labels := foreignLabels(info.Labels)
	if len(paths) == 0 || slices.Contains(paths, "labels") {
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, kept)
	}
	info.Labels = labels
	return info, nil
}
