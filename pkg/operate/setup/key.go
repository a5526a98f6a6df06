package setup

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// maxKeyBytes bounds a file with a key.
const maxKeyBytes = 64 << 10

// AskKey returns the key of the model API and its source: a file, where "-" is standard
// input, the environment, or a prompt, unless yes is set. Without any, key is "". There
// is no flag for the key itself, which would show it in the list of processes.
func AskKey(ctx context.Context, io *term.IO, file, environment string, yes bool) (key, source string, err error) {
	switch {
	case file == "-":
		key, err = ReadKey(io.Input(ctx))
		return key, "standard input", err
	case file != "":
		key, err = ReadKeyFile(file)
		return key, file, err
	case environment != "":
		return environment, "ANTHROPIC_API_KEY", nil
	case yes || !io.Interactive() || io.JSON:
		return "", "", nil
	}
	ok, err := io.Confirm(ctx, "Is there a key for the model API? Without one, games are made by the demo script", "--yes")
	if err != nil || !ok {
		return "", "", err
	}
	key, err = io.ReadSecret(ctx, "Anthropic API key", "--anthropic-key-file FILE")
	return key, "the prompt", err
}

// ReadKeyFile reads the key of the model API from a file.
func ReadKeyFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", &dreamcore.Error{Code: dreamcore.CodeInvalid, Reason: ReasonKeyFile, Message: "the key file cannot be read", Err: err}
	}
	defer f.Close()
	return ReadKey(f)
}

// ReadKey reads the key of the model API. An empty input is an error.
func ReadKey(r io.Reader) (string, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxKeyBytes+1))
	if err != nil {
		return "", fmt.Errorf("read the key: %w", err)
	}
	key := strings.TrimSpace(string(raw))
	if key == "" {
		return "", &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the key file is empty", Hint: "write the key into it, on one line"}
	}
	return key, nil
}
