package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/node"
	"github.com/lockstep-ha/lockstep/internal/pki"
)

// tokenEnv holds a join token, for those who would rather not show it in the list of processes.
const tokenEnv = "LOCKSTEP_TOKEN"

func (a *app) clusterCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Form a cluster, let nodes and clients in",
		Long: `Cluster forms a cluster whose members prove who they are by certificates. Links between its nodes are
TLS 1.3, and nobody else gets an answer from them.

  first host   lockstep cluster init --name c1 --node n1 --listen 10.0.0.1:7780
               lockstep node --config /var/lib/lockstep/node.toml
               lockstep cluster token > t          on the first host, once for each further node
  next host    lockstep cluster join 10.0.0.1:7780 --token-file t --node n2 --listen 10.0.0.2:7780
               lockstep node --config /var/lib/lockstep/node.toml`,
		RunE: a.group,
	}
	cmd.AddCommand(a.clusterInitCmd(), a.clusterTokenCmd(), a.clusterJoinCmd(), a.clusterRenewCmd(), a.rotateKeysCmd(), a.clientCertCmd())
	return cmd
}

// seatFlags adds the flags that say where a node will be.
func (a *app) seatFlags(cmd *cobra.Command, s *node.Seat) {
	f := cmd.Flags()
	f.StringVar(&s.Name, "node", "", "`NAME` of this node (required)")
	f.StringVar(&s.Listen, "listen", "", "`HOST:PORT` at which the other nodes reach this one (required)")
	f.StringVar(&s.Gossip, "gossip", "", "`HOST:PORT` for membership (default: the port behind that of --listen)")
	f.StringVar(&s.NBD, "nbd", "", "`HOST:PORT` for NBD clients (default: none, only the unix socket)")
	f.StringVar(&s.DataDir, "data-dir", "/var/lib/lockstep", "`DIR` of the ledger, the keys and the sockets")
	f.StringVar(&s.Config, "config", "", "node `FILE` to write (default: node.toml in the data directory)")
	_ = cmd.MarkFlagDirname("data-dir")
	_ = cmd.MarkFlagFilename("config", "toml")
}

func (a *app) clusterInitCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init --name CLUSTER --node NAME --listen HOST:PORT",
		Short: "Form a cluster of which this host is the first node",
		Long: `Init makes the cluster's authority, the certificate of the first node, the ledger and the node file. It
asks nobody and starts nothing.

The authority's key is pki/ca.key in the data directory. Whoever has it can make anybody a member, and
it signs the renewal of every certificate, which is due every 60 days: keep a copy of it elsewhere. It
may be moved to another node, or kept offline and put back when it is needed.`,
		Args: cobra.NoArgs,
	}
	var c node.NewCluster
	var s node.Seat
	f := cmd.Flags()
	f.StringVar(&c.Name, "name", "", "`NAME` of the cluster (required)")
	f.StringVar(&c.Timing, "timing", "", "preset of the timings: lan or wan (default lan)")
	f.BoolVar(&c.PlainReplication, "plain-replication", false, "do not encrypt replication: only for a link that nobody else is on")
	a.seatFlags(cmd, &s)
	cmd.RunE = a.stream(func(context.Context, []string) error {
		if c.Name == "" || s.Name == "" || s.Listen == "" {
			return control.Usagef("init needs --name, --node and --listen")
		}
		file, err := node.InitCluster(c, s)
		if err != nil {
			return err
		}
		return a.done("formed cluster %s with node %s\n  next: lockstep node --config %s", c.Name, s.Name, file)
	})
	return a.withJSON(cmd)
}

func (a *app) clusterTokenCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make a token with which one node joins, once",
		Long: `Token prints a permission to join. It is a secret until it is used or has expired; the cluster keeps
only a hash of it. Carry it to the new node over a channel that you trust.`,
		Args: cobra.NoArgs,
	}
	var req control.TokenRequest
	cmd.Flags().DurationVar(&req.TTL, "ttl", time.Hour, "how long it is good for, 1m to 168h")
	cmd.Flags().StringVar(&req.Node, "for", "", "the only `NAME` under which its user may join (default: any new one)")
	cmd.RunE = a.do(func(ctx context.Context, _ []string) error { return a.printToken(ctx, req) })
	return a.remote(a.withJSON(cmd))
}

// printToken makes a token and prints it alone on standard output, so that it can be redirected.
func (a *app) printToken(ctx context.Context, req control.TokenRequest) error {
	g, err := a.client().Token(ctx, req)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(g)
	}
	if _, err := fmt.Fprintln(a.out, g.Token); err != nil {
		return err
	}
	name := req.Node
	if name == "" {
		name = "NAME"
	}
	_, err = fmt.Fprintf(a.err, "good until %s; on the new host: lockstep cluster join %s --token-file FILE --node %s --listen HOST:PORT\n",
		g.Expires.Local().Format(time.DateTime), g.Addr, name)
	return err
}

