package main

import (
	"fmt"
	"net"
)

// notify tells systemd about the state of a service of Type=notify (sd_notify(3)); without a socket there is nobody to tell.
func notify(socket, state string) error {
	if socket == "" {
		return nil
	}
	// net takes a leading @ for the abstract namespace, as systemd writes it.
	connection, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify %s: %w", state, err)
	}
	defer connection.Close()
	if _, err := connection.Write([]byte(state)); err != nil {
		return fmt.Errorf("notify %s: %w", state, err)
	}
	return nil
}
