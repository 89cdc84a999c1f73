"""The launcher of the tests: every file, house and row is a job, and the counts are those of all jobs."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from pathlib import Path

import pytest

from lab.house import house, houses
from tests import parallel
from tests.faults.rows import all_rows
from toolchain.paths import PROJECT

REPORT = (
    """<testsuites><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10"/></testsuites>"""
)


def test_every_file_house_of_the_walk_and_row_is_a_job() -> None:
    names = {job.name for job in parallel.all_jobs()}
    files = {path.stem for path in parallel.LAB.glob("test_*.py")} - {"test_houses", "test_faults"}
    walks = {f"house {name}" for name in houses() if not house(name).by_hand}
    assert names == files | walks | {f"row {row.name}" for row in all_rows() if row.often}


def test_a_word_chooses_a_file_a_house_or_a_row() -> None:
    row = next(row.name for row in all_rows() if row.often)
    found = parallel.chosen(parallel.all_jobs(), ["tests/lab/test_lab.py", "book", row])
    assert {job.name for job in found} == {"test_lab", "house book", f"row {row}"}


def test_a_file_that_is_many_jobs_chooses_them_all() -> None:
    found = parallel.chosen(parallel.all_jobs(), ["test_faults.py", "test_houses"])
    assert {job.name.split()[0] for job in found} == {"house", "row"}


def test_all_is_every_tier_and_no_word_is_the_lab() -> None:
    jobs = [*parallel.all_jobs(), *parallel.jobs_without_a_lab()]
    assert parallel.chosen(jobs, ["all"]) == jobs
    assert parallel.chosen(jobs, []) == parallel.all_jobs()
    assert parallel.chosen(jobs, ["unit"]) == [job for job in jobs if job.arguments == (str(parallel.UNIT),)]
    assert len({job.name for job in jobs}) == len(jobs)


@pytest.mark.parametrize("tier", ["programs", "server", "standins"])
def test_each_file_of_a_tier_without_a_lab_is_a_job(tier: str) -> None:
    found = parallel.chosen([*parallel.all_jobs(), *parallel.jobs_without_a_lab()], [tier])
    files = (PROJECT / "tests" / tier).glob("test_*.py")
    assert sorted(job.arguments for job in found) == sorted((str(path),) for path in files)
    assert not any(job.lab for job in found)


def test_each_folder_of_tests_is_in_a_job() -> None:
    """A file that lies elsewhere would be run by nobody."""
    folders = {"lab", *(tier.name for tier in (parallel.UNIT, *parallel.BY_FILE))}
    tests = (path.relative_to(PROJECT / "tests").parts for path in (PROJECT / "tests").rglob("test_*.py"))
    assert {parts[0] for parts in tests} == folders


def test_who_has_none_left_of_the_first_kind_helps_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def run(job: parallel.Job, *_: object) -> parallel.Result:
        taken.append(job.name)
        return parallel.Result(job, 0, "", {}, 0.0, 0.0)

    monkeypatch.setattr(parallel, "run", run)
    monkeypatch.setattr(parallel.Result, "line", "")
    first, second = (deque(parallel.Job(name, ("x",)) for name in names) for names in ("ab", "cd"))
    results = parallel.work((first, second), Path("nowhere"), "nowhere")
    assert taken == ["a", "b", "c", "d"] == [result.job.name for result in results]


def test_a_word_that_names_nothing_is_refused() -> None:
    with pytest.raises(SystemExit, match="no file, no house and no row named bok"):
        parallel.chosen(parallel.all_jobs(), ["bok"])


def test_the_report_is_counted_and_errors_are_failures(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT, encoding="utf-8")
    assert parallel.counted(report) == {"failed": 3, "passed": 4, "skipped": 3}
    assert parallel.told(parallel.counted(report)) == "3 failed, 4 passed, 3 skipped"


def test_a_job_without_a_report_has_failed(tmp_path: Path) -> None:
    assert parallel.counted(tmp_path / "none")["failed"] == 1


def test_jobs_write_to_memory_only_where_there_is_plenty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Path(tempfile.gettempdir())
    assert parallel.scratch(tmp_path / "no such folder") == disk
    monkeypatch.setattr(parallel, "ROOM", 1 << 60)
    assert parallel.scratch(tmp_path) == disk
    monkeypatch.setattr(parallel, "ROOM", 0)
    assert parallel.scratch(tmp_path) == tmp_path
    monkeypatch.setattr(os, "setxattr", no_attributes)
    assert parallel.scratch(tmp_path) == disk


def no_attributes(*_: object) -> None:
    raise OSError("as a tmpfs of before Linux 6.6")


def test_what_a_job_writes_goes_where_it_shall(tmp_path: Path) -> None:
    written = tmp_path / "test_place.py"
    written.write_text(
        f"import tempfile\ndef test_place(tmp_path):\n"
        f"    assert tempfile.gettempdir() == {str(tmp_path)!r}\n"
        f"    assert str(tmp_path).startswith({str(tmp_path)!r})\n"
    )
    result = parallel.run(parallel.Job("place", (str(written),), lab=False), tmp_path)
    assert result.status == 0, result.printed


def test_a_file_that_is_for_the_night_alone_has_not_failed() -> None:
    file = str(PROJECT / "tests" / "server" / "test_backend_s3.py")
    result = parallel.run(parallel.Job("test_backend_s3", (file,), lab=False))
    assert (result.status, parallel.told(result.counts)) == (0, "no tests")
