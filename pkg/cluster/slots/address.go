package slots

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
)

// The object of Kubernetes with the map, and its member.
const (
	Object = "dreamcore-cells"
	Member = "map.json"
)

// Address is where a cell is.
type Address struct {
	Cell    string
	Address string // HOST:PORT
}

// maxAddresses bounds a file of addresses, in bytes.
const maxAddresses = 256 << 10

// ReadAddresses reads a file with a cell on each line: its name and HOST:PORT. Lines that
// begin with # are comments.
func ReadAddresses(file string) ([]Address, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxAddresses+1))
	if err == nil && len(raw) > maxAddresses {
		err = fmt.Errorf("%s has more than %d bytes", file, maxAddresses)
	}
	if err != nil {
		return nil, err
	}
	return ParseAddresses(string(raw))
}

// ParseAddresses parses the text of such a file.
func ParseAddresses(text string) (cells []Address, err error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0][0] == '#' {
			continue
		}
		if len(fields) != 2 {
			return nil, fmt.Errorf("line %d: it must be NAME HOST:PORT", n)
		}
		host, port, err := net.SplitHostPort(fields[1])
		if err != nil || host == "" || port == "" || port == "0" {
			return nil, fmt.Errorf("line %d: %.100q is not an address HOST:PORT", n, fields[1])
		}
		if slices.ContainsFunc(cells, func(c Address) bool { return c.Address == fields[1] }) {
			return nil, fmt.Errorf("line %d: two cells have the address %s", n, fields[1])
		}
		cells = append(cells, Address{Cell: fields[0], Address: fields[1]})
	}
	return cells, nil
}
