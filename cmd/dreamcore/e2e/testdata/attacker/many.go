package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// many sends COUNT requests for MODEL to the gateway at once, each with a prompt
// of MIB mebibytes, and prints the status and the length of each answer. With
// "plain" the answer is asked for as one message, else as a stream.
func many(args []string) {
	if len(args) < 3 {
		fmt.Println("usage: many MODEL COUNT MIB [plain]")
		return
	}
	count, _ := strconv.Atoi(args[1])
	mib, _ := strconv.Atoi(args[2])
	stream := len(args) < 4 || args[3] != "plain"
	client := &http.Client{Transport: &http.Transport{
		DisableCompression: true, MaxResponseHeaderBytes: 1 << 20,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", os.Getenv("ANTHROPIC_UNIX_SOCKET"))
		},
	}, Timeout: 60 * time.Second}
	var all sync.WaitGroup
	for range count {
		all.Go(func() {
			status, n, err := send(client, args[0], mib<<20, stream)
			fmt.Println(status, n, err)
		})
	}
	all.Wait()
}

// send sends a request whose prompt has length bytes, and reads the answer.
func send(client *http.Client, model string, length int, stream bool) (status int, n int64, err error) {
	head := fmt.Sprintf(`{"model":%q,"max_tokens":16,"stream":%t,"messages":[{"role":"user","content":"`, model, stream)
	const tail = `"}]}`
	body := io.MultiReader(strings.NewReader(head), io.LimitReader(letters{}, int64(length)), strings.NewReader(tail))
	req, err := http.NewRequest(http.MethodPost, "http://gateway/v1/messages", body)
	if err != nil {
		return 0, 0, err
	}
	req.ContentLength = int64(len(head) + length + len(tail))
	req.Header.Set("X-Api-Key", os.Getenv("ANTHROPIC_API_KEY"))
	req.Header.Set("Anthropic-Version", "2023-06-01")
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	n, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, n, err
}

// letters is an endless text.
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}
