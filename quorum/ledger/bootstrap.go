package ledger

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/quorum/voter"
)

// answerAsk answers another member's question.
func (l *Ledger) answerAsk(ctx context.Context, peer string, b []byte) ([]byte, error) {
	var q voter.Question
	if err := voter.DecodeStrict(b, &q); err != nil {
		return nil, err
	}
	var r voter.Reply
	var failed error
	err := l.call(ctx, func() { r, failed = l.v.Answer(peer, q) })
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// bootstrap asks the members until there is a ledger here, founded by this node or received.
func (l *Ledger) bootstrap(ctx context.Context) {
	pause := 4 * l.cfg.TickInterval
	for {
		over, err := l.tryFound(ctx)
		if over || errors.Is(err, ErrClosed) || ctx.Err() != nil {
			return
		}
		if err != nil {
			l.log.Error("ledger cannot be founded", "error", err)
		}
		if !wait(ctx, pause, nil) {
			return
		}
		pause = min(2*pause, max(2*time.Second, 4*l.cfg.TickInterval))
	}
}

// tryFound reports whether nothing is to be founded here any more, after it has tried to make
// that so.
func (l *Ledger) tryFound(ctx context.Context) (bool, error) {
	needed := false
	if err := l.call(ctx, func() { needed = l.v.NeedsFounding() }); err != nil || !needed {
		return !needed, err
	}
	replies, silent := l.askAll(ctx, 0)
	free := false
	if err := l.call(ctx, func() { free = l.v.Judge(replies, silent) }); err != nil || !free {
		return false, err
	}
	return l.pledgeAndFound(ctx)
}

// pledgeAndFound binds this node, then every other one, to one incarnation, and founds it.
func (l *Ledger) pledgeAndFound(ctx context.Context) (bool, error) {
	var incarnation uint64
	var failed error
	err := l.call(ctx, func() { incarnation, failed = l.v.Pledge() })
	if err := errors.Join(err, failed); err != nil {
		return false, err
	}
	pledges, _ := l.askAll(ctx, incarnation)
	addrs := map[string]string{}
	for _, m := range l.cfg.Members {
		addrs[m.Name] = m.Addr
	}
	founded := false
	err = l.call(ctx, func() { founded, failed = l.v.Found(pledges, addrs) })
	return founded, errors.Join(err, failed)
}

// askAll asks every other member and returns the answers, and who gave none.
func (l *Ledger) askAll(ctx context.Context, pledge uint64) (map[string]voter.Reply, []string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	q := l.v.Question(pledge)
	var mu sync.Mutex
	var wg sync.WaitGroup
	replies := map[string]voter.Reply{}
	var silent []string
	for _, m := range l.cfg.Members {
		if m.Name == l.cfg.Node {
			continue
		}
		wg.Go(func() {
			r, err := l.askOne(ctx, m, q)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				l.log.Debug("member does not answer", "peer", m.Name, "error", err)
				silent = append(silent, m.Name)
				return
			}
			replies[m.Name] = r
		})
	}
	wg.Wait()
	slices.Sort(silent)
	return replies, silent
}

func (l *Ledger) askOne(ctx context.Context, m Member, q voter.Question) (voter.Reply, error) {
	var r voter.Reply
	conn, err := l.cfg.Transport.Dial(ctx, m.Addr, m.Name, Service)
	if err != nil {
		return r, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	b, err := json.Marshal(q)
	if err != nil {
		return r, err
	}
	if _, err := conn.Write(voter.NewFrame(voter.FrameAsk, b)); err != nil {
		return r, err
	}
	f, err := voter.ReadFrame(bufio.NewReader(conn))
	if err != nil {
		return r, err
	}
	if f.Kind != voter.FrameAnswer {
		return r, fmt.Errorf("%w: kind %d instead of an answer", voter.ErrFrame, f.Kind)
	}
	if err := voter.DecodeStrict(f.Body, &r); err != nil {
		return r, err
	}
	return r, voter.CheckReply(r)
}
