// SPDX-License-Identifier: Apache-2.0

// Command archive writes a docker archive from tar files, one a layer, without an engine.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/fogsched/fogsched/test/kind"
)

func main() {
	var config kind.ImageConfig
	out := flag.String("out", "", "archive to write")
	tag := flag.String("tag", "", "name and tag of the image")
	entrypoint := flag.String("entrypoint", "", "program and arguments, separated by spaces")
	env := flag.String("env", "", "NAME=value settings, separated by spaces")
	flag.StringVar(&config.StopSignal, "stop-signal", "", "signal that ends the container")
	flag.Parse()
	config.Entrypoint = strings.Fields(*entrypoint)
	config.Env = strings.Fields(*env)
	if *out == "" || *tag == "" || flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: archive -out ARCHIVE -tag NAME:TAG [-entrypoint …] [-env …] LAYER.tar …")
		os.Exit(2)
	}
	if err := kind.WriteArchive(*out, *tag, config, flag.Args()...); err != nil {
		fmt.Fprintln(os.Stderr, "archive:", err)
		os.Exit(1)
	}
}
