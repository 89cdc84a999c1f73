package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html/template"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(DevicePage{})
	httpcaddyfile.RegisterHandlerDirective("device_page", parseDevicePage)
	httpcaddyfile.RegisterDirectiveOrder("device_page", httpcaddyfile.Before, "reverse_proxy")
}

// DevicePage answers devicePagePath with a page that tells a device which certificate was seen, how long it is valid and what
// to do next. It passes everything else on:
//
//	device_page * DEVICES
//
// It comes after the matcher `enrolled`, so only devices get the page. DEVICES is the folder of enrolled devices.
type DevicePage struct {
	Devices string `json:"devices"`
}

const (
	devicePagePath = "/immich-exposure"

	// endsSoon is how long before expiry the page begins to warn: as early as a certificate is renewed by default.
	endsSoon = 30 * 24 * time.Hour

	// mostDevices is how many files are searched for another certificate of the same device.
	mostDevices = 2000
)

// CaddyModule returns the Caddy module information.
func (DevicePage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.device_page", New: func() caddy.Module { return new(DevicePage) }}
}

func parseDevicePage(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	page := DevicePage{}
	h.Next()
	if !h.AllArgs(&page.Devices) {
		return nil, h.ArgErr()
	}
	return page, nil
}

// ServeHTTP answers for the page, or passes the request on.
func (p DevicePage) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	asks := r.URL.Path == devicePagePath || r.URL.Path == devicePagePath+"/"
	if !asks || r.Method != http.MethodGet && r.Method != http.MethodHead || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return next.ServeHTTP(w, r)
	}
	leaf := r.TLS.PeerCertificates[0]
	seen := fingerprint(leaf)
	standing, err := p.standingOf(hex.EncodeToString(seen[:]), leaf.NotAfter, time.Now())
	if err != nil {
		return caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	var body bytes.Buffer
	if err := devicePage.Execute(&body, standing); err != nil {
		return caddyhttp.Error(http.StatusInternalServerError, err)
	}
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy", devicePagePolicy)
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(body.Len()))
	if r.Method == http.MethodGet {
		_, err = w.Write(body.Bytes())
	}
	return err
}

// standing is the content of the page.
type standing struct {
	Name   string
	Groups []string // of the fingerprint
	Until  string   // the day on which the certificate expires
	Left   string   // the time until then
	Soon   bool     // whether it expires soon
	Newer  bool     // a newer certificate of this device is waiting to be installed
	Older  string   // the day until which the previous certificate is valid, if there is one
}

// standingOf looks at a certificate and at the other certificates of the same device.
func (p DevicePage) standingOf(fingerprint string, notAfter, now time.Time) (standing, error) {
	mine, ok := readEnrolment(filepath.Join(p.Devices, fingerprint))
	if !ok || mine.isFrame {
		return standing{}, fmt.Errorf("the file of device %s cannot be read", fingerprint)
	}
	end := notAfter
	if !mine.until.IsZero() && mine.until.Before(end) {
		end = mine.until
	}
	found := standing{Name: mine.name, Groups: inGroups(fingerprint), Until: day(end), Left: inWords(end.Sub(now)), Soon: end.Sub(now) < endsSoon}
	folder, err := os.Open(p.Devices)
	if err != nil {
		return standing{}, err
	}
	defer folder.Close()
	names, _ := folder.Readdirnames(mostDevices)
	for _, name := range names {
		other, ok := readEnrolment(filepath.Join(p.Devices, name))
		switch {
		case !ok || other.isFrame || name == fingerprint || other.name != mine.name || other.until.IsZero() || !other.until.After(now):
		case other.until.After(end):
			found.Newer = true
		default:
			found.Older = day(other.until)
		}
	}
	return found, nil
}

func day(when time.Time) string { return when.UTC().Format("2 January 2006") }

