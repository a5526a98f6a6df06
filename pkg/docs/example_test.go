package docs_test

import (
	"fmt"

	"github.com/notef-neighbor/dreamcore/pkg/docs"
)

func ExamplePage() {
	page, ok := docs.Page("upgrade")
	fmt.Println(docs.Title(page), ok)
	// Output: Upgrade and remove true
}
