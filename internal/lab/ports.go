package lab

import (
	"fmt"
	"io"
	"net"
)

// ports holds free ports on 127.0.0.1 by listening on them.
type ports struct{ held []io.Closer }

// tcp takes a free TCP port and returns its address.
func (p *ports) tcp() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("take a port: %w", err)
	}
	p.held = append(p.held, ln)
	return ln.Addr().String(), nil
}

// both takes a port that is free for TCP and UDP and returns its address.
func (p *ports) both() (string, error) {
	var last error
	for range 50 {
		addr, err := p.tcp()
		if err != nil {
			return "", err
		}
		pc, err := net.ListenPacket("udp", addr)
		if err == nil {
			p.held = append(p.held, pc)
			return addr, nil
		}
		last = err
	}
	return "", fmt.Errorf("take a port for TCP and UDP: %w", last)
}

// release gives all ports back.
func (p *ports) release() {
	for _, c := range p.held {
		c.Close()
	}
	p.held = nil
}
