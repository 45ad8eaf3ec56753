// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"sigs.k8s.io/kustomize/api/filters/imagetag"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// entry is a file of an archive.
type entry struct {
	name, from string
	mode       int64
}

// writeTarGz writes an archive that depends on nothing but its arguments and what stands in the files.
func writeTarGz(out string, mtime time.Time, entries []entry) error {
	return createTarGz(out, func(tw *tar.Writer) error {
		for _, e := range entries {
			data, err := os.ReadFile(e.from)
			if err != nil {
				return err
			}
			if err := writeEntry(tw, e.name, e.mode, mtime, data); err != nil {
				return err
			}
		}
		return nil
	})
}

func createTarGz(out string, write func(*tar.Writer) error) (err error) {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	zw, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(zw)
	if err := write(tw); err != nil {
		return fmt.Errorf("%s: %w", out, err)
	}
	return errors.Join(tw.Close(), zw.Close())
}

func writeEntry(tw *tar.Writer, name string, mode int64, mtime time.Time, data []byte) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), ModTime: mtime, Format: tar.FormatUSTAR}
	if err := tw.WriteHeader(header); err != nil {
		return err
	}
	_, err := tw.Write(data)
	return err
}

// manifests renders every overlay into one file, with the images of this release.
func (o *options) manifests() error {
	overlays, err := folders("manifests/overlays")
	if err != nil {
		return err
	}
	for _, overlay := range overlays {
		dir := filepath.Join("manifests", "overlays", overlay)
		resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		for _, image := range []string{"fogsched", "fogprobe"} {
			if err := resources.ApplyFilter(imagetag.LegacyFilter{ImageTag: types.Image{Name: image, NewName: o.imagePrefix + image, NewTag: o.version}}); err != nil {
				return fmt.Errorf("%s: %w", dir, err)
			}
		}
		for _, r := range resources.Resources() {
			if err := allowPull(r); err != nil {
				return fmt.Errorf("%s: %s: %w", dir, r.CurId(), err)
			}
		}
		rendered, err := resources.AsYaml()
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		text := fmt.Sprintf("# fogsched %s, %s: kubectl apply --server-side -f FILE\n%s", o.version, dir, rendered)
		if err := os.WriteFile(filepath.Join(o.out, "install-"+overlay+".yaml"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// allowPull lets the images come from the registry that they now name. Overlays for clusters on one machine forbid that, since what
// they name stands in no registry; images that were loaded into the nodes are still taken from there.
func allowPull(r *resource.Resource) error {
	containers, err := r.Pipe(yaml.Lookup("spec", "template", "spec", "containers"))
	if err != nil || containers == nil {
		return err
	}
	return containers.VisitElements(func(c *yaml.RNode) error {
		return c.PipeE(yaml.Clear("imagePullPolicy"))
	})
}

// chart makes the package of the Helm chart, if there is one. Helm itself puts the time of day into it, so it is packed once more.
func (o *options) chart(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(chart, "Chart.yaml")); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "release.")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	number := strings.TrimPrefix(o.version, "v")
	out, err := exec.CommandContext(ctx, o.helm, "package", chart, "--version", number, "--app-version", o.version, "--destination", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s package: %w: %s", o.helm, err, out)
	}
	name := filepath.Base(chart) + "-" + number + ".tgz"
	in, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	zr, err := gzip.NewReader(in)
	if err != nil {
		return err
	}
	return createTarGz(filepath.Join(o.out, name), func(tw *tar.Writer) error {
		for tr := tar.NewReader(zr); ; {
			header, err := tr.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			data, err := io.ReadAll(tr)
			if err != nil {
				return err
			}
			if err := writeEntry(tw, header.Name, 0o644, o.epoch, data); err != nil {
				return err
			}
		}
	})
}

//go:embed fog.yaml.tmpl
var krewTemplate string

// krew writes the manifest by which krew installs kubectl-fog.
func (o *options) krew() error {
	type platform struct{ OS, Arch, URI, SHA256, Bin string }
	data := struct {
		Version   string
		Platforms []platform
	}{Version: o.version}
	for _, p := range o.platformsOf(plugin) {
		goos, goarch, _ := strings.Cut(p, "/")
		file := o.archiveName(plugin, goos, goarch) + ".tar.gz"
		digest, err := sha256File(filepath.Join(o.out, file))
		if err != nil {
			return err
		}
		bin := plugin
		if goos == "windows" {
			bin += ".exe"
		}
		data.Platforms = append(data.Platforms, platform{goos, goarch, strings.TrimSuffix(o.baseURL, "/") + "/" + o.version + "/" + file, digest, bin})
	}
	t, err := template.New("fog.yaml").Option("missingkey=error").Parse(krewTemplate)
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(o.out, "fog.yaml"))
	if err != nil {
		return err
	}
	return errors.Join(t.Execute(f, data), f.Close())
}

// writeChecksums writes what `sha256sum --check checksums.txt` reads, of all files of a folder.
func writeChecksums(dir string) error {
	entries, err := os.ReadDir(dir) // in order
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, e := range entries {
		digest, err := sha256File(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s  %s\n", digest, e.Name())
	}
	return os.WriteFile(filepath.Join(dir, "checksums.txt"), []byte(b.String()), 0o644)
}

func sha256File(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
