package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNetworksInAnySpelling(t *testing.T) {
	for text, want := range map[string]string{
		"203.0.113.9":             "203.0.113.9/32",
		"203.0.113.9/24":          "203.0.113.0/24",
		"2001:DB8:1:2:3::9/48":    "2001:db8:1::/48",
		"2001:db8::1":             "2001:db8::1/128",
		"::ffff:203.0.113.9":      "203.0.113.9/32",
		"::ffff:203.0.113.0/120":  "203.0.113.0/24",
		"::ffff:cb00:7109":        "203.0.113.9/32",
		"fe80::1%eth0":            "fe80::1/128",
		"":                        "",
		"10.0.0.0/33":             "",
		"300.1.1.1":               "",
		"203.0.113":               "",
		"203.0.113.0/":            "",
		"203.0.113.0-203.0.113.9": "",
		"2001:db8::/129":          "",
		"::ffff:0:0/64":           "",
		"example.org":             "",
	} {
		network, err := readNetwork(text)
		if (err != nil) != (want == "") || err == nil && network.String() != want {
			t.Errorf("%q: %v, %v, not %q", text, network, err, want)
		}
	}
}

func writeList(t *testing.T, path string, lines ...string) {
	t.Helper()
	text := strings.Join(append(lines, fmt.Sprintf("end %d", len(lines))), "\n") + "\n"
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// The table gives the same result as a check of each network.
func TestATableHoldsWhatItsNetworksHold(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	address := func(six bool) netip.Addr {
		var bytes [16]byte
		for place := range bytes {
			bytes[place] = byte(random.UintN(4) * 85) // crowded, so that networks meet and overlap
		}
		if six {
			return netip.AddrFrom16(bytes)
		}
		return netip.AddrFrom4([4]byte(bytes[:4]))
	}
	for round := range 40 {
		table, networks := &banTable{}, []netip.Prefix{}
		path := filepath.Join(t.TempDir(), "list")
		var lines []string
		for range random.UintN(60) {
			of := address(random.UintN(2) == 0)
			network, _ := of.Prefix(random.IntN(of.BitLen() + 1))
			networks, lines = append(networks, network), append(lines, network.String()+" some words")
		}
		writeList(t, path, lines...)
		table, err := readTable(path)
		if err != nil {
			t.Fatal(err)
		}
		asked := []netip.Addr{netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("::")}
		for _, network := range networks {
			asked = append(asked, network.Addr(), network.Addr().Prev(), lastOf(network), lastOf(network).Next())
		}
		for range 200 {
			asked = append(asked, address(random.UintN(2) == 0))
		}
		for _, one := range asked {
			if !one.IsValid() {
				continue
			}
			want := false
			for _, network := range networks {
				want = want || network.Contains(one)
			}
			if table.has(one) != want {
				t.Fatalf("round %d, %s: %v; networks %v", round, one, !want, networks)
			}
		}
	}
}

func lastOf(network netip.Prefix) netip.Addr {
	bytes := network.Addr().AsSlice()
	for bit := network.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}

func TestAListThatIsNotWholeIsRefused(t *testing.T) {
	for what, text := range map[string]string{
		"empty":              "",
		"without its end":    "203.0.113.0/24 CN\n",
		"cut in a line":      "203.0.113.0/24 CN\n198.51.1",
		"another count":      "203.0.113.0/24 CN\nend 2\n",
		"more behind it":     "203.0.113.0/24 CN\nend 1\n198.51.100.0/24 CN\n",
		"no network":         "203.0.113.0/240 CN\nend 1\n",
		"a line without end": "203.0.113.0/24 " + strings.Repeat("x", 4096) + "\nend 1\n",
		"bytes":              "\x00\xff\xfe\nend 1\n",
		"an empty line":      "\nend 1\n",
	} {
		path := filepath.Join(t.TempDir(), "list")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if table, err := readTable(path); err == nil {
			t.Errorf("%s: %v", what, table)
		}
	}
}

func TestWhatIsProtectedIsNeverBanned(t *testing.T) {
	folder := t.TempDir()
	writeList(t, filepath.Join(folder, "other"), "0.0.0.0/0 all", "::/0 all")
	lists := newBanLists(folder)
	for text, want := range map[string]bool{
		"203.0.113.9": true, "2001:db8::1": true,
		"127.0.0.1": false, "::1": false, "192.168.1.20": false, "10.1.2.3": false, "172.31.0.1": false, "100.100.100.100": false,
		"fd7a:115c:a1e0::1": false, "fe80::1": false, "169.254.1.1": false, "199.165.136.7": false, "2606:b740:49::1": false,
	} {
		if address := netip.MustParseAddr(text); lists.has(address) != want {
			t.Errorf("%s: %v", text, !want)
		}
		network, _ := readNetwork(text)
		if (whyNotBanned(network) == "") != want {
			t.Errorf("%s: %q", text, whyNotBanned(network))
		}
	}
	for text, want := range map[string]string{
		"0.0.0.0/0": "too wide", "0.0.0.0/8": "no address of a visitor", "64.0.0.0/2": "too wide", "16.0.0.0/4": "too wide", "2000::/3": "too wide",
		"2a00::/8": "too wide", "203.0.0.0/8": "", "2a02::/16": "", "192.168.0.0/24": "at home", "100.64.0.1": "the tailnet",
	} {
		network, _ := readNetwork(text)
		if why := whyNotBanned(network); want == "" != (why == "") || !strings.Contains(why, want) {
			t.Errorf("%s: %q, not %q", text, why, want)
		}
	}
}

// The protected part is left out of a country's network, and the rest is banned all the same.
func TestWhatIsBannedOfACountrysNetwork(t *testing.T) {
	for text, want := range map[string]string{
		"203.0.113.0/24":    "203.0.113.0/24",
		"214.0.0.0/7":       "214.0.0.0/8 215.0.0.0/8", // as databases join adjacent networks
		"192.200.0.0/24":    "",
		"192.200.0.0/22":    "192.200.1.0/24 192.200.2.0/23",
		"199.165.136.0/23":  "199.165.137.0/24",
		"2606:b740:48::/46": "2606:b740:48::/48 2606:b740:4a::/47",
		"172.16.0.0/14":     "",
		"10.1.2.3/32":       "",
		"8.0.0.0/5":         "8.0.0.0/8 9.0.0.0/8 11.0.0.0/8 12.0.0.0/8 13.0.0.0/8 14.0.0.0/8 15.0.0.0/8",
		"0.0.0.0/0":         "", // too wide to be anybody's
		"128.0.0.0/1":       "",
		"::/0":              "",
	} {
		said := strings.Trim(fmt.Sprint(bannedOf(netip.MustParsePrefix(text))), "[]")
		if said != want {
			t.Errorf("%s: %q, not %q", text, said, want)
		}
	}
}

func TestOnlyACountrysCodeIsOne(t *testing.T) {
	for record, want := range map[country]string{
		{Code: "CN"}: "CN", {Country: "CN"}: "CN", {Code: "XK"}: "XK",
		{Code: "AP"}: "", {Code: "EU"}: "", {Code: "ZZ"}: "", {Code: "XX"}: "", {Code: "-"}: "", {Code: "None"}: "", {Country: "A1"}: "", {}: "",
	} {
		if code := record.code(); code != want {
			t.Errorf("%v: %q, not %q", record, code, want)
		}
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 500 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

// A list applies as soon as it is in place, without a request; a damaged one changes nothing.
func TestListsComeAndGo(t *testing.T) {
	root := t.TempDir()
	folder := filepath.Join(root, "lists")
	lists := newBanLists(folder)
	go lists.follow()
	first, second := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8:1:ffff::9")
	if lists.has(first) {
		t.Error("banned by a folder that is not there")
	}
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "countries")
	writeList(t, path, "203.0.113.0/24 CN")
	eventually(t, "a list in a new folder", func() bool { return lists.has(first) && !lists.has(second) })
	writeList(t, filepath.Join(folder, "networks"), "2001:db8:1::/48 /etc/list")
	eventually(t, "a second list", func() bool { return lists.has(first) && lists.has(second) })

	for _, damage := range []string{"", "203.0.113.0/24", "end 3\n"} {
		if err := os.WriteFile(path, []byte(damage), 0o644); err != nil {
			t.Fatal(err)
		}
		writeList(t, filepath.Join(folder, "marker"), "198.51.100.7 x")
		eventually(t, "the news after the damage", func() bool { return lists.has(netip.MustParseAddr("198.51.100.7")) })
		if !lists.has(first) || !lists.has(second) {
			t.Errorf("%q changed what is in force", damage)
		}
		if err := os.Remove(filepath.Join(folder, "marker")); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the marker's end", func() bool { return !lists.has(netip.MustParseAddr("198.51.100.7")) })
	}

	writeList(t, path, "198.51.100.0/24 CN")
	eventually(t, "the next list that is whole", func() bool { return !lists.has(first) && lists.has(second) })
	if err := os.Rename(folder, folder+"-away"); err != nil {
		t.Fatal(err)
	}
	if !lists.has(second) {
		t.Error("a folder that was moved away lifts bans")
	}
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	writeList(t, path, "203.0.113.0/24 CN")
	eventually(t, "the folder that has its name now", func() bool { return lists.has(first) && !lists.has(second) })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no list", func() bool { return !lists.has(first) && lists.tables.Load() == nil })
}

func BenchmarkAskingALargeList(b *testing.B) {
	path := filepath.Join(b.TempDir(), "list")
	list, err := newListWriter(path)
	if err != nil {
		b.Fatal(err)
	}
	for number := range 500_000 {
		address := netip.AddrFrom4([4]byte{byte(number >> 14), byte(number >> 6), byte(number << 2), 0})
		_ = list.add(listEntry{netip.PrefixFrom(address, 24), "CN"})
	}
	if err := list.place(); err != nil {
		b.Fatal(err)
	}
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			if _, err := readTable(path); err != nil {
				b.Fatal(err)
			}
		}
	})
	table, _ := readTable(path)
	b.Run("ask", func(b *testing.B) {
		address := netip.MustParseAddr("23.1.77.3")
		for b.Loop() {
			table.has(address)
		}
	})
}

func mustNetwork(text string) netip.Prefix {
	network, err := readNetwork(text)
	if err != nil {
		panic(err)
	}
	return network
}
