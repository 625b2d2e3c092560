package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
)

// Colours, as SGR parameters.
const (
	colourGood = "32"
	colourWarn = "33"
	colourBad  = "31"
	colourBold = "1"
)

// painter colours text, or leaves it alone.
type painter bool

func (p painter) paint(code, text string) string {
	if !p || code == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// renderStatus writes the status for people, in the manner of drbdadm status: one line for the
// resource on this node, one for each peer, key:value throughout.
func renderStatus(st *control.Status, colour bool) []byte {
	p := painter(colour)
	var b bytes.Buffer
	renderCluster(&b, st, p)
	if len(st.Resources) == 0 {
		b.WriteString("\nno resource; make one with: lockstep resource create\n")
	}
	for i := range st.Resources {
		b.WriteByte('\n')
		renderResource(&b, st, &st.Resources[i], p)
	}
	return b.Bytes()
}

// renderCluster writes the head: who answers, the ledger, the nodes.
func renderCluster(b *bytes.Buffer, st *control.Status, p painter) {
	quorum := p.paint(colourGood, "quorum:yes")
	if !st.Ledger.Quorum {
		quorum = p.paint(colourBad, "quorum:no")
	}
	leader := st.Ledger.Leader
	if leader == "" {
		leader = "none"
	}
	fmt.Fprintf(b, "node:%s %s leader:%s", st.Node, quorum, leader)
	var nodes []string
	for _, n := range st.Nodes {
		text := n.Name
		switch {
		case n.Witness && !n.Alive:
			text = p.paint(colourBad, text+"(witness,silent)")
		case !n.Alive:
			text = p.paint(colourBad, text+"(silent)")
		case !n.Voter && st.Ledger.Leader != "":
			text = p.paint(colourWarn, text+"(no-vote)")
		case n.Witness:
			text += "(witness)"
		}
		nodes = append(nodes, text)
	}
	if len(nodes) > 0 {
		fmt.Fprintf(b, " nodes:%s", strings.Join(nodes, ","))
	}
	if st.Security != nil && st.Security.Links == "plain" {
		b.WriteString(" " + p.paint(colourWarn, "link:plain"))
	}
	b.WriteByte('\n')
	if st.Security != nil && st.Security.Problem != "" {
		b.WriteString("  " + p.paint(colourBad, "!") + " " + st.Security.Problem + "\n")
	}
	if st.Ledger.Problem != "" {
		b.WriteString("  " + p.paint(colourBad, "!") + " " + st.Ledger.Problem + "\n")
	}
}

func renderResource(b *bytes.Buffer, st *control.Status, r *control.Resource, p painter) {
	primary := r.Primary
	if primary == "" {
		primary = p.paint(colourWarn, "none")
	}
	fmt.Fprintf(b, "%s role:%s primary:%s epoch:%d size:%v\n", p.paint(colourBold, r.Name), r.Role, primary, r.Epoch, config.Size(r.SizeBytes))
	fmt.Fprintf(b, "  disk:%s io:%s", paintDisk(p, r.DiskState), paintIO(p, r.IO.State))
	if r.IO.Reason != "" {
		fmt.Fprintf(b, " (%s)", r.IO.Reason)
	}
	fmt.Fprintf(b, " in-sync:%s\n", joinOrNone(r.InSync))
	for i := range r.Replicas {
		if r.Replicas[i].Node == st.Node {
			renderDivergence(b, &r.Replicas[i], p)
			renderProgress(b, &r.Replicas[i], p)
		}
	}
	for i := range r.Replicas {
		if r.Replicas[i].Node != st.Node {
			renderPeer(b, r, &r.Replicas[i], p)
			renderDivergence(b, &r.Replicas[i], p)
			renderProgress(b, &r.Replicas[i], p)
		}
	}
	renderVerify(b, r.Verify)
	if text := failoverText(&r.Policy); text != "" {
		fmt.Fprintf(b, "  failover:%s\n", p.paint(colourWarn, text))
	}
	renderServices(b, r.Services, p)
	if r.Role == control.RolePrimary {
		fmt.Fprintf(b, "  nbd clients:%d", r.NBD.Clients)
		if r.NBD.Unix != "" {
			fmt.Fprintf(b, " unix:%s", r.NBD.Unix)
		}
		if r.NBD.TCP != "" {
			fmt.Fprintf(b, " tcp:%s", r.NBD.TCP)
		}
		b.WriteByte('\n')
	}
	for _, x := range r.Attachments {
		fmt.Fprintf(b, "  attached:%s:%s %s connected:%s\n", x.Holder, x.Device, modeText(x), connectedText(x))
	}
	for _, advice := range r.Advice {
		b.WriteString("  " + p.paint(colourWarn, "!") + " " + strings.ReplaceAll(advice, "\n", "\n    ") + "\n")
	}
}

// failoverText says why the cluster promotes nobody by itself, "" if it does.
func failoverText(p *control.Policy) string {
	switch {
	case p.Held:
		return "held (an operator demoted it)"
	case p.Paused && p.PausedWhy != "":
		return "paused (" + p.PausedWhy + ")"
	case p.Paused:
		return "paused"
	case p.Failover == "manual":
		return p.Failover
	}
	return ""
}

// renderPeer writes the line of another node's replica.
func renderPeer(b *bytes.Buffer, r *control.Resource, peer *control.Replica, p painter) {
	fmt.Fprintf(b, "  %s connection:%s disk:%s", peer.Node, paintConn(p, peer.Connection), paintDisk(p, peer.DiskState))
	if peer.Node == r.Primary {
		b.WriteString(" role:" + control.RolePrimary)
	}
	if !peer.InSync {
		b.WriteString(" " + p.paint(colourWarn, "not-in-sync"))
	}
	if peer.DirtyBytes > 0 {
		fmt.Fprintf(b, " dirty:%s", bytesText(peer.DirtyBytes))
	}
	if peer.UnstableBytes > 0 {
		fmt.Fprintf(b, " unstable:%s", bytesText(peer.UnstableBytes))
	}
	b.WriteByte('\n')
}

// renderProgress writes the bar of a resync into a replica.
func renderProgress(b *bytes.Buffer, rep *control.Replica, p painter) {
	if rep.Resync == nil {
		return
	}
	s := rep.Resync
	fmt.Fprintf(b, "    resync %s %5.1f%%", bar(s.Percent), s.Percent)
	if s.Paused {
		fmt.Fprintf(b, " %s\n", p.paint(colourWarn, "paused"))
		return
	}
	fmt.Fprintf(b, " %s/s %s\n", bytesText(s.BytesPerSec), leftText(s.ETASeconds))
}

func renderVerify(b *bytes.Buffer, v *control.Verify) {
	if v == nil {
		return
	}
	if v.Running {
		fmt.Fprintf(b, "    verify %s %5.1f%% %s/s %s differences:%d\n", bar(v.Percent), v.Percent, bytesText(v.BytesPerSec), leftText(v.ETASeconds), v.Differences)
		return
	}
	when := ""
	if v.Finished != nil {
		when = " at " + v.Finished.UTC().Format(time.RFC3339)
	}
	fmt.Fprintf(b, "  last verify%s differences:%d repaired:%d\n", when, v.Differences, v.Repaired)
}

// bar draws percent with 20 characters. It is full only at 100.
func bar(percent float64) string {
	const width = 20
	n := int(percent / 100 * width)
	n = min(max(n, 0), width)
	head := ""
	if n < width {
		head = ">"
	}
	return "[" + strings.Repeat("=", n) + head + strings.Repeat(".", width-n-len(head)) + "]"
}

// leftText tells the time left.
func leftText(seconds int64) string {
	if seconds < 0 {
		return "time left unknown"
	}
	return (time.Duration(seconds) * time.Second).String() + " left"
}

// bytesText writes a number of bytes for people, with one decimal from KiB on.
func bytesText(n int64) string {
	units := []struct {
		size config.Size
		name string
	}{{config.TiB, "TiB"}, {config.GiB, "GiB"}, {config.MiB, "MiB"}, {config.KiB, "KiB"}}
	for _, u := range units {
		if n >= int64(u.size) {
			return fmt.Sprintf("%.1f%s", float64(n)/float64(u.size), u.name)
		}
	}
	return fmt.Sprintf("%dB", n)
}

func joinOrNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ",")
}

func paintDisk(p painter, state string) string {
	code := colourWarn
	switch state {
	case control.DiskUpToDate:
		code = colourGood
	case control.DiskFailed, control.DiskDiverged:
		code = colourBad
	}
	return p.paint(code, state)
}

func paintConn(p painter, state string) string {
	switch {
	case state == control.ConnConnected:
		return p.paint(colourGood, state)
	case slices.Contains([]string{control.ConnLocal, control.ConnNotApplicable}, state):
		return state
	}
	return p.paint(colourBad, state)
}

func paintIO(p painter, state string) string {
	switch state {
	case control.IORunning:
		return p.paint(colourGood, state)
	case control.IONone:
		return state
	}
	return p.paint(colourBad, state)
}
