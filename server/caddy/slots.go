package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// slots admits a number of a key's requests at once; others wait in line.
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

	// From this many open requests of all strangers, each network has few.
	manyInside = 480
	fewOfMany  = 4
)

var errBusy = errors.New("too many requests at once")

// enter returns when fewer than `most` of the key's requests are inside, and an error if that takes too long. Each successful
// enter must be followed by a leave.
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
	turn := make(chan struct{}) // limits.go bounds how many wait in total
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
	if place < 0 { // admitted at that very moment
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
