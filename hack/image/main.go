// SPDX-License-Identifier: Apache-2.0

// Command image builds the images of our programs from the Dockerfile, in the machine's Docker engine or in one that it starts for
// the time, and writes each as a docker archive with its SBOM beside it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/fogsched/fogsched/test/kind"
)

const usage = `Usage: image [flags] [PROGRAM ...]

Builds the image PROGRAM:dev of each program (default: fogsched fogprobe) by the Dockerfile, and writes OUT/PROGRAM.tar, for
'docker load', 'kind load image-archive', 'ctr images import' and the like, and OUT/PROGRAM.cdx.json, its SBOM (CycloneDX).

Of several platforms each gets an image PROGRAM:dev-ARCH and an archive OUT/PROGRAM-ARCH.tar; where docker has buildx, there is
OUT/PROGRAM.oci.tar with all of them under one name as well, which 'skopeo copy --all' or 'crane push' takes to a registry.

Where neither GO_IMAGE is given nor a registry answers, this machine's own Go stands in for the official image, and the programs
stand on an empty image.

Flags:
`

type options struct {
	programs  []string
	prefix    string // of the names of the images, such as "ghcr.io/team/"
	tag       string
	platforms []string // empty: the engine's
	goImage   string   // empty: the Dockerfile's, or a local one
	baseImage string
	local     bool // use no registry
	out       string
	version   string
	commit    string
	sbomTool  string // cyclonedx-gomod; empty: no SBOM
	root      string // of the repository
}

func main() {
	o := options{}
	flag.StringVar(&o.prefix, "prefix", "", "what the names of the images start with, such as ghcr.io/team/")
	flag.StringVar(&o.tag, "tag", "dev", "their tag")
	platforms := flag.String("platforms", "", "comma-separated, such as linux/amd64,linux/arm64; default: the engine's own")
	flag.StringVar(&o.goImage, "go-image", "", "image to compile in (GO_IMAGE of the Dockerfile)")
	flag.StringVar(&o.baseImage, "base-image", "", "image that the programs stand on (BASE_IMAGE of the Dockerfile), such as scratch")
	flag.BoolVar(&o.local, "local", false, "compile with this machine's Go and modules, on an empty image, also where a registry answers")
	flag.StringVar(&o.out, "out", "out/image", "folder of archives and SBOMs")
	flag.StringVar(&o.version, "version", "unknown", "version of the programs")
	flag.StringVar(&o.commit, "commit", "unknown", "commit that they are built from")
	flag.StringVar(&o.sbomTool, "sbom-tool", "", "path of cyclonedx-gomod; without it no SBOM is made")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	flag.Parse()
	if o.programs = flag.Args(); len(o.programs) == 0 {
		o.programs = []string{"fogsched", "fogprobe"}
	}
	if *platforms != "" {
		o.platforms = strings.Split(*platforms, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		if ctx.Err() != nil {
			os.Exit(130)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.root, err = os.Getwd(); err != nil {
		return err
	}
	if _, err := os.Stat("Dockerfile"); err != nil {
		return fmt.Errorf("run it in the repository's folder: %w", err)
	}
	if o.out, err = filepath.Abs(o.out); err != nil {
		return err
	}
	packages, err := o.packages()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	engine, err := kind.StartEngine(ctx, kind.EngineConfig{Name: "fogsched-image", Log: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Stop()) }()
	b := &builder{options: o, engine: engine, packages: packages}
	made, err := b.build(ctx)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "IMAGE\tPLATFORM\tSIZE\tARCHIVE\tSBOM")
	for _, m := range made {
		fmt.Fprintf(t, "%s\t%s\t%.1f MB\t%s\t%s\n", m.name, m.platform, float64(m.size)/1e6, o.relative(m.archive), o.relative(m.sbom))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if engine.Own() {
		fmt.Println("The engine that built them is gone; the archives are what stays.")
	}
	return nil
}

// packages returns the folder of each program.
func (o *options) packages() ([]string, error) {
	var all []string
	for _, program := range o.programs {
		found := ""
		for _, parent := range []string{"cmd", "test/e2e/workload"} {
			if info, err := os.Stat(filepath.Join(o.root, parent, program)); err == nil && info.IsDir() {
				found = "./" + parent + "/" + program
			}
		}
		if found == "" {
			return nil, fmt.Errorf("program %q: neither cmd/%[1]s nor test/e2e/workload/%[1]s is there", program)
		}
		all = append(all, found)
	}
	return all, nil
}

func (o *options) relative(p string) string {
	if p == "" {
		return "-"
	}
	if rel, err := filepath.Rel(o.root, p); err == nil {
		return rel
	}
	return p
}

var began = time.Now()

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "[%5.1f s] %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
}
