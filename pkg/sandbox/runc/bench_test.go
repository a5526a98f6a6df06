package runc_test

import (
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func BenchmarkCold(b *testing.B) { sandboxtest.Cold(b, opener(b)) }

func BenchmarkExec(b *testing.B) { sandboxtest.Exec(b, opener(b)) }
