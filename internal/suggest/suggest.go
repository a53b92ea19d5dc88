// Package suggest finds which of some words a mistyped one stands for.
package suggest

import "strings"

// Closest returns the word that a mistyped one most likely stands for, or
// nothing if none is close: two letters wrong, missing, too many or swapped, or
// one in words of up to three letters. Case does not count.
func Closest(typed string, words []string) string {
	best, least := "", 3
	if len(typed) <= 3 {
		least = 2
	}
	for _, w := range words {
		if n := distance(strings.ToLower(typed), strings.ToLower(w)); n < least && n < len(w) {
			best, least = w, n
		}
	}
	return best
}

// DidYouMean returns " (did you mean WORD?)" for the closest of the words, or
// else nothing.
func DidYouMean(typed string, words []string) string {
	if best := Closest(typed, words); best != "" {
		return " (did you mean " + best + "?)"
	}
	return ""
}

// distance is the number of bytes to change, add, drop or swap with their
// neighbour to get from a to b.
func distance(a, b string) int {
	const far = 64
	if len(a) > far || len(b) > far {
		return far
	}
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			change := row[j]
			if a[i] != b[j] {
				change++
			}
			next[j+1] = min(change, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
