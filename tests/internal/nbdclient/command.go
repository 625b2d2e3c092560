package nbdclient

import (
	"encoding/binary"
	"errors"
	"net"
)

// Read fills p from off and calls done; p belongs to the client until then.
func (c *Client) Read(p []byte, off int64, done func(error)) {
	c.submit(cmdRead, 0, uint64(off), uint32(len(p)), nil, p, done)
}

// Write writes p at off; fua asks for stable storage before the answer. p may be used again when
// Write returns. done is called once, possibly before Write returns.
func (c *Client) Write(p []byte, off int64, fua bool, done func(error)) {
	c.submit(cmdWrite, fuaFlag(fua), uint64(off), uint32(len(p)), p, nil, done)
}

// Flush asks for every write answered so far to be stable.
func (c *Client) Flush(done func(error)) { c.submit(cmdFlush, 0, 0, 0, nil, nil, done) }

// Trim discards length bytes at off.
func (c *Client) Trim(off int64, length uint32, fua bool, done func(error)) {
	c.submit(cmdTrim, fuaFlag(fua), uint64(off), length, nil, nil, done)
}

// WriteZeroes zeroes length bytes at off; noHole asks the server to keep the space allocated.
func (c *Client) WriteZeroes(off int64, length uint32, noHole, fua bool, done func(error)) {
	flags := fuaFlag(fua)
	if noHole {
		flags |= cmdFlagNoHole
	}
	c.submit(cmdZeroes, flags, uint64(off), length, nil, nil, done)
}

// Raw sends a request header as it is, however wrong, followed by payload.
func (c *Client) Raw(command, flags uint16, off uint64, length uint32, payload []byte, done func(error)) {
	c.submit(command, flags, off, length, payload, nil, done)
}

func fuaFlag(fua bool) uint16 {
	if fua {
		return cmdFlagFUA
	}
	return 0
}

// submit registers the command and sends it. A command that cannot be sent ends with ErrLost.
func (c *Client) submit(command, flags uint16, off uint64, length uint32, payload, into []byte, done func(error)) {
	if len(into) > maxPayload {
		done(errors.New("read larger than this client allows"))
		return
	}
	c.mu.Lock()
	if c.err != nil {
		err := c.err
		c.mu.Unlock()
		done(err)
		return
	}
	c.cookie++
	cookie := c.cookie
	c.pending[cookie] = &call{into: into, done: done}
	c.mu.Unlock()

	var head [28]byte
	binary.BigEndian.PutUint32(head[:], magicRequest)
	binary.BigEndian.PutUint16(head[4:], flags)
	binary.BigEndian.PutUint16(head[6:], command)
	binary.BigEndian.PutUint64(head[8:], cookie)
	binary.BigEndian.PutUint64(head[16:], off)
	binary.BigEndian.PutUint32(head[24:], length)
	bufs := net.Buffers{head[:]}
	if len(payload) > 0 {
		bufs = append(bufs, payload)
	}
	c.writeMu.Lock()
	_, err := bufs.WriteTo(c.conn)
	c.writeMu.Unlock()
	if err != nil {
		c.conn.Close() // the reader notices and ends every pending command, this one too
	}
}

// wait turns a command with a callback into one that blocks.
func wait(start func(done func(error))) error {
	ch := make(chan error, 1)
	start(func(err error) { ch <- err })
	return <-ch
}

// ReadAt fills p from off and waits for it.
func (c *Client) ReadAt(p []byte, off int64) error {
	return wait(func(done func(error)) { c.Read(p, off, done) })
}

// WriteAt writes p at off and waits for the answer.
func (c *Client) WriteAt(p []byte, off int64) error {
	return wait(func(done func(error)) { c.Write(p, off, false, done) })
}

// WriteFUA is WriteAt with FUA.
func (c *Client) WriteFUA(p []byte, off int64) error {
	return wait(func(done func(error)) { c.Write(p, off, true, done) })
}

// Sync is Flush that waits.
func (c *Client) Sync() error { return wait(c.Flush) }

// TrimAt is Trim that waits.
func (c *Client) TrimAt(off int64, length uint32) error {
	return wait(func(done func(error)) { c.Trim(off, length, false, done) })
}

// ZeroAt is WriteZeroes that waits.
func (c *Client) ZeroAt(off int64, length uint32) error {
	return wait(func(done func(error)) { c.WriteZeroes(off, length, false, false, done) })
}

// CacheAt tells the server that length bytes at off will be read soon, and waits for its answer.
func (c *Client) CacheAt(off int64, length uint32) error {
	return wait(func(done func(error)) { c.submit(cmdCache, 0, uint64(off), length, nil, nil, done) })
}
