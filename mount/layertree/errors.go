package layertree

import "fmt"

// LimitError says that a layer has more of something than is allowed.
type LimitError struct {
	What  string // "bytes of content", for example
	Limit int64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("the layer has more than %d %s, and no more than that is unpacked", e.Limit, e.What)
}

// RefusedError says that a layer is not taken for what it holds: it is broken,
// contradicts itself, or holds what only containerd's own unpacker makes.
// Trying again gives the same.
type RefusedError struct {
	Name   string // of the entry, as the tar has it; "" for the stream as a whole
	Reason string
	Err    error // what was found, if there is more to say; may be nil
}

func (e *RefusedError) Error() string {
	text := "layer refused: "
	if e.Name != "" {
		text += fmt.Sprintf("%q: ", shortened(e.Name))
	}
	text += e.Reason
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *RefusedError) Unwrap() error { return e.Err }

// NeedsParentError says that only with the layers below can be told what a
// layer holds. Read it again, with Parents.
type NeedsParentError struct {
	Name   string // of the entry, as the tar has it
	Reason string
}

func (e *NeedsParentError) Error() string {
	return fmt.Sprintf("%q needs the layers below: %s", shortened(e.Name), e.Reason)
}

// shortened keeps a hostile name from filling a log.
func shortened(name string) string {
	const most = 200 // bytes: enough to find the entry
	if len(name) > most {
		return name[:most] + "…"
	}
	return name
}
