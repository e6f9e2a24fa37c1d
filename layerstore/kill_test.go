package layerstore_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

const mib = 1 << 20

// random is the same in every process.
func random(size int) []byte {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content) // never fails
	return content
}

func describe(content []byte) specs.Descriptor {
	return specs.Descriptor{
		MediaType: specs.MediaTypeImageLayerGzip, Digest: digest.FromBytes(content), Size: int64(len(content)),
	}
}

const (
	killSize = 20 * mib
	killAt   = 13*mib + 1000
)

// fetchUntilKilled fetches a blob of which the last bytes never come, and says
// when it has the others.
func fetchUntilKilled(root string) {
	s, err := layerstore.Open(layerstore.Options{Root: root})
	if err != nil {
		fmt.Println(err)
		return
	}
	content := random(killSize)
	never := make(chan struct{})
	src := storetest.Always(content, storetest.Answer{HoldAt: killAt, Hold: never})
	b, err := s.Fetch(context.Background(), describe(content), src)
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := io.CopyN(io.Discard, b, killAt); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("held")
	_, err = io.Copy(io.Discard, b)
	fmt.Println(err)
}

// killMidway lets a child process fetch until it is killed.
func killMidway(t *testing.T, root string) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childRoot+"="+root)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err := child.Process.Kill(); err != nil { // SIGKILL
		t.Error(err)
	}
	_ = child.Wait() // it was killed: always an error
	if err != nil || line != "held\n" {
		t.Fatalf("the child said %q, %v", line, err)
	}
}

func TestTransferOfKilledProcessGoesOn(t *testing.T) {
	root := t.TempDir()
	killMidway(t, root)
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	content := random(killSize)
	src := storetest.NewSource(content)
	b, err := s.Fetch(t.Context(), describe(content), src)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d bytes, error %v", len(got), err)
	}
	asked := src.Requests() // several, when the rest was spread
	if len(asked) == 0 || asked[0].Offset > killAt || asked[0].Offset < killAt-2*mib {
		t.Errorf("the source was asked %v, want from at most 2 MiB before %d", asked, killAt)
	}
	if most := int64(killSize - killAt + 2*mib); src.Sent() > most {
		t.Errorf("the source sent %d bytes, want at most %d", src.Sent(), most)
	}
}

func TestWhatAKilledProcessLostIsNotSealed(t *testing.T) {
	root := t.TempDir()
	killMidway(t, root)
	zero(t, partOf(t, root), 6*mib, mib) // as a power cut would: pages that were never written
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	content := random(killSize)
	wantDigestErrorThenWhole(t, s, content)
}
