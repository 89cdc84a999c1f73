package main

import "sync"

// headcount counts the requests of each network, and admits another if `room` allows it, given the network's own count and the
// total.
type headcount struct {
	room  func(own, all int) bool
	mutex sync.Mutex
	of    map[network]int
	all   int
}

func (h *headcount) add(from network) bool {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if !h.room(h.of[from], h.all) {
		return false
	}
	if h.of == nil {
		h.of = map[network]int{}
	}
	h.of[from]++
	h.all++
	return true
}

func (h *headcount) remove(from network) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.all--
	if h.of[from]--; h.of[from] == 0 {
		delete(h.of, from)
	}
}

func (h *headcount) count(from network) int {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	return h.of[from]
}
