package replay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// MaxScriptBytes bounds a model script.
const MaxScriptBytes = 16 << 20

// DemoName is the name under which Load knows the embedded script.
const DemoName = "demo"

// Script is a parsed model script. It is not changed after Parse, so any
// number of models may share it.
type Script struct {
	conversations [][]turn
	prompts       map[string][]promptTurn // by the name of the endpoint
}

// turn is one answer of the model.
type turn struct {
	text     string
	thinking string
	delay    time.Duration
	tools    []tool
	fail     *Fail
}

// tool is one tool call. Its input is compact JSON, an object, in the order
// of the script.
type tool struct {
	name  string
	input json.RawMessage
}

// Fail makes a turn go wrong. Exactly one of Status, Cut, Stall and Garbage
// is set.
type Fail struct {
	Status   int               // an HTTP status, 400 to 599, in place of an answer
	Type     string            // of the API error; by default the one that belongs to Status
	Message  string            // of the API error
	Headers  map[string]string // sent with Status, such as retry-after
	Cut      bool              // the connection breaks in the middle of the answer
	Stall    bool              // the stream opens a block and falls silent
	StallFor time.Duration     // how long; 0 is until the client goes away. Then the answer goes on
	Garbage  bool              // a stream that is no event stream
	Times    int               // how many requests fail before the turn is played; 0 is every one
}

// Parse reads a model script of at most MaxScriptBytes. What is wrong comes
// back as a dreamcore.Error with CodeInvalid that names the field by its path,
// such as conversations[0][2].tools[1].name, and says how to mend it.
func Parse(data []byte) (*Script, error) {
	if len(data) > MaxScriptBytes {
		return nil, &dreamcore.Error{
			Code:    dreamcore.CodeInvalid,
			Message: fmt.Sprintf("the model script has more than %d MiB", MaxScriptBytes>>20),
			Hint:    "shorten the texts and tool inputs of the script",
		}
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var whole json.RawMessage
	if err := json.Unmarshal(data, &whole); err != nil {
		return nil, syntaxError(data, err)
	}
	return decodeScript(node{raw: whole})
}

// Load reads the script that nameOrFile means: DemoName is the embedded demo,
// anything else a file (a file called demo is "./demo"). Its errors are
// dreamcore.Errors with CodeInvalid.
func Load(nameOrFile string) (*Script, error) {
	if nameOrFile == DemoName {
		return Demo(), nil
	}
	data, err := readScript(nameOrFile)
	if err != nil {
		message := fmt.Sprintf("the model script %q cannot be read", nameOrFile)
		if errors.Is(err, os.ErrNotExist) {
			message = fmt.Sprintf("there is no model script %q", nameOrFile)
		}
		return nil, &dreamcore.Error{
			Code:    dreamcore.CodeInvalid,
			Message: message,
			Hint:    "name a readable JSON file, or use --model-script demo for the embedded one",
			Err:     err,
		}
	}
	s, err := Parse(data)
	if e, ok := errors.AsType[*dreamcore.Error](err); ok {
		return nil, &dreamcore.Error{Code: e.Code, Message: nameOrFile + ": " + e.Message, Hint: e.Hint, Err: e.Err}
	}
	return s, err
}

// readScript reads one byte more than is allowed, so that Parse can tell.
func readScript(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxScriptBytes+1))
}
