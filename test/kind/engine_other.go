// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package kind

import (
	"context"
	"errors"
)

type ownEngine struct{}

func (e *Engine) startOwn(context.Context, EngineConfig) error {
	return errors.New("start Docker: only on Linux does this package start an engine")
}

func (o *ownEngine) pid(string, int) (int, error) { return 0, errors.ErrUnsupported }

func (o *ownEngine) stop() error { return nil }

func openOwn(string) (*ownEngine, error) { return nil, nil }

func (e *Engine) adopt(*ownEngine) {}
