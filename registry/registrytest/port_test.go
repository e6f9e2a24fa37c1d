package registrytest_test

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/imagecache/imagecache/registry/registrytest"
)

func TestAPortIsRefusedWhileNobodyListensAndCanBeListenedAtAgain(t *testing.T) {
	address := registrytest.Port(t)
	for range 3 {
		if connection, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("%v, %v, want it to be refused", connection, err)
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		connection, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		connection.Close()
		listener.Close()
	}
}
