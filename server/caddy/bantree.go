package main

import "github.com/oschwald/maxminddb-golang/v2"

// networkTree is the search tree of a database in MaxMind's form (maxmind.github.io/MaxMind-DB): of each node two records, which
// are numbers of nodes, or beyond those what is known of a network.
type networkTree struct {
	content []byte
	nodes   uint
	bits    uint // of a record
	ends    []uint32
}

const (
	// mostEnds is many times the networks that any database has.
	mostEnds = 50_000_000

	// deepest is the length of an address.
	deepest = 128
)

// hasAnEnd tells whether all networks of a database can be walked. In a tree whose branches meet again there are as many as there
// are ways through it: a kilobyte is enough for a walk that never ends. Databases put a part of their tree into a few places,
// which is why a node may have more than one above it.
func hasAnEnd(content []byte, about maxminddb.Metadata) bool {
	tree := networkTree{content: content, nodes: about.NodeCount, bits: about.RecordSize, ends: make([]uint32, about.NodeCount)}
	if about.NodeCount == 0 || uint(len(content)) < about.NodeCount*about.RecordSize/4 {
		return false
	}
	return tree.endsBelow(0, deepest) <= mostEnds
}

// endsBelow counts the networks below a node, each node once, and no further than there may be.
func (t networkTree) endsBelow(node uint, depth int) uint32 {
	switch {
	case node >= t.nodes:
		return 1
	case depth == 0:
		return mostEnds + 1
	case t.ends[node] == 0:
		left, right := t.below(node)
		t.ends[node] = min(t.endsBelow(left, depth-1)+t.endsBelow(right, depth-1), mostEnds+1)
	}
	return t.ends[node]
}

// below returns the two records of a node; of 28 bits, the highest four of both are in the byte between them.
func (t networkTree) below(node uint) (left, right uint) {
	size := t.bits / 8
	bytes := t.content[node*t.bits/4:]
	for place := range size {
		left = left<<8 | uint(bytes[place])
		right = right<<8 | uint(bytes[t.bits/4-size+place])
	}
	if t.bits%8 != 0 {
		left |= uint(bytes[size]>>4) << 24
		right |= uint(bytes[size]&15) << 24
	}
	return left, right
}
