package main

// nearest finds the candidate that a mistyped word most likely meant: at most a third of it wrong, and at most three letters.
func nearest(word string, candidates []string) (string, bool) {
	best, found := min(3, len(word)/3)+1, ""
	for _, candidate := range candidates {
		if d := editDistance(word, candidate); d < best {
			best, found = d, candidate
		}
	}
	return found, found != ""
}

// editDistance counts the letters to insert, delete or replace to make b out of a (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
