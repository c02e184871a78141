from experts.speculation.depth import Choice, RowView
from experts.speculation.standing import STANDS, Standing


def row(session, room=8, *, domain="", strict=False):
    return RowView(session, room, 100, domain, strict)


def standing(*rows, depths=None, step=10):
    return Standing.of(step, rows, choice=choice(depths or [8] * len(rows)))


def choice(depths):
    gains = tuple(0.5 * depth for depth in depths)
    return Choice(tuple(depths), gains, 0.0, 0.0, mode="speculate", reason="probe")


def depths(standing, *rows, step=11):
    parts = standing.holds(step, rows)
    return parts and [part.depth for part in parts]


def test_a_choice_stands_for_a_few_steps_and_no_longer():
    kept = standing(row("a"), row("b"), depths=[8, 3])
    assert [depths(kept, row("b"), row("a"), step=10 + passed) for passed in range(1, STANDS + 1)] == [
        *[[3, 8]] * (STANDS - 1),
        None,
    ]


def test_less_room_means_fewer_drafts_and_less_to_expect():
    (part,) = standing(row("a")).holds(11, [row("a", 2)])
    assert (part.depth, part.gain) == (2, 2.0)


def test_more_room_than_was_known_is_a_reason_to_choose_anew():
    assert depths(standing(row("a", 3), depths=[3]), row("a", 4)) is None


def test_a_newcomer_gets_what_the_last_of_its_kind_got():
    kept = standing(row("a"), row("b"), row("c", domain="code"), row("d"), depths=[8, 7, 5, 6])
    assert depths(kept, row("new"), row("b"), row("c", domain="code"), row("d")) == [6, 7, 5, 6]
    assert depths(kept, row("new", domain="code"), row("b"), row("c", domain="code"), row("d")) == [5, 7, 5, 6]
    assert depths(kept, row("new", domain="tools"), row("b"), row("c", domain="code"), row("d")) is None
    assert depths(kept, row("new", strict=True), row("b"), row("c", domain="code"), row("d")) is None


def test_of_kinds_that_are_not_here_at_present_it_says_what_was_said_before():
    before = standing(row("a"), row("c", domain="code"), depths=[8, 5])
    kept = Standing.of(11, [row("b")], choice=choice([6]), before=before)
    assert depths(kept, row("b"), row("new", domain="code"), step=12) == [6, 5]


def test_one_in_its_prefill_waits_and_is_a_newcomer_after_it():
    others = [row(name) for name in "acde"]
    kept = standing(*others, row("b", 0), depths=[8, 8, 8, 8, 0])
    assert depths(kept, *others, row("b", 0)) == [8, 8, 8, 8, 0]
    assert depths(kept, *others, row("b", 5)) == [8, 8, 8, 8, 5]
    assert depths(kept, *others, row("new", 0)) == [8, 8, 8, 8, 0]
    assert kept.newcomers([*others, row("b", 5), row("new", 0)]) == [row("b", 5), row("new", 0)]


def test_a_segment_that_becomes_strict_is_another_matter():
    assert depths(standing(row("a")), row("a", strict=True)) is None


def test_another_batch_has_other_prices():
    many = [row(str(number)) for number in range(16)]
    kept = standing(*many)
    assert depths(kept, *many[:12]) == [8] * 12
    assert depths(kept, *many[:11]) is None
    assert depths(standing(row("a")), row("a"), row("b")) == [8, 8]
    assert depths(standing(row("a")), row("a"), row("b"), row("c")) is None
    ending = [row(name, 0) for name in "bcd"]
    kept = standing(row("a"), *ending, depths=[8, 0, 0, 0])
    assert depths(kept, row("a"), row("b"), row("c"), row("d", 0)) == [8, 8, 8, 0]
    assert depths(kept, *[row(name) for name in "abcd"]) is None
    waiting = [row(str(number), 0) for number in range(12)]
    kept = standing(*many[12:], *waiting, depths=[8] * 4 + [0] * 12)
    assert depths(kept, *many) is None
