package firewall

import "crypto/rand"

// idAlphabet has no letters that are taken for digits when read aloud.
const idAlphabet = "23456789abcdefghjkmnpqrstvwxyz"

// idLength gives 30^8 ids, about 2^39: short to type, and hardly ever drawn
// twice.
const idLength = 8

// newID returns an id that no grant has.
func (g *Gate) newID() string {
	for {
		var random [2 * idLength]byte
		rand.Read(random[:])
		id := make([]byte, 0, idLength)
		for _, b := range random {
			if int(b) < 256/len(idAlphabet)*len(idAlphabet) && len(id) < idLength { // else some letters came more often
				id = append(id, idAlphabet[int(b)%len(idAlphabet)])
			}
		}
		if _, taken := g.ids[string(id)]; len(id) == idLength && !taken {
			return string(id)
		}
	}
}
