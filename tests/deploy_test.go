package tests

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

const unitDir = "usr/lib/systemd/system"

// installed writes the files below a directory and returns it.
func installed(t *testing.T, args ...string) string {
	t.Helper()
	root := t.TempDir()
	cluster.MustCLI(t, append([]string{"install-files", "--root", root, "--program", cluster.Binary(t)}, args...)...)
	return root
}

func TestUnits_SystemdFindsNothingWrong(t *testing.T) {
	need.Tool(t, "systemd-analyze", "systemd")
	for _, args := range [][]string{nil, {"--strict"}} {
		dir := filepath.Join(installed(t, args...), unitDir)
		// What follows the first colon is the name under which the file is loaded.
		for _, unit := range []string{"lockstep-node.service", "lockstep-attach@.service:lockstep-attach@r0:nbd0.service"} {
			path := filepath.Join(dir, unit)
			if out, err := proc.Try(t, "systemd-analyze", "verify", "--man=no", path); err != nil || strings.Contains(out, "lockstep") {
				t.Errorf("%s %q: %v\n%s", unit, args, err, out)
			}
		}
	}
}

// What a unit is exposed to is a number that systemd makes up; that it falls says that the options of
// strict.conf are read and take effect.
func TestUnits_StrictTakesFromTheDaemonWhatItCanDoWithout(t *testing.T) {
	need.Tool(t, "systemd-analyze", "systemd")
	level := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)
	exposure := func(args ...string) string {
		t.Helper()
		path := filepath.Join(installed(t, args...), unitDir, "lockstep-node.service")
		out := proc.Run(t, "systemd-analyze", "security", "--offline=true", "--no-pager", path)
		m := level.FindStringSubmatch(out)
		if m == nil {
			t.Fatal(out)
		}
		return m[1]
	}
	plain, strict := exposure(), exposure("--strict")
	t.Logf("exposure %s, with strict.conf %s", plain, strict)
	if len(plain) != 3 || len(strict) != 3 || strict >= plain {
		t.Errorf("exposure %s, with strict.conf %s", plain, strict)
	}
}

// command returns what a setting of a unit runs for an instance, as systemd would, but that it runs program.
func command(t *testing.T, unit, setting, instance, program string) []string {
	t.Helper()
	for line := range strings.Lines(string(read(t, unit))) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), setting+"=/bin/sh -c '")
		if !ok {
			continue
		}
		script, after, ok := strings.Cut(rest, "' sh ")
		if !ok || after != "%i" {
			t.Fatalf("%s of %s is not understood: %s", setting, unit, line)
		}
		script = strings.NewReplacer("%%", "%", "$$", "$", cluster.Binary(t), program).Replace(script)
		return []string{"-c", script, "sh", instance}
	}
	t.Fatalf("%s has no %s that a shell runs", unit, setting)
	return nil
}

func TestAttachUnit_InstanceNamesResourceAndDevice(t *testing.T) {
	unit := filepath.Join(installed(t), unitDir, "lockstep-attach@.service")
	for _, tc := range []struct{ setting, instance, options, want string }{
		{"ExecStart", "r0:nbd0", "", "attach --foreground r0 /dev/nbd0"},
		{"ExecStart", "db-1.main_x:nbd15", "", "attach --foreground db-1.main_x /dev/nbd15"},
		{"ExecStart", "r0:nbd0", "--read-only --servers a,b", "attach --foreground --read-only --servers a,b r0 /dev/nbd0"},
		{"ExecStop", "r0:nbd0", "", "detach /dev/nbd0"},
	} {
		cmd := exec.CommandContext(t.Context(), "/bin/sh", command(t, unit, tc.setting, tc.instance, "/bin/echo")...)
		cmd.Env = append(os.Environ(), "ATTACH_OPTIONS="+tc.options)
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != tc.want {
			t.Errorf("%s of %s: %v, %q, want %q", tc.setting, tc.instance, err, got, tc.want)
		}
	}
}

