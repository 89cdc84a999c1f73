"""A fake `tailscale` that keeps a serve configuration and changes it as the real command does (1.102.5).

Put in place by ``install``, behind a shell that answers what only asks: nine calls in ten, for which no
interpreter has to start. Its folder holds ``serve.json`` (the configuration), ``status.json`` and ``mood``
(how it behaves). Seen of the real one, and copied here: opening over an entry replaces it; `funnel ... off`
leaves the flag in AllowFunnel behind; serving the same port inside the tailnet takes the flag away; `off` of
what is not there fails; a command can exit 0 with nothing done.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DOMAIN = "immich.lab-tailnet.ts.net"
STATUS: dict[str, Any] = {
    "Version": "1.102.5",
    "BackendState": "Running",
    "CertDomains": [DOMAIN],
    "Self": {
        "DNSName": f"{DOMAIN}.",
        "CapMap": {
            "https": None,
            "funnel": None,
            "https://tailscale.com/cap/funnel-ports?ports=443,8443,10000": None,
        },
    },
}


# $0 is a path, because the fakes are found on PATH. What changes something is left to this file's Python,
# which starts in half the time without site-packages.
FRONT = """#!/bin/sh
here=${{0%/*}}
printf '%s\\n' "tailscale $*" >>"$here/record"
read -r mood <"$here/mood"
if [ "$mood" = down ]; then
  echo "failed to connect to local tailscaled; it doesn't appear to be running" >&2
  exit 1
fi
case "$1 ${{2-}}" in
  "status "*) exec cat "$here/status.json" ;;
  "funnel status") exec cat "$here/serve.json" ;;
esac
exec {python} -IS "$here/tailscale.py" "$@"
"""


def install(folder: Path) -> None:
    """Make this the ``tailscale`` of a folder of fakes, connected and with everything granted."""
    program = folder / "tailscale"
    program.write_text(FRONT.format(python=sys.executable))
    program.chmod(0o755)
    (folder / "tailscale.py").write_text(Path(__file__).read_text())
    (folder / "status.json").write_text(json.dumps(STATUS))
    (folder / "serve.json").write_text("{}")
    (folder / "mood").write_text("well\n")


def _refuse(text: str) -> None:
    print(text, file=sys.stderr)
    sys.exit(1)


def _serve(config: dict[str, Any], words: list[str], *, funnel: bool) -> None:
    """`funnel|serve [--bg] [--yes] [--proxy-protocol N] --tcp PORT TARGET|off`, or of a web path"""
    if words[-1] == "off" and words[-3].startswith("--https="):
        _web_off(config, words[-3].partition("=")[2], words[-2].partition("=")[2])
        return
    port = words[words.index("--tcp") + 1]
    tcp, flags = config.setdefault("TCP", {}), config.setdefault("AllowFunnel", {})
    if any(name.endswith(f":{port}") for name in config.get("Web", {})):
        _refuse(f"error: cannot serve TCP; already serving web on {port}")
    if words[-1] == "off":
        if port not in tcp:
            _refuse("error: failed to remove TCP serve: serve config does not exist")
        del tcp[port]
    else:
        tcp[port] = {"TCPForward": words[-1].removeprefix("tcp://")}
        if "--proxy-protocol" in words:
            tcp[port]["ProxyProtocol"] = int(words[words.index("--proxy-protocol") + 1])
        flags.pop(f"{DOMAIN}:{port}", None)
        if funnel:
            flags[f"{DOMAIN}:{port}"] = True
    for name in ("TCP", "AllowFunnel"):
        if not config[name]:
            del config[name]


def _web_off(config: dict[str, Any], port: str, path: str) -> None:
    """`serve [--yes] --https=PORT --set-path=PATH off`; with its last path the port goes, and its flag."""
    place = f"{DOMAIN}:{port}"
    handlers = config.get("Web", {}).get(place, {}).get("Handlers", {})
    if path not in handlers:
        _refuse("error: failed to remove web serve: handler does not exist")
    del handlers[path]
    if not handlers:
        for name, key in (("Web", place), ("TCP", port), ("AllowFunnel", place)):
            config.get(name, {}).pop(key, None)
            if not config.get(name, True):
                del config[name]


def _certificate(words: list[str], mood: str) -> None:
    """`cert --cert-file FILE --key-file FILE NAME`: what lies in issued.crt and issued.key, 0644 and 0600."""
    if mood == "refusing":
        _refuse("500 Internal Server Error: SetDNS: rate limited")
    for kind, mode in (("cert", 0o644), ("key", 0o600)):
        target = Path(words[words.index(f"--{kind}-file") + 1])
        target.write_bytes(b"" if mood == "emptying" else (HERE / f"issued.{kind}").read_bytes())
        target.chmod(mode)


def main(words: list[str]) -> None:
    """Do what one command line wants changed."""
    mood = (HERE / "mood").read_text().strip()
    place = HERE / "serve.json"
    if mood == "waiting":
        time.sleep(3600)
    if words[0] == "cert":
        _certificate(words, mood)
        return
    if mood == "asking":
        print(
            "Funnel is not enabled on your tailnet.\nTo enable, visit:\n\n  https://login.tailscale.com/f/funnel"
        )
        return
    config = json.loads(place.read_text())
    if words == ["funnel", "reset"]:
        config = {}
    elif words[0] in ("funnel", "serve"):
        _serve(config, words[1:], funnel=words[0] == "funnel")
    else:
        _refuse(f"unknown command {words}")
    place.write_text(json.dumps(config))


if __name__ == "__main__":
    main(sys.argv[1:])
