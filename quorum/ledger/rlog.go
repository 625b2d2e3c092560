package ledger

import (
	"context"
	"fmt"
	"log/slog"
)

// raftLogger writes raft's own log to slog. What raft calls info happens at every election and
// retry, so it is debug here; this package logs the changes that an operator cares about.
type raftLogger struct{ log *slog.Logger }

func (r raftLogger) at(level slog.Level, text func() string) {
	if r.log.Enabled(context.Background(), level) {
		r.log.Log(context.Background(), level, "raft", "text", text())
	}
}

func (r raftLogger) print(level slog.Level, v []any) {
	r.at(level, func() string { return fmt.Sprint(v...) })
}

func (r raftLogger) printf(level slog.Level, format string, v []any) {
	r.at(level, func() string { return fmt.Sprintf(format, v...) })
}

func (r raftLogger) Debug(v ...any)                   { r.print(slog.LevelDebug, v) }
func (r raftLogger) Debugf(format string, v ...any)   { r.printf(slog.LevelDebug, format, v) }
func (r raftLogger) Info(v ...any)                    { r.print(slog.LevelDebug, v) }
func (r raftLogger) Infof(format string, v ...any)    { r.printf(slog.LevelDebug, format, v) }
func (r raftLogger) Warning(v ...any)                 { r.print(slog.LevelInfo, v) }
func (r raftLogger) Warningf(format string, v ...any) { r.printf(slog.LevelInfo, format, v) }
func (r raftLogger) Error(v ...any)                   { r.print(slog.LevelError, v) }
func (r raftLogger) Errorf(format string, v ...any)   { r.printf(slog.LevelError, format, v) }

// Fatal and Panic are raft's broken invariants. To go on would be to guess.

func (r raftLogger) Fatal(v ...any)                 { panic("raft: " + fmt.Sprint(v...)) }
func (r raftLogger) Fatalf(format string, v ...any) { panic("raft: " + fmt.Sprintf(format, v...)) }
func (r raftLogger) Panic(v ...any)                 { panic("raft: " + fmt.Sprint(v...)) }
func (r raftLogger) Panicf(format string, v ...any) { panic("raft: " + fmt.Sprintf(format, v...)) }
