// Command compare says how far pairs of samples differ. It reads a JSON list of
// pairs of lists of numbers, and writes a JSON list with as many results.
package main

import (
	"encoding/json"
	"log"
	"math"
	"os"
	"slices"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// A result compares two samples by two tests.
type result struct {
	D, KSP    float64 // Kolmogorov and Smirnov: the distance, and how probable one as large is by chance
	T, WelchP float64 // Welch: the statistic, and how probable one as far from 0 is by chance
}

func main() {
	var pairs [][2][]float64
	if err := json.NewDecoder(os.Stdin).Decode(&pairs); err != nil {
		log.Fatal(err)
	}
	results := make([]result, len(pairs))
	for i, pair := range pairs {
		r := &results[i]
		r.D, r.KSP = kolmogorovSmirnov(pair[0], pair[1])
		r.T, r.WelchP = welch(pair[0], pair[1])
	}
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		log.Fatal(err)
	}
}

// kolmogorovSmirnov returns the largest distance between the distributions of
// two samples, and how probable one as large is by chance, by Kolmogorov's
// asymptotic distribution with Stephens' correction for the sizes.
func kolmogorovSmirnov(x, y []float64) (d, p float64) {
	d = stat.KolmogorovSmirnov(slices.Sorted(slices.Values(x)), nil, slices.Sorted(slices.Values(y)), nil)
	n := math.Sqrt(float64(len(x)) * float64(len(y)) / float64(len(x)+len(y)))
	lambda := (n + 0.12 + 0.11/n) * d
	if lambda < 0.2 { // where the series converges slowly, and p is 1 to 9 digits
		return d, 1
	}
	for k := 1.0; k <= 100; k++ {
		p += 2 * math.Pow(-1, k-1) * math.Exp(-2*k*k*lambda*lambda)
	}
	return d, min(max(p, 0), 1)
}

// welch returns Welch's t of two samples, and how probable one as far from 0 is
// by chance.
func welch(x, y []float64) (t, p float64) {
	meanX, varX := stat.MeanVariance(x, nil)
	meanY, varY := stat.MeanVariance(y, nil)
	nx, ny := float64(len(x)), float64(len(y))
	sx, sy := varX/nx, varY/ny
	t = (meanX - meanY) / math.Sqrt(sx+sy)
	freedom := (sx + sy) * (sx + sy) / (sx*sx/(nx-1) + sy*sy/(ny-1)) // Welch–Satterthwaite
	return t, 2 * distuv.StudentsT{Mu: 0, Sigma: 1, Nu: freedom}.CDF(-math.Abs(t))
}
