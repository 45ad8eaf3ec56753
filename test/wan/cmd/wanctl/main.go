// SPDX-License-Identifier: Apache-2.0

//go:build linux

// wanctl runs the emulator of distances between network namespaces, and changes distances while it runs.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"text/tabwriter"

	"github.com/fogsched/fogsched/test/wan/tun"
)

const usage = `Usage:
  wanctl [-socket FILE] serve [-lease]    run an emulator, as root, until "stop" or SIGTERM; with -lease also until its input ends
  wanctl [-socket FILE] COMMAND           ask a running one

Commands:
  nodes                                   the nodes
  add NAME PID|NETNS IP [POD-CIDR ...]    a namespace becomes a node
  remove NAME                             a node's traffic goes its former way
  links                                   what lies between the nodes
  set [-rtt 20ms] [-jitter 1ms] [-loss 0.01] [-down] [-oneway] A B
                                          change what lies between two nodes: what is not given is 0
  partition NAME, heal NAME               cut a node off from all others, and end that
  stats                                   packets forwarded and dropped, and how late they were
  stop                                    end the emulator

The socket is FOGSCHED_WAN_SOCKET in the environment, else wan.sock in the present folder.
`

func main() {
	if err := run(os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "wanctl:", err)
		}
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := newFlags("wanctl")
	socket := flags.String("socket", cmp.Or(os.Getenv("FOGSCHED_WAN_SOCKET"), "wan.sock"), "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return flag.ErrHelp
	}
	command, args := flags.Arg(0), flags.Args()[1:]
	if command == "serve" {
		return serve(*socket, args)
	}
	c, err := tun.Dial(*socket)
	if err != nil {
		return err
	}
	defer c.Close()
	return ask(c, command, args)
}

func newFlags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	return flags
}

func serve(socket string, args []string) error {
	flags := newFlags("serve")
	lease := flags.Bool("lease", false, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *lease {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			stop()
		}()
	}
	if err := tun.Hurry(); err != nil {
		fmt.Fprintln(os.Stderr, "wanctl: the load of the machine will show as distance:", err)
	}
	l, err := tun.Listen(socket)
	if err != nil {
		return err
	}
	e, err := tun.Start(context.Background(), nil, tun.Options{Seed: 1})
	if err != nil {
		return err
	}
	fmt.Println("ready at", socket)
	return tun.Serve(ctx, l, e)
}

func ask(c *tun.Client, command string, args []string) error {
	want := func(n int) error {
		if len(args) != n {
			return fmt.Errorf("%s takes %d arguments, not %d: see wanctl -help", command, n, len(args))
		}
		return nil
	}
	switch command {
	case "nodes":
		if err := want(0); err != nil {
			return err
		}
		nodes, err := c.Nodes()
		return table(err, "NAME\tIP\tPOD-CIDRS\tNETNS", func(line func(...any)) {
			for _, n := range nodes {
				line(n.Name, n.IP, n.PodCIDRs, n.NetNS)
			}
		})
	case "add":
		n, err := parseNode(args)
		if err != nil {
			return err
		}
		return c.Add(n)
	case "links":
		if err := want(0); err != nil {
			return err
		}
		links, err := c.Links()
		return table(err, "FROM\tTO\tRTT\tJITTER\tLOSS\tDOWN", func(line func(...any)) {
			for _, d := range links {
				line(d.From, d.To, d.RTT, d.Jitter, d.Loss, d.Down)
			}
		})
	case "set":
		return set(c, args)
	case "stats":
		if err := want(0); err != nil {
			return err
		}
		s, err := c.Stats()
		return table(err, "FORWARDED\tLOST\tDOWN\tUNROUTABLE\tOVERFLOW\tOVERRUN\tFAILED\tLATE-P50\tLATE-P99\tLATE-MAX", func(line func(...any)) {
			line(s.Forwarded, s.Lost, s.Down, s.Unroutable, s.Overflow, s.Overrun, s.Failed, s.LatenessP50, s.LatenessP99, s.LatenessMax)
		})
	case "stop":
		if err := want(0); err != nil {
			return err
		}
		return c.Stop()
	}
	byName := map[string]func(string) error{"remove": c.Remove, "partition": c.Partition, "heal": c.Heal}[command]
	if byName == nil {
		return fmt.Errorf("there is no command %q: see wanctl -help", command)
	}
	if err := want(1); err != nil {
		return err
	}
	return byName(args[0])
}

func parseNode(args []string) (tun.Node, error) {
	if len(args) < 3 {
		return tun.Node{}, errors.New("add takes a name, a process or a namespace's file, an IP, and pod networks: see wanctl -help")
	}
	n := tun.Node{Name: args[0], NetNS: args[1]}
	if pid, err := strconv.Atoi(args[1]); err == nil {
		n.NetNS = tun.ProcNetNS(pid)
	}
	var err error
	if n.IP, err = netip.ParseAddr(args[2]); err != nil {
		return n, err
	}
	for _, a := range args[3:] {
		p, err := netip.ParsePrefix(a)
		if err != nil {
			return n, err
		}
		n.PodCIDRs = append(n.PodCIDRs, p)
	}
	return n, nil
}

func set(c *tun.Client, args []string) error {
	var l tun.Link
	flags := newFlags("set")
	flags.DurationVar(&l.RTT, "rtt", 0, "")
	flags.DurationVar(&l.Jitter, "jitter", 0, "")
	flags.Float64Var(&l.Loss, "loss", 0, "")
	flags.BoolVar(&l.Down, "down", false, "")
	oneWay := flags.Bool("oneway", false, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		return errors.New("set takes two nodes after its flags: see wanctl -help")
	}
	a, b := flags.Arg(0), flags.Arg(1)
	nodes, err := c.Nodes()
	if err != nil {
		return err
	}
	for _, name := range []string{a, b} {
		if !has(nodes, name) {
			return fmt.Errorf("there is no node %q: see wanctl nodes", name)
		}
	}
	if *oneWay {
		return c.SetLinks([]tun.Direction{{From: a, To: b, Link: l}})
	}
	return c.Set(a, b, l)
}

func has(nodes []tun.Node, name string) bool {
	for _, n := range nodes {
		if n.Name == name {
			return true
		}
	}
	return false
}

func table(err error, header string, fill func(line func(...any))) error {
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, header)
	fill(func(cells ...any) {
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, c)
		}
		fmt.Fprintln(w)
	})
	return w.Flush()
}
