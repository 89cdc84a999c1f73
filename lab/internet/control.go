package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
)

// What the control server answers if the CLI asks how to enable a feature that the node lacks.
const (
	featureText  = "text"  // "visit this URL": the CLI exits 0 with nothing configured
	featureWait  = "wait"  // the CLI waits until the node gets the attribute
	featureError = "error" // the query fails: the CLI exits 1
)

// innerPaths are the paths that testcontrol knows. It panics on any other.
var innerPaths = []string{
	"/key", "/ts2021", "/generate_204", "/c2n/",
	"/machine/map", "/machine/register", "/machine/set-dns", "/machine/update-health", "/machine/webclient/",
}

// grants are the node attributes that an administrator gives or takes in Tailscale's console.
type grants struct {
	HTTPS  bool `json:"https"`
	Funnel bool `json:"funnel"`
}

// capMap is how control tells a node about its grants.
func (g grants) capMap() tailcfg.NodeCapMap {
	m := tailcfg.NodeCapMap{}
	if g.HTTPS {
		m[tailcfg.CapabilityHTTPS] = nil
	}
	if g.Funnel {
		m[tailcfg.NodeAttrFunnel] = nil
		m[tailcfg.CapabilityFunnelPorts+"?ports=443,8443,10000"] = nil
	}
	return m
}

// control is Tailscale's coordination server with the switches of the lab's administrator.
type control struct {
	server *testcontrol.Server
	zone   *zone
	domain string

	mu         sync.Mutex
	grants     grants
	feature    string // one of the feature constants
	failSetDNS bool
	polls      map[key.NodePublic]*poll
	labels     map[key.NodePublic]string // of nodes that were renamed in the console, whatever they call themselves
}

// poll describes a node's contact with the control server.
type poll struct {
	last    time.Time // last map request
	streams int       // open long polls; none means that the node is away
}

// startControl serves the control server on the address and port of s. derpMap must not be nil: testcontrol
// would take Tailscale's production relays instead.
func startControl(s *settings, derpMap *tailcfg.DERPMap, parts *parts) (*control, error) {
	if derpMap == nil {
		return nil, errors.New("the control server has no relays of its own: refusing to fall back to Tailscale's")
	}
	controlLog, err := logFile(s.state, "control.log")
	if err != nil {
		return nil, err
	}
	noCaps := tailcfg.NodeCapMap{}
	c := &control{
		domain:  s.domain,
		grants:  grants{HTTPS: true, Funnel: true},
		feature: featureText,
		polls:   map[key.NodePublic]*poll{},
		labels:  map[key.NodePublic]string{},
	}
	c.server = &testcontrol.Server{
		Logf:             controlLog.Printf,
		DERPMap:          derpMap,
		ExplicitBaseURL:  "http://" + net.JoinHostPort(s.addr, strconv.Itoa(s.controlPort)),
		MagicDNSDomain:   s.domain,
		DNSConfig:        &tailcfg.DNSConfig{Proxied: true}, // without it no node gets CertDomains
		AllNodesSameUser: true,
		AllOnline:        true,
		// Anything set here could never be removed again; see noteMapRequest.
		DefaultNodeCapabilities: &noCaps,
		HoldMapRequest:          c.noteMapRequest,
		OnSetDNS:                c.setDNS,
	}
	if c.zone, err = newZone(s.ingressV4, s.ingressV6, s.domain, c.hasPublicName); err != nil {
		return nil, err
	}
	if err := c.guardPaths(); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(s.addr, strconv.Itoa(s.controlPort)))
	if err != nil {
		return nil, fmt.Errorf("the control server cannot listen: %w", err)
	}
	parts.serveHTTP("the control server", listener, c.server)
	return c, nil
}

