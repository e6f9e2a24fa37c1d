package access

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// crowded is a server on loopback whose connections are bounded. What asks for
// /wait is answered when the test says so.
type crowded struct {
	t       *testing.T
	address string
	began   chan struct{}
	goOn    chan struct{}
}

func newCrowded(t *testing.T, o CrowdOptions) *crowded {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &crowded{t: t, began: make(chan struct{}, 100), goOn: make(chan struct{})}
	c.address = l.Addr().String()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			c.began <- struct{}{}
			<-c.goOn
		}
		fmt.Fprint(w, "ok")
	})}
	NewCrowd(o).Watch(server)
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return c
}

// from dials from an address of this machine.
func (c *crowded) from(address string) net.Conn {
	c.t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	conn, err := dialer.Dial("tcp", c.address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

// asks sends a request and reads its answer.
func (c *crowded) asks(conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

func (c *crowded) wantServed(conn net.Conn) {
	c.t.Helper()
	if err := c.asks(conn); err != nil {
		c.t.Errorf("%v is not served: %v", conn.LocalAddr(), err)
	}
}

// wantClosed waits until the other end has closed.
func (c *crowded) wantClosed(conn net.Conn) {
	c.t.Helper()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil || isTimeout(err) {
		c.t.Fatalf("%v is still open: %v", conn.LocalAddr(), err)
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}

// TestWhoFloodsFloodsItselfOut: others are served, on old connections and on new ones.
func TestWhoFloodsFloodsItselfOut(t *testing.T) {
	var log bytes.Buffer
	c := newCrowded(t, CrowdOptions{Files: 20, Log: slog.New(slog.NewTextHandler(&log, nil))})
	old := c.from("127.0.0.2")
	c.wantServed(old)
	var flood []net.Conn
	for range 60 { // more than there is room for
		flood = append(flood, c.from("127.0.0.1"))
	}
	for _, conn := range flood[:30] {
		c.wantClosed(conn)
	}
	c.wantServed(old)
	c.wantServed(c.from("127.0.0.3"))
	c.wantServed(flood[len(flood)-1]) // it has what room there is
	if told := strings.Count(log.String(), "too many connections"); told != 1 {
		t.Errorf("the log tells it %d times", told)
	}
}

// TestWhatIsAnsweredStaysWhileSomethingIsIdle: and without anything idle the
// newcomer of the address that takes most goes.
func TestWhatIsAnsweredStaysWhileSomethingIsIdle(t *testing.T) {
	c := newCrowded(t, CrowdOptions{Files: 8})
	var busy []net.Conn
	for range 4 { // two files each
		conn := c.from("127.0.0.1")
		fmt.Fprint(conn, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
		<-c.began
		busy = append(busy, conn)
	}
	c.wantClosed(c.from("127.0.0.1"))
	c.wantServed(c.from("127.0.0.2")) // for which, and for its question, the last of the others go
	c.wantClosed(busy[3])
	c.wantClosed(busy[2])
	close(c.goOn)
	for _, conn := range busy[:2] {
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if answer, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || answer.StatusCode != 200 {
			t.Errorf("%v, %v", answer, err)
		}
	}
}

// TestConnectionsOfOneAddress are bounded where the settings say so.
func TestConnectionsOfOneAddress(t *testing.T) {
	c := newCrowded(t, CrowdOptions{OfOne: 2})
	first, second := c.from("127.0.0.1"), c.from("127.0.0.1")
	c.wantServed(first)
	third := c.from("127.0.0.1")
	c.wantServed(third)
	c.wantClosed(second) // which has said nothing for longest
	c.wantServed(first)
	c.wantServed(c.from("127.0.0.2"))
}

// TestACrowdForgets all who have left.
func TestACrowdForgets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	crowd := NewCrowd(CrowdOptions{Files: 100})
	server := &http.Server{Handler: http.NotFoundHandler()}
	crowd.Watch(server)
	go server.Serve(l)
	for range 20 {
		res, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		http.DefaultClient.CloseIdleConnections()
	}
	server.Close()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		crowd.mu.Lock()
		left := len(crowd.guests) + len(crowd.addresses) + crowd.files
		crowd.mu.Unlock()
		if left == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d left", left)
		}
	}
}
