package main

import (
	"net/netip"
	"slices"
)

// protectedNetwork is a network that no list may ban, and its name for people.
type protectedNetwork struct {
	network netip.Prefix
	called  string
}

// protectedNetworks are not on the internet, or carry its traffic to here. Devices are checked before bans, so what a list
// could lock out here are the owner's own outside check, the health checks, and guests at home.
//
// The last four are what Tailscale names as its own servers (tailscale.com/kb/1082/firewall-ports). A visitor who comes through
// its ingress has the address in the PROXY line, never the ingress's.
var protectedNetworks = []protectedNetwork{
	{netip.MustParsePrefix("0.0.0.0/8"), "no address of a visitor"},
	{netip.MustParsePrefix("127.0.0.0/8"), "this server itself"},
	{netip.MustParsePrefix("10.0.0.0/8"), "a network at home"},
	{netip.MustParsePrefix("172.16.0.0/12"), "a network at home"},
	{netip.MustParsePrefix("192.168.0.0/16"), "a network at home"},
	{netip.MustParsePrefix("169.254.0.0/16"), "a network at home"},
	{netip.MustParsePrefix("100.64.0.0/10"), "the tailnet"},
	{netip.MustParsePrefix("224.0.0.0/3"), "no address of a visitor"},
	{netip.MustParsePrefix("::/127"), "this server itself"},
	{netip.MustParsePrefix("fc00::/7"), "the tailnet or a network at home"},
	{netip.MustParsePrefix("fe80::/10"), "a network at home"},
	{netip.MustParsePrefix("ff00::/8"), "no address of a visitor"},
	{netip.MustParsePrefix("192.200.0.0/24"), "Tailscale's own"},
	{netip.MustParsePrefix("199.165.136.0/24"), "Tailscale's own"},
	{netip.MustParsePrefix("2606:b740:1::/48"), "Tailscale's own"},
	{netip.MustParsePrefix("2606:b740:49::/48"), "Tailscale's own"},
}

// An entry wider than these is nobody's network: no registry assigns anything as wide to one of its members.
const (
	widestBan4 = 8
	widestBan6 = 16
)

// isProtected reports whether no list may ban an address.
func isProtected(address netip.Addr) bool {
	for _, protected := range protectedNetworks {
		if protected.network.Contains(address) {
			return true
		}
	}
	return false
}

// whyNotBanned says why no list may ban a network, or returns "".
func whyNotBanned(network netip.Prefix) string {
	// A network as wide as that overlaps many protected ones, and naming the first would be misleading.
	if isTooWide(network, 0) {
		return "is too wide to be anybody's network"
	}
	for _, protected := range protectedNetworks {
		if protected.network.Overlaps(network) {
			return "is " + protected.called
		}
	}
	return ""
}

// isTooWide reports whether a network is more than this many bits wider than those.
func isTooWide(network netip.Prefix, by int) bool {
	widest := widestBan6
	if network.Addr().Is4() {
		widest = widestBan4
	}
	return network.Bits() < widest-by
}

// neighbours is how many bits wider a country's network may be: a database joins adjacent networks into one.
const neighbours = 4

// bannedOf returns the part of a country's network that a list may ban: all of it, what is left around the protected networks,
// or nothing.
func bannedOf(network netip.Prefix) []netip.Prefix {
	switch {
	case whyNotBanned(network) == "":
		return []netip.Prefix{network}
	case isTooWide(network, neighbours) || isWithinProtected(network):
		return nil
	}
	lower, upper := halvesOf(network)
	return append(bannedOf(lower), bannedOf(upper)...)
}

func isWithinProtected(network netip.Prefix) bool {
	return slices.ContainsFunc(protectedNetworks, func(protected protectedNetwork) bool {
		return protected.network.Bits() <= network.Bits() && protected.network.Contains(network.Addr())
	})
}

// halvesOf returns the two halves of a network of more than one address.
func halvesOf(network netip.Prefix) (lower, upper netip.Prefix) {
	bits := network.Bits()
	bytes := network.Addr().AsSlice()
	bytes[bits/8] |= 0x80 >> (bits % 8)
	other, _ := netip.AddrFromSlice(bytes)
	return netip.PrefixFrom(network.Addr(), bits+1), netip.PrefixFrom(other, bits+1)
}
