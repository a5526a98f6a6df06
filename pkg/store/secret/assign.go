package secret

import (
	"fmt"
	"io"
	"strings"
)

// ParseAssignments parses a secret as typed on a command line: its name, then
// KEY=value for each value. KEY=- reads that value from stdin, to its end and
// without one trailing line break, so that it does not show in the process list;
// only one key can do that. Errors have CodeInvalid and never quote an argument,
// since it may be a secret in the wrong place. Empty values are refused: they come
// from unset shell variables.
func ParseAssignments(args []string, stdin io.Reader) (name string, values map[string]string, err error) {
	const usage = "use: dreamcore secret create NAME KEY=value KEY2=- (a dash reads the value from standard input)"
	if len(args) == 0 {
		return "", nil, errValue("the name of the secret is missing", usage)
	}
	name = args[0]
	if err := CheckName(name); err != nil {
		return "", nil, err
	}
	values = map[string]string{}
	fromStdin := ""
	for i, arg := range args[1:] {
		key, value, ok := strings.Cut(arg, "=")
		if !ok {
			return "", nil, errValue(fmt.Sprintf("argument %d after the name is not KEY=value", i+1), usage)
		}
		if !validKey(key) {
			return "", nil, errValue(fmt.Sprintf("Invalid key in argument %d after the name", i+1),
				"use letters, digits and underscores, not starting with a digit")
		}
		if _, twice := values[key]; twice {
			return "", nil, errValue(fmt.Sprintf("argument %d after the name repeats a key", i+1), "give every key once")
		}
		if value == "-" {
			if fromStdin != "" {
				return "", nil, errValue("two keys read standard input", "give only one key the value -")
			}
			fromStdin = key
		}
		values[key] = value
	}
	if fromStdin != "" {
		if values[fromStdin], err = readValue(fromStdin, stdin); err != nil {
			return "", nil, err
		}
	}
	if err := checkValues(values); err != nil {
		return "", nil, err
	}
	return name, values, nil
}

// readValue reads one value; echo and editors append a line break to it.
func readValue(key string, stdin io.Reader) (string, error) {
	if stdin == nil {
		return "", errValue("there is no standard input to read "+key+" from", "pipe the value into the command")
	}
	value, err := readLine(stdin)
	if err != nil {
		return "", fmt.Errorf("read the value of %s from standard input: %w", key, err)
	}
	return value, nil
}

// readLine reads a value without one trailing line break, and at least one byte more
// than MaxValueBytes if it is too long.
func readLine(r io.Reader) (string, error) {
	const lineBreak = len("\r\n")
	b, err := io.ReadAll(io.LimitReader(r, MaxValueBytes+int64(lineBreak)+1))
	if err != nil {
		return "", err
	}
	value, cut := strings.CutSuffix(string(b), "\n")
	if cut {
		value = strings.TrimSuffix(value, "\r")
	}
	return value, nil
}
