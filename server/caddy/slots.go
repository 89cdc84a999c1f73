package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// slots let so many of a key's requests in at once; more of them wait in line.
type slots struct {
	mutex  sync.Mutex
	lines  map[uint64]*line
	inside int
}

type line struct {
	inside  int
	waiting []chan struct{}
}

const (
	waitingPatience = 30 * time.Second

	// When so many requests of all strangers are open, each network has few.
	manyInside = 480
	fewOfMany  = 4
)

var errBusy = errors.New("too many requests at once")

// enter returns when the key has less than `most` inside, and an error when it takes too long. Whoever has entered must
// leave.
func (s *slots) enter(ctx context.Context, key uint64, most int) error {
	s.mutex.Lock()
	if s.lines == nil {
		s.lines = map[uint64]*line{}
	}
	of := s.lines[key]
	if of == nil {
		of = &line{}
		s.lines[key] = of
	}
	if len(of.waiting) == 0 && of.inside < s.most(most) {
		of.inside++
		s.inside++
		s.mutex.Unlock()
		return nil
	}
	turn := make(chan struct{}) // how many wait in all is the crowd's business
	of.waiting = append(of.waiting, turn)
	s.mutex.Unlock()

	patience := time.NewTimer(waitingPatience)
	defer patience.Stop()
	var problem error
	select {
	case <-turn:
		return nil
	case <-patience.C:
		problem = errBusy
	case <-ctx.Done():
		problem = ctx.Err()
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	place := slices.Index(of.waiting, turn)
	if place < 0 { // let in at the same moment
		return nil
	}
	of.waiting = slices.Delete(of.waiting, place, place+1)
	return problem
}

// leave makes room for the next in line.
func (s *slots) leave(key uint64, most int) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	of := s.lines[key]
	of.inside--
	s.inside--
	for len(of.waiting) > 0 && of.inside < s.most(most) {
		close(of.waiting[0])
		of.waiting = of.waiting[1:]
		of.inside++
		s.inside++
	}
	if of.inside == 0 && len(of.waiting) == 0 {
		delete(s.lines, key)
	}
}

func (s *slots) most(most int) int {
	if s.inside >= manyInside {
		return min(most, fewOfMany)
	}
	return most
}

// crowd bounds how many requests of strangers are in the edge, waiting or being answered: each takes 25 kB. A network gets
// no more than two thirds of what others have left, so that there is always room for the next one.
type crowd struct {
	mutex sync.Mutex
	of    map[network]int
	all   int
}

const mostInside = 8_000

func (c *crowd) enter(from network) bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.of == nil {
		c.of = map[network]int{}
	}
	if c.of[from] >= (mostInside-c.all)*2/3 {
		return false
	}
	c.of[from]++
	c.all++
	return true
}

func (c *crowd) count(from network) int {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.of[from]
}

func (c *crowd) leave(from network) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.all--
	if c.of[from]--; c.of[from] == 0 {
		delete(c.of, from)
	}
}
