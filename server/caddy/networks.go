package main

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"strings"
)

// wideBits is the size of the largest IPv6 network that one customer may have (RFC 6177): 65,536 networks of 64 bits.
const wideBits = 48

// network is a part of the internet that limits count as one visitor, as a hash that outsiders cannot aim at. Two of them
// collide only by chance, and then share a budget.
type network uint64

var networkSeed = maphash.MakeSeed()

// nobody is shared by all visitors without an address.
const nobody network = 0

// networksOf returns the visitor (an IPv4 address, or the first `bits` of an IPv6 address) and the largest customer network it
// could belong to: the /48, or nobody for IPv4.
func networksOf(remote string, bits int) (visitor, wide network) {
	address, err := addressOf(remote)
	if err != nil {
		return nobody, nobody
	}
	if address.Is4() {
		return hashOf(address, 32), nobody
	}
	return hashOf(address, bits), hashOf(address, wideBits)
}

// widestOf returns the /48 of an IPv6 address, or the IPv4 address.
func widestOf(remote string) network {
	address, err := addressOf(remote)
	if err != nil {
		return nobody
	}
	return hashOf(address, min(address.BitLen(), wideBits))
}

// addressOf parses host:port as net/http writes it, without allocating.
func addressOf(remote string) (netip.Addr, error) {
	host := remote
	if end := strings.LastIndexByte(remote, ':'); end >= 0 {
		host = strings.TrimSuffix(strings.TrimPrefix(remote[:end], "["), "]")
	}
	address, err := netip.ParseAddr(host)
	return address.Unmap().WithZone(""), err
}

func hashOf(address netip.Addr, bits int) network {
	prefix, err := address.Prefix(bits)
	if err != nil {
		return nobody
	}
	var bytes [20]byte
	whole := prefix.Addr().As16()
	copy(bytes[:], whole[:])
	binary.BigEndian.PutUint32(bytes[16:], uint32(bits))
	return network(maphash.Bytes(networkSeed, bytes[:]))
}
