package rig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/vm/talk"
)

// Config of a machine.
type Config struct {
	Kernel    Kernel
	Initramfs string
	MemoryMiB int      // 0: 768
	CPUs      int      // 0: 1; a second one costs more, in locks and barriers that QEMU must emulate, than it gives
	Disks     []*Disk  // /dev/vda, /dev/vdb, ...
	Append    string   // to the kernel's command line
	Network   *Network // nil: none
	Machine   int      // which one it is in its network, from 1 on
	Share     string   // a directory of this machine that the guest may read: 9p, mount tag "share"; "" is none
}

// ErrGone means that the machine has ended, by itself or because it was killed.
var ErrGone = errors.New("the machine is gone")

// Limit is how long a machine or a command in it is waited for before the test gives up: no assertion about
// speed, only a bound on a test that hangs. Emulation is slow, and it may share its cores.
const Limit = 100 * time.Second

// VM is a machine that runs.
type VM struct {
	t      testing.TB
	qemu   *exec.Cmd
	serial *serialLog
	port   net.Conn
	disks  []*Disk
	ended  chan struct{} // closed when QEMU has ended
	Hello  talk.Hello
	Booted time.Duration // from the start of QEMU to the guest's first word

	mu   sync.Mutex
	enc  *json.Encoder
	last talk.ID
	cmds map[talk.ID]*Cmd
	down bool
}

// Boot starts a machine and returns when its agent has spoken. It is killed at the end of the test.
func Boot(t testing.TB, cfg Config) *VM {
	t.Helper()
	qemu := need.Tool(t, "qemu-system-x86_64", "qemu-system-x86")
	dir, err := os.MkdirTemp("", "rig")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "port"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	v := &VM{t: t, disks: cfg.Disks, serial: &serialLog{}, ended: make(chan struct{}), cmds: map[talk.ID]*Cmd{}}
	args := cfg.args(filepath.Join(dir, "port"))
	if cfg.Network != nil {
		card, err := cfg.Network.plug(cfg.Machine)
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, card...)
	}
	v.qemu = exec.Command(qemu, args...)
	v.qemu.Stdout, v.qemu.Stderr = v.serial, v.serial
	v.qemu.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	begun := time.Now()
	if err := v.qemu.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		v.qemu.Wait()
		close(v.ended)
	}()
	t.Cleanup(func() {
		v.Kill()
		if t.Failed() {
			t.Logf("console of the machine:\n%s", v.serial.tail())
		}
	})
	if err := v.meet(l); err != nil {
		t.Fatalf("the machine does not come up: %v", err)
	}
	v.Booted = time.Since(begun)
	for _, p := range v.Hello.Problems {
		t.Errorf("guest: %s", p)
	}
	return v
}

func (c Config) args(port string) []string {
	memory, cpus := c.MemoryMiB, c.CPUs
	if memory == 0 {
		memory = 768
	}
	if cpus == 0 {
		cpus = 1
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		// Without erms and rep_good (112) the kernel copies in loops of eight bytes and more: QEMU's "rep movs" takes
		// one at a time. Without la57 each miss of the TLB walks four tables, not five. Emulated AVX2 makes BLAKE3 half as fast
		// as SSE does.
		"-machine", "q35,usb=off,hpet=off", "-accel", "tcg,thread=multi", "-cpu", "max,-erms,-fsrm,-la57,-avx2",
		"-m", strconv.Itoa(memory), "-smp", strconv.Itoa(cpus),
		"-kernel", c.Kernel.Image, "-initrd", c.Initramfs,
		"-append", strings.TrimSpace("console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off random.trust_cpu=on tsc=reliable no_timer_check nokaslr clearcpuid=112 cryptomgr.notests=1 " + c.Append),
		"-device", "virtio-serial-pci",
		"-chardev", "socket,id=port,path=" + port,
		"-device", "virtserialport,chardev=port,name=" + talk.Port,
	}
	if c.Share != "" {
		args = append(args,
			"-fsdev", "local,id=share,security_model=none,readonly=on,multidevs=remap,path="+c.Share,
			"-device", "virtio-9p-pci,fsdev=share,mount_tag=share")
	}
	for i, d := range c.Disks {
		id := "d" + strconv.Itoa(i)
		args = append(args,
			"-drive", "if=none,format=raw,id="+id+",cache=writeback,file=nbd+unix:///?socket="+d.addr,
			"-device", "virtio-blk-pci,drive="+id)
	}
	return args
}

