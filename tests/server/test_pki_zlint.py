"""Certificates under zlint: every finding is either fixed or explained here.

zlint judges by the rules of public certificate authorities, too. Those bind nobody who runs an authority for
his own phones, but each departure should be one that somebody thought of.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

import toolchain
from pki import AuthorityProfile, DeviceProfile, KeyType
from pki.authority import create_authority
from pki.certificate import certificate_builder, key_usage, pem, subject_name
from pki.client_certificate import issue_certificate
from pki.key import generate_key

pytestmark = pytest.mark.server

QUIET = {"pass", "NA", "NE"}
"""Results that are no finding: passed, not applicable, not in force at the certificate's date."""

CA_EXPLAINED = {
    "n_ca_digital_signature_not_set": (
        "The CA signs no OCSP responses: there is no OCSP, the server's list of fingerprints decides."
    ),
    "w_root_ca_basic_constraints_path_len_constraint_field_present": (
        "The Baseline Requirements 7.1.2.1 want public roots without a path length. Ours signs devices and "
        "must never sign an authority, and RFC 5280 4.2.1.9 lets pathLenConstraint 0 say so."
    ),
}
LEAF_EXPLAINED = {
    "n_ct_sct_policy_count_unsatisfied": (
        "Certificate transparency is for servers of the web. A device's name in a public log would be a leak."
    ),
}


def findings(certificate: x509.Certificate, folder: Path) -> dict[str, str]:
    """Result by name of all lints that have something to say."""
    path = folder / "linted.crt"
    path.write_bytes(pem(certificate))
    shown = subprocess.run(
        [toolchain.program("zlint"), path], capture_output=True, text=True, check=True, timeout=60
    )
    results = json.loads(shown.stdout)
    assert sum(entry["result"] == "pass" for entry in results.values()) > 30, (
        "zlint looked at hardly anything"
    )
    return {name: entry["result"] for name, entry in results.items() if entry["result"] not in QUIET}


def assert_explained(certificate: x509.Certificate, explained: Mapping[str, str], folder: Path) -> None:
    """There is no finding without an explanation, and no explanation without a finding."""
    seen = findings(certificate, folder)
    assert seen.keys() == explained.keys(), f"zlint says {seen}"


@pytest.mark.parametrize("key_type", KeyType)
def test_authority_and_device_have_no_unexplained_finding(key_type: KeyType, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = create_authority(AuthorityProfile(key_type=key_type), generate_key(key_type), now)
    profile = DeviceProfile("phone", key_type=key_type)
    device = issue_certificate(authority, profile, generate_key(key_type), now)
    assert_explained(authority.certificate, CA_EXPLAINED, tmp_path)
    assert_explained(device, LEAF_EXPLAINED, tmp_path)


def test_names_at_their_limits_have_no_further_finding(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    longest = AuthorityProfile("Ä" * 32, "ß" * 32, "DE", 36_500)
    authority = create_authority(longest, generate_key(KeyType.ECDSA_P256), now)
    profile = replace(DeviceProfile("é" * 32), organization="写" * 21 + ".", validity_days=1)
    device = issue_certificate(authority, profile, generate_key(KeyType.ECDSA_P256), now)
    assert_explained(authority.certificate, CA_EXPLAINED, tmp_path)
    assert_explained(device, LEAF_EXPLAINED, tmp_path)


def test_the_linter_sees_what_our_profiles_avoid(tmp_path: Path) -> None:
    """The check can fail: a CA without critical constraints is found, and is found to be unexplained."""
    key, name = generate_key(KeyType.ECDSA_P256), subject_name(common_name="CA", organization="Me")
    now = datetime.now(UTC).replace(microsecond=0)
    bad = (
        certificate_builder(subject=name, issuer=name, key=key, not_before=now, not_after=now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=False)
        .add_extension(key_usage(key_cert_sign=True), critical=False)
        .sign(key, hashes.SHA256())
    )
    assert "e_basic_constraints_not_critical" in findings(bad, tmp_path)
    with pytest.raises(AssertionError, match="e_basic_constraints_not_critical"):
        assert_explained(bad, CA_EXPLAINED, tmp_path)
