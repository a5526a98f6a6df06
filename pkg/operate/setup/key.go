package setup

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// maxKeyBytes bounds a file with a key.
const maxKeyBytes = 64 << 10

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
