package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal is not caught: it ends a program that hangs
	code := run(ctx, os.Args[1:], env{
		in:     os.Stdin,
		out:    os.Stdout,
		err:    os.Stderr,
		tty:    isTerminal(os.Stdout),
		getenv: os.Getenv,
	})
	stop()
	os.Exit(code)
}

// env is what the program sees of the world.
type env struct {
	in       io.Reader // nil: nobody answers a question
	out, err io.Writer
	tty      bool // out is a terminal
	getenv   func(string) string
}

// isTerminal reports whether f is a terminal: only one has a window size.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	return err == nil
}

// run carries one command line out and returns the exit code.
func run(ctx context.Context, args []string, e env) int {
	a := &app{env: e}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(e.out)
	root.SetErr(e.err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if !a.started {
		err = usageError{cmd: cmd.CommandPath(), err: err}
	}
	return a.report(err)
}
