// SPDX-License-Identifier: Apache-2.0

// Command release makes the files of a release: programs for every platform, SBOMs, manifests, the Helm chart, the krew manifest of
// kubectl-fog, and the checksums of all of them. The same commit and the same Go give the same bytes, wherever and by whom it is run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fogsched/fogsched/hack/release/sbom"
)

const usage = `Usage: release -version v0.1.0 [flags] [PROGRAM ...]

Makes the files of a release in OUT: of each program (default: every folder of cmd/) and platform PROGRAM_VERSION_OS_ARCH.tar.gz and its
SBOM .cdx.json (CycloneDX); of each overlay install-OVERLAY.yaml, for one 'kubectl apply --server-side -f'; the Helm chart;
fog.yaml, with which krew installs kubectl-fog; and checksums.txt (sha256sum -c).

Flags:
`

const (
	plugin = "kubectl-fog" // what people run themselves, on more platforms than nodes have
	chart  = "charts/fogsched"
)

var (
	nodePlatforms = []string{"linux/amd64", "linux/arm64"}
	userPlatforms = []string{"darwin/amd64", "darwin/arm64", "windows/amd64"}
)

type options struct {
	root, out   string
	version     string
	commit      string
	programs    []string
	platforms   []string // empty: all
	baseURL     string   // of the downloads; the version follows
	imagePrefix string
	sbomTool    string
	helm        string
	epoch       time.Time // of every file in an archive
	allowDirty  bool
}

// semver is what Helm and krew take, with the letter that Go wants.
var semver = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$`)

func main() {
	o := options{}
	flag.StringVar(&o.out, "out", "", "folder of the files, which is emptied first; default: out/release/VERSION")
	flag.StringVar(&o.version, "version", "", "version of the release, such as v0.1.0 or v0.2.0-rc.1")
	flag.StringVar(&o.commit, "commit", "unknown", "commit that it is made from")
	platforms := flag.String("platforms", "", "comma-separated; default: linux/amd64,linux/arm64, and for kubectl-fog darwin/amd64,darwin/arm64,windows/amd64 as well")
	flag.StringVar(&o.baseURL, "base-url", "https://github.com/fogsched/fogsched/releases/download", "where the files will be downloaded from, before /VERSION/FILE")
	flag.StringVar(&o.imagePrefix, "image-prefix", "ghcr.io/fogsched/", "what the names of the images start with in the manifests")
	flag.StringVar(&o.sbomTool, "sbom-tool", "bin/cyclonedx-gomod", "path of cyclonedx-gomod")
	flag.StringVar(&o.helm, "helm", "bin/helm", "path of helm")
	epoch := flag.Int64("epoch", 0, "time of every file in an archive, in seconds since 1970")
	flag.BoolVar(&o.allowDirty, "allow-dirty", false, "also from a tree that differs from its commit: for trying out")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	flag.Parse()
	o.programs, o.epoch = flag.Args(), time.Unix(*epoch, 0).UTC()
	if *platforms != "" {
		o.platforms = strings.Split(*platforms, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if !semver.MatchString(o.version) {
		return fmt.Errorf("-version %q: want one like v0.1.0 (make release VERSION=v0.1.0)", o.version)
	}
	if o.root, err = os.Getwd(); err != nil {
		return err
	}
	if _, err := os.Stat("go.mod"); err != nil {
		return fmt.Errorf("run it in the repository's folder: %w", err)
	}
	if err := o.clean(ctx); err != nil {
		return err
	}
	whole := len(o.programs) == 0
	if whole {
		if o.programs, err = folders("cmd"); err != nil {
			return err
		}
	}
	if o.out == "" {
		o.out = filepath.Join("out", "release", o.version)
	}
	if err := errors.Join(os.RemoveAll(o.out), os.MkdirAll(o.out, 0o755)); err != nil {
		return err
	}
	for _, program := range o.programs {
		if err := o.program(ctx, program); err != nil {
			return err
		}
	}
	if slices.Contains(o.programs, plugin) {
		if err := o.krew(); err != nil {
			return fmt.Errorf("krew manifest: %w", err)
		}
	}
	if err := o.manifests(); err != nil {
		return err
	}
	if err := o.chart(ctx); err != nil {
		return fmt.Errorf("helm chart: %w", err)
	}
	if err := writeChecksums(o.out); err != nil {
		return err
	}
	files, err := os.ReadDir(o.out)
	if err != nil {
		return err
	}
	say("%d files in %s", len(files), o.out)
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			return err
		}
		fmt.Printf("  %-50s  %7.1f kB\n", f.Name(), float64(info.Size())/1e3)
	}
	return nil
}

// clean refuses a tree that is not what the commit says.
func (o *options) clean(ctx context.Context) error {
	if o.allowDirty {
		return nil
	}
	cmd := exec.CommandContext(ctx, "git", "status", "--porcelain")
	cmd.Env = append(os.Environ(), "GIT_OPTIONAL_LOCKS=0") // it only looks
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("git status: %w (-allow-dirty does without)", err)
	}
	if len(out) > 0 {
		return fmt.Errorf("the tree differs from its commit, so nobody could make this release again: commit, or ALLOW_DIRTY=1 to try out:\n%s", out)
	}
	return nil
}

// program makes the archives and SBOMs of one program.
func (o *options) program(ctx context.Context, program string) error {
	if info, err := os.Stat(filepath.Join("cmd", program)); err != nil || !info.IsDir() {
		return fmt.Errorf("program %q: there is no folder cmd/%s", program, program)
	}
	flags, err := exec.CommandContext(ctx, "hack/release/ldflags.sh", o.version, o.commit).Output()
	if err != nil {
		return fmt.Errorf("hack/release/ldflags.sh: %w", err)
	}
	dir, err := os.MkdirTemp("", "release.")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for _, platform := range o.platformsOf(program) {
		goos, goarch, ok := strings.Cut(platform, "/")
		if !ok {
			return fmt.Errorf("platform %q: want OS/ARCH, such as linux/arm64", platform)
		}
		say("%s for %s (up to 3 min while nothing is compiled for it)", program, platform)
		name := program
		if goos == "windows" {
			name += ".exe"
		}
		binary := filepath.Join(dir, name)
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", strings.TrimSpace(string(flags)), "-o", binary, "./cmd/"+program)
		// What somebody has set for his own machine must not get into a release.
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch, "GOFLAGS=-buildvcs=false", "GOAMD64=", "GOARM64=", "GOEXPERIMENT=", "GOWORK=off")
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("go build of %s for %s: %w", program, platform, err)
		}
		base := filepath.Join(o.out, o.archiveName(program, goos, goarch))
		err := writeTarGz(base+".tar.gz", o.epoch, []entry{{name: name, from: binary, mode: 0o755}, {name: "LICENSE", from: "LICENSE", mode: 0o644}})
		if err != nil {
			return err
		}
		if err := sbom.OfBinary(ctx, o.sbomTool, binary, o.version, base+".cdx.json"); err != nil {
			return err
		}
	}
	return nil
}

func (o *options) archiveName(program, goos, goarch string) string {
	return strings.Join([]string{program, o.version, goos, goarch}, "_")
}

func (o *options) platformsOf(program string) []string {
	switch {
	case len(o.platforms) > 0:
		return o.platforms
	case program == plugin:
		return slices.Concat(nodePlatforms, userPlatforms)
	}
	return nodePlatforms
}

// folders returns the names of the folders in a folder, in order.
func folders(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

var began = time.Now()

func say(format string, args ...any) {
	fmt.Printf("[%5.1f s] %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
}
