package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-ha/lockstep/internal/services/program"
)

// root is where OCF has its agents.
const root = "/usr/lib/ocf"

// Exit codes of agents.
const (
	exitOK             = 0
	exitNotRunning     = 7
	exitPromoted       = 8
	exitDegraded       = 190
	exitDegradedMaster = 191
)

// exitNames are what the standard calls them.
var exitNames = map[int]string{
	1: "an error", 2: "bad arguments", 3: "not implemented", 4: "not permitted", 5: "something is not installed",
	6: "not configured", exitNotRunning: "not running", 9: "promoted and failed",
}

// OCF is one resource agent with its parameters.
type OCF struct {
	Provider, Type string
	Instance       string   // what the agent calls itself by in what it logs and keeps
	Params         []string // name=value
	// Interval is told to the agent with each monitor.
	Interval time.Duration
	Root     string // "": /usr/lib/ocf

	attempt attempt
}

// Start returns when the agent says that the service runs.
func (o *OCF) Start(ctx context.Context) error {
	return o.attempt.started(o.act(ctx, "start", 0, exitOK))
}

// Stop returns when the agent says that the service does not run.
func (o *OCF) Stop(ctx context.Context) error {
	return o.attempt.stopped(o.act(ctx, "stop", 0, exitOK, exitNotRunning))
}

// Monitor returns nil if the service runs.
func (o *OCF) Monitor(ctx context.Context) error {
	return o.act(ctx, "monitor", o.Interval, exitOK, exitPromoted, exitDegraded, exitDegradedMaster)
}

// Examine returns what is wrong with the agent before it is ever run.
func (o *OCF) Examine(context.Context) error {
	if err := isProgram(o.path()); err != nil {
		return fmt.Errorf("agent %s:%s: %w", o.Provider, o.Type, err)
	}
	return nil
}

// isProgram returns an error if nothing at path can be run.
func isProgram(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.IsDir() || info.Mode()&0o111 == 0:
		return fmt.Errorf("%s is no program", path)
	}
	return nil
}

func (o *OCF) dir() string {
	if o.Root != "" {
		return o.Root
	}
	return root
}

func (o *OCF) path() string { return filepath.Join(o.dir(), "resource.d", o.Provider, o.Type) }

func (o *OCF) act(ctx context.Context, action string, interval time.Duration, good ...int) error {
	r, err := program.Run(ctx, program.Command{Path: o.path(), Args: []string{action}, Env: o.env(ctx, interval)})
	if err != nil {
		return fmt.Errorf("%s:%s %s: %w", o.Provider, o.Type, action, err)
	}
	return judge(fmt.Sprintf("%s:%s %s", o.Provider, o.Type, action), r, good)
}

// env is what the standard has an agent be told, and the Pacemaker names that real agents ask for.
func (o *OCF) env(ctx context.Context, interval time.Duration) []string {
	env := []string{
		"PATH=" + withSbin(os.Getenv("PATH")),
		"OCF_ROOT=" + o.dir(),
		"OCF_RA_VERSION_MAJOR=1", "OCF_RA_VERSION_MINOR=1",
		"OCF_RESOURCE_INSTANCE=" + o.Instance,
		"OCF_RESOURCE_TYPE=" + o.Type,
		"OCF_RESOURCE_PROVIDER=" + o.Provider,
		"OCF_RESKEY_CRM_meta_interval=" + strconv.FormatInt(interval.Milliseconds(), 10),
	}
	if end, ok := ctx.Deadline(); ok {
		env = append(env, "OCF_RESKEY_CRM_meta_timeout="+strconv.FormatInt(time.Until(end).Milliseconds(), 10))
	}
	for _, p := range o.Params {
		env = append(env, "OCF_RESKEY_"+p)
	}
	return env
}

// withSbin adds the directories that agents have their tools in.
func withSbin(path string) string {
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
		if !strings.Contains(":"+path+":", ":"+dir+":") {
			path += ":" + dir
		}
	}
	return strings.TrimPrefix(path, ":")
}

// judge turns an exit code that is not good into an error.
func judge(what string, r program.Result, good []int) error {
	for _, code := range good {
		if r.Code == code {
			return nil
		}
	}
	name := exitNames[r.Code]
	if name != "" {
		name = ", " + name
	}
	return fmt.Errorf("%s: exit %d%s: %s", what, r.Code, name, reason(r))
}

// reason returns why an agent failed. Agents mark that line, and may log more after it.
func reason(r program.Result) string {
	const mark = "ocf-exit-reason:"
	i := strings.LastIndex("\n"+r.Output, "\n"+mark)
	if i < 0 {
		return r.LastLine()
	}
	line, _, _ := strings.Cut(r.Output[i+len(mark):], "\n")
	return program.Result{Output: line}.LastLine()
}