// inWords rounds down, so that the page never promises more time than there is.
func inWords(left time.Duration) string {
	switch days := int(left / (24 * time.Hour)); {
	case days > 730:
		return fmt.Sprintf("%d years", days/365)
	case days > 1:
		return fmt.Sprintf("%d days", days)
	case left < 2*time.Hour:
		return "less than two hours"
	default:
		return fmt.Sprintf("%d hours", int(left/time.Hour))
	}
}

// inGroups splits a fingerprint into groups as the install sheet does.
func inGroups(fingerprint string) []string {
	var groups []string
	for start := 0; start < len(fingerprint); start += 4 {
		groups = append(groups, fingerprint[start:min(start+4, len(fingerprint))])
	}
	return groups
}

const devicePageStyle = `:root { color-scheme: light dark; --paper: #f6f5f2; --card: #fff; --ink: #1d1f26; --soft: #5d6270; --line: #e3e1db; ` +
	`--good: #1f6b45; --warn: #8a3b12; }
@media (prefers-color-scheme: dark) { :root { --paper: #14161b; --card: #1d2027; --ink: #e9e8e4; --soft: #a0a5b3; --line: #31353f; ` +
	`--good: #7fd3a6; --warn: #f0b48f; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1.0625rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 40rem; margin: 0 auto; padding: 2rem 1.25rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 1rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 1.25rem; margin: 0 0 1rem; }
.card > :first-child { margin-top: 0; } .card > :last-child { margin-bottom: 0; }
.good { border-left: 6px solid var(--good); } .warn { border-left: 6px solid var(--warn); }
a { color: inherit; } dt, .soft { color: var(--soft); font-size: .9375rem; } dd { margin: 0 0 .75rem; }
.name { display: inline-block; max-width: 100%; } .print, code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .9em; }
.print { display: grid; grid-template-columns: repeat(4, max-content); gap: .25rem 1rem; }
@media (min-width: 40rem) { .print { grid-template-columns: repeat(8, max-content); } }
`

var devicePage = template.Must(template.New("device").Parse(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Name}}: this device's certificate</title>
<style>` + devicePageStyle + `</style>
</head>
<body>
<main>
<h1>This device is <span class="name">{{.Name}}</span></h1>
{{if .Newer -}}
<section class="card warn">
<p><strong>There is a newer certificate for this device.</strong> The one that this browser sends expires on {{.Until}} ({{.Left}}
from now).</p>
<p>Install the new one as you did the first: the person who runs the server runs <code>make handover DEVICE={{.Name}}</code>, and this
device scans the code. Then remove the old certificate, close the browser completely and open this page again.</p>
</section>
{{- else if .Soon -}}
<section class="card warn">
<p><strong>This device's certificate expires on {{.Until}} ({{.Left}} from now),</strong> and there is no newer one yet.</p>
<p>Tell the person who runs the server: <code>pulumi up</code> issues a new one, and the install sheet says how to install it.</p>
</section>
{{- else -}}
<section class="card good">
<p><strong>All is well.</strong> All of Immich is open to this device until {{.Until}} ({{.Left}} from now).</p>
{{if .Older}}<p>This browser sends the device's new certificate. The previous one is valid until {{.Older}}: remove it from the device, so
that no program picks it.</p>{{end}}
</section>
{{- end}}
<dl class="card">
<dt>Device</dt><dd>{{.Name}}</dd>
<dt>Valid until</dt><dd>{{.Until}}</dd>
<dt>Certificate's fingerprint (SHA-256), as on the install sheet</dt><dd class="print">{{range .Groups}}<span>{{.}}</span>{{end}}</dd>
</dl>
<p class="soft">This is the certificate that the browser sent. On an iPhone or iPad, the Immich app has a copy of its own, to be replaced
separately.</p>
<p><a href="/">Open Immich</a></p>
</main>
</body>
</html>
`))

// devicePagePolicy lets the page do nothing but be displayed.
var devicePagePolicy = func() string {
	sum := sha256.Sum256([]byte(devicePageStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'"
}()

var _ caddyhttp.MiddlewareHandler = DevicePage{}
