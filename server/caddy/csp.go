package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(&PagePolicy{})
	httpcaddyfile.RegisterHandlerDirective("page_policy", parsePagePolicy)
	httpcaddyfile.RegisterDirectiveOrder("page_policy", httpcaddyfile.Before, "reverse_proxy")
}

// PagePolicy adds a policy to every HTML answer, which tells a visitor's browser what the page of a link may do:
//
//	page_policy IMMICH INTERVAL
//
// Scripts run only if they are Immich's own files or one of the inline scripts of its page. The inline scripts differ from
// build to build (they contain file names and the version, in Immich 2 also the build time), so no table of releases can list
// them. They are read from /index.html of the Immich behind the edge, which is the page before anything about a link is written
// into it, and read again after each INTERVAL, which is shorter than Immich takes to restart in another version. The page sent
// to the visitor would not do: a script smuggled into it, say through an album's name, would be allowed along with the rest.
//
// The owner's settings in Immich count as well: a custom map, or a style (custom.css) that loads from elsewhere, widens where
// pictures, styles and data may come from. It never widens scripts.
//
// While Immich is in maintenance, it redirects visitors to a page that is not for them; they get 503 instead.
type PagePolicy struct {
	Immich   string         `json:"immich"`
	Interval caddy.Duration `json:"interval"`

	client  *http.Client
	log     *zap.Logger
	mutex   sync.Mutex
	readAt  time.Time
	sources sources
}

const (
	// shellPatience is how long Immich may take to deliver its page and the owner's settings.
	shellPatience = 5 * time.Second

	// shellSize is larger than any page or style of Immich, in bytes.
	shellSize = 1 << 20

	// maintenanceSeconds is after how many seconds a visitor should try again.
	maintenanceSeconds = "120"
)

// permissions switches off what no page of a link uses. The map asks for the visitor's location, and the viewer goes full
// screen.
const permissions = "accelerometer=(), browsing-topics=(), camera=(), display-capture=(), gyroscope=(), " +
	"hid=(), identity-credentials-get=(), idle-detection=(), local-fonts=(), magnetometer=(), microphone=(), midi=(), " +
	"payment=(), publickey-credentials-create=(), publickey-credentials-get=(), serial=(), storage-access=(), usb=(), " +
	"window-management=(), xr-spatial-tracking=()"

// mapHosts serve the map unless the owner has configured another.
var mapHosts = []string{"https://tiles.immich.cloud", "https://static.immich.cloud"}

// CaddyModule returns the Caddy module information.
func (*PagePolicy) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.page_policy", New: func() caddy.Module { return new(PagePolicy) }}
}

func parsePagePolicy(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler, interval := new(PagePolicy), ""
	h.Next()
	if !h.AllArgs(&handler.Immich, &interval) {
		return nil, h.ArgErr()
	}
	parsed, err := caddy.ParseDuration(interval)
	if err != nil || parsed <= 0 {
		return nil, h.Errf("the interval must be a duration like 2s, not %q", interval)
	}
	handler.Interval = caddy.Duration(parsed)
	return handler, nil
}

// Provision prepares requests to Immich that are direct and follow no redirects.
func (p *PagePolicy) Provision(ctx caddy.Context) error {
	p.log = ctx.Logger()
	p.client = &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return nil
}

// Validate rejects an invalid address.
func (p *PagePolicy) Validate() error {
	if target, err := url.Parse("http://" + p.Immich); err != nil || target.Port() == "" || target.Path != "" {
		return fmt.Errorf("page_policy wants the address and port of Immich, not %q", p.Immich)
	}
	return nil
}

// Cleanup closes the connections to Immich.
func (p *PagePolicy) Cleanup() error {
	p.client.CloseIdleConnections()
	return nil
}

// ServeHTTP passes the request on, and adds the policy if the answer is a page.
func (p *PagePolicy) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	answer := &page{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, policy: p, host: r.Host}
	if err := next.ServeHTTP(answer, r); err != nil {
		return err
	}
	if answer.maintenance {
		clear(w.Header())
		w.Header().Set("Retry-After", maintenanceSeconds)
		return caddyhttp.Error(http.StatusServiceUnavailable, errMaintenance)
	}
	return nil
}

var errMaintenance = errors.New("Immich is in maintenance")

// page is an answer on its way to the visitor.
type page struct {
	*caddyhttp.ResponseWriterWrapper
	policy      *PagePolicy
	host        string
	maintenance bool
}

func (p *page) WriteHeader(status int) {
	header := p.Header()
	if isMaintenance(status, header.Get("Location")) {
		p.maintenance = true
		return
	}
	if isPage(header.Get("Content-Type")) {
		header.Add("Content-Security-Policy", p.policy.current(p.host).String())
		header.Set("Permissions-Policy", permissions)
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
	}
	p.ResponseWriterWrapper.WriteHeader(status)
}

func (p *page) Write(body []byte) (int, error) {
	if p.maintenance {
		return len(body), nil
	}
	return p.ResponseWriterWrapper.Write(body)
}

// ReadFrom keeps the body of a redirect from bypassing Write.
func (p *page) ReadFrom(body io.Reader) (int64, error) {
	if p.maintenance {
		return io.Copy(io.Discard, body)
	}
	return p.ResponseWriterWrapper.ReadFrom(body)
}

// isPage reports whether a browser would run scripts in an answer of this type.
func isPage(contentType string) bool {
	return strings.Contains(strings.ToLower(contentType), "html")
}

