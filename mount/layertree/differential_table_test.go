package layertree_test

import (
	"archive/tar"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// capabilityValue is cap_net_raw=ep, revision 2.
const capabilityValue = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// base is a layer for others to stand on.
func base() []entry {
	return []entry{
		folder("etc"), file("etc/passwd", "root"), file("etc/group", "root"),
		folder("odd", mode(0o2710), owner(7, 8), xattr("user.kind", "odd")), file("odd/file", "1"),
		folder("usr"), folder("usr/lib", mode(0o711), owner(3, 4)), file("usr/lib/libc", "libc"),
		symlink("lib", "usr/lib"), symlink("abs", "/usr/lib"), symlink("loop", "loop"),
		folder("var"), folder("var/log"), file("var/log/one", "1"), file("var/log/two", "2"), folder("var/log/sub"), file("var/log/sub/three", "3"),
		file("plain", "a file"), hardlink("second", "plain"),
	}
}

func chain(layers ...[]entry) [][]entry { return layers }

// differentialCases are chains that both ways must unpack to the same.
var differentialCases = map[string][][]entry{
	"kinds of files": chain([]entry{
		folder("d", mode(0o700)), file("d/f", "content", mode(0o600)), empty("d/empty"), symlink("d/s", "f"), symlink("dangling", "../../nowhere"),
		newEntry(tar.TypeChar, "null", 0o666, []change{numbers(1, 3)}),
		newEntry(tar.TypeBlock, "disk", 0o660, []change{numbers(8, 17), owner(0, 6)}),
		newEntry(tar.TypeChar, "high", 0o600, []change{numbers(259, 700_000)}),
		newEntry(tar.TypeFifo, "pipe", 0o640, nil),
		newEntry(tar.TypeChar, "whiteout as a device", 0, nil),
		file("large", strings.Repeat("0123456789abcdef", 40_000)),
	}),
	"whiteouts": chain(base(), []entry{
		folder("etc"), empty("etc/.wh.passwd"), empty(".wh.plain"), folder("var"), empty("var/.wh.log"), empty(".wh.never-was"),
		file("var/.wh.withbody", "ignored", owner(5, 6)), folder("var/.wh.asfolder"),
	}),
	"opaque folders, marker first and last": chain(base(), []entry{
		folder("etc"), empty("etc/.wh..wh..opq"), file("etc/new", "new"),
		folder("var/log"), file("var/log/two", "other"), empty("var/log/.wh..wh..opq"),
	}),
	"opaque marker without a folder's entry": chain(base(), []entry{empty("var/log/.wh..wh..opq")}),
	"opaque root":                            chain(base(), []entry{empty(".wh..wh..opq"), file("only", "x")}),
	"opaque folder given its entry later, and made anew": chain(base(), []entry{
		empty("etc/.wh..wh..opq"), folder("etc", mode(0o711)),
		empty("var/.wh..wh..opq"), file("var", "now a file"), folder("var"), file("var/x", "x"),
	}),
	"whiteout, then the name again": chain(base(), []entry{
		empty(".wh.plain"), file("plain", "new"), empty(".wh.etc"), folder("etc"), file("etc/new", "n"), empty("odd/.wh.file"), symlink("odd/file", "x"),
	}),
	"the name, then its whiteout": chain(base(), []entry{file("plain", "new"), empty(".wh.plain")}),
	"whiteout twice":              chain(base(), []entry{empty(".wh.plain"), empty(".wh.plain")}),
	"whiteout of no name":         chain(base(), []entry{empty(".wh.")}),
	"whiteout of the folder":      chain(base(), []entry{empty("etc/.wh..")}),
	"whiteout of the parent":      chain(base(), []entry{empty("etc/.wh...")}),
	"whiteout of a whiteout's name": chain(base(), []entry{
		empty(".wh..wh.plnk"), empty(".wh..wh.aufs"),
	}),
	"below a whiteout":  chain(base(), []entry{empty(".wh.etc"), file("etc/x", "x")}),
	"linked whiteout":   chain(base(), []entry{empty(".wh.plain"), hardlink("second", "plain")}),
	"file to folder":    chain(base(), []entry{folder("plain"), file("plain/in", "x")}),
	"folder to file":    chain(base(), []entry{file("etc", "x")}),
	"folder to symlink": chain(base(), []entry{symlink("etc", "var"), folder("var"), file("etc/through", "x")}),
	"to and fro in one layer": chain([]entry{
		file("a", "1"), folder("a"), file("a/b", "2"), file("a", "3"), folder("z"), file("z", "x"), folder("z"), folder("z/y"), symlink("z/y", "."), folder("z/y"),
	}),
	"to and fro over layers": chain(
		[]entry{file("a", "1"), folder("b"), file("b/x", "x")},
		[]entry{folder("a"), file("a/x", "x"), file("b", "1")},
		[]entry{file("a", "2"), folder("b"), file("b/y", "y")},
	),
	"folder gone at the end":           chain([]entry{folder("a"), folder("a/b"), file("a", "x")}),
	"folder that became a file":        chain([]entry{folder("a", at(time.Unix(5, 0))), file("a", "x")}),
	"folder that became a link":        chain([]entry{folder("t"), folder("a", at(time.Unix(5, 0))), symlink("a", "t")}),
	"folder that became a broken link": chain([]entry{folder("a"), symlink("a", "nowhere")}),
	"symlinked parents in the layer": chain([]entry{
		folder("real"), folder("real/deep"), symlink("rel", "real"), symlink("absolute", "/real/deep"), symlink("up", "../../../real"), symlink("chain", "rel/deep"),
		file("rel/1", "1"), file("absolute/2", "2"), file("up/3", "3"), file("chain/4", "4"), folder("rel/deep/5"), file("absolute/5/6", "6"),
		symlink("missing", "not/there"), file("missing/7", "7"),
		symlink("real/back", "../real"), file("real/back/back/back/8", "8"),
		folder("b"), folder("b/c"), symlink("y", "b/c"), symlink("x", "y/z"), symlink("b/c/z", "../../real"), file("x/9", "9"),
	}),
	"symlinked parents in the layer below": chain(base(), []entry{file("lib/new", "x"), file("abs/new", "x"), file("usr/lib/other", "y")}),
	"a symlink that loops":                 chain([]entry{symlink("loop", "loop"), file("loop/x", "x")}),
	"a symlink that grows":                 chain([]entry{symlink("a", "a/a"), file("a/x", "x")}),
	"through a file":                       chain([]entry{file("f", "x"), file("f/x", "x")}),
	"through a file, deeper":               chain([]entry{file("f", "x"), file("f/x/y", "x")}),
	"through a host's link":                chain([]entry{symlink("e", "/proc/self"), symlink("l", "e/cwd"), folder("proc"), file("x", "x")}),
	"hard links": chain(base(), []entry{
		file("a", "1"), hardlink("b", "a"), hardlink("c", "./b", mode(0o4755), owner(1, 2), at(time.Unix(77, 7))),
		folder("d"), hardlink("d/e", "/a"), hardlink("d/f", "../../a"), symlink("s", "a"), hardlink("t", "s"), symlink("ds", "d"), hardlink("u", "ds/e"),
		newEntry(tar.TypeFifo, "p", 0o644, nil), hardlink("q", "p"), empty("e0"), hardlink("e1", "e0"),
		newEntry(tar.TypeChar, "dev", 0o600, []change{numbers(1, 5)}), hardlink("dev2", "dev"),
	}),
	"hard link to a folder":      chain([]entry{folder("d"), hardlink("l", "d")}),
	"hard link to the root":      chain([]entry{hardlink("l", "/")}),
	"hard link to itself":        chain([]entry{file("a", "x"), hardlink("a", "a")}),
	"hard link to nothing":       chain([]entry{hardlink("a", "nothing")}),
	"hard link without a target": chain([]entry{hardlink("a", ".")}),
	"hard link, target replaced": chain([]entry{file("a", "1"), hardlink("b", "a"), file("a", "2"), hardlink("c", "a")}),
	"hard link over its file":    chain([]entry{file("a", "1"), file("b", "2"), hardlink("c", "b"), hardlink("b", "a")}),
	"capability lost by a link":  chain([]entry{file("a", "1", xattr("security.capability", capabilityValue)), hardlink("b", "a")}),
	"capability given by a link": chain([]entry{file("a", "1"), hardlink("b", "a", xattr("security.capability", capabilityValue), mode(0o755))}),
	"implied folders": chain(base(), []entry{
		file("odd/other", "x"), file("usr/lib/deep/er/file", "y"), file("nowhere/at/all", "z"), empty("var/.wh.log"),
	}, []entry{file("odd/third", "3"), file("nowhere/at/home", "4"), file("var/log/again", "5")}),
	"implied folder beside one that is below": chain(base(), []entry{file("usr/aaa/f", "x"), file("usr/lib/g", "x"), file("var/aaa/b/f", "x"), file("var/log/g", "x")}),
	"implied folder over a file below":        chain([]entry{file("a", "x")}, []entry{file("a/b", "x")}),
	"implied folders over a file below":       chain([]entry{file("a", "x")}, []entry{file("a/b/c", "x")}),
	"implied folder below an opaque one":      chain(base(), []entry{folder("var"), empty("var/.wh..wh..opq")}, []entry{file("var/log/x", "x")}),
	"implied folder, then its entry":          chain(base(), []entry{file("odd/x", "x"), folder("odd", mode(0o700))}),
	"implied folder below a set-gid one":      chain([]entry{folder("g", mode(0o2775), owner(1, 55)), file("g/a/b", "x"), folder("g/f"), symlink("g/s", "x", owner(-1, -1)), empty("g/.wh.gone", owner(-1, -1))}),
	"set-id, sticky, modes":                   chain([]entry{file("su", "x", mode(0o4755), owner(12, 13)), file("sg", "x", mode(0o2755), owner(12, 13)), folder("t", mode(0o1777)), file("none", "x", mode(0)), folder("dnone", mode(0)), file("dnone/in", "x"), file("more", "x", mode(0o107777))}),
	"owners":                                  chain([]entry{file("big", "x", owner(3_000_000, 3_000_001)), file("biggest", "x", owner(1<<32-2, 1<<32-2)), file("kept", "x", owner(1<<32-1, 1<<32-1)), file("over", "x", owner(1<<32+5, 1<<33+6)), folder("d", owner(3_000_000, 3_000_001)), symlink("s", "x", owner(3_000_000, 9))}),
	"capabilities":                            chain([]entry{file("ping", "x", mode(0o755), owner(4, 5), xattr("security.capability", capabilityValue)), file("su", "x", mode(0o6755), owner(4, 5), xattr("security.capability", capabilityValue)), folder("d", xattr("security.capability", capabilityValue))}),
	"capability, revision 3":                  chain([]entry{file("a", "x", xattr("security.capability", "\x01\x00\x00\x03"+capabilityValue[4:]+"\xe8\x03\x00\x00"))}),
	"capability, broken":                      chain([]entry{file("a", "x", xattr("security.capability", "nonsense"))}),
	"capability, revision 1":                  chain([]entry{file("a", "x", xattr("security.capability", "\x01\x00\x00\x01"+capabilityValue[4:12]))}),
	"xattrs":                                  chain([]entry{file("f", "x", xattr("user.a", "1"), xattr("user.b", "\x00\xff\n="), xattr("trusted.t", "no"), xattr("security.other", "s"), xattr("unknown.x", "y"), xattr("nodot", "y")), folder("d", xattr("user.a", "1"), xattr("trusted.overlay.opaque", "y")), symlink("s", "x", xattr("user.a", "1"), xattr("security.x", "1")), newEntry(tar.TypeFifo, "p", 0o644, []change{xattr("user.a", "1"), xattr("user.", "1")})}),
	"xattr without a name":                    chain([]entry{file("f", "x", xattr("user.", "1"))}),
	"xattr with a long name":                  chain([]entry{file("f", "x", xattr("user."+strings.Repeat("n", 251), "1"))}),
	"xattr with a long value":                 chain([]entry{file("f", "x", xattr("user.v", strings.Repeat("v", 65537)))}),
	"xattrs of a folder that comes twice":     chain([]entry{folder("d", xattr("user.a", "1"), xattr("user.b", "1")), folder("d", xattr("user.b", "2"), mode(0o700), owner(1, 1))}),
	"odd names": chain([]entry{
		folder("new\nline"), file("new\nline/\xff\xfe not utf-8", "x"), file(" leading and trailing ", "x"), file("quote\"'\\", "x"), file("tab\t*?[", "x"),
		file("-rf", "x"), file("a:b,c=d", "x"), file("ünïcödé", "x"), file("...", "x"), file(".hidden", "x"), file(".whatever", "x"), file(strings.Repeat("n", 255), "x"),
	}),
	"name too long":                     chain([]entry{file(strings.Repeat("n", 256), "x")}),
	"whiteout as long as a name may be": chain([]entry{empty(".wh." + strings.Repeat("n", 255))}),
	"names that climb":                  chain([]entry{file("../up", "x"), file("/absolute", "x"), file("a/../../b", "x"), file("../../d/e", "x"), folder(".."), folder("./"), folder("/"), hardlink("l", "../../../up"), symlink("out", "../../../../etc"), file("./dot", "x"), file("d//double", "x")}),
	"through a link out":                chain([]entry{symlink("out", "../../../../../../tmp"), file("out/inside", "x"), symlink("root", "/"), file("root/also", "x"), symlink("dots", ".."), file("dots/dots/third", "x")}),
	"a name twice":                      chain([]entry{file("a", "first", xattr("user.a", "1")), file("a", "second"), symlink("a", "x"), file("a", "third", mode(0o600))}),
	"times": chain([]entry{
		file("old", "x", at(time.Unix(-1_000_000, 5))), file("zero", "x", at(time.Unix(0, 0))), file("nano", "x", at(time.Unix(1, 1))), file("far", "x", at(time.Unix(9_000_000_000, 999_999_999))),
		file("farther", "x", at(time.Unix(20_000_000_000, 0))), folder("d", at(time.Unix(3, 3))), file("d/f", "x"), symlink("s", "x", at(time.Unix(4, 4))), folder("dold", at(time.Unix(-5, 0))),
	}),
	"ustar":               chain([]entry{folder("u", format(tar.FormatUSTAR)), file("u/f", "x", format(tar.FormatUSTAR)), file(strings.Repeat("d/", 70)+"f", "x", format(tar.FormatUSTAR))}),
	"gnu":                 chain([]entry{folder("g", format(tar.FormatGNU)), file("g/"+strings.Repeat("l", 200), "x", format(tar.FormatGNU), owner(3_000_000, 3_000_000)), symlink("g/s", strings.Repeat("t/", 300), format(tar.FormatGNU)), file("g/old", "x", format(tar.FormatGNU), at(time.Unix(-5, 0)))}),
	"empty layers":        chain(nil, base(), nil, []entry{file("x", "x")}, nil),
	"global header":       chain([]entry{{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header"}}, file("x", "x"), {Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "x"}}, {Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "p/q"}}}),
	"symlink to nothing":  chain([]entry{symlink("s", "")}),
	"symlink to the most": chain([]entry{symlink("s", strings.Repeat("t", 4095))}),
	"symlink too long":    chain([]entry{symlink("s", strings.Repeat("t", 4096))}),
	"device out of range": chain([]entry{newEntry(tar.TypeChar, "d", 0o600, []change{numbers(5, 1<<33), format(tar.FormatGNU)})}),
	"device cut off":      chain([]entry{newEntry(tar.TypeChar, "d", 0o600, []change{numbers(4096+1, 1<<20+3)})}),
	"unknown type":        chain([]entry{newEntry(tar.TypeCont, "c", 0o600, nil)}),
	"a deep tree":         chain([]entry{file(strings.Repeat("deep/", 600)+"f", "x"), folder(strings.Repeat("d/", 1000))}),
	"60 layers":           many(60),
	"127 layers":          many(127),
}

// refusedCases are those of differentialCases that containerd refuses, so that
// nobody may take them.
var refusedCases = []string{
	"a symlink that grows",
	"a symlink that loops",
	"below a whiteout",
	"capability, broken",
	"capability, revision 1",
	"device out of range",
	"folder gone at the end",
	"folder that became a broken link",
	"hard link to a folder",
	"hard link to itself",
	"hard link to nothing",
	"hard link to the root",
	"hard link without a target",
	"implied folders over a file below",
	"name too long",
	"symlink to nothing",
	"symlink too long",
	"the name, then its whiteout",
	"through a file",
	"through a file, deeper",
	"unknown type",
	"whiteout of no name",
	"whiteout of the folder",
	"whiteout of the parent",
	"whiteout twice",
	"xattr with a long name",
	"xattr with a long value",
	"xattr without a name",
}

// many is a chain in which each layer changes something of those before.
func many(n int) [][]entry {
	layers := chain(base())
	for i := 1; i < n; i++ {
		layer := []entry{folder("etc", mode(int64(0o700+i%8))), file(fmt.Sprintf("etc/%d", i), fmt.Sprint(i)), file(fmt.Sprintf("odd/%d", i), "x")}
		if i > 2 {
			layer = append(layer, empty(fmt.Sprintf("etc/.wh.%d", i-2)), empty(fmt.Sprintf("odd/.wh.%d", i-1)))
		}
		layers = append(layers, layer)
	}
	return layers
}

func TestAgainstContainerd(t *testing.T) {
	needOverlay(t)
	for name, layers := range differentialCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var packed [][]byte
			for _, l := range layers {
				packed = append(packed, pack(t, l...))
			}
			if refused := mustAgree(t, packed); refused != slices.Contains(refusedCases, name) {
				t.Errorf("refused: %v", refused)
			}
		})
	}
}

// mustAgree tells whether both refused a chain.
func mustAgree(t *testing.T, layers [][]byte) (refused bool) {
	t.Helper()
	problems, containerd, ours := compareChains(shortDir(t), layers)
	if (containerd == nil) != (ours == nil) {
		t.Fatalf("containerd: %v\nours:       %v", containerd, ours)
	}
	if containerd != nil {
		t.Logf("refused by both\ncontainerd: %v\nours:       %v", containerd, ours)
	}
	for _, p := range problems {
		t.Error(p)
	}
	return containerd != nil
}

// shortDir is a folder whose name has nothing that a mount option cannot have.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
