package main

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
)

// nodesOf writes a tree with records of 32 bits.
func nodesOf(nodes ...[2]uint32) ([]byte, maxminddb.Metadata) {
	var content []byte
	for _, node := range nodes {
		content = binary.BigEndian.AppendUint32(content, node[0])
		content = binary.BigEndian.AppendUint32(content, node[1])
	}
	return content, maxminddb.Metadata{NodeCount: uint(len(nodes)), RecordSize: 32}
}

func TestATreeWithoutEndIsNotWalked(t *testing.T) {
	var meeting, chain [][2]uint32
	for node := range uint32(128) {
		meeting = append(meeting, [2]uint32{node + 1, node + 1})
		chain = append(chain, [2]uint32{node + 1, 1000})
	}
	for what, row := range map[string]struct {
		nodes [][2]uint32
		want  bool
	}{
		"one node":             {[][2]uint32{{1, 2}}, true},
		"one long address":     {chain, true},
		"one that is longer":   {append(chain[:127:127], [2]uint32{128, 1000}, [2]uint32{129, 1000}), false},
		"a circle":             {[][2]uint32{{1, 5}, {0, 5}}, false},
		"itself":               {[][2]uint32{{0, 0}}, false},
		"branches that meet":   {meeting, false},
		"a part in two places": {[][2]uint32{{1, 1}, {9, 9}}, true},
		"no node":              {nil, false},
	} {
		if content, about := nodesOf(row.nodes...); hasAnEnd(content, about) != row.want {
			t.Errorf("%s: %v", what, !row.want)
		}
	}
	content, about := nodesOf([2]uint32{1, 2}, [2]uint32{3, 4})
	if hasAnEnd(content[:8], about) {
		t.Error("a tree that is cut off is walked")
	}
	for _, real := range []string{countryTest, "testdata/GeoIP2-Anonymous-IP-Test.mmdb"} { // records of 28 bits
		if _, err := (banSources{database: real}).openDatabase(time.Now()); err != nil {
			t.Errorf("%s: %v", real, err)
		}
	}
}
