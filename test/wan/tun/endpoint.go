// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tun

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// deviceName is the name of the TUN device in every namespace.
	deviceName = "fogwan"
	// number is that of our routing table, and of our rule: before the main table and after the local one, so that what is
	// for the node itself stays there.
	number = 8620
	// queueLen is how many packets the kernel keeps for the emulator.
	queueLen = 10_000
)

// endpoint is the device of a node, and the way to it. The files keep the namespace alive, so that it can be left in order
// also when the node's processes have gone.
type endpoint struct {
	device *os.File
	index  int
	handle *netlink.Handle // acts in the namespace from everywhere
	source net.IP
	ruled  bool // the rule is there
}

// open makes the device. No packet goes there yet.
func (p *endpoint) open(n Node) (err error) {
	p.source = n.IP.AsSlice()
	ns, err := os.Open(n.NetNS)
	if err != nil {
		return fmt.Errorf("netNS: %w", err)
	}
	defer ns.Close()
	defer func() {
		if err != nil {
			_ = p.close()
		}
	}()
	return inNamespace(ns, func() error {
		if p.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("opening a netlink socket: %w", err)
		}
		mtu, err := p.mtu()
		if err != nil {
			return err
		}
		if p.device, err = newDevice(); err != nil {
			return err
		}
		// With its device, an emulator that was killed loses all but its rule, to a table that is empty.
		for p.handle.RuleDel(rule()) == nil {
		}
		return p.setUp(mtu)
	})
}

// mtu returns that of the interface that has the node's address.
func (p *endpoint) mtu() (int, error) {
	addrs, err := p.handle.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return 0, fmt.Errorf("listing addresses: %w", err)
	}
	for _, a := range addrs {
		if a.IP.Equal(p.source) {
			link, err := p.handle.LinkByIndex(a.LinkIndex)
			if err != nil {
				return 0, fmt.Errorf("asking for the interface of %s: %w", p.source, err)
			}
			return link.Attrs().MTU, nil
		}
	}
	return 0, fmt.Errorf("ip %s: no interface of the namespace has it; give the node's own address", p.source)
}

// newDevice makes a TUN device in the present namespace. It lives until the file is closed.
func newDevice() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(deviceName)
	if err == nil {
		// No offloads are asked for, so the kernel hands out plain packets with their checksums, none above the MTU.
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		if errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("the namespace has a device %s already: another emulator runs there, end it first", deviceName)
		}
		return nil, fmt.Errorf("making the TUN device %s: %w", deviceName, err)
	}
	return os.NewFile(uintptr(fd), deviceName), nil
}

func (p *endpoint) setUp(mtu int) error {
	// Packets come in whose sender is routed elsewhere: while nodes are added, and where a sender from outside is passed on. No
	// IPv6 is to come out.
	for key, value := range map[string]string{
		"ipv4/conf/" + deviceName + "/rp_filter":    "2", // loose, whatever conf/all has
		"ipv6/conf/" + deviceName + "/disable_ipv6": "1",
	} {
		err := os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // no IPv6
			return fmt.Errorf("setting a sysctl: %w", err)
		}
	}
	link, err := p.handle.LinkByName(deviceName)
	if err != nil {
		return fmt.Errorf("looking up %s: %w", deviceName, err)
	}
	p.index = link.Attrs().Index
	// The node's address is on the device too, so that what the node sends or masquerades has that for its source.
	address := &netlink.Addr{IPNet: &net.IPNet{IP: p.source, Mask: net.CIDRMask(32, 32)}}
	for what, do := range map[string]func() error{
		"MTU":     func() error { return p.handle.LinkSetMTU(link, mtu) },
		"queue":   func() error { return p.handle.LinkSetTxQLen(link, queueLen) },
		"address": func() error { return p.handle.AddrAdd(link, address) },
	} {
		if err := do(); err != nil {
			return fmt.Errorf("setting the %s of %s: %w", what, deviceName, err)
		}
	}
	if err := p.handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting %s up: %w", deviceName, err)
	}
	return nil
}

func (p *endpoint) route(to netip.Prefix) *netlink.Route {
	return &netlink.Route{
		LinkIndex: p.index,
		Dst:       &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), 32)},
		Scope:     netlink.SCOPE_LINK,
		Table:     number,
	}
}

func (p *endpoint) addRoutes(to []netip.Prefix) error {
	for _, prefix := range to {
		if err := p.handle.RouteReplace(p.route(prefix)); err != nil {
			return fmt.Errorf("routing %s to %s: %w", prefix, deviceName, err)
		}
	}
	return nil
}

func (p *endpoint) delRoutes(to []netip.Prefix) error {
	var errs []error
	for _, prefix := range to {
		if err := p.handle.RouteDel(p.route(prefix)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("removing the route of %s: %w", prefix, err))
		}
	}
	return errors.Join(errs...)
}

func rule() *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table = netlink.FAMILY_V4, number, number
	return r
}

func (p *endpoint) addRule() error {
	if err := p.handle.RuleAdd(rule()); err != nil {
		return fmt.Errorf("adding the routing rule %d: %w", number, err)
	}
	p.ruled = true
	return nil
}

func (p *endpoint) delRule() error {
	if !p.ruled {
		return nil
	}
	p.ruled = false
	if err := p.handle.RuleDel(rule()); err != nil {
		return fmt.Errorf("removing the routing rule %d: %w", number, err)
	}
	return nil
}

// overrun returns how many packets the kernel had no room for.
func (p *endpoint) overrun() uint64 {
	link, err := p.handle.LinkByIndex(p.index)
	if err != nil || link.Attrs().Statistics == nil {
		return 0
	}
	return link.Attrs().Statistics.TxDropped
}

// close takes the device away, and with it its routes. A read or a write of the device ends.
func (p *endpoint) close() error {
	var err error
	if p.device != nil {
		err = p.device.Close()
	}
	if p.handle != nil {
		p.handle.Close()
	}
	return err
}

// inNamespace calls do on a thread that is in a network namespace.
func inNamespace(ns *os.File, do func() error) error {
	done := make(chan error)
	go func() {
		// The thread is given back only once it is home again: a goroutine that ends with its thread locked ends the thread.
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- fmt.Errorf("opening the present network namespace: %w", err)
			return
		}
		defer home.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering the network namespace %s: %w", ns.Name(), err)
			return
		}
		err = do()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
