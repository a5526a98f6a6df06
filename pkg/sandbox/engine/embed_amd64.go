package engine

import "embed"

//go:embed embedded/amd64
var embedded embed.FS
