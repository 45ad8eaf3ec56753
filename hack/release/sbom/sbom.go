// SPDX-License-Identifier: Apache-2.0

// Package sbom makes software bills of materials.
package sbom

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// OfBinary writes, in CycloneDX's JSON, which modules of which versions a Go binary was linked from, the standard library included. tool
// is the path of cyclonedx-gomod, and version that of the program. The same binary gives the same file.
func OfBinary(ctx context.Context, tool, binary, version, out string) error {
	serial, err := serialOf(binary)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, tool, "bin", "-json", "-std", "-notimestamp", "-serial", serial, "-version", version, "-output", out, binary)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("SBOM of %s: %w: %s", binary, err, said.String())
	}
	return nil
}

// serialOf derives a UUID (of RFC 9562's version 8) from what stands in a file.
func serialOf(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	id := h.Sum(nil)[:16]
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]), nil
}
