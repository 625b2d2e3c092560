package peer

import (
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// liveness is a connection that notices a dead peer by other means than the kernel's TCP.
type liveness interface {
	// SetLiveness makes the connection fail once nothing was heard of the peer for timeout.
	SetLiveness(timeout time.Duration) error
}

// setLiveness makes the kernel notice a dead peer by itself: sent data that is not acknowledged
// for timeout ends the connection, and so does an idle peer that answers no probe for about as
// long. This is the backstop below the core's beacons, for a session that the core has no
// opinion on. Of a connection within TLS it is the socket below. One that is not TCP may have means of its own; else it is left as it is.
func setLiveness(conn net.Conn, timeout time.Duration) error {
	if c, ok := conn.(liveness); ok {
		return c.SetLiveness(timeout)
	}
	if under, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = under.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	probe := max(timeout/4, time.Second) // the kernel counts in seconds
	err := tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: probe, Interval: probe, Count: 3})
	if err != nil {
		return fmt.Errorf("set keepalive: %w", err)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return fmt.Errorf("set TCP_USER_TIMEOUT: %w", err)
	}
	var opt error
	err = raw.Control(func(fd uintptr) {
		opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds()))
	})
	if err == nil {
		err = opt
	}
	if err != nil {
		return fmt.Errorf("set TCP_USER_TIMEOUT: %w", err)
	}
	return nil
}
