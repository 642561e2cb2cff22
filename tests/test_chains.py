"""The replay buffer: distinct slots, everything back where it came from, shares by z, and a state
that can be saved.
"""

import copy
import io
import math

import pytest
import torch
from contract.cases import seeded
from contract.checks import LIMIT, buffer_keeps_slots, z_scores

from lowland import ReplayBuffer, box, real


def make(**more: object) -> ReplayBuffer:
    return ReplayBuffer(
        100, box(0.0, 1.0, 2), generator=seeded(), classes=5, reinit_prob=0.25, **more
    )  # type: ignore[arg-type]


def test_what_is_put_goes_back_to_its_slots() -> None:
    buffer_keeps_slots(make(), 30)
    buffer_keeps_slots(ReplayBuffer(20, real(1, 4, 4), generator=seeded(), reinit_prob=0.0), 20)
    buffer_keeps_slots(ReplayBuffer(20, real(2), generator=seeded(), reinit_prob=1.0), 7)


def test_every_slot_is_drawn_equally_often_and_never_twice() -> None:
    # 2,000 visits of 10 of 40 slots: each slot's count is a sum of independent coins of 1/4
    buffer, g = ReplayBuffer(40, real(1), generator=seeded()), seeded(1)
    seen = torch.zeros(2000, 40)
    for row in seen:
        slots = buffer.sample(10, g).slots
        row[slots] = 1
        assert row.sum() == 10
    assert z_scores(seen, 0.25).abs().max() < LIMIT


def test_the_share_of_restarts_is_the_one_asked_for() -> None:
    buffer, g = make(), seeded(2)
    fresh = torch.cat([buffer.sample(100, g).reinitialized for _ in range(300)]).double()
    assert abs(z_scores(fresh, 0.25).item()) < LIMIT
    for restart in (0.0, 1.0):
        never = (
            ReplayBuffer(50, real(1), generator=seeded(), reinit_prob=restart)
            .sample(50, g)
            .reinitialized
        )
        assert (never == bool(restart)).all()


def test_restarted_chains_start_from_the_starting_law() -> None:
    # the buffer holds zeros; fresh points are U(0, 1): mean 1/2, n about 5,000
    buffer, g = make(), seeded(3)
    buffer.x.zero_()
    visits = [buffer.sample(100, g) for _ in range(200)]
    x = torch.cat([v.x[v.reinitialized] for v in visits]).double()
    assert (
        z_scores(x, 0.5).abs().max() < LIMIT
        and z_scores((x - 0.5).square(), 1 / 12).abs().max() < LIMIT
    )
    assert all((v.x[~v.reinitialized] == 0).all() for v in visits)
    assert (buffer.x == 0).all(), "take alone changes nothing"


def test_age_is_the_number_of_steps_since_the_chain_began() -> None:
    buffer, g = ReplayBuffer(30, real(1), generator=seeded(), reinit_prob=0.3), seeded(4)
    expected = [0] * 30
    for _ in range(50):
        visit = buffer.sample(12, g)
        for slot, fresh in zip(visit.slots.tolist(), visit.reinitialized.tolist(), strict=True):
            expected[slot] = (0 if fresh else expected[slot]) + 3
        buffer.update(visit, visit.x, 3)
    assert buffer.age.tolist() == expected


def test_points_that_are_not_finite_are_counted_and_not_kept() -> None:
    buffer = ReplayBuffer(20, real(2), generator=seeded(), reinit_prob=0.0)
    before, visit = buffer.x.clone(), buffer.sample(5, seeded(1))
    moved = visit.x + 1
    moved[1, 0], moved[3, 1] = math.nan, math.inf
    assert buffer.update(visit, moved, 2) == 2
    assert torch.equal(buffer.x[visit.slots[[1, 3]]], before[visit.slots[[1, 3]]])
    assert torch.equal(buffer.x[visit.slots[[0, 2, 4]]], moved[[0, 2, 4]])


def test_the_age_of_a_lost_restart_is_that_of_the_point_that_was_kept() -> None:
    buffer = ReplayBuffer(4, real(1), generator=seeded(), reinit_prob=0.0)
    buffer.update(buffer.sample(4, seeded(1)), torch.ones(4, 1), 100)
    buffer.reinit_prob = 1.0
    visit = buffer.sample(1, seeded(2))
    assert bool(visit.reinitialized) and buffer.update(visit, torch.full((1, 1), math.nan), 2) == 1
    assert buffer.x[visit.slots].item() == 1.0 and buffer.age[visit.slots].item() == 100


