// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ownEngine is a dockerd in namespaces of its own. What stands here is kept in a file, so that a later run can remove what a
// killed one left.
type ownEngine struct {
	Name string
	// Init is the first process of the PID namespace, as this machine counts it: when it ends, the kernel ends all others.
	// Started tells it from a later process of the same number.
	Init    int
	Started string
	// Data is the engine's disk; State is the folder of its socket and of this file.
	Data, State string
	// CgroupParent stands at the top of every hierarchy.
	CgroupParent string
	// Link is our end of the virtual link into the engine's network.
	Link string
	// Nodes is the range of the nodes' addresses, Near and Far the ends of the link.
	Nodes     netip.Prefix
	Near, Far netip.Addr
	// MadeEtcDocker is set where /etc/docker did not exist before.
	MadeEtcDocker bool

	// alive is our end of a pipe: the engine ends when nobody holds it any more.
	alive *os.File
}

const uplink = "uplink"

// initScript is the first process of the engine's PID namespace. What it mounts, nobody else sees. It waits for the link to be
// there; it ends, and with it everything, when dockerd does or when the starting process does, unless that said "stay".
const initScript = `set -eu
mount -t proc proc /proc
ip link set lo up
# Another engine's settings and sockets are none of our business, nor are ours anybody's.
mount -t tmpfs tmpfs /etc/docker
mount -t tmpfs tmpfs /opt
mkdir -p "$2/run"
mount -t tmpfs -o mode=755 tmpfs "$2/run"
mkdir -p "$2$1"
mount --bind "$1" "$2$1"
mount --rbind "$2/run" /run
read -r mode <&3
dockerd --config-file "$1/daemon.json" 3<&- &
daemon=$!
if [ "$mode" != stay ]; then
	{ read -r _ <&3 || true; kill -KILL $daemon; } &
fi
exec 3<&-
wait $daemon
`

// runtimeScript stands before runc: --privileged asks for every capability, also for one that this machine does not give.
const runtimeScript = `#!/bin/sh
dir=. process= previous=
for arg; do
	case $arg in
	--bundle=*) dir=${arg#*=} ;;
	--process=*) process=${arg#*=} ;;
	esac
	case $previous in
	--bundle | -b) dir=$arg ;;
	--process | -p) process=$arg ;;
	esac
	previous=$arg
done
for file in "$dir/config.json" "$process"; do
	[ ! -f "$file" ] || sed -i 's/"CAP_SYS_RESOURCE",//g; s/,"CAP_SYS_RESOURCE"//g; s/"CAP_SYS_RESOURCE"//g' "$file"
done
exec runc "$@"
`

func (e *Engine) startOwn(ctx context.Context, config EngineConfig) (err error) {
	if os.Getuid() != 0 {
		return errors.New("start Docker, or run as root")
	}
	if err := e.install(ctx); err != nil {
		return err
	}
	// On a machine with an init system the package starts its service.
	if os.Getenv("FOGSCHED_KIND_OWN_ENGINE") != "1" {
		if version, err := engineVersion(ctx); err == nil {
			e.printf("using the machine's Docker engine %s", version)
			return nil
		}
	}
	if old, err := openOwn(config.Name); err != nil {
		return err
	} else if old != nil {
		e.printf("removing what an earlier run of %s left", config.Name)
		if err := old.stop(); err != nil {
			return err
		}
	}
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	state, err := stateDir(config.Name)
	if err != nil {
		return err
	}
	o := &ownEngine{
		Name:         config.Name,
		Data:         filepath.Join(cache, "engine-"+config.Name),
		State:        state,
		CgroupParent: "fogsched-kind-" + config.Name,
		Link:         linkName(config.Name),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.stop())
		}
	}()
	if err := o.start(ctx, config.Stay); err != nil {
		return err
	}
	e.adopt(o)
	version, err := e.Docker(ctx, "version", "--format", "{{.Server.Version}}")
	if err != nil {
		e.own = nil
		return err
	}
	e.printf("started a Docker engine %s of our own: DOCKER_HOST=%s", version, e.Host)
	return nil
}

// install gets what is missing from Debian.
func (e *Engine) install(ctx context.Context) error {
	var missing []string
	for program, pkg := range map[string]string{"dockerd": "docker.io", "runc": "runc", "ip": "iproute2", "iptables": "iptables", "nsenter": "util-linux"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	slices.Sort(missing)
	if _, err := exec.LookPath("docker"); err != nil && !slices.Contains(missing, "docker.io") {
		// Newer Debians have the command in a package of its own.
		missing = append(missing, "docker-cli")
	}
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("install %s", strings.Join(missing, ", "))
	}
	e.printf("installing %s (about 30 s)", strings.Join(missing, ", "))
	env := []string{"DEBIAN_FRONTEND=noninteractive"}
	if _, err := command(ctx, env, nil, "apt-get", "update", "-qq"); err != nil {
		return err
	}
	if _, err := command(ctx, env, nil, "apt-get", append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)...); err != nil {
		return err
	}
	if _, err := exec.LookPath("docker"); err != nil {
		_, err := command(ctx, env, nil, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "docker-cli")
		return err
	}
	return nil
}

