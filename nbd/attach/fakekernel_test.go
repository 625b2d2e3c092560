package attach

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

// fakeKernel behaves as drivers/block/nbd.c does, as far as the relay can see: a socket that ends is dead
// until RECONFIGURE brings another, what was sent on it is sent again then, and what it was given too many
// of it closes.
type fakeKernel struct {
	tb testing.TB

	mu        sync.Mutex
	changed   sync.Cond // L is &mu: a socket, or a device, came or went
	devs      map[uint32]*fakeDev
	check     error
	busy      bool // CONNECT fails with ErrBusy
	ioTimeout map[uint32]time.Duration
}

type fakeDev struct {
	q     ConnectRequest
	socks []*fakeSock
	next  uint64 // cookie
}

type fakeSock struct {
	nc      net.Conn
	dead    bool
	waiting map[uint64]chan fakeReply // under fakeKernel.mu
	reads   map[uint64]int            // bytes that the reply brings
}

type fakeReply struct {
	errno uint32
	data  []byte
	lost  bool // the socket died
}

func newKernel(tb testing.TB) *fakeKernel {
	k := &fakeKernel{tb: tb, devs: map[uint32]*fakeDev{}, ioTimeout: map[uint32]time.Duration{}}
	k.changed.L = &k.mu
	return k
}

func (k *fakeKernel) Check() error { return k.check }

func (k *fakeKernel) Connect(q ConnectRequest) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy || k.devs[q.Index] != nil {
		return ErrBusy
	}
	d := &fakeDev{q: q}
	k.devs[q.Index] = d
	for _, fd := range q.Sockets {
		d.socks = append(d.socks, k.take(fd))
	}
	return nil
}

// take makes a socket of a file descriptor, which stays the caller's. Caller holds mu.
func (k *fakeKernel) take(fd int) *fakeSock {
	dup, err := syscall.Dup(fd)
	if err != nil {
		k.tb.Fatal(err)
	}
	f := os.NewFile(uintptr(dup), "kernel")
	nc, err := net.FileConn(f)
	f.Close()
	if err != nil {
		k.tb.Fatal(err)
	}
	s := &fakeSock{nc: nc, waiting: map[uint64]chan fakeReply{}, reads: map[uint64]int{}}
	go k.receive(s)
	return s
}

// receive is recv_work: it takes replies until the socket ends.
func (k *fakeKernel) receive(s *fakeSock) {
	for {
		cookie, errno, err := nbdtest.ReadReply(s.nc)
		var data []byte
		if err == nil {
			k.mu.Lock()
			n := s.reads[cookie]
			k.mu.Unlock()
			if n > 0 && errno == 0 {
				data = make([]byte, n)
				_, err = io.ReadFull(s.nc, data)
			}
		}
		k.mu.Lock()
		if err != nil {
			k.kill(s)
			k.mu.Unlock()
			return
		}
		if ch := s.waiting[cookie]; ch != nil {
			delete(s.waiting, cookie)
			ch <- fakeReply{errno: errno, data: data}
		} else {
			k.tb.Errorf("reply to %d, which nobody asked for", cookie)
		}
		k.mu.Unlock()
	}
}

// kill marks a socket dead. Caller holds mu.
func (k *fakeKernel) kill(s *fakeSock) {
	s.dead = true
	s.nc.Close()
	for _, ch := range s.waiting {
		ch <- fakeReply{lost: true}
	}
	clear(s.waiting)
	k.changed.Broadcast()
}

func (k *fakeKernel) Reconfigure(q ReconfigureRequest) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.devs[q.Index]
	if d == nil || d.q.Backend != q.Backend {
		return syscall.EINVAL
	}
	if q.Size > 0 {
		d.q.Size = q.Size
	}
	for _, fd := range q.Sockets {
		for i, s := range d.socks {
			if s.dead {
				d.socks[i] = k.take(fd)
				break
			}
		}
	}
	k.changed.Broadcast()
	return nil
}

func (k *fakeKernel) Disconnect(index uint32) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.devs[index]
	if d == nil {
		return nil
	}
	delete(k.devs, index)
	for _, s := range d.socks {
		if !s.dead {
			_, _ = s.nc.Write(nbdtest.Command{Type: nbdtest.CmdDisc}.Append(nil, nil))
			k.kill(s)
		}
	}
	k.changed.Broadcast()
	return nil
}

func (k *fakeKernel) Backend(index uint32) (string, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d := k.devs[index]; d != nil {
		return d.q.Backend, true, nil
	}
	return "", false, nil
}

func (k *fakeKernel) SetIOTimeout(index uint32, d time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ioTimeout[index] = d
	return nil
}

func (k *fakeKernel) LinkDead(ctx context.Context, _ func(uint32)) error {
	<-ctx.Done()
	return nil
}

var errNoDevice = errors.New("the device is gone")

// do carries a request out as a user of the device sees it: it waits for a live socket, however long
// that takes, and begins again on another when that dies.
func (k *fakeKernel) do(index uint32, q nbdtest.Command, payload []byte) (fakeReply, error) {
	for {
		ch, err := k.send(index, q, payload)
		if err != nil {
			return fakeReply{}, err
		}
		if r := <-ch; !r.lost {
			return r, nil
		}
	}
}

func (k *fakeKernel) send(index uint32, q nbdtest.Command, payload []byte) (<-chan fakeReply, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for {
		d := k.devs[index]
		if d == nil {
			return nil, errNoDevice
		}
		for i := range d.socks {
			s := d.socks[(i+int(d.next))%len(d.socks)]
			if s.dead {
				continue
			}
			d.next++
			q.Cookie = d.next
			ch := make(chan fakeReply, 1)
			s.waiting[q.Cookie] = ch
			if q.Type == nbdtest.CmdRead {
				s.reads[q.Cookie] = int(q.Len)
			}
			if _, err := s.nc.Write(q.Append(nil, payload)); err != nil {
				k.kill(s)
			}
			return ch, nil
		}
		k.changed.Wait()
	}
}

// block reads and writes a value at a place of the device.
func (k *fakeKernel) write(index uint32, v uint64, off int64) (uint32, error) {
	r, err := k.do(index, nbdtest.Command{Type: nbdtest.CmdWrite, Off: uint64(off), Len: 512}, fill(v, 512))
	return r.errno, err
}

func (k *fakeKernel) read(index uint32, off int64) (uint64, error) {
	r, err := k.do(index, nbdtest.Command{Type: nbdtest.CmdRead, Off: uint64(off), Len: 512}, nil)
	if err != nil || r.errno != 0 {
		return 0, errors.Join(err, syscall.Errno(r.errno))
	}
	return binary.BigEndian.Uint64(r.data), nil
}