func (a *app) clusterJoinCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "join ADDR --token-file FILE --node NAME --listen HOST:PORT",
		Short: "Make this host a node of a cluster",
		Long: `Join asks the member at ADDR to let this host in. The token says which authority the member has to
prove, so nobody in between can pose as the cluster, nor use the token. When no answer came, do the
same again: that is safe.

The token is read from the file, from standard input (--token-file -), or from ` + tokenEnv + `. --token
has it on the command line, where every user of this host can see it while the command runs.`,
		Args: cobra.ExactArgs(1),
	}
	var s node.Seat
	var token, file string
	f := cmd.Flags()
	f.StringVar(&token, "token", "", "the `TOKEN` itself")
	f.StringVar(&file, "token-file", "", "`FILE` with the token; - is standard input")
	f.BoolVar(&s.Witness, "witness", false, "this node votes and holds no data")
	f.DurationVar(&a.timeout, "timeout", control.DefaultCallTimeout, "give up after so long; 0 waits for ever")
	a.seatFlags(cmd, &s)
	cmd.MarkFlagsMutuallyExclusive("token", "token-file")
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		if s.Name == "" || s.Listen == "" {
			return control.Usagef("join needs --node and --listen")
		}
		token, err := a.readToken(token, file)
		if err != nil {
			return err
		}
		j, err := node.JoinCluster(ctx, args[0], token, s)
		if err != nil {
			return err
		}
		return a.done("joined cluster %s as %s, let in by %s\n  next: lockstep node --config %s", j.Cluster, s.Name, j.Member, j.File)
	})
	return a.withJSON(cmd)
}

// readToken returns the token from wherever it was given.
func (a *app) readToken(given, file string) (string, error) {
	var b []byte
	var err error
	switch {
	case given != "":
		return given, nil
	case file == "-" && a.in == nil:
		return "", control.Usagef("there is no standard input to read a token from")
	case file == "-":
		b, err = io.ReadAll(io.LimitReader(a.in, 4096))
	case file != "":
		b, err = os.ReadFile(file)
	default:
		b = []byte(a.getenv(tokenEnv))
	}
	if err != nil {
		return "", control.Usagef("token: %v", err)
	}
	if len(strings.TrimSpace(string(b))) == 0 {
		return "", control.Usagef("no token: give it with --token-file FILE or in %s; a member makes one with: lockstep cluster token", tokenEnv)
	}
	return string(b), nil
}

func (a *app) clusterRenewCmd() *cobra.Command {
	return a.remote(a.withJSON(&cobra.Command{
		Use:   "renew",
		Short: "Renew the certificate of a node now",
		Long: `Renew has a new key of the node certified by whoever holds the authority's key. Nodes do it by
themselves when two thirds of the lifetime are over. Nothing is restarted, and connections go on.`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) error {
			s, err := a.client().Renew(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(s)
			}
			return a.done("renewed; the certificate ends on %s", s.CertificateEnds.Format(time.DateOnly))
		}),
	}))
}

func (a *app) rotateKeysCmd() *cobra.Command {
	return a.remote(a.withJSON(&cobra.Command{
		Use:   "rotate-keys",
		Short: "Change the gossip key and renew every certificate",
		Long: `Rotate-keys gives all nodes a new gossip key and each of them a new key and certificate. Nothing is
restarted, and no node loses sight of another: first every node believes the new gossip key, then every node
uses it, then the old one is forgotten. Every node has to be there. When one is lost on the way, start it and give
the command again.

The authority stays; docs/operations.md tells how it is changed.`,
		Args: cobra.NoArgs,
		RunE: a.do(a.rotateKeys),
	}))
}

func (a *app) rotateKeys(ctx context.Context, _ []string) error {
	c := a.client()
	st, err := c.Status(ctx, "")
	if err != nil {
		return err
	}
	key := config.NewKey()
	for _, step := range []string{control.GossipKeyBelieve, control.GossipKeyUse, control.GossipKeyOnly} {
		for _, n := range st.Nodes {
			if err := c.On(n.Name).GossipKey(ctx, control.GossipKey{Step: step, Key: key.Encode()}); err != nil {
				return fmt.Errorf("gossip key, step %s on %s: %w", step, n.Name, err)
			}
		}
	}
	for _, n := range st.Nodes {
		if _, err := c.On(n.Name).Renew(ctx); err != nil {
			return fmt.Errorf("the gossip key was changed; certificate of %s: %w", n.Name, err)
		}
	}
	return a.done("changed the gossip key and renewed the certificates of %d nodes", len(st.Nodes))
}

func (a *app) clientCertCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "client-cert NAME --out DIR",
		Short: "Make the certificate of an NBD client",
		Long: `Client-cert makes a key, has it certified, and writes ca-cert.pem, client-cert.pem and client-key.pem
into DIR, as qemu and libnbd look for them (tls-certificates=DIR). The key does not leave this host.`,
		Args: cobra.ExactArgs(1),
	}
	out := cmd.Flags().String("out", "", "`DIR` to write to (required)")
	_ = cmd.MarkFlagDirname("out")
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		if *out == "" {
			return control.Usagef("client-cert needs --out DIR")
		}
		csr, key, err := pki.NewCSR(args[0], rand.Reader)
		if err != nil {
			return err
		}
		g, err := a.client().ClientCert(ctx, control.CertRequest{Name: args[0], CSR: csr})
		if err != nil {
			return err
		}
		cert, err := x509.ParseCertificate(g.Certificate)
		if err != nil {
			return err
		}
		bundle, err := pki.ParseBundle(g.Bundle)
		if err != nil {
			return err
		}
		if err := pki.WriteClient(*out, pki.Credentials{Cert: cert, Key: key}, bundle); err != nil {
			return err
		}
		return a.done("wrote the certificate of %s to %s; it ends on %s", args[0], *out, cert.NotAfter.Format(time.DateOnly))
	})
	return a.remote(a.withJSON(cmd))
}
