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
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// deviceName is the name of the TUN device in every namespace.
	deviceName = "fogwan"
	// number is that of our routing table, and of our rules: before the main table and after the local one, so that what is
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
	// prefixes are all addresses that lead to the node.
	prefixes []netip.Prefix
	rules    []*netlink.Rule // those that are there
}

// open makes the device. No packet goes there yet.
func (p *endpoint) open(n Node) (err error) {
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
		mtu, addresses, err := p.uplink(n.IP)
		if err != nil {
			return err
		}
		p.prefixes = append(addresses, n.PodCIDRs...)
		if p.device, err = newDevice(); err != nil {
			return err
		}
		// With its device, an emulator that was killed loses all but its rule, to a table that is empty.
		for _, family := range p.families() {
			for p.handle.RuleDel(rule(family)) == nil {
			}
		}
		return p.setUp(mtu, n.IP)
	})
}

// uplink returns the MTU and the addresses of the interface that has the node's.
func (p *endpoint) uplink(ip netip.Addr) (mtu int, addresses []netip.Prefix, err error) {
	all, err := p.handle.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return 0, nil, fmt.Errorf("listing addresses: %w", err)
	}
	i := slices.IndexFunc(all, func(a netlink.Addr) bool { return a.IP.Equal(ip.AsSlice()) })
	if i < 0 {
		return 0, nil, fmt.Errorf("ip %s: no interface of the namespace has it; give the node's own address", ip)
	}
	link, err := p.handle.LinkByIndex(all[i].LinkIndex)
	if err != nil {
		return 0, nil, fmt.Errorf("asking for the interface of %s: %w", ip, err)
	}
	for _, a := range all {
		if address, ok := netip.AddrFromSlice(a.IP); ok && a.LinkIndex == all[i].LinkIndex && a.Scope == unix.RT_SCOPE_UNIVERSE {
			address = address.Unmap()
			addresses = append(addresses, netip.PrefixFrom(address, address.BitLen()))
		}
	}
	return link.Attrs().MTU, addresses, nil
}

// families returns those that the node uses.
func (p *endpoint) families() []int {
	if slices.ContainsFunc(p.prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		return []int{netlink.FAMILY_V4, netlink.FAMILY_V6}
	}
	return []int{netlink.FAMILY_V4}
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

func (p *endpoint) setUp(mtu int, ip netip.Addr) error {
	// Packets come in whose sender is routed elsewhere: while nodes are added, and where a sender from outside is passed on.
	// Docker has IPv6 off where it did not ask for it.
	sysctls := map[string]string{
		"ipv4/conf/" + deviceName + "/rp_filter":    "2", // loose, whatever conf/all has
		"ipv6/conf/" + deviceName + "/disable_ipv6": "0",
	}
	if len(p.families()) == 1 {
		sysctls["ipv6/conf/"+deviceName+"/disable_ipv6"] = "1"
	}
	for key, value := range sysctls {
		err := os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
			return fmt.Errorf("setting a sysctl: %w", err)
		}
	}
	link, err := p.handle.LinkByName(deviceName)
	if err != nil {
		return fmt.Errorf("looking up %s: %w", deviceName, err)
	}
	p.index = link.Attrs().Index
	// The node's address is on the device too, so that what the node sends or masquerades has that for its source. IPv6 looks
	// at the other interfaces by itself.
	address := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(ip, 32))}
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
		Dst:       ipNet(to),
		Scope:     netlink.SCOPE_LINK,
		Table:     number,
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
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

func rule(family int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table = family, number, number
	return r
}

func (p *endpoint) addRules() error {
	for _, family := range p.families() {
		if err := p.handle.RuleAdd(rule(family)); err != nil {
			return fmt.Errorf("adding the routing rule %d: %w", number, err)
		}
		p.rules = append(p.rules, rule(family))
	}
	return nil
}

func (p *endpoint) delRules() error {
	var errs []error
	for _, r := range p.rules {
		if err := p.handle.RuleDel(r); err != nil {
			errs = append(errs, fmt.Errorf("removing the routing rule %d: %w", number, err))
		}
	}
	p.rules = nil
	return errors.Join(errs...)
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
