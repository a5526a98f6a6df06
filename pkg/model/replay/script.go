package replay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// MaxScriptBytes bounds a model script.
const MaxScriptBytes = 16 << 20

// The names of the embedded scripts for Load.
const (
	DemoName       = "demo"        // a game that works
	DemoRepairName = "demo-repair" // a game with a mistake, which is mended when the finding comes
)

// Script is a parsed model script. It is not changed after Parse, so several
// models may share it. The tags of the fields define the format: see decode.go.
type Script struct {
	Conversations []conversation          `json:"conversations" required:"write {\"conversations\": [[{\"text\": \"Hello\"}]]}"`
	Prompts       map[string][]promptTurn `json:"prompts"` // by name of the endpoint
}

type conversation []turn

// turn is one answer of the model.
type turn struct {
	Text     string `json:"text"`
	Thinking string `json:"thinking"`
	Delay    int    `json:"delay_ms" range:"0-600000"` // milliseconds
	Tools    []tool `json:"tools"`
	Fail     *Fail  `json:"fail"`

	// Needs are texts that the prompt must contain, all of them and regardless of
	// case. Without them the model answers that it does not understand the request.
	Needs []string `json:"needs"`
}

// tool is one tool call.
type tool struct {
	Name  string    `json:"name" required:"name the tool, for example \"name\": \"Write\""`
	Input toolInput `json:"input" required:"give the tool's input as an object, {} if it needs none"`
}

// toolInput is a JSON object. After Parse it is compact, in the order of the
// script.
type toolInput struct{ json.RawMessage }

// Fail makes a turn fail. Exactly one of Status, Cut, Stall and Garbage is set.
type Fail struct {
	Status      int               `json:"status" range:"400-599"`    // an HTTP status in place of an answer
	Type        string            `json:"type"`                      // of the API error; by default the one of Status
	Message     string            `json:"message"`                   // of the API error
	Headers     map[string]string `json:"headers"`                   // sent with Status, such as retry-after
	Cut         bool              `json:"cut"`                       // the connection breaks in the middle of the answer
	Stall       bool              `json:"stall"`                     // the stream opens a block and stays silent
	StallMillis int               `json:"stall_ms" range:"0-600000"` // how long, then the answer continues; 0 is until the client disconnects
	Garbage     bool              `json:"garbage"`                   // a stream that is not an event stream
	Times       int               `json:"times" range:"0-1000000"`   // number of requests that fail before the turn is played; 0 is all
}

// Parse reads a model script of at most MaxScriptBytes. Its errors are
// dreamcore.Errors with CodeInvalid and ReasonScript. They name the field by its
// path, such as conversations[0][2].tools[1].name, and how to correct it.
func Parse(data []byte) (*Script, error) {
	if len(data) > MaxScriptBytes {
		return nil, scriptError(fmt.Sprintf("the model script has more than %d MiB", MaxScriptBytes>>20), "shorten the texts and tool inputs of the script", nil)
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var whole json.RawMessage
	if err := json.Unmarshal(data, &whole); err != nil {
		return nil, syntaxError(data, err)
	}
	return decodeScript(whole)
}

// Load reads a script: an embedded one if nameOrFile is its name, else a file (a file
// called demo is "./demo"). Its errors are like those of Parse.
func Load(nameOrFile string) (*Script, error) {
	switch nameOrFile {
	case DemoName:
		return Demo(), nil
	case DemoRepairName:
		return DemoRepair(), nil
	}
	data, err := readScript(nameOrFile)
	if err != nil {
		message := fmt.Sprintf("the model script %q cannot be read", nameOrFile)
		if errors.Is(err, os.ErrNotExist) {
			message = fmt.Sprintf("there is no model script %q", nameOrFile)
		}
		return nil, scriptError(message, "name a readable JSON file, or "+DemoName+" for the embedded script", err)
	}
	s, err := Parse(data)
	if e, ok := errors.AsType[*dreamcore.Error](err); ok {
		return nil, scriptError(nameOrFile+": "+e.Message, e.Hint, e.Err)
	}
	return s, err
}

// readScript reads up to one byte more than allowed, so that Parse reports it.
func readScript(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxScriptBytes+1))
}
