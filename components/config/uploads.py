"""What guests may upload through shared links: at once, in an hour, and how much space stays free."""

from __future__ import annotations

import re
from dataclasses import dataclass

from components.config.home import Immich
from components.config.reader import Section

UPLOAD_MEGABYTES = 2000
"""The largest upload through a shared link, unless the config says otherwise."""

GROUP = "uploadLimits"
EXAMPLE = "{linkMegabytesPerHour: 5000, freeGigabytes: 20}"
FOLDER_EXAMPLE = "/srv/immich"


@dataclass(frozen=True)
class UploadLimits:
    """What may be uploaded in any hour, through one link and through all of them: megabytes and files.

    With less than `free_gigabytes` free on the disk, nothing is accepted. `folder` is where Immich stores
    uploads on the server; None takes it from the unit of `services.immich`.
    """

    link_megabytes: int
    link_files: int
    megabytes: int
    files: int
    free_gigabytes: int
    folder: str | None


DEFAULT_LIMITS = UploadLimits(
    link_megabytes=5000, link_files=1000, megabytes=10_000, files=2000, free_gigabytes=20, folder=None
)


def read_upload_size(top: Section) -> int:
    """Read `uploadMegabytes`, which matters only with `uploads`."""
    size = top.integer("uploadMegabytes", default=UPLOAD_MEGABYTES, least=1, most=50_000)
    if size != UPLOAD_MEGABYTES and _are_off(top):
        top.report("uploadMegabytes", "has no effect unless uploads is true", str(UPLOAD_MEGABYTES))
    return size


def read_upload_limits(top: Section) -> UploadLimits:
    """Read the group `uploadLimits`, which matters only with `uploads`."""
    section = top.section(GROUP, example=EXAMPLE)
    usual = DEFAULT_LIMITS

    def number(key: str, default: int, most: int) -> int:
        return section.integer(key, default=default, least=1, most=most)

    limits = UploadLimits(
        link_megabytes=number("linkMegabytesPerHour", usual.link_megabytes, 1_000_000),
        link_files=number("linkFilesPerHour", usual.link_files, 100_000),
        megabytes=number("megabytesPerHour", usual.megabytes, 1_000_000),
        files=number("filesPerHour", usual.files, 100_000),
        free_gigabytes=number("freeGigabytes", usual.free_gigabytes, 1_000_000),
        folder=section.optional_text("folder", example=FOLDER_EXAMPLE, check=_folder_problem),
    )
    section.refuse_unknown()
    if limits != usual and _are_off(top):
        top.report(GROUP, "has no effect unless uploads is true", EXAMPLE)
    pairs = (
        ("linkMegabytesPerHour", limits.link_megabytes, "megabytesPerHour", limits.megabytes, "megabytes"),
        ("linkFilesPerHour", limits.link_files, "filesPerHour", limits.files, "files"),
    )
    for key, of_link, whole, of_all, what in pairs:
        if of_link > of_all and not section.problems.has(section.name(key), section.name(whole)):
            section.report(
                key,
                f"allows one link more {what} in an hour than all links together ({whole} {of_all})",
                str(of_all),
            )
    return limits


def check_uploads(top: Section, size: int, limits: UploadLimits, immich: Immich) -> None:
    """Refuse an upload size above its budget, and an Immich whose upload folder is unknown."""
    if top.value("uploads") is not True:
        return
    budget = f"{GROUP}.linkMegabytesPerHour"
    if size > limits.link_megabytes and not top.problems.has(
        "uploadMegabytes", budget, f"{GROUP}.megabytesPerHour"
    ):
        key = "uploadMegabytes" if top.value("uploadMegabytes") is not None else budget
        value = size if key == "uploadMegabytes" else limits.link_megabytes
        reason = (
            f"an upload of {size} MB never fits a link that accepts {limits.link_megabytes} MB in an hour; "
            f"set uploadMegabytes to at most {limits.link_megabytes}, or {budget} to at least {size}"
        )
        top.problems.add(key, value, reason, f"`uploadMegabytes: {limits.link_megabytes}`")
    folder = f"{GROUP}.folder"
    if not immich.managed and limits.folder is None and not top.problems.has(folder):
        top.problems.add(
            folder,
            None,
            "with uploads, the server must check the free space of Immich's upload folder, which it "
            "can find only for services.immich; name the folder on the server",
            f"`{GROUP}: {{folder: {FOLDER_EXAMPLE}}}`",
        )


def _are_off(top: Section) -> bool:
    return top.value("uploads") is not True and not top.problems.has("uploads")


def _folder_problem(text: str) -> str | None:
    if re.fullmatch(r"/[A-Za-z0-9._/+@-]*", text) and "/../" not in f"{text}/":
        return None
    return "must be an absolute path on the server, of letters, digits and ._+@-"
