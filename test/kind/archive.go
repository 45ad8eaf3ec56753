// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
)

// ImageConfig is the part of an image's configuration that a container runtime reads.
type ImageConfig struct {
	// User is "uid" or "uid:gid"; empty is root.
	User       string   `json:"User,omitempty"`
	Env        []string `json:"Env,omitempty"`
	Entrypoint []string `json:"Entrypoint,omitempty"`
	WorkingDir string   `json:"WorkingDir,omitempty"`
	StopSignal string   `json:"StopSignal,omitempty"`
}

// WriteArchive writes a docker archive, as `docker load`, `ctr images import` and `kind load image-archive` read it, from
// layers that are tar files, lowest first.
func WriteArchive(out, tag string, config ImageConfig, layers ...string) error {
	type rootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	fs := rootFS{Type: "layers", DiffIDs: []string{}}
	names := make([]string, len(layers))
	for i, layer := range layers {
		digest, err := sha256File(layer)
		if err != nil {
			return err
		}
		fs.DiffIDs = append(fs.DiffIDs, "sha256:"+digest)
		names[i] = digest + "/layer.tar"
	}
	configJSON, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"created":      "1970-01-01T00:00:00Z",
		"config":       config,
		"rootfs":       fs,
	})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(configJSON)
	configName := hex.EncodeToString(sum[:]) + ".json"
	manifest, err := json.Marshal([]map[string]any{{"Config": configName, "RepoTags": []string{tag}, "Layers": names}})
	if err != nil {
		return err
	}

	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	tw := tar.NewWriter(f)
	for _, entry := range []struct {
		name string
		data []byte
	}{{"manifest.json", manifest}, {configName, configJSON}} {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: entry.name, Mode: 0o644, Size: int64(len(entry.data))}
		if err := tw.WriteHeader(header); err != nil {
			return err
		}
		if _, err := tw.Write(entry.data); err != nil {
			return err
		}
	}
	for i, layer := range layers {
		if slices.Contains(names[:i], names[i]) {
			continue
		}
		header := &tar.Header{Typeflag: tar.TypeDir, Name: path.Dir(names[i]) + "/", Mode: 0o755}
		if err := tw.WriteHeader(header); err != nil {
			return err
		}
		if err := addFile(tw, names[i], layer); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return f.Close()
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

func addFile(tw *tar.Writer, name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file: name every file of a folder by itself", from)
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(info.Mode().Perm()), Size: info.Size()}
	if err := tw.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(tw, f)
	return err
}

// archiveTag reads the first name of the first image in a docker archive.
func archiveTag(archive string) (string, error) {
	f, err := os.Open(archive)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	for tr := tar.NewReader(f); ; {
		header, err := tr.Next()
		if err != nil {
			return "", fmt.Errorf("%s is not a docker archive: manifest.json: %w", archive, err)
		}
		if header.Name != "manifest.json" {
			continue
		}
		var manifest []struct{ RepoTags []string }
		if err := json.NewDecoder(tr).Decode(&manifest); err != nil {
			return "", fmt.Errorf("%s: manifest.json: %w", archive, err)
		}
		if len(manifest) == 0 || len(manifest[0].RepoTags) == 0 {
			return "", fmt.Errorf("%s: the image has no name", archive)
		}
		return manifest[0].RepoTags[0], nil
	}
}
