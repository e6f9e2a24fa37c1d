package registry

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// lockVersion is the version of the lockfile's form.
const lockVersion = 1

// Lock is a list of pins as a lockfile has it: TOML, to be kept beside what is
// deployed and reviewed like it.
type Lock struct {
	Pins []LockedPin `json:"pins"`
}

// LockedPin is a pin of a lockfile.
type LockedPin struct {
	Reference string   `json:"reference"`
	Digest    string   `json:"digest"`
	Platforms []string `json:"platforms"` // none: those that a pin without any would have
}

// LockfileStatus tells how it goes with a lockfile that is followed.
type LockfileStatus struct {
	Path      string    `json:"path"`
	AppliedAt time.Time `json:"applied_at,omitzero"` // what it says was last made so
	Pins      int       `json:"pins"`                // it had then
	Differ    int       `json:"differ,omitempty"`    // pins that are not as it said then, or are too many
	Error     string    `json:"error,omitempty"`     // why what it says now is not made so
	ErrorAt   time.Time `json:"error_at,omitzero"`
}

// LockError is what is wrong in a lockfile.
type LockError struct {
	Line    int // from 1; 0: the file as a whole
	Message string
}

func (e *LockError) Error() string {
	if e.Line == 0 {
		return e.Message
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Message)
}

// Format writes a lockfile. The same pins give the same bytes.
func (l Lock) Format() []byte {
	var b strings.Builder
	b.WriteString("# Pins of imagecache: \"imagecache pins export\" writes them, \"imagecache pins apply FILE\" makes them so.\n")
	fmt.Fprintf(&b, "version = %d\n", lockVersion)
	pins := slices.SortedFunc(slices.Values(l.Pins), func(a, b LockedPin) int { return strings.Compare(a.Reference, b.Reference) })
	for _, p := range pins {
		var platforms []string
		for _, name := range p.Platforms {
			platforms = append(platforms, strconv.Quote(name))
		}
		fmt.Fprintf(&b, "\n[[pin]]\nreference = %q\ndigest = %q\nplatforms = [%s]\n", p.Reference, p.Digest, strings.Join(platforms, ", "))
	}
	return []byte(b.String())
}

// ParseLock reads a lockfile strictly: an unknown key, a pin without its
// digest, the same reference twice are errors, and so is an empty file, which
// would otherwise take all pins away. Errors are *[LockError].
func ParseLock(content []byte) (Lock, error) {
	var checked map[string]any // syntax, and keys that stand twice
	if err := toml.Unmarshal(content, &checked); err != nil {
		if syntax := (*toml.DecodeError)(nil); errors.As(err, &syntax) {
			line, _ := syntax.Position()
			return Lock{}, &LockError{line, strings.TrimPrefix(syntax.Error(), "toml: ")}
		}
		return Lock{}, &LockError{0, err.Error()}
	}
	p := lockParser{seen: map[string]int{}}
	if err := p.parse(content); err != nil {
		return Lock{}, err
	}
	return p.lock, nil
}

// lockParser goes over a document that is TOML, to know the lines.
type lockParser struct {
	lock    Lock
	version bool
	inPin   bool
	lines   []int          // of each pin
	seen    map[string]int // line of each reference
}

func (p *lockParser) parse(content []byte) error {
	document := unstable.Parser{}
	document.Reset(content)
	for document.NextExpression() {
		node := document.Expression()
		line, key := 0, ""
		for it := node.Key(); it.Next(); {
			if line == 0 {
				line = document.Shape(it.Node().Raw).Start.Line
				key = string(it.Node().Data)
				continue
			}
			key += "." + string(it.Node().Data)
		}
		if err := p.expression(node, line, key); err != nil {
			return err
		}
	}
	if err := document.Error(); err != nil {
		return &LockError{0, err.Error()}
	}
	if !p.version {
		return &LockError{0, fmt.Sprintf("it has no version = %d, so it is not a lockfile, or not all of one", lockVersion)}
	}
	for i := range p.lock.Pins {
		if err := p.check(&p.lock.Pins[i], p.lines[i]); err != nil {
			return err
		}
	}
	return nil
}