// linkName is at most 15 characters, the kernel's limit.
func linkName(name string) string {
	h := uint32(2166136261)
	for _, b := range []byte(name) {
		h = (h ^ uint32(b)) * 16777619
	}
	return fmt.Sprintf("fogkind%08x", h)
}

func (o *ownEngine) socket() string { return filepath.Join(o.State, "docker.sock") }

func (o *ownEngine) start(ctx context.Context, stay bool) error {
	if err := os.MkdirAll(o.State, 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(o.Data, 0o711); err != nil {
		return err
	}
	if err := os.Mkdir("/etc/docker", 0o755); err == nil {
		o.MadeEtcDocker = true
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := o.save(); err != nil {
		return err
	}
	if err := locked(raiseLimits); err != nil {
		return err
	}
	runtimePath := filepath.Join(o.Data, "runtime.sh")
	if err := os.WriteFile(runtimePath, []byte(runtimeScript), 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(o.State, "dockerd.log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = reader.Close() }()

	configFile := filepath.Join(o.State, "daemon.json")
	cmd := exec.Command("/bin/sh", "-c", initScript, "init", o.State, o.Data)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{reader}
	cmd.Dir = "/"
	// A proxy for this machine's programs is out of the engine's reach.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + o.Data, "TMPDIR=" + o.Data}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:       true,
		Cloneflags:   syscall.CLONE_NEWPID,
		Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
	}
	if err := cmd.Start(); err != nil {
		_ = writer.Close()
		return fmt.Errorf("namespaces for the engine: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	o.Init = cmd.Process.Pid
	if o.Started, err = started(o.Init); err != nil {
		return err
	}
	if err := o.save(); err != nil {
		return err
	}
	if err := locked(func() error { return o.connect(ctx) }); err != nil {
		return err
	}
	settings, err := json.Marshal(map[string]any{
		"hosts":                 []string{"unix://" + o.socket()},
		"data-root":             filepath.Join(o.Data, "docker"),
		"exec-root":             filepath.Join(o.State, "exec"),
		"pidfile":               filepath.Join(o.State, "dockerd.pid"),
		"bridge":                "none",
		"default-address-pools": []any{map[string]any{"base": o.Nodes.String(), "size": o.Nodes.Bits()}},
		"cgroup-parent":         "/" + o.CgroupParent,
		"exec-opts":             []string{"native.cgroupdriver=cgroupfs"},
		"runtimes":              map[string]any{"fogsched": map[string]any{"path": runtimePath}},
		"default-runtime":       "fogsched",
		"log-level":             "warn",
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(configFile, settings, 0o600); err != nil {
		return err
	}
	word := "end-with-me"
	if stay {
		word = "stay"
	}
	if _, err := fmt.Fprintln(writer, word); err != nil {
		return err
	}
	if stay {
		_ = writer.Close()
	} else {
		o.alive = writer
	}

	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", o.socket())
	}}}
	defer client.CloseIdleConnections()
	err = poll(ctx, time.Minute, "waiting for dockerd", func(ctx context.Context) (bool, error) {
		select {
		case <-ended:
			return true, nil
		default:
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/_ping", nil)
		if err != nil {
			return false, err
		}
		response, err := client.Do(request)
		if err != nil {
			return false, err
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK, fmt.Errorf("dockerd answers %s", response.Status)
	})
	select {
	case <-ended:
		err = errors.New("dockerd ended")
	default:
	}
	if err != nil {
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%w; its last words:\n%s", err, tail(string(said), 10))
	}
	// From our link every port of a node may be reached, and not only published ones.
	return o.inside(ctx, "iptables", "-w", "-I", "DOCKER-USER", "-i", uplink, "-j", "ACCEPT")
}

// connect lays a link from this machine into the engine's network, and a route over it to the range of its nodes: the first
// of 64 ranges that this machine has no other route into.
func (o *ownEngine) connect(ctx context.Context) error {
	out, err := command(ctx, nil, nil, "ip", "-o", "-4", "route", "show", "table", "all")
	if err != nil {
		return err
	}
	taken := routes(out)
	for i := range 64 {
		base := netip.AddrFrom4([4]byte{172, 29, byte(4 * i), 0})
		if slices.ContainsFunc(taken, netip.PrefixFrom(base, 22).Overlaps) {
			continue
		}
		o.Nodes = netip.PrefixFrom(base, 24)
		o.Near = netip.AddrFrom4([4]byte{172, 29, byte(4*i + 1), 1})
		o.Far = o.Near.Next()
		if err := o.save(); err != nil {
			return err
		}
		init := strconv.Itoa(o.Init)
		if _, err := command(ctx, nil, nil, "ip", "link", "add", o.Link, "type", "veth", "peer", "name", uplink, "netns", init); err != nil {
			return err
		}
		for _, args := range [][]string{
			{"addr", "add", o.Near.String() + "/30", "dev", o.Link},
			{"link", "set", o.Link, "up"},
			{"route", "add", o.Nodes.String(), "via", o.Far.String(), "dev", o.Link},
		} {
			if args[0] == "route" {
				// Both ends must be up first.
				if err := errors.Join(
					o.inside(ctx, "ip", "addr", "add", o.Far.String()+"/30", "dev", uplink),
					o.inside(ctx, "ip", "link", "set", uplink, "up"),
				); err != nil {
					return err
				}
			}
			if _, err := command(ctx, nil, nil, "ip", args...); err != nil {
				return err
			}
		}
		return nil
	}
	return errors.New("every range in 172.29.0.0/16 has a route already")
}

// locked runs f while no other engine of ours, in whichever process, chooses a range or touches the machine's limits.
func locked(f func() error) error {
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(cache, "engines.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	// Closing the file gives the lock back.
	defer func() { _ = lock.Close() }()
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", lock.Name(), err)
		}
		return f()
	}
}

// routes takes the destinations from the lines of `ip route`; the default route is none.
func routes(out string) []netip.Prefix {
	var prefixes []netip.Prefix
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		for _, field := range fields[:min(2, len(fields))] {
			if p, err := netip.ParsePrefix(field); err == nil && p.Bits() > 0 {
				prefixes = append(prefixes, p)
			} else if a, err := netip.ParseAddr(field); err == nil {
				prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	return prefixes
}

// inside runs a program in the engine's network.
func (o *ownEngine) inside(ctx context.Context, args ...string) error {
	_, err := command(ctx, nil, nil, "nsenter", append([]string{"--target", strconv.Itoa(o.Init), "--net", "--"}, args...)...)
	return err
}

// pid finds the process that the engine calls pid, of the container with this id, as this machine counts.
func (o *ownEngine) pid(container string, pid int) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		here, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// A process may end while we look at it.
		status, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "status"))
		if err != nil {
			continue
		}
		numbers := namespacePIDs(string(status))
		if len(numbers) < 2 || numbers[len(numbers)-1] != 1 || !slices.Contains(numbers[1:], pid) {
			continue
		}
		cgroup, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cgroup"))
		if err == nil && strings.Contains(string(cgroup), "/"+o.CgroupParent+"/"+container) {
			return here, nil
		}
	}
	return 0, fmt.Errorf("the process %d of the container %.12s is not among this machine's", pid, container)
}

// namespacePIDs reads the line NSpid of /proc/PID/status: the process's numbers, from the outermost namespace inwards.
func namespacePIDs(status string) []int {
	for line := range strings.Lines(status) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "NSpid:" {
			continue
		}
		var numbers []int
		for _, f := range fields[1:] {
			n, err := strconv.Atoi(f)
			if err != nil {
				return nil
			}
			numbers = append(numbers, n)
		}
		return numbers
	}
	return nil
}

// started returns a process's start time in clock ticks since the machine's, and the id of the machine's boot.
func started(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	// The name of the program, in parentheses, may contain anything.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat has %d fields after the name", pid, len(fields))
	}
	return fields[19] + " " + strings.TrimSpace(string(boot)), nil
}

func (o *ownEngine) save() error {
	data, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.State, "engine.json"), data, 0o600)
}