// guardPaths puts a mux of our own before testcontrol's: known paths go through, the feature query is answered
// here, anything else is 404. The mux is private and a node's encrypted requests reach it without passing
// ServeHTTP, so there is no other place to put it.
func (c *control) guardPaths() error {
	// The mux is made at the first request.
	c.server.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/generate_204", nil))
	field := reflect.ValueOf(c.server).Elem().FieldByName("mux")
	if !field.IsValid() || field.Type() != reflect.TypeFor[*http.ServeMux]() {
		return errors.New("testcontrol.Server has no field mux of type *http.ServeMux: guardPaths has to follow the new version of tailscale.com")
	}
	slot := (**http.ServeMux)(unsafe.Pointer(field.UnsafeAddr()))
	inner, guarded := *slot, http.NewServeMux()
	for _, path := range innerPaths {
		guarded.Handle(path, inner)
	}
	guarded.HandleFunc("/machine/feature/query", c.answerFeatureQuery)
	guarded.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		log.Printf("control: %s %s is not part of the lab", r.Method, r.URL.Path)
		http.NotFound(w, r)
	})
	*slot = guarded
	return nil
}

// answerFeatureQuery answers a node that lacks an attribute (tailcfg.QueryFeatureRequest).
func (c *control) answerFeatureQuery(w http.ResponseWriter, r *http.Request) {
	var query tailcfg.QueryFeatureRequest
	if err := json.NewDecoder(r.Body).Decode(&query); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	mode := c.feature
	c.mu.Unlock()
	log.Printf("control: asked for feature %q, answer %s", query.Feature, mode)
	if mode == featureError {
		http.Error(w, "feature queries are switched off", http.StatusInternalServerError)
		return
	}
	writeJSON(w, http.StatusOK, tailcfg.QueryFeatureResponse{
		Text:       "To enable " + query.Feature + ", visit:",
		URL:        "https://login." + c.domain + "/f/" + query.Feature,
		ShouldWait: mode == featureWait,
	})
}

// noteMapRequest grants a node its attributes at its first request and keeps track of its polls. testcontrol takes a node's
// certificate domain from the name that the node calls itself.
func (c *control) noteMapRequest(req *tailcfg.MapRequest) (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if label, ok := c.labels[req.NodeKey]; ok && req.Hostinfo != nil {
		req.Hostinfo.Hostname = label
	}
	p := c.polls[req.NodeKey]
	if p == nil {
		p = &poll{}
		c.polls[req.NodeKey] = p
		c.server.SetNodeCapMap(req.NodeKey, c.grants.capMap())
	}
	p.last = time.Now()
	if !req.Stream {
		return nil
	}
	p.streams++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		p.streams--
	}
}

// setDNS publishes the TXT record that a node asks for; testcontrol has checked that the name is the node's.
func (c *control) setDNS(req *tailcfg.SetDNSRequest) error {
	c.mu.Lock()
	refuse := c.failSetDNS
	c.mu.Unlock()
	if refuse {
		return errors.New("the lab's administrator has switched set-dns off")
	}
	c.zone.addText(req.Name, req.Value)
	return nil
}

// setGrants grants or revokes attributes; every connected node is notified at once.
func (c *control) setGrants(g grants) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.grants = g
	for nodeKey := range c.polls {
		c.server.SetNodeCapMap(nodeKey, g.capMap())
	}
}

// setExpired expires (or restores) the node key of every node with that DNS name, as the console's "expire key" does.
func (c *control) setExpired(name string, expired bool) (changed int) {
	for _, node := range c.server.AllNodes() {
		if strings.TrimSuffix(node.Name, ".") != name {
			continue
		}
		node.KeyExpiry = time.Time{}
		if expired {
			node.KeyExpiry = time.Now().Add(-time.Minute)
		}
		c.server.UpdateNode(node)
		changed++
	}
	return changed
}