def test_the_label_of_a_lost_chain_is_that_of_the_point_that_was_kept() -> None:
    buffer = make()
    before, visit = buffer.labels.clone(), buffer.sample(30, seeded(1))
    moved = visit.x / 2
    moved[::3] = math.nan
    assert buffer.update(visit, moved, 4, (visit.labels + 1) % 5) == 10
    kept = torch.arange(30) % 3 == 0
    assert torch.equal(buffer.labels[visit.slots[kept]], before[visit.slots[kept]])
    assert torch.equal(buffer.labels[visit.slots[~kept]], (before[visit.slots[~kept]] + 1) % 5)
    assert not bool(buffer.age[visit.slots[kept]].any()) and bool(
        (buffer.age[visit.slots[~kept]] == 4).all()
    )


def test_chains_are_of_the_precision_that_was_asked_for() -> None:
    for dtype in (torch.float32, torch.float64):
        buffer = make(dtype=dtype)
        visit = buffer.sample(10, seeded(1))
        buffer.update(visit, visit.x, 1)
        assert visit.x.dtype == buffer.x.dtype == dtype
    assert make().x.dtype == torch.float32


def test_points_are_stored_without_their_graph() -> None:
    buffer = ReplayBuffer(5, real(2), generator=seeded())
    visit = buffer.sample(5, seeded(1))
    buffer.update(visit, visit.x.clone().requires_grad_(True) * 2, 1)
    assert not buffer.x.requires_grad


def test_labels_are_dealt_evenly_and_stay() -> None:
    buffer, g = make(), seeded(5)
    assert torch.equal(buffer.labels.bincount(), torch.full((5,), 20))
    before = buffer.labels.clone()
    for _ in range(10):
        visit = buffer.sample(30, g)
        assert torch.equal(visit.labels, before[visit.slots])
        buffer.update(visit, visit.x, 1)
    assert torch.equal(buffer.labels, before)
    assert ReplayBuffer(5, real(1), generator=seeded()).labels is None


def test_labels_that_moved_are_written_to_their_slots_and_saved() -> None:
    buffer, g = make(), seeded(5)
    before, visit = buffer.labels.clone(), buffer.sample(30, g)
    new = (visit.labels + 1) % 5
    buffer.update(visit, visit.x, 1, new)
    rest = torch.ones(100, dtype=torch.bool)
    rest[visit.slots] = False
    assert torch.equal(buffer.labels[visit.slots], new) and torch.equal(
        buffer.labels[rest], before[rest]
    )
    other = make()
    other.load_state_dict(buffer.state_dict())
    assert torch.equal(other.labels, buffer.labels)


def test_state_dict_round_trip_goes_on_with_the_same_bits() -> None:
    buffer, g = make(), seeded(6)
    buffer.update(visit := buffer.sample(50, g), visit.x / 2, 9)
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    other = ReplayBuffer(100, box(0.0, 1.0, 2), generator=seeded(99), classes=5, reinit_prob=0.25)
    other.load_state_dict(torch.load(file))
    for a, b in ((buffer.x, other.x), (buffer.age, other.age), (buffer.labels, other.labels)):
        assert torch.equal(a, b)
    one, two = (b.sample(20, seeded(7)) for b in (buffer, other))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_loaded_buffer_does_not_share_memory_with_what_was_loaded() -> None:
    buffer, other = make(), make()
    other.load_state_dict(buffer.state_dict())
    before = buffer.x.clone()
    other.update(visit := other.sample(100, seeded(1)), visit.x * 0, 1)
    assert torch.equal(buffer.x, before)


def test_same_generator_same_visit() -> None:
    a, b = (copy.deepcopy(make()).sample(10, seeded(8)) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_settings_and_requests_that_mean_nothing_are_refused() -> None:
    for more in ({"reinit_prob": -0.1}, {"reinit_prob": 1.1}, {"reinit_prob": math.nan}):
        with pytest.raises(ValueError, match=r";.*;"):
            ReplayBuffer(10, real(1), generator=seeded(), **more)
    with pytest.raises(ValueError, match=r";.*;"):
        ReplayBuffer(0, real(1), generator=seeded())
    buffer = ReplayBuffer(10, real(1), generator=seeded())
    for count in (0, 11):
        with pytest.raises(ValueError, match="distinct"):
            buffer.sample(count, seeded())
    with pytest.raises(ValueError, match=r";.*;"):
        buffer.load_state_dict(ReplayBuffer(11, real(1), generator=seeded()).state_dict())
