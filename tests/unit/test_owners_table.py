"""The ownership table as a value (hubwire.bus.owners); the bucket is tested in tests/integration."""

import pytest

from hubwire.bus.envelopes import VERSION, pack
from hubwire.bus.keys import PARTITIONS
from hubwire.bus.owners import EMPTY_TABLE, Owner, OwnersTable, pack_table, unpack_table
from hubwire.model.errors import InvalidRequest

NOW_MS = 1_700_000_000_000


def test_a_change_gives_partitions_a_new_owner_under_a_new_epoch() -> None:
    first = EMPTY_TABLE.with_changes({3: "a", 4: "a"}, NOW_MS)
    second = first.with_changes({4: "b"}, NOW_MS + 5)
    assert second.owners[3] == Owner("a", NOW_MS)
    assert second.owners[4] == Owner("b", NOW_MS + 5)
    assert second.owners[5] is None
    assert first.owners[4] == Owner("a", NOW_MS), "a table is a value"


@pytest.mark.parametrize("now_ms", [NOW_MS, NOW_MS - 60_000, 0, NOW_MS + 1])
def test_version_and_epoch_grow_also_when_the_clock_goes_back(now_ms: int) -> None:
    before = EMPTY_TABLE.with_changes({0: "a"}, NOW_MS)
    after = before.with_changes({0: "a"}, now_ms)
    assert after.version > before.version
    assert after.owners[0].epoch > before.owners[0].epoch
    assert after.owners[0].epoch == after.version


def test_a_table_that_was_lost_begins_again_above_all_epochs_of_before() -> None:
    old = EMPTY_TABLE.with_changes({0: "a"}, NOW_MS)
    new = EMPTY_TABLE.with_changes({0: "b"}, NOW_MS + 1)
    assert new.owners[0].epoch > old.owners[0].epoch


def test_a_table_comes_back_as_it_was_packed() -> None:
    table = EMPTY_TABLE.with_changes({p: f"router{p % 3}" for p in range(0, PARTITIONS, 2)}, NOW_MS)
    assert unpack_table(pack_table(table)) == table
    assert unpack_table(pack_table(EMPTY_TABLE)) == EMPTY_TABLE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        pack([VERSION]),
        pack([VERSION, 1, []]),
        pack([VERSION, 1, [None] * (PARTITIONS - 1)]),
        pack([VERSION, "x", [None] * PARTITIONS]),
        pack([VERSION, 1, [["a"]] * PARTITIONS]),
        pack([VERSION, 1, [["a", None]] * PARTITIONS]),
        pack([VERSION, None, None]),
    ],
)
def test_what_is_no_table_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        unpack_table(data)


def test_a_whole_table_is_small() -> None:
    # It is announced to every process at each change.
    owners = tuple(Owner("0123456ff", NOW_MS + p) for p in range(PARTITIONS))
    assert len(pack_table(OwnersTable(NOW_MS, owners))) < 8 * 1024
