// SPDX-License-Identifier: Apache-2.0

// Command hello answers HTTP requests on port 8080 with its host name. With an address and a number it asks there, each time on
// a new connection, until so many different hosts have answered, and prints their names.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		return http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprint(w, name)
		}))
	}
	wanted, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answered := map[string]bool{}
	var failed error
	for deadline := time.Now().Add(time.Minute); len(answered) < wanted; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("only %d hosts answered within a minute; the last error: %w", len(answered), failed)
		}
		name, err := ask(client, args[0])
		if err != nil {
			failed = err
			continue
		}
		if !answered[name] {
			answered[name] = true
			fmt.Println(name)
		}
	}
	return nil
}

func ask(client *http.Client, address string) (string, error) {
	response, err := client.Get(address)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}
