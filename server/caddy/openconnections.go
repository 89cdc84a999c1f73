package main

import (
	"slices"
	"sync"
)

// openConnections are all connections by their network, and the networks by how many each has.
//
// When the table is full, nobody is there first: a network that comes with few takes the place of the newest connection of
// the network that has most, if that has at least two more. So a few networks cannot shut all others out; as many networks
// as there are places can, one connection each. A part of the table is kept for networks that are known (isKnown), and
// neither they nor devices lose a place.
type openConnections struct {
	mutex   sync.Mutex
	of      map[network][]*countedConnection
	by      [connectionsOfOne + 1]map[network]struct{}
	all     int
	isKnown func(remote string) bool
}

// How many networks are asked for a connection that may be ended, and how many of each one's newest.
const (
	networksAsked = 32
	newestAsked   = 3
)

// add takes a connection in, or not; whichever has lost its place to it is to be closed.
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

// newestOfMost returns the newest connection that may be ended in the largest network that has so many at least, or nothing.
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

// remove forgets a connection, if it has not lost its place before.
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

// put makes these the connections of a network, and finds it by their number.
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

// isKnownHere tells whether visitors of this network have a live link, or a device was here within a day.
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
