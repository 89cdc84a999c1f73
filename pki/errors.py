"""The one error that callers of this package handle."""


class KeystoreError(Exception):
    """The keystore cannot be used as asked. Nothing was changed.

    The message is one or two full sentences: what is wrong with which file, and what to do about it.
    It never holds a passphrase, a bundle password or key material.
    """
