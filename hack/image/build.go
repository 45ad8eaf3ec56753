// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fogsched/fogsched/hack/release/sbom"
	"github.com/fogsched/fogsched/test/kind"
)

type builder struct {
	options
	engine   *kind.Engine
	packages []string
	// offline says that the build needs nothing but what the engine has.
	offline bool
}

// image is one that was made.
type image struct {
	name, platform, archive, sbom string
	size                          int64 // bytes
}

func (b *builder) build(ctx context.Context) ([]image, error) {
	host, err := b.engine.Docker(ctx, "version", "--format", "{{.Server.Os}}/{{.Server.Arch}}")
	if err != nil {
		return nil, err
	}
	if err := b.chooseBases(ctx); err != nil {
		return nil, err
	}
	_, err = b.engine.Docker(ctx, "buildx", "version")
	buildx := err == nil
	platforms := b.platforms
	if len(platforms) == 0 {
		platforms = []string{host}
	}
	say("compiling %s for %s (about 3 min a platform on two cores, unless the engine has done so before)", strings.Join(b.programs, ", "), strings.Join(platforms, ", "))
	var made []image
	for _, platform := range platforms {
		goos, goarch, ok := strings.Cut(platform, "/")
		if !ok || goos != "linux" || strings.Contains(goarch, "/") {
			return nil, fmt.Errorf("platform %q: want linux/amd64, linux/arm64 or the like", platform)
		}
		suffix := ""
		if len(platforms) > 1 {
			suffix = "-" + goarch
		}
		for _, program := range b.programs {
			i := image{name: b.prefix + program + ":" + b.tag + suffix, platform: platform, archive: filepath.Join(b.out, program+suffix+".tar")}
			args := append([]string{"build"}, b.arguments(host, program)...)
			// BuildKit knows these by the platform; the older builder has to be told.
			args = append(args, "--platform", platform, "--build-arg", "TARGETOS="+goos, "--build-arg", "TARGETARCH="+goarch, "--tag", i.name, ".")
			if err := b.docker(ctx, args...); err != nil {
				return nil, err
			}
			if err := b.take(ctx, &i, program); err != nil {
				return nil, fmt.Errorf("image %s: %w", i.name, err)
			}
			made = append(made, i)
			say("%s is in %s", i.name, b.relative(i.archive))
		}
	}
	if len(platforms) < 2 {
		return made, nil
	}
	if !buildx {
		say("docker has no buildx here: one image a platform, and none that has both")
		return made, nil
	}
	for _, program := range b.programs {
		archive := filepath.Join(b.out, program+".oci.tar")
		args := append([]string{"buildx", "build"}, b.arguments(host, program)...)
		args = append(args, "--platform", strings.Join(platforms, ","), "--tag", b.prefix+program+":"+b.tag, "--output", "type=oci,dest="+archive, ".")
		if err := b.docker(ctx, args...); err != nil {
			return nil, fmt.Errorf("%w (several platforms in one image need a builder that can: `docker buildx create --use`, or one platform at a time)", err)
		}
		info, err := os.Stat(archive)
		if err != nil {
			return nil, err
		}
		made = append(made, image{name: b.prefix + program + ":" + b.tag, platform: strings.Join(platforms, ","), archive: archive, size: info.Size()})
	}
	return made, nil
}

// chooseBases decides what the stages of the Dockerfile stand on.
func (b *builder) chooseBases(ctx context.Context) error {
	if b.goImage != "" {
		b.offline = strings.HasPrefix(b.goImage, localGo+":")
		return nil
	}
	if !b.local && !b.engine.Own() && kind.RegistryAnswers(ctx) {
		return nil // what the Dockerfile names
	}
	say("without a registry: putting this machine's Go and its modules into an image (about 20 s)")
	name, err := importLocalGo(ctx, b.engine, b.root)
	if err != nil {
		return fmt.Errorf("an image of this machine's Go: %w", err)
	}
	b.goImage, b.offline = name, true
	if b.baseImage == "" {
		b.baseImage = "scratch"
	}
	return nil
}

// arguments are those of each build.
func (b *builder) arguments(host, program string) []string {
	args := []string{"--file", "Dockerfile"}
	if b.offline {
		args = append(args, "--network", "none") // also what an engine of our own has
	}
	for _, setting := range [][2]string{
		{"GO_IMAGE", b.goImage},
		{"BASE_IMAGE", b.baseImage},
		{"HOST_PLATFORM", host},
		{"PROGRAMS", strings.Join(b.packages, " ")},
		{"PROGRAM", program},
		{"VERSION", b.version},
		{"COMMIT", b.commit},
	} {
		if setting[1] != "" {
			args = append(args, "--build-arg", setting[0]+"="+setting[1])
		}
	}
	return args
}

// take writes archive and SBOM of an image.
func (b *builder) take(ctx context.Context, i *image, program string) error {
	inspected, err := b.engine.Docker(ctx, "image", "inspect", i.name)
	if err != nil {
		return err
	}
	var found []struct{ Size int64 }
	if err := json.Unmarshal([]byte(inspected), &found); err != nil || len(found) != 1 {
		return fmt.Errorf("docker image inspect: %d images, %w", len(found), err)
	}
	i.size = found[0].Size
	partial := i.archive + ".partial"
	if _, err := b.engine.Docker(ctx, "save", "--output", partial, i.name); err != nil {
		return errors.Join(err, os.RemoveAll(partial))
	}
	// docker save keeps it from others, who may want to load it.
	if err := errors.Join(os.Chmod(partial, 0o644), os.Rename(partial, i.archive)); err != nil {
		return err
	}
	if b.sbomTool == "" {
		return nil
	}
	container, err := b.engine.Docker(ctx, "create", "--network", "none", "--platform", i.platform, i.name)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(b.out, "sbom.*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary := filepath.Join(dir, program)
	_, err = b.engine.Docker(ctx, "cp", container+":/program", binary)
	_, removed := b.engine.Docker(context.WithoutCancel(ctx), "rm", container)
	if err := errors.Join(err, removed); err != nil {
		return err
	}
	i.sbom = strings.TrimSuffix(i.archive, ".tar") + ".cdx.json"
	return sbom.OfBinary(ctx, b.sbomTool, binary, b.version, i.sbom)
}

// docker runs the docker command and shows what it says.
func (b *builder) docker(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Dir = b.root
	cmd.Env = append(os.Environ(), b.engine.Env()...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("docker %s: %w", strings.Join(args, " "), err)
	}
	return nil
}
