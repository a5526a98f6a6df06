package usage

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "spend-forever" {
		spendForever(os.Args[2])
	}
	goleak.VerifyTestMain(m)
}

// spendForever is a process that spends a thousandth of a dollar at a time, and
// says each time that it is in the books.
func spendForever(dir string) {
	p, err := ParsePrices([]string{"m in=1 out=1"})
	if err == nil {
		var b *Book
		if b, err = Open(dir, Options{Prices: p}); err == nil {
			j := b.Job("u", "p", "j")
			for {
				settle, err := j.Reserve("m", 1000, 0)
				if err != nil {
					break
				}
				settle(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: 1000}}, false)
				fmt.Println("spent")
				settle(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: 1000}}, true)
			}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