func isMaintenance(status int, location string) bool {
	target, err := url.Parse(location)
	return status >= 300 && status < 400 && err == nil && target.Path == "/maintenance"
}

// sources are where parts of a page may come from, besides what every release of Immich needs.
type sources struct {
	// scripts are the hashes of the inline scripts, as a policy names them.
	scripts []string

	// data is where the map is fetched from.
	data []string

	// anyStyle says that the owner's style loads from elsewhere.
	anyStyle bool
}

// String returns the Content-Security-Policy. Without a hash (Immich has not delivered its page) no inline script runs.
//
// WebAssembly arranges the photos; blobs are the workers of the map and of streamed videos, pieces of videos and previews of
// panoramas; Svelte sets inline styles.
func (s sources) String() string {
	style := ""
	if s.anyStyle {
		style = " https:"
	}
	return strings.Join([]string{
		"default-src 'none'",
		strings.Join(append([]string{"script-src 'self' 'wasm-unsafe-eval'"}, s.scripts...), " "),
		"style-src 'self' 'unsafe-inline'" + style,
		"font-src 'self'" + style,
		"img-src 'self' data: blob:" + style,
		"media-src 'self' blob:",
		strings.Join(append([]string{"connect-src 'self' blob:"}, s.data...), " "),
		"worker-src 'self' blob:",
		"manifest-src 'self'",
		"base-uri 'none'",
		"form-action 'none'",
		"frame-ancestors 'none'",
	}, "; ")
}

// current returns the sources now in force; one request at a time asks Immich. If Immich does not answer, the previous ones
// stay in force: at worst a page that has changed meanwhile does not start, but none ever runs more than it should.
func (p *PagePolicy) current(host string) sources {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if !p.readAt.IsZero() && time.Since(p.readAt) < time.Duration(p.Interval) {
		return p.sources
	}
	read, err := p.read(host)
	if err != nil {
		p.log.Error("the pages of links may not start, because Immich does not show its own page", zap.Error(err))
		read = p.sources
	}
	p.sources, p.readAt = read, time.Now()
	return read
}

// read asks Immich for its page and for the owner's settings; without the settings, the defaults apply.
func (p *PagePolicy) read(host string) (sources, error) {
	// Not tied to a visitor's request: one that is given up must not decide for the others.
	ctx, cancel := context.WithTimeout(context.Background(), shellPatience)
	defer cancel()
	shell, err := p.fetch(ctx, host, "/index.html")
	if err != nil {
		return sources{}, err
	}
	style, styleErr := p.fetch(ctx, host, "/custom.css")
	config, configErr := p.fetch(ctx, host, "/api/server/config")
	if err := errors.Join(styleErr, configErr); err != nil {
		p.log.Debug("the default counts for what Immich does not show", zap.Error(err))
	}
	return sources{
		scripts:  inlineScripts(shell),
		data:     mapSources(config),
		anyStyle: strings.Contains(style, "//"), // comments in a style have a single slash
	}, nil
}

// fetch gets a text that is the same for all visitors.
func (p *PagePolicy) fetch(ctx context.Context, host, path string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Immich+path, nil)
	if err != nil {
		return "", err
	}
	request.Host = host
	request.Header.Set("User-Agent", "immich-edge")
	// Immich builds a link's page from the plain file; a compressed file next to it could differ.
	request.Header.Set("Accept-Encoding", "identity")
	answer, err := p.client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, shellSize+1))
	switch {
	case err != nil:
		return "", err
	case answer.StatusCode != http.StatusOK:
		return "", fmt.Errorf("%s: status %d", path, answer.StatusCode)
	case len(text) > shellSize:
		return "", fmt.Errorf("%s: more than %d bytes", path, shellSize)
	}
	return string(text), nil
}

// inlineScript finds the text of scripts. False matches (within a comment, say) do no harm.
var inlineScript = regexp.MustCompile(`(?is)<script(?:\s[^>]*)?>(.*?)</script\s*>`)

// inlineScripts returns the hashes of a page's inline scripts, in the syntax of a policy (CSP Level 3, 6.7.3.3). A browser
// turns every line ending into a line feed before it hashes (HTML, 13.2.3.5).
func inlineScripts(shell string) []string {
	var hashes []string
	shell = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(shell)
	for _, found := range inlineScript.FindAllStringSubmatch(shell, -1) {
		if found[1] == "" {
			continue
		}
		sum := sha256.Sum256([]byte(found[1]))
		hashes = append(hashes, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	}
	return hashes
}

// mapSources returns where the map comes from. A map's style names further hosts, which only the browser learns, so with a
// custom map any host is allowed.
func mapSources(config string) []string {
	var styles struct {
		Light string `json:"mapLightStyleUrl"`
		Dark  string `json:"mapDarkStyleUrl"`
	}
	if err := json.Unmarshal([]byte(config), &styles); err != nil {
		return mapHosts
	}
	for _, style := range []string{styles.Light, styles.Dark} {
		if style != "" && !strings.HasPrefix(style, mapHosts[0]+"/") {
			return []string{"https:"}
		}
	}
	return mapHosts
}

var (
	_ caddy.Provisioner           = (*PagePolicy)(nil)
	_ caddy.Validator             = (*PagePolicy)(nil)
	_ caddy.CleanerUpper          = (*PagePolicy)(nil)
	_ caddyhttp.MiddlewareHandler = (*PagePolicy)(nil)
)
