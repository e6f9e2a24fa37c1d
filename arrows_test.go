package imagecache_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the path that all our packages begin with.
const module = "github.com/imagecache/imagecache"

// pkg is what go list tells of one of our packages.
type pkg struct {
	ImportPath   string
	Dir          string
	GoFiles      []string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// name is the package's path within the module.
func (p pkg) name() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

// room is the first part of the name: "registry" for registry/registrytest.
func (p pkg) room() string {
	first, _, _ := strings.Cut(p.name(), "/")
	return first
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports,TestImports,XTestImports", "./...").Output()
	if err != nil {
		t.Fatal(err, stderr(err))
	}
	var all []pkg
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func stderr(err error) string {
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return string(exit.Stderr)
	}
	return ""
}

// arrows say which room may import which. Each has its reason.
var arrows = map[string][]string{
	// Bytes by digest: must stay usable, and testable, without any registry.
	"layerstore": {},
	// Knows upstreams and meaning; must not know how it is asked.
	"registry": {"layerstore"},
	// Answers HTTP; asks the registry and passes the store's readers on.
	"api": {"registry", "layerstore"},
	// Root filesystems out of layers: asks for images by an interface of its own,
	// so that it can be tested, and used, without any registry.
	"mount": {"layerstore"},
	// Joins all rooms; nobody imports it.
	"cmd": {"api", "registry", "layerstore", "mount"},
	// Sees the program only from outside, as users do, so that it cannot pass by
	// reaching inside. The upstream that lies is no part of the program.
	"e2e": {"registry/registrytest"},
	// The module's root holds tests like this one.
	"": {},
}

func TestRoomsImportOnlyWhatTheyMay(t *testing.T) {
	for _, p := range packages(t) {
		allowed, known := arrows[p.room()]
		if !known {
			t.Errorf("%s is no room of ours: say in arrows what it may import, and why", p.name())
			continue
		}
		imports := slices.Concat(p.Imports, p.TestImports, p.XTestImports)
		for _, path := range slices.Compact(slices.Sorted(slices.Values(imports))) {
			to, ours := strings.CutPrefix(path, module+"/")
			if !ours || to == p.name() || permits(p.room(), allowed, to) {
				continue
			}
			t.Errorf("%s imports %s: %s may import %v", p.name(), to, p.room(), allowed)
		}
	}
}

// permits tells whether a room may import the package to: one of its own, or
// of a room that it may import. e2e names a package instead of a room.
func permits(room string, allowed []string, to string) bool {
	for _, a := range append([]string{room}, allowed...) {
		if a != "" && (to == a || strings.HasPrefix(to, a+"/")) {
			return true
		}
	}
	return false
}

// TestTestHelpersStayOutOfTheProgram keeps the lying upstream, and the testing
// package that it drags along, out of what users run.
func TestTestHelpersStayOutOfTheProgram(t *testing.T) {
	for _, p := range packages(t) {
		if strings.HasSuffix(p.name(), "test") || p.room() == "e2e" {
			continue
		}
		for _, path := range p.Imports {
			if path == "testing" || strings.HasPrefix(path, module) && strings.HasSuffix(path, "test") {
				t.Errorf("%s imports %s outside of its tests", p.name(), path)
			}
		}
	}
}

// foreign are packages that one room, or one package of it, keeps to itself:
// mostly those of others.
var foreign = []struct{ prefix, room, reason string }{
	{"github.com/google/go-containerregistry", "registry", "its types are the registry's affair; the others speak go-digest and image-spec"},
	{"go.etcd.io/bbolt", "layerstore registry mount", "state belongs to the rooms that own it"},
	{"github.com/go-chi/chi", "api", "nobody else serves HTTP"},
	{"github.com/prometheus/", "api", "the others count, and api shows"},
	{"github.com/spf13/", "cmd", "only the command reads flags"},
	{"github.com/pelletier/go-toml", "cmd registry", "settings are the command's, lockfiles of pins the registry's"},
	{"flag", "cmd", "only the command reads flags"},
	{"github.com/containerd/containerd/v2/core/content", "layerstore/contentstore", "the store itself stays free of containerd's types; one package speaks them"},
	{"github.com/containerd/errdefs", "layerstore/contentstore mount", "containerd's errors are for those who ask as containerd does"},
	{"github.com/containerd/containerd/v2/core/snapshots", "mount", "nobody else speaks to containerd's snapshot service"},
	{"google.golang.org/grpc", "mount", "nobody else serves gRPC"},
	{module + "/layerstore/contentstore", "", "it drags containerd's types along, for which the daemon has no use yet"},
}

func TestForeignPackagesStayInTheirRoom(t *testing.T) {
	for _, p := range packages(t) {
		for _, f := range foreign {
			rooms := strings.Fields(f.room)
			if p.room() == "e2e" || slices.Contains(rooms, p.room()) || slices.Contains(rooms, p.name()) {
				continue
			}
			for _, path := range p.Imports {
				if path == f.prefix || strings.HasPrefix(path, f.prefix) && f.prefix != "flag" {
					t.Errorf("%s imports %s, which belongs to %s: %s", p.name(), path, f.room, f.reason)
				}
			}
		}
	}
}

// kept are names of the standard library that some rooms keep to themselves.
var kept = []struct{ pkg, prefix, rooms, reason string }{
	{"net/http", "ResponseWriter", "api", "nobody else answers HTTP"},
	{"net/http", "Status", "api registry cmd", "only api answers with a status; the registry and the command read those they are answered"},
	{"os", "Getenv", "cmd", "settings reach the others by Options"},
	{"os", "LookupEnv", "cmd", "settings reach the others by Options"},
	{"os", "Environ", "cmd", "settings reach the others by Options"},
	{"os", "Args", "cmd", "settings reach the others by Options"},
	{"os", "Exit", "cmd", "only the command ends the process"},
}

func TestNamesStayInTheirRoom(t *testing.T) {
	for _, p := range packages(t) {
		if p.room() == "e2e" || strings.HasSuffix(p.name(), "test") {
			continue
		}
		for _, file := range p.GoFiles {
			checkNames(t, p, filepath.Join(p.Dir, file))
		}
	}
}

func checkNames(t *testing.T, p pkg, file string) {
	t.Helper()
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	imported := importNames(parsed)
	ast.Inspect(parsed, func(n ast.Node) bool {
		selector, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		from, ok := selector.X.(*ast.Ident)
		if !ok {
			return true
		}
		for _, k := range kept {
			if imported[from.Name] == k.pkg && strings.HasPrefix(selector.Sel.Name, k.prefix) && !slices.Contains(strings.Fields(k.rooms), p.room()) {
				t.Errorf("%s uses %s.%s, which belongs to %s: %s", files.Position(n.Pos()), from.Name, selector.Sel.Name, k.rooms, k.reason)
			}
		}
		return true
	})
}

// importNames maps the names under which a file knows the standard library.
func importNames(file *ast.File) map[string]string {
	names := map[string]string{}
	for _, i := range file.Imports {
		path, _ := strconv.Unquote(i.Path.Value)
		name := path[strings.LastIndexByte(path, '/')+1:]
		if i.Name != nil {
			name = i.Name.Name
		}
		names[name] = path
	}
	return names
}

// TestOneFileHoldsTheStatuses: within api, errors.go alone turns an error into
// a status. What the other files may name are successes, and what net/http
// itself answered.
func TestOneFileHoldsTheStatuses(t *testing.T) {
	allowed := []string{"StatusOK", "StatusCreated", "StatusAccepted", "StatusNoContent", "StatusRequestedRangeNotSatisfiable", "StatusInternalServerError"}
	files, err := filepath.Glob("api/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") || filepath.Base(file) == "errors.go" {
			continue
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && strings.HasPrefix(s.Sel.Name, "Status") && len(s.Sel.Name) > len("Status") {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "http" && !slices.Contains(allowed, s.Sel.Name) {
					t.Errorf("%s names %s", set.Position(n.Pos()), s.Sel.Name)
				}
			}
			return true
		})
	}
}
