package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// startAdmin serves the switches that make Tailscale's side misbehave. Every answer is JSON; a wrong request is
// 400 with {"error": "..."}.
//
//	GET /healthz                                  {"ok": true}
//	GET /nodes                                    [{"name", "addresses", "peerAPI", "ingressEnabled", "wireIngress", "expired", "lastPoll"}]
//	GET /caps?https=0|1&funnel=0|1                {"https", "funnel"}; parameters that are not given stay unchanged
//	GET /feature?mode=text|wait|error             {"mode"}
//	GET /setdns?fail=0|1                          {"fail"}
//	GET /expire?name=NODE.DOMAIN&expired=0|1      {"changed": number of records}
//	GET /rename?name=NODE.DOMAIN&to=NODE          {"changed": number of records}
//	GET /accounts?same=0|1                        {"same"}; 0: from now on each login is another account's
func startAdmin(s *settings, ctl *control, parts *parts) error {
	listener, err := net.Listen("tcp", s.admin)
	if err != nil {
		return fmt.Errorf("the admin interface cannot listen: %w", err)
	}
	mux := http.NewServeMux()
	for path, answer := range map[string]func(url.Values) (any, error){
		"/healthz":  func(url.Values) (any, error) { return map[string]bool{"ok": true}, nil },
		"/nodes":    func(url.Values) (any, error) { return ctl.nodes(), nil },
		"/caps":     ctl.adminCaps,
		"/feature":  ctl.adminFeature,
		"/setdns":   ctl.adminSetDNS,
		"/expire":   ctl.adminExpire,
		"/rename":   ctl.adminRename,
		"/accounts": ctl.adminAccounts,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { answerAdmin(w, r, answer) })
	}
	parts.serveHTTP("the admin interface", listener, mux)
	return nil
}

func answerAdmin(w http.ResponseWriter, r *http.Request, answer func(url.Values) (any, error)) {
	result, err := answer(r.URL.Query())
	if err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, result)
}

func (c *control) adminCaps(query url.Values) (any, error) {
	c.mu.Lock()
	wanted := c.grants
	c.mu.Unlock()
	if err := readSwitch(query, "https", &wanted.HTTPS); err != nil {
		return nil, err
	}
	if err := readSwitch(query, "funnel", &wanted.Funnel); err != nil {
		return nil, err
	}
	c.setGrants(wanted)
	return wanted, nil
}

func (c *control) adminFeature(query url.Values) (any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch mode := query.Get("mode"); mode {
	case "":
	case featureText, featureWait, featureError:
		c.feature = mode
	default:
		return nil, fmt.Errorf("mode is %q; give text, wait or error", mode)
	}
	return map[string]string{"mode": c.feature}, nil
}

func (c *control) adminSetDNS(query url.Values) (any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := readSwitch(query, "fail", &c.failSetDNS)
	return map[string]bool{"fail": c.failSetDNS}, err
}

func (c *control) adminExpire(query url.Values) (any, error) {
	name, expired := query.Get("name"), true
	if name == "" {
		return nil, fmt.Errorf("name is missing; give the full name of a node, for example immich.%s", c.domain)
	}
	if err := readSwitch(query, "expired", &expired); err != nil {
		return nil, err
	}
	return map[string]int{"changed": c.setExpired(name, expired)}, nil
}

func (c *control) adminRename(query url.Values) (any, error) {
	name, label := query.Get("name"), query.Get("to")
	if name == "" || label == "" || strings.Contains(label, ".") {
		return nil, fmt.Errorf("name or to is missing or wrong; give the full name of a node, for example immich.%s, and the first part of its new one", c.domain)
	}
	return map[string]int{"changed": c.rename(name, label)}, nil
}

// adminAccounts sets what testcontrol reads at each login, without a lock of ours: nobody logs in meanwhile.
func (c *control) adminAccounts(query url.Values) (any, error) {
	err := readSwitch(query, "same", &c.server.AllNodesSameUser)
	return map[string]bool{"same": c.server.AllNodesSameUser}, err
}

// readSwitch puts the value of a 0|1 parameter into target, which stays as it is when the parameter is missing.
func readSwitch(query url.Values, name string, target *bool) error {
	switch value := query.Get(name); value {
	case "":
	case "0", "1":
		*target = value == "1"
	default:
		return fmt.Errorf("%s is %q; give 0 or 1", name, value)
	}
	return nil
}

// writeJSON answers with a status code and one JSON value.
func writeJSON(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(value); err != nil {
		log.Printf("an answer was not delivered: %v", err)
	}
}
