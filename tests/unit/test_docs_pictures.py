"""The README's pictures are of what the program says today, small, and of no machine in particular."""

from __future__ import annotations

import re
from html import unescape
from xml.etree import ElementTree

import pytest

from tests.lab.pictures import RECORDING, SHEETS, Line, render, told
from tests.unit.documents import LEFT_OUT, stands_in_the_code
from toolchain.paths import PROJECT

SVG = "{http://www.w3.org/2000/svg}"
RUN = [
    (0.1, "Updating (home):"),
    (0.2, "    pulumi:pulumi:Stack immich-exposure-home  warning: using pulumi-language-python from $PATH"),
    (1.0, " +  pulumi:pulumi:Stack immich-exposure-home creating (0s) "),
    (1.1, " +  immich-exposure:index:ImmichExposure immich creating (0s) "),
    (2.0, " +  pulumi:pulumi:Stack immich-exposure-home creating (8s) 75 of 75 files in /etc/nixos changed"),
    (
        2.0,
        " +  pulumi:pulumi:Stack immich-exposure-home creating (8s) immich.some.ts.net has a new certificate",
    ),
    (3.0, " +  pulumi:pulumi:Stack immich-exposure-home created (24s) 4 warnings; 15 messages"),
    (3.0, '        GET / 403                        : "a stranger sees no login page"'),
    (3.0, '    url            : "https://immich.lab-tailnet.ts.net"'),
    (3.0, "    + 42 created"),
    (3.0, "Duration: 28s"),
    (4.0, " -  command:remote:Command immich-funnel-close deleting (0s) Closing the funnel on port 443"),
    (4.1, " -  command:remote:Command immich-funnel-close deleted (1s) Closing the funnel on port 443"),
    (4.2, " -  pulumi:pulumi:Stack immich-exposure-home deleting (0s) "),
    (4.3, "    pulumi:pulumi:Stack immich-exposure-home Activating it as a test"),
]


def drawn() -> list[str]:
    root = ElementTree.fromstring(RECORDING.read_text(encoding="utf-8"))
    return [(text.text or "").strip() for text in root.iter(f"{SVG}text")]


def test_of_a_run_what_a_person_wants_to_see_is_kept() -> None:
    assert [line.text.strip() for line in told(RUN)] == [
        "75 of 75 files in /etc/nixos changed",
        "immich.some.ts.net has a new certificate",
        "GET / 403                           a stranger sees no login page",
        'url : "https://immich.lab-tailnet.ts.net"',
        "+ 42 created",
        "Duration: 28s",
        "Closing the funnel on port 443",
        "Activating it as a test",
    ]


def test_what_is_said_stays_text_in_the_picture_and_fits() -> None:
    picture = render([Line(0.5, "<b>&amp;")])
    [text] = ElementTree.fromstring(picture).iter(f"{SVG}text")
    assert text.text == "<b>&amp;" == unescape("&lt;b>&amp;amp;")
    with pytest.raises(ValueError, match="do not fit"):
        render([Line(0.5, "x" * 200)])


def test_the_recording_is_of_what_the_scripts_say_today() -> None:
    said = [line for line in drawn() if re.match(r"[A-Z][a-z]+ .*[a-z]{3}", line) and "GET" not in line]
    assert len(said) > 15
    for line in said:
        words = re.sub(r"\S*[\d/.]\S*|\b(?:phone|laptop)\b", LEFT_OUT, line)
        assert stands_in_the_code(words), line


def test_it_was_exposed_proven_and_taken_back() -> None:
    lines = drawn()
    assert "$ pulumi up --yes" in lines and "$ pulumi destroy --yes" in lines
    assert "HTTP/2 403" in lines and "HTTP/2 200" in lines
    [made] = [int(line.split()[1]) for line in lines if re.fullmatch(r"\+ \d+ created", line)]
    assert f"- {made} deleted" in lines


def test_the_pictures_are_small_and_name_no_machine() -> None:
    text = RECORDING.read_text(encoding="utf-8")
    assert len(text) < 20_000
    for path in ("/tmp", "/root", "/home", str(PROJECT)):
        assert path not in text
    for picture in SHEETS.values():
        assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size < 150_000
