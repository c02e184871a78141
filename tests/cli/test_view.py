"""What the status command shows, as text."""

from io import StringIO

from rich.console import Console

from deployments.cli.view import status_view
from deployments.ingress.status import PoolStatus, Status
from deployments.ingress.watch import DraftStatus


def shown(*pools: PoolStatus) -> list[list[str]]:
    """The words of each line on a terminal of 80 columns."""
    text = StringIO()
    Console(file=text, width=80).print(status_view(Status(1, pools)))
    return [line.split() for line in text.getvalue().splitlines()]


def test_pools_that_speculate_have_a_line_that_says_how_and_with_what_success() -> None:
    drafts = DraftStatus("split", {"speculate": 1}, "start", 3.25, 0.8, 0.72, 0.0012, 2.1)
    lines = shown(PoolStatus("general", "expert", 0, 0.8, (), drafts), PoolStatus("draft", "draft", 0, None, ()))
    assert ["general", "split", "speculate", "start", "3.2", "80%", "72%", "1.2", "ms", "2.10x"] in lines
    assert sum("draft" in line[:1] for line in lines) == 1


def test_replicas_in_different_modes_are_counted_and_what_is_unknown_is_a_dash() -> None:
    drafts = DraftStatus("shared", {"plain": 2, "probe": 1}, "", 0.0)
    lines = shown(PoolStatus("code", "expert", 0, None, (), drafts))
    assert ["code", "shared", "2", "plain", "probe", "-", "0.0", "-", "-", "-", "-"] in lines


def test_without_speculation_there_is_no_table_of_it() -> None:
    lines = shown(PoolStatus("general", "expert", 0, None, ()))
    assert not [line for line in lines if "layout" in line]
