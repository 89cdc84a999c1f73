"""Hand a device its bundle: `python -m handover --keystore DIR --device NAME`, in a terminal.

Exit status: 0 a file was fetched (an iPhone may need only one of its two), 1 it could not start, 2 wrong
arguments, 3 nothing was fetched, 130 interrupted before that.
"""

import argparse
import errno
import getpass
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from handover.address import AddressError, given_address, lan_address
from handover.files import Handover, read_handover
from handover.one_time_download import OneTimeDownload
from handover.qr import terminal_code
from handover.server import HandoverServer, Outcome, new_token, page_url
from handover.tls import Address, Identity, new_identity
from pki import KeystoreError

LINGER_SECONDS = 15.0
"""Seconds for which a second attempt still gets an explanation, after the last file was fetched."""


class CannotBeginError(RuntimeError):
    """The hand-over cannot start. The message says why, and what helps."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        return _hand_over(options)
    except (AddressError, CannotBeginError, KeystoreError) as error:
        print(f"handover: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # at the prompt


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m handover",
        description="Hand a device its bundle over the local network.",
        allow_abbrev=False,
    )
    parser.add_argument("--keystore", type=Path, required=True, help="the keystore's folder")
    parser.add_argument("--device", required=True, help="the device's name")
    parser.add_argument("--minutes", type=_minutes, default=10, help="how long the page stays open (1 to 60)")
    parser.add_argument("--address", help="this machine's address in the device's network")
    parser.add_argument(
        "--port",
        type=_port,
        default=0,
        help="the port that the page listens on, for a firewall that must let it in (default: any free one)",
    )
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        help="file with the keystore's passphrase [default: ask, or read stdin]",
    )
    return parser.parse_args(arguments)


def _minutes(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 60:
        raise argparse.ArgumentTypeError("must be a whole number from 1 to 60")
    return int(text)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1024 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError("must be a whole number from 1024 to 65535")
    return int(text)


def _hand_over(options: argparse.Namespace) -> int:
    if not sys.stdout.isatty():
        raise CannotBeginError(
            "The password is shown only in a terminal, and standard output is not one. Run the command "
            "without redirecting its output."
        )
    address = lan_address() if options.address is None else given_address(options.address)
    handover = read_handover(options.keystore, options.device, _passphrase(options.passphrase_file))
    seconds = options.minutes * 60
    token, identity = new_token(), new_identity(address)
    download = OneTimeDownload(
        handover, token, seconds, on_delivered=lambda _file, client: _tell_password(handover, client)
    )
    server = _open(download, identity, address, options.port)
    _stop_on_signal(server)
    _announce(handover, page_url(address, server.port, token), identity.fingerprint, options.minutes)
    outcome = server.serve(seconds, linger_seconds=LINGER_SECONDS)
    return _report(outcome, server, handover, options.minutes)


def _stop_on_signal(server: HandoverServer) -> None:
    """Let Ctrl-C and SIGTERM end it cleanly, whenever they arrive."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def _report(outcome: Outcome, server: HandoverServer, handover: Handover, minutes: int) -> int:
    fetched = server.download.delivered_names
    left = [file.file_name for file in handover.files if file.file_name not in fetched]
    if outcome is Outcome.STOPPED:
        print("The page was closed by hand.")
        return 0 if fetched else 130
    if outcome is Outcome.TIME_OVER:
        print(f"The {minutes} minutes are over. {_what_was_fetched(fetched, left, server)}")
    print("The page is closed.")
    return 0 if fetched else 3


def _what_was_fetched(fetched: Sequence[str], left: Sequence[str], server: HandoverServer) -> str:
    if fetched:
        return f"{fetched[0]} was fetched, {', '.join(left)} was not; a device may need only one of them."
    if server.anybody_came:
        return "Nothing was fetched."
    return (
        "Nobody came. The device must be in the same network as this machine, whose firewall must "
        f"let it in at port {server.port}; choose another port with make handover PORT=..."
    )


def _passphrase(file: Path | None) -> str:
    """Get the keystore's passphrase: from a file, a prompt, or a pipe."""
    try:
        if file is not None:
            return file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CannotBeginError(f"The passphrase file {file} cannot be read: {error}.") from error
    if sys.stdin.isatty():
        return getpass.getpass("Passphrase of the keystore: ")
    return sys.stdin.readline().rstrip("\r\n")


def _open(download: OneTimeDownload, identity: Identity, address: Address, port: int) -> HandoverServer:
    try:
        return HandoverServer(download, identity, address, port=port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CannotBeginError(
                f"Another program listens on port {port} of {address}. Give --port (make handover PORT=...) "
                "another one."
            ) from error
        raise CannotBeginError(
            f"Nothing can listen at {address} ({error.strerror}). Give --address (make handover "
            "ADDRESS=...) one of this machine's own addresses in the device's network."
        ) from error


def _announce(handover: Handover, url: str, fingerprint: str, minutes: int) -> None:
    """Print the code to scan, and what to compare before continuing."""
    files = " and ".join(file.file_name for file in handover.files)
    lines = (
        "",
        f"For {handover.device}: {files}, each to be fetched once within {minutes} minutes.",
        "Scan this with the device. It must be in the same network as this machine, whose firewall must let",
        "it in at the port below (make handover PORT=... chooses the port).",
        "",
        terminal_code(url),
        f"  {url}",
        "",
        "The device will warn that it does not know the page's certificate. Look at that certificate:",
        "its SHA-256 fingerprint must be this one. If it is, go on. If not, somebody is intercepting the",
        "connection: press Ctrl-C.",
        "",
        _pairs(fingerprint),
        "",
    )
    print("\n".join(lines), flush=True)


def _pairs(fingerprint: str) -> str:
    """Write a fingerprint as phones and browsers show it: upper-case pairs, here on four lines."""
    pairs = [fingerprint[start : start + 2].upper() for start in range(0, len(fingerprint), 2)]
    return "\n".join(f"  {' '.join(pairs[start : start + 8])}" for start in range(0, len(pairs), 8))


def _tell_password(handover: Handover, client: str) -> None:
    """Print the password after a download: nobody needs it before, and now it is known who came."""
    lines = (
        "",
        f"Fetched by {client}. If that was not {handover.device}, remove it from the config and run",
        "`pulumi up`, which revokes it. The password, to be typed on the device with its dashes:",
        "",
        f"  {handover.password}",
        "",
    )
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    sys.exit(main())
