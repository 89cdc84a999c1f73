package main

import "github.com/oschwald/maxminddb-golang/v2"

// networkTree is the search tree of a database in MaxMind's format (maxmind.github.io/MaxMind-DB). Each node has two records; a
// record is the number of another node or, beyond those, of a network's data.
type networkTree struct {
	content []byte
	nodes   uint
	bits    uint // of a record
	ends    []uint32
}

const (
	// mostEnds is many times the number of networks in any database.
	mostEnds = 50_000_000

	// deepest is the length of an address.
	deepest = 128
)

// hasAnEnd reports whether walking all networks of a database is feasible. In a tree whose branches join again, there are as
// many networks as paths, so a database of one kilobyte can make a walk endless. Databases do reuse parts of their tree in a
// few places, so a node may have several parents.
func hasAnEnd(content []byte, about maxminddb.Metadata) bool {
	tree := networkTree{content: content, nodes: about.NodeCount, bits: about.RecordSize, ends: make([]uint32, about.NodeCount)}
	if about.NodeCount == 0 || uint(len(content)) < about.NodeCount*about.RecordSize/4 {
		return false
	}
	return tree.endsBelow(0, deepest) <= mostEnds
}

// endsBelow counts the networks below a node. It visits each node once and stops at the limit.
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

// below returns the two records of a node. With 28 bits, the byte between them holds the top four bits of each.
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
