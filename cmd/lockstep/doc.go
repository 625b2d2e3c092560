// Command lockstep is the daemon and the operator's tool of a replicated block device service.
//
// It decides nothing: "lockstep node" runs internal/node with a file read by internal/config, and
// every other command asks a running node over its control socket (internal/control) and prints the
// answer. docs/cli.md describes the commands for users; a test keeps it equal to their help.
//
// A file here is one group of commands. app.go holds what they share, exit.go the exit codes and the
// shape of error messages, render.go the text of status.
package main
