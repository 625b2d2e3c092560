package attach

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
)

// readyFD is where a relay's process tells the one that started it how it went: one line, an answer.
const readyFD = 3

// maxLog is how large a log may be that is gone on with, in bytes.
const maxLog = 1 << 20

// LogPath is where the relay of a device writes its log.
func LogPath(dir, device string) string {
	return filepath.Join(dir, filepath.Base(device)+".log")
}

// Start starts a relay as a process of its own, with argv, and returns once its device can be used. The
// process reads spec from its standard input (Child). When ctx ends before, it is told to stop; when this process
// ends before, it stops by itself.
func Start(ctx context.Context, spec Spec, argv []string) (Status, error) {
	in, err := json.Marshal(spec)
	if err != nil {
		return Status{}, err
	}
	if err := os.MkdirAll(spec.Dir, 0o700); err != nil {
		return Status{}, err
	}
	log, err := openLog(LogPath(spec.Dir, spec.Device))
	if err != nil {
		return Status{}, err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return Status{}, err
	}
	defer r.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		w.Close()
		return Status{}, err
	}
	defer stdin.Close()
	err = cmd.Start()
	w.Close()
	if err != nil {
		return Status{}, fmt.Errorf("start the relay: %w", err)
	}
	_, _ = stdin.Write(in) // a relay that has ended says so below
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if err != nil {
		werr := cmd.Wait()
		return Status{}, fmt.Errorf("the relay ended before it was ready (%w); its log is %s", errors.Join(werr, context.Cause(ctx)), log.Name())
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return Status{}, fmt.Errorf("the relay says %.200q, which does not parse: %w", line, err)
	}
	if a.Status == nil {
		if a.Report == nil {
			return Status{}, errors.New("the relay says nothing of its device")
		}
		_ = cmd.Wait() // its exit code says the same
		return Status{}, a.Report.Err()
	}
	return *a.Status, cmd.Process.Release()
}

func openLog(path string) (*os.File, error) {
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if st, err := os.Stat(path); err == nil && st.Size() > maxLog {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(path, flags, 0o600)
}

// Child is the process that Start starts: it reads its spec from in and has serve serve it; what
// becomes of that goes to whoever has started it. If that one goes before, which ends in, the context of serve ends:
// nobody would know of the device, nor end it.
func Child(ctx context.Context, in io.Reader, serve func(ctx context.Context, spec Spec, ready func(Status)) error) error {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	tell := os.NewFile(readyFD, "ready")
	var told atomic.Bool
	say := func(a answer) {
		if !told.CompareAndSwap(false, true) {
			return
		}
		if b, err := json.Marshal(a); err == nil {
			_, _ = tell.Write(append(b, '\n')) // whoever wanted to know may have gone
		}
		tell.Close()
	}
	var spec Spec
	dec := json.NewDecoder(in)
	err := dec.Decode(&spec)
	if err == nil {
		go func() {
			_, _ = io.Copy(io.Discard, io.MultiReader(dec.Buffered(), in))
			if !told.Load() {
				giveUp(errors.New("whoever asked for the device has gone"))
			}
		}()
		err = serve(ctx, spec, func(st Status) { say(answer{Status: &st}) })
	}
	r := ReportOf(err)
	if err == nil {
		r = Report{Text: "the relay was stopped before it was ready"}
	}
	say(answer{Report: &r})
	return err
}
