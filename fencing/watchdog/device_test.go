package watchdog

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// driver is a watchdog device that is not there.
type driver struct {
	options    uint32
	give       int32 // what SETTIMEOUT makes of a value; 0: what was asked for
	get        int32
	setErr     error
	getErr     error
	supportErr error
	aliveErr   error
	writeErr   error

	asked  int32
	alives int
	wrote  string
	closed int
}

func (d *driver) Support() (unix.WatchdogInfo, error) {
	info := unix.WatchdogInfo{Options: d.options}
	copy(info.Identity[:], "iTCO_wdt")
	return info, d.supportErr
}

func (d *driver) SetTimeout(sec int32) (int32, error) {
	d.asked = sec
	if d.give != 0 {
		sec = d.give
	}
	return sec, d.setErr
}

func (d *driver) Timeout() (int32, error)     { return d.get, d.getErr }
func (d *driver) Keepalive() error            { d.alives++; return d.aliveErr }
func (d *driver) Write(b []byte) (int, error) { d.wrote += string(b); return len(b), d.writeErr }
func (d *driver) Close() error                { d.closed++; return nil }

func TestDevice_UsesTheTimeoutThatTheDriverReturns(t *testing.T) {
	notThere := unix.EOPNOTSUPP
	for _, tc := range []struct {
		name  string
		d     *driver
		ask   time.Duration
		asked int32
		want  time.Duration // 0: refused
	}{
		{"as asked for", &driver{}, 10 * time.Second, 10, 10 * time.Second},
		{"rounded up to seconds", &driver{}, 1500 * time.Millisecond, 2, 2 * time.Second},
		{"limited", &driver{give: 60}, time.Hour, 3600, time.Minute},
		{"raised", &driver{give: 30}, time.Second, 1, 30 * time.Second},
		{"fixed", &driver{setErr: notThere, get: 17}, 10 * time.Second, 10, 17 * time.Second},
		{"unknown", &driver{setErr: notThere, getErr: notThere}, 10 * time.Second, 10, 0},
		{"zero", &driver{setErr: notThere}, 10 * time.Second, 10, 0},
		{"no watchdog", &driver{supportErr: unix.ENOTTY}, 10 * time.Second, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			timer, err := arm(tc.d, "/dev/watchdog", tc.ask)
			if tc.d.asked != tc.asked {
				t.Errorf("it was asked for %d s", tc.d.asked)
			}
			if tc.want == 0 {
				if !errors.Is(err, ErrNoWatchdog) || tc.d.wrote != "V" || tc.d.closed != 1 {
					t.Errorf("%v; wrote %q, closed %d times: what cannot be used is disarmed", err, tc.d.wrote, tc.d.closed)
				}
				return
			}
			if err != nil || timer.Info().Timeout != tc.want || timer.Info().Name != "iTCO_wdt" {
				t.Errorf("%v, %v", timer, err)
			}
		})
	}
}

func TestDevice_FencesOnlyIfAKilledProcessDoesNotDisarmIt(t *testing.T) {
	for options, want := range map[uint32]bool{
		unix.WDIOF_MAGICCLOSE: true, unix.WDIOF_MAGICCLOSE | unix.WDIOF_SETTIMEOUT: true, unix.WDIOF_SETTIMEOUT: false, 0: false,
	} {
		timer, err := arm(&driver{options: options}, "/dev/watchdog", 10*time.Second)
		if err != nil || timer.Info().Fences() != want {
			t.Errorf("options %#x: fences %v, %v", options, timer.Info().Fences(), err)
		}
	}
}

func TestDevice_PetsDisarmsAndIsLeftArmed(t *testing.T) {
	open := func(d *driver) Timer {
		t.Helper()
		timer, err := arm(d, "/dev/watchdog", 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return timer
	}
	d := &driver{options: unix.WDIOF_MAGICCLOSE}
	timer := open(d)
	if err := timer.Pet(); err != nil || d.alives != 1 || d.wrote != "" {
		t.Errorf("pet: %v, %+v", err, d)
	}
	if err := timer.Disarm(); err != nil || d.wrote != "V" || d.closed != 1 {
		t.Errorf("disarm: %v, %+v", err, d)
	}

	d = &driver{options: unix.WDIOF_MAGICCLOSE}
	if err := open(d).Abandon(); err != nil || d.wrote != "" || d.closed != 1 {
		t.Errorf("left armed: %v, %+v", err, d)
	}
	d = &driver{} // disarms at any close
	if err := open(d).Abandon(); err != nil || d.wrote != "" || d.closed != 0 {
		t.Errorf("left armed without magic close: %v, %+v", err, d)
	}

	d = &driver{aliveErr: unix.ENOTTY}
	if err := open(d).Pet(); err != nil || d.wrote != "\x00" {
		t.Errorf("pet by writing: %v, %+v", err, d)
	}
	d.writeErr = unix.EIO
	if err := open(d).Pet(); !errors.Is(err, unix.EIO) {
		t.Errorf("pet that fails: %v", err)
	}
}

func TestOpenDevice_WhatIsNoWatchdogIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ path, text string }{
		{path, "does not answer as a watchdog"}, // the real ioctls, on a file
		{"/dev/null", "does not answer as a watchdog"},
		{path + ".none", "softdog"},
	} {
		timer, err := OpenDevice(tc.path, 10*time.Second)
		if timer != nil || !errors.Is(err, ErrNoWatchdog) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v, %v", tc.path, timer, err)
		}
	}
}

func TestSystemd_IsPettedThroughItsSocketAndFencesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "4000000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	timer, err := OpenSystemd()
	if err != nil {
		t.Fatal(err)
	}
	if i := timer.Info(); i.Timeout != 4*time.Second || i.Fences() {
		t.Errorf("%+v", i)
	}
	if err := timer.Pet(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != "WATCHDOG=1" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	if err := errors.Join(timer.Disarm(), timer.Abandon()); err != nil {
		t.Error(err)
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := timer.Pet(); err == nil {
		t.Error("petted nobody, and no error")
	}
}

func TestSystemd_IsRefusedUnlessItWatchesThisProcess(t *testing.T) {
	for name, env := range map[string][2]string{
		"not at all": {"", ""}, "another process": {"4000000", "1"}, "not a number": {"x", strconv.Itoa(os.Getpid())},
	} {
		t.Setenv("WATCHDOG_USEC", env[0])
		t.Setenv("WATCHDOG_PID", env[1])
		if timer, err := OpenSystemd(); timer != nil || !errors.Is(err, ErrNoWatchdog) {
			t.Errorf("%s: %v, %v", name, timer, err)
		}
	}
}
