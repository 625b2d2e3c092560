package main

import "github.com/spf13/cobra"

// extra returns the commands that need more than a control socket.
func (a *app) extra() []*cobra.Command {
	return []*cobra.Command{a.nodeCmd(), a.dumpMetaCmd(), a.installFilesCmd()}
}
