package api

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections live in a synctest bubble, deadlines
// included.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { close(p.done); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// slowly asks for a blob of 6 MiB and lets the client read its body.
func slowly(t *testing.T, read func(body io.Reader) (int64, error)) (int64, error) {
	t.Helper()
	s := newShelf(t)
	d := s.put(t, noise(6<<20))
	listener := pipes{make(chan net.Conn), make(chan struct{})}
	server := &http.Server{Handler: New(Options{Registry: s}).Mirror()}
	go server.Serve(listener)
	defer server.Close()
	client, theirs := net.Pipe()
	defer client.Close()
	listener.conns <- theirs
	if _, err := io.WriteString(client, "GET /v2/x/blobs/"+d.String()+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		t.Fatal(err)
	}
	return read(answer.Body)
}

func TestClientThatStopsReadingIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := slowly(t, func(body io.Reader) (int64, error) {
			time.Sleep(writeTimeout + time.Second) // the bubble's clock, not the wall's
			return io.Copy(io.Discard, body)
		})
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v, want a cut body", err)
		}
	})
}

func TestSlowClientIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, err := slowly(t, func(body io.Reader) (n int64, err error) {
			for err == nil {
				var k int64
				k, err = io.CopyN(io.Discard, body, 5000)
				n += k
				time.Sleep(100 * time.Millisecond) // 50 kB/s, for two minutes
			}
			return n, err
		})
		if n != 6<<20 || err != io.EOF {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}