// meet waits for QEMU to connect the port and for the guest's first word, and starts to listen.
func (v *VM) meet(l net.Listener) error {
	type met struct {
		c   net.Conn
		err error
	}
	ch := make(chan met, 1)
	go func() {
		c, err := l.Accept()
		ch <- met{c, err}
	}()
	limit := time.NewTimer(Limit)
	defer limit.Stop()
	select {
	case m := <-ch:
		if m.err != nil {
			return m.err
		}
		v.port = m.c
	case <-v.ended:
		return ErrGone // the console says why
	case <-limit.C:
		return errors.New("QEMU does not open its port")
	}
	v.enc = json.NewEncoder(v.port)
	dec := json.NewDecoder(v.port)
	v.port.SetReadDeadline(time.Now().Add(Limit))
	var first talk.Reply
	if err := dec.Decode(&first); err != nil {
		return fmt.Errorf("no word from the guest: %w", err)
	}
	if first.Hello == nil {
		return fmt.Errorf("the guest's first word is no hello: %+v", first)
	}
	v.Hello = *first.Hello
	v.port.SetReadDeadline(time.Time{})
	go v.listen(dec)
	return nil
}

// listen hands out what the guest says until the machine is gone, and then ends every command.
func (v *VM) listen(dec *json.Decoder) {
	for {
		var r talk.Reply
		if err := dec.Decode(&r); err != nil {
			break
		}
		v.mu.Lock()
		c := v.cmds[r.ID]
		if r.End != nil {
			delete(v.cmds, r.ID)
		}
		v.mu.Unlock()
		if c != nil {
			c.take(r)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.down = true
	for _, c := range v.cmds {
		c.finish(-1, ErrGone)
	}
	clear(v.cmds)
}

// Kill ends the machine at once and waits for its end.
func (v *VM) Kill() {
	v.qemu.Process.Kill()
	<-v.ended
	if v.port != nil {
		v.port.Close()
	}
}

// PowerCut ends the machine at once; of what its disks had not flushed, seed decides what is left. It returns
// what became of each disk, in their order.
func (v *VM) PowerCut(seed uint64) []Cut {
	v.Kill()
	for _, d := range v.disks {
		d.quiesce()
	}
	var cuts []Cut
	for i, img := range Images(seed, v.disks...) {
		v.disks[i].Load(img)
		cuts = append(cuts, img.Cut)
	}
	return cuts
}

// Ended returns a channel that is closed when the machine has ended: a guest that reboots ends.
func (v *VM) Ended() <-chan struct{} { return v.ended }

// Serial returns what the kernel has said on its console so far.
func (v *VM) Serial() string { return v.serial.String() }

// serialLog keeps what the console says.
type serialLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *serialLog) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *serialLog) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *serialLog) tail() string {
	all := s.String()
	return all[max(0, len(all)-8000):]
}

var _ io.Writer = (*serialLog)(nil)

// CPU returns how much processor time the emulation has used so far: on a machine that is shared it says more
// than the time of day.
func (v *VM) CPU() time.Duration {
	select {
	case <-v.ended:
		return v.qemu.ProcessState.UserTime() + v.qemu.ProcessState.SystemTime()
	default:
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", v.qemu.Process.Pid))
	if err != nil {
		return 0
	}
	// After the name in parentheses come fields 3, 4, ...; 14 and 15 are the user's and the system's ticks.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}
