"""Fixtures of what runs in processes of its own."""

from tests.unit.handover.conftest import keystore

__all__ = ["keystore"]
