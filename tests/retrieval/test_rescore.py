from __future__ import annotations

from decimal import MIN_EMIN, Decimal, localcontext

import numpy as np
import pytest

from m2raap.retrieval import rescore as module
from m2raap.retrieval.embeddings import Embeddings
from m2raap.retrieval.metrics import ranks_of
from m2raap.retrieval.rescore import LanguageScores, Rescored, dual_softmax, lifted, qb_norm
from m2raap.retrieval.results import Results, evaluate_embeddings

SIM = np.round(np.random.default_rng([5]).uniform(-0.2, 0.4, (14, 9)), 2)
BANK = np.round(np.random.default_rng([6]).uniform(-0.2, 0.4, (11, 9)), 2)


def rows_of(table: np.ndarray) -> module.ScoreRows:
    return lambda rows: table[rows]


def everything(rows: module.ScoreRows | None, num: int = len(SIM)) -> np.ndarray:
    assert rows is not None
    return rows(np.arange(num))


def order(table: np.ndarray) -> np.ndarray:
    """The places of equal and different values in each row, without the values."""
    return np.sign(table[:, :, None] - table[:, None, :])


@pytest.mark.parametrize("block", [1, 20, 10_000])
@pytest.mark.parametrize("heat", [1.0, 50.0, 500.0])
def test_dual_softmax_orders_as_a_plain_product(monkeypatch: pytest.MonkeyPatch, block: int, heat: float) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block)
    sim = np.random.default_rng([11]).permutation(np.linspace(-0.2, 0.4, SIM.size)).reshape(SIM.shape)
    sim[3, :4], sim[:, 8] = 0.0, sim[:, 2]  # scores of zero, and two videos that tie with every text
    found = dual_softmax(rows_of(sim), *sim.shape, heat)
    power = np.exp(heat * sim)
    for rows, share in ((found.t2v, power / power.sum(0)), (found.v2t, power / power.sum(1, keepdims=True))):
        plain = np.where(sim < 0, sim / share, sim * share)
        assert np.isfinite(plain).all() and (plain[sim != 0] != 0).all()
        keys = everything(rows)
        assert (np.sign(keys) == np.sign(sim)).all()
        assert (order(keys) == order(plain)).all() and (order(keys.T) == order(plain.T)).all()


@pytest.mark.parametrize("heat", [1_000.0, 10_000.0])
def test_dual_softmax_ties_nothing_at_large_inverse_temperatures(heat: float) -> None:
    rng = np.random.default_rng([12])
    sim = np.round(rng.permutation(np.linspace(-0.4, 0.9, 30 * 25)).reshape(30, 25), 7)
    found = dual_softmax(rows_of(sim), 30, 25, heat)
    for axis, rows in enumerate((found.t2v, found.v2t)):
        keys = everything(rows, 30)
        assert np.isfinite(keys).all() and len(np.unique(keys)) == sim.size, "no two of these products are equal"
        products = exact_products(sim, heat, axis)
        assert (
            np.argsort(keys, axis=1).tolist()
            == np.asarray([sorted(range(25), key=lambda v, row=row: row[v]) for row in products]).tolist()
        )
        assert np.argsort(keys, axis=0).T.tolist() == [
            sorted(range(30), key=lambda t, v=v: products[t][v]) for v in range(25)
        ]


def exact_products(sim: np.ndarray, heat: float, axis: int) -> list[list[Decimal]]:
    """s p, or s / p where s is negative, in decimals of 60 digits, in which nothing underflows."""
    with localcontext() as context:
        context.prec, context.Emin = 60, MIN_EMIN
        table = [[Decimal(str(value)) for value in row] for row in sim.tolist()]
        power = [[(Decimal(heat) * value).exp() for value in row] for row in table]
        sums = [sum(column) for column in zip(*power, strict=True)] if axis == 0 else [sum(row) for row in power]
        result = []
        for t, row in enumerate(table):
            shares = [power[t][v] / sums[v if axis == 0 else t] for v in range(len(row))]
            result.append([s / p if s < 0 else s * p for s, p in zip(row, shares, strict=True)])
        return result


def test_dual_softmax_keeps_the_order_of_negative_scores() -> None:
    sim = np.array([[-0.1, -0.5], [-0.5, -0.1]])
    pairs = [(0, 0), (1, 1)]
    for heat in (20.0, 10_000.0):
        found = dual_softmax(rows_of(sim), 2, 2, heat)
        for rows in (found.t2v, found.v2t):
            assert rows is not None and ranks_of(rows, 2, 2, pairs).t2v.greater.tolist() == [0, 0]
            assert ranks_of(rows, 2, 2, pairs).v2t.greater.tolist() == [0, 0]