func (p *lockParser) expression(node *unstable.Node, line int, key string) error {
	switch {
	case node.Kind == unstable.Comment:
		return nil
	case node.Kind == unstable.ArrayTable && key == "pin":
		p.inPin = true
		p.lock.Pins = append(p.lock.Pins, LockedPin{})
		p.lines = append(p.lines, line)
		return nil
	case node.Kind == unstable.KeyValue && p.inPin:
		return p.field(&p.lock.Pins[len(p.lock.Pins)-1], node.Value(), line, key)
	case node.Kind == unstable.KeyValue && key == "version":
		if node.Value().Kind != unstable.Integer || string(node.Value().Data) != strconv.Itoa(lockVersion) {
			return &LockError{line, fmt.Sprintf("version %s is not known: want %d", node.Value().Data, lockVersion)}
		}
		p.version = true
		return nil
	}
	return &LockError{line, fmt.Sprintf("unknown key %s: want version, and [[pin]] for each pin", key)}
}

func (p *lockParser) field(pin *LockedPin, value *unstable.Node, line int, key string) error {
	switch key {
	case "reference", "digest":
		if value.Kind != unstable.String {
			return &LockError{line, key + ": want a text in quotes"}
		}
		if key == "digest" {
			pin.Digest = string(value.Data)
			return nil
		}
		pin.Reference = string(value.Data)
		return nil
	case "platforms":
		if value.Kind != unstable.Array {
			return &LockError{line, `platforms: want a list of texts, as in ["linux/amd64"]`}
		}
		for it := value.Children(); it.Next(); {
			if it.Node().Kind == unstable.Comment {
				continue
			}
			if it.Node().Kind != unstable.String {
				return &LockError{line, `platforms: want a list of texts, as in ["linux/amd64"]`}
			}
			pin.Platforms = append(pin.Platforms, string(it.Node().Data))
		}
		return nil
	}
	return &LockError{line, fmt.Sprintf("unknown key %s: a pin has reference, digest and platforms", key)}
}

// check brings a pin into the one form we keep, and refuses what cannot be.
func (p *lockParser) check(pin *LockedPin, line int) error {
	if err := pin.normalize(); err != nil {
		return &LockError{line, err.Error()}
	}
	if first, twice := p.seen[pin.Reference]; twice {
		return &LockError{line, fmt.Sprintf("%s stands here and at line %d", pin.Reference, first)}
	}
	p.seen[pin.Reference] = line
	return nil
}

func (l *LockedPin) normalize() error {
	if l.Reference == "" || l.Digest == "" {
		return errors.New("a pin needs a reference and a digest")
	}
	ref, err := ParseReference(l.Reference)
	if err != nil {
		return err
	}
	d, err := ParseDigest(l.Digest)
	if err != nil {
		return err
	}
	if ref.Digest != "" && ref.Digest != d {
		return fmt.Errorf("%s names another digest than %s", l.Reference, d)
	}
	if l.Platforms, err = checkGiven(l.Platforms); err != nil {
		return err
	}
	l.Reference = ref.named().String()
	return nil
}

// checkGiven is CheckPlatforms for a list that may be empty and stay so.
func checkGiven(given []string) ([]string, error) {
	if len(given) == 0 {
		return nil, nil
	}
	return CheckPlatforms(given)
}

// reference is the pin's reference at its digest.
func (l LockedPin) reference() (Reference, error) {
	ref, err := ParseReference(l.Reference)
	ref.Digest = digest.Digest(l.Digest)
	return ref, err
}

// Lock is what is pinned now.
func (r *Registry) Lock() Lock {
	lock := Lock{Pins: []LockedPin{}}
	for key, row := range r.pinRows() {
		lock.Pins = append(lock.Pins, LockedPin{Reference: key, Digest: row.Digest.String(), Platforms: row.Platforms})
	}
	slices.SortFunc(lock.Pins, func(a, b LockedPin) int { return strings.Compare(a.Reference, b.Reference) })
	return lock
}
