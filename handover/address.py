"""The address that the hand-over listens on: one of this machine's on the local network."""

import ipaddress
import socket

from handover.tls import Address

# Connecting a UDP socket sends nothing: the system only chooses a route, and with it our own address. This
# network is for documentation (RFC 5737), so it is never on the local network.
_FAR_AWAY = ("192.0.2.1", 9)


class AddressError(ValueError):
    """There is no usable address. The message says what helps."""


def lan_address() -> Address:
    """Return this machine's private address on the route to its router.

    Raises:
        AddressError: there is no route, or the address is not a private one.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_FAR_AWAY)
        except OSError as error:
            raise AddressError(
                "This machine is not connected to a local network. Connect it to the network that the "
                "device is "
                "in, or name its address with --address (make handover ADDRESS=192.168.1.20)."
            ) from error
        found = ipaddress.ip_address(probe.getsockname()[0])
    if not found.is_private or found.is_loopback or found.is_unspecified:
        raise AddressError(
            f"The address {found} is not one of a local network. Name the one that the device can reach with "
            "--address, for example --address 192.168.1.20 (make handover ADDRESS=192.168.1.20)."
        )
    return found


def given_address(text: str) -> Address:
    """Parse an address that the user named.

    Raises:
        AddressError: it is not an IP address, or stands for all addresses or many machines.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise AddressError(f"{text!r} is not an IP address. Give one such as 192.168.1.20.") from error
    if address.is_unspecified or address.is_multicast or address == ipaddress.ip_address("255.255.255.255"):
        raise AddressError(
            f"{text} is not the address of one network. The page would be open to every network that this "
            "machine is in; name its address in the device's network, such as 192.168.1.20."
        )
    return address