// rename gives every node with that DNS name another one in the same tailnet, as the console's "edit machine name" does.
func (c *control) rename(name, label string) (changed int) {
	for _, node := range c.server.AllNodes() {
		if strings.TrimSuffix(node.Name, ".") != name {
			continue
		}
		c.mu.Lock()
		c.labels[node.Key] = label
		c.mu.Unlock()
		node.Name = label + "." + c.domain + "."
		info := node.Hostinfo.AsStruct()
		info.Hostname = label
		node.Hostinfo = info.View()
		c.server.UpdateNode(node)
		changed++
	}
	return changed
}

// node is what the lab knows about a member of the tailnet.
type node struct {
	Name           string       `json:"name"` // full DNS name without the last dot
	Addresses      []netip.Addr `json:"addresses"`
	PeerAPI        string       `json:"peerAPI"` // host:port, empty until the node has announced it
	IngressEnabled bool         `json:"ingressEnabled"`
	WireIngress    bool         `json:"wireIngress"`
	Expired        bool         `json:"expired"`
	Online         bool         `json:"online"` // holds a long poll
	LastPoll       time.Time    `json:"lastPoll"`
}

// announced is whether the node asks for public DNS and ingress; see tailcfg.Hostinfo.WireIngress.
func (n node) announced() bool { return n.IngressEnabled || n.WireIngress }

// nodes lists the tailnet.
func (c *control) nodes() []node {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []node
	for _, n := range c.server.AllNodes() {
		view := describe(n)
		if p := c.polls[n.Key]; p != nil {
			view.Online, view.LastPoll = p.streams > 0, p.last
		}
		list = append(list, view)
	}
	return list
}

// describe extracts what the lab needs from a control server's record.
func describe(n *tailcfg.Node) node {
	view := node{
		Name:    strings.TrimSuffix(n.Name, "."),
		Expired: !n.KeyExpiry.IsZero() && n.KeyExpiry.Before(time.Now()),
	}
	for _, prefix := range n.Addresses {
		view.Addresses = append(view.Addresses, prefix.Addr())
	}
	if !n.Hostinfo.Valid() {
		return view
	}
	view.IngressEnabled, view.WireIngress = n.Hostinfo.IngressEnabled(), n.Hostinfo.WireIngress()
	for _, service := range n.Hostinfo.Services().All() {
		if service.Proto == tailcfg.PeerAPI4 && len(view.Addresses) > 0 {
			view.PeerAPI = netip.AddrPortFrom(view.Addresses[0], service.Port).String()
		}
	}
	return view
}

// latest finds the node of a DNS name. After a new login a name can have several records; the one
// seen last is current.
func latest(nodes []node, name string) (found node, ok bool) {
	for _, n := range nodes {
		if strings.EqualFold(n.Name, name) && (!ok || n.LastPoll.After(found.LastPoll)) {
			found, ok = n, true
		}
	}
	return found, ok
}

// hasPublicName is whether public DNS knows the name: Tailscale creates records for nodes that want ingress.
func (c *control) hasPublicName(name string) bool {
	n, ok := latest(c.nodes(), name)
	return ok && n.announced()
}

// routeIngress is the node that serves the name, or an error that says why the ingress must refuse.
func (c *control) routeIngress(name string) (node, error) {
	c.mu.Lock()
	granted := c.grants.Funnel
	c.mu.Unlock()
	return route(c.nodes(), name, granted)
}

// route is the decision of routeIngress.
func route(nodes []node, name string, granted bool) (node, error) {
	n, ok := latest(nodes, name)
	switch {
	case !ok:
		return node{}, fmt.Errorf("no node is called %q", name)
	case !granted:
		return node{}, fmt.Errorf("%s has lost the funnel attribute", name)
	case n.Expired:
		return node{}, fmt.Errorf("the key of %s has expired", name)
	case !n.announced():
		return node{}, fmt.Errorf("%s has no funnel open", name)
	case n.PeerAPI == "":
		return node{}, fmt.Errorf("%s has not told its peer API yet", name)
	}
	return n, nil
}
