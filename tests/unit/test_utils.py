"""The three functions that old programs import."""

from __future__ import annotations

from uuid import UUID

from carrot.utils import gen_unique_id, partition, rpartition


def test_unique_ids_are_random_uuids_as_text() -> None:
    ids = {gen_unique_id() for _ in range(100)}

    assert len(ids) == 100
    assert all(UUID(text).version == 4 and str(UUID(text)) == text for text in ids)


def test_partition_splits_at_the_first_separator() -> None:
    assert partition("a.b.c", ".") == ("a", ".", "b.c")
    assert partition("abc", ".") == ("abc", "", "")


def test_rpartition_splits_at_the_last_separator() -> None:
    assert rpartition("a.b.c", ".") == ("a.b", ".", "c")
    assert rpartition("abc", ".") == ("", "", "abc")