// The line for fstab that docs/systemd.md shows is given to systemd's own generator.
func TestFstabLine_MountComesAfterTheDeviceAndGoesBeforeIt(t *testing.T) {
	const generator = "/usr/lib/systemd/system-generators/systemd-fstab-generator"
	if _, err := os.Stat(generator); err != nil {
		need.Skip(t, "needs %s: apt-get install systemd", generator)
	}
	line := regexp.MustCompile(`(?m)^    (/dev/lockstep/r0 .*)$`).FindStringSubmatch(string(read(t, "../docs/systemd.md")))
	if line == nil {
		t.Fatal("docs/systemd.md shows no line for fstab")
	}
	dir := t.TempDir()
	fstab := filepath.Join(dir, "fstab")
	must(t, os.WriteFile(fstab, []byte(line[1]+"\n"), 0o644))
	cmd := exec.CommandContext(t.Context(), generator, dir, dir, dir)
	cmd.Env = append(os.Environ(), "SYSTEMD_FSTAB="+fstab)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	unit := string(read(t, filepath.Join(dir, "srv-data.mount")))
	const device = "lockstep-attach@r0:nbd0.service"
	for _, want := range []string{"Requires=" + device, "After=" + device, "What=/dev/lockstep/r0"} {
		if !strings.Contains(unit, want+"\n") {
			t.Errorf("the mount lacks %s:\n%s", want, unit)
		}
	}
	// Of the network, so that it comes after remote-fs-pre.target, which the daemon comes before.
	if _, err := os.Lstat(filepath.Join(dir, "remote-fs.target.requires")); err != nil {
		if _, err := os.Lstat(filepath.Join(dir, "remote-fs.target.wants")); err != nil {
			t.Errorf("the mount does not belong to remote-fs.target: %v", err)
		}
	}
}

// fakeSys makes a /sys with an nbd device that has a partition, and has udev work on each by the rules that
// are installed. It runs in a mount namespace of its own.
const fakeSys = `set -e
mount -t tmpfs none /sys
dev=/sys/devices/virtual/block/nbd0 part=/sys/devices/virtual/block/nbd0/nbd0p1
mkdir -p $part /sys/class/block /sys/dev/block /sys/bus
printf 'MAJOR=43\nMINOR=0\nDEVNAME=nbd0\nDEVTYPE=disk\n' >$dev/uevent
printf 'MAJOR=43\nMINOR=1\nDEVNAME=nbd0p1\nDEVTYPE=partition\nPARTN=1\n' >$part/uevent
[ -z "$BACKEND" ] || printf '%s\n' "$BACKEND" >$dev/backend
ln -s $dev $part /sys/class/block
ln -s $dev /sys/dev/block/43:0
ln -s $part /sys/dev/block/43:1
ln -s /sys/class/block $dev/subsystem
ln -s /sys/class/block $part/subsystem
cp "$RULES" /tmp/rules.$$
for dir in /run /etc/udev /usr/lib/udev/rules.d; do mount -t tmpfs none $dir; done
mkdir -p /run/udev && mv /tmp/rules.$$ /usr/lib/udev/rules.d/61-lockstep.rules
mkdir /run/dev && touch /run/dev/null && mount --bind /dev/null /run/dev/null && mount --rbind /run/dev /dev
export SYSTEMD_DEVICE_VERIFY_SYSFS=0
udevadm test -a "$ACTION" $dev 2>&1
udevadm test -a "$ACTION" $part 2>&1
`