def test_dual_softmax_ranks_as_camoe_where_the_own_score_is_not_negative() -> None:
    rng = np.random.default_rng([9])
    sim = np.round(rng.uniform(-0.3, 0.4, (40, 40)), 3)
    heat = np.exp(30 * sim)
    camoe, ours = sim * heat / heat.sum(0), everything(dual_softmax(rows_of(sim), 40, 40, 30.0).t2v, 40)
    for row, (theirs, here) in enumerate(zip(camoe, ours, strict=True)):
        ranks = [(found > found[row]).sum() for found in (theirs, here)]
        assert ranks[0] == ranks[1] or sim[row, row] < 0


def test_dual_softmax_is_the_same_for_any_block_size_and_lifts_hubs_down(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = everything(dual_softmax(rows_of(SIM), *SIM.shape, 100.0).t2v)
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 9)
    assert (everything(dual_softmax(rows_of(SIM), *SIM.shape, 100.0).t2v) == whole).all()
    # Video 0 is near to every text: a hub takes three queries of four; seen together, each text gets its own.
    hub = np.eye(4) * 0.3 + np.array([0.35, 0, 0, 0])
    assert hub.argmax(1).tolist() == [0, 0, 0, 0]
    assert everything(dual_softmax(rows_of(hub), 4, 4, 100.0).t2v, 4).argmax(1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("block", [1, 40, 10_000])
def test_qb_norm_against_a_plain_sum(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block)
    found = qb_norm(rows_of(SIM), rows_of(BANK), len(BANK), SIM.shape[1], 20.0)
    assert found.v2t is None
    active = set(BANK.argmax(1).tolist())
    assert 0 < sum(int(best) in active for best in SIM.argmax(1)) < len(SIM), "both kinds of queries are there"
    for row, again in zip(SIM, everything(found.t2v), strict=True):
        if int(row.argmax()) in active:
            assert np.exp(again) == pytest.approx(np.exp(20 * row) / np.exp(20 * BANK).sum(0), rel=1e-6)
        else:
            assert (again == row).all()


@pytest.mark.parametrize("most", [1.0, 64.0, 1e4])
def test_lifted_puts_candidates_first(most: float) -> None:
    rng = np.random.default_rng([7])
    chosen = np.array([rng.permutation(9)[:3] for _ in SIM])
    new = np.round(rng.uniform(-most, most, chosen.shape), 3)
    text = np.repeat(np.arange(len(SIM)), 3)
    order = rng.permutation(len(text))
    again = lifted(rows_of(SIM), text[order], chosen.ravel()[order], new.ravel()[order])
    for asked in (np.arange(len(SIM)), np.array([3, 11]), np.array([12, 0])):
        for row, scores in zip(asked, again(asked), strict=True):
            rest = [v for v in range(9) if v not in chosen[row]]
            expected = [*chosen[row][np.argsort(-new[row])], *sorted(rest, key=lambda v: (-SIM[row, v], v))]
            assert np.argsort(-scores, kind="stable").tolist() == expected
    untouched = lifted(rows_of(SIM), *(np.zeros(0, np.int64),) * 2, np.zeros(0))
    assert (everything(untouched) == SIM).all()


def world(num: int = 12) -> Embeddings:
    rng = np.random.default_rng([8])
    video = rng.normal(size=(num, 8))
    text = np.concatenate([video + rng.normal(size=(num, 8)), video + rng.normal(size=(num, 8))])
    names = [f"v{i:02d}" for i in range(num)]
    text_ids = [f"{v}.{n}" for n in "ab" for v in names]
    return Embeddings(video, text, names, text_ids, names * 2, ["en"] * num + ["zh"] * num)


def test_evaluate_with_rescored_scores() -> None:
    def answers(scores: LanguageScores) -> Rescored:
        """Perfect scores in t2v, none in v2t."""
        own = np.asarray([scores.video_ids.index(text.partition(".")[0]) for text in scores.text_ids])
        return Rescored(lifted(scores.rows, np.arange(len(own)), own, np.zeros(len(own))), None)

    found = evaluate_embeddings(world(), 0, answers)
    assert [(row["lang"], row["direction"], row["metrics"]["R@1"]) for row in found.rows] == [
        ("en", "t2v", 100.0),
        ("zh", "t2v", 100.0),
    ]
    assert {row["rsum"] for row in found.rows} == {None} and found.compat == {}
    assert all(row["top_ids"][0] == row["video_id"] for row in found.ranks)


def test_the_same_scores_again_change_nothing_and_each_direction_is_its_own() -> None:
    plain = evaluate_embeddings(world(), 0)
    same = evaluate_embeddings(world(), 0, lambda scores: Rescored(scores.rows, scores.rows))
    assert same.rows == plain.rows
    turned = evaluate_embeddings(world(), 0, lambda scores: Rescored(scores.rows, lambda rows: -scores.rows(rows)))
    assert of(turned, "t2v") == of(plain, "t2v") and of(turned, "v2t") != of(plain, "v2t")


def of(found: Results, direction: str) -> list[float]:
    return [row["metrics"]["MnR"] for row in found.rows if row["direction"] == direction]
