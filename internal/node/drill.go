package node

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// drillOrders carries out what a drill asks of this process. Whoever may ask could as well kill the
// process by hand; the token keeps an order that was lost or is repeated by mistake from being carried
// out when nobody waits for it.
type drillOrders struct {
	mu    sync.Mutex
	token string    // of the newest arm; "" once it was used
	until time.Time // it is good
}

// answerFirst is how long an order waits, so that its answer leaves before the process is struck.
const answerFirst = 200 * time.Millisecond

func (o *drillOrders) arm(now time.Time) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.token, o.until = rand.Text(), now.Add(control.ArmedFor)
	return o.token
}

// use takes the token, which is good once.
func (o *drillOrders) use(token string, now time.Time) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if token == "" || token != o.token || now.After(o.until) {
		return refusedf("the order of the drill has no token, or an old one; nothing was done").WithHint("start the drill again")
	}
	o.token = ""
	return nil
}

// Drill carries out one order of a drill.
func (b *backend) Drill(_ context.Context, order control.DrillOrder) (control.DrillAnswer, error) {
	o := &b.exam.orders
	switch order.Op {
	case control.DrillArm:
		return control.DrillAnswer{Token: o.arm(time.Now())}, nil
	case control.DrillClean:
		return control.DrillAnswer{}, b.cleanScratch(order)
	case control.DrillExit, control.DrillStill:
	default:
		return control.DrillAnswer{}, control.Usagef("a drill has no operation %q", order.Op)
	}
	strike := killSelf
	switch {
	case order.Op == control.DrillExit && supervisor(os.Getenv) == "":
		return control.DrillAnswer{}, refusedf("nobody is known to start the daemon of %s again, so it does not kill itself", b.m.self.Node).
			WithHint("run the daemon as a systemd service")
	case order.Op == control.DrillStill && (order.For < control.MinStill || order.For > control.MaxStill):
		return control.DrillAnswer{}, control.Usagef("to stand still for %v is not between %v and %v", order.For, control.MinStill, control.MaxStill)
	case order.Op == control.DrillStill:
		strike = func() error { return standStill(order.For) }
	}
	if err := o.use(order.Token, time.Now()); err != nil {
		return control.DrillAnswer{}, err
	}
	b.m.log.Warn("a drill strikes this process", "operation", order.Op, "for", order.For)
	b.journal.add("", "drill", "A drill strikes this process: "+order.Op+".")
	time.AfterFunc(answerFirst, func() {
		if err := strike(); err != nil {
			b.m.log.Error("the drill did not strike", "err", err)
		}
	})
	return control.DrillAnswer{}, nil
}

// cleanScratch removes the files of a scratch resource that is deleted. Their names have to be those that a
// drill gives, so no other file is ever removed.
func (b *backend) cleanScratch(order control.DrillOrder) error {
	name := order.Resource
	if !control.ScratchName.MatchString(name) {
		return control.Usagef("%q is not the name of a drill's resource", name)
	}
	for _, p := range order.Paths {
		if base := filepath.Base(p); !filepath.IsAbs(p) || base != name+".img" && base != name+".img.meta" {
			return control.Usagef("%s is not a file of the drill's resource %s", p, name)
		}
	}
	st := b.m.ledger.State()
	if st == nil || st.Find(name) != nil || slices.ContainsFunc(b.m.all(), func(w *worker) bool { return w.name == name }) {
		return control.Errorf(control.CodeBusy, "%s is still there", name).WithHint("lockstep resource delete %s, then again", name).WithSafety(control.SafetyYes)
	}
	var errs []error
	for _, p := range order.Paths {
		st, err := os.Lstat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err == nil && !st.Mode().IsRegular():
			err = errors.New(p + " is no regular file")
		case err == nil:
			err = os.Remove(p)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
