package term

// Nearest returns the word of known that was probably meant by word, or "".
func Nearest(word string, known []string) string {
	best, least := "", 1+len([]rune(word))/3
	for _, k := range known {
		if d := distance([]rune(word), []rune(k)); d <= least && (best == "" || d < least) {
			best, least = k, d
		}
	}
	return best
}

// distance is the number of characters to insert, remove or replace, or of
// neighbours to exchange, to get b from a.
func distance(a, b []rune) int {
	before, last, row := []int(nil), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range a {
		row[0] = i + 1
		for j := range b {
			replace := last[j]
			if a[i] != b[j] {
				replace++
			}
			row[j+1] = min(replace, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, make([]int, len(b)+1)
	}
	return last[len(b)]
}