func TestUdevRule_NamesTheDeviceAndItsPartitions(t *testing.T) {
	need.Root(t, "a /sys of its own needs a mount namespace")
	need.Tool(t, "udevadm", "udev")
	need.Tool(t, "unshare", "util-linux")
	rules := filepath.Join(installed(t), "usr/lib/udev/rules.d/61-lockstep.rules")
	trap := filepath.Join(t.TempDir(), "trap")
	for _, tc := range []struct {
		name, backend, action string
		links                 []string // without /dev/lockstep/
	}{
		{"attached", "lockstep:r0", "change", []string{"r0", "r0-part1"}},
		{"more behind the resource", "lockstep:db.1-x:7f3a", "change", []string{"db.1-x", "db.1-x-part1"}},
		{"a device of somebody else", "other:r0", "change", nil},
		{"detached", "", "change", nil},
		{"no resource", "lockstep:", "add", nil},
		{"taken away", "lockstep:r0", "remove", nil},
		{"text that a shell would run", "lockstep:$(touch " + trap + ")`touch " + trap + "`", "change", nil},
	} {
		cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-c", fakeSys)
		cmd.Env = append(os.Environ(), "RULES="+rules, "BACKEND="+tc.backend, "ACTION="+tc.action)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", tc.name, err, out)
		}
		if bytes.Contains(out, []byte("Invalid")) || bytes.Contains(out, []byte("Unknown")) {
			t.Errorf("%s: udev complains:\n%s", tc.name, out)
		}
		var links []string
		for _, m := range regexp.MustCompile(`(?m)^DEVLINKS=/dev/lockstep/(\S+)$`).FindAllSubmatch(out, -1) {
			links = append(links, string(m[1]))
		}
		if _, err := os.Stat(trap); err == nil {
			t.Fatalf("%s: it was run:\n%s", tc.name, out)
		}
		if tc.links != nil && strings.Join(links, " ") != strings.Join(tc.links, " ") {
			t.Errorf("%s: links %q, want %q\n%s", tc.name, links, tc.links, out)
		}
		if tc.links == nil && !strings.HasPrefix(tc.name, "text") && len(links) != 0 {
			t.Errorf("%s: links %q\n%s", tc.name, links, out)
		}
	}
}

// A daemon that is asked to be protected tells doctor what of that its host did not allow, and goes on.
func TestWritePath_DaemonSaysWhatItsHostDoesNotAllow(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 16 * cluster.MiB, Configure: func(n *config.Node) {
		if n.Name == "n1" {
			n.Memory = config.Memory{Lock: true, IOFlusher: true, OOMProtect: true}
		}
	}})
	facts, err := c.Lab.Client("n1").Facts(t.Context())
	must(t, err)
	if len(facts.WritePath.Off) != 0 || facts.WritePath.Unknown != "" {
		t.Errorf("%+v", facts.WritePath)
	}
	var report struct {
		Findings []struct{ Code, Subject, Severity, What string }
	}
	must(t, json.Unmarshal([]byte(c.CLI("n1", "doctor", "--all", "--json").Stdout), &report))
	found := 0
	for _, f := range report.Findings {
		if f.Code == "write-path" && f.Severity == "warning" {
			found++
		}
	}
	if found != len(facts.WritePath.Lacks) {
		t.Errorf("doctor finds %d of %+v", found, facts.WritePath.Lacks)
	}
	log := string(read(t, c.Node("n1").Log))
	for _, l := range facts.WritePath.Lacks {
		if !strings.Contains(log, "not protected under memory pressure") {
			t.Errorf("the log does not tell of: %+v", l)
		}
	}
	status := string(read(t, filepath.Join("/proc", strconv.Itoa(c.Node("n1").PID), "status")))
	if locked := !strings.Contains(status, "VmLck:\t       0 kB"); locked != !lacks(facts.WritePath, "not locked") {
		t.Errorf("memory locked: %v, lacks: %+v", locked, facts.WritePath.Lacks)
	}
	if f, err := c.Lab.Client("n2").Facts(t.Context()); err != nil || len(f.WritePath.Off) != 3 || len(f.WritePath.Lacks) != 0 {
		t.Errorf("n2, as labs are: %+v, %v", f.WritePath, err)
	}
}

// lacks reports whether one of the lacks speaks of word.
func lacks(w control.WritePath, word string) bool {
	for _, l := range w.Lacks {
		if strings.Contains(l.What, word) {
			return true
		}
	}
	return false
}
