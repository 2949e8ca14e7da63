"""What a load test counts: lost, twice, refused, how late, and whether the generator was the limit."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.locustfiles import pages, stamps
from loadtest.locustfiles.ledger import ONE, Histogram, Ledger, Seen, total
from loadtest.locustfiles.scenarios import BIG_GROUP, ECHO, SCENARIOS, SMALL_GROUPS, refusal
from loadtest.locustfiles.verdict import verdict


def ledger(members: int = 0, sent: int = 0, arrived: int = 0, target: str = "g") -> Ledger:
    one = Ledger()
    for _ in range(members):
        one.joined(target)
    for number in range(sent):
        one.sending(target, number, 0.001)
    for number in range(arrived):
        one.came(target, True, number, 0.01)
    return one


def sums(*ledgers: Ledger) -> dict[str, Any]:
    return total([one.snapshot() for one in ledgers])


def test_a_stamp_is_read_as_it_was_written_in_a_message_of_the_size_asked_for() -> None:
    stamp = stamps.Stamp("run", "g1", "u0-7", 12, 1_700_000_000_000_000_000)
    text = stamps.write(stamp, 300)
    assert len(text) == 300
    assert stamps.read(text) == stamp
    assert stamps.read(stamps.write(stamp, 1)) == stamp  # no room to pad, and none is needed


@pytest.mark.parametrize(
    "text", ["", "hello", "hubwire-load|a|b", "hubwire-load|r|t|s|one|2|", "x|r|t|s|1|2|"]
)
def test_a_message_of_others_has_no_stamp(text: str) -> None:
    assert stamps.read(text) is None


def test_a_number_is_new_once_in_whatever_order_it_comes() -> None:
    seen = Seen()
    assert [seen.add(number) for number in (0, 3, 1, 3, 1, 0, 2, 4)] == [
        True,
        True,
        True,
        False,
        False,
        False,
        True,
        True,
    ]


def test_every_member_of_a_group_must_get_each_message() -> None:
    account = sums(ledger(members=3, sent=4, arrived=11))
    assert (account["sent"], account["expected"], account["delivered"], account["lost"]) == (4, 12, 11, 1)


def test_members_of_one_process_are_sent_to_by_another() -> None:
    senders, here, there = ledger(sent=2), ledger(members=2, arrived=4), ledger(members=1, arrived=1)
    account = sums(senders, here, there)
    assert (account["expected"], account["lost"]) == (6, 1)


def test_what_one_group_got_too_often_does_not_hide_what_another_lost() -> None:
    account = sums(ledger(1, 1, 2, "a"), ledger(1, 1, 0, "b"))
    assert account["lost"] == 1


def test_a_message_to_one_client_is_expected_once_whoever_is_there() -> None:
    account = sums(ledger(sent=5, arrived=4, target=ONE), ledger(sent=1, target=ONE))
    assert (account["expected"], account["lost"]) == (6, 2)


def test_what_comes_again_is_twice_and_fills_no_gap() -> None:
    one = ledger(members=1, sent=2, arrived=1)
    one.came("g", False, 1.0, 0.01)
    account = sums(one)
    assert (account["twice"], account["lost"], account["delivered"]) == (1, 1, 1)


def test_nobody_has_to_get_what_was_refused() -> None:
    one = ledger(members=2, sent=2, arrived=2)
    one.was_refused("g")
    account = sums(one)
    assert (account["sent"], account["refused"], account["lost"]) == (1, 1, 0)


def test_percentiles_are_right_to_two_percent_and_add_up_over_processes() -> None:
    here, there = Histogram(), Histogram()
    for milliseconds in range(1, 101):
        (here if milliseconds % 2 else there).note(milliseconds / 1000)
    here.add(there.pairs())
    assert here.at(0.5) == pytest.approx(0.050, rel=0.03)
    assert here.at(0.99) == pytest.approx(0.099, rel=0.03)
    assert Histogram().at(0.99) == 0


def test_points_of_plots_are_rates_of_all_and_the_load_of_the_busiest() -> None:
    here, there = Ledger(2.0), Ledger(2.0)
    for one, cpu in ((here, 0.2), (there, 0.9)):
        one.sending("g", 2.5, 0.0)
        one.came("g", True, 3.9, 0.02)
        one.loaded(3.0, cpu, cpu / 10)
    (point,) = sums(here, there)["steps"]
    assert (point["at"], point["sent"], point["delivered"], point["cpu"]) == (2.0, 1.0, 1.0, 0.9)
    assert point["lag_ms"] == pytest.approx(90)


def generator(cpu: float = 0.2, lag: float = 2.0, load: float = 0.5) -> dict[str, float]:
    return {"cpu": cpu, "lag_p99_ms": lag, "load": load}


@pytest.mark.parametrize(
    ("generators", "behind", "limited", "word"),
    [
        ({"0": generator()}, 5.0, False, "was not the limit"),
        ({"0": generator(), "1": generator(cpu=0.97)}, 5.0, True, "more workers"),
        ({"0": generator(lag=400.0, load=6.0)}, 5.0, True, "too busy"),
        ({"0": generator()}, 900.0, True, "waited for answers"),
        ({}, 0.0, True, "No generator"),
    ],
)
def test_the_report_says_when_the_generator_was_the_limit(
    generators: dict[str, dict[str, float]], behind: float, limited: bool, word: str
) -> None:
    told, sentence = verdict({"behind_ms": {"p99": behind}}, generators)
    assert told is limited
    assert word in sentence


def test_scenarios_have_the_groups_of_azures_guide() -> None:
    assert BIG_GROUP.group_count(1000) == 10
    assert BIG_GROUP.rate * 1000 / BIG_GROUP.group_count(1000) == BIG_GROUP.azure_out
    assert SMALL_GROUPS.group_count(1000) == 100
    assert SMALL_GROUPS.rate * SMALL_GROUPS.group_size == SMALL_GROUPS.azure_out
    assert len(SCENARIOS) == 5


def test_a_client_without_subprotocol_cannot_send_to_groups() -> None:
    assert "simple" in refusal(BIG_GROUP, "simple")
    assert refusal(ECHO, "simple") == refusal(BIG_GROUP, "reliable") == ""


def result() -> dict[str, Any]:
    conditions = {"connections": 20, "seconds": 2.0, "bytes": 500, "endpoint": "http://<here>"}
    return {
        "scenario": "big-group",
        "verdict": "All <well>.",
        "account": sums(ledger(members=2, sent=10, arrived=19)),
        "conditions": conditions,
    }


def test_the_page_has_the_verdict_the_plots_and_the_row_beside_azure() -> None:
    text = pages.page(result())
    assert "All &lt;well&gt;." in text
    assert "<here>" not in text
    assert text.count("<svg") == text.count("</svg>") == 4
    assert "1,000 connections, 30 in, 3,000 out" in text


def test_the_table_for_a_page_of_documentation_counts_what_came_a_second() -> None:
    lines = pages.markdown([result()]).splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[:5] == ["Send to big group", "20", "5", "10", "0.00"]
    assert cells[6:8] == ["1", "0"]
