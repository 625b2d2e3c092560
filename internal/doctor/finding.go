package doctor

import (
	"cmp"
	"fmt"
	"slices"
)

// Severity says what a finding costs; see the package comment.
type Severity string

// The severities, from the least.
const (
	OK      Severity = "ok"
	Note    Severity = "note"
	Warning Severity = "warning"
	Danger  Severity = "danger"
)

var ranks = []Severity{OK, Note, Warning, Danger}

// rank orders severities; the highest is the worst.
func (s Severity) rank() int { return slices.Index(ranks, s) }

// AtLeast reports whether s is as bad as t, or worse.
func (s Severity) AtLeast(t Severity) bool { return s.rank() >= t.rank() }

// Finding is one thing that was looked at.
type Finding struct {
	Code     string   `json:"code"` // stable, for programs
	Severity Severity `json:"severity"`
	Subject  string   `json:"subject"` // "cluster", a node, a resource, or "r0 on n2"
	What     string   `json:"what"`
	Why      string   `json:"why,omitempty"`
	Next     string   `json:"next,omitempty"`
	Accepted bool     `json:"accepted"` // an operator lives with it: it is not counted
}

// Report is what an examination found.
type Report struct {
	Asked    string    `json:"asked"` // the node that was asked
	Nodes    []string  `json:"nodes"`
	Findings []Finding `json:"findings"` // the worst first
	Losses   []Loss    `json:"losses"`
	Worst    Severity  `json:"worst"` // of what is not accepted
}

// Codes lists every code that a Finding may have, sorted.
func Codes() []string {
	return []string{
		codeAuthority, codeCertificate, codeClock, codeDataDir, codeDisk, codeDisks, codeDisconnected, codeDiverged, codeFailover, codeFence, codeHost, codeIO,
		codeLeader, codeLink, codeLoss, codeMemory, codeMount, codeNetwork, codeNotInSync, codeOneCopy, codePause, codePrimary, codeQuorum,
		codeServiceBoot, codeServiceFailed, codeServiceUnfit, codeSigner, codeSilent, codeSpace, codeSupervisor, codeTiming, codeUnreachable, codeVersion, codeVoters, codeWatchdog, codeWriteCache, codeWritePath,
	}
}

// The codes.
const (
	codeAuthority     = "authority-ends"
	codeCertificate   = "certificate-ends"
	codeClock         = "clock-drift"
	codeDataDir       = "data-dir-on-replica-disk"
	codeDisconnected  = "disconnected"
	codeDisk          = "disk-failed"
	codeDisks         = "one-disk"
	codeDiverged      = "diverged"
	codeFailover      = "failover-off"
	codeFence         = "no-fence"
	codeHost          = "one-host"
	codeIO            = "not-serving"
	codeLeader        = "leader-on-primary"
	codeLink          = "slow-link"
	codeLoss          = "loss"
	codeMemory        = "in-memory"
	codeMount         = "mount-unguarded"
	codeNetwork       = "one-network-path"
	codeNotInSync     = "not-in-sync"
	codeOneCopy       = "one-copy"
	codePause         = "paused-host"
	codePrimary       = "no-primary"
	codeQuorum        = "no-quorum"
	codeServiceBoot   = "service-at-boot"
	codeServiceFailed = "services-failed"
	codeServiceUnfit  = "service-unfit"
	codeSigner        = "nobody-signs"
	codeSilent        = "node-silent"
	codeSpace         = "little-space"
	codeSupervisor    = "not-supervised"
	codeTiming        = "timing-differs"
	codeUnreachable   = "unreachable"
	codeVersion       = "version-mismatch"
	codeVoters        = "few-voters"
	codeWatchdog      = "no-watchdog"
	codeWriteCache    = "volatile-cache"
	codeWritePath     = "write-path"
)

// findings collects what is found.
type findings struct{ all []Finding }

// add notes a finding whose What is formatted; why and next follow.
func (f *findings) add(code string, s Severity, subject, why, next, format string, args ...any) {
	f.all = append(f.all, Finding{Code: code, Severity: s, Subject: subject, What: fmt.Sprintf(format, args...), Why: why, Next: next})
}

// fine notes that something was looked at and is as it should be.
func (f *findings) fine(code, subject, format string, args ...any) {
	f.add(code, OK, subject, "", "", format, args...)
}

// finish accepts what is to be accepted, puts the worst first and tells how bad it is.
func (f *findings) finish(accept []string) ([]Finding, Severity) {
	worst := OK
	for i := range f.all {
		x := &f.all[i]
		x.Accepted = x.Severity != OK && slices.Contains(accept, x.Code)
		if !x.Accepted && x.Severity.AtLeast(worst) {
			worst = x.Severity
		}
	}
	slices.SortStableFunc(f.all, func(a, b Finding) int {
		if a.Accepted != b.Accepted {
			if a.Accepted {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(b.Severity.rank(), a.Severity.rank()), 0)
	})
	return f.all, worst
}
