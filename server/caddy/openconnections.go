package main

import (
	"slices"
	"sync"
)

// openConnections holds all connections by network, and the networks by how many connections each has.
//
// When the table is full, being first does not help: a new connection of a network with few takes the place of the newest
// connection of the network with most, if that has at least two more. So a few networks cannot lock out all others; only as
// many networks as there are places could, with one connection each. A part of the table is reserved for known networks
// (isKnown); they and devices never lose a place.
type openConnections struct {
	mutex   sync.Mutex
	of      map[network][]*countedConnection
	by      [connectionsOfOne + 1]map[network]struct{}
	all     int
	isKnown func(remote string) bool
}

// How many networks are searched for a connection that may be ended, and how many of the newest connections of each.
const (
	networksAsked = 32
	newestAsked   = 3
)

// add admits a connection or not. It returns a connection that has lost its place, if any, which the caller must close.
func (o *openConnections) add(c *countedConnection) (taken bool, lost *countedConnection) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	own := len(o.of[c.from])
	switch {
	case own >= connectionsOfOne || o.all >= manyConnections && own >= fewConnections:
		return false, nil
	case o.all < mostConnections-keptConnections:
	case o.all < mostConnections && o.isKnown(c.RemoteAddr().String()):
	default:
		if lost = o.newestOfMost(own + 2); lost == nil {
			return false, nil
		}
		o.take(lost)
	}
	if o.of == nil {
		o.of = map[network][]*countedConnection{}
	}
	o.put(c.from, append(o.of[c.from], c))
	o.all++
	return true, lost
}

// newestOfMost returns the newest connection that may be ended in the largest network with at least this many, or nil.
func (o *openConnections) newestOfMost(least int) *countedConnection {
	asked := 0
	for size := connectionsOfOne; size >= least; size-- {
		for each := range o.by[size] {
			own := o.of[each]
			for _, connection := range slices.Backward(own[max(0, len(own)-newestAsked):]) {
				if !connection.device.Load() && !o.isKnown(connection.RemoteAddr().String()) {
					return connection
				}
			}
			if asked++; asked >= networksAsked {
				return nil
			}
		}
	}
	return nil
}

// remove forgets a connection, unless it has already lost its place.
func (o *openConnections) remove(c *countedConnection) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	o.take(c)
}

func (o *openConnections) take(c *countedConnection) {
	own := o.of[c.from]
	if place := slices.Index(own, c); place >= 0 {
		o.put(c.from, slices.Delete(own, place, place+1))
		o.all--
	}
}

// put sets the connections of a network, and files the network under their number.
func (o *openConnections) put(from network, own []*countedConnection) {
	delete(o.by[len(o.of[from])], from)
	if len(own) == 0 {
		delete(o.of, from)
		return
	}
	o.of[from] = own
	if o.by[len(own)] == nil {
		o.by[len(own)] = map[network]struct{}{}
	}
	o.by[len(own)][from] = struct{}{}
}

// isKnownHere reports whether visitors of this network have a live link, or a device was here within a day.
func isKnownHere(remote string) bool {
	if homes.knows(widestOf(remote), "") {
		return true
	}
	limits := inForce.Load()
	if limits == nil {
		return false
	}
	visitor, _ := networksOf(remote, limits.Visitor)
	return live.knows(visitor, "")
}
