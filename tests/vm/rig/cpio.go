package rig

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path"
)

// cpio writes the archive that a kernel unpacks as its first file system: "newc", a header of 6+13*8 ASCII
// digits, the name, and the content, each padded to four bytes (Documentation/driver-api/early-userspace).
type cpio struct {
	w    io.Writer
	n    int64
	ino  int
	dirs map[string]bool
	err  error
}

const (
	cpioFile    = 0o100000
	cpioDir     = 0o040000
	cpioSymlink = 0o120000
)

func newCPIO(w io.Writer) *cpio { return &cpio{w: w, dirs: map[string]bool{".": true, "/": true}} }

// file adds a file, and the directories that lead to it.
func (c *cpio) file(name string, mode fs.FileMode, content []byte) {
	c.parents(name)
	c.entry(name, cpioFile|uint32(mode.Perm()), content)
}

func (c *cpio) symlink(name, target string) {
	c.parents(name)
	c.entry(name, cpioSymlink|0o777, []byte(target))
}

func (c *cpio) dir(name string) {
	name = path.Clean(name)
	if c.dirs[name] {
		return
	}
	c.parents(name)
	c.dirs[name] = true
	c.entry(name, cpioDir|0o755, nil)
}

func (c *cpio) parents(name string) { c.dir(path.Dir(path.Clean(name))) }

// close writes the mark at the end and returns the first error of any call.
func (c *cpio) close() error {
	c.entry("TRAILER!!!", 0, nil)
	return c.err
}

func (c *cpio) entry(name string, mode uint32, content []byte) {
	if name[0] == '/' {
		name = name[1:]
	}
	c.ino++
	links := 1
	if mode&cpioDir != 0 {
		links = 2
	}
	// magic, ino, mode, uid, gid, nlink, mtime, size, device (2), rdevice (2), length of the name, check
	c.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.ino, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name)+1, 0))
	c.write(append([]byte(name), 0))
	c.pad()
	c.write(content)
	c.pad()
}

func (c *cpio) pad() { c.write(bytes.Repeat([]byte{0}, int(-c.n&3))) }

func (c *cpio) write(p []byte) {
	if c.err == nil {
		var n int
		n, c.err = c.w.Write(p)
		c.n += int64(n)
	}
}