// openOwn reads what is known of the engine of this name; nil is none.
func openOwn(name string) (*ownEngine, error) {
	dir, err := stateDir(name)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, "engine.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	o := &ownEngine{}
	if err := json.Unmarshal(data, o); err != nil {
		return nil, fmt.Errorf("%s/engine.json: %w", dir, err)
	}
	return o, nil
}

func (o *ownEngine) running() bool {
	if o.Init == 0 {
		return false
	}
	now, err := started(o.Init)
	return err == nil && now == o.Started
}

// stop ends the engine and everything in it, and removes what is left. It may be called again.
func (o *ownEngine) stop() error {
	if o.running() {
		if err := syscall.Kill(o.Init, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	// The kernel ends every process of the namespace before its first one is gone. Until its parent has read its end, a dead
	// process still has a number.
	err := poll(context.Background(), 30*time.Second, "waiting for the engine's end", func(context.Context) (bool, error) {
		if !o.running() {
			return true, nil
		}
		if err := thaw(o.CgroupParent); err != nil {
			return false, err
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", o.Init))
		return err == nil && strings.Contains(string(status), "\nState:\tZ"), nil
	})
	if err != nil {
		return err
	}
	if o.alive != nil {
		_ = o.alive.Close()
		o.alive = nil
	}
	var errs []error
	if _, err := net.InterfaceByName(o.Link); err == nil {
		// The other end goes with the network that it was in, but only a while after the last process.
		if _, err := command(context.Background(), nil, nil, "ip", "link", "delete", o.Link); err != nil {
			if _, gone := net.InterfaceByName(o.Link); gone == nil {
				errs = append(errs, err)
			}
		}
	}
	errs = append(errs, removeCgroups(o.CgroupParent), os.RemoveAll(o.Data))
	if o.MadeEtcDocker {
		if err := os.Remove("/etc/docker"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.RemoveAll(o.State); err != nil {
		return err
	}
	return locked(restoreLimits)
}

// cgroups returns the groups of this name at the top of every hierarchy.
func cgroups(name string) ([]string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var groups []string
	for line := range strings.Lines(string(mounts)) {
		before, _, ok := strings.Cut(line, " - cgroup")
		if fields := strings.Fields(before); ok && len(fields) > 4 {
			groups = append(groups, filepath.Join(fields[4], name))
		}
	}
	return groups, nil
}

// thaw lets frozen processes go on: runc freezes a container for a moment to change its limits, and with cgroup v1 whoever is
// killed meanwhile does not die before it is thawed.
func thaw(name string) error {
	tops, err := cgroups(name)
	if err != nil {
		return err
	}
	for _, top := range tops {
		err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != "freezer.state" {
				return nil // A group may go while we look at it.
			}
			if state, err := os.ReadFile(p); err == nil && strings.TrimSpace(string(state)) != "THAWED" {
				_ = os.WriteFile(p, []byte("THAWED"), 0o644)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// removeCgroups removes the groups of this name, from the leaves upwards.
func removeCgroups(name string) error {
	tops, err := cgroups(name)
	if err != nil {
		return err
	}
	var errs []error
	for _, top := range tops {
		// A group is busy for a moment after its last process.
		errs = append(errs, poll(context.Background(), 10*time.Second, "removing the cgroup "+top, func(context.Context) (bool, error) {
			var groups []string
			err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					groups = append(groups, p)
				}
				return nil
			})
			for _, group := range slices.Backward(groups) {
				if e := syscall.Rmdir(group); e != nil && !errors.Is(e, syscall.ENOENT) {
					err = fmt.Errorf("%s: %w", group, e)
				}
			}
			return err == nil, err
		}))
	}
	return errors.Join(errs...)
}

// A node's kubelet, kube-proxy, systemd and the rest each take inotify instances, and a user has 128 of them by default.
var limits = map[string]int{
	"/proc/sys/fs/inotify/max_user_instances": 2048,
	"/proc/sys/fs/inotify/max_user_watches":   524288,
}

func limitsFile() (string, error) {
	dir, err := stateDir("limits")
	return dir + ".json", err
}

// raiseLimits notes what was set before, once for all engines.
func raiseLimits() error {
	name, err := limitsFile()
	if err != nil {
		return err
	}
	before := map[string]int{}
	for file, wanted := range limits {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		value, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if value < wanted {
			before[file] = value
		}
	}
	if len(before) == 0 {
		return nil
	}
	data, err := json.Marshal(before)
	if err != nil {
		return err
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		return err
	}
	for file := range before {
		if err := os.WriteFile(file, []byte(strconv.Itoa(limits[file])), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// restoreLimits sets what was before, when the last engine is gone.
func restoreLimits() error {
	name, err := limitsFile()
	if err != nil {
		return err
	}
	others, err := filepath.Glob(filepath.Join(filepath.Dir(name), "*", "engine.json"))
	if err != nil || len(others) > 0 {
		return err
	}
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(filepath.Dir(name))
		return nil
	}
	if err != nil {
		return err
	}
	before := map[string]int{}
	if err := json.Unmarshal(data, &before); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for file, value := range before {
		if err := os.WriteFile(file, []byte(strconv.Itoa(value)), 0o644); err != nil {
			return err
		}
	}
	if err := os.Remove(name); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(name))
	return nil
}

// adopt makes e the engine that is running already.
func (e *Engine) adopt(o *ownEngine) {
	e.own, e.Host, e.Address = o, "unix://"+o.socket(), o.Far.String()
}
